"""Pictures of the course: drawn by code, each with a text that says the same."""

from __future__ import annotations

import html
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ftkit.common.figures import confusion_figure, figure_of, png_of, svg_of
from ftkit.runs.timeline import show_stories, stories

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ftkit.runs.run import Run


STAGES = (
    ("Pre-trained model", "general skill", "a chef who knows many recipes", "01"),
    ("Training data", "examples of the task", "the ingredients", "02"),
    ("Fine-tuning", "4-bit QLoRA", "adapting the recipe to this restaurant", "03"),
    ("Evaluation", "held-out examples", "tasting before it is served", "04"),
    ("Deployment", "a demo to share", "serving the dish", "05"),
)


@dataclass(frozen=True, repr=False)
class Picture:
    """An SVG picture, the same as PNG, and its text alternative: Jupyter shows one of the first, `print` the last.

    Of an untrusted notebook JupyterLab shows no SVG, but the PNG; `size` is the width and height to show that in.
    """

    svg: str
    text: str
    png: bytes
    size: Mapping[str, int]

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return self.png, dict(self.size)

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True, repr=False)
class Marked:
    """Marked text as HTML, with its text alternative; Jupyter shows the one, `print` the other."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def road_map(stages: tuple[tuple[str, str, str, str], ...] = STAGES) -> Picture:
    """The way from a pre-trained model to a demo: a box a stage, the chef's side of it below (lesson 00)."""
    from matplotlib.patches import FancyBboxPatch

    text = " → ".join(f"{name} ({lesson}: {what}; the chef: {chef})" for name, what, chef, lesson in stages)
    figure, axes = figure_of(1.75 * len(stages), 1.75)
    axes.set(xlim=(-0.05, len(stages) - 0.1), ylim=(-0.7, 1.05))
    axes.axis("off")
    box: dict[str, Any] = {
        "boxstyle": "round,pad=0,rounding_size=0.06",
        "facecolor": "#fff4e6",
        "edgecolor": ORANGE,
        "linewidth": 1.5,
    }
    for i, (name, what, chef, lesson) in enumerate(stages):
        middle = i + 0.425
        axes.add_patch(FancyBboxPatch((i, 0), 0.85, 1, mutation_aspect=2, **box))
        axes.text(middle, 0.78, lesson, ha="center", va="center", color="#9a3412", fontsize=8.5)
        axes.text(middle, 0.48, name, ha="center", va="center", color=INK, fontsize=9.2, weight="bold")
        axes.text(middle, 0.2, what, ha="center", va="center", color="#44403c", fontsize=8.5)
        below = "\n".join(textwrap.wrap(chef, 20))
        axes.text(middle, -0.15, below, ha="center", va="top", color="#57534e", fontsize=8.5, style="italic")
        if i:
            axes.annotate("", (i, 0.5), (i - 0.15, 0.5), arrowprops={"arrowstyle": "-|>", "color": "#57534e"})
    return _drawn(figure, text)


# --- lessons 01 and 02 ---

ORANGE, BLUE, INK = "#c2410c", "#1d4ed8", "#1c1917"


def token_view(pieces: Sequence[str]) -> Marked:
    """A text cut into its tokens, each in a frame (lesson 01). `pieces` are the tokens' texts in order."""
    frame = "border:1px solid #a8a29e;border-radius:3px;padding:0 2px;margin:1px;display:inline-block;white-space:pre"
    spans = "".join(f'<span style="{frame}">{html.escape(_visible(piece))}</span>' for piece in pieces)
    text = f"{len(pieces)} tokens: {' | '.join(map(_visible, pieces))}"
    return Marked(_box(spans, f"{len(pieces)} tokens; · is a space, ⏎ a line end"), text)


def loss_view(pieces: Sequence[str], labels: Sequence[int]) -> Marked:
    """Which tokens of a training example carry loss (lesson 02): those in bold on orange; the others are grey.

    `pieces` and `labels` have one entry a token; the label -100 means that the loss leaves the token out. In a conversation
    loss falls in several places, on each answer of the assistant.
    """
    grey = "color:#57534e;white-space:pre-wrap"
    bold = "background:#ffedd5;color:#7c2d12;font-weight:bold;border-bottom:2px solid #c2410c;white-space:pre-wrap"
    spans: list[str] = []
    parts: list[tuple[bool, list[str]]] = []
    for piece, label in zip(pieces, labels, strict=True):
        carries = label != -100
        text = html.escape(piece).replace("\n", "⏎<br>")
        spans.append(f'<span style="{bold if carries else grey}">{text}</span>')
        if not parts or parts[-1][0] != carries:
            parts.append((carries, []))
        parts[-1][1].append(piece)
    n = sum(label != -100 for label in labels)
    text = "\n".join(f"{'LOSS   ' if carries else 'no loss'} {''.join(own)!r}" for carries, own in parts)
    places = sum(carries for carries, _ in parts)  # of a conversation, its answers
    summary = f"{n} of {len(labels)} tokens carry loss" + (f", in {places} places" if places > 1 else "")
    return Marked(_box("".join(spans), f"{summary}: those in bold on orange"), f"{summary}\n{text}")


def next_tokens(tokens: Sequence[str], probabilities: Sequence[float], prompt: str) -> Picture:
    """The likeliest next tokens as bars (lesson 01). `probabilities` are between 0 and 1, the largest first."""
    percent = [100 * p for p in probabilities]
    figure, axes = figure_of(7, 0.8 + 0.36 * len(tokens))
    bars = axes.barh([f"“{_visible(token)}”" for token in tokens], percent, color=ORANGE)
    axes.bar_label(bars, [f"{value:.1f}" for value in percent], padding=3)
    axes.invert_yaxis()
    axes.set(xlim=(0, max(percent) * 1.15), xlabel="probability of the next token, %")
    ranking = ", ".join(f"“{_visible(token)}” {value:.1f} %" for token, value in zip(tokens, percent, strict=True))
    return _drawn(figure, f"After “{prompt}” the likeliest next tokens are: {ranking}.")


def sizes(names: Sequence[str], predicted: Sequence[float], measured: Sequence[float]) -> Picture:
    """A model's size in memory in several formats, predicted beside measured, in MB (lesson 01)."""
    figure, axes = figure_of(7, 3)
    places = range(len(names))
    for offset, values, label, colour in ((-0.2, predicted, "predicted", "#a8a29e"), (0.2, measured, "measured", ORANGE)):
        bars = axes.bar([place + offset for place in places], values, 0.38, label=label, color=colour)
        axes.bar_label(bars, [f"{value:.0f}" for value in values], fontsize=9)
    axes.set_xticks(places, names)
    axes.set_ylabel("weights in memory, MB")
    axes.legend(frameon=False)
    rows = zip(names, predicted, measured, strict=True)
    pairs = "; ".join(f"{name}: predicted {p:.0f} MB, measured {m:.0f} MB" for name, p, m in rows)
    return _drawn(figure, f"Size of the weights. {pairs}.")


def length_histogram(tokens: Sequence[int], limit: int | None = None, what: str = "training example") -> Picture:
    """How many tokens the examples have, as a histogram, with the limit if one is given (lesson 02)."""
    figure, axes = figure_of(7, 2.6)
    wide = -(-(max(tokens) - min(tokens) + 1) // 30)  # whole numbers, so that no bar stands for fewer lengths than others
    axes.hist(tokens, bins=range(min(tokens), max(tokens) + wide + 1, wide), color=ORANGE)
    if limit is not None:
        axes.axvline(limit, color=INK, linestyle="--", label=f"limit: {limit} tokens")
        axes.legend(frameon=False)
    axes.set(xlabel=f"length of a {what}, tokens", ylabel="number of rows")
    ordered = sorted(tokens)
    text = (
        f"Lengths: {len(ordered):,} rows, {ordered[0]} to {ordered[-1]} tokens, {ordered[len(ordered) // 2]} in the middle"
    )
    return _drawn(figure, text + (f"; the limit is {limit}." if limit is not None else "."))


def count_bars(values: dict[str, int], axis: str) -> Picture:
    """How often each value occurs, as bars; `axis` says what is counted (lesson 02)."""
    figure, axes = figure_of(7, 0.8 + 0.3 * len(values))
    bars = axes.barh(list(values), list(values.values()), color=ORANGE)
    axes.bar_label(bars, padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    return _drawn(figure, f"{_sentence(axis)}: {', '.join(f'{name} {n:,}' for name, n in values.items())}.")


# --- lesson 02b ---


def tools(scores: Mapping[str, Mapping[str, tuple[float, float, float]]], sizes: Mapping[str, float], size: str) -> Picture:
    """Tools side by side: {tool: {what is scored: (value, low, high), from 0 to 1}}, and beside them what each takes.

    `sizes` are numbers above 0, drawn on a scale of equal factors; `size` says what they are. A tool without a score in
    something has no mark there.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 1.3 + 0.42 * len(scores)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    kinds = list(dict.fromkeys(kind for own in scores.values() for kind in own))
    for kind, colour, mark, shift in zip(kinds, (ORANGE, BLUE, INK), "oDs", (-0.14, 0.14, 0.3), strict=False):
        own = [(place + shift, *each[kind]) for place, each in enumerate(scores.values()) if kind in each]
        places, values, lows, highs = zip(*own, strict=True)
        percent, reach = _with_reach(values, list(zip(lows, highs, strict=True)))
        left.errorbar(percent, places, xerr=reach, fmt=mark, color=colour, ecolor=INK, capsize=3, label=kind)
    left.set_yticks(range(len(scores)), list(scores))
    left.set(xlim=(-2, 102), ylim=(len(scores) - 0.5, -0.5), xlabel="right, %")
    taken = [sizes[name] for name in scores]
    bars = right.barh(range(len(scores)), taken, 0.5, color="#a8a29e")
    right.bar_label(bars, [f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in taken], padding=3, fontsize=9)
    right.set_xscale("log")
    right.set(xlim=(min(taken) / 3, max(taken) * 8), xlabel=f"{size}, log scale")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=len(kinds), frameon=False)
    texts = [
        f"{name}: "
        + ", ".join(f"{kind} {_percent(own[0], own[1:], ' %')}" for kind, own in each.items())
        + f"; {sizes[name]:.3g}"
        for name, each in scores.items()
    ]
    return _drawn(figure, f"Right answers with 95 % intervals, and {size}. {'. '.join(texts)}.")


# --- lesson 03 ---

FEW_POINTS = 20  # of a curve, up to which each is marked


def code_levels(values: Sequence[float], levels: Sequence[float]) -> Picture:
    """How often weights, divided by the largest of their block, have each value; and a code's levels (lesson 03)."""
    figure, axes = figure_of(7, 2.8)
    axes.hist(values, bins=80, range=(-1, 1), color="#a8a29e")
    for level in levels:
        axes.axvline(level, color=ORANGE, linewidth=1)
    axes.set(xlim=(-1.05, 1.05), xlabel="weight, divided by the largest of its block", ylabel="number of weights")
    places = ", ".join(f"{level:.2f}" for level in levels)
    small = sum(abs(value) < 0.5 for value in values) / len(values)
    text = f"{len(values):,} weights, {small:.0%} of them between -0.5 and 0.5; the {len(levels)} levels lie at {places}."
    return _drawn(figure, text)


def low_rank(inputs: int, outputs: int, rank: int) -> Picture:
    """A layer and the narrow path beside it; heights show how many numbers pass at each place (lesson 03)."""
    from matplotlib.patches import Polygon

    unit = 1 / max(inputs, outputs)
    wide, high, thin = inputs * unit, outputs * unit, max(rank * unit, 0.02)
    figure, axes = figure_of(7, 3.6)
    stretches = (
        (1.35, 0.7, wide, 2.5, high, "#a8a29e", f"W, frozen: {outputs} x {inputs}"),
        (0.0, 0.7, wide, 1.6, thin, ORANGE, f"A: {rank} x {inputs}"),
        (0.0, 1.6, thin, 2.5, high, "#ea9a68", f"B: {outputs} x {rank}"),
    )
    for y, left, before, right, after, colour, name in stretches:
        corners = [(left, y - before / 2), (left, y + before / 2), (right, y + after / 2), (right, y - after / 2)]
        axes.add_patch(Polygon(corners, facecolor=colour, edgecolor=INK, linewidth=0.8))
        axes.text((left + right) / 2, y - wide / 2 - 0.03, name, ha="center", va="top", color=INK)
    axes.annotate(f"{rank} numbers", (1.6, thin / 2), (1.6, 0.4), ha="center", arrowprops={"arrowstyle": "->"}, color=INK)
    for y in (0.0, 1.35):
        axes.annotate("", (0.68, y), (0.36, 0.68), arrowprops={"arrowstyle": "->"})
        axes.annotate("", (2.84, 0.68), (2.52, y), arrowprops={"arrowstyle": "->"})
    for x, name in ((0.3, f"input:\n{inputs:,}\nnumbers"), (2.9, "+"), (3.2, f"output:\n{outputs:,}\nnumbers")):
        axes.text(
            x, 0.68, name, ha="right" if x < 1 else "center", va="center", color=INK, fontsize=16 if name == "+" else 10
        )
    axes.set(xlim=(-0.15, 3.5), ylim=(-wide / 2 - 0.25, 1.4 + wide / 2))
    axes.axis("off")
    share = rank * (inputs + outputs) / (inputs * outputs)
    text = f"Beside W with {outputs} x {inputs} frozen weights stand B, {outputs} x {rank}, and A, {rank} x {inputs}"
    path = f"A narrows {inputs:,} numbers to {rank}, B widens them to {outputs:,}, and both outputs are added"
    return _drawn(figure, f"{text}: together {share:.1%} as many. {path}.")


def memory_parts(plans: dict[str, dict[str, float]], room: dict[str, float] | None = None) -> Picture:
    """What the memory of a training goes to, a bar a plan; `plans` holds MB by part, `room` devices' MB (lesson 03)."""
    colours = ("#c2410c", "#f59e0b", "#fde68a", "#1d4ed8", "#60a5fa", "#bfdbfe", "#a8a29e", "#78716c", "#d6d3d1")
    figure, axes = figure_of(7.5, 1.9 + 0.45 * len(plans))
    parts = list(dict.fromkeys(part for plan in plans.values() for part in plan))
    begin = [0.0] * len(plans)
    for number, part in enumerate(parts):
        sizes = [plan.get(part, 0.0) / 1000 for plan in plans.values()]
        axes.barh(list(plans), sizes, left=begin, label=part, color=colours[number % len(colours)], edgecolor="#ffffff")
        begin = [start + size for start, size in zip(begin, sizes, strict=True)]
    for device, size in (room or {}).items():
        axes.axvline(size / 1000, color=INK, linestyle="--", linewidth=1)
        axes.text(size / 1000, -0.62, device, ha="center", fontsize=9)
    axes.set_xlim(0, 1.06 * max([*begin, *(size / 1000 for size in (room or {}).values())]))
    axes.invert_yaxis()
    axes.set_xlabel("memory, GB")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    texts = []
    for name, plan in plans.items():
        largest = ", ".join(f"{part} {size / 1000:.2f}" for part, size in sorted(plan.items(), key=lambda p: -p[1])[:3])
        texts.append(f"{name}: {sum(plan.values()) / 1000:.2f} GB, of it {largest}")
    lines = f"; lines at {', '.join(f'{name} {size / 1000:.0f} GB' for name, size in room.items())}" if room else ""
    return _drawn(figure, f"{'; '.join(texts)}{lines}.")


def loss_curves(
    curves: dict[str, Sequence[tuple[float, float]]], axis: str = "loss on training examples", log: bool = False
) -> Picture:
    """The loss at each step, a line for each name; `curves` holds (step, loss) pairs (lesson 03).

    `log` draws the loss on a logarithmic scale, on which curves of very different height can be told apart.
    """
    return _drawn(*loss_figure(curves, axis, log))


def loss_figure(curves: Mapping[str, Sequence[tuple[float, float]]], axis: str, log: bool = False) -> tuple[Figure, str]:
    """The figure of `loss_curves`, and what it says in words."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    figure, axes = figure_of(7, 3.4 if log else 3)
    styles = (("-", ORANGE), ("--", BLUE), (":", INK), ("-.", "#57534e"))
    for number, ((name, points), (style, colour)) in enumerate(zip(curves.items(), styles, strict=False)):
        mark = "o" if len(points) <= FEW_POINTS else None  # each was a measurement of its own
        thick = max(1.5, 3 - 0.5 * number)  # so that a curve shows under one that lies upon it
        axes.plot(*zip(*points, strict=True), style, color=colour, label=name, linewidth=thick, marker=mark, markersize=4)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel="step", ylabel=f"{axis}, log scale" if log else axis)
    if len(curves) > 1:
        figure.legend(loc="outside upper center", ncols=len(curves), frameon=False)
    ends = "; ".join(
        f"{name}: {points[0][1]:.3f} at step {points[0][0]:.0f}, {points[-1][1]:.3f} at step {points[-1][0]:.0f}"
        for name, points in curves.items()
    )
    return figure, f"{_sentence(axis)}. {ends}."


def timeline(run: Run) -> Marked:
    """What the model answered to the same held-out messages while it learned, a table for each (lesson 03)."""
    told = stories(run)
    if not told:
        return Marked("<p>This run keeps no answers from its training.</p>", "This run keeps no answers from its training.")
    return Marked(show_stories(told), "\n".join(map(str, told)))


def grouped_scores(groups: dict[str, dict[str, tuple[float, float, float]]], axis: str) -> Picture:
    """Scores with their intervals: {group: {setting: (value, low, high)}}, each between 0 and 1 (lesson 03)."""
    figure, axes = figure_of(7, 1 + 0.32 * sum(len(group) + 1 for group in groups.values()))
    place, ticks, texts = 0.0, [], []
    for group, settings in groups.items():
        axes.text(0.01, place, group, transform=axes.get_yaxis_transform(), fontweight="bold", fontsize=9, va="center")
        for name, (value, low, high) in settings.items():
            place += 1
            axes.plot([100 * low, 100 * high], [place, place], color="#78716c", linewidth=2)
            axes.plot([100 * value], [place], "o", color=ORANGE)
            ticks.append((place, name))
        scores = (f"{name} {_percent(value, (low, high), ' %')}" for name, (value, low, high) in settings.items())
        texts.append(f"{group}: {', '.join(scores)}")
        place += 1
    axes.set_yticks([tick for tick, _ in ticks], [name for _, name in ticks])
    axes.set(ylim=(place - 0.4, -0.6), xlabel=axis)
    return _drawn(figure, f"{_sentence(axis)}, with 95 % intervals. {'; '.join(texts)}.")


# --- lesson 04 ---

SHORTER = (10, 20, 50)  # ends of an axis in per cent, where no score needs all 100


def score_intervals(
    names: Sequence[str], values: Sequence[float], intervals: Sequence[tuple[float, float]], axis: str, zero: bool = False
) -> Picture:
    """Scores or differences between -1 and 1 as points with their intervals, a row each; `axis` says what is measured.

    With `zero` a line marks no difference. Small scores get a shorter axis than 0 to 100, so that they can be told apart.
    """
    figure, axes = figure_of(7, 0.9 + 0.42 * len(names))
    percent, reach = _with_reach(values, intervals)
    axes.errorbar(percent, range(len(names)), xerr=reach, fmt="o", color=ORANGE, ecolor=INK, capsize=4)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=axis)
    if zero:
        axes.axvline(0, color=INK, linestyle="--", linewidth=1)
    else:
        highest = max(100 * high for _, high in intervals)
        end = next((limit for limit in SHORTER if highest < 0.95 * limit), 100)
        axes.set_xlim(-0.02 * end, 1.02 * end)
    scores = "; ".join(
        f"{name} {_percent(value, interval)}" for name, value, interval in zip(names, values, intervals, strict=True)
    )
    return _drawn(figure, f"{_sentence(axis)}, with 95 % intervals: {scores}.")


def confusion(values: Sequence[str], matrix: Sequence[Sequence[int]], field: str) -> Picture:
    """How often the answer of the column was given where that of the row is right (see `figures.confusion_figure`)."""
    return _drawn(*confusion_figure(values, matrix, field))


def learning_curve(curves: Mapping[str, Sequence[tuple[int, float, tuple[float, float]]]], axis: str) -> Picture:
    """Scores against the number of training examples: {name: [(examples, score from 0 to 1, its interval)]}."""
    figure, axes = figure_of(7, 3.2)
    texts = _curves(axes, curves, "{:,} examples {:.0f}", beside=1.03)
    axes.set_xscale("log")
    sizes = sorted({n for points in curves.values() for n, *_ in points})
    ticks = [n for n, after in zip(sizes, [*sizes[1:], math.inf], strict=True) if after > 1.15 * n]  # else they overlap
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    axes.set(ylim=(0, 100), xlabel="training examples, on a scale of equal factors", ylabel=axis)
    axes.legend(frameon=False, loc="lower right")
    return _drawn(figure, f"Learning curve, {axis}. {'; '.join(texts)}.")


def doses(
    curves: dict[str, Sequence[tuple[float, float, tuple[float, float]]]],
    across: str,
    axis: str,
    mine: tuple[float, float] | None = None,
) -> Picture:
    """Scores against a dose: {name: [(dose, score from 0 to 1, its interval)]}; `mine` is one more (dose, score), a star."""
    figure, axes = figure_of(7, 3.2)
    texts = _curves(axes, curves, "{:g} gives {:.0f}")
    if mine:
        axes.plot(mine[0], 100 * mine[1], "*", color=INK, markersize=14, label="yours")
        texts.append(f"yours: {mine[0]:g} gives {100 * mine[1]:.0f}")
    axes.set(ylim=(0, 100), xlabel=across, ylabel=axis)
    axes.legend(frameon=False, loc="lower left")
    return _drawn(figure, f"{_sentence(axis)} over {across}. {'; '.join(texts)}.")


# --- lesson 05 ---


def frame(address: str, title: str, height: int = 640) -> Marked:
    """A served page inside the notebook, to be unfolded (lesson 05); it shows something only while the page is served.

    On Colab the browser cannot reach the machine's own addresses: there Colab's tunnel to the port shows the page.
    """
    if "google.colab" in sys.modules:
        from google.colab import output

        output.serve_kernel_port_as_iframe(urlsplit(address).port, height=height)
    at, name = html.escape(address, quote=True), html.escape(title, quote=True)
    page = (
        f'<details aria-label="{name}"><summary>{name}: unfold it here, or open <a href="{at}" target="_blank">{at}</a> '
        f'(works while this notebook runs)</summary><iframe src="{at}" title="{name}" loading="lazy" '
        f'style="width:100%;height:{height}px;border:1px solid #e7e0d8"></iframe></details>'
    )
    return Marked(page, f"{title}: open {address} in a browser, while this notebook runs.")


def _curves(
    axes: Any, curves: Mapping[str, Sequence[tuple[float, float, tuple[float, float]]]], pattern: str, beside: float = 1.0
) -> list[str]:
    """Draw {name: [(number, score from 0 to 1, its interval)]}; returns each curve in words, `pattern` for each point.

    Each curve is drawn at `beside` times the former's numbers, so that bars do not hide each other on a logarithmic scale.
    """
    texts = []
    looks = zip(curves.items(), (ORANGE, BLUE, INK, "#57534e"), "os^D", strict=False)
    for place, ((name, points), colour, mark) in enumerate(looks):
        numbers, values, intervals = zip(*points, strict=True)
        percent, reach = _with_reach(values, intervals)
        shifted = [n * beside ** (place - (len(curves) - 1) / 2) for n in numbers]
        axes.errorbar(shifted, percent, yerr=reach, marker=mark, color=colour, capsize=3, label=name)
        texts.append(f"{name}: " + ", ".join(pattern.format(n, value) for n, value in zip(numbers, percent, strict=True)))
    return texts


def _with_reach(
    values: Sequence[float], intervals: Sequence[tuple[float, float]]
) -> tuple[list[float], tuple[list[float], list[float]]]:
    """Values in per cent, and how far their intervals reach below and above them, as matplotlib's error bars take it."""
    below = [max(0.0, 100 * (value - low)) for value, (low, _) in zip(values, intervals, strict=True)]
    above = [max(0.0, 100 * (high - value)) for value, (_, high) in zip(values, intervals, strict=True)]
    return [100 * value for value in values], (below, above)


def _visible(piece: str) -> str:
    return piece.replace(" ", "·").replace("\n", "⏎")


def _box(content: str, summary: str) -> str:
    return (
        f'<figure role="group" aria-label="{html.escape(summary, quote=True)}" style="margin:0.5em 0">'
        f'<div style="background:#fffdfa;color:#1c1917;padding:0.6em;border:1px solid #e7e0d8;border-radius:6px;'
        f'font-family:monospace;line-height:1.7;overflow-wrap:anywhere">{content}</div>'
        f'<figcaption style="font-size:0.9em">{html.escape(summary)}</figcaption></figure>'
    )


def _drawn(figure: Figure, text: str) -> Picture:
    """A matplotlib figure as a picture with its text."""
    return Picture(svg_of(figure, text), text, *png_of(figure))


def _sentence(text: str) -> str:
    """A text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def _percent(value: float, interval: tuple[float, float], unit: str = "") -> str:
    low, high = interval
    return f"{100 * value:.1f}{unit} ({100 * low:.1f} to {100 * high:.1f})"
