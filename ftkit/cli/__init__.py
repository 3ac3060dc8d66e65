"""The command line: `ftkit --help`, or `python -m ftkit.cli`. Heavy modules are imported inside the commands."""

from ftkit.cli.main import app, main

__all__ = ["app", "main"]
