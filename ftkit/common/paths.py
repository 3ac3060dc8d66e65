"""The kit's folders: its own files, the runs, the cache."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any


def kit_root() -> Path:
    """Folder that holds `apps/` and `data/`: the checkout, or the copy inside an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    return checkout if (checkout / "data").is_dir() and (checkout / "apps").is_dir() else package / "_kit"


def load_app(name: str) -> Any:
    """One of the kit's apps, such as "demo", as a module: `apps/` is no package."""
    spec = importlib.util.spec_from_file_location(f"ftkit_{name}", kit_root() / "apps" / f"{name}.py")
    assert spec and spec.loader  # it is a Python file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs_dir() -> Path:
    """Folder of the runs: `$FTKIT_RUNS`, else `runs/` in the checkout, else `runs/` where you are."""
    if folder := os.environ.get("FTKIT_RUNS"):
        return Path(folder).expanduser()
    root = kit_root()
    return (Path.cwd() if root.name == "_kit" else root) / "runs"


def cache_dir() -> Path:
    """Folder of prepared models: `$FTKIT_CACHE`, else the platform's cache folder."""
    if folder := os.environ.get("FTKIT_CACHE"):
        return Path(folder).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("ftkit", appauthor=False))
