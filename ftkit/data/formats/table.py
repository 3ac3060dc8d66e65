"""What reading a file gives: columns, rows with their place in the file, what was set aside, and what was guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ftkit.common.files import dump
from ftkit.data.task import Row

Rejected = dict[str, Any]  # line, reason, text
AGAIN = "it is the header once more, as where files were joined"
SMALLEST = 10  # rows below which nothing can be split, trained and measured


@dataclass
class Table:
    """A file's columns, its rows with their line numbers, the lines that could not be read, and what was taken for what.

    `unit` is what the numbers count: lines of a text file, or the rows of a file that has no lines. `typed` is False if all
    values are texts, as in CSV, numbers too.
    """

    source: str
    columns: list[str]
    rows: list[tuple[int, Row]]
    rejected: list[Rejected] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unit: str = "line"
    typed: bool = True


@dataclass(frozen=True)
class Reading:
    """What the reader of a file is told; None means that it looks for itself, and says what it took.

    `part` is a sheet of a workbook, a key of a JSON file that holds several lists, or a configuration of a hub's dataset.
    `quotes` False: a quote in a CSV file is a character like any other.
    """

    encoding: str | None = None
    delimiter: str | None = None
    header: bool | None = None
    quotes: bool = True
    part: str | None = None
    split: str = "train"


def too_few(table: Table, good: int, rejected: list[Rejected]) -> str:
    """The sentence that refuses a file with too few usable rows, with the first bad one."""
    first = f" The first bad one: {table.unit} {rejected[0]['line']}: {rejected[0]['reason'][:300]}." if rejected else ""
    return f"{table.source} gives {good} usable row(s), at least {SMALLEST} are needed; {len(rejected)} were bad.{first}"


def set_aside(line: int, reason: str, row: Any) -> Rejected:
    """A line that is not taken, with the reason and its text (the first 2,000 characters)."""
    return {"line": line, "reason": reason, "text": (row if isinstance(row, str) else dump(row))[:2000]}
