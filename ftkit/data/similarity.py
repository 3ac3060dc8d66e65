"""Messages that stand twice, or nearly so: within a split they count double, across splits they leak (lesson 02)."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

NEAR = 0.7  # Jaccard similarity of the character 5-grams from which two messages count as near-duplicates
LENGTH = 5
BANDS, ROWS = 32, 5  # two texts of similarity s are compared with probability 1 - (1 - s^ROWS)^BANDS
SEED = 1
BLOCK = 4096  # messages whose shingles are hashed together: bounds the memory
ALIKE = 0x2200  # ASCII signs that say something are moved here, among the mathematical operators, which are kept
# an operator beside a number ("-1" is not "1", but the stroke in "1-2" and "well-made" is one), a face such as ":("
SAYING = re.compile(r"(?<![\w-])-(?=[\d.])|(?<=\d)\s*[*/%^]|(?<!\w)[:;=][-']?[()\[\]/\\|]+|[()\[\]\\|]+[-']?[:;=](?!\w)")


class _Kept(dict[int, str]):
    """What becomes of a character: letters, marks, numbers and symbols stay; punctuation and spaces part words."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        joiner, selector = code == 0x200D, 0xFE00 <= code <= 0xFE0F
        dropped = (category == "Cf" and not joiner) or selector
        kept = (category[0] in "LMNSC" and category != "Cc") or category == "Pc"
        self[code] = "" if dropped else character if kept or joiner else " "
        return self[code]


_KEPT = _Kept()


@dataclass(frozen=True)
class Pair:
    """Two messages by their indices, the earlier one first; `equal` but for case, spaces and punctuation, or near."""

    first: int
    second: int
    equal: bool


def plain(message: str) -> str:
    """The message as it is compared: lower case, composed (NFC), without punctuation.

    Marks of any script, operators, symbols and emoji count as letters do. A message of nothing but punctuation is compared
    as it stands.
    """
    text = unicodedata.normalize("NFC", message.casefold())
    text = SAYING.sub(lambda match: "".join(chr(ALIKE + ord(sign)) for sign in match[0] if not sign.isspace()), text)
    return " ".join(text.translate(_KEPT).split()) or " ".join(message.split())


def shingles(text: str) -> set[str]:
    """All runs of five characters."""
    return {text[i : i + LENGTH] for i in range(max(1, len(text) - LENGTH + 1))}


def similar_pairs(messages: Sequence[str]) -> list[Pair]:
    """All pairs of a message and an earlier one that it equals or nearly equals.

    Near-duplicates are proposed by MinHash with locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman,
    Mining of Massive Datasets, chapter 3) and confirmed by their true Jaccard similarity, at least `NEAR`; of pairs that are
    just so similar, 1 in 360 is not proposed. Time and memory grow with the number of messages, not of pairs. A message that
    equals an earlier one is paired with the first such one only.
    """
    first_of: dict[str, int] = {}
    pairs = []
    for i, message in enumerate(messages):
        text = plain(message)
        if text in first_of:
            pairs.append(Pair(first_of[text], i, True))
        else:
            first_of[text] = i
    texts, index = list(first_of), list(first_of.values())
    for i, others in sorted(_proposed(texts).items()):
        own = shingles(texts[i])
        for j in others:
            other = shingles(texts[j])
            if len(own & other) >= NEAR * len(own | other):
                pairs.append(Pair(index[j], index[i], False))
    return sorted(pairs, key=lambda pair: (pair.second, pair.first))


def _proposed(texts: list[str]) -> dict[int, set[int]]:
    """For each text the earlier ones whose sketches have a whole band in common with its own, if there are any."""
    if not texts:
        return {}
    proposed: dict[int, set[int]] = defaultdict(set)
    bands = np.concatenate([_bands(texts[i : i + BLOCK]) for i in range(0, len(texts), BLOCK)])
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=~band[order[:1]]))  # of each run of equal numbers
        sizes = np.diff(starts, append=len(order))
        for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
            alike = order[start : start + size].tolist()
            for n in range(1, size):
                proposed[alike[n]].update(alike[:n])
    return proposed


def _bands(texts: list[str]) -> np.ndarray:
    """A 64-bit number [texts, BANDS] for each band of a text's MinHash sketch; each different shingle is hashed once."""
    padded = "".join(text.ljust(LENGTH, "\0") for text in texts)
    lengths = np.array([max(LENGTH, len(text)) for text in texts])
    counts = lengths - LENGTH + 1
    starts = np.cumsum(counts) - counts
    begins = np.arange(counts.sum()) + np.repeat(np.cumsum(lengths) - lengths - starts, counts)
    codes = np.frombuffer(padded.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    grams, places = np.unique(_number(codes[begins + i] for i in range(LENGTH)), return_inverse=True)
    multiply, add = np.random.default_rng(SEED).integers(2**64, size=(2, BANDS * ROWS), dtype=np.uint64)
    hashes = zip(multiply | np.uint64(1), add, strict=True)
    sketch = (np.minimum.reduceat(_high(grams * a + b)[places], starts) for a, b in hashes)
    return np.stack([_number(islice(sketch, ROWS)) for _ in range(BANDS)], axis=1)


def _high(numbers: np.ndarray) -> np.ndarray:
    """The upper halves of 64-bit numbers: of a multiplication they are the half that looks random."""
    return (numbers >> np.uint64(32)).astype(np.uint32)


def _number(columns: Iterable[np.ndarray]) -> np.ndarray:
    """A 64-bit number for each row of columns of whole numbers; equal rows get the same."""
    number = np.zeros(1, dtype=np.uint64)
    for column in columns:
        number = (number ^ column) * np.uint64(0x9E3779B97F4A7C15)
        number ^= number >> np.uint64(29)
    return number


def groups(messages: Sequence[str]) -> list[int]:
    """A group number for each message: messages that are linked by similarity, also over others, share it."""
    return linked(similar_pairs(messages), len(messages))


def linked(pairs: Sequence[Pair], n: int) -> list[int]:
    """A group number for each of `n` things: those that pairs link, also over others, share it."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones, rows, columns = [True] * len(pairs), [p.first for p in pairs], [p.second for p in pairs]
    links = coo_array((ones, (rows, columns)), shape=(n, n))
    return connected_components(links, directed=False)[1].tolist()
