"""The right reading of each file of this folder, by plain means and without ftkit: what its tests are held against."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.brought.make import HERE, WEATHER


class Reading(NamedTuple):
    """A row, counted from 1 without the header: what goes in, and what should come out. None: the file has nothing there."""

    row: int
    message: str | None
    target: Any


EXPECTED: dict[str, dict[str, Any]] = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))


def reading(name: str, made: Path) -> list[Reading]:
    """All rows of a file, those to be set aside too. `made` is the folder that make.py filled.

    Conversations of several turns give their list of (who, text) as the message, and no target.
    """
    path = (made if EXPECTED[name]["made"] else HERE) / name
    return [Reading(row, *pair) for row, pair in enumerate(READ[name](path), 1)]


def _turns(turns: list[tuple[str, str]]) -> tuple[Any, Any]:
    if [who for who, _ in turns] == ["user", "assistant"]:
        return turns[0][1], turns[1][1]
    return turns, None


def _bicycle_workshop(path: Path) -> Iterator[tuple[Any, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield _turns([(turn["role"], turn["content"]) for turn in json.loads(line)["messages"] if turn["role"] != "system"])


def _houseplants(path: Path) -> Iterator[tuple[Any, Any]]:
    names = {"human": "user", "gpt": "assistant"}
    for row in json.loads(path.read_text(encoding="utf-8")):
        yield _turns([(names[turn["from"]], turn["value"]) for turn in row["conversations"]])


def _rewriting(path: Path) -> Iterator[tuple[Any, Any]]:
    for row in json.loads(path.read_text(encoding="utf-8")):
        yield "\n\n".join(filter(None, (row["instruction"], row.get("input")))), row["output"] or None


def _library_shelves(path: Path) -> Iterator[tuple[Any, Any]]:
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        yield row["prompt"] or None, row["completion"].strip()


def _rathaus(path: Path) -> Iterator[tuple[Any, Any]]:
    text = path.read_bytes().decode("cp1252").removeprefix("sep=;\r\n")
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=";"):
        if any(row.values()):
            yield row["Beschwerde"] or None, {"Amt": row["Amt"], "Dringlichkeit": int(row["Dringlichkeit"])}


def _film_reviews(path: Path) -> Iterator[tuple[Any, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        text, label = line.split("\t")
        yield text, label or None


def _job_advertisements(path: Path) -> Iterator[tuple[Any, Any]]:
    import openpyxl

    for _, _, text, _, sector in openpyxl.load_workbook(path)["Advertisements"].iter_rows(min_row=2, values_only=True):
        if text:
            yield text, sector


def _weather_remarks(path: Path) -> Iterator[tuple[Any, Any]]:
    import pyarrow.parquet
    from datasets import Dataset

    data = Dataset.load_from_disk(str(path)) if path.is_dir() else Dataset(pyarrow.parquet.read_table(path))
    for row in data:
        yield row["remark"], WEATHER[row["label"]] if row["label"] >= 0 else None


def _greetings(path: Path) -> Iterator[tuple[Any, Any]]:
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    yield from zip(data["text"], data["label"], strict=True)


def _support_tickets(path: Path) -> Iterator[tuple[Any, Any]]:
    faults = json.loads(path.with_suffix(".faults.json").read_text(encoding="utf-8"))
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    stray = faults["lines"][str(faults["stray_quote"])] - 1
    for part in (lines[1:stray], None, lines[stray + 1 :]):
        rows = [lines[stray].split(",")] if part is None else csv.reader(io.StringIO("\n".join(part), newline=""))
        for _, _, text, queue in rows:
            yield text, queue.strip() or None


READ = {
    "bicycle_workshop.jsonl": _bicycle_workshop,
    "houseplants.json": _houseplants,
    "rewriting.json": _rewriting,
    "library_shelves.jsonl": _library_shelves,
    "rathaus.csv": _rathaus,
    "film_reviews.tsv": _film_reviews,
    "job_advertisements.xlsx": _job_advertisements,
    "weather_remarks.parquet": _weather_remarks,
    "weather_remarks": _weather_remarks,
    "greetings.json": _greetings,
    "support_tickets.csv": _support_tickets,
}
