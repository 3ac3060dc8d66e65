"""A judge: another model, behind a server, that says which of two answers is better; first held against a reader.

Read `server` (how it is asked), `pairs` (what it is asked, in both orders, and how its replies are read), `judge` (against
the reader, then tuned against base), and `words` (what that says).
"""
