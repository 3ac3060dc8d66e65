"""Verdicts on three tasks of different kinds: the desk (tickets), `docstrings` (labels), `dates` (texts).

    python -m experiments.verdicts --run FOLDER

makes all three, in half an hour on two quiet cores: the two further tasks are written as CSV, `ftkit task new` makes tasks
of them, and `ftkit verdict` judges each (QLoRA is trained for the two; the desk's reference run is taken). Tasks, runs and
verdicts lie in FOLDER. The same command goes on where it was stopped: what is measured is not measured again. After each
task the finished verdicts are kept in `results/verdicts.json`, and the page is written.

`--tasks desk` makes some of them alone. `python -m experiments.verdicts --keep FOLDER` keeps the verdicts of such a folder;
without an argument the page alone is written.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.report import markdown_table
from experiments.documents import VerdictResults
from experiments.schedule_tasks import load
from ftkit.common.errors import KitError
from ftkit.common.files import write_text
from ftkit.course.beliefs import FOLDER
from ftkit.data.task import load_task
from ftkit.evaluation.verdict.judge import verdict_folder
from ftkit.evaluation.verdict.page import COSTS, HEADS, METRICS, cells, cost_cells
from ftkit.evaluation.verdict.rule import QLORA, RULE
from ftkit.runs.documents import Verdict

PAGE = Path(__file__).with_name("VERDICTS.md")
TELL = ("--message", "text", "--target", "target", "--held-out", "0.2", "--yes")  # 600, 200 and 200 rows
MADE = {"docstrings": TELL, "dates": (*TELL, "--prompt", "Write the date as YYYY-MM-DD.")}  # by schedule_tasks.py
NAMES = ("desk", *MADE)
HEAD = """# Verdicts on tasks of different kinds

Written by `python -m experiments.verdicts` from `experiments/results/verdicts.json`, which holds what `ftkit verdict`
wrote. *desk* is the kit's own task. *docstrings* (the first sentence of a docstring, to one of ten libraries that it
comes from) and *dates* (a date as ten languages write it, to ISO 8601) are made by `experiments/schedule_tasks.py`,
and became tasks by `ftkit task new` from a CSV file. A task without a section here has not been judged yet.

In brackets are 95 % intervals; gaps and gains are in points, measured row by row. *Rows to tell*: with so many test
rows a gap as measured would be detected four times in five. *2x the labels*: what the last doubling of the training
rows gave, over three draws of the half (one for the fine-tuned encoder). *Threads*: that computed; "not kept" where an
earlier run's answers were taken, which may be of another machine."""


def write_table(name: str, path: Path) -> None:
    """Write one of the two further tasks as CSV with the columns `text` and `target`, all splits together."""
    data = load(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("text", "target"))
        for rows in data.splits.values():
            lines.writerows((row[data.task.message], row[data.task.target]) for row in rows)


def run(folder: Path, names: Sequence[str]) -> None:
    """Make the tasks that are not there yet, and judge each by the kit's own command; what is finished is kept.

    Raises `KitError` if a command fails.
    """
    for name in names:
        place = _place(folder, name)
        if name in MADE and not place.is_dir():
            table = folder / "tables" / f"{name}.csv"
            write_table(name, table)
            _call("task", "new", place, "--from", table, *MADE[name])
        _call("verdict", place)
        keep(folder)


def keep(folder: Path) -> None:
    """Keep the finished verdicts of a folder, in the order of the page, and write the page."""
    verdicts = []
    for name in NAMES:
        if name == "desk" or _place(folder, name).is_dir():
            own = verdict_folder(load_task(_place(folder, name)))
            verdicts += [Verdict.load(own)] if Verdict.exists(own) else []
    VerdictResults(verdicts=verdicts).save(FOLDER)
    write_text(PAGE, page_of(VerdictResults.load(FOLDER)))


def _place(folder: Path, name: str) -> Path | str:
    return folder / "tasks" / name if name in MADE else name


def _call(*command: object) -> None:
    """One of the kit's commands, its lines shown as they come."""
    words = list(map(str, command))
    print("$ ftkit", *words, flush=True)
    if subprocess.run([sys.executable, "-m", "ftkit.cli", *words]).returncode:
        raise KitError(f"ftkit {' '.join(words)} failed. The same command goes on from there.")


def page_of(results: VerdictResults) -> str:
    """The page: advice, scores and costs of each task, then the rule."""
    parts = [HEAD, *(part for verdict in results.verdicts for part in _sections(verdict)), "## The rule"]
    return "\n\n".join([*parts, "\n".join(f"{n}. {sentence}" for n, sentence in enumerate(RULE, start=1))]) + "\n"


def _sections(verdict: Verdict) -> Iterator[str]:
    training = verdict.costs[QLORA].training_seconds if QLORA in verdict.costs else 0.0
    packages = ", ".join(f"{name} {version}" for name, version in verdict.versions.items())
    yield f"## {verdict.task}"
    yield (
        f"*{max(cost.measured for cost in verdict.costs.values())}, {verdict.machine.processor}; {packages}. "
        f"{verdict.train_rows:,} training rows, {verdict.n:,} test rows; QLoRA trained for {training:,.0f} s.*"
    )
    for question in verdict.questions:
        yield f"**{question.name.capitalize()}** ({METRICS[question.metric]}). {question.advice.text}"
        yield markdown_table(HEADS, [cells(question, name) for name in question.standings])
    yield "What each takes:"
    yield markdown_table(COSTS, [[name, *cost_cells(cost)] for name, cost in verdict.costs.items()])
    for name, why in verdict.left_out.items():
        yield f"Left out: {name}, because {why}."


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="make the verdicts, with all that they need, in FOLDER")
    parser.add_argument("--tasks", nargs="+", choices=NAMES, default=NAMES, help="these alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the finished verdicts of FOLDER")
    options = parser.parse_args(arguments)
    if folder := options.run or options.keep:
        os.environ["FTKIT_RUNS"] = str(folder.resolve())
        run(folder.resolve(), options.tasks) if options.run else keep(folder.resolve())
    else:
        write_text(PAGE, page_of(VerdictResults.load(FOLDER)))


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(f"verdicts: {error}")
