"""What only conversations can have wrong: turns said twice, system turns of their own; and how long they are (lesson 06)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ftkit.common.errors import Finding
from ftkit.data.conversation.rows import count_answers
from ftkit.data.conversation.similar import said_again

if TYPE_CHECKING:
    from ftkit.data.task import Row, Task


def check_conversations(task: Task, named: Sequence[tuple[str, str]], rows: Sequence[Row]) -> Iterator[Finding]:
    """Findings on the turns of conversations; none for other kinds. `named` has the (split, name) of each row."""
    if task.kind != "chat" or not rows:
        return
    turns = [row[task.message] for row in rows]
    lengths = sorted(len(some) - (some[0]["role"] == "system") for some in turns)
    expecting = sum("expect" in row for row in rows)
    text = f"{lengths[0]} to {lengths[-1]} a conversation, {lengths[len(lengths) // 2]} in the middle; "
    text += f"{sum(map(count_answers, turns)):,} answers"
    yield Finding(
        "turns", True, text + (f"; {expecting:,} conversation(s) say what is expected of them" if expecting else "")
    )
    yield _check_repeated(named, turns)
    own = tuple(name for (_, name), some in zip(named, turns, strict=True) if some[0]["role"] == "system")
    if own and task.system_prompt:
        text = (
            f"{len(own)} conversation(s) bring a system turn of their own, which takes the place of the task's system prompt"
        )
        fix = "Take it out of them, or make the task's system_prompt empty, if that was not meant."
        yield Finding("system turns", False, text, fix, own)


def _check_repeated(named: Sequence[tuple[str, str]], turns: Sequence[list[dict[str, str]]]) -> Finding:
    cases = tuple(
        f"{name}, turns {first} and {second}: {some[second - 1]['content'][:60]!r}"
        for (_, name), some in zip(named, turns, strict=True)
        for first, second in said_again(some)
    )
    if not cases:
        return Finding("repeated turns", True, "no turn says what its speaker said before")
    fix = "Read them: what an answer repeats, the model learns to repeat."
    return Finding("repeated turns", False, f"{len(cases)} turn(s) say what their speaker said before", fix, cases)
