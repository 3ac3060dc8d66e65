"""Writes `BELIEFS.md` and its plots from the saved experiments: no figure in the page is typed by hand."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import markdown_table
from experiments.laboratory import BELIEFS_PLAN, Line, Trial, read_plan
from experiments.recipe_report import fields_by_seed, fields_right, results_of, with_interval
from ftkit.common.errors import KitError
from ftkit.common.files import replacing
from ftkit.course.beliefs import FOLDER, BeliefResults, ExperimentResult, Point

PAGE = Path(__file__).with_name("BELIEFS.md")
Results = dict[str, ExperimentResult]  # by key of the experiment
SHOWN = ("fields", "intent", "exact match")
SMOOTH = 10  # steps that a point of the loss curve averages


def point_of(line: Line, results: Results) -> Point | None:
    """The line as the labs read it; None while it has no results."""
    own = results_of(line, results)
    return Point(line.name, line.about, line.expected, tuple(own)) if own else None


def percent(point: Point, metric: str) -> str:
    """A share in % with its interval."""
    try:
        return with_interval(*point.share(metric))
    except KitError:  # not scored
        return "–"


def gap(point: Point, centre: Point | None) -> str:
    """How many points of fields it is above the centre, with its interval."""
    try:
        return "–" if centre is None or point.name == centre.name else with_interval(*point.against(centre), "+")
    except KitError:
        return "–"


def group(lines: Sequence[Line], results: Results) -> str:
    """One belief's table; differences are against its first line."""
    centre = point_of(lines[0], results)
    rows = []
    for point in filter(None, (point_of(line, results) for line in lines)):
        first = point.results[0]
        rows.append((
            point.name, point.about, point.expected or "–", str(len(point.results)),
            *(percent(point, metric) for metric in SHOWN), gap(point, centre),
            f"{point.losses()[-1][1]:.3f}" if len(first.losses.split()) > SMOOTH else "–",
            f"{point.mean('validation_loss'):.3f}" if first.validation_loss is not None else "–",
            f"{point.general().sum(axis=1).mean():.1f}" if first.general else "–",
        ))  # fmt: skip
    heads = ["point", "what it is", "expected", "seeds", "fields, %", "intent, %", "whole ticket, %",
             f"fields against {lines[0].name}", "loss, last ten steps", "validation loss", "general questions right"]  # fmt: skip
    every = [results[e.key] for line in lines for e in line.experiments if e.key in results]
    failures = sum(result.failed is not None for result in every)
    note = f"\n\n{failures} failed: `--failed` runs them again." if failures else ""
    return markdown_table(heads, rows) + note if rows else ""


def leaks(lines: Sequence[Line], results: Results) -> list[tuple[str, str, str, str]]:
    """The leaked and the fresh half of the validation split, by each model that saw the one and one that saw neither.

    Rows (seed, half, fields by the model with the leak, by the one without), in %: pairs of the same seed and passes.
    """
    untouched = [line for line in lines if line.experiments[0].method == "qlora" and not line.experiments[0].data]
    clean = max(untouched, key=lambda line: line.experiments[0].profile["max_steps"], default=None)
    others = fields_by_seed(results_of(clean, results)) if clean else {}
    rows = []
    for result in (result for line in lines for result in results_of(line, results)):
        if not (result.data and result.data.leaked and result.seed in others):
            continue
        seen = np.array([digit == "1" for digit in result.data.leaked])
        for name, half in (("leaked", seen), ("fresh", ~seen)):
            shares = (100 * float(fields[half].mean()) for fields in (fields_right(result), others[result.seed]))
            rows.append((str(result.seed), name, *(f"{share:.1f}" for share in shares)))
    return rows


# --- plots ---


def _draw(target: Path, size: tuple[float, float], paint: Callable[[Any], bool]) -> bool:
    """Let `paint` fill one pair of axes; the file is only written if it drew something."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ftkit"
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=size)
    drawn = paint(axis)
    if drawn:
        axis.grid(alpha=0.3)
        axis.legend()
        figure.tight_layout()
        with replacing(target) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return drawn


def loss_curves(lines: Sequence[Line], results: Results, axis: Any) -> bool:
    """The loss of each trained line, mean over seeds, running mean over `SMOOTH` steps."""
    for line in lines:
        point = point_of(line, results)
        if point and len(point.results[0].losses.split()) > SMOOTH:
            axis.plot(*zip(*point.losses(SMOOTH), strict=True), label=line.name)
    axis.set(xlabel="step of two rows", ylabel="loss on the answer's tokens", yscale="log")
    return bool(axis.lines)


def doses(lines: Sequence[Line]) -> dict[str, list[tuple[float, Line]]]:
    """{curve: [(% of the rows, line)]}: rows with wrong labels, and rows left out (as many passes over the rest)."""
    steps = lines[0].experiments[0].profile["max_steps"]
    curves: dict[str, list[tuple[float, Line]]] = {"wrong labels": [(0, lines[0])], "left out": [(0, lines[0])]}
    for line in lines[1:]:
        data = line.experiments[0].data
        if "wrong" in data:
            curves["wrong labels"].append((100 * data["wrong"], line))
        if "keep" in data and line.experiments[0].profile["max_steps"] < steps:
            curves["left out"].append((100 * (1 - data["keep"]), line))
    return curves


def dose_response(lines: Sequence[Line], results: Results, axis: Any) -> bool:
    """Fields right over the share of rows that are wrong, or left out."""
    drawn = False
    for name, points in doses(lines).items():
        some = [(dose, point_of(line, results)) for dose, line in points]
        known = [(dose, *point.share()) for dose, point in some if point]
        if known:
            x, y, reach = zip(*known, strict=True)
            below = [100 * (share - low) for share, (low, _) in zip(y, reach, strict=True)]
            above = [100 * (high - share) for share, (_, high) in zip(y, reach, strict=True)]
            axis.errorbar(x, 100 * np.array(y), (below, above), marker="o", capsize=3, label=name)
            drawn = True
    axis.set(xlabel="% of the training rows", ylabel="% of the fields right")
    return drawn


def sizes(lines: Sequence[Line], results: Results, axis: Any) -> bool:
    """Intents right over the number of training rows: fine-tuned, few-shot, TF-IDF; a point a seed."""
    drawn = False
    for method, label, mark in (("qlora", "fine-tuned", "o"), ("few-shot", "few-shot", "s"), ("tfidf", "TF-IDF", "^")):
        some = [line for line in lines if line.experiments[0].method == method and line.experiments[0].judged]
        points = [
            (line.experiments[0].rows, 100 * share)
            for line in some
            if (point := point_of(line, results))
            for share in point.scores("intent").mean(axis=1)
        ]
        if points:
            axis.plot(*zip(*points, strict=True), mark, fillstyle="none", label=label)
            drawn = True
    axis.set(xscale="log", xlabel="training rows", ylabel="% of the intents right")
    ticks = sorted({line.experiments[0].rows for line in lines})
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.minorticks_off()
    return drawn


PLOTS = {
    "scratch": ("The loss at every step, pre-trained and random weights", loss_curves),
    "data": ("Fields right over the share of wrong or missing rows", dose_response),
    "better": ("Intents right over the number of training rows", sizes),
}


def write(page: Path = PAGE, folder: Path = FOLDER) -> None:
    """Write the page, and the plots beside the results. Raises `KitError` if there are no results yet."""
    results = BeliefResults.load(folder).results if BeliefResults.exists(folder) else {}
    if not results:
        raise KitError(f"{BeliefResults.path(folder)} holds no results yet: run python -m experiments.beliefs first.")
    plan = tomllib.loads(BELIEFS_PLAN.read_text(encoding="utf-8"))
    lines = read_plan(BELIEFS_PLAN, Trial)
    parts = []
    for name, (alt, paint) in PLOTS.items():
        own = [line for line in lines if line.group == name]
        if not (text := group(own, results)):
            continue
        parts.append(f"## “{plan[name]['about']}”\n\n{text}")
        picture = folder / f"beliefs-{name}.svg"
        if _draw(picture, (7, 4), lambda axis, paint=paint, own=own: paint(own, results, axis)):
            parts.append(f"![{alt}](results/{picture.name})")
        if halves := leaks(own, results):
            heads = ["seed", "half of the validation rows", "fields by the model that saw the leaked half, %",
                     "by one that saw neither, %"]  # fmt: skip
            parts.append(markdown_table(heads, halves))
    dates = sorted({result.date for result in results.values()})
    head = (
        "# Three beliefs, put to the test\n\n"
        "Written by `python -m experiments.beliefs --report` from `experiments/results/beliefs.json`; the plan, with what was\n"
        "expected before, is `experiments/beliefs.toml`. Every experiment is scored on the desk's validation split (156\n"
        "messages), never on the test split. *Fields* is the share of all fields that are right; in brackets 95 %\n"
        "intervals that count both chances, which messages are asked and which seed trained; differences are paired by both.\n\n"
        f"*{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, two cores without a GPU.*"
    )
    with replacing(page) as temporary:
        temporary.write_text("\n\n".join([head, *parts]) + "\n", encoding="utf-8")
