"""The evaluation as a page to look at in a browser: one file, plots inside, nothing loaded from elsewhere (lesson 04)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ftkit.common.console import clock
from ftkit.common.figures import confusion_figure, figure_of, picture
from ftkit.common.files import replacing
from ftkit.common.templates import render
from ftkit.runs.run import Run

ORDER = ("majority", "TF-IDF", "base", "few-shot", "base, constrained", "tuned, constrained", "tuned")
GREY, ORANGE = "#78716c", "#c2410c"


def write_report(run: Run, result: dict[str, Any], sentences: Sequence[str]) -> None:
    """Write `report.html` into the run's folder, for people to open."""
    with replacing(run.folder / "report.html") as temporary:
        temporary.write_text(render_report(run, result, sentences), encoding="utf-8")


def render_report(run: Run, result: dict[str, Any], sentences: Sequence[str]) -> str:
    """The page of a run's evaluation: `result` is what `evaluation.json` holds, `sentences` say it in words."""
    part = f"the first {result['n']} of {result['of']}" if result["n"] < result["of"] else f"all {result['n']}"
    return render(
        "evaluation/templates/report.html",
        title=f"Evaluation: {result['run']}",
        note=f"{result['task']}, {part} messages of the {result['split']} split, none of them used in training. Every model "
        f"decodes greedily. Model: {run.record['profile']['model']}.",
        result=result,
        sentences=sentences,
        order=in_order(result["models"]),
        clock=clock,
        bars=_draw_bars(result),
        confusions={
            field: picture(*confusion_figure(table["values"], table["matrix"], field))
            for field, table in result["confusions"].items()
            if len(table["values"]) <= 30
        },
        fields=[f"{name}, %" for name in result["slices"][0]["fields"]] if result["slices"] else [],
        calibration=result.get("calibration") and _draw_calibration(result["calibration"]),
    )


def in_order(models: Iterable[str]) -> list[str]:
    """The models of an evaluation from the cheapest to the tuned one."""
    return sorted(models, key=ORDER.index)


def _gaps(scores: Sequence[dict[str, Any]], key: str) -> list[list[float]]:
    """How far the intervals reach below and above the values, in points: what matplotlib takes for error bars."""
    below = [max(0.0, 100 * (score[key] - score["interval"][0])) for score in scores]
    return [below, [max(0.0, 100 * (score["interval"][1] - score[key])) for score in scores]]


def _draw_bars(result: dict[str, Any]) -> str:
    """Every metric by base and tuned, with intervals."""
    metrics = list(result["models"]["tuned"]["scores"])
    figure, axes = figure_of(8, 0.8 + 0.42 * len(metrics))
    for offset, name, color in ((-0.18, "base", GREY), (0.18, "tuned", ORANGE)):
        scores = [result["models"][name]["scores"][metric] for metric in metrics]
        values, bars = [100 * score["value"] for score in scores], {"ecolor": "#1c1917", "lw": 1}
        places = [i + offset for i in range(len(metrics))]
        axes.barh(places, values, 0.34, xerr=_gaps(scores, "value"), color=color, label=name, error_kw=bars)
    axes.set_yticks(range(len(metrics)), metrics)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of messages (F1 in %), bars with 95 % intervals")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    exact = {}
    for name in ("tuned", "base"):
        score = result["models"][name]["scores"]["exact match"]
        low, high = score["interval"]
        exact[name] = f"{100 * score['value']:.1f} ({100 * low:.0f} to {100 * high:.0f})"
    return picture(figure, f"Exact match: base {exact['base']} %, tuned {exact['tuned']} %; the other metrics likewise.")


def _draw_calibration(calibration: dict[str, Any]) -> str:
    """How certain the model was and how often it was right, by groups of answers."""
    groups, field = calibration["bins"], calibration["field"]
    figure, axes = figure_of(5, 4.4)
    certain, right = ([100 * group[key] for group in groups] for key in ("certainty", "right"))
    bars = {"marker": "o", "linestyle": "none", "color": ORANGE, "capsize": 3}
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", label="certainty that can be believed")
    axes.errorbar(certain, right, _gaps(groups, "right"), label="groups of equal size", **bars)
    axes.set(xlim=(0, 101), ylim=(0, 101), xlabel="certainty of the model, %", ylabel=f"{field} right, %")
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    caption = (
        f"Reliability of {field}, n = {calibration['n']}: mean certainty {calibration['certainty']:.1%}, right "
        f"{calibration['accuracy']:.1%}; expected calibration error {100 * calibration['ece']:.1f} points over "
        f"{len(groups)} groups. Read it with care: it depends on the number of groups, and chance alone makes it larger "
        "than 0."
    )
    return picture(figure, caption)
