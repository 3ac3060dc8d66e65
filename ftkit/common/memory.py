"""Memory: what is given back, and the most that was held."""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path


def free_memory() -> None:
    """Let go of a model that nobody holds any more, on the GPU too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory_mb() -> float:
    """Most memory that this process held at once: on the GPU if there is one, else in RAM. In MB (10**6 bytes)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 1e6
    status = Path("/proc/self/status")  # Linux: `ru_maxrss` would count what the process held that started this one
    if status.is_file() and (line := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(line[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
