"""Parquet, Excel, and datasets of the `datasets` library, from a folder or from the hub. Classes come with their names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.data.formats.table import AGAIN, Reading, Table, set_aside

HUB = b"huggingface"  # where `datasets` writes its features into a Parquet file


def read_parquet(path: Path) -> Table:
    """Read a Parquet file. Raises `KitError` if it is none."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise KitError(f"{path} is not readable as Parquet: {str(error).splitlines()[0]}.") from None
    named: dict[str, Any] = {}
    if HUB in (table.schema.metadata or {}):
        named = json.loads(table.schema.metadata[HUB]).get("info", {}).get("features", {})
    return _table(path.name, list(table.column_names), rows, named)


def _table(source: str, columns: list[str], rows: Iterable[dict[str, Any]], features: dict[str, Any]) -> Table:
    """A table of rows, the numbers of classes replaced by their names; `features` as `datasets` writes them."""
    names = {column: change for column in columns if (change := _namer(features.get(column)))}
    changed = [{key: names[key](value) if key in names else value for key, value in row.items()} for row in rows]
    table = Table(source, columns, list(enumerate(changed, 1)), unit="row")
    table.remarks += [f"{column}: numbers of classes replaced by the names that the file gives them" for column in names]
    return table


def _namer(feature: Any) -> Callable[[Any], Any] | None:
    """What turns a column's class numbers into names; None for a column without classes. -1 is no label."""
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names") or []
        return lambda value: names[value] if isinstance(value, int) and 0 <= value < len(names) else None
    if feature.get("_type") in ("List", "Sequence", "LargeList") and (one := _namer(feature.get("feature"))):
        return lambda values: None if values is None else [one(value) for value in values]
    return None


def read_workbook(path: Path, told: Reading) -> Table:
    """Read a sheet of an Excel workbook (.xlsx), the first one with rows unless told. Raises `KitError` if it is none."""
    import zipfile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = load_workbook(path, read_only=True, data_only=True)
        sheets = {sheet.title: [list(row) for row in sheet.iter_rows(values_only=True)] for sheet in book.worksheets}
        book.close()
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise KitError(f"{path} is not readable as an Excel workbook (.xlsx): {error}.") from None
    filled = {name: rows for name, rows in sheets.items() if any(_is_filled(row) for row in rows)}
    if told.part and told.part not in sheets:
        raise KitError(f"{path} has the sheets {', '.join(map(repr, sheets))}: there is no {told.part!r}.")
    name = told.part or next(iter(filled), None)
    if name is None or name not in filled:
        raise KitError(f"{path} is empty.")
    table = _of_cells(path.name, filled[name], told)
    if len(filled) > 1:
        others = ", ".join(map(repr, (other for other in filled if other != name)))
        table.remarks.insert(0, f"sheet {name!r} taken, not {others} (--part NAME for another)")
    return table


def _is_filled(row: list[Any]) -> bool:
    return any(cell is not None and str(cell).strip() for cell in row)


def _of_cells(source: str, cells: list[list[Any]], told: Reading) -> Table:
    """A sheet's table: its first filled row is the header unless told; columns without a name and a value are left out."""
    numbered = [(number, row) for number, row in enumerate(cells, 1) if _is_filled(row)]
    first = numbered[0][1]
    header = told.header is not False
    width = max(len(row) for _, row in numbered)
    names = [str(v).strip() if header and v is not None else "" for v in first] + [""] * (width - len(first))
    columns = [name or f"column {n}" for n, name in enumerate(names, 1)]
    if twice := {name for name in columns if columns.count(name) > 1}:
        raise KitError(f"{source}: the header has {', '.join(map(repr, sorted(twice)))} twice. Rename one of them.")
    again = [n for n, row in numbered[1:] if header and [*_texts(row), *[""] * (width - len(row))] == names]
    body = [(n, row) for n, row in numbered[header:] if n not in again]
    empty = {n for n, name in enumerate(names) if not name and all(len(r) <= n or r[n] in (None, "") for _, r in body)}
    kept = [(n, column) for n, column in enumerate(columns) if n not in empty]
    rows = [(number, {column: row[n] if n < len(row) else None for n, column in kept}) for number, row in body]
    remarks = [f"{len(empty)} empty column(s) without a name left out"] * bool(empty)
    rejected = [set_aside(number, AGAIN, columns) for number in again]
    return Table(source, [column for _, column in kept], rows, rejected, remarks, unit="row")


def _texts(row: list[Any]) -> list[str]:
    return ["" if value is None else str(value).strip() for value in row]


def read_saved(folder: Path, told: Reading) -> Table:
    """Read a folder that `datasets` saved (`save_to_disk`). Raises `KitError` if it is none."""
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # a damaged folder ends in many kinds of errors
        raise KitError(
            f"{folder} is a folder, and not one that datasets saved with save_to_disk ({_first_line(error)}). "
            "Give one file of it, such as a .parquet or .jsonl."
        ) from None
    remarks = []
    if isinstance(data, datasets.DatasetDict):
        counts = ", ".join(f"{name} ({len(part):,})" for name, part in data.items())
        if told.split not in data:
            raise KitError(f"{folder} has the splits {counts}: there is no {told.split!r} (--split NAME).")
        remarks = [f"split {told.split!r} taken of {counts} (--split NAME for another)"] * (len(data) > 1)
        data = data[told.split]
    table = _of_dataset(folder.name, data)
    table.remarks[:0] = remarks
    return table


def read_hub(name: str, told: Reading) -> Table:
    """Read a dataset of the hub, `part` being its configuration. Raises `KitError` with the hub's reason."""
    import datasets

    try:
        data = datasets.load_dataset(name, told.part, split=told.split) if told.part else None
        data = data if data is not None else datasets.load_dataset(name, split=told.split)
    except Exception as error:  # the hub's client raises many kinds: no network, no such dataset, no such split
        reason = _first_line(error)
        raise KitError(f"{name} is not a file, and as a dataset of the hub it could not be loaded: {reason}") from None
    table = _of_dataset(name, data)
    table.remarks.insert(0, f"split {told.split!r} of the hub's dataset (--split NAME for another)")
    return table


def _of_dataset(source: str, data: Any) -> Table:
    return _table(source, list(data.column_names), data.to_list(), data.features.to_dict())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
