"""What each lab asks: the exercises in `NAME.py`, the quiz and typical wrong answers in `NAME.toml`, as in `lessons/`."""
