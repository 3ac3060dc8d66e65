"""Templates: pages, cards and READMEs are files in a stage's `templates/` folder, filled in by Jinja2."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

# A template's name is its path in the package. In .html what is filled in becomes text; a name without a value is an error
ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),
    autoescape=lambda name: (name or "").endswith(".html"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.globals["as_json"] = partial(json.dumps, ensure_ascii=False)  # a text as JSON and Python write it


def render(template: str, /, **values: Any) -> str:
    """Fill in a template, named as "data/templates/report.html". Raises jinja2's `UndefinedError` for a missing value."""
    return ENVIRONMENT.get_template(template).render(values)
