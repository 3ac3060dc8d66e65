"""Writes `BELIEFS.md` and its plots from the saved experiments: no figure in the page is typed by hand."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ftkit.base import KitError, kit_root, replacing

from .beliefs import PLAN, RESULTS, Trial
from .experiments import Line, load_results, read_plan
from .recipe_report import FIELDS, difference, fields_right, mean, results_of, share_and_half
from .report import table

PAGE = kit_root() / "BELIEFS.md"
SHOWN = ("fields", "intent", "exact match")
SMOOTH = 10  # steps that a point of the loss curve averages


def right(results: Sequence[dict[str, Any]], metric: str) -> np.ndarray | None:
    """Scores [seeds, messages] in a metric, `fields` being the share of the six fields; None where it was not scored."""
    if not results or any(
        name not in r.get("rows", {}) for r in results for name in (FIELDS if metric == "fields" else [metric])
    ):
        return None
    if metric == "fields":
        return np.array([fields_right(result) for result in results])
    return np.array([[int(digit) for digit in result["rows"][metric]] for result in results], dtype=float)


def percent(results: Sequence[dict[str, Any]], metric: str) -> str:
    """A share in % with half of its interval."""
    scores = right(results, metric)
    if scores is None:
        return "–"
    share, half = share_and_half(scores)
    return f"{100 * share:.1f} ± {100 * half:.1f}"


def group(lines: Sequence[Line], saved: dict[str, Any]) -> str:
    """One belief's table; differences are against its first line."""
    centre = results_of(lines[0], saved)
    rows = []
    for line in lines:
        found = results_of(line, saved)
        if not found:
            continue
        scored = line is not lines[0] and centre and right(found, "fields") is not None
        gap = difference(found, centre) if scored else None
        general = [r["general"]["right"].count("1") for r in found if "general" in r]
        rows.append((
            line.name, line.about, line.expected or "–", str(len(found)), *(percent(found, metric) for metric in SHOWN),
            f"{gap[0]:+.1f} ({gap[1]:+.1f} to {gap[2]:+.1f})" if gap else "–",
            f"{mean(found, 'loss'):.3f}" if "loss" in found[0] else "–",
            f"{mean(found, 'validation_loss'):.3f}" if "validation_loss" in found[0] else "–",
            f"{np.mean(general):.1f}" if general else "–",
        ))  # fmt: skip
    heads = ["point", "what it is", "expected", "seeds", "fields, %", "intent, %", "whole ticket, %",
             f"fields against {lines[0].name}", "last loss", "validation loss", "general questions right"]  # fmt: skip
    failed = [e.key for line in lines for e in line.experiments if "failed" in saved["results"].get(e.key, {})]
    said = f"\n\n{len(failed)} failed: `--failed` runs them again." if failed else ""
    return table(heads, rows) + said if rows else ""


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


def losses(results: Sequence[dict[str, Any]]) -> np.ndarray:
    """The loss at every step: [seeds, steps]."""
    return np.array([[float(loss) for loss in result["losses"].split()] for result in results])


def loss_curves(lines: Sequence[Line], saved: dict[str, Any], axis: Any) -> bool:
    """The loss of each trained line, mean over seeds, running mean over `SMOOTH` steps."""
    for line in lines:
        found = [r for r in results_of(line, saved) if "losses" in r]
        if found and len(found[0]["losses"].split()) > SMOOTH:
            curve = np.convolve(losses(found).mean(axis=0), np.ones(SMOOTH) / SMOOTH, mode="valid")
            axis.plot(np.arange(SMOOTH, SMOOTH + len(curve)), curve, label=line.name)
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
        some = [(dose, right(results_of(line, saved), "fields")) for dose, line in points]
        known = [(dose, *share_and_half(scores)) for dose, scores in some if scores is not None]
        if known:
            x, y, half = map(np.array, zip(*known, strict=True))
            axis.errorbar(x, 100 * y, 100 * half, marker="o", capsize=3, label=name)
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
            if (scores := right(results_of(line, saved), "intent")) is not None
            for share in scores.mean(axis=1)
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
        raise KitError(f"{results} holds no results yet: run python -m tests.benchmarks.beliefs first.")
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
            parts.append(f"![{alt}](data/experiments/{picture.name})")
        if halves := leaks(own, saved):
            heads = ["seed", "half of the validation rows", "fields by the model that saw the leaked half, %",
                     "by one that saw neither, %"]  # fmt: skip
            parts.append(table(heads, halves))
    dates = sorted({result["date"] for result in saved["results"].values()})
    head = (
        "# Three beliefs, put to the test\n\n"
        "Written by `python -m tests.benchmarks.beliefs --report` from `data/experiments/beliefs.json`; the plan, with what was\n"
        "expected before, is `tests/benchmarks/beliefs.toml`. Every experiment is scored on the desk's validation split (156\n"
        "messages), never on the test split. *Fields* is the share of all fields that are right; ± is half of a 95 % interval that\n"
        "counts both chances, which messages are asked and which seed trained; differences are paired by message and seed.\n\n"
        f"*{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, two cores without a GPU.*"
    )
    with replacing(page) as temporary:
        temporary.write_text("\n\n".join([head, *parts]) + "\n", encoding="utf-8")
