"""Figures by matplotlib: made, drawn as SVG, and put into a page with a text that says the same."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE = 144  # points an inch of a PNG; it is shown with 96, in the size of the SVG


def figure_of(width: float, height: float) -> tuple[Figure, Any]:
    """An empty matplotlib figure and its axes, open at the top and at the right; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg_of(figure: Figure, text: str) -> str:
    """A figure as an SVG element labelled with `text`, which says the same; the same numbers give the same bytes."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "ftkit"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    element = file.getvalue().partition("<svg ")[2]
    return f'<svg role="img" aria-label="{html.escape(text, quote=True)}" {element}'


def png_of(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """A figure as PNG, and the size in which to show it, in pixels of a page: for places that show no SVG.

    JupyterLab is one, as long as a notebook is not trusted.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DENSE)
    return small_png(file.getvalue())


def small_png(png: bytes) -> tuple[bytes, dict[str, int]]:
    """A drawing of `DENSE` points an inch in a smaller file, and its size in a page. 64 colours are enough for a drawing."""
    from PIL import Image

    file = io.BytesIO()
    image = Image.open(io.BytesIO(png))
    image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue(), shown_size(png)


def shown_size(png: bytes) -> dict[str, int]:
    """The size in a page, in pixels, of a PNG of `DENSE` points an inch: that of the figure's SVG."""
    from PIL import Image

    width, height = Image.open(io.BytesIO(png)).size
    return {"width": round(width * 96 / DENSE), "height": round(height * 96 / DENSE)}


def picture(figure: Figure, text: str) -> str:
    """A figure in a page: its SVG, and `text` as its caption."""
    return f"<figure>{svg_of(figure, text)}<figcaption>{html.escape(text)}</figcaption></figure>"


def counts_grid(axes: Any, matrix: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw counts as a grid of cells, the more the darker, each with its number; a row of `matrix` for each of `rows`."""
    top = max(map(max, matrix)) or 1
    axes.imshow([list(row) for row in matrix], cmap="Oranges", vmax=top, aspect="auto")
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            if count:
                color = "white" if count > 0.6 * top else "black"
                axes.text(j, i, count, ha="center", va="center", fontsize=9, color=color)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), rows)


def confusion_figure(values: Sequence[Any], matrix: Sequence[Sequence[int]], field: str) -> tuple[Figure, str]:
    """A confusion matrix as a figure, and what it says in words: rows are right values, columns answers.

    `matrix` has one column more than `values`, for answers that are none of them; it is shown where there are any.
    """
    values = [str(value) for value in values]
    answers = [*values, "none of them"] if any(row[-1] for row in matrix) else values
    figure, axes = figure_of(max(7, 2.2 + 0.44 * len(answers)), 1.8 + 0.34 * len(values))
    counts_grid(axes, [row[: len(answers)] for row in matrix], values, answers)
    axes.set_xlabel(f"{field} as answered, number of messages")
    axes.set_ylabel(f"right {field}")
    cells = [(n, values[i], answers[j]) for i, row in enumerate(matrix) for j, n in enumerate(row) if n and i != j]
    most = sorted(cells, key=lambda cell: -cell[0])[:3]
    hits = sum(row[i] for i, row in enumerate(matrix))
    mistakes = "; ".join(f"{right} answered as {answer} ({n})" for n, right, answer in most) or "nothing was confused"
    return figure, f"Confusion matrix of {field}: {hits} of {sum(map(sum, matrix))} right. Most often: {mistakes}."
