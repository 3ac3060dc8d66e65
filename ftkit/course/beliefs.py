"""What the labs on three beliefs use: spoiled data, and saved experiments as points with intervals.

The experiments are run by `python -m experiments.beliefs`; `BeliefResults` says what their file holds.
"""

from __future__ import annotations

import itertools
import random
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ftkit.common.errors import KitError
from ftkit.common.files import read_jsonl
from ftkit.common.paths import kit_root
from ftkit.data.task import Row, Task
from ftkit.evaluation.intervals import Interval, seeds_interval, share_interval
from ftkit.runs.documents import Count, Digest, Document, Part, Seconds, Share

FOLDER = kit_root() / "experiments" / "results"
EVERYDAY = FOLDER / "everyday.jsonl"
WIDTH = 100  # characters of a printed line
WHOLE = "exact match"
NO_FIELDS = ("valid JSON", "fits the task", WHOLE)  # all other metrics of an experiment are fields of the ticket


# --- data ---


def spoil_tickets(task: Task, rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """The rows, a share of them with the whole ticket of another row, one of another intent.

    The guide decides every intent (two readers agreed on 99.5 % of them), so a ticket of another intent is wrong by the
    guide, while each ticket by itself is a good one. A smaller share's rows are among a larger one's, with the same
    wrong tickets: doses differ in nothing else.
    """
    chosen = set(draw_order(len(rows), seed)[: round(share * len(rows))])
    return [{**row, task.target: _other_ticket(task, rows, row, seed)} if i in chosen else row for i, row in enumerate(rows)]


def draw_order(n: int, seed: int) -> list[int]:
    """The numbers below `n` in an order that the seed decides: a larger draw begins with the smaller one."""
    return random.Random(f"order {seed}").sample(range(n), n)


def _other_ticket(task: Task, rows: Sequence[Row], row: Row, seed: int) -> Any:
    others = [other[task.target] for other in rows if other[task.target]["intent"] != row[task.target]["intent"]]
    return random.Random(f"ticket {seed} {row['id']}").choice(others)


def everyday() -> list[Any]:
    """Everyday questions with short right answers, in the form in which the general check asks, and none that it asks."""
    rows = read_jsonl(EVERYDAY)
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["answer"]}],
        }
        for row in rows
    ]


# --- results ---


class Scores(Part):
    """What the answers to the messages of a split scored, by metric."""

    scores: dict[str, Share] = Field({}, description="shares")
    rows: dict[str, str] = Field({}, description="a 0 or 1 for each message, in the split's order")


class SpoiledData(Part):
    """What was done to the training data."""

    examples: Count
    wrong: Count = Field(description="examples with the ticket of another one")
    irrelevant: Count = Field(description="examples of another task")
    leaked: str = Field(description="a 1 for each validation row that was trained on; empty if none was")


class GeneralScores(Part):
    """What a model makes of general questions and plain English (`evaluation.forgetting`)."""

    right: str = Field(description="a 0 or 1 for each question")
    answers: list[str] = Field(description="some of them")
    log_probabilities: list[float] = Field(description="natural logarithms, a sum for each piece of English")
    tokens: list[Count] = Field(description="in each piece")


class ExperimentResult(Scores):
    """One experiment on the desk's validation split; one that broke has `failed`, its last words, and no figures."""

    experiment: dict[str, Any] = Field(description="all that decides the result: method, seed, rows, changes")
    date: str = Field(description="ISO 8601")
    threads: Count
    versions: dict[str, str]
    whole_seconds: Seconds | None = Field(None, description="with loading and answering")
    failed: str | None = None
    steps: Count | None = None
    examples: Count | None = Field(None, description="seen in training, repetitions counted")
    tokens: Count | None = Field(None, description="real tokens seen in training")
    seconds: Seconds | None = Field(None, description="of the training")
    cpu_seconds: Seconds | None = Field(None, description="of the training, all threads")
    trained_parameters: Count | None = None
    recipe: dict[str, Any] | None = Field(None, description="the profile's settings as they were")
    data: SpoiledData | None = None
    loss: float | None = Field(None, description="the last")
    losses: str = Field("", description="the loss of every step, numbers with spaces between")
    validation_loss: float | None = None
    answer_seconds: Seconds | None = None
    answers: list[str] | None = Field(None, description="the first ones")
    shots: Count | None = Field(None, description="examples that few-shot prompting showed")
    tried: dict[str, Share] | None = Field(None, description="the score of each number of examples")
    general: GeneralScores | None = None

    @property
    def seed(self) -> int:
        """The experiment's seed."""
        return self.experiment["seed"]


class PlannedLine(Part):
    """A point of a belief: one condition, an experiment for each seed."""

    belief: str = Field(description="a key of `beliefs`")
    name: str
    about: str
    expected: str = Field(description="written down before the experiments ran")
    experiments: str = Field(description="keys of `results`, with spaces between")


class BeliefResults(Document):
    """The experiments on three beliefs."""

    FILE: ClassVar[str] = "beliefs.json"
    CURE: ClassVar[str] = "It belongs to the kit: get it again, or run python -m experiments.beliefs."

    about: str
    task: dict[str, str] = Field(description="name, fingerprint and split of what everything is scored on")
    messages: str = Field(description="ids that the 0 and 1 of `rows` stand for, in order, with spaces between")
    questions: str = Field(description="ids of the general questions, likewise")
    general_fingerprint: Digest = Field(description="which general check it was")
    beliefs: dict[str, str] = Field(description="{group: the belief in words}")
    lines: list[PlannedLine]
    results: dict[str, ExperimentResult] = Field(description="by key of the experiment")


@dataclass(frozen=True)
class Point:
    """One condition of an experiment, trained with several seeds: what it was, what was expected of it, what came out."""

    name: str
    about: str
    expected: str
    results: tuple[ExperimentResult, ...]

    @property
    def seeds(self) -> list[int]:
        """The seeds that it was trained with."""
        return [result.seed for result in self.results]

    def scores(self, metric: str = "fields") -> np.ndarray:
        """Scores [seeds, messages] between 0 and 1; "fields" is the share of a ticket's fields that are right,
        which only what writes whole tickets has.

        Raises `KitError` for a metric that was not scored.
        """
        tables = [result.rows for result in self.results]
        fields = [name for name in tables[0] if name not in NO_FIELDS] if WHOLE in tables[0] else []
        names = fields if metric == "fields" else [metric]
        if not names or any(name not in table for table in tables for name in names):
            raise KitError(f"The point {self.name!r} has no score {metric!r}; it has: {', '.join(tables[0]) or 'none'}.")
        return np.array([np.mean([[int(digit) for digit in table[name]] for name in names], axis=0) for table in tables])

    def share(self, metric: str = "fields") -> tuple[float, Interval]:
        """The mean score and its 95 % interval, of the luck of messages and seeds (`intervals.seeds_interval`)."""
        scores = self.scores(metric)
        value, (low, high) = seeds_interval(scores)
        if value in (0.0, 1.0):  # no spread is seen where all are wrong, or right: Wilson's interval of as many messages
            low, high = share_interval([bool(value)] * scores.shape[1])
        return value, (max(0.0, low), min(1.0, high))

    def against(self, other: Point, metric: str = "fields") -> tuple[float, Interval]:
        """This point's score minus the other's, on the same messages and seeds, and its 95 % interval.

        Raises `KitError` if they share no seed.
        """
        mine, theirs = (dict(zip(point.seeds, point.scores(metric), strict=True)) for point in (self, other))
        common = sorted(set(mine) & set(theirs))
        if not common:
            raise KitError(f"The points {self.name!r} and {other.name!r} have no seed in common.")
        return seeds_interval([mine[seed] - theirs[seed] for seed in common])

    def losses(self, smooth: int = 10) -> list[tuple[int, float]]:
        """(step, training loss) pairs: the mean over the seeds and over the last `smooth` steps."""
        curves = [[float(loss) for loss in result.losses.split()] for result in self.results]
        running = np.convolve(np.mean(curves, axis=0), np.ones(smooth) / smooth, mode="valid")
        return [(step, float(loss)) for step, loss in enumerate(running, start=smooth)]

    def mean(self, figure: str) -> float:
        """The mean of a figure of the training (such as "tokens", "loss", "validation_loss") over the seeds."""
        return float(np.mean([getattr(result, figure) for result in self.results]))

    def general(self) -> np.ndarray:
        """Which general questions were answered right: [seeds, questions] of 0 and 1."""
        checks = [result.general.right for result in self.results if result.general]
        return np.array([[int(digit) for digit in right] for right in checks], dtype=float)

    def leaked(self) -> np.ndarray:
        """Which validation messages were among the training rows: [seeds, messages] of True and False."""
        masks = [result.data.leaked for result in self.results if result.data]
        return np.array([[digit == "1" for digit in mask] for mask in masks])


def points(belief: str, folder: Path = FOLDER) -> dict[str, Point]:
    """The points of a belief ("scratch", "data", "better") by name, in the plan's order; one without results is left out.

    Raises `KitError` if the file is not there or has no such belief.
    """
    if not BeliefResults.exists(folder):
        raise KitError(f"{BeliefResults.path(folder)} is missing. {BeliefResults.CURE}")
    saved = BeliefResults.load(folder)
    if belief not in saved.beliefs:
        raise KitError(f"{saved.path(folder)} has no belief {belief!r}; it has: {', '.join(saved.beliefs)}.")
    by_name = {}
    for line in saved.lines:
        results = (saved.results.get(key) for key in line.experiments.split())
        successes = tuple(result for result in results if result and result.failed is None)
        if line.belief == belief and successes:
            by_name[line.name] = Point(line.name, line.about, line.expected, successes)
    return by_name


def verdict(difference: float, interval: Interval, names: tuple[str, str], what: str = "of the fields") -> str:
    """A sentence on a difference (the first's score minus the second's), as far as the interval carries it."""
    low, high = (100 * value for value in interval)
    outcome = "no difference detected" if low <= 0 <= high else "better" if difference > 0 else "worse"
    gap = f"{100 * difference:+.1f} points {what}, 95 % interval {low:+.1f} to {high:+.1f}"
    sentence = f"{names[0][:1].upper()}{names[0][1:]} against {names[1]}: {outcome} ({gap})."
    return textwrap.fill(sentence, WIDTH, subsequent_indent="   ")


def describe(points: dict[str, Point]) -> str:
    """What every point is and what was expected of it, as lines of at most `WIDTH` characters."""
    lines = []
    for name, point in points.items():
        count = len(point.results)
        lines.append(
            textwrap.fill(f"{name} ({count} seed{'s'[: count > 1]}): {point.about}", WIDTH, subsequent_indent="   ")
        )
        lines.append(textwrap.fill(f"expected: {point.expected}", WIDTH, initial_indent="   ", subsequent_indent="      "))
    return "\n".join(lines)


def worth(curve: Sequence[tuple[float, float]], score: float) -> float | None:
    """Where a rising curve of (number of examples, score) pairs reaches a score: between its points by straight lines.

    None where the curve does not reach it, or begins above it.
    """
    for (n, low), (more, high) in itertools.pairwise(curve):
        if low <= score <= high and high > low:
            return n + (more - n) * (score - low) / (high - low)
    return None
