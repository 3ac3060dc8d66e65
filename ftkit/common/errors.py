"""What every stage needs: the error that learners see, and one line of a check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class KitError(Exception):
    """A mistake that the reader can mend: one line that says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Finding:
    """One line of a check: a thing, whether it is well, how it stands in words, what to do if not, and the single cases.

    `gate` marks a finding that must stop what comes next; `numbers` holds what a plot of it needs. `looked` is False if
    nothing could be looked at and nothing is known to be wrong: then the line begins with [--].
    """

    thing: str
    ok: bool
    text: str
    fix: str = ""
    cases: tuple[str, ...] = ()
    gate: bool = False
    numbers: dict[str, Any] = field(default_factory=dict, compare=False)
    looked: bool = True

    def __str__(self) -> str:
        mark = "[fix]" if not self.ok else "[ok] " if self.looked else "[--] "
        line = f"{mark} {self.thing:<13} {self.text}"
        return line if self.ok or not self.fix else f"{line}\n      -> {self.fix}"
