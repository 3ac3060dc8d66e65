"""Evaluations for the terminal: a table, and what it says in plain words (lesson 04)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich import box
from rich.table import Table

from ftkit.evaluation.answer import BASE, TUNED
from ftkit.evaluation.intervals import describe_comparison
from ftkit.evaluation.judging.words import describe_judge
from ftkit.runs.documents import Comparison, Evaluation, ModelResult, RunsCompared, show_interval

TOLD = ", told"  # after base or tuned: with the task's whole sheet in its prompt
ORDER = (
    *("majority", "TF-IDF", "frozen encoder", "base", "few-shot", "base, constrained", "base, own history", "base, told"),
    *("tuned, constrained", "tuned, own history", "tuned, checked", "tuned, told", "tuned"),
)


def in_order(models: Iterable[str]) -> list[str]:
    """The models of an evaluation from the cheapest to the tuned one."""
    return sorted(models, key=ORDER.index)


def describe_evaluation(result: Evaluation) -> list[str]:
    """What an evaluation says, in plain words, a sentence each."""
    sentences = []
    for name, compared in result.comparisons.items():
        for metric in _spoken_of(compared):
            sentences.append(f"Against {name}, {metric}: {describe_comparison(compared[metric], (name, TUNED))}")
    if any(score.interval is None for model in result.models.values() for score in model.scores.values()):
        sentences.append(
            "A single message gives F1 and other scores that are no yes or no without an interval: measure more."
        )
    sentences += _describe_told(result) + _describe_likelihood(result) + _describe_constrained(result)
    return sentences + describe_judge(result.judge) + _describe_forgetting(result)


def _describe_told(result: Evaluation) -> list[str]:
    """What was told, what was cut, and what an answer then costs."""
    if (told := result.told) is None:
        return []
    window = f"{told.window:,}" if told.window else "any number of"
    cut = f"{told.cut:,} more were left out" if told.cut else "nothing was left out"
    sides = [name for name in (f"{BASE}{TOLD}", TUNED, f"{TUNED}{TOLD}") if name in result.models]
    costs = [f"{result.models[name].seconds_per_message:.1f} s ({name})" for name in sides]
    return [
        f"Told in the prompt: {told.file}, {told.tokens:,} tokens; {cut} (the model reads {window} tokens at once). "
        f"An answer took {', '.join(costs)}."
    ]


def _describe_likelihood(result: Evaluation) -> list[str]:
    """How likely the right answers of conversations are to base and tuned."""
    if (change := result.perplexity) is None:
        return []
    losses = (math.log(value) for value in (change.first, change.second))
    bounds = f", 95 % interval {change.interval[0]:+.2f} to {change.interval[1]:+.2f}" if change.interval else ""
    return [
        f"Perplexity of the assistant's turns: {change.first:.2f} by base, {change.second:.2f} by tuned (difference "
        f"{change.difference:+.2f}{bounds}; lower is better); loss {' and '.join(f'{loss:.3f}' for loss in losses)}."
    ]


def _spoken_of(metrics: Iterable[str]) -> list[str]:
    """The metrics that are put into words: whole answers, the first closed field, what is kept; of chats what is met."""
    names = list(metrics)
    expected = [name for name in names if name.endswith(" met")]
    ends = ("exact match", "macro-F1", "chrF") if not expected else ()
    found = [next((name for name in names if name.endswith(end)), None) for end in ends]
    kept = [name for name in names if name.endswith(" kept")]
    return expected or [*filter(None, found), *kept] or names[:1]


def _describe_constrained(result: Evaluation) -> list[str]:
    """How much of the gain is form alone: what constrained decoding gives the base."""
    held = result.models.get(f"{BASE}, constrained")
    if held is None:
        return []
    before, after = (result.models[side].scores for side in (BASE, TUNED))
    sentences = []
    for metric in [m for m in ("exact match", *result.confusions) if m in after]:
        gain, form = (100 * (scores[metric].value - before[metric].value) for scores in (after, held.scores))
        sentences.append(
            f"Of {gain:+.1f} points in {metric}, {form:+.1f} are format alone: what constrained decoding gives the base."
        )
    return sentences


def _describe_forgetting(result: Evaluation) -> list[str]:
    if result.general is None:
        return []
    change, mixed_in = result.general.perplexity, _mixed_in(result.general.replay)
    low, high = change.interval or (change.difference, change.difference)  # it is of hundreds of pieces of text
    return [
        f"General questions: {describe_comparison(result.general.questions, (BASE, TUNED))}{mixed_in}",
        f"Perplexity of plain English: {change.first:.1f} before, {change.second:.1f} after "
        f"(difference {change.difference:+.1f}, 95 % interval {low:+.1f} to {high:+.1f}; lower is better).",
    ]


def _mixed_in(rows: int | None) -> str:
    """What the training did against forgetting."""
    if rows is None:
        return ""
    return f" The training had {rows:,} rows of general talk." if rows else " The training had no general talk (--replay)."


def _points(compared: Comparison, digits: int) -> str:
    """A difference with its interval, in points."""
    bounds = show_interval(compared.interval, f"{'+' if digits else ''}.{digits}f")
    return f"{100 * compared.difference:+.{digits}f} ({bounds})"


def evaluation_table(result: Evaluation) -> Table:
    """An evaluation as a table: a row a metric, in percent, tuned against base with its interval."""
    title = f"{result.task}, {result.split} split, {result.rows_measured}; in %, differences with 95 % intervals"
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    order = [name for name in in_order(result.models) if not name.endswith(TOLD)]  # for them see `told_table`
    models = _add_scores(grid, result, order, BASE)
    grid.add_row("memory, MB", *(f"{model.memory_mb:,.0f}" for model in models), "", style="dim")
    return grid


def told_table(result: Evaluation) -> Table | None:
    """What a prompt can give and what training gives: models told the task's sheet beside those that were not; or None."""
    base_told = f"{BASE}{TOLD}"
    if result.told is None or base_told not in result.models:
        return None
    title = f"In the prompt or in the weights: {result.told.file} told, or trained; in %, {result.rows_measured}"
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    order = [name for name in in_order(result.models) if name in (BASE, base_told, f"{TUNED}{TOLD}", TUNED)]
    models = _add_scores(grid, result, order, base_told)
    read = ("-" if model.prompt_tokens is None else f"{model.prompt_tokens:,}" for model in models)
    grid.add_row("tokens of a prompt", *read, "", style="dim")
    return grid


def _add_scores(grid: Table, result: Evaluation, order: list[str], other: str) -> list[ModelResult]:
    """Columns of models with a row a metric, the tuned model against `other`, and the time of an answer; the models."""
    models = [result.models[name] for name in order]
    grid.add_column("metric")
    for heading in (*order, f"tuned - {other}"):
        grid.add_column(heading, justify="right")
    for metric in result.models[TUNED].scores:
        scores = [model.scores.get(metric) for model in models]
        cells = [f"{100 * score.value:.1f}" if score else "-" for score in scores]
        grid.add_row(metric, *cells, _points(result.comparisons[other][metric], 0))
    grid.add_row("ms a message", *(f"{1000 * model.seconds_per_message:,.0f}" for model in models), "", style="dim")
    return models


def comparison_table(compared: RunsCompared) -> Table:
    """Two runs side by side: a row a metric, in percent, with the difference and what it says."""
    first, second = compared.runs
    title = f"{compared.task}, {compared.split} split, n = {compared.n}; in %"
    grid = Table(title=title, title_justify="left")
    grid.add_column("metric")
    for heading in (first, second, "difference (95 %)", ""):
        grid.add_column(heading, justify="right")
    for metric, c in compared.metrics.items():
        verdict = ("better" if c.difference > 0 else "worse") if c.detected else "no detectable difference"
        grid.add_row(metric, f"{100 * c.first:.1f}", f"{100 * c.second:.1f}", _points(c, 1), verdict)
    return grid
