"""The timeline of a training: what the model answered to the same held-out messages while it learned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.templates import render
from ftkit.data.prompt import parse_answer
from ftkit.data.task import Task
from ftkit.runs.documents import Glimpse
from ftkit.runs.run import Run

SHOWN = 90  # characters of an answer as it was written
NOTHING = "–"  # in the place of a field that was not written


@dataclass(frozen=True)
class Strand:
    """One thing of an answer through the training, such as a field: what it should be, and what it was at each step.

    `right` has an entry a step; the strand of the answers as they were written has none.
    """

    name: str
    target: str
    values: list[str]
    right: list[bool]


@dataclass(frozen=True)
class Story:
    """One held-out message through the training."""

    message: str
    steps: list[int]
    strands: list[Strand]

    def __str__(self) -> str:
        """In words, a line for each strand."""
        lines = [f"“{self.message}”"]
        for strand in self.strands:
            marks = [" (right)" if right else "" for right in strand.right] or [""] * len(self.steps)
            told = zip(self.steps, strand.values, marks, strict=True)
            seen = "; ".join(f"step {step}: {value}{mark}" for step, value, mark in told)
            lines.append(
                f"  {strand.name}, should be {strand.target}: {seen}" if strand.target else f"  {strand.name}: {seen}"
            )
        return "\n".join(lines)


def stories(run: Run) -> list[Story]:
    """The timeline of a run, a story for each message; empty where nobody looked, as in trainings of an older version."""
    by_row: dict[tuple[str, str], list[Glimpse]] = {}
    for glimpse in run.glimpses():
        by_row.setdefault((glimpse.row, glimpse.message), []).append(glimpse)
    try:
        task = run.task if by_row else None
    except KitError:  # it was moved: the answers are shown as they were written
        task = None
    return [_story(looks, task) for looks in by_row.values()]


def show_stories(told: list[Story]) -> str:
    """The timeline as HTML: a table for each message, with a column for each step."""
    return render("runs/templates/timeline.html", stories=told)


def _story(looks: list[Glimpse], task: Task | None) -> Story:
    steps, target = [look.step for look in looks], looks[0].target
    written = Strand("as written", "", [_short(look.answer) for look in looks], [])
    if task is None or task.kind != "json":
        right = [look.answer.strip() == target.strip() for look in looks]
        return Story(looks[0].message, steps, [Strand("answer", _short(target), written.values, right)])
    wanted, answers = parse_answer(task, target), [parse_answer(task, look.answer) or {} for look in looks]
    strands = [
        Strand(
            field.name,
            _word(wanted[field.name]),
            [_word(answer[field.name]) if field.name in answer else NOTHING for answer in answers],
            [field.name in answer and answer[field.name] == wanted[field.name] for answer in answers],
        )
        for field in task.fields
        if field.name in wanted
    ]
    return Story(looks[0].message, steps, [*strands, written])


def _word(value: Any) -> str:
    """A field's value, as short as it can be told."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
