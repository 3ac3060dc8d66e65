from ftkit.data.similarity import NEAR, groups, plain, shingles, similar_pairs
from ftkit.data.task import load_task


def test_every_near_duplicate_is_found_that_comparing_all_pairs_finds():
    messages = [row["message"] for row in load_task("desk").rows("train")[:80]]
    for i in range(30):
        words = messages[i].split()
        messages[40 + i] = " ".join([*words[: i % len(words)], "hm", *words[i % len(words) :]])
    sets = [shingles(plain(message)) for message in messages]
    expected = {
        (i, j)
        for j, y in enumerate(sets)
        for i, x in enumerate(sets[:j])
        if len(x & y) / len(x | y) >= NEAR and plain(messages[i]) != plain(messages[j])
    }
    found = {(pair.first, pair.second) for pair in similar_pairs(messages) if not pair.equal}
    assert found <= expected
    assert len(expected) >= 20 and len(found) >= 0.95 * len(expected)


def test_equal_messages_are_paired_with_the_first_whatever_their_case_and_punctuation():
    pairs = similar_pairs(["A table, please!", "a table please", "Something else entirely", "A TABLE PLEASE..."])
    assert [(p.first, p.second, p.equal) for p in pairs] == [(0, 1, True), (0, 3, True)]


def test_groups_link_messages_over_others():
    base = "could we have the round table near the window on friday evening for the four of us at half past seven"
    one, two = base + " please", base + " please and thanks"
    numbers = groups([base, "an altogether different message", one, two])
    assert numbers[0] == numbers[2] == numbers[3] != numbers[1]
    assert groups([]) == []
