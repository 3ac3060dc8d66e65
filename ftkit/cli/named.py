"""The run that a command means: a name, or the newest finished one, and what was passed over for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftkit.runs.run import Run


def open_named(name: str | None) -> Run:
    """The run that is meant; on standard error which newer ones cannot be taken, and whether it is the kit's own."""
    from ftkit.runs.run import open_run, passed_over

    run = open_run(name)
    for sentence in passed_over(run) if name is None else []:
        print(f"Taking {run.name}. {sentence}", file=sys.stderr)
    if name is None and run.is_reference:
        print("There is no finished run of your own yet: this is the kit's. Make one: ftkit train", file=sys.stderr)
    return run
