"""Conversations that repeat each other, as a whole or in a turn, and turns that repeat an earlier one (lesson 02)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftkit.data.conversation.rows import Turn, said
from ftkit.data.similarity import Pair, plain, similar_pairs

if TYPE_CHECKING:
    from ftkit.data.task import Row, Task

LONG = 40  # characters of a turn, as it is compared, from which it is no stock phrase ("Yes, please. At eight.")


@dataclass(frozen=True)
class Repeat:
    """Two conversations by their indices, the earlier one first, and what they share.

    `turns` are the numbers of a user's turn in each, 0 for the whole; `equal` but for case, spaces and punctuation.
    """

    first: int
    second: int
    equal: bool
    text: str
    turns: tuple[int, int] = (0, 0)


def repeats(task: Task, rows: Sequence[Row]) -> list[Repeat]:
    """All pairs of a conversation and an earlier one that it repeats, whole or in a turn; of rows of other kinds, messages.

    Whole: what the user says in one equals or nearly equals what the user says in the other (see `similar_pairs`). In a
    turn: a turn of the user of `LONG` characters or more does. Short turns are said in many conversations, and what the
    assistant says may well be said again. A pair that repeats the whole is not named for its turns too.
    """
    if task.kind != "chat":
        messages = [row[task.message] for row in rows]
        return [Repeat(p.first, p.second, p.equal, messages[p.second]) for p in similar_pairs(messages)]
    asked = [said(task, row) for row in rows]
    whole = ["\n".join(text for _, text, _ in turns) for turns in asked]
    found = [Repeat(p.first, p.second, p.equal, whole[p.second]) for p in similar_pairs(whole)]
    known = {(repeat.first, repeat.second) for repeat in found}
    numbered = [
        (row, number, text) for row, turns in enumerate(asked) for number, text, _ in turns if len(plain(text)) >= LONG
    ]
    for pair in similar_pairs([text for _, _, text in numbered]):
        (first, one, _), (second, other, text) = numbered[pair.first], numbered[pair.second]
        if first != second and (first, second) not in known:
            known.add((first, second))
            found.append(Repeat(first, second, pair.equal, text, (one, other)))
    return sorted(found, key=lambda repeat: (repeat.second, repeat.first))


def pairs_of(task: Task, rows: Sequence[Row]) -> list[Pair]:
    """`repeats` as pairs of rows."""
    return [Pair(repeat.first, repeat.second, repeat.equal) for repeat in repeats(task, rows)]


def said_again(turns: Sequence[Turn]) -> Iterator[tuple[int, int]]:
    """Turns of one speaker in a conversation that say the same: (earlier, later), by their numbers from 1."""
    first: dict[tuple[str, str], int] = {}
    for number, turn in enumerate(turns, 1):
        key = turn["role"], plain(turn["content"])
        if key in first:
            yield first[key], number
        first.setdefault(key, number)
