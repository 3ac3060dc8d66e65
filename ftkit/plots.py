"""Pictures of the course: drawn by code, each with a text that says the same."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass

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
