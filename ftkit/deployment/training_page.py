"""The demo's Training tab: how a training stands, its loss, and its answers to a few messages over time (lesson 05)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ftkit.common.console import clock
from ftkit.common.errors import KitError
from ftkit.data.prompt import parse_answer
from ftkit.data.task import Task
from ftkit.deployment.beside import Beside
from ftkit.deployment.demo_page import answer_card, render_html
from ftkit.evaluation.answer import TUNED
from ftkit.evaluation.metrics import same
from ftkit.evaluation.stream import Answer
from ftkit.runs.documents import Glimpse, Live, LogEntry
from ftkit.runs.run import Run

Look = tuple[int, list[Glimpse]]  # a step, and the answers after it
POINTS = 300  # of a curve that are drawn
LOWEST = 1e-4  # a loss below it is drawn as if it were so much


@dataclass
class Standing:
    """How a training stands, as its files and what runs beside the page tell it.

    `phase` is that of `Beside`, or "done" for a run that was trained before. `answered` and `messages` count the
    evaluation's answers. `fault` says what could not be read.
    """

    phase: str = "done"
    why: str = ""
    run: Run | None = None
    entries: list[LogEntry] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    live: Live | None = None
    answered: int = 0
    messages: int = 0
    fault: str = ""

    @classmethod
    def of(cls, run: Run | None, beside: Beside | None = None) -> Standing:
        """How the run of `beside` stands, or without one a finished `run`."""
        standing = cls(run=beside.run if beside else run)
        if beside:
            standing.phase, standing.why = beside.phase, beside.why
            if beside.phase in ("measuring", "stopped"):
                standing.answered, standing.messages = beside.answered, beside.messages
        if standing.run:
            standing._read(standing.run)
        return standing

    def _read(self, run: Run) -> None:
        try:
            self.entries = run.log()
            glimpses = sorted(run.glimpses(), key=lambda one: one.step)
            self.looks = [(step, list(some)) for step, some in groupby(glimpses, key=lambda one: one.step)]
            if self.phase in ("training", "elsewhere") and Live.exists(run.folder):
                self.live = Live.load(run.folder)
        except KitError as error:
            self.fault = str(error)

    @property
    def version(self) -> tuple[Any, ...]:
        """What has changed when the page is to be drawn again."""
        last = self.entries[-1].step if self.entries else 0
        return self.phase, self.why, last, len(self.looks), self.live and self.live.phase, self.answered, self.fault

    @property
    def steps(self) -> int | None:
        """The steps of the whole training; None where it is not told."""
        if self.live:
            return self.live.steps
        training = self.run.record.training if self.run and self.phase not in ("training", "elsewhere") else None
        return training.steps if training else None


# --- the tab ---


def render_standing(standing: Standing) -> str:
    """How far it is, its figures and its loss, as HTML; free of anything that moves while nothing changes."""
    done, of = _progress(standing)
    return render_html(
        "training",
        title=describe_phase(standing),
        share=f"{done / of:.1%}" if of and standing.phase != "done" else "",
        figures=_figures(standing),
        plot=_plot(standing.entries, standing.steps),
        fault=standing.fault,
    )


def describe_phase(standing: Standing) -> str:
    """The phase as a sentence."""
    done, of = _progress(standing)
    if standing.phase in ("training", "elsewhere") and standing.entries:
        far = f"step {done} of {of}" if of else f"step {standing.entries[-1].step}"
        looks = standing.live and standing.live.phase == "evaluating"
        return f"Your model is learning: {far}." + (" It is looking at its answers now." if looks else "")
    if standing.phase == "measuring":
        return f"Your model is trained. It is being measured: {done} of {of} answers."
    return {
        "begin": "Your training begins: the model is loaded.",
        "training": "Your training begins: the model is loaded.",
        "elsewhere": "Your model is being trained by another process, which begins.",
        "stopped": f"It has stopped. {standing.why} What was learned so far is kept.",
        "done": "The training is finished.",
    }[standing.phase]


def announce(standing: Standing) -> str:
    """What a screen reader is told: the phase, and of the steps only each quarter, so that it is not always speaking."""
    done, of = _progress(standing)
    if standing.phase in ("training", "elsewhere") and standing.entries:
        quarter = 4 * done // of if of else 0
        return f"Your model is learning: {25 * quarter} per cent done." if quarter else "Your model is learning."
    return "Your model is trained. It is being measured." if standing.phase == "measuring" else describe_phase(standing)


def _progress(standing: Standing) -> tuple[int, int]:
    """What is done, of how much: steps, or answers of the evaluation; of 0 where it is not known."""
    if standing.phase == "measuring":
        return min(standing.answered, standing.messages), standing.messages
    last = standing.entries[-1].step if standing.entries else 0
    return last, standing.steps or 0


def _figures(standing: Standing) -> list[tuple[str, str, str]]:
    """What stands in the tiles: name, value, and a remark."""
    entries, live = standing.entries, standing.live
    if not entries:
        return []
    last = entries[-1]
    figures = [("Loss", f"{last.loss:.3f}", f"{entries[0].loss:.2f} at step {entries[0].step}")]
    checked = [entry.validation_loss for entry in entries if entry.validation_loss is not None]
    if checked:
        figures.append(("Validation loss", f"{checked[-1]:.3f}", "on messages not trained on"))
    rate = (live and live.tokens_per_second) or (last.tokens / last.seconds if last.seconds else 0)
    figures.append(("Speed", f"{rate:,.0f}", "tokens a second"))
    if live and live.seconds_left is not None:
        figures.append(("Time left", clock(live.seconds_left), ""))
    else:
        ended = standing.phase in ("done", "measuring")
        figures.append(("Time", clock(last.seconds), "" if ended else "at work so far"))
    training = standing.run.record.training if standing.run and not live else None
    if live:
        figures.append(("Memory", f"{live.memory_mb / 1000:.1f} GB", f"at most {live.planned_mb / 1000:.1f} GB planned"))
    elif training:
        peak, planned = training.peak_memory_mb / 1000, training.planned_memory_mb / 1000
        figures.append(("Memory", f"{peak:.1f} GB", f"at most; {planned:.1f} GB planned"))
    threads = live.threads if live else last.threads
    return [*figures, *([("Threads", str(threads), "")] if threads else [])]


# --- the loss ---


def _plot(entries: Sequence[LogEntry], steps: int | None = None) -> dict[str, Any] | None:
    """The loss as two lines in a box of 100 by 100, the marks of its axes in per cent; None with fewer than two points.

    The box is as wide as all `steps` of the training, where they are known. Its height is a logarithmic scale: the loss
    falls steeply at first, and what comes later is told apart only so.
    """
    every = max(1, -(-len(entries) // POINTS))
    trained = [(entry.step, entry.loss) for entry in entries[::-1][::every][::-1] if math.isfinite(entry.loss)]
    checked = [(entry.step, entry.validation_loss) for entry in entries if entry.validation_loss is not None]
    checked = [(step, loss) for step, loss in checked if math.isfinite(loss)]
    if len(trained) < 2:
        return None
    from matplotlib.ticker import MaxNLocator

    right = max(steps or 0, entries[-1].step)
    across = [n for n in MaxNLocator(5, integer=True).tick_values(0, right) if n <= right]
    upward = _marks([loss for _, loss in [*trained, *checked]])
    low, high = math.log(upward[0]), math.log(upward[-1])

    def up(loss: float) -> str:
        return f"{100 * (high - math.log(max(loss, upward[0]))) / (high - low):.2f}"

    def points(line: Sequence[tuple[int, float]]) -> list[tuple[str, str]]:
        return [(f"{100 * step / right:.2f}", up(loss)) for step, loss in line]

    def words(name: str, line: Sequence[tuple[int, float]]) -> str:
        (first, began), (last, ended) = line[0], line[-1]
        return f"{name}: {began:.2f} at step {first}, {ended:.2f} at step {last}."

    return {
        "words": " ".join([words("Training loss", trained), *([words("Validation loss", checked)] if checked else [])]),
        "trained": " ".join(map(",".join, points(trained))),
        "checked": " ".join(map(",".join, points(checked))),
        "marks": points(checked),
        "x": [(f"{100 * n / right:.2f}", f"{n:,.0f}") for n in across],
        "y": [(up(n), f"{n:g}") for n in upward],
    }


def _marks(values: Sequence[float]) -> list[float]:
    """Round numbers for a logarithmic axis, from below the lowest of `values` to above the highest; at least two."""
    low, high = max(min(values), LOWEST), max(*values, 2 * LOWEST)
    several = [digit * 10.0**power for power in range(-5, 4) for digit in (1, 2, 5)]
    first = max(i for i, n in enumerate(several) if n <= low)
    last = min((i for i, n in enumerate(several) if n >= high), default=len(several) - 1)
    marks = several[first : max(last, first + 1) + 1]
    return marks if len(marks) <= 10 else [n for n in marks if n in (marks[0], marks[-1]) or f"{n:.0e}"[0] == "1"]


# --- watch it learn ---


def render_look(task: Task, looks: Sequence[Look], place: int) -> str:
    """The answers at one checkpoint as HTML: each message with its card, and what differs from the right answer marked."""
    step, glimpses = looks[place]
    untold = ", without a word about the fields" if task.kind == "json" else ""
    return render_html(
        "look",
        title="Before the first step" if step == 0 else f"After step {step:,}",
        about=("the base, untouched; asked as the fine-tuned model is" + untold) if step == 0 else "",
        right=describe_look(task, looks, place),
        rows=[
            {
                "message": one.message,
                "card": answer_card(task, Answer(TUNED, one.answer, finished=True), parse_answer(task, one.target)),
                "written": one.answer,
                "right": _is_right(task, one),
            }
            for one in glimpses
        ],
    )


def describe_look(task: Task, looks: Sequence[Look], place: int) -> str:
    """How many answers of a checkpoint are right, in words; in a conversation no single answer is."""
    glimpses = looks[place][1]
    if task.kind == "chat":
        return f"{len(glimpses)} answer(s)"
    return f"{sum(_is_right(task, one) for one in glimpses)} of {len(glimpses)} right"


def _is_right(task: Task, one: Glimpse) -> bool:
    value = parse_answer(task, one.answer)
    return value is not None and same(value, parse_answer(task, one.target))
