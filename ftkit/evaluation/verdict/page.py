"""The verdict for people: tables for the terminal, and a page with plots (lesson 04)."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.table import Table

from ftkit.common.console import clock
from ftkit.common.figures import figure_of, picture
from ftkit.common.files import write_text
from ftkit.common.templates import render
from ftkit.evaluation.verdict.rule import RULE
from ftkit.runs.documents import Cost, Doubling, Question, Standing, Verdict, show_interval

PAGE = "verdict.html"
GREY, ORANGE = "#78716c", "#c2410c"
COLORS = ("#44403c", "#0f766e", "#1d4ed8", "#be185d", "#a16207", "#a8a29e", "#0891b2", "#7c3aed")
HEADS = ("contender", "score, %", "behind the best", "rows to tell", "2x the labels")
COSTS = ("contender", "training", "ms a message", "memory, MB", "to serve, MB", "threads")
METRICS = {"exact match": "right", "all closed fields": "all of them right", "chrF": "chrF, likeness to the right text"}


def verdict_tables(result: Verdict) -> list[Table]:
    """The verdict for the terminal: a table a question, and one of what each contender costs."""
    tables = []
    for question in result.questions:
        grid = _grid(
            f"{result.task}: {question.name}, {METRICS[question.metric]}; {result.rows_measured}; 95 % intervals", HEADS
        )
        for name in question.standings:
            grid.add_row(*cells(question, name), style="bold" if name == question.advice.choice else "")
        tables.append(grid)
    costs = _grid(f"What each takes, after {result.train_rows:,} training rows; {result.machine.processor}", COSTS)
    for name, cost in result.costs.items():
        costs.add_row(name, *cost_cells(cost))
    return [*tables, costs]


def _grid(title: str, heads: tuple[str, ...]) -> Table:
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)  # in 80 columns
    for i, head in enumerate(heads):
        grid.add_column(head, justify="right" if i else "left", no_wrap=not i)
    return grid


def cells(question: Question, name: str) -> list[str]:
    """A contender's row in a question's table: the columns of `HEADS`."""
    standing, doubling = question.standings[name], question.doublings.get(name)
    interval = show_interval(standing.score.interval, ".0f")
    return [name, f"{100 * standing.score.value:.1f} ({interval})", *_distance(standing), _gain(doubling)]


def _distance(standing: Standing) -> tuple[str, str]:
    """How far the best is ahead, with its interval; and the test rows that it would take to tell, where it is not told."""
    behind = standing.behind
    if behind is None:
        return "the best", ""
    needed = f"{standing.rows_needed:,}" if standing.rows_needed else "> 1 million" if behind.difference else "no gap"
    return (
        f"{100 * behind.difference:.1f} ({show_interval(behind.interval, '.0f')})",
        "told apart" if behind.detected else needed,
    )


def _gain(doubling: Doubling | None) -> str:
    if doubling is None:
        return "not measured"
    low, high = (100 * bound for bound in doubling.interval)
    return f"{100 * doubling.gain:+.1f} ({low:.0f} to {high:.0f})"


def cost_cells(cost: Cost) -> list[str]:
    """What a contender takes: the columns of `COSTS` after the first."""
    training = "none" if not cost.training_seconds else clock(cost.training_seconds)
    training = f"{cost.training_seconds:.1f} s" if 0 < cost.training_seconds < 10 else training
    ms = 1000 * cost.seconds_per_message
    sizes = [f"{size:,.0f}" if size >= 10 or not size else f"{size:.1f}" for size in (cost.memory_mb, cost.disk_mb)]
    return [training, f"{ms:,.0f}" if ms >= 10 else f"{ms:.1f}", *sizes, str(cost.threads or "not kept")]


def write_page(folder: Path, result: Verdict) -> Path:
    """Write the verdict's page into a folder: one file, plots inside, nothing loaded from elsewhere."""
    page = render(
        "evaluation/templates/verdict.html",
        title=f"Verdict: {result.task}",
        note=f"{result.train_rows:,} training rows; every contender answers the same test rows, {result.rows_measured}, and "
        "sees none of them before.",
        result=result,
        rule=RULE,
        heads=HEADS,
        costs=COSTS,
        metrics=METRICS,
        cells=cells,
        cost_cells=cost_cells,
        bars={question.name: _draw_bars(question) for question in result.questions},
        curves={question.name: _draw_curves(question) for question in result.questions if question.curves},
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _draw_bars(question: Question) -> str:
    """Each contender's score with its interval, the advised one in colour."""
    names = list(question.standings)
    figure, axes = figure_of(8, 0.9 + 0.38 * len(names))
    for place, name in enumerate(names):
        score = question.standings[name].score
        low, high = score.interval or (score.value, score.value)
        gaps = [[100 * max(0.0, score.value - low)], [100 * max(0.0, high - score.value)]]
        color = ORANGE if name == question.advice.choice else GREY
        axes.barh(place, 100 * score.value, 0.6, xerr=gaps, color=color, error_kw={"ecolor": "#1c1917", "lw": 1})
        axes.text(min(100 * high + 1, 101), place, f"{100 * score.value:.1f}", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 108), xlabel=f"{question.name}: {METRICS[question.metric]}, %")
    text = "; ".join(f"{name} {100 * own.score.value:.1f} %" for name, own in question.standings.items())
    return picture(figure, f"{text}. Bars with 95 % intervals; in colour the one that the advice is about.")


def _draw_curves(question: Question) -> str:
    """Scores against the number of training rows, on a scale where each doubling is the same step."""
    figure, axes = figure_of(8, 4.2)
    rows = sorted({point.rows for points in question.curves.values() for point in points})
    for i, (name, standing) in enumerate(question.standings.items()):
        points = question.curves.get(name, [])
        x, y = [p.rows for p in points] or [rows[-1]], [100 * p.score for p in points] or [100 * standing.score.value]
        color = ORANGE if name == question.advice.choice else COLORS[i]
        axes.plot(x, y, "-" if points else "", marker="osD^vPXd"[i], label=name, color=color, alpha=0.85)
    axes.set_xscale("log", base=2)
    axes.set_xticks(rows, [f"{n:,}" for n in rows])
    axes.minorticks_off()
    axes.set(ylim=(0, 101), xlabel="training rows", ylabel=f"{METRICS[question.metric]}, %")
    figure.legend(loc="outside right center", frameon=False)
    gains = "; ".join(f"{name} {100 * own.gain:+.1f} points" for name, own in question.doublings.items())
    return picture(
        figure, f"What the last doubling of the training rows gave: {gains}. The next gives about as much, or less."
    )
