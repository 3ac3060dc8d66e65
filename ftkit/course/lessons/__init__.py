"""What each lesson asks: the exercises in `lessonNN.py`, the quiz and typical wrong answers in `lessonNN.toml`.

How to add an exercise or a lesson, step by step: `CONTRIBUTING.md`.
"""
