"""Writes `BELIEFS.md` and its plots from the saved experiments: no figure in the page is typed by hand."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import markdown_table
from experiments.beliefs import PLAN, RESULTS, Trial
from experiments.laboratory import Line, load_results, read_plan
from experiments.recipe_report import fields_right, results_of
from ftkit.common.errors import KitError
from ftkit.common.files import replacing
from ftkit.common.paths import kit_root
from ftkit.course.beliefs import Point

PAGE = kit_root() / "experiments" / "BELIEFS.md"
SHOWN = ("fields", "intent", "exact match")
SMOOTH = 10  # steps that a point of the loss curve averages


def point_of(line: Line, saved: dict[str, Any]) -> Point | None:
    """The line as the labs read it; None while it has no results."""
    found = results_of(line, saved)
    return Point(line.name, line.about, line.expected, tuple(found)) if found else None


def percent(point: Point, metric: str) -> str:
    """A share in % with its interval."""
    try:
        share, (low, high) = point.share(metric)
    except KitError:  # not scored
        return "–"
    return f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def gap(point: Point, centre: Point | None) -> str:
    """How many points of fields it is above the centre, with its interval."""
    try:
        if centre is None or point.name == centre.name:
            return "–"
        difference, (low, high) = point.against(centre)
    except KitError:
        return "–"
    return f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def group(lines: Sequence[Line], saved: dict[str, Any]) -> str:
    """One belief's table; differences are against its first line."""
    centre = point_of(lines[0], saved)
    rows = []
    for point in filter(None, (point_of(line, saved) for line in lines)):
        first = point.results[0]
        rows.append((
            point.name, point.about, point.expected or "–", str(len(point.results)),
            *(percent(point, metric) for metric in SHOWN), gap(point, centre),
            f"{point.losses()[-1][1]:.3f}" if len(first.get("losses", "").split()) > SMOOTH else "–",
            f"{point.mean('validation_loss'):.3f}" if "validation_loss" in first else "–",
            f"{point.general().sum(axis=1).mean():.1f}" if "general" in first else "–",
        ))  # fmt: skip
    heads = ["point", "what it is", "expected", "seeds", "fields, %", "intent, %", "whole ticket, %",
             f"fields against {lines[0].name}", "loss, last ten steps", "validation loss", "general questions right"]  # fmt: skip
    failed = [e.key for line in lines for e in line.experiments if "failed" in saved["results"].get(e.key, {})]
    said = f"\n\n{len(failed)} failed: `--failed` runs them again." if failed else ""
    return markdown_table(heads, rows) + said if rows else ""


def leaks(lines: Sequence[Line], saved: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The leaked and the fresh half of the validation split, by each model that saw the one and one that saw neither.

    Rows (seed, half, fields by the model with the leak, by the one without), in %: pairs of the same seed and passes.
    """
    found = [r for line in lines for r in results_of(line, saved)]
    untouched = [line for line in lines if line.experiments[0].method == "qlora" and not line.experiments[0].data]
    clean = max(untouched, key=lambda line: line.experiments[0].profile["max_steps"], default=None)
    others = {r["experiment"]["seed"]: r for r in results_of(clean, saved)} if clean else {}
    rows = []
    for result in found:
        mask, other = result.get("data", {}).get("leaked"), others.get(result["experiment"]["seed"])
        if not mask or not other:
            continue
        seen = np.array([digit == "1" for digit in mask])
        for name, half in (("leaked", seen), ("fresh", ~seen)):
            shares = (100 * float(fields_right(r)[half].mean()) for r in (result, other))
            rows.append((str(result["experiment"]["seed"]), name, *(f"{share:.1f}" for share in shares)))
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


def loss_curves(lines: Sequence[Line], saved: dict[str, Any], axis: Any) -> bool:
    """The loss of each trained line, mean over seeds, running mean over `SMOOTH` steps."""
    for line in lines:
        point = point_of(line, saved)
        if point and len(point.results[0].get("losses", "").split()) > SMOOTH:
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


def dose_response(lines: Sequence[Line], saved: dict[str, Any], axis: Any) -> bool:
    """Fields right over the share of rows that are wrong, or left out."""
    drawn = False
    for name, points in doses(lines).items():
        some = [(dose, point_of(line, saved)) for dose, line in points]
        known = [(dose, *point.share()) for dose, point in some if point]
        if known:
            x, y, reach = zip(*known, strict=True)
            below = [100 * (share - low) for share, (low, _) in zip(y, reach, strict=True)]
            above = [100 * (high - share) for share, (_, high) in zip(y, reach, strict=True)]
            axis.errorbar(x, 100 * np.array(y), (below, above), marker="o", capsize=3, label=name)
            drawn = True
    axis.set(xlabel="% of the training rows", ylabel="% of the fields right")
    return drawn


def sizes(lines: Sequence[Line], saved: dict[str, Any], axis: Any) -> bool:
    """Intents right over the number of training rows: fine-tuned, few-shot, TF-IDF; a point a seed."""
    drawn = False
    for method, label, mark in (("qlora", "fine-tuned", "o"), ("few-shot", "few-shot", "s"), ("tfidf", "TF-IDF", "^")):
        some = [line for line in lines if line.experiments[0].method == method and line.experiments[0].judged]
        points = [
            (line.experiments[0].rows, 100 * share)
            for line in some
            if (point := point_of(line, saved))
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


def write(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Write the page, and the plots beside the results. Raises `KitError` if there are no results yet."""
    saved = load_results(results)
    if not saved["results"]:
        raise KitError(f"{results} holds no results yet: run python -m experiments.beliefs first.")
    plan = tomllib.loads(PLAN.read_text(encoding="utf-8"))
    lines = read_plan(PLAN, Trial)
    parts = []
    for name, (alt, paint) in PLOTS.items():
        own = [line for line in lines if line.group == name]
        if not (text := group(own, saved)):
            continue
        parts.append(f"## “{plan[name]['about']}”\n\n{text}")
        picture = results.with_name(f"beliefs-{name}.svg")
        if _draw(picture, (7, 4), lambda axis, paint=paint, own=own: paint(own, saved, axis)):
            parts.append(f"![{alt}](results/{picture.name})")
        if halves := leaks(own, saved):
            heads = ["seed", "half of the validation rows", "fields by the model that saw the leaked half, %",
                     "by one that saw neither, %"]  # fmt: skip
            parts.append(markdown_table(heads, halves))
    dates = sorted({result["date"] for result in saved["results"].values()})
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
