"""Make a task of your own data: guess columns and kind, check the rows, split them, write a folder (lesson 02)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import dump, new_folder, write_jsonl
from ftkit.data.formats import Rejected, Table
from ftkit.data.similarity import groups
from ftkit.data.task import SPLITS, Field, Kind, Row, Task

MESSAGES = "message text prompt question instruction input sentence review content query utterance comment body email"
TARGETS = "target label labels answer ticket output completion response reply category class intent sentiment tag topic"
CLOSED = 50  # a column with more different values is no closed set
SMALLEST = 10  # rows below which nothing can be split, trained and measured
PATTERNS = {
    "HH:MM on the 24-hour clock": r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
    "a date as YYYY-MM-DD": r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$",
}


@dataclass
class NewTask:
    """A new task with its splits, the rows set aside, and remarks on what was guessed."""

    task: Task
    splits: dict[str, list[Row]]
    rejected: list[Rejected]
    remarks: list[str]


# --- guessing ---


def choose_columns(
    table: Table, message: str | None, targets: Sequence[str], ask: Callable[[str, list[str]], str] | None = None
) -> tuple[str, tuple[str, ...]]:
    """Which column is the message and which hold the target: as named, else by usual names, else `ask`.

    Raises `KitError` listing the columns when one is missing or nobody can be asked.
    """
    if not table.rows:
        raise KitError(_too_few(table, [], table.rejected))
    all_columns = f"{table.source} has the columns {', '.join(map(repr, table.columns)) or '(none)'}"
    for name in (*([message] if message else []), *targets):
        if name not in table.columns:
            raise KitError(f"{all_columns}: there is no {name!r}.")
    column_of: dict[str, str] = {}
    for what, told, names in (("message", message, MESSAGES), ("target", targets[0] if targets else None, TARGETS)):
        free = [c for c in table.columns if c not in (*targets, *column_of.values())]
        known = [c for name in names.split() for c in free if c.casefold() == name]
        if told:
            column_of[what] = told
        elif known:
            column_of[what] = known[0]
        elif ask and free:
            column_of[what] = ask(what, free)
        else:
            raise KitError(f"{all_columns}: say which is the {what} (--{what} NAME).")
        if column_of[what] not in table.columns:
            raise KitError(f"{all_columns}: there is no {column_of[what]!r}.")
    chosen = tuple(targets) or (column_of["target"],)
    if column_of["message"] in chosen:
        raise KitError(f"{column_of['message']!r} cannot be both message and target.")
    return column_of["message"], chosen


def guess_kind(values: Sequence[Any]) -> tuple[Kind, str]:
    """(kind, reason) from the targets: `json` for objects, `label` for a small closed set, else `text`."""
    if values and sum(isinstance(value, dict) for value in values) >= 0.9 * len(values):
        return "json", "the targets are objects"
    different = Counter(str(value).strip() for value in values)
    longest = max(map(len, different), default=0)
    if 2 <= len(different) <= CLOSED and len(different) <= len(values) / 3 and longest <= 60:
        return "label", f"there are only {len(different)} different targets"
    return "text", f"there are {len(different):,} different targets"


def guess_fields(answers: Sequence[Row]) -> tuple[Field, ...]:
    """The fields of a `json` task, from its answers. Raises `KitError` for values inside values, which are not taken."""
    fields = []
    for name in dict.fromkeys(key for answer in answers for key in answer):
        values = [answer.get(name) for answer in answers]
        present = [value for value in values if value is not None]
        nullable = len(present) < len(values)
        about = name.replace("_", " ")
        kinds = Counter(type(value) for value in present)
        kind = kinds.most_common(1)[0][0] if kinds else str
        mine = [value for value in present if type(value) is kind]
        if kind is bool:
            fields.append(Field(name, "boolean", about, nullable=nullable))
        elif kind in (int, float):
            numeric = "number" if kinds[float] else "integer"
            fields.append(Field(name, numeric, about, nullable=nullable))
        elif kind is list and all(isinstance(v, str) for value in mine for v in value):
            closed = tuple(sorted({v for value in mine for v in value}))
            fields.append(Field(name, "set", about, values=closed))
        elif kind is str:
            fields.append(_text_field(name, about, mine, nullable))
        else:
            raise KitError(
                f"The target's {name!r} holds {kind.__name__}s inside: only text, numbers and lists of names are taken."
            )
    return tuple(fields)


def _text_field(name: str, about: str, values: list[str], nullable: bool) -> Field:
    different = sorted(set(values))
    for form, pattern in PATTERNS.items():
        if values and all(re.fullmatch(pattern, value) for value in different):
            return Field(name, "pattern", about, pattern=pattern, form=form, nullable=nullable)
    if 2 <= len(different) <= CLOSED and len(different) <= len(values) / 3:
        return Field(name, "choice", about, values=tuple(different), nullable=nullable)
    return Field(name, "string", about, nullable=nullable)


# --- making ---


def make_task(
    name: str, table: Table, message: str, targets: Sequence[str], kind: Kind | None = None, prompt: str | None = None,
    held_out: float = 0.1, seed: int = 17, max_message_characters: int = 4000,
) -> NewTask:  # fmt: skip
    """Make a task of a table: guess its kind, check every row, and split what fits.

    `held_out` is the share of the rows that validation and test get each. The splits are stratified by the label (or the
    first closed field), and messages that nearly equal each other stay in one split.
    Raises `KitError` when fewer than ten rows are left.
    """
    remarks: list[str] = []
    rows, rejected = _answers(table, message, tuple(targets))
    if not rows:
        raise KitError(_too_few(table, [], rejected))
    guessed, why = guess_kind([answer for _, _, answer in rows])
    kind, why = (kind, "as told") if kind else (guessed, why)
    remarks.append(f"kind {kind}: {why}")
    if kind == "json" and not all(isinstance(answer, dict) for _, _, answer in rows):
        rejected += [
            _set_aside(line, "the target is not an object", row) for line, row, a in rows if not isinstance(a, dict)
        ]
        rows = [entry for entry in rows if isinstance(entry[2], dict)]
    elif kind != "json":
        rows = [(line, row, dump(a) if isinstance(a, (dict, list)) else str(a).strip()) for line, row, a in rows]
    task = _describe_task(name, kind, [answer for _, _, answer in rows], prompt, max_message_characters)
    good = []
    for number, (line, row, answer) in enumerate(rows, 1):
        one = {"id": f"{task.name}-{number:05d}", "message": row[message], "target": _in_order(task, answer)}
        problems = task.problems(one)
        if problems:
            rejected.append(_set_aside(line, "; ".join(problems), row))
        else:
            good.append(one)
    if len(good) < SMALLEST:
        raise KitError(_too_few(table, good, rejected))
    if kind == "label":
        remarks += _spelled_alike(task.labels)
    left_out = [column for column in table.columns if column not in (message, *targets)]
    if left_out:
        remarks.append(f"columns left out: {', '.join(left_out)}")
    splits = _split(task, good, held_out, seed, remarks)
    return NewTask(task, splits, sorted(rejected, key=lambda entry: entry["line"]), remarks)


def _describe_task(name: str, kind: Kind, answers: Sequence[Any], prompt: str | None, most: int) -> Task:
    """The task's description: its fields or labels from the answers, and a plain system prompt unless there is one."""
    fields = guess_fields(answers) if kind == "json" else ()
    labels = tuple(sorted(set(answers))) if kind == "label" else ()
    return Task(
        folder=Path(name),
        name=Path(name).name,
        kind=kind,
        system_prompt=prompt or _prompt(kind, labels, fields),
        title=Path(name).name.replace("_", " ").replace("-", " "),
        max_message_characters=most,
        labels=labels,
        fields=fields,
    )


def _set_aside(line: int, reason: str, row: Row) -> Rejected:
    return {"line": line, "reason": reason, "text": dump(row)[:2000]}


def _too_few(table: Table, good: list, rejected: list[Rejected]) -> str:
    first = f" The first bad one: line {rejected[0]['line']}: {rejected[0]['reason'][:300]}." if rejected else ""
    return (
        f"{table.source} gives {len(good)} usable row(s), at least {SMALLEST} are needed; {len(rejected)} were bad.{first}"
    )


def _answers(table: Table, message: str, targets: tuple[str, ...]) -> tuple[list[tuple[int, Row, Any]], list[Rejected]]:
    """(line, row, answer) of the rows that have a message and an answer, and the others with the reason."""
    columns = {name: _converter([row.get(name) for _, row in table.rows]) for name in targets}
    rows, rejected = [], list(table.rejected)
    for line, row in table.rows:
        answer: Any
        if len(targets) > 1:
            answer = {name: columns[name](row.get(name)) for name in targets}
        else:
            answer = row.get(targets[0])
            answer = _object(answer) if isinstance(answer, str) else answer
        if not isinstance(row.get(message), str) or not row[message].strip():
            rejected.append(_set_aside(line, f"column {message!r}: it must be text and not empty", row))
        elif answer is None or answer == "":
            rejected.append(_set_aside(line, f"column {targets[0]!r}: it is empty", row))
        else:
            rows.append((line, row, answer))
    return rows, rejected


def _object(text: str) -> Any:
    """The object that a text holds as JSON, else the text."""
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        return value if isinstance(value, dict) else text
    return text.strip()


def _converter(values: list[Any]) -> Callable[[Any], Any]:
    """How a column of a CSV file becomes JSON values: whole numbers if all are, null for nothing."""
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    whole = bool(texts) and all(re.fullmatch(r"-?\d{1,9}", value) for value in texts)

    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        value = value.strip()
        return None if not value else int(value) if whole else value

    return convert


def _in_order(task: Task, answer: Any) -> Any:
    """The answer with every field, in the task's order, lists sorted: what is missing is null, or an empty list."""
    if task.kind != "json":
        return answer
    known = {f.name: answer.get(f.name, [] if f.type == "set" else None) for f in task.fields}
    for f in task.fields:
        value = known[f.name]
        if f.type == "set" and value is None:
            known[f.name] = []
        elif f.type == "set" and isinstance(value, list) and all(isinstance(v, str) for v in value):
            known[f.name] = sorted(set(value))
    return known


def _prompt(kind: str, labels: tuple[str, ...], fields: tuple[Field, ...]) -> str:
    if kind == "label":
        return f"Label the text. Answer with one of: {', '.join(labels)}." if len(labels) <= 12 else "Label the text."
    if kind == "json":
        return f"Read the message and write a JSON object with {', '.join(f.name for f in fields)}."
    return "Answer the message."


def _spelled_alike(labels: tuple[str, ...]) -> list[str]:
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(re.sub(r"[\W_]+", "", label.casefold()), []).append(label)
    return [f"labels that differ only in spelling: {', '.join(map(repr, some))}" for some in alike.values() if len(some) > 1]


def _split(task: Task, rows: list[Row], held_out: float, seed: int, remarks: list[str]) -> dict[str, list[Row]]:
    """Stratified by label, near-duplicates together; a group of more than two per cent of all rows stays in training."""
    from sklearn.model_selection import train_test_split

    members: dict[int, list[Row]] = {}
    for row, group in zip(rows, groups([row["message"] for row in rows]), strict=True):
        members.setdefault(group, []).append(row)
    large = [group for group, some in members.items() if len(some) > max(2, 0.02 * len(rows))]
    if large:
        together = sum(len(members[group]) for group in large)
        remarks.append(f"{together:,} rows resemble each other closely (made from a template?): all are in training")
    free = [group for group in members if group not in set(large)]
    if len(free) < SMALLEST:
        raise KitError("Nearly all messages resemble each other closely: no held-out rows can be taken that are new.")
    strata = [_stratum(task, members[group][0]) for group in free]
    n = max(1, round(held_out * len(free)))
    rare = {stratum for stratum, count in Counter(strata).items() if count < 5 or count * held_out < 1}
    strata = ["" if stratum in rare else stratum for stratum in strata]
    counts = Counter(strata)
    usable = strata if min(counts.values()) >= 3 and len(counts) <= min(n, len(free) - 2 * n) else None
    if usable is None:
        remarks.append("the splits are drawn without regard to the target: fewer places in one of them than values")

    rest, test, strata_rest, _ = train_test_split(
        free, usable or [""] * len(free), test_size=n, stratify=usable, random_state=seed
    )
    stratify = strata_rest if usable and min(Counter(strata_rest).values()) >= 2 else None
    _, validation = train_test_split(rest, test_size=n, stratify=stratify, random_state=seed)
    where = dict.fromkeys(test, "test") | dict.fromkeys(validation, "validation")
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for group, some in members.items():
        splits[where.get(group, "train")] += some
    return splits


def _stratum(task: Task, row: Row) -> str:
    if task.kind == "label":
        return row["target"]
    closed = next((f.name for f in task.fields if f.type == "choice"), None)
    return str(row["target"][closed]) if closed else ""


# --- writing ---


def write_task(new: NewTask, source: str, folder: Path) -> None:
    """Write the task folder, whole or not at all. Raises `KitError` if it is there already."""
    import tomlkit

    task = new.task
    keys = ("name", "title", "kind", "message", "target", "max_message_characters", "system_prompt")
    table: dict[str, Any] = {key: getattr(task, key) for key in keys}
    if task.labels:
        table["labels"] = list(task.labels)
    if task.fields:
        keys = ("name", "type", "values", "pattern", "form", "nullable", "about")
        table["fields"] = [{k: _plain(v) for k in keys if (v := getattr(f, k))} for f in task.fields]
    counts = "\n".join(f"| `{split}` | {len(new.splits[split]):,} |" for split in SPLITS)
    sheet = f"""# Datasheet: {task.title}

Made from `{source}` by `ftkit task new`; {len(new.rejected):,} row(s) set aside in `rejected.jsonl`.
Splits are stratified, and messages that nearly equal each other are in one split.

| split | rows |
|---|---|
{counts}

To be written by those who know the data: why it was collected, by whom, from whom and with what consent; who labelled it by
which rules, and how well two labellers agree; what is missing or over-represented; what it must not be used
for; its licence.
"""
    with new_folder(folder) as temporary:
        (temporary / "task.toml").write_text(tomlkit.dumps(table), encoding="utf-8")
        (temporary / "DATASHEET.md").write_text(sheet, encoding="utf-8")
        for split in SPLITS:
            write_jsonl(temporary / f"{split}.jsonl", new.splits[split])
        write_jsonl(temporary / "rejected.jsonl", new.rejected)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
