"""Where the tuned model is wrong, and whether it knows: confusions, slices, the worst errors, calibration (lesson 04)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from ftkit.data.kept import check_answer, things_in
from ftkit.data.prompt import answered_ids, begun_ids, completion_text, parse_answer
from ftkit.data.task import Row, Task
from ftkit.data.values import labels_of
from ftkit.evaluation.answer import TUNED, Answerer
from ftkit.evaluation.intervals import share_interval
from ftkit.evaluation.metrics import closed_values, same
from ftkit.runs.documents import Calibration, CertaintyGroup, Confusion, Slice, WrongAnswer

SMALL = 30  # rows; a share of fewer says little
WORST = 20
BINS = 10


def confusions(task: Task, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, Confusion]:
    """For each closed field its confusion matrix, a row a target, a column an answer.

    The last column counts answers that are none of the values (scikit-learn, confusion_matrix).
    """
    from sklearn.metrics import confusion_matrix

    matrices = {}
    for metric, (values, gold, guessed) in closed_values(task, rows, texts).items():
        matrix = confusion_matrix(gold, guessed, labels=range(len(values) + 1))[:-1]
        name = metric.removesuffix(" macro-F1") if task.kind == "json" else task.target
        matrices[name] = Confusion(values=values, matrix=matrix.tolist())
    return matrices


def slices(task: Task, rows: Sequence[Row], scores: Mapping[str, Sequence[float]]) -> list[Slice]:
    """The scores of parts of the rows: by difficulty, trap and topic (where rows have them), length, the first closed field.

    Fewer than `SMALL` rows are marked as small. Three lengths hold a third of the rows each. Where a task wants things kept
    in a text, each kind of them makes a part: the rows whose right answer holds some.
    """
    parts: dict[str, list[Any]] = {}
    for key in ("difficulty", "trap", "topic"):
        if any(row.get(key) for row in rows):
            parts[key] = [row.get(key) for row in rows]
    lengths = np.array([len(row[task.message]) for row in rows])
    third = np.quantile(lengths, [1 / 3, 2 / 3])
    names = (f"up to {third[0]:.0f} characters", f"up to {third[1]:.0f}", "longer")
    parts["length"] = [names[int(place)] for place in np.searchsorted(third, lengths)]
    for name, labels in list(labels_of(task, rows).items())[:1]:
        parts[name] = labels
    groups: list[tuple[str, Any, list[int]]] = []
    for by, values in parts.items():
        order = names if by == "length" else sorted({value for value in values if value is not None})
        groups += [(by, value, [i for i, own in enumerate(values) if own == value]) for value in order]
    for name, entries in task.kept.items():
        groups.append(("holds", name, [i for i, row in enumerate(rows) if things_in(row[task.target], entries)]))
    fields = [*(f.name for f in task.fields), *(f"{name} kept" for name in task.kept)]
    return [_slice(by, value, of, scores, fields) for by, value, of in groups if of]


def _slice(by: str, value: Any, of: list[int], scores: Mapping[str, Sequence[float]], fields: Sequence[str]) -> Slice:
    right = [bool(scores["exact match"][i]) for i in of]
    return Slice(
        by=by,
        value=value,
        n=len(of),
        small=len(of) < SMALL,
        exact_match=sum(right) / len(of),
        interval=share_interval(right),
        fields={name: float(np.mean([scores[name][i] for i in of])) for name in fields},
    )


def worst(task: Task, rows: Sequence[Row], texts: Sequence[str], n: int = WORST) -> list[WrongAnswer]:
    """The rows with the most fields wrong, the worst first.

    No answer at all is the worst; of equals the shorter message comes first: it had less to mislead. Of a text, the things
    that it should have kept count as fields.
    """
    answers = []
    for number, (row, text) in enumerate(zip(rows, texts, strict=True), start=1):
        answer, target = parse_answer(task, text), row[task.target]
        if task.kind == "json":
            values = answer or {}
            wrong = [f.name for f in task.fields if f.name not in values or not same(values[f.name], target[f.name])]
            wrong += [name for name in values if name not in target]
        else:
            wrong = [] if same(answer, target) else [task.target]
            wrong += [check.name for check in check_answer(task, answer, target) if not check.kept]
        if wrong:
            answers.append(
                WrongAnswer(
                    id=str(row.get("id", f"row {number}")),
                    message=row[task.message],
                    wrong=wrong,
                    target=completion_text(task, target),
                    prediction=text,
                )
            )
    return sorted(answers, key=lambda answer: (-len(answer.wrong), len(answer.message)))[:n]


def calibration(
    answerer: Answerer, rows: Sequence[Row], progress: Callable[[int, int], None] | None = None
) -> Calibration | None:
    """Whether the tuned model's certainty about the first closed field can be believed.

    Its certainty is the probability of the likeliest value's first token where the answer writes it. Rows are put into
    `BINS` groups of like certainty, of equal size; `ece` is the mean over rows of the gap between their group's certainty
    and its share of right ones (expected calibration error: Guo et al. 2017, arXiv 1706.04599). It depends on the number of
    groups, and with few rows chance alone makes it larger than 0. None where the answer does not begin with a closed field
    whose values differ in their first token.
    """
    task = answerer.task
    opening = _first_tokens(answerer)
    if opening is None:
        return None
    name, beginning, tokens = opening
    chats = [answerer.prompt(row[task.message], TUNED) for row in rows]
    begun = [begun_ids(answerer.tokenizer, chat, beginning) for chat in chats]
    chances = answerer.next_token_probabilities(begun, list(tokens.values()), TUNED, progress)  # [rows, values]
    values, gold = list(tokens), labels_of(task, rows)[name]
    certain = chances.max(axis=1)
    right = np.array([values[place] == own for place, own in zip(chances.argmax(axis=1), gold, strict=True)])
    groups = np.array_split(np.argsort(certain, kind="stable"), min(BINS, len(rows)))
    bins = [
        CertaintyGroup(
            n=len(of),
            certainty=float(certain[of].mean()),
            right=float(right[of].mean()),
            interval=share_interval(right[of].tolist()),
        )
        for of in groups
    ]
    return Calibration(
        field=name,
        n=len(rows),
        accuracy=float(right.mean()),
        certainty=float(certain.mean()),
        ece=sum(group.n * abs(group.certainty - group.right) for group in bins) / len(rows),
        bins=bins,
    )


def _first_tokens(answerer: Answerer) -> tuple[str, str, dict[str, int]] | None:
    """The first closed field, what an answer writes before its value, and each value's first token; None if none fits."""
    task, tokenizer = answerer.task, answerer.tokenizer
    if task.kind == "label":
        name, beginning, values, end = task.target, "", task.labels, ""
    elif task.kind == "json" and task.fields[0].type == "choice" and not task.fields[0].nullable:
        name, values = task.fields[0].name, task.fields[0].values
        beginning, end = completion_text(task, {name: ""})[:-2], '"'
    else:
        return None
    chat = answerer.prompt("a", TUNED)
    before = begun_ids(tokenizer, chat, beginning)
    whole = {value: [*chain(*answered_ids(tokenizer, chat, beginning + value + end))] for value in values}
    if any(own[: len(before)] != before for own in whole.values()):
        return None
    tokens = {value: own[len(before)] for value, own in whole.items()}
    return (name, beginning, tokens) if len(set(tokens.values())) == len(tokens) else None
