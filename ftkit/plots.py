"""Pictures of the course: drawn by code, each with a text that says the same."""

from __future__ import annotations

import html
import io
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES = (
    ("Pre-trained model", "general skill", "a chef who knows many recipes", "01"),
    ("Training data", "examples of the task", "the ingredients", "02"),
    ("Fine-tuning", "4-bit QLoRA", "adapting the recipe to this restaurant", "03"),
    ("Evaluation", "held-out examples", "tasting before it is served", "04"),
    ("Deployment", "a demo to share", "serving the dish", "05"),
)


@dataclass(frozen=True, repr=False)
class Picture:
    """An SVG picture with its text alternative; Jupyter shows the one, `print` the other."""

    svg: str
    text: str

    def _repr_svg_(self) -> str:
        return self.svg

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
    width, gap, top, height = 168, 26, 12, 92
    total = len(stages) * (width + gap) - gap + 4
    text = " → ".join(f"{name} ({lesson}: {what}; the chef: {chef})" for name, what, chef, lesson in stages)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} 204" width="100%" role="img" '
        f'font-family="sans-serif" font-size="14"><title>The road of the course</title><desc>{html.escape(text)}</desc>'
        f'<rect width="{total}" height="204" fill="#ffffff"/>'
    ]
    for i, (name, what, chef, lesson) in enumerate(stages):
        x = 2 + i * (width + gap)
        middle = x + width / 2
        parts.append(
            f'<rect x="{x}" y="{top}" width="{width}" height="{height}" rx="10" fill="#fff4e6" '
            'stroke="#c2410c" stroke-width="2"/>'
            + _centred(middle, top + 26, lesson, "#9a3412", 13)
            + _centred(middle, top + 50, name, "#1c1917", 16, bold=True)
            + _centred(middle, top + 74, what, "#44403c", 14)
        )
        for line_number, line in enumerate(textwrap.wrap(chef, 20)):
            parts.append(_centred(middle, 140 + 19 * line_number, line, "#57534e", 14, italic=True))
        if i:
            y = top + height / 2
            parts.append(
                f'<path d="M{x - gap + 2} {y} H{x - 9}" stroke="#57534e" stroke-width="2"/>'
                f'<path d="M{x - 3} {y} l-8 -5 v10 z" fill="#57534e"/>'
            )
    return Picture("".join([*parts, "</svg>"]), text)


def _centred(x: float, y: float, text: str, fill: str, size: int, bold: bool = False, italic: bool = False) -> str:
    style = (' font-weight="bold"' if bold else "") + (' font-style="italic"' if italic else "")
    return f'<text x="{x}" y="{y}" text-anchor="middle" fill="{fill}" font-size="{size}"{style}>{html.escape(text)}</text>'


# --- lessons 01 and 02 ---

ORANGE, BLUE, INK = "#c2410c", "#1d4ed8", "#1c1917"


def token_view(pieces: Sequence[str]) -> Marked:
    """A text cut into its tokens, each in a frame (lesson 01). `pieces` are the tokens' texts in order."""
    frame = "border:1px solid #a8a29e;border-radius:3px;padding:0 2px;margin:1px;display:inline-block;white-space:pre"
    spans = "".join(f'<span style="{frame}">{html.escape(_visible(piece))}</span>' for piece in pieces)
    text = f"{len(pieces)} tokens: {' | '.join(map(_visible, pieces))}"
    return Marked(_box(spans, f"{len(pieces)} tokens; · is a blank, ⏎ a line end"), text)


def loss_view(pieces: Sequence[str], labels: Sequence[int]) -> Marked:
    """Which tokens of a training example carry loss (lesson 02): those in bold on orange; the others are grey.

    `pieces` and `labels` have one entry a token; the label -100 means that the loss leaves the token out.
    """
    grey = "color:#57534e;white-space:pre-wrap"
    bold = "background:#ffedd5;color:#7c2d12;font-weight:bold;border-bottom:2px solid #c2410c;white-space:pre-wrap"
    spans, parts = [], []
    for piece, label in zip(pieces, labels, strict=True):
        carries = label != -100
        shown = html.escape(piece).replace("\n", "⏎<br>")
        spans.append(f'<span style="{bold if carries else grey}">{shown}</span>')
        if not parts or parts[-1][0] != carries:
            parts.append((carries, []))
        parts[-1][1].append(piece)
    n = sum(label != -100 for label in labels)
    text = "\n".join(f"{'LOSS   ' if carries else 'no loss'} {''.join(own)!r}" for carries, own in parts)
    summary = f"{n} of {len(labels)} tokens carry loss: those in bold on orange"
    return Marked(_box("".join(spans), summary), f"{n} of {len(labels)} tokens carry loss\n{text}")


def next_tokens(tokens: Sequence[str], probabilities: Sequence[float], prompt: str) -> Picture:
    """The likeliest next tokens as bars (lesson 01). `probabilities` are between 0 and 1, the largest first."""
    percent = [100 * p for p in probabilities]
    figure, axes = _figure(7, 0.8 + 0.36 * len(tokens))
    bars = axes.barh([f"“{_visible(token)}”" for token in tokens], percent, color=ORANGE)
    axes.bar_label(bars, [f"{value:.1f}" for value in percent], padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0, max(percent) * 1.15)
    axes.set_xlabel("probability of the next token, %")
    listed = ", ".join(f"“{_visible(token)}” {value:.1f} %" for token, value in zip(tokens, percent, strict=True))
    return _drawn(figure, f"After “{prompt}” the likeliest next tokens are: {listed}.")


def sizes(names: Sequence[str], predicted: Sequence[float], measured: Sequence[float]) -> Picture:
    """A model's size in memory in several formats, predicted beside measured, in MB (lesson 01)."""
    figure, axes = _figure(7, 3)
    places = range(len(names))
    for offset, values, label, colour in ((-0.2, predicted, "predicted", "#a8a29e"), (0.2, measured, "measured", ORANGE)):
        bars = axes.bar([place + offset for place in places], values, 0.38, label=label, color=colour)
        axes.bar_label(bars, [f"{value:.0f}" for value in values], fontsize=9)
    axes.set_xticks(places, names)
    axes.set_ylabel("weights in memory, MB")
    axes.legend(frameon=False)
    listed = "; ".join(
        f"{name}: predicted {p:.0f} MB, measured {m:.0f} MB" for name, p, m in zip(names, predicted, measured, strict=True)
    )
    return _drawn(figure, f"Size of the weights. {listed}.")


def lengths(tokens: Sequence[int], limit: int | None = None, what: str = "training example") -> Picture:
    """How many tokens the examples have, as a histogram, with the limit if one is given (lesson 02)."""
    figure, axes = _figure(7, 2.6)
    axes.hist(tokens, bins=30, color=ORANGE)
    if limit is not None:
        axes.axvline(limit, color=INK, linestyle="--", label=f"limit: {limit} tokens")
        axes.legend(frameon=False)
    axes.set_xlabel(f"length of a {what}, tokens")
    axes.set_ylabel("number of rows")
    ordered = sorted(tokens)
    said = f"{len(ordered):,} rows, {ordered[0]} to {ordered[-1]} tokens, {ordered[len(ordered) // 2]} in the middle"
    return _drawn(figure, f"Lengths: {said}" + (f"; the limit is {limit}." if limit is not None else "."))


def counts(values: dict[str, int], axis: str) -> Picture:
    """How often each value occurs, as bars; `axis` says what is counted (lesson 02)."""
    figure, axes = _figure(7, 0.8 + 0.3 * len(values))
    bars = axes.barh(list(values), list(values.values()), color=ORANGE)
    axes.bar_label(bars, padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    return _drawn(figure, f"{axis.capitalize()}: {', '.join(f'{name} {n:,}' for name, n in values.items())}.")


# --- lesson 05 ---


def frame(address: str, title: str, height: int = 640) -> Marked:
    """A served page inside the notebook, to be unfolded (lesson 05); it shows something only while the page is served.

    On Colab the browser cannot reach the machine's own addresses: there Colab's tunnel to the port shows the page.
    """
    if "google.colab" in sys.modules:
        from google.colab import output

        output.serve_kernel_port_as_iframe(urlsplit(address).port, height=height)
    at, name = html.escape(address, quote=True), html.escape(title, quote=True)
    shown = (
        f'<details aria-label="{name}"><summary>{name}: unfold it here, or open <a href="{at}" target="_blank">{at}</a> '
        f'(works while this notebook runs)</summary><iframe src="{at}" title="{name}" loading="lazy" '
        f'style="width:100%;height:{height}px;border:1px solid #e7e0d8"></iframe></details>'
    )
    return Marked(shown, f"{title}: open {address} in a browser, while this notebook runs.")


def _visible(piece: str) -> str:
    return piece.replace(" ", "·").replace("\n", "⏎")


def _box(content: str, summary: str) -> str:
    return (
        f'<figure role="group" aria-label="{html.escape(summary, quote=True)}" style="margin:0.5em 0">'
        f'<div style="background:#fffdfa;color:#1c1917;padding:0.6em;border:1px solid #e7e0d8;border-radius:6px;'
        f'font-family:monospace;line-height:1.7;overflow-wrap:anywhere">{content}</div>'
        f'<figcaption style="font-size:0.9em">{html.escape(summary)}</figcaption></figure>'
    )


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _drawn(figure: Figure, text: str) -> Picture:
    """A matplotlib figure as a picture with its text; the same data give the same file."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "ftkit"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    drawn = file.getvalue()
    label = f'<svg role="img" aria-label="{html.escape(text, quote=True)}" style="background:#ffffff" '
    return Picture(re.sub(r"<svg ", lambda _: label, drawn[drawn.index("<svg") :], count=1), text)
