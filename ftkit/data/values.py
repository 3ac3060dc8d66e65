"""Closed values: those that differ only in spelling, those that look like missing ones, and merging them (lesson 02)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ftkit.common.errors import KitError
from ftkit.data.columns import MISSING, trim
from ftkit.data.faults.answers import spelling_key
from ftkit.data.task import Row, Task

Merges = dict[str, dict[str, str]]  # {field, or the target's name: {value: the value that it becomes}}


def labels_of(task: Task, rows: Sequence[Row]) -> dict[str, list[str]]:
    """The closed fields of rows: {field: its value in each row}; of a `label` task {target: the labels}."""
    if task.kind == "label":
        return {task.target: [row[task.target] for row in rows]}
    closed = [f.name for f in task.fields if f.type == "choice" and not f.nullable]
    return {name: [row[task.target][name] for row in rows] for name in closed}


def closed_values(task: Task) -> dict[str, tuple[str, ...]]:
    """The closed fields and the values that `task.toml` lists for each; of a `label` task {target: labels}."""
    if task.kind == "label":
        return {task.target: task.labels}
    return {f.name: f.values for f in task.fields if f.type in ("choice", "set")}


def values_of(task: Task, name: str, rows: Iterable[Row]) -> list[Any]:
    """What stands in a field of each row's answer; of a set every name."""
    values: list[Any] = []
    for row in rows:
        answer = row.get(task.target)
        value = answer if task.kind == "label" else answer.get(name) if isinstance(answer, dict) else None
        values += value if isinstance(value, list) else [value]
    return values


def alike(values: Sequence[str], counts: Mapping[Any, int], spelling: bool) -> dict[str, str]:
    """{value: the one it should be merged into}, of values that differ only in spaces around them.

    With `spelling` also those that differ only in case, spaces, hyphens or underscores. The most frequent spelling stays.
    """
    members: dict[str, list[str]] = {}
    for value in values:
        members.setdefault(spelling_key(value) or value if spelling else trim(value), []).append(value)
    merges: dict[str, str] = {}
    for some in members.values():
        stays = max(some, key=lambda value: (value == trim(value), counts.get(value, 0)))
        merges |= {value: trim(stays) for value in some if value != trim(stays)}
    return merges


def find_merges(task: Task, rows: Sequence[Row], told: Mapping[str, str], spelling: bool) -> Merges:
    """Which values become which: those told, then those that are alike (see `alike`).

    Raises `KitError` for a value that no closed field has.
    """
    listed, merges = closed_values(task), Merges()
    for old, new in told.items():
        if not any(old in values for values in listed.values()):
            known = "; ".join(f"{name}: {', '.join(map(repr, values))}" for name, values in listed.items())
            raise KitError(f"--merge {old}={new}: no value is {old!r}. The task has {known or 'no closed values'}.")
    for name, values in listed.items():
        mine = {old: new for old, new in told.items() if old in values and old != new}
        counts = Counter(value for value in values_of(task, name, rows) if isinstance(value, str))
        found = alike([value for value in values if value not in mine], counts, spelling) | mine
        if found:
            merges[name] = {old: found.get(new, new) for old, new in found.items()}
    return merges


def merge_task(task: Task, merges: Merges) -> tuple[Task, list[str]]:
    """The task with merged values in its list, fields and system prompt, and a remark on each change."""
    remarks = [f"{name}: {old!r} becomes {new!r}" for name, some in merges.items() for old, new in some.items()]
    prompt = task.system_prompt
    for name, values in closed_values(task).items():
        prompt = _rewrite(prompt, values, _merged(values, merges.get(name, {})))
    if prompt != task.system_prompt:
        remarks.append(f"system prompt: {task.system_prompt!r} becomes {prompt!r}")
    labels = _merged(task.labels, merges.get(task.target, {})) if task.kind == "label" else task.labels
    fields = tuple(replace(f, values=_merged(f.values, merges.get(f.name, {}))) for f in task.fields)
    return replace(task, labels=labels, fields=fields, system_prompt=prompt), remarks


def merge_answer(task: Task, answer: Any, merges: Merges) -> tuple[Any, list[str]]:
    """An answer with merged values, and what was done."""
    if task.kind == "label":
        new = merges.get(task.target, {}).get(answer) if isinstance(answer, str) else None
        return (answer, []) if new is None else (new, [f"merged {answer!r} into {new!r}"])
    if not isinstance(answer, dict):
        return answer, []
    done, merged = [], dict(answer)
    for name, some in merges.items():
        value = answer.get(name)
        if isinstance(value, str) and value in some:
            merged[name] = some[value]
        elif isinstance(value, list) and any(isinstance(v, str) and v in some for v in value):
            merged[name] = sorted({some.get(v, v) if isinstance(v, str) else v for v in value}, key=str)
        if merged.get(name) != value:
            done.append(f"merged {name} {value!r} into {merged[name]!r}")
    return merged, done


def _merged(values: tuple[str, ...], some: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(some.get(value, value) for value in values))


def _rewrite(prompt: str, old: tuple[str, ...], new: tuple[str, ...]) -> str:
    """The prompt with the list of values that it gives, if it gives one: in any order, parted by commas."""
    if old == new or not old:
        return prompt
    one = "|".join(re.escape(value) for value in sorted(old, key=len, reverse=True))
    quote = "[\"'`“”‘’]?"
    listed = re.compile(
        rf"(?:{quote}(?:{one}){quote}(?:\s*[,;/|]\s*(?:and |or )?|\s+(?:and|or)\s+)){{1,}}{quote}(?:{one}){quote}(?!\w)"
    )

    def again(match: re.Match[str]) -> str:
        if any(value not in match[0] for value in old):
            return match[0]
        quoted = re.match(quote, match[0])
        mark = quoted[0] if quoted else ""
        return ", ".join(f"{mark}{value}{mark}" for value in new)

    return listed.sub(again, prompt)


def find_missing(values: Sequence[Any]) -> dict[str, int]:
    """{value: how often} of values that look like missing ones among real ones.

    A single spelling that is as frequent as a real value is one of them (NA for North America) and is left out.
    """
    counts = Counter(value for value in values if isinstance(value, str))
    missing = {value: n for value, n in counts.most_common() if trim(value).casefold() in ("", *MISSING)}
    real = [n for value, n in counts.items() if value not in missing]
    if not real or (len(missing) == 1 and max(missing.values()) >= min(real)):
        return {}
    return missing


def odd_values(name: str, values: Sequence[str]) -> list[str]:
    """Remarks on a closed set: values that differ only in spelling, and values that look like missing ones."""
    counts = Counter(values)
    spelled: dict[str, list[str]] = {}
    for value in sorted(counts):
        spelled.setdefault(spelling_key(value) or value, []).append(value)
    remarks = [
        f"{name}: {', '.join(f'{value!r} ({counts[value]:,})' for value in some)} differ only in spelling. "
        "To merge them: ftkit task clean --merge-spelling"
        for some in spelled.values()
        if len(some) > 1
    ]
    if missing := find_missing(values):
        shown = ", ".join(f"{value!r} ({n:,})" for value, n in missing.items())
        remarks.append(f"{name}: {sum(missing.values()):,} row(s) look like missing ones: {shown}. Kept as they are")
    return remarks
