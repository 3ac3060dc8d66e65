"""Expectations: what must stand in an answer, what must not, what it has to ask for, and whether it passes a question on.

A test conversation carries one object for each answer (`expect` in its row): {"must": [[alternatives], ...], "must_not":
[text, ...], "asks": [[alternatives], ...], "passes_on": true}. All of it is checked by rules on words, so that a score can
be made again by anybody; what a rule cannot see (tone, a fact in other words) it does not judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

ASPECTS = {"must": "must", "must_not": "must not", "asks": "asks", "passes_on": "passes on"}  # keys, and how they are called
ASKING = re.compile(r"\?\W*$|\b(?:please|could|may i|let me know|tell me|give me|need)\b", re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<=[?!])\s+|(?<=[?!][\"')])\s+|(?<=[^.]\.)\s+(?=[\"'(]?[A-Z\d])|\n+")
KNOW = "know|see|say|tell|check|look up|look into|confirm|promise|guarantee|find out|access|be sure|be certain"
NOT_ABLE = (
    "can't|cannot|can not|couldn't|could not|unable to|not able to|don't|do not|won't|would not|wouldn't|have no way to"
)
CANNOT = re.compile(
    rf"\b(?:{NOT_ABLE})\b(?:\s+[\w']+){{0,3}}?\s+(?:{KNOW})\b"  # "I can't yet say", "I do not know"
    r"|\bno (?:way of (?:knowing|seeing|telling)|access|view|information)\b"
    rf"|\b(?:not|isn't|aren't|nothing) (?:something |things? |anything )?(?:that )?(?:i|we) (?:can|could) (?:{KNOW})\b"
    r"|\b(?:not sure|unsure|not certain|beyond what i (?:can )?(?:know|see))\b",
    re.IGNORECASE,
)
DESK = re.compile(r"\bdesk\b", re.IGNORECASE)
QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " ", "\u202f": " "})


def stands_in(text: str, wanted: str) -> bool:
    """Whether a text holds some words: in any case, between word borders, with spaces of any number between them.

    A number is found as it is written, never inside of a longer one: "8" stands in "at 8.", not in "8.50", "18" or "8:30".
    """
    return bool(_pattern(wanted).search(text.translate(QUOTES)))


@cache
def _pattern(wanted: str) -> re.Pattern[str]:
    words = wanted.translate(QUOTES).split()
    body = r"\s+".join(map(re.escape, words))
    before = r"(?<!\w)(?<!\d[.,:])" if words[0][0].isdigit() else r"(?<!\w)"
    after = r"(?!\w)(?![.,:]\d)" if words[-1][-1].isdigit() else r"(?!\w)"
    return re.compile(before + body + after, re.IGNORECASE)


def asks_for(text: str, alternatives: Sequence[str]) -> bool:
    """Whether one of the alternatives stands in a sentence that asks: it ends with "?", or says please, could, may I, let me
    know, tell me, give me or need.
    """
    sentences = SENTENCE_END.split(text.translate(QUOTES))
    return any(ASKING.search(s) and any(stands_in(s, wanted) for wanted in alternatives) for s in sentences if s)


def passes_on(text: str) -> bool:
    """Whether an answer says that it cannot know, see or promise something, and names the desk."""
    text = text.translate(QUOTES)
    return bool(CANNOT.search(text) and DESK.search(text))


def unmet(expect: Mapping[str, Any], answer: str) -> list[str]:
    """What an answer does not meet of its expectations, a phrase each ("must: 22:30 or half past ten"); none: all is met."""
    return [f"{ASPECTS[key]}: {what}" if what else ASPECTS[key] for key, what in _unmet(expect, answer)]


def _unmet(expect: Mapping[str, Any], answer: str) -> Iterator[tuple[str, str]]:
    for alternatives in expect.get("must", []):
        if not any(stands_in(answer, wanted) for wanted in alternatives):
            yield "must", " or ".join(alternatives)
    for text in expect.get("must_not", []):
        if stands_in(answer, text):
            yield "must_not", text
    for alternatives in expect.get("asks", []):
        if not asks_for(answer, alternatives):
            yield "asks", " or ".join(alternatives)
    if expect.get("passes_on") and not passes_on(answer):
        yield "passes_on", ""


def met(expect: Mapping[str, Any], answer: str) -> dict[str, bool]:
    """Whether an answer meets each aspect that its expectations have: {"must": yes or no, ...}, the empty ones left out.

    `passes_on` false says nothing: an answer may pass a question on although it need not.
    """
    missed = {key for key, _ in _unmet(expect, answer)}
    return {ASPECTS[key]: key not in missed for key in ASPECTS if expect.get(key)}
