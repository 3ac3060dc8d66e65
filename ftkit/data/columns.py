"""What a table's columns hold: the message, the target and its kind, and how values become JSON (lesson 02)."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import dump
from ftkit.data.formats.table import Table, too_few
from ftkit.data.task import Field, Kind, Row

MESSAGES = "message text prompt question instruction input sentence review content query utterance comment body email"
TARGETS = "target label labels answer ticket output completion response reply category class intent sentiment tag topic"
CLOSED = 50  # a column with more different values is no closed set
PATTERNS = {
    "HH:MM on the 24-hour clock": r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
    "a date as YYYY-MM-DD": r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$",
}
# spaces of all kinds, and marks that nobody sees: they stand at a value's end by accident
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f"
MISSING = ("nan", "none", "null", "n/a", "na", "nil", "missing", "unknown", "undefined", "-", "--", "?", "#n/a")


def is_known_name(name: str, whole: bool = False) -> bool:
    """Whether a column of this name is taken for a message or a target; `whole`: only the usual names themselves."""
    if whole:
        return name.strip().casefold() in f"{MESSAGES} {TARGETS}".split()
    return len(name.split()) <= 3 and any(_words(name, names) for names in (MESSAGES, TARGETS))


def _words(column: str, names: str) -> bool:
    """Whether one of the names stands in a column's name as a word: "text" in "Customer text" and in "customer_text"."""
    return bool(set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", column).casefold())) & set(names.split()))


def choose_columns(
    table: Table, message: str | None, targets: Sequence[str], ask: Callable[[str, list[str]], str] | None = None
) -> tuple[str, tuple[str, ...]]:
    """Which column is the message and which hold the target: as named, else by usual names, else by content, else `ask`.

    By content the message is the one column of prose, the target the one other column with few different values; the
    table's remarks say so. Raises `KitError` listing the columns when one is missing or nobody can be asked.
    """
    if not table.rows:
        raise KitError(too_few(table, 0, table.rejected))
    all_columns = f"{table.source} has the columns {', '.join(map(_shown, table.columns)) or '(none)'}"
    for name in (*([message] if message else []), *targets):
        if name not in table.columns:
            raise KitError(f"{all_columns}: there is no {name!r}.")
    column_of: dict[str, str] = {}
    for what, told in (("message", message), ("target", targets[0] if targets else None)):
        free = [c for c in table.columns if c not in (*targets, *column_of.values())]
        chosen = told or _guess_column(table, what, free)
        if not chosen and ask and free:
            chosen = ask(what, free)
        if not chosen:
            raise KitError(f"{all_columns}: say which is the {what} (--{what} NAME).{_advice(table, what, column_of)}")
        if chosen not in table.columns:
            raise KitError(f"{all_columns}: there is no {chosen!r}.")
        column_of[what] = chosen
    answers = tuple(targets) or (column_of["target"],)
    if column_of["message"] in answers:
        raise KitError(f"{column_of['message']!r} cannot be both message and target.")
    return column_of["message"], answers


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:59]}…")


def _advice(table: Table, what: str, chosen: dict[str, str]) -> str:
    """The columns that could be the target, as they would be given."""
    if len(table.columns) == 1:
        return " A row needs two things, a text and what should be answered to it, or the marks of a chat."
    if what != "target":
        return ""
    free = {c: [row.get(c) for _, row in table.rows[:2000]] for c in table.columns if c not in chosen.values()}
    fitting = [c for c in free if _closed(free[c])]
    counts = ", ".join(f"{_shown(c)} ({len(set(map(as_text, free[c])))} values)" for c in fitting)
    options = " ".join([f'--message "{chosen["message"]}"', *(f'--target "{c}"' for c in fitting)])
    each = "one of these, or each for an object with all of them" if len(fitting) > 1 else "this one"
    return f" It could be {counts}; {each}: {options}" if fitting else ""


def _guess_column(table: Table, what: str, free: list[str]) -> str | None:
    names = MESSAGES if what == "message" else TARGETS
    by_content = _prose if what == "message" else _closed
    values = {c: [row.get(c) for _, row in table.rows[:2000]] for c in free}
    known = [c for name in names.split() for c in free if c.casefold().strip() == name]
    numbers = [c for c in free if _numbers_rows(values[c]) and not (c in known and _fits_a_pattern(values[c]))]
    if skipped := [c for c in known if c in numbers]:
        table.remarks.append(f"{', '.join(map(repr, skipped))}: a number or address of each row, not taken as the {what}")
    if known := [c for c in known if c not in numbers]:
        return known[0]
    free = [c for c in free if c not in numbers]
    fitting = [c for c in free if by_content(values[c])]
    if named := [c for c in free if _words(c, names) and (c in fitting or what == "target")]:
        table.remarks.append(f"{what}: {named[0]!r}, by its name (--{what} NAME for another)")
        return named[0]
    if len(fitting) == 1:
        why = "the only column of prose" if what == "message" else "the only other column with few different values"
        table.remarks.append(f"{what}: {fitting[0]!r}, {why} (--{what} NAME for another)")
        return fitting[0]
    return None


def _numbers_rows(values: list[Any]) -> bool:
    """Whether values only tell rows apart, as ticket numbers and addresses do: all different, one word with a digit or @."""
    texts = [str(value) for value in values if not is_missing(value)]
    plain = sum(bool(re.fullmatch(r"\S{1,60}", text)) and bool(re.search(r"[\d@]", text)) for text in texts)
    return len(texts) >= 10 and plain >= 0.9 * len(texts) and len(set(texts)) >= 0.9 * len(texts)


def _fits_a_pattern(values: list[Any]) -> bool:
    """Whether all values are dates, or all are times, as `PATTERNS` writes them: answers that may differ in each row."""
    texts = [str(value).strip() for value in values if not is_missing(value)]
    return any(all(re.fullmatch(pattern, text) for text in texts) for pattern in PATTERNS.values())


def _prose(values: list[Any]) -> bool:
    """Whether values are texts that people wrote: mostly different, and longer than a name."""
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if len(texts) < len(values) / 2 or not texts:
        return False
    long = sum(len(text.split()) >= 3 or (not text.isascii() and len(text) >= 8) for text in texts)
    return long >= 0.6 * len(texts) and len(set(texts)) >= 0.5 * len(texts)


def _closed(values: list[Any]) -> bool:
    """Whether values are of a closed set: few different ones, each standing often."""
    different = {dump(value) for value in values if not is_missing(value)}
    return 2 <= len(different) <= CLOSED and len(different) <= len(values) / 3 and max(map(len, different)) <= 62


def guess_kind(values: Sequence[Any]) -> tuple[Kind, str]:
    """(kind, reason) from the targets: `json` for objects, `label` for a small closed set, else `text`."""
    if values and sum(isinstance(value, dict) for value in values) >= 0.9 * len(values):
        return "json", "the targets are objects"
    different = Counter(str(value).strip() for value in values)
    longest = max(map(len, different), default=0)
    if 2 <= len(different) <= CLOSED and len(different) <= len(values) / 3 and longest <= 60:
        return "label", f"there are only {len(different)} different targets"
    if len(different) == 1:
        return "text", "all targets are the same: there is nothing to learn from them"
    return "text", f"there are {len(different):,} different targets"


def guess_fields(answers: Sequence[Row]) -> tuple[Field, ...]:
    """The fields of a `json` task, from its answers. Raises `KitError` for values inside values, which are not taken."""
    fields = []
    for name in dict.fromkeys(key for answer in answers for key in answer):
        values = [answer.get(name) for answer in answers]
        present = [value for value in values if value is not None]
        nullable = len(present) < len(values)
        about = name.replace("_", " ")
        kinds = Counter(type(value) for value in present)
        kind = kinds.most_common(1)[0][0] if kinds else str
        mine = [value for value in present if type(value) is kind]
        if kind is bool:
            fields.append(Field(name, "boolean", about, nullable=nullable))
        elif kind in (int, float):
            numeric = "number" if kinds[float] else "integer"
            fields.append(Field(name, numeric, about, nullable=nullable))
        elif kind is list and all(isinstance(v, str) for value in mine for v in value):
            closed = tuple(sorted({v for value in mine for v in value}))
            fields.append(Field(name, "set", about, values=closed))
        elif kind is str:
            fields.append(_text_field(name, about, mine, nullable))
        else:
            raise KitError(
                f"The target's {name!r} holds {kind.__name__}s inside: only text, numbers and lists of names are taken."
            )
    return tuple(fields)


def _text_field(name: str, about: str, values: list[str], nullable: bool) -> Field:
    different = sorted(set(values))
    for form, pattern in PATTERNS.items():
        if values and all(re.fullmatch(pattern, value) for value in different):
            return Field(name, "pattern", about, pattern=pattern, form=form, nullable=nullable)
    if 2 <= len(different) <= CLOSED and len(different) <= len(values) / 3:
        return Field(name, "choice", about, values=tuple(different), nullable=nullable)
    return Field(name, "string", about, nullable=nullable)


# --- values ---


def is_missing(value: Any) -> bool:
    """Whether there is no value: null, NaN, or an empty text."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str) and not trim(value))


def trim(text: str) -> str:
    """A value without the spaces and invisible marks at its ends."""
    while (bare := text.strip().strip(INVISIBLE)) != text:
        text = bare
    return text


class Values:
    """How the values of one column become JSON, and what that changed: whole numbers if all are, null for nothing.

    A number with a leading zero or a plus is a text, such as a postcode: in a column with one all stay texts. Numbers with
    .0, as tools write whole numbers in a column with gaps, become whole numbers, if all are. `plain_text` leaves texts that
    are numbers as they are.
    """

    def __init__(self, name: str, values: Sequence[Any], plain_text: bool = False):
        self.name, self.changed = name, Counter[str]()
        texts = [trim(value) for value in values if isinstance(value, str) and trim(value)]
        self.whole = not plain_text and bool(texts) and all(re.fullmatch(r"-?(0|[1-9]\d{0,8})", value) for value in texts)
        floats = [value for value in values if isinstance(value, float) and not math.isnan(value)]
        self.pointless = bool(floats) and all(value.is_integer() and abs(value) < 2**53 for value in floats)

    def __call__(self, value: Any) -> Any:
        """A value as JSON; None if there is none."""
        if is_missing(value):
            return None
        if isinstance(value, str):
            bare = trim(value)
            self.changed["spaces or invisible marks at an end removed"] += bare != value
            self.changed["read as whole numbers"] += self.whole
            return int(bare) if self.whole else bare
        if isinstance(value, list):
            bare_names = [trim(one) if isinstance(one, str) else one for one in value]
            self.changed["spaces or invisible marks at an end removed"] += bare_names != value
            return bare_names
        if isinstance(value, float) and self.pointless:
            self.changed["written as whole numbers, without .0"] += 1
            return int(value)
        if isinstance(value, decimal.Decimal):
            return str(value)
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        return value

    def remarks(self) -> list[str]:
        """What was changed, and in how many values."""
        return [f"{self.name}: {count:,} value(s) {what}" for what, count in self.changed.items() if count]


def as_text(value: Any) -> str:
    """A value as the text of a label or an answer: a text as it is, all else as JSON writes it."""
    return value if isinstance(value, str) else dump(value)


def read_object(text: str) -> Any:
    """The object that a text holds as JSON, else the text."""
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        return value if isinstance(value, dict) else text
    return text
