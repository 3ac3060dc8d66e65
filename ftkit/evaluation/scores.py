"""One model's scores on rows, each with its interval, and two models' compared on the same rows (lesson 04)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ftkit.data.task import Row, Task
from ftkit.evaluation.intervals import bootstrap_interval, compare_scores, compare_shares, share_interval
from ftkit.evaluation.metrics import corpus_scores, row_scores
from ftkit.runs.documents import Comparison, Score


class Scores:
    """One model's scores on rows: `rows` has each row's own, `corpus` those that are no mean over rows."""

    def __init__(self, task: Task, rows: Sequence[Row], texts: Sequence[str]):
        self.n = len(rows)
        self.rows = row_scores(task, rows, texts)
        self.corpus = corpus_scores(task, rows, texts)

    def metrics(self, only: Sequence[str] | None = None) -> list[str]:
        """The names of all metrics, or of those in `only`."""
        return [metric for metric in (*self.rows, *self.corpus) if only is None or metric in only]

    def with_intervals(self, only: Sequence[str] | None = None) -> dict[str, Score]:
        """Each metric's value and interval: Wilson's for yes/no metrics, BCa bootstrap for the others (from two rows)."""
        scores = {}
        for metric in self.metrics(only):
            statistic, right = self.statistic(metric), self._yes_no(metric)
            interval = share_interval(right) if right else bootstrap_interval(statistic, self.n)
            scores[metric] = Score(value=float(statistic(np.arange(self.n))), interval=interval)
        return scores

    def statistic(self, metric: str) -> Callable[[np.ndarray], np.ndarray]:
        """The metric on resampled rows: indices [..., k] to scores [...]."""
        if metric in self.corpus:
            return self.corpus[metric]
        own = np.asarray(self.rows[metric], dtype=float)
        return lambda index: own[index].mean(axis=-1)

    def against(self, other: Scores, only: Sequence[str] | None = None) -> dict[str, Comparison]:
        """This model's metrics compared with another's on the same rows: the difference is this one's minus the other's."""
        return {metric: self._against(other, metric) for metric in self.metrics(only)}

    def _against(self, other: Scores, metric: str) -> Comparison:
        if metric in self.corpus:
            return compare_scores(other.statistic(metric), self.statistic(metric), self.n)
        right, theirs = self._yes_no(metric), other._yes_no(metric)
        if right and theirs:
            return compare_shares(theirs, right)
        pair = other.rows[metric], self.rows[metric]
        return compare_scores(other.statistic(metric), self.statistic(metric), self.n, pair)

    def _yes_no(self, metric: str) -> list[bool] | None:
        """Each row's yes or no; None for a metric that is none."""
        own = self.rows.get(metric)
        return [bool(value) for value in own] if own and isinstance(own[0], bool) else None
