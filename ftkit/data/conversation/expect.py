"""What a row expects of its answers: facts that must stand in them, and what must not (`expect`, one object an answer)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LISTS = ("must", "asks")  # lists of alternatives: of each inner list one has to stand there
KEYS = (*LISTS, "must_not", "passes_on")


def expect_problems(expect: Any, answers: int) -> list[str]:
    """Everything wrong with a row's `expect`, one sentence each: it should hold one object for each of the `answers`."""
    if not isinstance(expect, list) or len(expect) != answers:
        held = f"{len(expect)}" if isinstance(expect, list) else "no list"
        return [f"field 'expect': it must be a list with one object for each of the {answers} answers, and holds {held}"]
    return [
        f"field 'expect', answer {number}: {reason}" for number, one in enumerate(expect, 1) for reason in _problems(one)
    ]


def _problems(one: Any) -> Iterator[str]:
    if not isinstance(one, dict):
        yield "it must be an object"
        return
    if unknown := sorted(map(str, one.keys() - set(KEYS))):
        yield f"{', '.join(map(repr, unknown))} is no key that is known here; known: {', '.join(KEYS)}"
    for key in LISTS:
        lists = one.get(key, [])
        if not isinstance(lists, list) or not all(_is_texts(inner) and inner for inner in lists):
            yield f"{key!r} must be a list of lists of texts: one text of each inner list has to stand in the answer"
    if not _is_texts(one.get("must_not", [])):
        yield "'must_not' must be a list of texts"
    if not isinstance(one.get("passes_on", False), bool):
        yield "'passes_on' must be true or false"


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)
