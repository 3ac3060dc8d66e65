"""Three tasks beside the desk, on which the rule for epochs, rate and batch is tried. Nothing of the packages is kept here.

`docstrings`: the first sentence of a docstring, to the library it comes from (label, ten libraries that the kit installs,
each under a free licence; read from their files, so the rows follow the pinned versions). `dates`: a date as ten languages
write it, to ISO 8601 (text, made by babel). `shop`: a complaint to a shop, to one of five desks (label, written for it).
"""

from __future__ import annotations

import ast
import datetime
import random
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ftkit.common.errors import KitError
from ftkit.data.task import SPLITS, Row, Task, load_task

LIBRARIES = ("pandas", "matplotlib", "sympy", "networkx", "nltk", "scipy", "sklearn", "torch", "transformers", "gradio")
LANGUAGES = ("en", "en_GB", "de", "fr", "es", "it", "nl", "sv", "pl", "pt")
SHOP = Path(__file__).with_name("shop.toml")
FILES, SENTENCES, DATES = 60, 100, 1000  # read of a library, taken of a library, made in all


@dataclass(frozen=True)
class Data:
    """A task and its rows by split; those of the training split in an order that any number of rows begins."""

    task: Task
    splits: dict[str, list[Row]]


def load(name: str) -> Data:
    """The desk, or one of the three tasks. Raises `KitError` for another name."""
    if name == "desk":
        task = load_task("desk")
        return Data(task, {split: task.rows(split) for split in SPLITS})
    if name not in MAKERS:
        raise KitError(f"There is no task {name!r} here; there are desk, {', '.join(MAKERS)}.")
    return MAKERS[name]()


def first_rows(data: Data, n: int, seed: int) -> list[Row]:
    """The first `n` training rows in an order drawn by the seed, each class by its share: fewer rows are among more."""
    rows = data.splits["train"]
    order = random.Random(f"rows {seed}").sample(range(len(rows)), len(rows))
    by_class: dict[str, list[int]] = {}
    for at in order:
        by_class.setdefault(_class(data.task, rows[at]), []).append(at)
    places = {at: (place + 0.5) / len(ats) for ats in by_class.values() for place, at in enumerate(ats)}
    return [rows[at] for at in sorted(order, key=lambda at: places[at])[:n]]


def _class(task: Task, row: Row) -> str:
    answer = row[task.target]
    return answer["intent"] if isinstance(answer, dict) else answer if task.kind == "label" else ""


def _docstrings() -> Data:
    pairs: list[tuple[str, str]] = []
    taken: set[str] = set()
    for library in LIBRARIES:
        sentences = [one for one in _sentences(library) if one not in taken]
        some = random.Random(f"sentences {library}").sample(sentences, SENTENCES)
        taken.update(some)
        pairs += [(one, library) for one in some]
    task = Task(Path(), "docstrings", "label", "Which library is this from?", labels=LIBRARIES)
    return _split(task, pairs, {"test": 200, "validation": 200})


def _sentences(library: str) -> list[str]:
    """First sentences of docstrings in a library's files, sorted; those that name the library are left out."""
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        raise KitError(f"The task docstrings reads the library {library}, which is not installed.")
    root = Path(spec.origin).parent
    files = sorted(path for path in root.rglob("*.py") if "test" not in str(path.relative_to(root)))
    found = set()
    for path in random.Random(library).sample(files, min(FILES, len(files))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None
            sentence = re.split(r"(?<=[.!?])\s", " ".join((text or "").split("\n\n")[0].split()))[0]
            if 30 <= len(sentence) <= 140 and library not in sentence.lower():
                found.add(sentence)
    return sorted(found)


def _dates() -> Data:
    from babel.dates import format_date

    draw, pairs = random.Random("dates"), {}
    while len(pairs) < DATES:
        day = datetime.date(1950, 1, 1) + datetime.timedelta(days=draw.randrange(40_000))
        pairs[format_date(day, draw.choice(("full", "long")), locale=draw.choice(LANGUAGES))] = day.isoformat()
    task = Task(Path(), "dates", "text", "Write the date as YYYY-MM-DD.")
    return _split(task, list(pairs.items()), {"test": 200, "validation": 200})


def _shop() -> Data:
    table = tomllib.loads(SHOP.read_text(encoding="utf-8"))
    pairs = [(line, label) for label, text in table["complaints"].items() for line in text.strip().splitlines()]
    task = Task(Path(), "shop", "label", table["system_prompt"], labels=tuple(table["complaints"]))
    return _split(task, pairs, {"test": 0, "validation": 100})


def _split(task: Task, pairs: Sequence[tuple[str, str]], held_out: dict[str, int]) -> Data:
    """Draw the held-out rows, each class by its share where the task has classes; the rest is for training."""
    rows = [{"id": f"{task.name}-{n}", task.message: text, task.target: answer} for n, (text, answer) in enumerate(pairs)]
    whole = first_rows(Data(task, {"train": rows}), len(rows), 0)
    splits, start = {}, 0
    for split, n in held_out.items():
        splits[split] = whole[start : start + n]
        start += n
    return Data(task, {**splits, "train": whole[start:]})


MAKERS: dict[str, Callable[[], Data]] = {"docstrings": _docstrings, "dates": _dates, "shop": _shop}
