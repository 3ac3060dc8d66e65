"""Memory: what the allocator keeps, what is given back, and the most that was held."""

from __future__ import annotations

import gc
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


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


def free_memory() -> None:
    """Let go of a model that nobody holds any more, down to the system and the GPU."""
    import torch

    gc.collect()
    return_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory_mb() -> float:
    """Most memory that this process held at once: on the GPU if there is one, else in RAM. In MB (10**6 bytes)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 1e6
    status = Path("/proc/self/status")  # Linux: `ru_maxrss` would count what the process held that started this one
    if status.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e6
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
