"""Experiments out of a TOML plan, each in its own process, the results in a JSON file: what recipe and beliefs share."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.machine import versions
from ftkit.course.beliefs import FOLDER
from ftkit.runs.documents import Document

RECIPE_PLAN = Path(__file__).with_name("recipe.toml")
SCHEDULE_PLAN = Path(__file__).with_name("schedule.toml")
BELIEFS_PLAN = Path(__file__).with_name("beliefs.toml")
REPLAY_PLAN = Path(__file__).with_name("replay.toml")


@dataclass(frozen=True)
class Experiment:
    """What decides a result: `method`, `seed`, `rows` (None: all), and changes to profile, task, adapter and trainer."""

    method: str
    seed: int
    rows: int | None = None
    profile: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] = field(default_factory=dict)
    sft: dict[str, Any] = field(default_factory=dict)
    special: str = ""
    test: bool = False  # score the test split as well: for what is settled, never to choose by

    @property
    def key(self) -> str:
        """Twelve digits that stand for all of it."""
        decides = {name: value for name, value in vars(self).items() if name != "test" or value}
        text = json.dumps(decides, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Trial(Experiment):
    """An experiment on a belief: besides, what is done to the training `data`, and whether the general check is made.

    Methods: `qlora`, `full` (with `special` "mixed", and "mixed random" for random weights), `base`, `few-shot`,
    `tfidf`, `majority`. `judged` false: the task is not the desk's, only the general check counts.
    """

    data: dict[str, Any] = field(default_factory=dict)
    general: bool = False
    judged: bool = True


@dataclass(frozen=True)
class Line:
    """One line of the table: a change from its group's centre, what was expected of it, and an experiment a seed."""

    group: str
    name: str
    expected: str
    experiments: tuple[Experiment, ...]
    kept: str = ""
    about: str = ""


WORDS = ("name", "about", "expected", "kept", "seeds")  # a line's own; everything else changes its experiments


def read_plan(path: Path, kind: type[Experiment] = Experiment) -> list[Line]:
    """All lines of a plan: the groups in order (tables with `seeds`), each with its centre first unless it is not shown."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    lines: list[Line] = []
    for name, group in table.items():
        if "seeds" not in group:
            continue
        centre = group.get("centre", {})
        centre = _merged(table[group["from"]]["centre"], centre) if "from" in group else centre
        if "curve" in group:
            lines += _curve(name, centre, group, kind)
            continue
        shown = [{"name": "the centre", "expected": ""}] if group.get("show_centre", True) else []
        for change in [*shown, *group.get("line", [])]:
            settings = {"method": "qlora", **_merged(centre, {k: v for k, v in change.items() if k not in WORDS})}
            experiments = tuple(kind(**settings, seed=seed) for seed in change.get("seeds", group["seeds"]))
            words = {word: change.get(word, "") for word in ("name", "about", "expected", "kept")}
            lines.append(Line(name, experiments=experiments, **words))
    return lines


def _curve(name: str, centre: dict[str, Any], group: dict[str, Any], kind: type[Experiment]) -> Iterator[Line]:
    for rows, steps in group["curve"]:
        for method, own in group["methods"].items():
            settings = _merged(_merged(centre, {"profile": {"max_steps": steps}}), own)
            settings |= {"method": method, "rows": rows, "test": rows in group.get("test", [])}
            yield Line(name, f"{method}, {rows} rows", "", tuple(kind(**settings, seed=seed) for seed in group["seeds"]))


def _merged(centre: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` laid over `centre`, table by table."""
    both = {**centre, **own}
    return {k: {**centre[k], **own[k]} if isinstance(v, dict) and k in centre and k in own else v for k, v in both.items()}


def to_do(lines: Sequence[Line], results: dict[str, Any], failed: bool = False) -> list[Experiment]:
    """The experiments without a result, each once, the first seeds of all lines before the second ones.

    `failed` takes those that failed as well.
    """
    most = max((len(line.experiments) for line in lines), default=0)
    order = [line.experiments[i] for i in range(most) for line in lines if i < len(line.experiments)]
    once = {experiment.key: experiment for experiment in order}
    return [e for key, e in once.items() if key not in results or (failed and results[key].failed is not None)]


@dataclass(frozen=True)
class Laboratory:
    """Where experiments are run and kept: the module whose `--one` runs one, the file's definition, and its head."""

    module: str
    kind: type[Document]
    folder: Path = FOLDER
    head: dict[str, Any] = field(default_factory=dict)

    def results(self) -> dict[str, Any]:
        """The saved results by experiment key."""
        return self.kind.load(self.folder).results if self.kind.exists(self.folder) else {}

    def search(
        self, lines: Sequence[Line], hours: float, workers: int, failed: bool = False, most: int | None = None
    ) -> None:
        """Run what has no result yet, `workers` at a time, and save after each; start nothing new after `hours`.

        `most` is the number of experiments to run at most.
        """
        waiting = to_do(lines, self.results(), failed)[:most]
        names = {e.key: f"{line.group}: {line.name}" for line in lines for e in line.experiments}
        print(f"{len(waiting)} experiments to run, {workers} at a time", flush=True)
        until, saving = time.monotonic() + hours * 3600, threading.Lock()

        def run_one(experiment: Experiment) -> None:
            if time.monotonic() > until:
                return
            result = self.in_a_process(experiment, workers)
            with saving:
                self.save(experiment.key, result)
            figures = {k: result[k] for k in ("seconds", "loss", "validation_loss", "scores", "failed") if k in result}
            print(f"{names[experiment.key]}, seed {experiment.seed}: {json.dumps(figures)}", flush=True)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run_one, waiting))

    def save(self, key: str, result: dict[str, Any]) -> None:
        """Put one result into the file, the others as they are there."""
        saved = self.kind.load(self.folder).as_data()["results"] if self.kind.exists(self.folder) else {}
        data = {"format": self.kind.version(), **self.head, "results": {**saved, key: result}}
        self.kind.model_validate_json(json.dumps(data)).save(self.folder)

    def in_a_process(self, experiment: Experiment, workers: int) -> dict[str, Any]:
        """The experiment's result, or its last words, with what it ran on."""
        threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // workers))
        environment = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS=str(threads))
        command = [sys.executable, "-m", self.module, "--one", json.dumps(vars(experiment))]
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if done.returncode or not lines:
            result: dict[str, Any] = {"failed": (done.stderr.strip().splitlines() or ["?"])[-1][:300]}
        else:
            result = json.loads(lines[-1][7:])
        ran = {"date": datetime.date.today().isoformat(), "threads": threads, "versions": versions()}
        return {"experiment": vars(experiment), **ran, "whole_seconds": round(time.monotonic() - began, 1), **result}


def arguments(module: str, about: str | None) -> argparse.ArgumentParser:
    """The command line that every set of experiments has."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--only", nargs="*", default=[], help="groups of the plan; all if left out")
    parser.add_argument("--hours", type=float, default=24, help="start nothing new after so many hours")
    parser.add_argument("--most", type=int, help="run no more than so many experiments")
    parser.add_argument("--workers", type=int, default=1, help="processes side by side, the cores shared out")
    parser.add_argument("--failed", action="store_true", help="run again what failed")
    parser.add_argument("--report", action="store_true", help="only write page and plots from the saved results")
    parser.add_argument("--plan", action="store_true", help="only list the experiments")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def command(
    laboratory: Laboratory,
    plan: Path,
    run: Callable[[Any], dict[str, Any]],
    write: Callable[[], Any],
    kind: type[Experiment] = Experiment,
    show: Callable[[Sequence[Line], dict[str, Any], int], str] | None = None,
    head: Callable[[Sequence[Line]], dict[str, Any]] | None = None,
) -> None:
    """What `python -m experiments.NAME` does: `run` what has no result yet, then `write` page and plots.

    `show` makes the text for `--plan` of the lines, the results and the number of workers; `head` what stands before the
    results in their file. Ends with one line where something is wrong.
    """
    options = arguments(laboratory.module, (sys.modules["__main__"].__doc__ or "")).parse_args()
    try:
        if options.one:
            print("RESULT " + json.dumps(run(kind(**json.loads(options.one)))), flush=True)
            return
        lines = read_plan(plan, kind)
        wanted = choose_groups(lines, options.only)
        if options.plan:
            print((show or list_lines)(wanted, laboratory.results(), options.workers))
            return
        if not options.report:
            laboratory = replace(laboratory, head=head(lines)) if head else laboratory
            laboratory.search(wanted, options.hours, options.workers, options.failed, options.most)
        write()
    except KitError as error:
        sys.exit(f"{laboratory.module}: {error}")


def list_lines(lines: Sequence[Line], results: dict[str, Any], workers: int) -> str:
    """The plan as a table: the lines by group, how many experiments each has, and how many of them have a result."""
    table = [f"{'group':<14}{'line':<34}{'seeds':>6}{'done':>6}"]
    for line in lines:
        done = sum(e.key in results for e in line.experiments)
        table.append(f"{line.group:<14}{line.name:<34}{len(line.experiments):>6}{done:>6}")
    return "\n".join([*table, f"{len(to_do(lines, results))} experiments have no result yet."])


def read_taught(path: Path) -> tuple[dict[str, Any], str]:
    """(a plan's groups as its file has them, what the search taught): what a report's page begins with."""
    plan = tomllib.loads(path.read_text(encoding="utf-8"))
    return plan, plan.pop("taught", {"said": ""})["said"].strip()


def choose_groups(lines: Sequence[Line], only: Sequence[str]) -> list[Line]:
    """The lines of the groups that were named. Raises `KitError` for a group that the plan does not have."""
    groups = list(dict.fromkeys(line.group for line in lines))
    if unknown := set(only) - set(groups):
        raise KitError(f"The plan has no group {', '.join(sorted(unknown))}; it has {', '.join(groups)}.")
    return [line for line in lines if not only or line.group in only]
