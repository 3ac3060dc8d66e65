"""Verdicts on three tasks of different kinds: the desk (tickets), `docstrings` (labels), `dates` (texts).

`python -m experiments.verdicts --tables FOLDER` writes the two further tasks as CSV, for the kit's own commands:
`ftkit task new docstrings --from FOLDER/docstrings.csv`, `ftkit train docstrings`, `ftkit verdict docstrings`.
`python -m experiments.verdicts VERDICT_FOLDER ...` keeps what these wrote in `results/verdicts.json`, and writes the page;
without an argument the page alone is written.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.report import markdown_table
from experiments.documents import VerdictResults
from experiments.schedule_tasks import load
from ftkit.common.errors import KitError
from ftkit.common.files import write_text
from ftkit.course.beliefs import FOLDER
from ftkit.evaluation.verdict.page import COSTS, HEADS, METRICS, cells, cost_cells
from ftkit.evaluation.verdict.rule import QLORA, RULE
from ftkit.runs.documents import Verdict

PAGE = Path(__file__).with_name("VERDICTS.md")
TABLES = ("docstrings", "dates")
HEAD = """# Verdicts on three tasks

Written by `python -m experiments.verdicts` from `experiments/results/verdicts.json`, which holds what `ftkit verdict`
wrote. *desk* is the kit's own task. *docstrings* (the first sentence of a docstring, to one of ten libraries that it
comes from) and *dates* (a date as ten languages write it, to ISO 8601) are made by `experiments/schedule_tasks.py`,
and became tasks by `ftkit task new` from a CSV file.

In brackets are 95 % intervals; gaps and gains are in points, measured row by row. *Rows to tell*: with so many test
rows a gap as measured would be detected four times in five. *2x the labels*: what the last doubling of the training
rows gave. *Threads*: that computed; "not kept" where an earlier run's answers were taken, which may be of another
machine."""


def write_tables(folder: Path) -> list[Path]:
    """Write the two further tasks as CSV with the columns `text` and `target`, all splits together."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in TABLES:
        data = load(name)
        paths.append(folder / f"{name}.csv")
        with paths[-1].open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(("text", "target"))
            for rows in data.splits.values():
                lines.writerows((row[data.task.message], row[data.task.target]) for row in rows)
    return paths


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
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="write the two tasks as CSV, and stop")
    parser.add_argument("folders", nargs="*", type=Path, help="folders of verdicts, in the order of the page")
    options = parser.parse_args(arguments)
    if options.tables:
        print(*write_tables(options.tables), sep="\n")
        return
    if options.folders:
        VerdictResults(verdicts=[Verdict.load(folder) for folder in options.folders]).save(FOLDER)
    write_text(PAGE, page_of(VerdictResults.load(FOLDER)))


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(f"verdicts: {error}")
