"""The machine: its device and memory, how it computes, and the versions of what decides a result."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError

KNOWS_BF16 = ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")  # in the values of ONEDNN_MAX_CPU_ISA that allow bfloat16


@dataclass(frozen=True)
class Hardware:
    """What the choice depends on. `memory` is in GB, `capability` is CUDA's (major, minor)."""

    device: str
    name: str
    memory: float
    capability: tuple[int, int] = (0, 0)


def detect_hardware() -> Hardware:
    """The first CUDA device if there is one, else the CPU."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        capability = torch.cuda.get_device_capability(0)
        return Hardware("cuda", properties.name, properties.total_memory / 2**30, capability)
    import psutil

    return Hardware("cpu", f"{os.cpu_count()} CPU cores", psutil.virtual_memory().total / 2**30)


def resolve_dtype(dtype: str, hardware: Hardware | None = None) -> str:
    """Turn a profile's `dtype` into "bfloat16", "float16" or "float32".

    "auto" is bfloat16 only where it is multiplied natively: CUDA capability 8.0 and later, CPUs with AVX512-BF16 or AMX,
    unless a variable keeps torch (`ATEN_CPU_CAPABILITY`) or oneDNN (`ONEDNN_MAX_CPU_ISA`) from their instructions.
    """
    if dtype in ("bfloat16", "float16", "float32"):
        return dtype
    if dtype != "auto":
        raise KitError(f"Unknown dtype {dtype!r} in the profile. Known: auto, bfloat16, float16, float32.")
    import torch

    hardware = hardware or detect_hardware()
    if hardware.device == "cuda":
        return "bfloat16" if hardware.capability >= (8, 0) else "float16"
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, test, lambda: False)() for test in tests)
    native = native and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or "ALL"
    native = native and any(word in limit.upper() for word in KNOWS_BF16)
    return "bfloat16" if native else "float32"


RECORDED_PACKAGES = ["ftkit", "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets"]


def versions() -> dict[str, str]:
    """Python and the packages that decide a result, with their versions."""
    installed = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def describe_machine() -> dict[str, Any]:
    """The machine that something is measured on, the date, and `versions`; `memory_gb` is the GPU's, if there is one."""
    affinity = getattr(os, "sched_getaffinity", None)
    packages = versions()
    return {
        "date": datetime.date.today().isoformat(),
        "system": platform.platform(terse=True),
        "cpu": processor_name(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_gb": round(detect_hardware().memory),
        "python": packages.pop("python"),
        "versions": packages,
    }


def processor_name() -> str:
    """The processor's name as the system tells it."""
    try:
        named = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        named = None
    return named[1] if named else platform.processor() or platform.machine()
