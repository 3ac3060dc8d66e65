"""The safe repairs of a conversation's turns; personal data gets the same mask in all of them (lesson 02)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ftkit.data.conversation.rows import Turn
from ftkit.data.faults import REPAIRS, personal_values, repair_text

PERSONAL = "personal-data"
OWN = 5  # conversations in whose answers a contact stands, from which it is the house's own


def house_contacts(chats: Iterable[Any]) -> dict[str, int]:
    """Mail addresses and numbers of whoever answers: {as it is written: conversations}, in the answers of `OWN` or more.

    The house's own number is what an answer has to say: it is neither counted as personal data nor masked.
    """
    counts: Counter[str] = Counter()
    for turns in chats:
        if _has_texts(turns):
            answers = (turn["content"] for turn in turns if turn.get("role") == "assistant")
            counts.update({value for text in answers for value in personal_values(text)})
    return {value: n for value, n in counts.most_common() if n >= OWN}


def without_contacts(text: str, own: Collection[str]) -> str:
    """A text without the contacts in it that are the house's own."""
    for value in own:
        text = text.replace(value, "")
    return text


def _has_texts(turns: Any) -> bool:
    return isinstance(turns, list) and all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in turns)


def repair_turns(turns: Any, without: Collection[str] = (), own: Collection[str] = ()) -> tuple[Any, list[str]]:
    """Mend the texts of turns as far as that is safe: (the turns, what was done). What is no list of turns stays as it is.

    `without` names repairs of `REPAIRS` to leave out; `own` are contacts that are not masked. A mail address that the user
    gives and the assistant repeats is masked in both turns, whatever stands around it.
    """
    if not _has_texts(turns):
        return turns, []
    personal: dict[str, str] = {}
    if PERSONAL not in without:
        for turn in turns:
            personal |= personal_values(turn["content"])
    mended, done = [], []
    for number, turn in enumerate(turns, 1):
        text, also = repair_text(turn["content"], {*without, PERSONAL})
        masked = _mask(text, {value: mask for value, mask in personal.items() if value not in own})
        also += [REPAIRS[PERSONAL][0]] if masked != text else []
        mended.append({**turn, "content": masked})
        done += [f"turn {number}: {what}" for what in also]
    return mended, done


def _mask(text: str, personal: dict[str, str]) -> str:
    for said in sorted(personal, key=len, reverse=True):
        text = personal[said].join(re.split(re.escape(said), text, flags=re.IGNORECASE))
    return text


def changed_turns(before: Sequence[Turn], after: Sequence[Turn]) -> dict[str, tuple[str, str]]:
    """{"turn 3": (text before, text after)} of the turns that a repair changed."""
    pairs = enumerate(zip(before, after, strict=True), 1)
    return {f"turn {n}": (a["content"], b["content"]) for n, (a, b) in pairs if a["content"] != b["content"]}
