"""Evaluation of conversations, in which no answer is the only right one: expectations, and how likely the right turns are.

Read `scores` (what an answer is worth, by turn and by conversation), then `measure` (base and tuned on the same turns, and
told the task's sheet), and `talk` (conversations that go on after a model's own answers).
"""
