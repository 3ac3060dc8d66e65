"""Make a task of your own data: check the rows of a table, split them, write a folder (lesson 02)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.common.errors import KitError
from ftkit.common.files import new_folder, write_jsonl
from ftkit.data.columns import Values, as_text, guess_fields, guess_kind, is_missing, read_object
from ftkit.data.conversation.similar import pairs_of
from ftkit.data.formats.table import SMALLEST, Rejected, Table, set_aside, too_few
from ftkit.data.prompt import prompt_text, training_example
from ftkit.data.similarity import linked
from ftkit.data.task import SPLITS, Field, Kind, Row, Task
from ftkit.data.values import labels_of, odd_values

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class NewTask:
    """A new task with its splits, the rows set aside, and remarks on what was guessed."""

    task: Task
    splits: dict[str, list[Row]]
    rejected: list[Rejected]
    remarks: list[str]


# --- making ---

HELD_OUT = 0.1  # share of the rows for validation and for test, each
MOST_HELD_OUT = 1000  # groups of like rows, each
FEWEST_HELD_OUT, MOST_OF_FEW = 20, 0.2  # of few rows so many, but no larger share: below, a verdict gives no advice
ENOUGH = (
    f"held out: {MOST_HELD_OUT:,} for validation and for test each, not a tenth: a score is then known to ±3 points, and a "
    "language model answers them in minutes, not hours (--held-out 0.1: a tenth)"
)
FEW = "held out: {} for validation and for test each, more than a tenth: fewer say next to nothing (--held-out 0.1: a tenth)"


def make_task(
    name: str, table: Table, message: str, targets: Sequence[str], kind: Kind | None = None, prompt: str | None = None,
    held_out: float | None = None, seed: int = 17, max_message_characters: int = 4000,
) -> NewTask:  # fmt: skip
    """Make a task of a table: guess its kind, check every row, and split what fits.

    `held_out` is the share of the rows that validation and test get each; left out, a tenth, but `MOST_HELD_OUT` rows at
    most, and of few rows `FEWEST_HELD_OUT`. The splits are stratified by the label (or the first closed field), and messages
    that nearly equal each other stay in one split.
    Raises `KitError` when fewer than ten rows are left.
    """
    rows, rejected, remarks = _answers(table, message, tuple(targets))
    if not rows:
        raise KitError(too_few(table, 0, rejected))
    guessed, why = guess_kind([answer for _, _, answer in rows])
    kind, why = (kind, "as told") if kind else (guessed, why)
    remarks.append(f"kind {kind}: {why}")
    if kind == "json" and not all(isinstance(answer, dict) for _, _, answer in rows):
        rejected += [set_aside(line, "the target is not an object", row) for line, row, a in rows if not isinstance(a, dict)]
        rows = [entry for entry in rows if isinstance(entry[2], dict)]
    elif kind != "json":
        rows = [(line, row, as_text(answer)) for line, row, answer in rows]
    task = _describe_task(name, kind, [answer for _, _, answer in rows], prompt, max_message_characters)
    good = _fitting(task, rows, message, rejected)
    if len(good) < SMALLEST:
        raise KitError(too_few(table, len(good), rejected))
    for closed, values in labels_of(task, good).items():
        remarks += odd_values(closed, values)
    left_out = [column for column in table.columns if column not in (message, *targets)]
    if left_out:
        remarks.append(f"columns left out: {', '.join(left_out)}")
    splits = split_rows(task, good, held_out, seed, remarks)
    return NewTask(task, splits, sorted(rejected, key=lambda entry: entry["line"]), remarks)


def _fitting(task: Task, rows: list[tuple[int, Row, Any]], message: str, rejected: list[Rejected]) -> list[Row]:
    """The rows as the task has them; those that do not fit it go to `rejected`."""
    good = []
    for number, (line, row, answer) in enumerate(rows, 1):
        one = {"id": f"{task.name}-{number:05d}", "message": row[message], "target": _in_order(task, answer)}
        if problems := task.problems(one):
            rejected.append(set_aside(line, "; ".join(problems), row))
        else:
            good.append(one)
    return good


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


Answers = tuple[list[tuple[int, Row, Any]], list[Rejected], list[str]]


def _answers(table: Table, message: str, targets: tuple[str, ...]) -> Answers:
    """(line, row, answer) of the rows that have a message and an answer; the others with the reason; what was changed."""
    several = len(targets) > 1
    columns = {name: Values(name, [r.get(name) for _, r in table.rows], table.typed or not several) for name in targets}
    rows, rejected = [], list(table.rejected)
    for line, row in table.rows:
        values = {name: columns[name](row.get(name)) for name in targets}
        answer = values if several else values[targets[0]]
        if not isinstance(row.get(message), str) or is_missing(row[message]):
            rejected.append(set_aside(line, f"column {message!r}: it must be text and not empty", row))
        elif all(value is None for value in values.values()):
            rejected.append(set_aside(line, f"column {targets[0]!r}: it is empty", row))
        else:
            rows.append((line, row, read_object(answer) if isinstance(answer, str) else answer))
    remarks = [remark for column in columns.values() for remark in column.remarks()]
    return _tidy_answers(rows, targets[0], remarks), rejected, remarks


def _tidy_answers(rows: list[tuple[int, Row, Any]], target: str, remarks: list[str]) -> list[tuple[int, Row, Any]]:
    """Lists of names become objects with one field, and the values inside objects are tidied like those of a column."""
    answers = [answer for _, _, answer in rows]
    lists = [a for a in answers if isinstance(a, list) and all(isinstance(name, str) for name in a)]
    if answers and len(lists) == len(answers):
        remarks.append(f"the targets are lists of names: an object with the one field {target!r}")
        answers = [{target: answer} for answer in answers]
    objects = [answer for answer in answers if isinstance(answer, dict)]
    names = dict.fromkeys(key for answer in objects for key in answer)
    fields = {name: Values(name, [answer.get(name) for answer in objects], plain_text=True) for name in names}
    tidied = [{k: fields[k](v) for k, v in answer.items()} if isinstance(answer, dict) else answer for answer in answers]
    remarks += [remark for one in fields.values() for remark in one.remarks()]
    return [(line, row, answer) for (line, row, _), answer in zip(rows, tidied, strict=True)]


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


def split_rows(task: Task, rows: list[Row], held_out: float | None, seed: int, remarks: list[str]) -> dict[str, list[Row]]:
    """Stratified by label, near-duplicates together; a group of more than two per cent of all rows stays in training."""
    from sklearn.model_selection import train_test_split

    members: dict[int, list[Row]] = {}
    for row, group in zip(rows, linked(pairs_of(task, rows), len(rows)), strict=True):
        members.setdefault(group, []).append(row)
    large = [group for group, some in members.items() if len(some) > max(2, 0.02 * len(rows))]
    if large:
        together = sum(len(members[group]) for group in large)
        remarks.append(f"{together:,} rows resemble each other closely (made from a template?): all are in training")
    free = [group for group in members if group not in set(large)]
    if len(free) < SMALLEST:
        raise KitError("Nearly all messages resemble each other closely: no held-out rows can be taken that are new.")
    held_out, said = (held_out, "") if held_out else usual_share(len(free))
    remarks += [said] if said else []
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


def usual_share(rows: int) -> tuple[float, str]:
    """(The share of so many rows that validation and test get each, what is to be said where it is no tenth)."""
    if rows * HELD_OUT > MOST_HELD_OUT:
        return MOST_HELD_OUT / rows, ENOUGH
    share = min(MOST_OF_FEW, FEWEST_HELD_OUT / rows)
    return (share, FEW.format(round(share * rows))) if share > HELD_OUT else (HELD_OUT, "")


def _stratum(task: Task, row: Row) -> str:
    if task.kind == "label":
        return row["target"]
    closed = next((f.name for f in task.fields if f.type == "choice"), None)
    return str(row["target"][closed]) if closed else ""


# --- writing ---


def preview(new: NewTask, tokenizer: PreTrainedTokenizerBase | None = None, examples: int = 3) -> str:
    """The first training examples as the model will see them: prompt and completion, in its own template if there is one."""
    parts = []
    for number, row in enumerate(new.splits["train"][:examples], 1):
        example = training_example(new.task, row)
        answer = example["completion"][0]["content"]
        if tokenizer:
            prompt = prompt_text(tokenizer, example["prompt"])
        else:
            prompt = "\n".join(f"{turn['role']}: {turn['content']}" for turn in example["prompt"]) + "\nassistant: "
        if len(prompt) > 1200:
            prompt = f"{prompt[:600]}\n[... {len(prompt) - 1000:,} characters ...]\n{prompt[-400:]}"
        learned = "the last answer; every answer is learned" if new.task.kind == "chat" else "the completion"
        parts.append(f"--- example {number}: the prompt ---\n{prompt}\n--- {learned} ---\n{answer[:1200]}")
    return "\n".join(parts)


def write_task(new: NewTask, source: str, folder: Path) -> None:
    """Write the task folder, whole or not at all. Raises `KitError` if it is there already."""
    import tomlkit

    task = new.task
    own = ("max_turns",) if task.kind == "chat" else ("target",)
    keys = ("name", "title", "kind", "message", *own, "max_message_characters", "system_prompt")
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
