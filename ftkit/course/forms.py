"""The forms that an answer may have: a learner's value is read as plain Python, whether numpy, torch or Python made it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from numbers import Number
from typing import Any

OR_NONE = " or None"  # at the end of a form's name: None is an answer too


class OtherForm(Exception):
    """A value is not of the form that is asked for; its text begins with that form: "a number, not the text '4'"."""


def read(value: Any, form: str) -> Any:
    """A learner's value, in the form of that name in `FORMS`. Raises `OtherForm` if it has another."""
    if value is None and form.endswith(OR_NONE):
        return None
    words, reader = FORMS[form.removesuffix(OR_NONE)]
    try:
        return reader(value)
    except OtherForm as hint:
        raise OtherForm(f"{words}{OR_NONE if form.endswith(OR_NONE) else ''}, not {_named(value)}{hint}.") from None


def plain(value: Any) -> Any:
    """What numpy, torch or pandas made, as Python's own numbers, truth values and lists, however deep in containers."""
    if hasattr(value, "tolist") and not isinstance(value, type):
        return value.tolist()
    if isinstance(value, Mapping):
        return {plain(key): plain(part) for key, part in value.items()}
    if isinstance(value, Set):
        return set(map(plain, value))
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(map(plain, value))
    return value


def short(value: Any, length: int = 60) -> str:
    """A value as Python writes it, on one line, cut after `length` characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def near(one: Any, other: Any) -> bool:
    """Whether two numbers are equal but for rounding; sums in float32 are exact enough."""
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6)


# --- readers: each raises `OtherForm`, with a hint or without ---


def _truth(value: Any) -> bool:
    value = plain(value)
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise OtherForm


def _number(value: Any) -> int | float:
    value = plain(value)
    if isinstance(value, str):
        raise OtherForm(": no quotes, no str()")
    if isinstance(value, bool | complex) or not isinstance(value, Number) or value != value:
        raise OtherForm
    return value if isinstance(value, int | float) else float(value)  # type: ignore[arg-type]


def _whole(value: Any) -> int:
    number = _number(value)
    if not (math.isfinite(number) and number == int(number)):
        raise OtherForm
    return int(number)


def _text(value: Any) -> str:
    value = plain(value)
    if not isinstance(value, str):
        raise OtherForm
    return value


def _items(value: Any) -> list[Any]:
    value = plain(value)
    if isinstance(value, Iterator):
        raise OtherForm(": put list( ) around it")
    if isinstance(value, Set):
        raise OtherForm(": a set keeps no order")
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise OtherForm
    return list(map(plain, value))


def _rows(value: Any) -> list[dict[str, Any]]:
    rows = _items(value)
    if not all(isinstance(row, dict) for row in rows):
        raise OtherForm
    return rows


def _two(reader: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any]]:
    def read_two(value: Any) -> tuple[Any, Any]:
        parts = _items(value)
        if len(parts) != 2:
            raise OtherForm
        return reader(parts[0]), reader(parts[1])

    return read_two


def _table(value: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise OtherForm
    return plain(value)


def _tensor(value: Any) -> Any:
    import torch

    try:
        return torch.as_tensor(value if isinstance(value, torch.Tensor) else plain(value)).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise OtherForm from None


def _named(value: Any) -> str:
    """A value in a sentence, its kind first where Python's own writing does not show it."""
    if isinstance(value, str):
        return f"the text {short(value)}"
    return "a generator" if isinstance(value, Iterator) else short(value)


FORMS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "anything": ("an answer", lambda value: value),
    "truth": ("True or False", _truth),
    "number": ("a number", _number),
    "whole number": ("a whole number", _whole),
    "text": ("a text", _text),
    "list": ("a list", _items),
    "rows": ("a list of rows, each a dictionary", _rows),
    "two numbers": ("two numbers", _two(_number)),
    "two lists of rows": ("two lists of rows", _two(_rows)),
    "dictionary": ("a dictionary", _table),
    "tensor": ("a tensor of numbers", _tensor),
}
