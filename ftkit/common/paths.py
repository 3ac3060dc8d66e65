"""The kit's folders: its own files, the runs, the cache; and paths as people write them."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError

LONGEST_NAME = 100  # characters; a run's name has some 30 more, and most systems take 255 bytes


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
        return expanded(folder)
    root = kit_root()
    return (Path.cwd() if root.name == "_kit" else root) / "runs"


def cache_dir() -> Path:
    """Folder of prepared models: `$FTKIT_CACHE`, else the platform's cache folder; a temporary one for who has no home."""
    if folder := os.environ.get("FTKIT_CACHE"):
        return expanded(folder)
    import platformdirs

    folder = platformdirs.user_cache_dir("ftkit", appauthor=False)
    return Path(folder) if Path(folder).is_absolute() else Path(tempfile.gettempdir()) / "ftkit-cache"


def expanded(path: str | Path) -> Path:
    """A path with "~" as the home folder. Raises `KitError` where there is no such home."""
    whole = Path(os.path.expanduser(path))  # noqa: PTH111
    if whole.parts[:1] and whole.parts[0].startswith("~") and not Path(whole.parts[0]).exists():
        raise KitError(f"{path}: {whole.parts[0]} is no home folder here. Write the path out.")
    return whole


def folder_name_problem(name: str) -> str | None:
    """Why a name would not do for a folder on every system (Linux, macOS, Windows), as the end of a sentence; or None."""
    if not name.strip() or name != name.strip() or name.strip(".") == "" or name.startswith(".") or name.endswith("."):
        return "is no folder's name: it is empty, or begins or ends with a space, or begins or ends with a dot"
    if bad := re.search(r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e]', name):
        return f"is no folder's name: it holds {bad[0]!r}"
    if re.fullmatch(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", name):
        return "is no folder's name: Windows keeps it for a device"
    if len(name) > LONGEST_NAME or len(name.encode()) > 2 * LONGEST_NAME:
        return f"is too long for a folder's name: {len(name)} characters, at most {LONGEST_NAME} are taken"
    return None
