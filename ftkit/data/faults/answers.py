"""Faults in the form of an answer, and their repair: spelling of closed values and keys, order, numbers as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from ftkit.data.faults.characters import normalize_text
from ftkit.data.task import Field, Task


def spelling_key(value: Any) -> str:
    """A value as it is compared: without case, spaces, underscores, and hyphens between letters.

    What stands between digits stays ("1-2" is not "12"), as do all other signs and marks.
    """
    text = normalize_text(str(value)).casefold()
    text = re.sub(r"(?<!\d)[\s_\u200b\u2060]+|[\s_\u200b\u2060]+(?!\d)", "", text)
    return re.sub(r"(?<=[^\W\d_])[\u2010-\u2015-](?=[^\W\d_])", "", text)


def match_spelling(value: Any, allowed: Iterable[str]) -> str | None:
    """The one allowed value that differs from `value` only in case, spaces, hyphens or underscores, or None."""
    if not isinstance(value, str) or value in (allowed := tuple(allowed)):
        return None
    alike = [name for name in allowed if spelling_key(name) == spelling_key(value)]
    return alike[0] if len(alike) == 1 else None


def repair_answer(task: Task, answer: Any) -> tuple[Any, list[str]]:
    """Mend an answer where only its form is wrong: (the answer, what was done). What it says is never changed."""
    if task.kind == "label":
        meant = match_spelling(answer, task.labels)
        return (answer, []) if meant is None else (meant, [f"spelled {answer!r} as {meant!r}"])
    if task.kind == "text":
        mended = normalize_text(answer) if isinstance(answer, str) else answer
        return mended, [] if mended == answer else ["normalised characters and spaces of the answer"]
    steps = []
    if isinstance(answer, str):
        try:
            answer, steps = json.loads(answer), ["read the answer from a text holding JSON"]
        except (ValueError, RecursionError):
            return answer, []
    return _repair_object(task, answer, steps) if isinstance(answer, dict) else (answer, [])


def _repair_object(task: Task, answer: dict[str, Any], steps: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Mend the spelling of keys and values and the order of the keys; `steps` tells what was done before."""
    names, mended = [f.name for f in task.fields], {}
    for key, value in answer.items():
        name = key if key in names else match_spelling(key, names) or key
        if name != key:
            steps.append(f"spelled the key {key!r} as {name!r}")
        mended[name] = value
    for f in task.fields:
        if f.name in mended and (value := _repair_value(f, mended[f.name])) != mended[f.name]:
            steps.append(f"{f.name}: {json.dumps(mended[f.name], ensure_ascii=False)} as {json.dumps(value)}")
            mended[f.name] = value
    if set(mended) == set(names) and list(mended) != names:
        mended = {name: mended[name] for name in names}
        steps.append("put the keys in order")
    return mended, steps


def _repair_value(f: Field, value: Any) -> Any:
    if f.type == "choice":
        return match_spelling(value, f.values) or value
    if f.type == "set" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return sorted({match_spelling(v, f.values) or v for v in value})
    if f.type == "integer" and isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,9}\s*", value):
        return int(value)
    if f.type == "string" and isinstance(value, str):
        return normalize_text(value)
    if f.type == "pattern" and isinstance(value, str):
        return next((form for form in (value.strip(), value.strip().lower()) if re.search(f.pattern, form)), value)
    return value
