"""Scores of answers in conversations: by turn and by conversation, with intervals that know which turns belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ftkit.data.task import Row, Task
from ftkit.evaluation.intervals import bootstrap_interval, compare_scores, compare_shares, share_interval
from ftkit.evaluation.metrics import Statistic, chrf
from ftkit.evaluation.metrics.expectations import met, unmet
from ftkit.runs.documents import Comparison, Score, Slice, WrongAnswer

TURNS, FIRST, LATER, WHOLE = "turns met", "first turns met", "later turns met", "conversations met"
WORST = 20
SMALL = 30  # turns; a share of fewer says little


class ChatScores:
    """One model's scores on conversations: `turns` has each turn's own by metric, `whole` each conversation's yes or no.

    `parts` are the conversations' answers one by one (`exchanges`), `texts` the model's answers to them. What a turn has no
    expectation for is left out of a metric. A turn metric is the mean over all turns of the conversations; its interval
    comes from conversations drawn anew, with all their turns: those of one conversation are more alike than others.
    """

    def __init__(self, task: Task, parts: Sequence[Row], texts: Sequence[str]):
        self.n = len({part["conversation"] for part in parts})
        self.turns: dict[str, list[tuple[int, float]]] = {}  # metric: (conversation, score) of each turn
        missed: dict[int, bool] = {}
        for part, text in zip(parts, texts, strict=True):
            place = part["conversation"]
            for metric, score in _of_turn(task, part, text).items():
                self.turns.setdefault(metric, []).append((place, score))
            if "expect" in part:
                missed[place] = missed.get(place, False) or bool(unmet(part["expect"][-1], text))
        self.whole = {WHOLE: [not missed[place] for place in sorted(missed)]} if missed else {}

    def metrics(self) -> list[str]:
        """The names of all metrics, those of whole answers first."""
        order = [metric for metric in (TURNS, FIRST, LATER) if metric in self.turns]
        return [*order, *self.whole, *(metric for metric in self.turns if metric not in order)]

    def with_intervals(self) -> dict[str, Score]:
        """Each metric's value and interval: Wilson's for conversations, BCa bootstrap over conversations for turns."""
        scores = {}
        for metric in self.metrics():
            if right := self.whole.get(metric):
                scores[metric] = Score(value=sum(right) / len(right), interval=share_interval(right))
            else:
                statistic, n = self._statistic(metric)
                scores[metric] = Score(value=float(statistic(np.arange(n))), interval=bootstrap_interval(statistic, n))
        return scores

    def against(self, other: ChatScores) -> dict[str, Comparison]:
        """This model's metrics compared with another's on the same turns: the difference is this one's minus the other's."""
        return {metric: self._against(other, metric) for metric in self.metrics()}

    def _against(self, other: ChatScores, metric: str) -> Comparison:
        if metric in self.whole:
            return compare_shares(other.whole[metric], self.whole[metric])
        (theirs, n), (ours, _) = other._statistic(metric), self._statistic(metric)
        each = np.arange(n)[:, None]  # a conversation alone: better and worse count conversations
        return compare_scores(theirs, ours, n, (theirs(each).tolist(), ours(each).tolist()))

    def _statistic(self, metric: str) -> tuple[Statistic, int]:
        """A turn metric on resampled conversations (indices [..., k] to scores [...]), and their number."""
        places = sorted({place for place, _ in self.turns[metric]})
        sums, counts = np.zeros(len(places)), np.zeros(len(places))
        for place, score in self.turns[metric]:
            sums[places.index(place)] += score
            counts[places.index(place)] += 1
        return (lambda index: sums[index].sum(axis=-1) / counts[index].sum(axis=-1)), len(places)


def _of_turn(task: Task, part: Row, text: str) -> dict[str, float]:
    """An answer's score in each metric: expectations as 0 or 1, and chrF to the answer that stands in the row."""
    scores: dict[str, float] = {}
    if "expect" in part:
        aspects: Mapping[str, bool] = met(part["expect"][-1], text)
        if aspects:
            all_met = float(all(aspects.values()))
            scores |= {TURNS: all_met, FIRST if part["answer"] == 1 else LATER: all_met}
        scores |= {aspect: float(yes) for aspect, yes in aspects.items()}
    return scores | {"chrF": chrf(text.strip(), task.answered(part))}


def slices(task: Task, parts: Sequence[Row], texts: Sequence[str]) -> list[Slice]:
    """The share of turns that meet what is expected of them, by topic and trap (where rows have them) and by the answer."""
    found = []
    for key in ("topic", "trap", "answer"):
        values = {part[key] for part in parts if isinstance(part.get(key), str | int)}
        for value in sorted(values, key=lambda value: (str(type(value)), value)):
            some = [(part, text) for part, text in zip(parts, texts, strict=True) if part.get(key) == value]
            scores = ChatScores(task, [part for part, _ in some], [text for _, text in some])
            right = [bool(score) for _, score in scores.turns.get(TURNS, [])]
            if right:
                interval = scores.with_intervals()[TURNS].interval or share_interval(right)
                share, few = sum(right) / len(right), len(right) < SMALL
                found.append(
                    Slice(by=key, value=value, n=len(right), small=few, exact_match=share, interval=interval, fields={})
                )
    return found


def worst_turns(task: Task, parts: Sequence[Row], texts: Sequence[str], n: int = WORST) -> list[WrongAnswer]:
    """The answers that miss most of what is expected of them, the worst first; none where nothing is expected."""
    wrong = [
        WrongAnswer(
            id=part["id"],
            message=task.asked(part)[-1]["content"],
            wrong=missed,
            target=task.answered(part),
            prediction=text,
        )
        for part, text in zip(parts, texts, strict=True)
        if "expect" in part and (missed := unmet(part["expect"][-1], text))
    ]
    return sorted(wrong, key=lambda answer: -len(answer.wrong))[:n]
