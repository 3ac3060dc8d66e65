"""The face of a stage: the few names that notebooks use, each loaded from its module when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def face(package: str, modules: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package; `modules` gives the names that each of its modules lends to it."""
    home = {name: module for module, names in modules.items() for name in names.split()}

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{home[name]}"), name)

    return load, lambda: sorted(home)
