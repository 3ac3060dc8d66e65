"""The command line's `ftkit export`: a run as an adapter, a model, a Space, a server's folder, or on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.named import open_named
from ftkit.common.errors import KitError

if TYPE_CHECKING:
    from ftkit.runs.run import Run


WAYS = "adapter, merged, space, ollama, gguf, server or hub"


def export(
    run: Annotated[str | None, typer.Argument(help="a run's folder or name; left out, the newest finished one")] = None,
    to: Annotated[str | None, typer.Option(help=WAYS)] = None,
    output: Annotated[Path | None, typer.Option(help="the new folder; left out, exports/NAME in the run")] = None,
    verify: Annotated[bool, typer.Option(help="load it afresh and compare its answers with the tuned model's")] = True,
    fidelity: Annotated[bool, typer.Option("--fidelity", help="compare the ways to merge on the test split")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="with --fidelity: only the first N messages")] = None,
    repo: Annotated[str | None, typer.Option(help="with --to hub: OWNER/NAME")] = None,
    what: Annotated[str, typer.Option(help="with --to hub: adapter, merged or space")] = "adapter",
    public: Annotated[bool, typer.Option("--public", help="with --to hub: for everybody to see, not only for you")] = False,
) -> None:
    """Take a run out of the notebook: write an export and prove it against the tuned model."""
    if (to is None) != fidelity:
        raise KitError(f"Say where to: --to {WAYS}; or --fidelity for the comparison of the ways to merge.")
    if to == "hub" and repo is None:
        raise KitError("Say to which repository: --repo OWNER/NAME")
    opened = open_named(run)
    if to is None:
        _fidelity(opened, limit)
    elif to == "hub" and repo:
        from ftkit.deployment.roads.hub import push

        print(f"It is at {push(opened, repo, what, not public)}")
    else:
        _export(opened, to, output, verify)


def _export(run: Run, to: str, output: Path | None, verify: bool) -> None:
    from rich.console import Console

    from ftkit.deployment.roads.export import doubt, export_table
    from ftkit.deployment.roads.export import export as write_export
    from ftkit.deployment.roads.merged import export_folder

    record = write_export(run, to, output, verify, _say)
    if record.verification:
        Console().print(export_table([record]))
    else:
        print(f"Written, {record.size_mb:.0f} MB, and not compared with the tuned model (--no-verify).")
    if said := doubt(record):
        print(said)
    folder = output or export_folder(run, to)
    print(f"Ready: {folder}" + (f" (how to use it: {folder / 'README.md'})" if (folder / "README.md").is_file() else ""))
    if to == "space":
        held = "test and validation conversations" if run.task.kind == "chat" else "test messages"
        print(f"It holds the task's {held} and the run's figures: public, once it is uploaded.")
        print("Feedback that visitors give there is lost when the Space restarts.")
        if not run.is_evaluated:
            print(f"This run has not been evaluated, so the Space shows no figures: ftkit evaluate {run.name}, then again.")


def _fidelity(run: Run, limit: int | None) -> None:
    from rich.console import Console

    from ftkit.deployment.fidelity import compare_merges, describe_fidelity, fidelity_table

    result = compare_merges(run, limit, _say)
    Console().print(fidelity_table(result))
    for sentence in describe_fidelity(result):
        print(sentence)


def _say(line: str) -> None:
    print(line, flush=True)
