"""Answers that are checked and asked for again: what the message says should stand in the answer (lesson 04).

The rules under `[kept_in_message]` in `task.toml` read the message and the answer, never the right answer. Where they find
that something was lost or made up, the beam search of `pruned` gives others; the likeliest that keeps everything is taken.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import digest
from ftkit.data.kept import Check, check_answer
from ftkit.data.prompt import parse_answer, prompt_ids
from ftkit.data.task import Task
from ftkit.evaluation.answer import TUNED, Answerer
from ftkit.evaluation.decoding.pruned import Pruned

CANDIDATES = 8  # other answers that are looked at; measured in data/kitchen/DATASHEET.md


@dataclass(frozen=True)
class Checked:
    """An answer, whether it was asked for again, and what the rules say of it."""

    text: str
    again: bool
    checks: tuple[Check, ...]

    @property
    def faults(self) -> int:
        """How many things were lost or made up, as far as the rules can tell."""
        return sum(len(check.missing) + len(check.added) for check in self.checks)

    @property
    def lost(self) -> list[str]:
        """What it does not keep, in words; empty where the rules find nothing."""
        return [check.in_words() for check in self.checks if check.known and not check.kept]

    def in_words(self) -> str:
        """All that the rules say of it, and whether it is a second answer."""
        return "; ".join([check.in_words() for check in self.checks] + ["asked for again"] * self.again)


def look(task: Task, message: str, text: str, again: bool = False) -> Checked:
    """What the task's rules say of one answer to a message."""
    return Checked(text, again, tuple(check_answer(task, parse_answer(task, text), None, message)))


def answer_checked(
    answerer: Answerer,
    messages: Sequence[str],
    which: str = TUNED,
    progress: Callable[[int, int], None] | None = None,
    candidates: int = CANDIDATES,
) -> list[Checked]:
    """Answer messages like `Answerer.answer`, then ask again where an answer lost something, in the order of `messages`.

    Where none of the candidates keeps everything, the one with the fewest faults is taken, of equals the likelier; the
    first answer comes before all. Raises `KitError` for a task without rules for messages.
    """
    need_rules(task := answerer.task)
    first = answerer.answer(messages, which, progress)
    answers = [look(task, *pair) for pair in zip(messages, first, strict=True)]
    again = [i for i, answer in enumerate(answers) if answer.faults]
    at_once = max(1, answerer.batch_size // candidates)
    for start in range(0, len(again), at_once):
        places = again[start : start + at_once]
        prompts = [prompt_ids(answerer.tokenizer, answerer.prompt(messages[i], which)) for i in places]
        fitting = partial(Pruned, task, answerer.tokenizer, [messages[i] for i in places])
        texts = answerer.worker.submit(answerer._generate, prompts, which, None, None, fitting, candidates).result()
        for place, i in enumerate(places):
            own = [first[i], *texts[place * candidates : (place + 1) * candidates]]
            answers[i] = min((look(task, messages[i], text, True) for text in own), key=lambda answer: answer.faults)
    return answers


def need_rules(task: Task) -> None:
    """Raises `KitError` if a task has no rules by which an answer can be checked against its message."""
    if not task.kept_in_message:
        raise KitError(f"{task.folder / 'task.toml'} has no [kept_in_message], the rules that --checked goes by.")


def deciding(task: Task, candidates: int = CANDIDATES) -> dict[str, Any]:
    """What decides checked answers, besides what decides plain ones."""
    return {"candidates": candidates, "rules": digest(json.dumps([task.kept, task.kept_in_message]).encode())}


def describe_checked(answers: Sequence[Checked]) -> str:
    """How many answers were asked for again, how many still lose something, and how many the rules cannot judge."""
    again, lost = sum(answer.again for answer in answers), sum(bool(answer.faults) for answer in answers)
    unclear = sum(not all(check.known for check in answer.checks) for answer in answers)
    return (
        f"{again:,} of {len(answers):,} answers lost something of their message and were asked for again, {lost:,} of them "
        f"still do; {unclear:,} cannot be judged in everything"
    )
