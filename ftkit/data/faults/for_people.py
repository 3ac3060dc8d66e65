"""Faults that a person must judge: messages that end in the middle, or are in another language than most."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
STOP = re.compile(r"\W*(?:[.!?;:)…\n]|$)")


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, apostrophes kept."""
    return WORD.findall(text.casefold())


def find_cut_off(messages: list[str]) -> list[int]:
    """Indices of messages that seem to end in the middle: without a stop, and

    - on a comma, a bracket or the like, or
    - on a word that in the other messages hardly ever ends a sentence, or
    - on the beginning of a word: letters that stand alone in no other message, while longer words begin so.

    What is usual is counted in the messages themselves; few messages give few findings.
    """
    messages_with: Counter[str] = Counter()
    times: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for text in messages:
        messages_with.update(set(split_words(text)))
        for match in WORD.finditer(text.casefold()):
            times[match[0]] += 1
            ended[match[0]] += bool(STOP.match(text, match.end()))
    beginnings = Counter(word[:n] for word in messages_with for n in range(1, len(word)))
    indices = []
    for i, text in enumerate(messages):
        last = next(iter(split_words(text)[-1:]), None)
        if last is None or not re.search(r"[\w,'’(£&-]\s*$", text):
            continue
        bare = not text.rstrip()[-1].isalnum()
        never_last = times[last] >= 12 and ended[last] - 1 <= 0.01 * times[last]
        stump = messages_with[last] == 1 and last.isalpha() and beginnings[last] > 1 and last in text  # not a name's capital
        if bare or never_last or stump:
            indices.append(i)
    return indices


def find_foreign(messages: list[str], sure: float = 0.6) -> list[tuple[int, str]]:
    """Messages in another language than most: (index, ISO 639 code), where the other is likelier than `sure`.

    Uses py3langid (Lui and Baldwin 2012, langid.py); very short texts are rarely sure enough.
    """
    identify = _identifier()
    languages = [identify(text) for text in messages]
    if not languages:
        return []
    most = Counter(language for language, _ in languages).most_common(1)[0][0]
    return [(i, language) for i, (language, share) in enumerate(languages) if language != most and share > sure]


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).classify
