"""A conversation as a row: which turns it has, what is wrong with it, and its answers one by one (lesson 06)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ftkit.data.conversation.expect import expect_problems

if TYPE_CHECKING:
    from ftkit.data.task import Row, Task

Turn = dict[str, str]
ROLES = ("system", "user", "assistant")
KEYS = {"role", "content"}


def row_problems(task: Task, row: Row) -> list[str]:
    """Everything wrong with a row of a `chat` task, one sentence each, with the turn's number from 1."""
    if task.message not in row:
        return [f"field {task.message!r}: it is missing"]
    problems = list(_turn_problems(task, row[task.message]))
    if not problems and (reason := _last_problem(row[task.message], "assistant")):
        problems.append(reason)
    problems = [f"field {task.message!r}{reason}" for reason in problems]
    if not problems and "expect" in row:
        problems += expect_problems(row["expect"], count_answers(row[task.message]))
    return problems


def asked_problem(task: Task, turns: Any) -> str | None:
    """What is wrong with a conversation that is to be answered, so that it ends on the user's turn; or None."""
    reason = next(_turn_problems(task, turns), None) or _last_problem(turns, "user")
    return reason.removeprefix(", ").removeprefix(": ") if reason else None


def _turn_problems(task: Task, turns: Any) -> Iterator[str]:
    """What is wrong with the turns, their order and their number: ", turn 3: ..." or ": ..."."""
    if not isinstance(turns, list):
        yield ": it must be a list of turns, each with role and content"
        return
    if not turns:
        yield ": the conversation is empty"
        return
    ordered = True
    for number, turn in enumerate(turns, 1):
        where = f", turn {number}"
        if not isinstance(turn, dict) or not turn.keys() >= KEYS:
            yield f"{where}: it must be an object with role and content"
            ordered = False
            continue
        if extra := sorted(map(str, turn.keys() - KEYS)):
            yield f"{where}: it has {', '.join(map(repr, extra))}, which the kit does not read; take it out"
        if turn["role"] not in ROLES:
            yield f"{where}: the role {turn['role']!r} is not one of {', '.join(ROLES)}"
            ordered = False
        if problem := task.text_problem(turn["content"]):
            yield f"{where}: {problem}"
    if ordered:
        yield from _order_problems(turns)
        spoken = len(turns) - (turns[0]["role"] == "system")
        if spoken > task.max_turns:
            yield f": it has {spoken} turns, at most {task.max_turns} are taken; part it, or raise max_turns in task.toml"


def _order_problems(turns: Sequence[Turn]) -> Iterator[str]:
    """Turns out of their order: after a system turn, or none, user and assistant take turns, the user first."""
    wanted = "user"
    for number, turn in enumerate(turns, 1):
        role = turn["role"]
        if role == "system":
            if number > 1:
                yield f", turn {number}: a system turn in the middle; only the first turn may be one"
        elif role != wanted:
            before = f"after the {turns[number - 2]['role']}'s" if number > 1 else "as the first turn"
            yield f", turn {number}: the {role}'s turn stands {before}, where the {wanted}'s should; roles alternate"
            return
        else:
            wanted = "assistant" if role == "user" else "user"


def _last_problem(turns: Sequence[Turn], role: str) -> str | None:
    if (last := turns[-1]["role"]) == role:
        return None
    return f", turn {len(turns)}: the last turn is the {last}'s, and should be the {role}'s"


def count_answers(turns: Sequence[Turn]) -> int:
    """How many turns are the assistant's."""
    return sum(turn["role"] == "assistant" for turn in turns)


def chat_of(system_prompt: str, asked: str | Sequence[Turn]) -> list[Turn]:
    """The chat that asks for the next answer: the conversation as it stands, a system turn before it.

    A text alone is the first turn. A conversation's own system turn takes the place of the task's system prompt; without
    either there is none, and the model's template may write its own.
    """
    turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else [dict(turn) for turn in asked]
    own = bool(turns) and turns[0]["role"] == "system"
    return turns if own or not system_prompt else [{"role": "system", "content": system_prompt}, *turns]


def exchanges(task: Task, rows: Sequence[Row]) -> list[Row]:
    """The answers of rows one by one: for each answer of a conversation the conversation up to it, a row of its own.

    Each is a whole row, and has the number of its answer from 1 as `answer`, that of its conversation from 0 as
    `conversation`. Rows of the other kinds hold one answer, and stay as they are.
    """
    if task.kind != "chat":
        return list(rows)
    parts = []
    for number, row in enumerate(rows, 1):
        turns, name, expect = row[task.message], row.get("id", f"row {number}"), row.get("expect")
        ends = [place for place, turn in enumerate(turns, 1) if turn["role"] == "assistant"]
        for n, end in enumerate(ends, 1):
            part = {**row, "id": f"{name}, answer {n}", task.message: turns[:end], "answer": n, "conversation": number - 1}
            parts.append(part | ({"expect": expect[:n]} if expect else {}))
    return parts


def said(task: Task, row: Row) -> list[tuple[int, str, Any]]:
    """(turn, what was asked, the answer) of a row: one, its turn 0; of a conversation one for each answer.

    The turn is the number, from 1, of the user's turn before the answer.
    """
    if task.kind != "chat":
        return [(0, row[task.message], row[task.target])]
    turns = row[task.message]
    return [
        (number, before["content"], turn["content"])
        for number, (before, turn) in enumerate(pairwise(turns), 1)
        if turn["role"] == "assistant"
    ]


def at_turn(name: str, turn: int) -> str:
    """A row's name with the number of a turn, if there is one."""
    return f"{name}, turn {turn}" if turn else name
