"""A task of kind `chat` made from conversations that others wrote: every turn kept, bad ones set aside (lesson 02)."""

from __future__ import annotations

from pathlib import Path

from ftkit.common.errors import KitError
from ftkit.data.formats.table import SMALLEST, Table, set_aside, too_few
from ftkit.data.new_task import NewTask, split_rows
from ftkit.data.task import Row, Task


def make_chat_task(
    name: str, table: Table, prompt: str | None = None, held_out: float | None = None, seed: int = 17,
    max_message_characters: int = 4000, max_turns: int = 20,
) -> NewTask:  # fmt: skip
    """Make a task of a table of conversations, its column `messages` as `formats.shapes.recognize` gives it.

    Every conversation is checked; those that do not fit are set aside with the reason. `prompt` is the system prompt; the
    conversations' own stand in the rows where they differ. `held_out` is the share that validation and test get each;
    conversations that repeat each other, in a long turn or as a whole, stay in one split.
    Raises `KitError` when fewer than ten are left.
    """
    task = Task(
        folder=Path(name),
        name=Path(name).name,
        kind="chat",
        system_prompt=prompt or "",
        title=Path(name).name.replace("_", " ").replace("-", " "),
        message="messages",
        max_message_characters=max_message_characters,
        max_turns=max_turns,
    )
    rows: list[Row] = []
    rejected, remarks = list(table.rejected), list[str]()
    for number, (line, row) in enumerate(table.rows, 1):
        one = {"id": f"{task.name}-{number:05d}", "messages": row["messages"]}
        if problems := task.problems(one):
            rejected.append(set_aside(line, "; ".join(problems), row))
        else:
            rows.append(one)
    if len(rows) < SMALLEST:
        raise KitError(too_few(table, len(rows), rejected))
    if not prompt and not any(row["messages"][0]["role"] == "system" for row in rows):
        remarks.append("there is no system prompt, and the task has none: --prompt gives it one")
    splits = split_rows(task, rows, held_out, seed, remarks)
    return NewTask(task, splits, sorted(rejected, key=lambda entry: entry["line"]), remarks)
