"""A task's fact sheet, told whole in the prompt: what a model can do that reads the facts and was not trained on them.

`told = "SHEET.md"` in `task.toml` names the sheet. It is for comparing only: no training reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftkit.common.console import Say
from ftkit.common.errors import KitError
from ftkit.common.files import read_text
from ftkit.data.prompt import Messages, chat_prompt, prompt_ids
from ftkit.data.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sheet:
    """A sheet as it is told: its file, its text, the tokens that it adds to a prompt, and those that had no room."""

    file: str
    text: str
    tokens: int
    cut: int = 0


def read_sheet(task: Task) -> str:
    """The text of a task's sheet. Raises `KitError` if the task names none, or it is missing or empty."""
    if not task.told:
        raise KitError(f'{task.name} names no sheet to tell: write told = "SHEET.md" into its task.toml.')
    path = task.folder / task.told
    if not path.is_file():
        raise KitError(f"{path} is missing, the sheet that task.toml names as `told`.")
    text = read_text(path).strip()
    if not text:
        raise KitError(f"{path} is empty: there is nothing to tell.")
    return text


def has_sheet(task: Task, say: Say) -> bool:
    """Whether a task names a sheet, and it can be read; where it cannot, `say` gets the reason."""
    try:
        return bool(task.told and read_sheet(task))
    except KitError as error:
        say(f"  told: left out. {error}")
        return False


def told_prompt(task: Task, asked: Any, sheet: str) -> Messages:
    """The chat that asks for the next answer, as `chat_prompt` makes it, with the sheet at the end of its system turn."""
    chat = chat_prompt(task, asked)
    system = chat.pop(0)["content"] + "\n\n" if chat and chat[0]["role"] == "system" else ""
    return [{"role": "system", "content": system + sheet}, *chat]


def fit_sheet(
    tokenizer: PreTrainedTokenizerBase, task: Task, asked: Sequence[Any], answer_tokens: int, window: int | None
) -> Sheet:
    """The task's sheet, cut at the end of a line where a model that reads `window` tokens has no room for all of it.

    Room is needed for the longest of the conversations `asked`, the sheet and an answer of `answer_tokens`. Raises
    `KitError` as `read_sheet`, or where there is room for nothing of it.
    """
    text = read_sheet(task)
    bare = max(len(prompt_ids(tokenizer, chat_prompt(task, turns))) for turns in asked)
    longest = max(asked, key=lambda turns: len(prompt_ids(tokenizer, chat_prompt(task, turns))))

    def tokens(told: str) -> int:
        return len(prompt_ids(tokenizer, told_prompt(task, longest, told))) - bare

    room, lines, whole = (window or 0) - bare - answer_tokens, text.split("\n"), tokens(text)
    if not window or whole <= room:
        return Sheet(task.told, text, whole)
    while lines and tokens("\n".join(lines)) > room:
        lines.pop()
    if not lines:
        raise KitError(f"The model reads {window:,} tokens at once: beside the longest conversation nothing can be told.")
    kept = "\n".join(lines)
    return Sheet(task.told, kept, tokens(kept), whole - tokens(kept))
