"""What each lesson asks: its exercises and its quiz, one module a lesson, run by `ftkit.course`.

To add a lesson NN:

1. `lessonNN.py` here, with `EXERCISES` and `QUIZ`. An exercise's check calls `wrong_if(mistake, sentence)` for one mistake
   after the other, the likely ones first, and calls a function on fresh inputs; it needs nothing of the notebook.
2. Typical wrong answers to each exercise, with words of their messages, in `tests/wrong_answers.py`.
3. `notebooks/NN_name.ipynb`. Its first cell opens as the others do ("After this lesson you can", "It takes", "Machine time:",
   "It needs"); `q = exercises("NN")` comes before the first exercise; an exercise's cell needs only its last line,
   `q.name.check(answer)`: `notebooks/refresh.py` writes the rest, the badge and the cell for Colab.
4. What the open code and the packaged code must agree in, in `AGREEMENT` of `tests/course/test_notebooks.py`.
5. Its words in bold into `notebooks/glossary.md`; then `make notebooks`.

A lab is `ftkit/course/labs/NAME.py` with `notebooks/labs/NAME.ipynb` and `exercises("NAME")`; it has no agreement, and is run as handed out.
"""
