"""What an answer must keep, whatever its words: numbers, allergens, a *not*; found by the rules of the task (lesson 02).

A task of kind `text` names the things under `[kept]` in its `task.toml`, each with regular expressions. They are matched
between word borders, upper and lower case alike, accents as they are. A list of expressions stands for one thing, which the
first of them names: `["huevo", "huevos"]`. `[kept_in_message]` says how the same things look in a message, for where nobody
knows the right answer; `["?", ...]` there lists what makes the rule unable to tell.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from ftkit.common.errors import Finding
from ftkit.data.description import UNCLEAR
from ftkit.data.task import Entry, Row, Task

WRONG_AT_MOST = 0.02  # of the answers that a rule can judge: a rule finds a few that are right


@dataclass(frozen=True)
class Check:
    """Whether an answer keeps the things of one kind: those that are missing in it, and those that it should not hold."""

    name: str
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    known: bool = True  # whether anything tells what the answer should hold

    @property
    def kept(self) -> bool:
        """Whether all is there and nothing else."""
        return self.known and not self.missing and not self.added

    def in_words(self) -> str:
        """The check in a few words, for people."""
        if not self.known:
            return f"{self.name}: cannot be checked here"
        wrong = {"missing": self.missing, "not wanted": self.added}
        parts = [f"{', '.join(f'“{thing}”' for thing in things)} {word}" for word, things in wrong.items() if things]
        return f"{self.name}: {'; '.join(parts)}" if parts else f"{self.name} kept"


def things_in(text: str, entries: tuple[Entry, ...]) -> list[str]:
    """The things of one kind in a text, sorted, each as often as it stands there.

    A thing is named by its entry's first word; that of an expression alone is what stands in the text, in lower case. At
    one place only one thing is found, of several that fit the one that comes first among the entries.
    """
    text = unicodedata.normalize("NFC", text)
    found, taken = [], set[int]()
    for name, pattern in _patterns(entries):
        for match in pattern.finditer(text):
            if taken.isdisjoint(place := range(*match.span())):
                taken.update(place)
                found.append(name or match.group().lower())
    return sorted(found)


@cache
def _patterns(entries: tuple[Entry, ...]) -> list[tuple[str, re.Pattern[str]]]:
    return [("" if isinstance(entry, str) else entry[0], _pattern(entry)) for entry in entries]


def _pattern(entry: Entry) -> re.Pattern[str]:
    words = [entry] if isinstance(entry, str) else [word for word in entry if word != UNCLEAR]
    return re.compile(rf"(?<!\w)(?:{'|'.join(f'(?:{word})' for word in words)})(?!\w)", re.IGNORECASE)


def kept_scores(task: Task, pairs: Sequence[tuple[str, str]]) -> dict[str, list[bool]]:
    """`<name> kept` for each kind of thing: whether each answer holds exactly those of the right one. Pairs of the two."""
    return {
        f"{name} kept": [things_in(answer, entries) == things_in(target, entries) for answer, target in pairs]
        for name, entries in task.kept.items()
    }


def check_answer(task: Task, answer: str, target: str | None = None, message: str | None = None) -> list[Check]:
    """Look at one answer, a `Check` for each thing that the task wants kept.

    It is held against the right answer, or where that is not known against the message, if the task has a rule for it.
    """
    return [_check(task, name, answer, target, message) for name in task.kept]


def things_wanted(task: Task, message: str) -> dict[str, Counter[str]]:
    """What an answer to a message should hold, by kind; without the kinds that the rules cannot judge in this message."""
    found = {name: Counter(things_in(message, entries)) for name, entries in task.kept_in_message.items()}
    return {name: things for name, things in found.items() if UNCLEAR not in things}


def _check(task: Task, name: str, answer: str, target: str | None, message: str | None) -> Check:
    if target is not None:
        wanted = Counter(things_in(target, task.kept[name]))
    elif message is not None and name in task.kept_in_message:
        wanted = Counter(things_in(message, task.kept_in_message[name]))
    else:
        return Check(name, known=False)
    if UNCLEAR in wanted:
        return Check(name, known=False)
    held = Counter(things_in(answer, task.kept[name]))
    return Check(name, tuple((wanted - held).elements()), tuple((held - wanted).elements()))


def check_kept(task: Task, rows: Sequence[Row]) -> Iterator[Finding]:
    """How many answers hold what the rules find in their messages, a finding for each kind of thing."""
    for name in task.kept_in_message:
        checks = [(row, _check(task, name, row[task.target], None, row[task.message])) for row in rows]
        known = [(row, check) for row, check in checks if check.known]
        cases = [f"{row.get('id', '')} {check.in_words()}: {row[task.message]!r}" for row, check in known if not check.kept]
        agree, unknown = len(known) - len(cases), len(rows) - len(known)
        text = f"{agree:,} of {len(known):,} answers hold what their message says; {unknown:,} cannot be judged by rule"
        fix = "Read the others. A rule also points at right ones, such as those with a typing error in the message."
        yield Finding(name, len(cases) <= WRONG_AT_MOST * len(known), text, fix, tuple(cases), looked=bool(known))
