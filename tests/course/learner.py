"""What a learner has at hand, and what an answer written as code comes to."""

import json
import math
import re

import numpy as np
import torch

from ftkit.course.content import exercises, labs, lessons

PARTS = [*lessons(), *labs()]
ALL = [exercise for lesson in PARTS for exercise in exercises(lesson)]


def learner():
    """The names that the notebooks have imported where exercises are solved; `plain` is an exercise before others."""
    names = {"json": json, "math": math, "np": np, "re": re, "torch": torch}
    exec(exercises("02").plain.solution_code, names)
    return names


def value_of(exercise, code):
    """What stands under the exercise's name after the learner's code: a cell, a body of the function, or a value."""
    names = learner()
    if exercise.function and code.lstrip().startswith("def "):
        exec(code, names)
    elif exercise.function:
        head = next(line for line in exercise.start.splitlines() if line.startswith("def "))
        exec(f"{head}\n    {code}", names)
    else:
        return eval(code, names)
    return names[exercise.answer]


def solved_value(exercise):
    """What stands under the exercise's name after its solution."""
    names = learner()
    exec(exercise.solution_code, names)
    return names[exercise.answer]
