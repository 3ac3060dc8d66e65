"""What each lesson asks: its exercises and its quiz, one module a lesson, run by `ftkit.course`."""
