"""The data check: one line for each way in which a task's rows can spoil a result (lesson 02). Usable as a gate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .base import Finding
from .tasks import SPLITS, Row, Task, read_rows

NEAR = 0.7  # Jaccard similarity of the character 5-grams from which two messages count as near-duplicates
PERSONAL = {
    "e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+"),
    "phone number": re.compile(r"(?<![\d£$€.])(?:\+\d{1,3}[ -]?)?(?:\d[ -]?){9,12}\d(?!\d)"),
}


@dataclass(frozen=True)
class Checked:
    """The rows of a task as far as they can be read, and what is wrong with the others."""

    task: Task
    rows: dict[str, list[Row]]
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, task: Task) -> Checked:
        """Read all splits. Raises `KitError` for a file that is missing or not text."""
        rows, problems = {}, []
        for split in SPLITS:
            rows[split], found = read_rows(task.folder / f"{split}.jsonl", task)
            problems += found
            if not rows[split] and not found:
                problems.append(f"{task.folder / f'{split}.jsonl'} is empty")
        return cls(task, rows, problems)

    def messages(self) -> list[tuple[str, str, str]]:
        """(split, name of the row, message) of every row."""
        message = self.task.message
        return [(s, str(r.get("id", f"row {n}")), r[message]) for s in SPLITS for n, r in enumerate(self.rows[s], 1)]


def check_task(task: Task) -> Iterator[Finding]:
    """Check a task's data, one finding at a time; the cheap checks come first.

    `Finding.gate` marks what must not be trained on: rows that do not fit the task, and test or validation messages that
    stand in the training split too. The other findings are for people to judge.
    """
    checked = Checked.of(task)
    yield _validity(checked)
    yield from _balance(checked)
    same, near = similar_pairs(checked)
    yield _duplicates(same, near)
    yield _leakage(same, near)
    yield _personal_data(checked)


def _validity(checked: Checked) -> Finding:
    counts = ", ".join(f"{len(checked.rows[split]):,} {split}" for split in SPLITS)
    if not checked.problems:
        return Finding("rows", True, f"{counts}; all fit the task")
    found = f"{counts}; {len(checked.problems)} problem(s) in others"
    return Finding("rows", False, found, "Mend or remove these rows.", tuple(checked.problems), gate=True)


def _balance(checked: Checked) -> Iterator[Finding]:
    """How often each value of a closed field occurs in training, the rarest and the most frequent named."""
    task = checked.task
    closed = [f.name for f in task.fields if f.type == "choice"]
    columns = {name: [row[task.target][name] for row in checked.rows["train"]] for name in closed}
    if task.kind == "label":
        columns = {task.target: [row[task.target] for row in checked.rows["train"]]}
    for name, values in columns.items():
        counts = Counter(values).most_common()
        if counts:
            (most, high), (least, low) = counts[0], counts[-1]
            yield Finding(
                "balance", True, f"{name}: {len(counts)} values, from {low} ({least}) to {high} ({most}) training rows"
            )


def similar_pairs(checked: Checked) -> tuple[list[tuple[str, str, bool]], list[tuple[str, str, bool]]]:
    """Pairs of equal messages and of near-duplicates: (name, name, whether they stand in different splits).

    Equal means equal but for case, spaces and punctuation. Near-duplicates are proposed by MinHash with locality-sensitive
    hashing (Broder 1997; datasketch) and confirmed by their true Jaccard similarity, at least `NEAR`.
    """
    from datasketch import MinHash, MinHashLSH

    rows = [(split, name, _plain(message)) for split, name, message in checked.messages()]
    shingles = [{text[i : i + 5] for i in range(max(1, len(text) - 4))} for _, _, text in rows]
    index = MinHashLSH(threshold=NEAR - 0.1, num_perm=128)
    first_of: dict[str, int] = {}
    same, near = [], []
    for i, (split, name, text) in enumerate(rows):
        if text in first_of:
            j = first_of[text]
            same.append((rows[j][1], name, rows[j][0] != split))
            continue
        first_of[text] = i
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch([shingle.encode() for shingle in shingles[i]])
        for j in index.query(sketch):
            if len(shingles[i] & shingles[j]) / len(shingles[i] | shingles[j]) >= NEAR:
                near.append((rows[j][1], name, rows[j][0] != split))
        index.insert(i, sketch)
    return same, near


def _plain(message: str) -> str:
    return re.sub(r"\W+", " ", message.casefold()).strip()


def _duplicates(same: list, near: list) -> Finding:
    within = [f"{a} = {b}" for a, b, across in same if not across] + [f"{a} ~ {b}" for a, b, across in near if not across]
    if not within:
        return Finding("duplicates", True, "no message stands twice in a split, none nearly so")
    found = f"{sum(not p[2] for p in same)} equal and {sum(not p[2] for p in near)} nearly equal pairs within a split"
    return Finding("duplicates", False, found, "Keep one of each: what stands twice counts twice.", tuple(within))


def _leakage(same: list, near: list) -> Finding:
    across = [f"{a} = {b}" for a, b, other in same if other] + [f"{a} ~ {b}" for a, b, other in near if other]
    if not across:
        return Finding("leakage", True, "no message stands in two splits, none nearly so")
    fix = "Remove them from training: a test of what was trained on measures memory."
    return Finding("leakage", False, f"{len(across)} pair(s) across splits", fix, tuple(across), gate=True)


def _personal_data(checked: Checked) -> Finding:
    hits = [
        f"{name}: {kind}"
        for _, name, message in checked.messages()
        for kind, form in PERSONAL.items()
        if form.search(message)
    ]
    if not hits:
        return Finding("personal data", True, "no e-mail address or phone number found")
    fix = "Remove or replace them, unless they are invented."
    return Finding("personal data", False, f"{len(hits)} row(s) look as if they hold some", fix, tuple(hits))
