"""The command line as the tests call it: in this process, or in one of its own where that is the point."""

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from unittest import mock

from ftkit.cli import main

FTKIT = [sys.executable, "-m", "ftkit.cli"]


@dataclass
class Done:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def ftkit(*arguments, **environment):
    """Run a command in this process, which has torch loaded; the environment gets some variables meanwhile."""
    # bytes between: io.StringIO would turn a carriage return, which a random model may well answer, into a line feed
    out, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "80"} | environment),  # what the command sets is taken away again, too
        mock.patch.object(sys, "argv", ["ftkit", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.StringIO()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
    return Done(code, *map(_text, (out, errors)))


def _text(stream):
    stream.flush()
    return stream.buffer.getvalue().decode("utf-8", "replace").replace(os.linesep, "\n")


def ftkit_alone(*arguments, **environment):
    """Run a command in a process of its own: seconds longer where it needs torch."""
    done = subprocess.run([*FTKIT, *map(str, arguments)], capture_output=True, env=os.environ | environment, timeout=300)
    texts = (out.decode("utf-8", "replace").replace(os.linesep, "\n") for out in (done.stdout, done.stderr))
    return Done(done.returncode, *texts)


def core_seconds():
    """Seconds of a core that the processes which have ended took: a clock would count what others do on the machine."""
    return os.times().children_user + os.times().children_system


def refused(done, *words):
    """The command failed with one clear line and no traceback."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr + done.stdout
    line = done.stderr.strip().splitlines()[-1] if "bad row" not in done.stderr else done.stderr
    for word in words:
        assert word in line, done.stderr
    return True
