"""CSV and its kin: separators, quotes that do not close, files without a header. No line is lost or swallowed."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from ftkit.common.errors import KitError
from ftkit.data.formats.table import AGAIN, Reading, Table, set_aside

SEPARATORS = ",;\t|^~\x1f\x01¦"
SAMPLE_LINES = 300
TITLES = 5  # records above the header, at most
FAR = 200  # lines after which the end of an open quote is not looked for any more
MANY = 5  # lines of one quoted field that could be rows of their own, from which this is worth a remark
SWALLOWED = "one quoted field, though its lines look like rows: is a quote too many? (--no-quotes: a quote is a character)"
UNCLOSED = "a quote that is not closed well: taken as a part of the text"
RULE = "it is the line that Markdown draws under a table's header"
NAMES = {"\t": "tab", "|": "bar", ",": "comma", ";": "semicolon"}


@dataclass(frozen=True)
class Dialect:
    """How a file separates and quotes: `escaped`: a quote in a quoted field is \\"; `spaced`: a space follows separators."""

    separator: str = ","
    quotes: bool = True
    escaped: bool = False
    spaced: bool = False

    def __str__(self) -> str:
        parts = [f"separator {NAMES.get(self.separator, repr(self.separator))}"]
        parts += ['quotes in quotes written \\"'] * self.escaped + ["spaces after separators"] * self.spaced
        return ", ".join(parts + ["quotes are plain characters"] * (not self.quotes))


@dataclass(frozen=True)
class Record:
    """A record: the line it begins in, its fields, its text, and either why it cannot be used, or what is odd about it."""

    line: int
    values: list[str]
    text: str
    fault: str = ""
    remark: str = ""

    @property
    def lines(self) -> str:
        """Where it stands: "12", or "12 to 33"."""
        last = self.line + len(self.text.rstrip("\r\n").splitlines()) - 1
        return f"{self.line} to {last}" if last > self.line else str(self.line)


def read_delimited(path: Path, text: str, told: Reading) -> Table:
    """Read the rows of a text with separators. Raises `KitError` for an empty file or a header that cannot be used."""
    csv.field_size_limit(2**31 - 1)
    lines = split_lines(text)
    start, separator = _named_separator(lines)
    if told.delimiter is not None and len(told.delimiter) != 1:
        raise KitError(f"The delimiter must be one character, not {told.delimiter!r}.")
    separator = told.delimiter or separator
    dialect = choose_dialect(lines[start:], separator, told.quotes)
    records = [record for record in read_records(lines, start, dialect) if any(v.strip() for v in record.values)]
    if not records:
        raise KitError(f"{path} is empty.")
    above, records = _skip_titles(records)
    has_header, why = (told.header, "as told") if told.header is not None else look_for_header(records)
    width = len(records[0].values)
    names = records[0].values if has_header else [""] * width
    table = Table(path.name, _header(path, names), [], [], [str(dialect), *above], typed=False)
    if not has_header:
        table.remarks.append(f"no header: {why}; the first line is a row, the columns are numbered (--header if it is one)")
    records = [_without_row(record, names, dialect) for record in records[has_header:]] if has_header else records
    _fill(table, list(_look_for_swallowed(records, dialect)), dialect)
    _drop_empty_columns(table, names)
    return table


def split_lines(text: str) -> list[str]:
    """The lines of a text, each with its end; a carriage return alone ends one only where the file's lines end so."""
    alone = text.count("\r") - text.count("\r\n")
    return list(io.StringIO(text, newline="" if alone > text.count("\n") else "\n"))


def _skip_titles(records: list[Record]) -> tuple[list[str], list[Record]]:
    """(remarks, the records from the header on): what stands above a table, such as a title, has one field and no more.

    That is so where nearly all records have more fields, or where the next one has the usual names of columns.
    """
    from ftkit.data.columns import is_known_name

    widths = Counter(len(record.values) for record in records)
    usual, count = widths.most_common(1)[0]
    above = 0
    for record, following in pairwise(records[: TITLES + 1]):
        alone = sum(bool(value.strip()) for value in record.values) == 1
        narrow = len(record.values) == 1 < usual and count >= 0.8 * (len(records) - TITLES)
        padded = len(record.values) > 1 and any(is_known_name(value, whole=True) for value in following.values)
        if not alone or any(is_known_name(value, whole=True) for value in record.values) or not (narrow or padded):
            break
        above += 1
    remarks = [
        f"line {record.lines}, {''.join(record.values).strip()[:60]!r}, stands above the table: left out"
        for record in records[:above]
    ]
    return remarks, records[above:]


def _named_separator(lines: list[str]) -> tuple[int, str | None]:
    """(the line where the table begins, its separator where the file says so: Excel's first line `sep=;`)."""
    match = re.fullmatch(r"\s*(\"?)sep=(.)\1\s*", lines[0], re.IGNORECASE) if lines else None
    return (1, match[2]) if match else (0, None)


def choose_dialect(lines: list[str], separator: str | None = None, quotes: bool = True) -> Dialect:
    """The separator and quoting by which the most lines of a sample have one number of fields."""
    sample = [line[:20_000] for line in lines[:SAMPLE_LINES]]
    text = "".join(sample)
    candidates = [separator] if separator else [s for s in SEPARATORS if s in text] or [","]
    best, most = Dialect(candidates[0], quotes), (0.0, 0)
    for one in candidates:
        for escaped in (False, True) if quotes and '\\"' in text else (False,):
            for spaced in (False, True) if quotes and one + ' "' in text else (False,):
                dialect = Dialect(one, quotes, escaped, spaced)
                value = _fit(sample, dialect)
                if value > most:
                    best, most = dialect, value
    return best


def _fit(sample: list[str], dialect: Dialect) -> tuple[float, int]:
    """(the share of the sample's lines in records of the usual width and without oddities, that width)."""
    records = list(read_records(sample, 0, dialect))
    spaced = [record for record in records if any(value.startswith(' "') for value in record.values)]
    odd = [record for record in records if record.fault or record.remark] + spaced
    widths = Counter(len(record.values) for record in records if record not in odd)
    width, count = widths.most_common(1)[0] if widths else (0, 0)
    prose = sum(any(value[:1] == " " for value in record.values[1:]) for record in records) > 0.5 * len(records)
    # a space after each separator: commas of sentences, unless nothing else separates
    return (count / len(records) / (2 if prose else 1) if width > 1 else 0.0, width)


def read_records(lines: list[str], start: int, dialect: Dialect) -> Iterator[Record]:
    """The records of a file from a line on (0 is the first). A quote that does not close well ends no other record."""
    at, width = start, 0
    if dialect.escaped:
        lines = [line.replace('\\"', '""') for line in lines]
    while at < len(lines):
        reader = csv.reader(
            (lines[n] for n in range(at, len(lines))),
            delimiter=dialect.separator,
            strict=True,
            skipinitialspace=dialect.spaced,
            quoting=csv.QUOTE_MINIMAL if dialect.quotes else csv.QUOTE_NONE,
        )
        began = at
        try:
            for values in reader:
                ended = at + reader.line_num
                width = width or len(values)
                yield Record(began + 1, values, "".join(lines[began:ended]))
                began = ended
            return
        except csv.Error:
            record, at = _odd(lines, began, width or 1, dialect)
            width = width or len(record.values)
            yield record


def _odd(lines: list[str], began: int, width: int, dialect: Dialect) -> tuple[Record, int]:
    """(the record that begins in a line with a quote that does not close well, the line after it).

    Read as one line, its quotes taken as they stand, or as several lines up to a quote before a separator or a line's
    end; where both readings fit, nobody can tell, and the lines are set aside.
    """
    line = lines[began]
    alone = split_line(line, dialect)
    if "\r" in line.rstrip("\r\n") and len(alone) == width:
        return Record(began + 1, alone, line, remark="a carriage return in the middle of a line: kept"), began + 1
    several, ended = _over_lines(lines, began, width, dialect)
    rest = lines[began + 1 : ended]
    if several and len(alone) == width and all(_is_whole(one, width, dialect) for one in rest):
        several = None  # the other lines are rows of their own, their quotes in order
    if several and len(alone) == width:
        fault = f"a quote opens here; it may close in line {ended}, or be a part of the text. Mend it"
        return Record(began + 1, alone, "".join(lines[began:ended]), fault), ended
    if several:
        remark = "a quoted field with quotes in it that are not doubled"
        return Record(began + 1, several, "".join(lines[began:ended]), remark=remark), ended
    if len(alone) == width:
        return Record(began + 1, alone, line, remark=UNCLOSED), began + 1
    return Record(began + 1, alone, line, "the line cannot be read as CSV (a quote is not closed well)"), began + 1


def _is_whole(line: str, width: int, dialect: Dialect) -> bool:
    return line.count('"') % 2 == 0 and len(split_line(line, dialect)) == width


def split_line(line: str, dialect: Dialect) -> list[str]:
    """The fields of one line; a quote that does not close before a separator or the end is a character."""
    return _fields(line.rstrip("\r\n"), dialect, r'(?:[^"]|"")*')


def _fields(text: str, dialect: Dialect, quoted: str) -> list[str]:
    mark = re.escape(dialect.separator)
    form = re.compile(rf'"({quoted})"(?={mark}|\Z)' if dialect.quotes else r"(?!)", re.DOTALL)
    values, at = [], 0
    while True:
        if match := form.match(text, at):
            values.append(match[1].replace('""', '"'))
            at = match.end()
        else:
            end = text.find(dialect.separator, at)
            end = len(text) if end < 0 else end
            values.append(text[at:end])
            at = end
        if at >= len(text):
            return values
        at += 1  # the separator


def _over_lines(lines: list[str], began: int, width: int, dialect: Dialect) -> tuple[list[str] | None, int]:
    """(the fields of lines that one quoted field holds together, the line after them); None where none does.

    A quote inside it at a line's beginning or after a separator opens a field of its own: then it is no such field.
    """
    closes = (f'"{dialect.separator}', '"\r', '"\n')
    text = lines[began]
    for ended in range(began + 2, min(began + FAR, len(lines)) + 1):
        line = lines[ended - 1]
        text += line
        if line.startswith('"') and not line.startswith(closes):
            break
        if '"' in line:
            values = _fields(text.rstrip("\r\n"), dialect, r".*?")
            if len(values) == width and any("\n" in value or "\r" in value for value in values):
                return values, ended
    return None, began + 1


def _look_for_swallowed(records: list[Record], dialect: Dialect) -> Iterator[Record]:
    """The records, with a remark where a quoted field seems to have swallowed rows.

    Its lines but the last look like rows if each has the right number of fields, and either they are many, or one of
    their fields has a value that other rows have too, as a label does.
    """
    often = [
        Counter(r.values[n] for r in records if n < len(r.values)) for n in range(len(records[0].values) if records else 0)
    ]
    for record in records:
        inside = [split_line(line, dialect) for line in split_lines(record.text)[:-1]]
        alike = [values for values in inside if len(values) == len(record.values) == len(often)]
        known = sum(
            any(value.strip() and (often[n][value] > 1 or value == record.values[n]) for n, value in enumerate(values))
            for values in alike
        )
        if inside and not record.remark and (known >= 0.8 * len(inside) or len(alike) > max(MANY, 0.8 * len(inside))):
            record = replace(record, remark=SWALLOWED)  # said, and still one field: it is well formed
        yield record


def look_for_header(records: list[Record]) -> tuple[bool, str]:
    """(whether the first record names the columns, why not): it does not if it holds what the rows below hold."""
    from ftkit.data.columns import is_known_name

    first, below = records[0].values, [r.values for r in records[1:500] if len(r.values) == len(records[0].values)]
    if not below or any(is_known_name(value, whole=True) for value in first):
        return True, ""
    for n, value in enumerate(first):
        if value.strip() and [row[n].strip() for row in below].count(value.strip()) >= 2:
            return False, f"{value.strip()[:40]!r} in the first line stands in the lines below too"
    if any(is_known_name(value) for value in first):
        return True, ""
    for value in first:
        if re.fullmatch(r"-?\d+([.,]\d+)?", value.strip()) and len(first) > 1:
            return False, f"{value.strip()[:40]!r} in the first line is a number"
        if len(value) > 60 and len(value.split()) > 6:
            return False, "the first line holds a text"
    return True, ""


def _without_row(record: Record, names: list[str], dialect: Dialect) -> Record:
    """The record, with its fault where it is no row: the header's names again, or the dashes under them."""
    values = [value.strip("\ufeff \t") for value in record.values]  # a file that was joined may bring its own mark
    if values == [name.strip() for name in names]:
        return replace(record, fault=AGAIN)
    rule = dialect.separator == "|" and any(values) and all(re.fullmatch(r":?-{3,}:?", value) for value in values if value)
    return replace(record, fault=RULE) if rule else record


def _header(path: Path, values: list[str]) -> list[str]:
    names = [value.strip() for value in values]
    if twice := [name for name, count in Counter(names).items() if count > 1 and name]:
        raise KitError(f"{path}, line 1: the header has {', '.join(map(repr, twice))} twice. Rename one of them.")
    return [name or f"column {n}" for n, name in enumerate(names, 1)]


def _fill(table: Table, records: list[Record], dialect: Dialect) -> None:
    """Put the records into rows; those that do not have the header's number of fields are set aside."""
    width = len(table.columns)
    odd: dict[str, list[str]] = {}
    for record in records:
        values = record.values
        while len(values) > width and not values[-1].strip():
            values = values[:-1]
        if record.fault:
            table.rejected.append(set_aside(record.line, record.fault, record.text))
        elif len(values) != width:
            reason = f"it has {len(values)} fields, the header has {width} (quotes or a {dialect.separator!r} in the text?)"
            table.rejected.append(set_aside(record.line, reason, record.text))
        else:
            table.rows.append((record.line, dict(zip(table.columns, values, strict=True))))
        if record.remark:
            odd.setdefault(record.remark, []).append(record.lines)
    for remark, where in odd.items():
        some = ", ".join(where[:8]) + (f" and {len(where) - 8} more" if len(where) > 8 else "")
        table.remarks.append(f"line {some}: {remark}")


def _drop_empty_columns(table: Table, names: list[str]) -> None:
    """Take out columns that have neither a name nor a value, as spreadsheets leave behind, and say so."""
    empty = [
        column
        for column, name in zip(table.columns, names, strict=True)
        if not name.strip() and table.rows and not any(row[column].strip() for _, row in table.rows)
    ]
    if empty:
        table.columns = [column for column in table.columns if column not in empty]
        table.rows = [(line, {c: row[c] for c in table.columns}) for line, row in table.rows]
        table.remarks.append(f"{len(empty)} empty column(s) without a name left out")
