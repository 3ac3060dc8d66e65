"""Metrics: how right an answer is, row by row and over all rows, whatever the model wrote (lesson 04).

`row_scores` and `corpus_scores` are what the evaluation uses. The same numbers come from four modules for the library
`evaluate`, in the folders beside this file: `load("json_fields")`, or `evaluate.load` with a folder's path. No hub is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ftkit.common.errors import KitError
from ftkit.data.kept import kept_scores
from ftkit.data.prompt import parse_answer
from ftkit.data.task import Field, Row, Task

NAMES = ("json_fields", "label_scores", "text_scores", "reference_perplexity")
Statistic = Callable[[np.ndarray], np.ndarray]  # indices of rows [..., k] -> scores [...]


def load(name: str) -> Any:
    """One of the kit's metrics as a module of the library `evaluate`, from its file: nothing is asked of a hub.

    It works in memory. `evaluate.combine([load(a), load(b)])` combines several. Raises `KitError` for an unknown name.
    """
    if name not in NAMES:
        raise KitError(f"There is no metric {name!r}. The kit has {', '.join(NAMES)}.")
    import evaluate

    return evaluate.load(str(Path(__file__).parent / name), keep_in_memory=True)


def score(task: Task, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, list[bool]]:
    """Score answers row by row: {metric: a yes or no for each row}.

    All have `exact match`; a `json` task `valid JSON` (an object in the text), `fits the task` (all fields, allowed values)
    and a metric a field (equal to the target's); a text what `kept` says. What cannot be read counts as wrong, no error.
    """
    answers = [parse_answer(task, text) for text in texts]
    pairs = list(zip(answers, [task.answered(row) for row in rows], strict=True))
    if task.kind != "json":
        return {"exact match": [same(answer, target) for answer, target in pairs]} | kept_scores(task, pairs)
    scores = {
        "valid JSON": [answer is not None for answer in answers],
        "fits the task": [_fits(task, answer) for answer in answers],
    }
    for f in task.fields:
        scores[f.name] = [a is not None and f.name in a and same(a[f.name], t[f.name]) for a, t in pairs]
    scores["exact match"] = [same(answer, target) for answer, target in pairs]
    return scores


def same(answer: Any, target: Any) -> bool:
    """Equal in value and in type: 1 is not true, "4" is not 4; the order of an object's keys does not count."""
    return _written(answer) == _written(target)


def _written(value: Any) -> str:
    """A value as JSON with sorted keys; nested too deep for that, it is equal to nothing that a task allows."""
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        return "nested too deep"


def _fits(task: Task, answer: Any) -> bool:
    try:
        return answer is not None and not task.answer_problems(answer)
    except (RecursionError, OverflowError):  # nested too deep to compare; a number too large for a float
        return False


def row_scores(task: Task, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, list[bool] | list[float]]:
    """Each row's own score in every metric that is a mean over rows: yes/no as bool, shares as float from 0 to 1.

    To the yes/no metrics of `score` come, for a `json` task, `<field> set F1` for each field of type set; for a `text` or
    `chat` task `chrF` and `ROUGE-L`.
    """
    scores: dict[str, list[bool] | list[float]] = dict(score(task, rows, texts))
    targets = [task.answered(row) for row in rows]
    if task.kind == "json":
        pairs = list(zip([parse_answer(task, text) or {} for text in texts], targets, strict=True))
        for f in (f for f in task.fields if f.type == "set"):
            scores[f"{f.name} set F1"] = [set_f1(answer.get(f.name), target[f.name]) for answer, target in pairs]
    if task.kind in ("text", "chat"):
        for name, one in (("chrF", chrf), ("ROUGE-L", rouge_l)):
            scores[name] = [one(text.strip(), target) for text, target in zip(texts, targets, strict=True)]
    return scores


def corpus_scores(task: Task, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, Statistic]:
    """The metrics that are no mean over rows, as `intervals` takes them: {metric: indices [..., k] -> scores [...]}.

    For a `json` task `<field> macro-F1` for each field of type choice, for a `label` task `macro-F1`. On all rows:
    `corpus_scores(...)[metric](np.arange(len(rows)))`.
    """
    closed = closed_values(task, rows, texts)
    return {name: macro_f1(gold, guessed, len(values)) for name, (values, gold, guessed) in closed.items()}


def closed_values(
    task: Task, rows: Sequence[Row], texts: Sequence[str]
) -> dict[str, tuple[list[str | None], np.ndarray, np.ndarray]]:
    """For each metric of `corpus_scores`: the values that may stand there, and the places in them of targets and answers.

    Both are arrays [n]; an answer that is none of the values has the place after the last. For macro-F1 and confusion
    matrices (sklearn.metrics.confusion_matrix takes the two arrays).
    """
    targets = [task.answered(row) for row in rows]
    answers = [parse_answer(task, text) for text in texts]
    if task.kind == "label":
        return {"macro-F1": _places(list(task.labels), targets, answers)}
    return {
        f"{f.name} macro-F1": _places(
            [*f.values, None] if f.nullable else list(f.values),
            [target[f.name] for target in targets],
            [(answer or {}).get(f.name, _MISSING) for answer in answers],
        )
        for f in task.fields
        if f.type == "choice"
    }


_MISSING = object()


def _places(values: list[str | None], targets: list[Any], answers: list[Any]) -> tuple[list[Any], np.ndarray, np.ndarray]:
    place = {value: i for i, value in enumerate(values)}

    def of(value: Any) -> int:
        return place.get(value, len(values)) if value is None or isinstance(value, str) else len(values)

    return values, np.array([of(t) for t in targets], dtype=int), np.array([of(a) for a in answers], dtype=int)


def macro_f1(gold: np.ndarray, guessed: np.ndarray, classes: int) -> Statistic:
    """Macro-F1 as a function of resampled rows: the mean over classes of 2 TP / (2 TP + FP + FN).

    `gold` and `guessed` [n] hold class numbers from 0; a guess of `classes` is none of them: a miss of the gold class, and
    no false alarm. Classes that neither occur nor are guessed among the rows are left out of the mean, as
    sklearn.metrics.f1_score does with `zero_division=nan`; 0 where that leaves none.
    """
    kinds, kind = np.unique(np.stack([gold, guessed], axis=1), axis=0, return_inverse=True)  # the pairs that occur: [u, 2]
    kind = kind.reshape(-1)
    is_gold, is_guess = (kinds[:, i, None] == np.arange(classes) for i in (0, 1))  # [u, classes]
    hits = (is_gold & is_guess).astype(float)
    both = is_gold.astype(float) + is_guess

    def statistic(index: np.ndarray) -> np.ndarray:
        index = np.asarray(index)
        chosen = kind[index.reshape(-1, index.shape[-1])]  # [resamples, k]
        cells = chosen + len(kinds) * np.arange(len(chosen))[:, None]
        counts = np.bincount(cells.ravel(), minlength=len(chosen) * len(kinds)).reshape(len(chosen), len(kinds))
        total = counts @ both  # 2 TP + FP + FN: [resamples, classes]
        f1 = 2 * (counts @ hits) / np.maximum(total, 1)
        return (f1.sum(axis=1) / np.maximum((total > 0).sum(axis=1), 1)).reshape(index.shape[:-1])

    return statistic


def perplexity(log_probabilities: Sequence[float], tokens: Sequence[int]) -> Statistic:
    """Perplexity as a function of resampled rows: exp(- sum of log probabilities / number of tokens), over all rows chosen.

    Each row gives the sum of its tokens' natural log probabilities and their number. NaN where there is no token.
    """
    sums, numbers = np.asarray(log_probabilities, dtype=float), np.asarray(tokens, dtype=float)

    def statistic(index: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.exp(-sums[index].sum(axis=-1) / numbers[index].sum(axis=-1))

    return statistic


def set_f1(answer: Any, target: list[Any]) -> float:
    """F1 of two lists taken as sets: 2 |both| / (|answer| + |target|); two empty ones agree (1), no list at all is 0."""
    if not isinstance(answer, list):
        return 0.0
    ours, gold = {_written(item) for item in answer}, {_written(item) for item in target}
    return 2 * len(ours & gold) / (len(ours) + len(gold)) if ours or gold else 1.0


def chrf(answer: str, target: str) -> float:
    """chrF of one text, from 0 to 1: character n-grams up to 6, recall weighted double (Popović 2015; sacrebleu)."""
    return min(1.0, _chrf().sentence_score(answer, [target]).score / 100)


def rouge_l(answer: str, target: str) -> float:
    """ROUGE-L of one text, from 0 to 1: F1 over the longest common subsequence of words (Lin 2004; rouge-score).

    Words are runs of letters and digits in any script, in lower case, not stemmed.
    """
    return float(_rouge().score(target, answer)["rougeL"].fmeasure)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    class Words:  # the package's own tokenizer drops every letter outside a to z
        def tokenize(self, text: str) -> list[str]:
            return re.findall(r"\w+", text.lower())

    return RougeScorer(["rougeL"], tokenizer=Words())


# --- for the `evaluate` modules, whose inputs are texts ---


def fields_text(task: Task) -> str:
    """A task's fields as the JSON text that `json_fields` takes as `fields`."""
    return json.dumps([asdict(f) for f in task.fields], ensure_ascii=False)


def task_of_fields(fields: str | list[dict[str, Any]]) -> Task:
    """A `json` task with nothing but fields, given as in `[[fields]]` of `task.toml`. Raises `KitError` for others."""
    try:
        tables = json.loads(fields) if isinstance(fields, str) else fields
        made = tuple(Field(**{**f, "values": tuple(f.get("values", ()))}) for f in tables)
    except (ValueError, TypeError, AttributeError) as error:
        raise KitError(f"fields must be the task's [[fields]] as a list or as JSON ({error}).") from None
    return Task(folder=Path(), name="", kind="json", system_prompt="", fields=made)


class AnyText:
    """Mixed into a metric: a text with half a character (a lone surrogate) is scored, not refused by the table behind it."""

    def add_batch(self, **columns: Any) -> None:
        """Add rows, as `evaluate` does."""
        whole = {name: column and [_whole(value) for value in column] for name, column in columns.items()}
        super().add_batch(**whole)  # type: ignore[misc]

    def add(self, **values: Any) -> None:
        """Add one row, as `evaluate` does."""
        super().add(**{name: _whole(value) for name, value in values.items()})  # type: ignore[misc]


def _whole(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
