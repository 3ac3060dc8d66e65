"""Writes `SCHEDULE.md` and its plot from the saved experiments: no figure in the page is typed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import markdown_table
from experiments.documents import RecipeResults, ScheduleResult, ScheduleResults
from experiments.laboratory import RECIPE_PLAN, SCHEDULE_PLAN, Line, read_plan, read_taught
from experiments.recipe_report import FIELDS, mean_percent, results_of, with_interval
from ftkit.common.console import clock
from ftkit.common.files import replacing
from ftkit.common.machine import Hardware
from ftkit.common.profiles import read_profiles
from ftkit.course.beliefs import FOLDER, Scores
from ftkit.evaluation.intervals import Interval, seeds_interval
from ftkit.training.plan import model_shape
from ftkit.training.schedule import follow_data, steps_of

PAGE = Path(__file__).with_name("SCHEDULE.md")
PLOT = "schedule.svg"
SIZES = (15, 50, 150, 400, 600, 1460, 10_000, 50_000)  # rows of the rule's table
HEAD = """# Epochs, batch and rate that follow the rows

Written by `python -m experiments.schedule --report` from `experiments/results/schedule.json`; the plan, with what was
expected before, is `experiments/schedule.toml`. The fixed recipe is that of the `cpu` profile: 2 epochs, 2 rows a step,
learning rate 1e-3. The score is the share of right fields for the desk and of right answers for the other tasks, on the
validation split. A difference is paired, of the same rows asked and the same seeds, with a 95 % interval; where that holds zero,
nothing was detected. With one seed it counts the luck of the rows asked alone, not that of the training: it is then too narrow.
*Seconds* are those of the training, with one thread on a machine that did other work too, without the looks at the loss."""


def right(result: Scores) -> np.ndarray:
    """How right each validation row was, from 0 to 1: shape [rows]. Fields of a ticket, or the whole answer."""
    names = FIELDS if set(FIELDS) <= set(result.rows) else ("exact match",)
    return np.mean([[int(digit) for digit in result.rows[name]] for name in names], axis=0)


@dataclass(frozen=True)
class Gain:
    """What a line gained over the fixed recipe, on the seeds that both have."""

    group: str
    name: str
    value: float
    interval: Interval
    seeds: int


def gains(lines: list[Line], results: Mapping[str, ScheduleResult]) -> Iterator[Gain]:
    """The gains of a group's lines over its centre, the first line."""
    fixed = {result.seed: right(result) for result in results_of(lines[0], results)}
    for line in lines[1:]:
        own = {result.seed: right(result) for result in results_of(line, results)}
        seeds = sorted(set(own) & set(fixed))
        if seeds:
            yield Gain(line.group, line.name, *seeds_interval([own[seed] - fixed[seed] for seed in seeds]), len(seeds))


def group(about: str, lines: list[Line], results: Mapping[str, ScheduleResult]) -> str:
    """One group's table; empty if nothing of it has run."""
    by_name = {gain.name: gain for gain in gains(lines, results)}
    rows = []
    for line in lines:
        own = results_of(line, results)
        if not own:
            continue
        gain = by_name.get(line.name)
        seconds = np.mean([(r.seconds or 0) - (getattr(r, "watched_seconds", 0) or 0) for r in own])
        looks = [[look.validation_loss for look in getattr(r, "seen", ())] for r in own]
        seen = [each[-min(map(len, looks)) :] for each in looks] if all(looks) else [[]]
        rows.append((
            "fixed" if line is lines[0] else line.name, line.expected or "–", str(len(own)), f"{own[0].steps:,}",
            f"{np.mean([r.tokens for r in own]):,.0f}", mean_percent(right(r).mean() for r in own),
            with_interval(gain.value, gain.interval, "+") + _of_seeds(gain, len(own)) if gain else "–",
            " → ".join(f"{loss:.3f}" for loss in np.mean(seen, axis=0)) or "–",
            f"{np.mean([r.loss for r in own]):.3f}", clock(float(seconds)),
        ))  # fmt: skip
    heads = ["recipe", "expected", "seeds", "steps", "tokens seen", "score, %", "against fixed, points",
             "validation loss on the way", "training loss", "seconds"]  # fmt: skip
    failed = {r.failed for line in lines for e in line.experiments if (r := results.get(e.key)) and r.failed}
    note = f"\n\nCould not be run: {'; '.join(sorted(failed))}" if failed else ""
    return f"## {about}\n\n{markdown_table(heads, rows)}{note}" if rows or failed else ""


def _of_seeds(gain: Gain, seeds: int) -> str:
    return f", {gain.seeds} seed{'s'[: gain.seeds > 1]} so far" if gain.seeds < max(seeds, 3) else ""


def earlier(lines: list[Line], results: Mapping[str, ScheduleResult]) -> str:
    """Where the validation loss was lowest before the end: the adapter of that moment beside the last one."""
    rows, trained = [], 0
    for line in lines:
        for result in results_of(line, results):
            trained += len(result.seen) > 1 and result.experiment["profile"].get("epochs", 0) > 0
            if result.earlier:
                gap = seeds_interval([right(result.earlier) - right(result)])
                rows.append((
                    f"{line.group}, {line.name}", str(result.seed), f"{result.earlier.step} of {result.steps}",
                    mean_percent(right(result)), mean_percent(right(result.earlier)), with_interval(*gap, "+"),
                ))  # fmt: skip
    heads = ["training", "seed", "step of the lowest loss", "score at the end, %", "score there, %", "difference, points"]
    text = (
        "## The adapter of the lowest validation loss\n\n"
        "Trainings of more epochs are looked at four times. Where the validation loss was lowest before the end, both adapters "
        f"were scored: {len(rows)} of {trained} trainings."
    )
    return "\n\n".join([text, *([markdown_table(heads, rows)] if rows else [])]) if trained else ""


def rule() -> str:
    """What `schedule.follow_data` chooses for desk-sized rows on a CPU."""
    profile, cpu = read_profiles()["cpu"], Hardware("cpu", "two cores", 8.0)
    shape, rows = model_shape(profile.model), []
    for n in SIZES:
        schedule = follow_data(profile, [90] * n, None, shape, cpu)
        chosen = schedule.profile
        rows.append((
            f"{n:,}", f"{chosen.epochs:g}", str(chosen.examples_per_step), f"{steps_of(chosen, n):,}",
            f"{chosen.learning_rate:g}", clock(schedule.seconds), f"{steps_of(profile, n):,}",
        ))  # fmt: skip
    heads = [
        "rows of 90 tokens",
        "epochs",
        "a step",
        "steps",
        "rate",
        "time on two quiet cores",
        "steps of the fixed recipe",
    ]
    return f"## What the rule chooses\n\n{markdown_table(heads, rows)}"


def plot(all_gains: list[Gain], target: Path) -> None:
    """Draw every line's gain over the fixed recipe with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ftkit"
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 1.1 + 0.32 * len(all_gains)))
    for place, gain in enumerate(reversed(all_gains)):
        low, high = gain.interval
        reach = [[100 * (gain.value - low)], [100 * (high - gain.value)]]
        axis.errorbar(100 * gain.value, place, xerr=reach, marker="o", capsize=3, color="#1d4ed8")
    names = [f"{gain.group}: {gain.name} ({gain.seeds} seed{'s'[: gain.seeds > 1]})" for gain in reversed(all_gains)]
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(-0.7, len(names) - 0.3)
    axis.axvline(0, color="#57534e", linewidth=1)
    axis.set_xlabel("points gained over the fixed recipe, 95 % interval")
    axis.grid(alpha=0.3)
    figure.tight_layout()
    with replacing(target) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def write(page: Path = PAGE, folder: Path = FOLDER) -> None:
    """Write the page, and the plot where there is something to compare."""
    if not ScheduleResults.exists(folder):
        return
    results = ScheduleResults.load(folder).results
    plan, taught = read_taught(SCHEDULE_PLAN)
    lines = read_plan(SCHEDULE_PLAN)
    groups = {name: [line for line in lines if line.group == name] for name in plan}
    for name, about in plan.items():
        groups[name] += _from_the_recipe(about["beside"], groups[name][0]) if "beside" in about else []
    everything: dict[str, Any] = {**RecipeResults.load(FOLDER).results, **results}
    all_gains = [gain for own in groups.values() for gain in gains(own, everything)]
    parts = [HEAD, f"*{_dates(results)}, two cores without a GPU; {len(results)} experiments.*"]
    parts += [f"## What the search taught\n\n{taught}"] if taught else []
    parts.append(rule())
    if all_gains:
        plot(all_gains, folder / PLOT)
        parts.append(f"## What each recipe gained\n\n![Points gained over the fixed recipe](results/{PLOT})")
    parts += [group(plan[name]["about"], own, everything) for name, own in groups.items()]
    parts.append(earlier(lines, results))
    with replacing(page) as temporary:
        temporary.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _from_the_recipe(named: str, centre: Line) -> list[Line]:
    """The lines of the recipe's plan that were trained by QLoRA on the very rows of a group's centre, with more steps."""
    rows = centre.experiments[0].rows
    same = [
        line
        for line in read_plan(RECIPE_PLAN)
        if line.group == named and line.experiments[0].method == "qlora" and line.experiments[0].rows == rows
    ]
    return [
        replace(line, group=centre.group, name=f"{line.experiments[0].profile['max_steps']} steps (RECIPE.md)")
        for line in same
    ]


def _dates(results: Mapping[str, ScheduleResult]) -> str:
    dates = sorted({result.date for result in results.values()})
    return " to ".join(dict.fromkeys((dates[0], dates[-1])))
