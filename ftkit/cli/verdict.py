"""The command line's `ftkit verdict`: should this task be fine-tuned, and with what?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.ends import stoppable
from ftkit.cli.task import ProfileOption
from ftkit.common.console import say_next
from ftkit.common.errors import KitError

if TYPE_CHECKING:
    from ftkit.data.task import Row, Task


def trainable(name: str) -> tuple[Task, dict[str, list[Row]]]:
    """A task and its rows, by split. Raises `KitError` if they must not be trained on."""
    from ftkit.data.check import Checked, gate
    from ftkit.data.task import SPLITS, load_task

    task = load_task(name)
    rows = {split: task.rows(split) for split in SPLITS}
    for finding in gate(task, Checked(task, rows, {split: [] for split in SPLITS})):
        raise KitError(f"{finding.thing}: {finding.text} ({finding.cases[0]}). {finding.fix} See: ftkit task check {name}")
    return task, rows


def verdict(
    task: Annotated[str, typer.Argument(help="a task's folder, or the name of one of the kit's")] = "desk",
    run: Annotated[
        str | None, typer.Option(help="the run to judge; left out, the newest finished one of this task, or one is trained")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="measure only the first N test messages")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="without what needs the language model: no base, no QLoRA")] = False,
    profile: ProfileOption = None,
) -> None:
    """Should a task be fine-tuned, and with what? Every contender on the same rows, its cost, and advice by a rule."""
    opened, _ = trainable(task)
    if opened.kind == "chat":
        raise KitError(
            f"A verdict compares answers of which one is right, and {opened.name} is a task of conversations. "
            f"ftkit train {task}, then ftkit evaluate: it says how much better the tuned model answers than the base."
        )
    from rich.console import Console

    from ftkit.common.profiles import choose_profile
    from ftkit.evaluation.verdict.judge import run_of
    from ftkit.evaluation.verdict.judge import verdict as judge_task  # heavy: bad rows are named before
    from ftkit.evaluation.verdict.page import verdict_tables
    from ftkit.runs.run import open_run

    named = open_run(run) if run else None
    choice = choose_profile(profile)
    with stoppable("The same command goes on where it was."):
        result, page = judge_task(opened, choice, named, limit, quick)
    for table in verdict_tables(result):
        Console().print("", table)
    print(f"\nAdvice. {result.advice}")
    Console().print(f"With plots and the rule: {page}", soft_wrap=True)
    if judged := named or run_of(opened, choice):
        say_next("ftkit", "evaluate", judged.name)
    else:
        say_next("ftkit", "train", task)
