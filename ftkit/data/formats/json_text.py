"""JSON in the forms that tools write: lines, a list, objects one after the other, wrapped, column by column."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import JsonLine
from ftkit.data.formats.table import Reading, Table, set_aside

DEEP = 3  # how many objects around a list are opened


class _Twice(dict):
    """An object in which a key stands twice: one of its values would be lost."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    return made if len(made) == len(pairs) else _Twice(made)


def read_json(path: Path, text: str, told: Reading) -> Table:
    """Read rows from JSON text. Raises `KitError` if nothing can be read, or several lists could be meant."""
    table = Table(path.name, [], [])
    items = _items(path, text, told, table)
    if lists := [value for _, _, value, _ in items if isinstance(value, list)]:
        items = _from_lists(items, lists, table)
    for number, line, value, fault in items:
        if isinstance(value, dict) and not _holds_twice(value):
            table.rows.append((number, value))
        else:
            twice = "a key stands twice in it" if isinstance(value, dict) else "it is not a JSON object"
            table.rejected.append(set_aside(number, fault or twice, line))
    table.columns = list(dict.fromkeys(key for _, row in table.rows for key in row))
    return table


def _holds_twice(value: Any) -> bool:
    if isinstance(value, _Twice):
        return True
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_holds_twice(one) for one in inside if isinstance(one, dict | list))


def _items(path: Path, text: str, told: Reading, table: Table) -> list[JsonLine]:
    """The values that are to be rows, each with its line, or its number in a list."""
    first = next(line for line in text.split("\n") if line.strip())
    alone = text.strip() == first.strip()
    if not alone and not _fault(first):
        return list(_json_lines(text))
    if _fault(text):
        return _one_after_the_other(path, text, table)
    value = json.loads(text, object_pairs_hook=_pairs)
    where, rows = _find_rows(path, value, told)
    table.unit = "row"
    if where:
        table.remarks.append(where)
    return [JsonLine(n, json.dumps(row, ensure_ascii=False, default=str)[:2000], row) for n, row in enumerate(rows, 1)]


def _fault(text: str) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        return str(error)
    return ""


def _json_lines(text: str) -> Iterator[JsonLine]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield JsonLine(number, line, json.loads(line, object_pairs_hook=_pairs))
            except (ValueError, RecursionError) as error:
                yield JsonLine(number, line, None, f"not JSON ({error})")


def _one_after_the_other(path: Path, text: str, table: Table) -> list[JsonLine]:
    """Objects over several lines, one after the other; after a fault it goes on with the next line that opens one."""
    decoder = json.JSONDecoder(object_pairs_hook=_pairs)
    items, at, line, counted = [], 0, 1, 0
    opening = re.compile(r"^[{\[]", re.MULTILINE)
    while match := re.compile(r"[\s,]*").match(text, at):
        at = match.end()
        if at >= len(text):
            break
        line += text.count("\n", counted, at)
        counted = at
        try:
            value, end = decoder.raw_decode(text, at)
            items.append(JsonLine(line, text[at:end][:2000], value))
        except (ValueError, RecursionError) as error:
            following = opening.search(text, at + 1)
            end = following.start() if following else len(text)
            items.append(JsonLine(line, text[at:end][:2000], None, f"not JSON ({error})"))
        at = end
    if not any(isinstance(item.value, dict) for item in items):
        printed = (
            " Python printed it, as it seems: write each row with json.dumps." if text.lstrip("[ \n")[:2] == "{'" else ""
        )
        raise KitError(f"{path} is not readable as JSON: line {items[0].number}: {items[0].fault or 'no object'}.{printed}")
    if any("\n" in item.text for item in items):
        table.remarks.append("objects over several lines, one after the other")
    return items


def _find_rows(path: Path, value: Any, told: Reading) -> tuple[str, list[Any]]:
    """(what was taken, in words; the rows) of a whole JSON text."""
    keys = told.part.split(".") if told.part else []
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            names = ", ".join(map(repr, value)) if isinstance(value, dict) else "no keys"
            raise KitError(f"{path}: there is no {key!r} (--part {told.part}); there is {names}.")
        value = value[key]
    found = dict(_lists(value, keys))
    if len(found) > 1:
        several = ", ".join(f"{name} ({len(rows):,})" for name, (rows, _) in found.items())
        raise KitError(f"{path} holds several lists of rows: {several}. Say which: --part NAME.")
    if not found:
        if isinstance(value, list):
            return "", value
        return "", [value]
    ((name, (rows, how)),) = found.items()
    return ", ".join(part for part in (f"the rows stand under {name!r}" if name else "", how) if part), rows


def _lists(value: Any, keys: list[str]) -> Iterator[tuple[str, tuple[list[Any], str]]]:
    """(name, (rows, how they were written)) of every list of rows in a value."""
    name = ".".join(keys)
    if isinstance(value, list):
        if value and all(isinstance(one, dict | list) for one in value):
            yield name, (value, "")
        return
    if not isinstance(value, dict) or not value:
        return
    inside = list(value.values())
    if set(value) >= {"columns", "data"} and isinstance(value["columns"], list):
        rows = [dict(zip(value["columns"], row, strict=False)) for row in value["data"]]
        yield name, (rows, "written as columns and data")
    elif _are_columns(inside):
        yield name, ([dict(zip(value, row, strict=True)) for row in zip(*inside, strict=True)], "written column by column")
    elif len(inside) > 1 and all(isinstance(one, dict) for one in inside) and len({tuple(one) for one in inside}) == 1:
        yield name, _indexed(value)
    elif len(keys) < DEEP:
        for key, one in value.items():
            if isinstance(one, dict | list):
                yield from _lists(one, [*keys, key])


def _are_columns(inside: list[Any]) -> bool:
    """Whether these are columns: lists of one length, and not lists of rows themselves (splits under their names)."""
    if not all(isinstance(one, list) for one in inside) or len({len(one) for one in inside}) != 1:
        return False
    return not all(isinstance(one, dict) for column in inside for one in column)


def _indexed(value: dict[str, dict[str, Any]]) -> tuple[list[Any], str]:
    """Rows under their numbers, or columns whose values stand under the rows' numbers (pandas writes both)."""
    inner = next(iter(value.values()))
    if all(re.fullmatch(r"\d+", key) for key in inner):
        return [{c: column[n] for c, column in value.items()} for n in inner], "written column by column, rows numbered"
    return list(value.values()), "written as an object of rows"


def _from_lists(items: list[JsonLine], lists: list[list[Any]], table: Table) -> list[JsonLine]:
    """Rows that are lists become objects with numbered columns, if all have one length; the others stay as they are."""
    width = len(lists[0])
    if any(len(one) != width for one in lists) or len(lists) < len(items) / 2 or not width:
        return items
    table.remarks.append("the rows are lists: the columns are numbered")

    def numbered(value: Any) -> Any:
        return {f"column {n}": v for n, v in enumerate(value, 1)} if isinstance(value, list) else value

    return [item._replace(value=numbered(item.value)) for item in items]
