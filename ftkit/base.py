"""What every module needs: the error that learners see, the kit's folders, and files that are never half-written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class KitError(Exception):
    """A mistake that the reader can mend: one line saying what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Finding:
    """One line of a check: a thing, whether it is well, what was found, what to do if not, and the single cases.

    `gate` marks a finding that must stop what comes next; `numbers` holds what a plot of it needs. Where nothing could be
    looked at, and nothing is known to be wrong, `looked` is False: the line begins with [--].
    """

    thing: str
    ok: bool
    found: str
    fix: str = ""
    cases: tuple[str, ...] = ()
    gate: bool = False
    numbers: dict[str, Any] = field(default_factory=dict, compare=False)
    looked: bool = True

    def __str__(self) -> str:
        mark = "[fix]" if not self.ok else "[ok] " if self.looked else "[--] "
        line = f"{mark} {self.thing:<13} {self.found}"
        return line if self.ok or not self.fix else f"{line}\n      -> {self.fix}"


def kit_root() -> Path:
    """Folder that holds `apps/` and `data/`: the checkout, or the copy inside an installed wheel."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    return checkout if (checkout / "data").is_dir() and (checkout / "apps").is_dir() else package / "_kit"


def runs_dir() -> Path:
    """Folder of the runs: `$FTKIT_RUNS`, else `runs/` in the checkout, else `runs/` where you are."""
    if given := os.environ.get("FTKIT_RUNS"):
        return Path(given).expanduser()
    root = kit_root()
    return (Path.cwd() if root.name == "_kit" else root) / "runs"


def cache_dir() -> Path:
    """Folder of prepared models: `$FTKIT_CACHE`, else the platform's cache folder."""
    if given := os.environ.get("FTKIT_CACHE"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("ftkit", appauthor=False))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success it takes the place of `path`, on failure it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; on success it takes that name, on failure it is removed.

    Raises `KitError` if `folder` is there already.
    """
    folder = Path(folder)
    if folder.exists():
        raise KitError(f"{folder} is there already. Choose another name, or remove it first.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented UTF-8 JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises `KitError` naming the file and the place when it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KitError(f"{path} is missing.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise KitError(f"{path} is not readable as JSON ({error}). Delete it, or restore it from a copy.") from None


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory instead of returning it to the kernel after every operation.

    A training step frees and takes gigabytes, and the round trip through the kernel costs more than the arithmetic. Only
    done with glibc; `FTKIT_KEEP_MEMORY=0` leaves the default alone. Returns whether it was done.
    Source: mallopt(3), options M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD.
    """
    mallopt = _glibc("mallopt")
    options = {-1: 2**31 - 1, -2: 2**28, -3: 2**30}
    return mallopt is not None and all(mallopt(option, value) == 1 for option, value in options.items())


def return_freed_memory() -> None:
    """Give the kernel back what was kept: now and then, or the gaps between blocks of changing sizes only grow."""
    if trim := _glibc("malloc_trim"):
        trim(0)


def _glibc(function: str) -> Any:
    """A function of glibc's allocator, or None where there is none or `FTKIT_KEEP_MEMORY=0` asks to leave it alone."""
    if not sys.platform.startswith("linux") or os.environ.get("FTKIT_KEEP_MEMORY") == "0":
        return None
    import ctypes

    try:
        return getattr(ctypes.CDLL("libc.so.6"), function)
    except (OSError, AttributeError):  # musl has neither
        return None
