"""Two answers to the same message: how a judge is asked which is better, in both orders, and how its replies are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftkit.data.prompt import Messages

FIRST, SECOND, TIE = "first", "second", "tie"
RULES = """You compare two answers of an assistant to the last message of a conversation.
The better answer is true by what the assistant knows, does what the last message needs, and keeps to the instructions. \
Neither length nor the place of an answer counts. A wrong fact is worse than saying where to ask.
If neither answer is better, because both are good or both are of no use, it is a tie."""
ASK = "Which answer is better? Reply with one word and nothing else: A, B or TIE."
WORD = re.compile(r"\W*(?:answer\s+)?(A|B|TIE)\W*", re.IGNORECASE)
THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
NAMES = {"system": "INSTRUCTIONS", "user": "USER", "assistant": "ASSISTANT"}


@dataclass(frozen=True)
class Pair:
    """Two answers, `first` and `second`, after the same turns; `group` is the conversation or the row that they are of.

    `right` is the answer that stands in the data, if the judge should see it.
    """

    group: int
    turns: Messages
    first: str
    second: str
    right: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a judge said of a pair: `FIRST`, `SECOND`, `TIE`, or None where a reply could not be read.

    `places` are the answers that it took, "A" and "B", in the order as it stands and in the other; empty for the same texts.
    """

    verdict: str | None
    places: tuple[str | None, ...] = ()

    @property
    def took(self) -> str:
        """ "first" or "second" where it took the same place in both orders, whatever stood there; else nothing."""
        return FIRST if self.places == ("A", "A") else SECOND if self.places == ("B", "B") else ""


def question(pair: Pair, known: str, swapped: bool) -> Messages:
    """What the judge is asked of a pair: one message, with what the assistant knows (`known`), if that is told."""
    a, b = (pair.second, pair.first) if swapped else (pair.first, pair.second)
    spoken = "\n".join(f"{NAMES[turn['role']]}: {turn['content']}" for turn in pair.turns)
    parts = [RULES]
    parts += [f"WHAT THE ASSISTANT KNOWS\n{known}"] if known else []
    parts += [f"THE CONVERSATION\n{spoken}"]
    parts += [f"AN ANSWER THAT IS RIGHT\n{pair.right}"] if pair.right else []
    parts += [f"ANSWER A\n{a or '(no text)'}", f"ANSWER B\n{b or '(no text)'}", ASK]
    return [{"role": "user", "content": "\n\n".join(parts)}]


def read_reply(text: str) -> str | None:
    """ "A", "B" or "TIE": the word of a reply, alone or alone on its first or last line; None for anything else."""
    lines = [line for line in THOUGHTS.sub("", text).splitlines() if line.strip()]
    found = (WORD.fullmatch(line.strip()) for line in lines[:1] + lines[-1:])
    return next((match[1].upper() for match in found if match), None)


def outcome(straight: str, swapped: str) -> Outcome:
    """The verdict of two replies, the second to the pair in the other order: who is not preferred in both is not better."""
    places = read_reply(straight), read_reply(swapped)
    if None in places:
        return Outcome(None, places)
    return Outcome(FIRST if places == ("A", "B") else SECOND if places == ("B", "A") else TIE, places)


def count_places(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How often the judge took whichever stood first, or second, in both orders."""
    return {f"took_{place}": sum(one.took == place for one in outcomes) for place in (FIRST, SECOND)}
