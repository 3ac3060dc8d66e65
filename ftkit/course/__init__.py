"""The course's own side: exercises that check themselves, quizzes, progress, pictures, and the cell for Colab.

What a lesson asks stands in `lessons/`, what a lab asks in `labs/`; `exercise` and `quizzes` run it, `content` lists it.
`workbench` (short trainings) and `beliefs` (saved experiments) are what the labs use, `search` (the search for the recipe)
what lessons 03 and 04 show of it.
"""

from ftkit.common.faces import face

__getattr__, __dir__ = face(
    __name__,
    {
        "content": "exercises quiz",
    },
)
