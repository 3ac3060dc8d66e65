"""Faults that a rule can see in a single row, and safe repairs for some of them (lesson 02).

Read `markup`, `personal_data` and `characters` (messages), `answers`, then `for_people` (what only a reader can judge).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ftkit.data.faults.answers import match_spelling, repair_answer
from ftkit.data.faults.characters import name_removed, normalize_text
from ftkit.data.faults.for_people import find_cut_off, find_foreign, split_words
from ftkit.data.faults.markup import find_markup, remove_markup, remove_signature
from ftkit.data.faults.personal_data import find_personal_data, mask_personal_data, personal_values

__all__ = [
    "REPAIRS",
    "find_cut_off",
    "find_foreign",
    "find_markup",
    "find_personal_data",
    "mask_personal_data",
    "match_spelling",
    "normalize_text",
    "personal_values",
    "remove_markup",
    "remove_signature",
    "repair_answer",
    "repair_text",
    "split_words",
]

# the repairs of a message, by the names that switch them off: (what was done, how)
REPAIRS: dict[str, tuple[str, Callable[[str], str]]] = {
    "markup": ("removed markup", remove_markup),
    "signature": ("cut off a signature or quoted mail", remove_signature),
    "personal-data": ("masked personal data", mask_personal_data),
    "characters": ("normalised characters and spaces", normalize_text),
}


def repair_text(text: str, without: Collection[str] = ()) -> tuple[str, list[str]]:
    """Mend a message as far as that is safe: (the text, what was done). `without` names repairs to leave out."""
    done: list[str] = []
    for name, (what, repair) in REPAIRS.items():
        if name not in without and (mended := repair(text)) != text:
            detail = name_removed(text) if repair is normalize_text else ""
            text, done = mended, [*done, what + detail]
    return text, done
