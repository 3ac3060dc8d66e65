"""How a command ends: in a sentence and an exit code, whatever went wrong; and what it can be told through and tell."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from ftkit import __version__
from ftkit.common.errors import KitError, explain_refusal

DEBUG = "FTKIT_DEBUG"  # set to 1, it shows the traceback of every error
CANNOT = 2  # the exit code for what cannot be done; 1 is for findings
NOBODY_READS = 141  # as the shell counts a program that a closed pipe ended


class _NobodyReads(Exception):
    """Who read our output has gone, as `head` does after its lines."""


class Commands(TyperGroup):
    """The commands; a closed pipe is no finding, for which typer would let it pass."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _NobodyReads from error


@contextlib.contextmanager
def ending_in_words() -> Iterator[None]:
    """Turn every error into a sentence on standard error and an exit code; with `FTKIT_DEBUG=1` its traceback is shown."""
    _mend_streams()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except (_NobodyReads, BrokenPipeError):
        _say_no_more()
        sys.exit(NOBODY_READS)
    except Exception as error:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            traceback.print_exc()
        _end(error)


def _end(error: Exception) -> NoReturn:
    said = str(error) if isinstance(error, KitError) else explain_refusal(error) or _explain(error)
    if isinstance(error, OSError) and error.filename is None:  # most likely of standard output
        _say_no_more()
    with contextlib.suppress(OSError):
        print(f"ftkit: {said or _keep_traceback(error)}", file=sys.stderr, flush=True)
    sys.exit(CANNOT)


def _explain(error: Exception) -> str | None:
    """A sentence on an error of the libraries that readers can mend; None for the others."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "There is not enough memory. ftkit plan shows what a training needs; a smaller batch or model needs less."
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return "A path begins with ~ and a name, and there is no such home folder. Write the path out."
    if isinstance(error, EOFError):
        return "An answer was asked for, and nobody can give it here. Give it as an option: --help lists them."
    return None


def _keep_traceback(error: Exception) -> str:
    """Write the traceback to a file; the sentence that says so, or the traceback itself where nothing can be written."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = "".join(traceback.format_exception(error))
    what = f"an unexpected error, {type(error).__name__}: {(str(error) or 'no reason told').splitlines()[0][:200]}"
    try:
        handle, path = tempfile.mkstemp(prefix="ftkit-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"ftkit {__version__}, Python {sys.version}\n{text}")
    except OSError:
        return f"{what}\n{text}"
    where = f"{os.path.basename(place.filename)}, line {place.lineno}"  # noqa: PTH119
    return (
        f"{what} ({where}). This is a fault of the kit: please report it, with what you typed and the file {path}, to those "
        "who gave you the kit. ftkit --debug COMMAND shows the same here."
    )


def _mend_streams() -> None:
    """Open what was closed before the start (as nothing), and show what a stream's encoding lacks as escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _say_no_more() -> None:
    """Let what is still to be written to standard output go nowhere, so that Python's own end does not fail on it."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        number = sys.stdout.fileno()
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)


@contextlib.contextmanager
def stoppable(how_to_go_on: str) -> Iterator[None]:
    """At Ctrl+C say how to go on, and end with exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nStopped. {how_to_go_on}", file=sys.stderr)
        raise typer.Exit(130) from None
