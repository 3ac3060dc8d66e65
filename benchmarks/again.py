"""Four levers once more, with the recipe's own batches, on a quiet machine and beside a busy process.

    python -m benchmarks.again --rounds 4 --steps 40            # quiet
    python -m benchmarks.again --rounds 3 --steps 16 --busy 1   # beside one process that takes a core

Writes `results/dropped.json`. A round measures the kit, then the kit without each lever, in the same minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.__main__ import HERE, machine, run
from ftkit.common.files import read_json, write_json

RESULTS = HERE / "results" / "dropped.json"
WITHOUT = {
    "allocator": ["allocator"],  # FTKIT_KEEP_MEMORY=0: without it there is nothing to trim either
    "trim": ["trim"],
    "round lengths": ["round lengths"],
    "small layers": ["small layers"],
    "all four": ["allocator", "trim", "round lengths", "small layers"],
}


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that take a core each, until the block ends."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()


def main() -> None:
    """Measure, and save after every round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--busy", type=int, default=0)
    asked = parser.parse_args()
    given = {"steps": asked.steps, "examples": 2 * asked.steps, "roofline": False}
    state = f"beside {asked.busy}" if asked.busy else "quiet"
    found = {"steps": asked.steps, "kit": [], **{name: [] for name in WITHOUT}}
    with busy(asked.busy):
        for _ in range(asked.rounds):
            found["kit"].append(run("kit_training", **given))
            for name, without in WITHOUT.items():
                found[name].append(run("kit_training", **given, without=without))
            saved = read_json(RESULTS) if RESULTS.exists() else {"format": 1}
            write_json(RESULTS, saved | {state: {"machine": machine(), **found}})


if __name__ == "__main__":
    main()
