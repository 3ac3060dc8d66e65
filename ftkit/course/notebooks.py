"""Exercise cells of a notebook as handed out, or solved, and its quiz as text."""

from __future__ import annotations

import copy
import re
from typing import Any

from ftkit.course.content import exercises, quiz

CHECK = re.compile(r"^q\.(\w+)\.check\((\w+)\)$", re.MULTILINE)
QUIZ = re.compile(r'^quiz\("(\w+)"\)$')


def refreshed(notebook: Any, solved: bool = False) -> Any:
    """A copy of a notebook (as nbformat reads it) whose exercise cells are as handed out, or solved.

    An exercise's cell is one that ends with `q.NAME.check(ANSWER)`. Outputs stay as they are, but for the text that stands
    for a quiz where there is no kernel.
    """
    notebook = copy.deepcopy(notebook)
    lesson = re.search(r'exercises\("(\w+)"\)', "\n".join(cell.source for cell in notebook.cells))
    if lesson is None:
        return notebook
    q = exercises(lesson[1])
    for cell in notebook.cells:
        if cell.cell_type == "code" and (match := CHECK.search(cell.source)):
            cell.source = getattr(q, match[1]).cell(solved)
        if cell.cell_type == "code" and (match := QUIZ.search(cell.source)):
            for output in cell.get("outputs", []):
                if "text/plain" in output.get("data", {}):
                    output["data"]["text/plain"] = repr(quiz(match[1]))
    return notebook


def solved(notebook: Any) -> Any:
    """A copy of a notebook with the solutions in its exercise cells."""
    return refreshed(notebook, solved=True)
