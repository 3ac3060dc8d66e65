"""`make lock`: writes constraints.txt from the environment that the tests ran in.

First what the kit needs to run, with the lessons and the demo; then what only the tests need. Nothing is fetched.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
HEAD = "# The exact versions that the tests ran on (Python 3.11, Linux x86-64, CPU), by make lock. Optional on Colab."
RUN, TEST = ("lab", "serve", "demo"), ("test",)  # extras; `gpu` is for other machines


def needed(extras: tuple[str, ...]) -> dict[str, str]:
    """{name: version} of the installed packages that the kit needs with these extras, itself left out."""
    versions: dict[str, str] = {}
    waiting = [Requirement(f"ftkit[{','.join(extras)}]")]
    done: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or another Python
        versions[name] = package.version.split("+")[0]
        for extra in ("", *wanted.extras):
            if (name, extra) in done:
                continue
            done.add((name, extra))
            for line in package.requires or []:
                next_one = Requirement(line)
                if next_one.marker is None or next_one.marker.evaluate({"extra": extra}):
                    waiting.append(next_one)
    versions.pop("ftkit", None)
    return versions


def text() -> str:
    """What constraints.txt should hold."""
    run, everything = needed(RUN), needed((*RUN, *TEST))
    tests_only = {name: version for name, version in everything.items() if name not in run}
    lines = [HEAD, "", "# to run the kit, its lessons and its demo"]
    lines += [f"{name}=={run[name]}" for name in sorted(run)]
    lines += ["", "# for the tests alone"]
    return "\n".join([*lines, *(f"{name}=={tests_only[name]}" for name in sorted(tests_only)), ""])


if __name__ == "__main__":
    (ROOT / "constraints.txt").write_text(text(), encoding="utf-8", newline="\n")
