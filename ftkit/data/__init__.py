"""Stage 02, training data: tasks, the one place where a prompt is made, and what is checked and cleaned before training.

Read `task` (a folder with checked rows), `prompt` (row to chat, answer to value), `similarity`, `faults` and `values`
(what can be wrong), `check`, `clean`; then `conversation` (rows of several turns), `formats`, `columns` and `new_task`
(files that others wrote) and `report`.
Lesson 02 builds it.
"""

from ftkit.common.faces import face

__getattr__, __dir__ = face(
    __name__,
    {
        "task": "Field Task find_task load_task",
        "prompt": "chat_prompt completion_text example_ids parse_answer prompt_ids prompt_text training_example",
        "similarity": "groups plain similar_pairs",
        "values": "labels_of",
        "conversation.rows": "exchanges",
        "conversation.turns": "marked_turns",
        "check": "check_task gate simple_model suspicious",
        "clean": "clean_task write_cleaned",
    },
)
