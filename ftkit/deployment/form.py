"""The form of the demo's feedback: the right answer, field by field (lesson 05)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftkit.data.prompt import parse_answer
from ftkit.data.task import Field, Task

NOTHING, YES, NO = "–", "yes", "no"  # how a form shows null, true and false


def read_form(task: Task, values: Sequence[Any]) -> Any:
    """The answer that a filled-in form stands for: a value for each field of `json`, one value for the other kinds."""
    if task.kind != "json":
        return values[0].strip() if isinstance(values[0], str) else values[0]
    return {f.name: _read_value(f, value) for f, value in zip(task.fields, values, strict=True)}


def _read_value(f: Field, value: Any) -> Any:
    if f.type == "set":
        return sorted(value or [])
    if isinstance(value, str):
        value = value.strip()
    if value in (None, "", NOTHING):
        return None if f.nullable or f.type not in ("string",) else ""
    if f.type == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return {YES: True, NO: False}.get(value, value) if f.type == "boolean" and isinstance(value, str) else value


def fill_form(task: Task, text: str) -> list[Any]:
    """What a form shows for an answer: its values where the form can hold them, nothing elsewhere."""
    value = parse_answer(task, text)
    if task.kind == "label":
        return [value if value in task.labels else None]
    if task.kind in ("text", "chat"):
        return [value]
    value = value if isinstance(value, dict) else {}
    return [_fill_value(f, value.get(f.name)) for f in task.fields]


def _fill_value(f: Field, value: Any) -> Any:
    if f.type == "set":
        return [v for v in value if v in f.values] if isinstance(value, list) else []
    if f.type == "choice":
        return value if value in f.values else NOTHING if f.nullable else None
    if f.type == "boolean":
        return (YES if value else NO) if isinstance(value, bool) else NOTHING if f.nullable and value is None else None
    if f.type in ("integer", "number"):
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None
    return value if isinstance(value, str) else ""
