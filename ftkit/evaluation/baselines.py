"""Honest baselines: what the same examples give without fine-tuning (lesson 04).

The most frequent answer; TF-IDF, or a small encoder, with logistic regression for closed fields; the answer of the most
similar training row; the base model shown a few examples.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ftkit.common.errors import KitError
from ftkit.common.files import size_mb
from ftkit.common.threads import alone_in_blas
from ftkit.data.check import fit_simple_model
from ftkit.data.prompt import completion_text
from ftkit.data.task import Row, Task
from ftkit.data.values import labels_of
from ftkit.evaluation.metrics import row_scores

if TYPE_CHECKING:
    from ftkit.models.encoder import Encoder

SHOTS = (2, 4, 8)  # numbers of examples that the base model is shown, to choose from
CHOSEN_ON = 48  # validation messages that the number is chosen on


@dataclass(frozen=True)
class Baseline:
    """A baseline's answers as texts, the metrics that it can be judged by (None: all), and what it cost.

    `memory_mb` is of the fitted model in memory, `disk_mb` of the files that serve it.
    """

    about: str
    texts: list[str]
    metrics: tuple[str, ...] | None
    seconds: float
    training_seconds: float
    memory_mb: float
    disk_mb: float = 0.0


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
    return _classified(task, train, rows, "TF-IDF of words and characters, logistic regression", fit_simple_model)


def frozen_encoder(task: Task, train: Sequence[Row], rows: Sequence[Row], encoder: Encoder | None = None) -> Baseline | None:
    """A small encoder as it is, with logistic regression on its vectors; like `tfidf`, for closed fields alone.

    `encoder` left out is the one of this machine; None where there is none, or without closed fields.
    """
    from ftkit.models.encoder import Encoder

    if not labels_of(task, train) or not (encoder := encoder or Encoder.load()):
        return None

    about = "a small encoder that stays as it is, logistic regression on its vectors" + encoder.remark(
        [row[task.message] for row in rows]
    )
    made = _classified(task, train, rows, about, _fit_on_vectors, encoder.embed)
    return made and replace(
        made, memory_mb=made.memory_mb + encoder.memory_mb, disk_mb=made.disk_mb + size_mb(encoder.folder)
    )


def nearest(task: Task, train: Sequence[Row], rows: Sequence[Row], encoder: Encoder | None = None) -> Baseline:
    """The answer of the training row whose message is most like this one: by an encoder's vectors, else by TF-IDF.

    Likeness is the cosine of the vectors; of equals the first row counts. It is the baseline for whole answers and texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    began = time.monotonic()
    known, asked = ([row[task.message] for row in some] for some in (train, rows))
    words = TfidfVectorizer(sublinear_tf=True).fit(known)
    read = encoder.embed if encoder else words.transform
    model = NearestNeighbors(n_neighbors=1, metric="cosine").fit(read(known))
    trained = time.monotonic() - began
    places = model.kneighbors(read(asked), return_distance=False)[:, 0]
    texts = [completion_text(task, train[i][task.target]) for i in places]
    about = f"the answer of the training row that is most like the message, by {'a small encoder' if encoder else 'TF-IDF'}"
    about += encoder.remark(asked) if encoder else ""
    seconds = time.monotonic() - began - trained
    size = _pickled_mb(model) + (0.0 if encoder else _pickled_mb(words))
    memory, disk = (size + encoder.memory_mb, size + size_mb(encoder.folder)) if encoder else (size, size)
    return Baseline(about, texts, None, seconds, trained, memory, disk)


def _classified(
    task: Task,
    train: Sequence[Row],
    rows: Sequence[Row],
    about: str,
    fit: Callable[[Any, list[str]], Any],
    read: Callable[[list[str]], Any] = list,
) -> Baseline | None:
    """A classifier of messages, as `read` gives them, for each closed field; None without such fields."""
    from sklearn.dummy import DummyClassifier

    began = time.monotonic()
    fields = labels_of(task, train)
    if not fields:
        return None
    known = read([row[task.message] for row in train])
    models = {name: fit(known, labels) for name, labels in fields.items()}
    if constant := [name for name, model in models.items() if isinstance(model, DummyClassifier)]:
        about += f"; nothing to learn for {', '.join(constant)}: always the most frequent value"
    trained = time.monotonic() - began
    asked = read([row[task.message] for row in rows])
    guessed = {name: [str(label) for label in model.predict(asked)] for name, model in models.items()}
    seconds = time.monotonic() - began - trained
    size = sum(map(_pickled_mb, models.values()))
    return Baseline(about, *closed_answers(task, guessed), seconds, trained, size, size)


def _fit_on_vectors(vectors: Any, labels: list[str]) -> Any:
    """Logistic regression; where all labels are the same there is nothing to learn, and the model says that one."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=10, max_iter=1000) if len(set(labels)) > 1 else DummyClassifier()
    with alone_in_blas():
        return model.fit(vectors, labels)


def closed_answers(task: Task, guessed: dict[str, list[str]]) -> tuple[list[str], tuple[str, ...]]:
    """Values of the closed fields as answers, and the metrics that such answers can be judged by."""
    if task.kind == "label":
        return guessed[task.target], ("exact match", "macro-F1")
    rows = zip(*guessed.values(), strict=True)
    texts = [completion_text(task, dict(zip(guessed, values, strict=True))) for values in rows]
    return texts, tuple(metric for name in guessed for metric in (name, f"{name} macro-F1"))


def _pickled_mb(model: Any) -> float:
    import pickle

    return len(pickle.dumps(model)) / 1e6  # only to weigh it


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
    that is right (a `json` task), the mean chrF (a `text` task), else the share of exact matches; between equal scores the
    smaller number wins.
    """
    if not ks:
        raise KitError("There is no number of examples to choose from.")
    rows = validation[:CHOSEN_ON]
    names = [f.name for f in task.fields] if task.kind == "json" else ["chrF" if task.kind == "text" else "exact match"]
    scores = {}
    for k in ks:
        by_metric = row_scores(task, rows, ask(k, [row[task.message] for row in rows]))
        scores[k] = sum(sum(by_metric[name]) / len(rows) for name in names) / len(names)
    return max(ks, key=lambda k: (scores[k], -k)), scores
