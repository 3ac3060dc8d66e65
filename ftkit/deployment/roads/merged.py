"""The road out as one ordinary model."""

from __future__ import annotations

from pathlib import Path

from ftkit.common.files import place
from ftkit.deployment.merge import save_merged
from ftkit.runs.card import make_card
from ftkit.runs.documents import ExportRecord
from ftkit.runs.run import Run, adapter_digest


def export_folder(run: Run, to: str) -> Path:
    """Where an export lies unless another folder is named."""
    return run.folder / "exports" / to


def _write_merged(run: Run, folder: Path) -> None:
    """The merged model and its card; taken from the run's own export if that is of the same adapter."""
    ready = export_folder(run, "merged")
    if ready.is_dir() and ExportRecord.load(ready).adapter == adapter_digest(run):
        for path in ready.iterdir():
            if path.name != ExportRecord.FILE:
                place(path, folder / path.name)
        return
    save_merged(run, folder)
    make_card(run, merged=True, folder=".").save(folder / "README.md")
