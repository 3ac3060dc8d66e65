"""The files of a task, read line by line, each line checked against the task (lesson 02)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.common.files import json_lines, read_text

if TYPE_CHECKING:
    from ftkit.data.task import Row, Task


@dataclass(frozen=True)
class Line:
    """One line of a JSONL file: its number from 1, its text, the value in it, and what is wrong with it."""

    number: int
    text: str
    row: Any
    problems: tuple[str, ...] = ()

    def sentences(self, path: Path) -> list[str]:
        """Its problems as sentences: "file, line n, field ...: reason"."""
        return [f"{path}, line {self.number}{', ' if p.startswith('field') else ': '}{p}" for p in self.problems]


def read_lines(path: Path, task: Task) -> list[Line]:
    """Read a JSONL file line by line, every line checked against the task; empty lines are skipped.

    Raises `KitError` if the file is missing or not UTF-8.
    """
    return [
        Line(number, text, row, (fault,) if fault else tuple(task.problems(row)))
        for number, text, row, fault in json_lines(read_text(path))
    ]


def read_rows(path: Path, task: Task) -> tuple[list[Row], list[str]]:
    """Read a JSONL file: the good rows, and a sentence ("file, line n, field ...: reason") for every fault of the others."""
    lines = read_lines(path, task)
    return [line.row for line in lines if not line.problems], [text for line in lines for text in line.sentences(path)]
