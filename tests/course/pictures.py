"""What every picture of the course is held to."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

from ftkit.course.plots import Picture


def is_one_whole_svg(draw: Callable[[], Picture]) -> bool:
    """Whether a picture is one whole SVG, labelled with its text, and the same each time."""
    picture = draw()
    root = ElementTree.fromstring(picture.svg)
    return root.get("role") == "img" and root.get("aria-label") == str(picture) and picture.svg == draw().svg
