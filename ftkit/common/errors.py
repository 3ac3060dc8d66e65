"""What every stage needs: the error that learners see, what the system refused in words, and one line of a check."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class KitError(Exception):
    """A mistake that the reader can mend: one line that says what is wrong, where, and what to do."""


ELSEWHERE = "choose another place (for runs FTKIT_RUNS, for prepared models FTKIT_CACHE)"
REFUSALS = {
    errno.ENOSPC: ("the disk is full", f"Free some room, or {ELSEWHERE}."),
    errno.EDQUOT: ("your share of the disk is used up", f"Free some room, or {ELSEWHERE}."),
    errno.EACCES: ("you have no right to it", f"Change its rights, or {ELSEWHERE}."),
    errno.EPERM: ("you have no right to it", f"Change its rights, or {ELSEWHERE}."),
    errno.EROFS: ("nothing can be written there", f"Please {ELSEWHERE}."),
    errno.ENOTDIR: ("a file stands where a folder is needed", "Move the file away, or choose another name."),
    errno.EEXIST: ("something of this name is there already", "Move it away, or choose another name."),
    errno.EISDIR: ("it is a folder, and a file is needed", "Choose another name."),
    errno.ENOENT: ("it is not there, and cannot be made there", "Look at its spelling, or choose another place."),
    errno.ENAMETOOLONG: ("the name is too long", "Choose a shorter one."),
    errno.EIO: ("the disk reports a fault", f"Please {ELSEWHERE}."),
    errno.EMFILE: ("too many files are open", "Close other programs and try again."),
}


def explain_refusal(error: BaseException, place: Path | str | None = None) -> str | None:
    """A sentence on what the system refused (a full disk, no right to write, ...), with the path; None for other errors.

    `place` is named where the error names no file. On a full disk torch and safetensors raise errors of their own.
    """
    if isinstance(error, OSError):
        number, path = error.errno, error.filename2 or error.filename or (place if error.errno in REFUSALS else None)
    elif told := re.search(r"os error (\d+)", str(error)):  # safetensors
        number, path = int(told[1]), place
    elif isinstance(error, RuntimeError) and re.search("unexpected pos|PytorchStreamWriter failed", str(error)):  # torch
        number, path = errno.ENOSPC, place
    else:
        return None
    if number is None or (path is None and number not in REFUSALS):
        return None
    said, cure = REFUSALS.get(number, (os.strerror(number).lower(), "Try again, or choose another place."))
    path = os.fsdecode(path) if isinstance(path, bytes) else path
    return f"{path if path is not None else 'A file or the output'}: {said}. {cure}"


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
