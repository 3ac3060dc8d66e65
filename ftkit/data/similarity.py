"""Messages that stand twice, or nearly so: within a split they count double, across splits they leak (lesson 02)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NEAR = 0.7  # Jaccard similarity of the character 5-grams from which two messages count as near-duplicates
HASHES = 128
SEED = 1


@dataclass(frozen=True)
class Pair:
    """Two messages by their indices, the earlier one first; `equal` but for case, spaces and punctuation, or near."""

    first: int
    second: int
    equal: bool


def plain(message: str) -> str:
    """The message as it is compared: lower case, words only."""
    return re.sub(r"\W+", " ", message.casefold()).strip()


def shingles(text: str) -> set[str]:
    """All runs of five characters."""
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))}


def similar_pairs(messages: Sequence[str]) -> list[Pair]:
    """All pairs of a message and an earlier one that it equals or nearly equals.

    Near-duplicates are proposed by MinHash with locality-sensitive hashing (Broder 1997; datasketch) and confirmed by their
    true Jaccard similarity, at least `NEAR`. Time and memory grow with the number of messages, not of pairs. A message that
    equals an earlier one is paired with the first such one only.
    """
    import xxhash
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=NEAR - 0.1, num_perm=HASHES)
    first_of: dict[str, int] = {}
    pairs = []
    for i, message in enumerate(messages):
        text = plain(message)
        if text in first_of:
            pairs.append(Pair(first_of[text], i, True))
            continue
        first_of[text] = i
        own = shingles(text)
        sketch = MinHash(num_perm=HASHES, seed=SEED, hashfunc=xxhash.xxh32_intdigest)
        sketch.update_batch([shingle.encode() for shingle in own])
        for j in sorted(index.query(sketch)):
            other = shingles(plain(messages[j]))
            if len(own & other) >= NEAR * len(own | other):
                pairs.append(Pair(j, i, False))
        index.insert(i, sketch)
    return pairs


def groups(messages: Sequence[str]) -> list[int]:
    """A group number for each message: messages that are linked by similarity, also over others, share it."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = similar_pairs(messages)
    ones, rows, columns = [True] * len(pairs), [p.first for p in pairs], [p.second for p in pairs]
    links = coo_array((ones, (rows, columns)), shape=(len(messages), len(messages)))
    return connected_components(links, directed=False)[1].tolist()
