"""A task written as other tools read it: OpenAI's messages, Alpaca's instructions, or CSV (`ftkit task export`)."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import new_folder, write_json, write_jsonl
from ftkit.data.prompt import chat_prompt, completion_text
from ftkit.data.task import SPLITS, Row, Task

EXPORTS = ("messages", "alpaca", "csv")


def export_task(task: Task, form: str, folder: Path) -> list[Path]:
    """Write every split of a task into a new folder; the answers are written as the model learns them.

    `messages`: JSON lines, the chat that the kit trains on. `alpaca`: a JSON list, the system prompt as `system`, the
    message as `instruction`. `csv`: UTF-8 with commas, one column for each field of a `json` task.
    Raises `KitError` if the folder is there already or the form is unknown.
    """
    if form not in EXPORTS:
        raise KitError(f"The form {form!r} is not one of {', '.join(EXPORTS)}.")
    if task.kind == "chat" and form != "messages":
        raise KitError(
            f"A conversation has no place in {form}, which holds one question and one answer a row: --as messages."
        )
    rows = {split: task.rows(split) for split in SPLITS}
    with new_folder(folder) as temporary:
        for split, some in rows.items():
            if form == "messages":
                write_jsonl(temporary / f"{split}.jsonl", [_messages(task, row) for row in some])
            elif form == "alpaca":
                write_json(temporary / f"{split}.json", [_alpaca(task, row) for row in some])
            else:
                _write_csv(temporary / f"{split}.csv", task, some)
    return sorted(folder.iterdir())


def _messages(task: Task, row: Row) -> Row:
    answer = {"role": "assistant", "content": completion_text(task, task.answered(row))}
    return {"messages": [*chat_prompt(task, task.asked(row)), answer]}


def _alpaca(task: Task, row: Row) -> Row:
    return {
        "instruction": row[task.message],
        "input": "",
        "output": completion_text(task, row[task.target]),
        "system": task.system_prompt,
    }


def _write_csv(path: Path, task: Task, rows: list[Row]) -> None:
    fields = [field.name for field in task.fields] or [task.target]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([task.message, *(f"{task.target}.{name}" if name == task.message else name for name in fields)])
        for row in rows:
            answer = row[task.target]
            values = [_cell(answer[name]) for name in fields] if task.kind == "json" else [answer]
            writer.writerow([row[task.message], *values])


def _cell(value: Any) -> str:
    """A field's value in a cell: nothing for null, a list's names with bars between them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else "|".join(value) if isinstance(value, list) else str(value)
