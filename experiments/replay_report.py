"""Writes `REPLAY.md` from the saved experiments: no figure in the page is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import markdown_table
from experiments.documents import ReplayResult, ReplayResults
from experiments.laboratory import REPLAY_PLAN, Line, read_plan, read_taught
from experiments.recipe_report import fields_right, mean_percent, results_of, with_interval
from ftkit.common.console import clock
from ftkit.common.files import write_text
from ftkit.course.beliefs import FOLDER, WHOLE, BeliefResults
from ftkit.evaluation.intervals import seeds_interval

PAGE = Path(__file__).with_name("REPLAY.md")
HEAD = """# General talk in a training: forgetting, its cure, its price

Written by `python -m experiments.replay --report` from `experiments/results/replay.json`; the plan, with what was expected before,
is `experiments/replay.toml`. *Replay* is the number of rows of general talk as a share of the task's own; the base answered
them itself before the training (`data/general/replay.jsonl`). Fields and whole tickets are of the validation split, the general
questions are the 60 of `data/general/questions.jsonl`. Differences are paired with the same seeds without general talk, with a
95 % interval; where that holds zero, nothing was detected. With one seed it counts the luck of the rows asked alone, and not
that of the training: it is then too narrow. *Time* is that of the training, with one thread on a machine that did other work
too; the base's own answers before it are not in it."""


def general_right(result: ReplayResult) -> np.ndarray:
    """Which general questions were answered right: shape [questions]."""
    return np.array([int(digit) for digit in result.general.right]) if result.general else np.zeros(0)


def whole_right(result: ReplayResult) -> np.ndarray:
    """Which whole tickets were right: shape [rows]."""
    return np.array([int(digit) for digit in result.rows[WHOLE]])


MEASURES = {"fields": fields_right, "whole tickets": whole_right, "general questions": general_right}


def gain(measure: Any, own: list[ReplayResult], without: Mapping[int, ReplayResult]) -> str:
    """The gain in a measure over the same seeds without general talk, in points with its interval."""
    pairs = [measure(result) - measure(without[result.seed]) for result in own if result.seed in without]
    return with_interval(*seeds_interval(pairs), "+") if pairs else "–"


def group(about: str, lines: list[Line], results: Mapping[str, ReplayResult]) -> str:
    """One group's tables, of scores and of gains; empty if nothing of it has run."""
    without = {result.seed: result for result in results_of(lines[0], results)}
    scores, gains = [], []
    for line in lines:
        if not (own := results_of(line, results)):
            continue
        name = "no replay" if line is lines[0] else line.name
        right = np.mean([general_right(result).sum() for result in own])
        scores.append((
            name, f"{own[0].train_rows:,} + {own[0].replay:,}", str(len(own)), f"{own[0].steps:,}",
            mean_percent(fields_right(r).mean() for r in own), mean_percent(whole_right(r).mean() for r in own),
            f"{right:.3g} of {len(general_right(own[0]))}", clock(float(np.mean([r.seconds for r in own]))),
        ))  # fmt: skip
        if line is not lines[0]:
            gains.append((name, line.expected, *(gain(measure, own, without) for measure in MEASURES.values())))
    heads = ["training", "rows, and of general talk", "seeds", "steps", "fields, %", "whole tickets, %",
             "general questions right", "time"]  # fmt: skip
    failed = {r.failed for line in lines for e in line.experiments if (r := results.get(e.key)) and r.failed}
    parts = [markdown_table(heads, scores)] if scores else []
    if gains:
        parts.append(markdown_table(["against no replay, points", "expected", *MEASURES], gains))
    parts += [f"Could not be run: {'; '.join(sorted(failed))}"] if failed else []
    return "\n\n".join([f"## {about}", *parts]) if parts else ""


def base() -> str:
    """How many general questions the untouched base answers right, as the experiments on the beliefs measured it."""
    results = BeliefResults.load(FOLDER).results.values() if BeliefResults.exists(FOLDER) else ()
    checks = [r.general.right for r in results if r.experiment["method"] == "base" and r.general]
    return f"The untouched base answers {checks[0].count('1')} of the {len(checks[0])} right." if checks else ""


def write(page: Path = PAGE, folder: Path = FOLDER) -> None:
    """Write the page from what has run."""
    if not ReplayResults.exists(folder):
        return
    results = ReplayResults.load(folder).results
    plan, taught = read_taught(REPLAY_PLAN)
    lines = read_plan(REPLAY_PLAN)
    dates = sorted({result.date for result in results.values()})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    parts = [
        HEAD,
        base(),
        f"*{when}, two cores without a GPU; {len(results)} of {sum(len(e.experiments) for e in lines)} experiments.*",
    ]
    parts += [f"## What the search taught\n\n{taught}"] if taught else []
    parts += [group(about["about"], [line for line in lines if line.group == name], results) for name, about in plan.items()]
    write_text(page, "\n\n".join(filter(None, parts)) + "\n")
