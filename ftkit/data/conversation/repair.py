"""The safe repairs of a conversation's turns; personal data gets the same mask in all of them (lesson 02)."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from ftkit.data.conversation.rows import Turn
from ftkit.data.faults import REPAIRS, mask_personal_data, personal_values, repair_text

PERSONAL = "personal-data"


def repair_turns(turns: Any, without: Collection[str] = ()) -> tuple[Any, list[str]]:
    """Mend the texts of turns as far as that is safe: (the turns, what was done). What is no list of turns stays as it is.

    `without` names repairs of `REPAIRS` to leave out. A mail address that the user gives and the assistant repeats is masked
    in both turns, whatever stands around it.
    """
    if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in turns):
        return turns, []
    personal: dict[str, str] = {}
    if PERSONAL not in without:
        for turn in turns:
            personal |= personal_values(turn["content"])
    mended, done = [], []
    for number, turn in enumerate(turns, 1):
        text, also = repair_text(turn["content"], {*without, PERSONAL})
        masked = text if PERSONAL in without else _mask(text, personal)
        also += [REPAIRS[PERSONAL][0]] if masked != text else []
        mended.append({**turn, "content": masked})
        done += [f"turn {number}: {what}" for what in also]
    return mended, done


def _mask(text: str, personal: dict[str, str]) -> str:
    text = mask_personal_data(text)
    for said, mask in personal.items():
        text = re.sub(re.escape(said), lambda _, mask=mask: mask, text, flags=re.IGNORECASE)
    return text


def changed_turns(before: Sequence[Turn], after: Sequence[Turn]) -> dict[str, tuple[str, str]]:
    """{"turn 3": (text before, text after)} of the turns that a repair changed."""
    pairs = enumerate(zip(before, after, strict=True), 1)
    return {f"turn {n}": (a["content"], b["content"]) for n, (a, b) in pairs if a["content"] != b["content"]}
