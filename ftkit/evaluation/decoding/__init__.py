"""Answers that are not simply the likeliest tokens: held to a schema, or checked and asked for again.

Read `constrained` (only tokens that fit the schema of a `json` task), then `checked` (a `text` task's answers that lose
what the message says are asked for again) with the beam search of `pruned`.
"""
