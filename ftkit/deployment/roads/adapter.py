"""The road out as an adapter: safetensors with its card."""

from __future__ import annotations

import shutil
from pathlib import Path

from ftkit.common.errors import KitError
from ftkit.evaluation.answer import Loaded, load_tuned
from ftkit.runs.card import make_card
from ftkit.runs.run import Run

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def _write_adapter(run: Run, folder: Path) -> None:
    tokenizer = [path.name for path in run.adapter.iterdir()]  # where the training saved one
    for name in sorted({*ADAPTER_FILES, *tokenizer}):
        _copy(run.adapter / name, folder / name)
    make_card(run, folder=".").save(folder / "README.md")


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise KitError(f"{source} is missing: the adapter was not saved. Train again: ftkit train --fresh") from None


def _load_adapter_folder(run: Run, folder: Path) -> Loaded:
    return load_tuned(run, folder)
