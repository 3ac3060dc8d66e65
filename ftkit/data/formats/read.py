"""Which reader a file gets: by its content first, then by its name."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from ftkit.common.errors import KitError
from ftkit.common.paths import expanded
from ftkit.data.formats.decode import MARKUP, TAKEN, decode
from ftkit.data.formats.delimited import read_delimited
from ftkit.data.formats.json_text import read_json
from ftkit.data.formats.table import Reading, Table, set_aside
from ftkit.data.task import HALF_CHARACTER

NUL = "it holds a byte of value 0, which no text has: remove it, or the line"
DETACHED = "it holds a byte that is not UTF-8 (0x{}): save the file as UTF-8 again, or mend the line"


def read_table(source: str, told: Reading | None = None) -> Table:
    """Read CSV and its kin, JSON in several forms, Parquet, Excel, a folder of `datasets`, or a dataset of the hub.

    `source` is a path or a hub's id ("owner/name"); `told` says what shall not be guessed. What was guessed stands in the
    table's `remarks`. Raises `KitError` naming the file, the line where there is one, and what to do.
    """
    told = told or Reading()
    path = expanded(source)
    if not path.exists():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not path.suffix:
            from ftkit.data.formats.columnar import read_hub

            return _open_only_column(read_hub(source, told))
        raise KitError(f"{source} is missing: neither a file nor the id of a dataset on the hub (owner/name).")
    if path.is_dir():
        from ftkit.data.formats.columnar import read_saved

        return _open_only_column(read_saved(path, told))
    return _open_only_column(_read_file(path, told))


def _open_only_column(table: Table) -> Table:
    """Where the only column holds objects, as files of translations have it, their keys become the columns."""
    (only,) = table.columns if len(table.columns) == 1 else (None,)
    if only is not None and table.rows and all(isinstance(row.get(only), dict) for _, row in table.rows):
        table.rows = [(line, row[only]) for line, row in table.rows]
        table.columns = list(dict.fromkeys(key for _, row in table.rows for key in row))
        table.remarks.append(f"the only column, {only!r}, holds objects: their keys are the columns")
    return table


def _read_file(path: Path, told: Reading) -> Table:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KitError(f"{path} cannot be read: {error.strerror}.") from None
    if not data.strip():
        raise KitError(f"{path} is empty.")
    suffix = path.suffix.lower()
    if data[:4] == b"PAR1" or suffix == ".parquet":
        from ftkit.data.formats.columnar import read_parquet

        return read_parquet(path)
    if data[:2] == b"PK" and _is_workbook(path):
        from ftkit.data.formats.columnar import read_workbook

        return read_workbook(path, told)
    text, remarks = decode(path, data, told.encoding)
    del data
    if not text.strip():
        raise KitError(f"{path} is empty.")
    if language := "YAML" if suffix in (".yaml", ".yml") else "XML or HTML" if MARKUP.match(text) else "":
        raise KitError(f"{path} is {language}: save its rows in another form first. {TAKEN}.")
    table = read_json(path, text, told) if _is_json(suffix, text) else read_delimited(path, text, told)
    table.remarks[:0] = remarks
    _set_half_characters_aside(table)
    return table


def _is_json(suffix: str, text: str) -> bool:
    if suffix in (".jsonl", ".ndjson", ".json"):
        return True
    first = text.lstrip().split("\n", 1)[0].strip()
    return first[:1] in ("{", "[") and (suffix not in (".csv", ".tsv") or first[-1] in "}]")


def _is_workbook(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except zipfile.BadZipFile:
        return False


def _set_half_characters_aside(table: Table) -> None:
    """Set rows aside that hold a byte which no character could be made of, or a zero."""
    good = []
    for line, row in table.rows:
        text = "".join(value for value in row.values() if isinstance(value, str))
        match = None if text.isascii() else HALF_CHARACTER.search(text)
        if "\0" in text:
            table.rejected.append(set_aside(line, NUL, row))
            continue
        if match and "\udc80" <= match[0] <= "\udcff":
            table.rejected.append(set_aside(line, DETACHED.format(f"{ord(match[0]) - 0xDC00:02x}"), row))
        else:
            good.append((line, row))
    table.rows = good
