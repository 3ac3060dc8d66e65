"""Clean a task: safe repairs, row by row, each written down; the original is never touched (lesson 02)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import dump, new_folder, write_jsonl
from ftkit.data.faults import repair_answer, repair_text
from ftkit.data.similarity import similar_pairs
from ftkit.data.task import SPLITS, Row, Task, read_lines


@dataclass
class CleanSplit:
    """A split after cleaning: its rows, the rows set aside with the reason, and what was done to each row."""

    rows: list[Row] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)


def clean_task(task: Task, train: Path | None = None) -> dict[str, CleanSplit]:
    """Apply the safe repairs to every split: {split: its clean rows and what was done}. Nothing is written.

    Mended: HTML, mail signatures and quoted mail, personal data (masked), invisible characters, the spelling of closed
    values and keys, the order of keys and lists. Set aside, with the reason: rows that still do not fit the task, a message
    that stands twice (the first stays), a training message that equals or nearly equals one of the test or validation split.
    Left for people: near-duplicates within a split, unlikely labels, other languages, messages that end in the middle.
    `train` is a file to take in the place of `train.jsonl`. Raises `KitError` for a file that is missing or not text.
    """
    cleaned = {
        split: _mend(task, train if train and split == "train" else task.folder / f"{split}.jsonl") for split in SPLITS
    }
    _set_copies_aside(task, cleaned)
    return cleaned


def _mend(task: Task, path: Path) -> CleanSplit:
    """Repair each row of a file as far as that is safe, and set aside those that do not fit the task afterwards."""
    result = CleanSplit()
    for line in read_lines(path, task):
        row, done = line.row, list[str]()
        if isinstance(row, dict):
            row = dict(row)
            if isinstance(row.get(task.message), str):
                row[task.message], done = repair_text(row[task.message])
            if task.target in row:
                row[task.target], also = repair_answer(task, row[task.target])
                done = done + also
        problems = task.problems(row) if line.row is not None else list(line.problems)
        where = {"line": line.number, "id": row.get("id") if isinstance(row, dict) else None}
        if problems:
            result.rejected.append({**where, "reason": "; ".join(problems), "text": line.text[:2000]})
            continue
        if done:
            before = {key: line.row[key] for key in (task.message, task.target) if line.row[key] != row[key]}
            after = {key: row[key] for key in before}
            result.log.append({**where, "done": done, "before": before, "after": after})
        result.rows.append(row)
    return result


def _set_copies_aside(task: Task, cleaned: dict[str, CleanSplit]) -> None:
    """Set aside what stands twice in a split, and training rows that stand in a held-out split too."""
    held_out_first = ("test", "validation", "train")
    named = [(split, i) for split in held_out_first for i in range(len(cleaned[split].rows))]
    messages = [cleaned[split].rows[i][task.message] for split, i in named]
    reasons: dict[tuple[str, int], str] = {}
    for pair in similar_pairs(messages):
        (split, i), other = named[pair.first], named[pair.second]
        name = cleaned[split].rows[i].get("id", f"row {i + 1}")
        if other[0] == "train" and split != "train":
            reasons[other] = f"{'equals' if pair.equal else 'nearly equals'} {name} of the {split} split"
        elif split == other[0] and pair.equal:
            same = cleaned[split].rows[i][task.target] == cleaned[split].rows[other[1]][task.target]
            reasons.setdefault(other, f"stands twice: equals {name}" + ("" if same else ", with another answer"))
    for split in SPLITS:
        part = cleaned[split]
        for i, row in enumerate(part.rows):
            if reason := reasons.get((split, i)):
                text = dump(row)
                part.rejected.append({"line": None, "id": row.get("id"), "reason": reason, "text": text[:2000]})
        part.rows = [row for i, row in enumerate(part.rows) if (split, i) not in reasons]


def write_cleaned(task: Task, cleaned: dict[str, CleanSplit], folder: Path) -> None:
    """Write the cleaned task to a new folder: description, splits, `rejected.jsonl`, `cleaning.jsonl`.

    Raises `KitError` if the folder is there already, or a split has no row left.
    """
    if empty := [split for split in SPLITS if not cleaned[split].rows]:
        raise KitError(f"No row of {', '.join(empty)} is left after cleaning; see: ftkit task check {task.folder}")
    with new_folder(folder) as temporary:
        for path in sorted(task.folder.iterdir()):
            if path.is_file() and path.suffix in (".toml", ".md"):
                shutil.copy(path, temporary)
        for split in SPLITS:
            write_jsonl(temporary / f"{split}.jsonl", cleaned[split].rows)
        for name in ("rejected", "log"):
            rows = [{"split": split, **entry} for split in SPLITS for entry in getattr(cleaned[split], name)]
            write_jsonl(temporary / f"{'cleaning' if name == 'log' else name}.jsonl", rows)
