"""Honest baselines: what the same examples give without fine-tuning (lesson 04).

The most frequent answer; TF-IDF with logistic regression for closed fields; the base model shown a few examples.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ftkit.common.errors import KitError
from ftkit.data.check import fit_simple_model
from ftkit.data.prompt import completion_text
from ftkit.data.task import Row, Task, labels_of
from ftkit.evaluation.metrics import row_scores

SHOTS = (2, 4, 8)  # numbers of examples that the base model is shown, to choose from
CHOSEN_ON = 48  # validation messages that the number is chosen on


@dataclass(frozen=True)
class Baseline:
    """A baseline's answers as texts, the metrics that it can be judged by (None: all), and what it cost."""

    about: str
    texts: list[str]
    metrics: tuple[str, ...] | None
    seconds: float
    training_seconds: float
    memory_mb: float


def majority(task: Task, train: Sequence[Row], rows: Sequence[Row]) -> Baseline:
    """The training split's most frequent answer, for a `json` task field by field, to every message."""
    targets = [row[task.target] for row in train]
    if task.kind == "json":
        answer: Any = {f.name: _most_frequent([target[f.name] for target in targets]) for f in task.fields}
    else:
        answer = _most_frequent(targets)
    text = completion_text(task, answer)
    return Baseline("the most frequent answer of the training rows", [text] * len(rows), None, 0.0, 0.0, 0.0)


def _most_frequent(values: Sequence[Any]) -> Any:
    """The most frequent value, whatever its type; the first of them if several are."""
    counts: Counter[str] = Counter(map(repr, values))
    return next(value for value in values if repr(value) == counts.most_common(1)[0][0])


def tfidf(task: Task, train: Sequence[Row], rows: Sequence[Row]) -> Baseline | None:
    """TF-IDF of words and characters with logistic regression, one model for each closed field; None without such fields.

    It cannot write an answer: it is judged by the closed fields (or the labels) alone. A field with one value in training,
    or messages without words, leave nothing to learn: it answers the most frequent value, and `about` says so.
    """
    began = time.monotonic()
    fields = labels_of(task, train)
    models = {name: fit_simple_model([row[task.message] for row in train], labels) for name, labels in fields.items()}
    if not models:
        return None
    trained = time.monotonic() - began
    messages = [row[task.message] for row in rows]
    guessed = {name: [str(label) for label in model.predict(messages)] for name, model in models.items()}
    seconds = time.monotonic() - began - trained
    if task.kind == "label":
        texts = guessed[task.target]
        metrics: tuple[str, ...] = ("exact match", "macro-F1")
    else:
        texts = [completion_text(task, {name: labels[i] for name, labels in guessed.items()}) for i in range(len(rows))]
        metrics = tuple(metric for name in guessed for metric in (name, f"{name} macro-F1"))
    size = sum(len(pickled) for pickled in map(_pickled, models.values())) / 1e6
    about = "TF-IDF of words and characters, logistic regression"
    if constant := [name for name, model in models.items() if not hasattr(model, "steps")]:
        about += f"; nothing to learn for {', '.join(constant)}: always the most frequent value"
    return Baseline(about, texts, metrics, seconds, trained, size)


def _pickled(model: Any) -> bytes:
    import pickle

    return pickle.dumps(model)  # only to weigh it


def shots(task: Task, train: Sequence[Row], k: int, seed: int) -> list[Row]:
    """`k` training rows to show the base model: drawn by the seed, each with another label as long as there are others.

    A smaller draw is the beginning of a larger one.
    """
    order = random.Random(seed).sample(range(len(train)), len(train))
    labels = next(iter(labels_of(task, train).values()), [""] * len(train))
    turn: Counter[str] = Counter()
    ranked = []
    for place, i in enumerate(order):
        ranked.append((turn[labels[i]], place, i))
        turn[labels[i]] += 1
    return [train[i] for *_, i in sorted(ranked)[:k]]


def choose_shots(
    task: Task, validation: Sequence[Row], ask: Callable[[int, list[str]], list[str]], ks: Sequence[int] = SHOTS
) -> tuple[int, dict[int, float]]:
    """The number of examples that helps most on validation rows, and the score of each number.

    `ask(k, messages)` gives the base model's answers after `k` examples. The score is the mean over fields of the share
    that is right (a `json` task), else the share of exact matches; between equal scores the smaller number wins.
    """
    if not ks:
        raise KitError("There is no number of examples to choose from.")
    rows = validation[:CHOSEN_ON]
    names = [f.name for f in task.fields] if task.kind == "json" else ["exact match"]
    scores = {}
    for k in ks:
        by_metric = row_scores(task, rows, ask(k, [row[task.message] for row in rows]))
        scores[k] = sum(sum(by_metric[name]) / len(rows) for name in names) / len(names)
    return max(ks, key=lambda k: (scores[k], -k)), scores
