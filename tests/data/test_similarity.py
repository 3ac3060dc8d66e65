import time

import pytest

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
    assert len(expected) >= 20 and found == expected


def test_equal_messages_are_paired_with_the_first_whatever_their_case_and_punctuation():
    pairs = similar_pairs(["A table, please!", "a table please", "Something else entirely", "A TABLE PLEASE..."])
    assert [(p.first, p.second, p.equal) for p in pairs] == [(0, 1, True), (0, 3, True)]


def test_groups_link_messages_over_others():
    base = "could we have the round table near the window on friday evening for the four of us at half past seven"
    one, two = base + " please", base + " please and thanks"
    numbers = groups([base, "an altogether different message", one, two])
    assert numbers[0] == numbers[2] == numbers[3] != numbers[1]
    assert groups([]) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("👍", "👎"),
        ("great service 👍", "great service 👎"),
        ("👍🏻", "👍🏿"),
        ("+1", "-1"),
        ("-1", "1"),
        ("2*3", "2/3"),
        ("50%", "50"),
        ("a < b", "a > b"),
        ("thanks :)", "thanks :("),
        (":-)", ":-("),
        ("?", "!!"),
        ("£5", "$5"),
        ("कि", "का"),  # differ in a vowel sign alone
        ("น้ำ", "นำ"),
        ("قلم", "قلّم"),
        ("C#", "C++"),
    ],
)
def test_messages_that_differ_in_a_sign_that_says_something_are_not_equal(one, other):
    assert plain(one) != plain(other) and plain(one) and plain(other)
    assert not any(pair.equal for pair in similar_pairs([one, other]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A table, please!", "a table please"),
        ("well-made", "WELL MADE"),
        ("cafe\u0301", "caf\u00e9"),
        ("❤\ufe0f", "❤"),
        ("می\u200cخواهم", "میخواهم"),
        ("...", " ... "),
    ],
)
def test_messages_that_differ_in_case_spaces_and_punctuation_are_equal(one, other):
    assert [pair.equal for pair in similar_pairs([one, other])] == [True]


def test_twenty_thousand_messages_are_compared_in_seconds():
    words = [row["message"].split() for row in load_task("desk").rows("train")]
    messages = [" ".join(words[i % 1400][:9] + words[i * 7 % 1399][-9:]) + f" {i}" for i in range(20_000)]
    messages[19_000] = messages[500] + " x"
    began = time.process_time()
    pairs = similar_pairs(messages)
    assert time.process_time() - began < 8  # 2 on a quiet core
    assert (500, 19_000) in {(pair.first, pair.second) for pair in pairs}
