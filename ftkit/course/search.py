"""The search for the recipe, as lessons 03 and 04 show it: which trainings were tried, and what came out.

The trainings are run by `python -m experiments.recipe`; RECIPE.md has all of them. What is read here are the desk's messages
right or wrong, one by one, so that a lesson computes its figures and never quotes them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ftkit.common.errors import KitError
from ftkit.course.beliefs import FOLDER, NO_FIELDS, WHOLE, ExperimentResult, Scores
from ftkit.evaluation.intervals import Interval, seeds_interval
from ftkit.runs.documents import Document, Seconds, Share

SHORT: dict[str, Any] = {
    "batch_size": 2,
    "gradient_accumulation": 1,
    "max_steps": 400,
}  # most trials: half a pass over the rows
WHOLE_LENGTH: dict[str, Any] = SHORT | {"max_steps": 1460}  # two passes, as long as the kit's own training
CHANGED = {*SHORT, "learning_rate", "warmup", "rank", "alpha", "dropout"}  # settings of the profile that the search changes
ROWS = (50, 150, 450, 1400)  # of the learning curves
METHODS = {"qlora": "QLoRA", "lora": "LoRA, no 4-bit", "full": "all weights"}
ORDERS = {"rows of like length one after the other": "", "rows in random order": "shuffled"}
IN_FULL = "mixed"  # how full fine-tuning was made: weights kept in float32, products computed in bfloat16


class SplitScores(Scores):
    """Scores on the test split, of what is settled."""

    seconds: Seconds | None = None


class CutScores(Scores):
    """Scores of what is left of a full fine-tuning that was cut to a rank."""

    kept: Share = Field(description="of the change's squared size")


class RecipeResult(ExperimentResult):
    """An experiment of the search."""

    test: SplitScores | None = None
    cut: dict[str, CutScores] | None = Field(None, description="by rank")


class RecipeResults(Document):
    """The experiments of the search for the recipe."""

    FILE: ClassVar[str] = "recipe.json"
    CURE: ClassVar[str] = "Get it again, or run python -m experiments.recipe."

    results: dict[str, RecipeResult] = Field(description="by key of the experiment")


@functools.cache
def results() -> list[RecipeResult]:
    """All trainings that ended. Raises `KitError` if the file is not there."""
    if not RecipeResults.exists(FOLDER):
        raise KitError(f"{RecipeResults.path(FOLDER)} is missing. {RecipeResults.CURE}")
    return [result for result in RecipeResults.load(FOLDER).results.values() if result.failed is None]


def find(
    method: str = "qlora", special: str = "", rows: int | None = None, form: str | None = None, **profile: Any
) -> Iterator[RecipeResult]:
    """The trainings by one method with these settings of the profile and nothing else unusual, one for each seed.

    `special` is what was done besides ("shuffled": rows in random order), `form` how the ticket was written. Where a
    training was scored on the test split later, that record counts.
    """
    fitting: dict[tuple[Any, ...], RecipeResult] = {}
    for result in results():
        tried, settings = result.experiment, result.experiment["profile"]
        plain = not tried["lora"] and not tried["sft"] and not set(tried["task"]) - {"system_prompt", "form"}
        plain = plain and not set(settings) - CHANGED and not settings["dropout"]
        same = (tried["method"], tried["special"], tried["rows"], tried["task"].get("form")) == (method, special, rows, form)
        short_prompt = tried["task"].get("system_prompt") == "Write the desk ticket."
        if plain and same and short_prompt and profile.items() <= settings.items():
            key = (tried["seed"], *sorted(settings.items()))
            if key not in fitting or result.test:
                fitting[key] = result
    yield from fitting.values()


def right(result: Scores, metric: str = "fields") -> np.ndarray:
    """The score of each message, 0 to 1, shape [messages]; "fields" is the share of a ticket's fields that are right."""
    names = [name for name in result.rows if name not in NO_FIELDS] if metric == "fields" else [metric]
    return np.mean([[int(digit) for digit in result.rows[name]] for name in names], axis=0)


def share(result: RecipeResult, metric: str = "fields") -> tuple[float, float, float]:
    """(score, low, high) of one training on the validation split; the interval is the messages' luck alone."""
    value, (low, high) = seeds_interval(np.stack([right(result, metric)]))
    return value, low, high


def settings_tried() -> dict[str, dict[str, tuple[float, float, float]]]:
    """What lesson 03 draws: {what was changed: {its value: (share of right fields, low, high)}}."""
    wide: dict[str, Any] = {"rank": 64, "alpha": 64}
    a_step = [(r, r.experiment["profile"]) for r in find(**wide, learning_rate=2e-3)]
    examples = [(s["batch_size"] * s["gradient_accumulation"], s["max_steps"], r) for r, s in a_step]
    changed = {
        "steps, with 800 examples at rank 64": {
            f"{steps} of {each} examples": r for each, steps, r in examples if each * steps == 800
        },
        "learning rate, 400 steps at rank 64": _by("learning_rate", find(**wide, **SHORT)),
        "learning rate, the whole recipe at rank 16": _by("learning_rate", find(rank=16, alpha=64, **WHOLE_LENGTH)),
        "alpha, 400 steps at rank 16": _by("alpha", find(rank=16, learning_rate=1e-3, **SHORT)),
    }
    return {what: {name: share(result) for name, result in tried.items()} for what, tried in changed.items()}


def _by(setting: str, found: Iterator[RecipeResult], seed: int = 17) -> Mapping[str, RecipeResult]:
    """The trainings of one seed by the value of a setting, in its order."""
    tried = [(r.experiment["profile"][setting], r) for r in found if r.seed == seed]
    return {f"{value:g}": result for value, result in sorted(tried, key=lambda pair: pair[0])}


def kept_in_16_bits() -> dict[str, tuple[float, float, float]]:
    """Whole tickets of full fine-tuning by the format that its weights were kept in: {format: (share, low, high)}."""
    kept = {"float32": IN_FULL, "bfloat16": "bfloat16"}
    alike = {name: find("full", special, learning_rate=2e-4, **SHORT) for name, special in kept.items()}
    return {name: share(next(found), WHOLE) for name, found in alike.items()}


def against_qlora(method: str = "full", metric: str = WHOLE) -> dict[str, tuple[float, Interval]]:
    """QLoRA's score less another method's, over the whole recipe, on the test split: {order of the rows: (gap, interval)}.

    Paired by message and by seed.
    """
    gaps = {}
    for order, special in ORDERS.items():
        ours = {
            r.seed: r.test for r in find("qlora", special, rank=16, alpha=64, learning_rate=1e-3, **WHOLE_LENGTH) if r.test
        }
        other = f"{IN_FULL} {special}".strip() if method == "full" else special
        rate = 2e-4 if method == "full" else 1e-3
        theirs = {r.seed: r.test for r in find(method, other, learning_rate=rate, **WHOLE_LENGTH) if r.test}
        if common := sorted(set(ours) & set(theirs)):
            gaps[order] = seeds_interval(np.stack([right(ours[s], metric) - right(theirs[s], metric) for s in common]))
    return gaps


def seeds_alone() -> dict[str, dict[int, RecipeResult]]:
    """Trainings of the whole recipe that differ by nothing but the seed: {setting in words: {seed: result}}."""
    tried = {}
    for order, special in ORDERS.items():
        qlora: dict[str, Any] = {"special": special, "rank": 16, "alpha": 64, "learning_rate": 1e-3}
        tried[f"QLoRA, {order}"] = find(**qlora, **WHOLE_LENGTH)
        tried[f"QLoRA, {order}, spaces in the JSON"] = find(form="spaced", **qlora, **WHOLE_LENGTH)
        tried[f"all weights, {order}"] = find("full", f"{IN_FULL} {special}".strip(), learning_rate=2e-4, **WHOLE_LENGTH)
    by_seed = {name: {r.seed: r for r in sorted(found, key=lambda r: r.seed)} for name, found in tried.items()}
    return {name: seeds for name, seeds in by_seed.items() if len(seeds) > 1}


def learning_curve(method: str, metric: str) -> list[tuple[int, float, Interval]]:
    """(rows, score, interval) by the number of training rows, every row seen as often as suits their number; the interval
    counts the luck of seeds and messages, and every seed has rows of its own."""
    special = {"full": IN_FULL}.get(method, "")
    points = []
    for rows in ROWS:
        tables = [right(result, metric) for result in find(method, special, rows)]
        if tables:
            points.append((rows, *seeds_interval(np.stack(tables))))
    return points
