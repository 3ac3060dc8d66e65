"""Conversations that a model goes on with after its own answers, as it would with a guest (lesson 06)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ftkit.data.task import Row, Task

Turns = list[dict[str, str]]
Given = dict[tuple[int, int], str]  # a model's answers by conversation, from 0, and number of the answer, from 1


def own_answers(task: Task, parts: Sequence[Row], ask: Callable[[list[Turns]], list[str]]) -> Given:
    """A model's answers after its own earlier ones: all first answers, then all second ones, and so on.

    `parts` are the answers of conversations one by one (`exchanges`); `ask` gives the answers to chats that end on the
    user's turn.
    """
    given: Given = {}
    for number in range(1, 1 + max(part["answer"] for part in parts)):
        some = [part for part in parts if part["answer"] == number]
        answers = ask([retold(task.asked(part), given, part["conversation"]) for part in some])
        given |= {(part["conversation"], number): text for part, text in zip(some, answers, strict=True)}
    return given


def in_order(parts: Sequence[Row], given: Given) -> list[str]:
    """Those answers in the order of `parts`."""
    return [given[part["conversation"], part["answer"]] for part in parts]


def retold(turns: Sequence[Any], given: Given, conversation: int) -> Turns:
    """The turns with a model's own answers in the place of those that were written; an empty answer is a single dash."""
    number, chat = 0, []
    for turn in turns:
        own = turn["role"] == "assistant"
        number += own
        chat.append({**turn, "content": given[conversation, number] or "-"} if own else turn)
    return chat
