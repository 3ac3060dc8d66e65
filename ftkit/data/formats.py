"""Reading other people's files: CSV, JSON lines, Parquet or a dataset of the hub, every bad line named (lesson 02)."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import JsonLine, json_lines
from ftkit.data.task import Row

Rejected = dict[str, Any]  # line, reason, text


@dataclass
class Table:
    """A file's columns, its rows with their line numbers, and the lines that could not be read."""

    source: str
    columns: list[str]
    rows: list[tuple[int, Row]]
    rejected: list[Rejected] = field(default_factory=list)


def read_table(source: str, encoding: str = "utf-8", delimiter: str | None = None, split: str = "train") -> Table:
    """Read CSV, TSV, JSON lines, a JSON list, Parquet, or a dataset of the hub ("owner/name", its `split`).

    Raises `KitError` naming the file, the line where there is one, and what to do.
    """
    path = Path(source).expanduser()
    if not path.exists():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not path.suffix:
            return _from_hub(source, split)
        raise KitError(f"{source} is missing: neither a file nor the id of a dataset on the hub (owner/name).")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KitError(f"{path} cannot be read: {error.strerror}.") from None
    if not data.strip():
        raise KitError(f"{path} is empty.")
    if data[:4] == b"PAR1" or path.suffix.lower() == ".parquet":
        return _from_parquet(path)
    text = _decoded(path, data, encoding)
    del data
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".json") or (suffix not in (".csv", ".tsv") and text.lstrip()[:1] in "{["):
        return _from_json(path, text)
    return _from_csv(path, text, "\t" if suffix == ".tsv" and delimiter is None else delimiter)


def _decoded(path: Path, data: bytes, encoding: str) -> str:
    if b"\0" in data[:65536] and not encoding.lower().startswith(("utf-16", "utf-32", "utf16", "utf32")):
        what = "an Excel workbook or another archive" if data[:2] == b"PK" else "a binary file"
        raise KitError(f"{path} is {what}, not text. Save it as CSV in UTF-8, or give a .csv, .jsonl or .parquet file.")
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise KitError(f"There is no encoding {encoding!r}; try utf-8, cp1252 or utf-16.") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        shown = data[error.start : error.start + 1].hex() or "?"
        raise KitError(
            f"{path}, line {line}: byte 0x{shown} is not {encoding}. Save the file as UTF-8, or name its encoding "
            "(--encoding cp1252 for files from Windows)."
        ) from None


def _from_csv(path: Path, text: str, delimiter: str | None) -> Table:
    header = text.lstrip("\r\n").split("\n", 1)[0][:100_000]
    delimiter = delimiter or max(",;\t|", key=header.count)
    if len(delimiter) != 1:
        raise KitError(f"The delimiter must be one character, not {delimiter!r}.")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns: list[str] | None = None
    rows, rejected = [], []
    while True:
        began = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            reason = f"the line cannot be read as CSV ({error})"
            if columns is None:
                raise KitError(f"{path}, line {began}: {reason}.") from None
            rejected.append({"line": began, "reason": reason, "text": ""})
            continue
        if not any(value.strip() for value in values):
            continue
        if columns is None:
            columns = _header(path, values)
        elif len(values) != len(columns):
            reason = f"it has {len(values)} fields, the header has {len(columns)} (quotes or a {delimiter!r} in the text?)"
            rejected.append({"line": began, "reason": reason, "text": delimiter.join(values)[:2000]})
        else:
            rows.append((began, dict(zip(columns, values, strict=True))))
    if columns is None:
        raise KitError(f"{path} is empty.")
    return Table(path.name, columns, rows, rejected)


def _header(path: Path, values: list[str]) -> list[str]:
    names = [value.strip() for value in values]
    if twice := [name for name, count in Counter(names).items() if count > 1 and name]:
        raise KitError(f"{path}, line 1: the header has {', '.join(map(repr, twice))} twice. Rename one of them.")
    if len(names) == 1 and len(names[0]) > 200:
        raise KitError(
            f"{path}, line 1: this is no header but a text of {len(names[0]):,} characters. Name the columns first."
        )
    return [name or f"column {n}" for n, name in enumerate(names, 1)]


def _from_json(path: Path, text: str) -> Table:
    rows, rejected = [], []
    if text.lstrip().startswith("["):
        try:
            lines = [JsonLine(number, str(value), value) for number, value in enumerate(json.loads(text), 1)]
        except (ValueError, RecursionError) as error:
            raise KitError(f"{path} is not readable as a JSON list: {error}. One object a line is taken too.") from None
    else:
        lines = list(json_lines(text))
    for number, line, value, fault in lines:
        if isinstance(value, dict):
            rows.append((number, value))
        else:
            rejected.append({"line": number, "reason": fault or "it is not a JSON object", "text": line[:2000]})
    columns = list(dict.fromkeys(key for _, row in rows for key in row))
    return Table(path.name, columns, rows, rejected)


def _from_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        rows = list(enumerate(table.to_pylist(), 1))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise KitError(f"{path} is not readable as Parquet: {str(error).splitlines()[0]}.") from None
    return Table(path.name, list(table.column_names), rows)


def _from_hub(name: str, split: str) -> Table:
    import datasets

    try:
        data = datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub's client raises many kinds: no network, no such dataset, no such split
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise KitError(f"{name} is not a file, and as a dataset of the hub it could not be loaded: {reason}") from None
    return Table(name, list(data.column_names), list(enumerate(data.to_list(), 1)))
