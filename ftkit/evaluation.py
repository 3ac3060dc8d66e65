"""Evaluation: base and tuned on the same held-out examples (lesson 04)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from .base import KitError, read_json, write_json
from .generation import BASE, TUNED, Answerer
from .planning import clock
from .runs import Run, write_card
from .tasks import Task, parse_answer

FORMAT = 2


def score(task: Task, rows: Sequence[dict[str, Any]], texts: Sequence[str]) -> dict[str, list[bool]]:
    """Score answers row by row: {metric: a yes or no for each row}.

    For a `json` task: `valid JSON` (there is an object in the text), `fits the task` (all fields,
    allowed values), one metric a field (equal to the target's), `exact match` (the whole object equal).
    For other kinds: `exact match`.
    Nothing a model writes is an error: what cannot be read counts as wrong.
    """
    answers = [parse_answer(task, text) for text in texts]
    targets = [row[task.target] for row in rows]
    pairs = list(zip(answers, targets, strict=True))
    if task.kind != "json":
        return {"exact match": [same(answer, target) for answer, target in pairs]}
    scores = {
        "valid JSON": [answer is not None for answer in answers],
        "fits the task": [answer is not None and not task.answer_problems(answer) for answer in answers],
    }
    for f in task.fields:
        scores[f.name] = [a is not None and f.name in a and same(a[f.name], t[f.name]) for a, t in pairs]
    scores["exact match"] = [same(answer, target) for answer, target in pairs]
    return scores


def same(answer: Any, target: Any) -> bool:
    """Equal in value and in type: 1 is not true, "4" is not 4; the order of an object's keys does not count."""
    return json.dumps(answer, sort_keys=True) == json.dumps(target, sort_keys=True)


def evaluate(run: Run, split: str = "test", say: Callable[[str], None] = print, limit: int | None = None) -> dict[str, Any]:
    """Let base and tuned answer a split and score both; saves `evaluation.json` and `predictions.json` in the run.

    `limit` takes only the first so many rows of the split (they are recorded as `n`). The base model gets the fields and
    their values in its prompt; both decode greedily.
    """
    task = run.task
    if run.record["task"]["fingerprint"] != task.fingerprint():
        say(f"Note: {task.folder.name} has changed since {run.name} was trained.")
    available = task.rows(split)
    rows = available[:limit]
    answerer = Answerer.of_run(run)
    result: dict[str, Any] = {
        "format": FORMAT,
        "task": task.name,
        "split": split,
        "n": len(rows),
        "of": len(available),
        "models": {},
    }
    texts: dict[str, list[str]] = {}
    for which in (BASE, TUNED):
        began = time.monotonic()

        def progress(done: int, of: int, which: str = which, began: float = began) -> None:
            left = (time.monotonic() - began) / done * (of - done)
            say(f"  {which}: {done} of {of} answered" + (f", {clock(left)} left" if left else ""))

        texts[which] = answerer.answer([row[task.message] for row in rows], which, progress)
        seconds = time.monotonic() - began
        scores = score(task, rows, texts[which])
        result["models"][which] = {
            "scores": {metric: sum(values) / len(values) for metric, values in scores.items()},
            "seconds": round(seconds, 1),
            "messages_per_second": round(len(rows) / seconds, 2),
        }
    with_text = [
        {"message": row[task.message], "target": row[task.target], **{side: texts[side][i] for side in texts}}
        for i, row in enumerate(rows)
    ]
    write_json(run.folder / "predictions.json", with_text)
    write_json(run.folder / "evaluation.json", result)
    write_card(run)
    return result


def load_evaluation(run: Run) -> dict[str, Any]:
    """The saved evaluation of a run. Raises `KitError` if there is none or it cannot be read."""
    path = run.folder / "evaluation.json"
    if not path.is_file():
        raise KitError(f"{run.name} has not been evaluated yet: ftkit evaluate {run.name}")
    result = read_json(path)
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise KitError(f"{path} is not an evaluation of format {FORMAT}: ftkit evaluate {run.name}")
    return result


def table(result: dict[str, Any]) -> Any:
    """The evaluation as a table for the terminal: a row a metric, in percent, with n."""
    from rich.table import Table

    base, tuned = (result["models"][which] for which in (BASE, TUNED))
    part = f"the first {result['n']} of {result['of']}" if result["n"] < result["of"] else f"n = {result['n']}"
    grid = Table(title=f"{result['task']}, {result['split']} split, {part}", title_justify="left")
    grid.add_column("metric")
    for heading in ("base", "tuned", "difference"):
        grid.add_column(heading, justify="right")
    for metric, value in tuned["scores"].items():
        before = base["scores"][metric]
        grid.add_row(metric, f"{100 * before:.1f} %", f"{100 * value:.1f} %", f"{100 * (value - before):+.1f}")
    speeds = (f"{model['messages_per_second']:.1f}" for model in (base, tuned))
    grid.add_row("messages per second", *speeds, "", style="dim")
    return grid
