"""Tasks of kind `chat`: conversations as rows, their checks, their token ids with the mask over turns, how they are made.

Read `rows` (what a conversation is, and what is wrong with one), `expect` (what a row may expect of its answers), `turns`
(the token ids of a conversation, and which of them carry loss), `similar` (conversations that repeat each other), `told`
(a fact sheet in the prompt, to compare), `repair` and `make` (a task made from conversations that others wrote). Everything
else reads a chat row through `Task.asked` and `Task.answered`, as it reads the rows of the other kinds.
"""
