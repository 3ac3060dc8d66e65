"""The road out as one ordinary model."""

from __future__ import annotations

from pathlib import Path

from ftkit.common.files import place, read_json
from ftkit.deployment.merge import save_merged
from ftkit.runs.card import make_card
from ftkit.runs.run import Run, adapter_digest


def export_folder(run: Run, to: str) -> Path:
    """Where an export lies unless another folder is named."""
    return run.folder / "exports" / to


def _write_merged(run: Run, folder: Path) -> None:
    """The merged model and its card; taken from the run's own export if that is of the same adapter."""
    ready = export_folder(run, "merged")
    if ready.is_dir() and read_json(ready / "export.json").get("adapter") == adapter_digest(run):
        for path in ready.iterdir():
            if path.name != "export.json":
                place(path, folder / path.name)
        return
    save_merged(run, folder)
    make_card(run, merged=True, folder=".").save(folder / "README.md")
