"""The evaluation as a page to look at in a browser: one file, plots inside, nothing loaded from elsewhere (lesson 04)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftkit.common.console import clock
from ftkit.common.figures import confusion_figure, figure_of, picture
from ftkit.common.files import write_text
from ftkit.common.templates import render
from ftkit.evaluation.tables import describe_evaluation, in_order
from ftkit.runs.documents import Calibration, Evaluation, show_interval
from ftkit.runs.run import Run
from ftkit.runs.timeline import show_stories, stories

REPORT = "report.html"
GREY, ORANGE = "#78716c", "#c2410c"


def write_report(run: Run, result: Evaluation) -> Path:
    """Write the page of an evaluation into the run's folder, for people to open."""
    path = run.folder / REPORT
    write_text(path, render_report(run, result))
    return path


def render_report(run: Run, result: Evaluation) -> str:
    """The page of a run's evaluation."""
    what = "conversations" if result.kind == "chat" else "messages"
    part = f"the first {result.n} of {result.of}" if result.n < result.of else f"all {result.n}"
    return render(
        "evaluation/templates/report.html",
        title=f"Evaluation: {result.run}",
        note=f"{result.task}, {part} {what} of the {result.split} split, none of them used in training. Every model "
        f"decodes greedily. Model: {run.profile.model}.",
        result=result,
        sentences=describe_evaluation(result),
        order=in_order(result.models),
        clock=clock,
        show_interval=show_interval,
        bars=_draw_bars(result),
        losses=_draw_losses(run),
        timeline=show_stories(stories(run)),
        confusions={
            field: picture(*confusion_figure(confusion.values, confusion.matrix, field))
            for field, confusion in result.confusions.items()
            if len(confusion.values) <= 30
        },
        fields=[f"{name}, %" for name in result.slices[0].fields] if result.slices else [],
        calibration=result.calibration and _draw_calibration(result.calibration),
    )


def _gaps(values: Sequence[float], intervals: Sequence[tuple[float, float] | None]) -> list[list[float]]:
    """How far the intervals reach below and above the values, in points: what matplotlib takes for error bars.

    A value without an interval gets no bar.
    """
    pairs = [(value, interval or (value, value)) for value, interval in zip(values, intervals, strict=True)]
    return [[max(0.0, 100 * (v - low)) for v, (low, _) in pairs], [max(0.0, 100 * (high - v)) for v, (_, high) in pairs]]


def _draw_bars(result: Evaluation) -> str:
    """Every metric by base and tuned, with intervals."""
    metrics = list(result.models["tuned"].scores)
    figure, axes = figure_of(8, 0.8 + 0.42 * len(metrics))
    for offset, name, color in ((-0.18, "base", GREY), (0.18, "tuned", ORANGE)):
        scores = [result.models[name].scores[metric] for metric in metrics]
        values, bars = [score.value for score in scores], {"ecolor": "#1c1917", "lw": 1}
        gaps = _gaps(values, [score.interval for score in scores])
        places = [i + offset for i in range(len(metrics))]
        axes.barh(places, [100 * v for v in values], 0.34, xerr=gaps, color=color, label=name, error_kw=bars)
    axes.set_yticks(range(len(metrics)), metrics)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of messages (F1 in %), bars with 95 % intervals")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    main, shown = "exact match" if "exact match" in metrics else metrics[0], {}
    for name in ("tuned", "base"):
        score = result.models[name].scores[main]
        shown[name] = f"{100 * score.value:.1f} ({show_interval(score.interval, '.0f')})"
    both = f"base {shown['base']} %, tuned {shown['tuned']} %"
    return picture(figure, f"{main[:1].upper()}{main[1:]}: {both}; the other metrics likewise.")


def _draw_losses(run: Run) -> str:
    """The loss of the training, and beside it that on held-out rows where it was measured; nothing without a log."""
    trained, held_out = run.loss_curve(), run.validation_curve()
    if not trained:
        return ""
    figure, axes = figure_of(8, 3)
    axes.plot(*zip(*trained, strict=True), color=GREY, linewidth=1, label="on training rows")
    caption = (
        f"Loss on training rows: {trained[0][1]:.3f} at step {trained[0][0]}, {trained[-1][1]:.3f} at step {trained[-1][0]}"
    )
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=ORANGE, marker="o", label="on held-out rows")
        axes.legend(frameon=False)
        step, lowest = min(held_out, key=lambda pair: pair[1])
        caption += (
            f"; on held-out rows {held_out[-1][1]:.3f} at step {held_out[-1][0]}, the lowest {lowest:.3f} at step {step}"
        )
    axes.set_ylim(bottom=0)
    axes.set(xlabel="step", ylabel="loss")
    return picture(figure, f"{caption}.")


def _draw_calibration(calibration: Calibration) -> str:
    """How certain the model was and how often it was right, by groups of answers."""
    groups, field = calibration.bins, calibration.field
    figure, axes = figure_of(5, 4.4)
    right = [group.right for group in groups]
    gaps = _gaps(right, [group.interval for group in groups])
    bars = {"marker": "o", "linestyle": "none", "color": ORANGE, "capsize": 3}
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", label="certainty that can be believed")
    certain = [100 * group.certainty for group in groups]
    axes.errorbar(certain, [100 * share for share in right], gaps, label="groups of equal size", **bars)
    axes.set(xlim=(0, 101), ylim=(0, 101), xlabel="certainty of the model, %", ylabel=f"{field} right, %")
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    caption = (
        f"Reliability of {field}, n = {calibration.n}: mean certainty {calibration.certainty:.1%}, right "
        f"{calibration.accuracy:.1%}; expected calibration error {100 * calibration.ece:.1f} points over "
        f"{len(groups)} groups. Read it with care: it depends on the number of groups, and chance alone makes it larger "
        "than 0."
    )
    return picture(figure, caption)
