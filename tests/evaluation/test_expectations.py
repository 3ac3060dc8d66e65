"""The rules on words by which an answer is held against what is expected of it."""

import pytest

from ftkit.evaluation.metrics.expectations import asks_for, met, passes_on, stands_in, unmet


@pytest.mark.parametrize(
    ("text", "wanted", "stands"),
    [
        ("We open at 12:00.", "12:00", True),
        ("We open at 12:00.", "12", False),
        ("That is £8.50.", "8", False),
        ("That is £8.50.", "£8", False),
        ("That is £8.50.", "8.50", True),
        ("At 8.", "8", True),
        ("At 8, or 18?", "8", True),
        ("Rooms 18 and 80", "8", False),
        ("From 1,200 pounds", "200", False),
        ("Yes: NO NUTS in it", "no nuts", True),
        ("It holds coconuts", "nuts", False),
        ("It holds nuts-free bread", "nuts", True),
        ("on the\n  first  Sunday", "first Sunday", True),
        ("It\u2019s step\u2011free", "it's", True),
        ("Cooper\u2019s Yard", "Cooper's Yard", True),
        ("Crème brûlée", "crème Brûlée", True),
        ("C++ (yes)", "(yes)", True),
    ],
)
def test_words_stand_in_an_answer_as_they_are_written(text, wanted, stands):
    assert stands_in(text, wanted) == stands


@pytest.mark.parametrize(
    ("text", "wanted", "asks"),
    [
        ("Gladly! For how many people, and at what time?", "people", True),
        ("Tables are for 12 people. At what time would you come?", "people", False),
        ("Please tell the desk your name. It is quiet here.", "name", True),
        ("I need a name and a phone number.", "phone number", True),
        ("A name is a name. What is yours?", "name", False),
        ("Let me know the day; the time I have.", "day", True),
        ("Could you give me a number?", "day", False),
        ("We close at 9 p.m. on that day. Which day suits you?", "suits", True),
        ("What day\nThe desk will confirm", "day", False),
        ("How many?) Thank you, people.", "people", False),
        ("May I have your name", "your name", True),
        ("", "day", False),
    ],
)
def test_a_question_stands_in_a_sentence_that_asks(text, wanted, asks):
    assert asks_for(text, ["nothing of this", wanted]) == asks


@pytest.mark.parametrize(
    "text",
    [
        "I can't see which tables are free tonight; the desk will confirm.",
        "I don't know that. Please ring the desk on 0141 496 0110.",
        "I cannot promise a table, but I'll pass it to the desk.",
        "I can’t yet say what today’s special is. The desk can.",
        "I'm unable to check where your order is, so I have asked the Desk to call you.",
        "That is not something I can see from here; the desk knows.",
        "I am not sure, the desk will tell you.",
        "I have no way of knowing how full we are. Ask the desk.",
        "We won't know until the day: the desk opens at 10:00.",
    ],
)
def test_an_answer_passes_a_question_on(text):
    assert passes_on(text)


@pytest.mark.parametrize(
    "text",
    [
        "The desk will confirm your table for four at eight.",
        "I can't see which tables are free.",
        "We don't take cheques; pay at the desk.",
        "Gift cards are sold at the desk only.",
        "I can note it for you, and the desk confirms.",
        "I don't know. Look at the desktop page.",
        "",
    ],
)
def test_an_answer_that_only_names_the_desk_or_only_does_not_know_passes_nothing_on(text):
    assert not passes_on(text)


def test_all_of_it_has_to_be_met():
    expect = {
        "must": [["22:30", "half past ten"], ["Tuesday"]],
        "must_not": ["Monday"],
        "asks": [["day"]],
        "passes_on": True,
    }
    good = "We serve until half past ten from Tuesday on. For which day? I can't see free tables; the desk will confirm."
    assert unmet(expect, good) == []
    assert met(expect, good) == {"must": True, "must not": True, "asks": True, "passes on": True}
    bad = "On Monday until 23:30."
    assert unmet(expect, bad) == [
        "must: 22:30 or half past ten",
        "must: Tuesday",
        "must not: Monday",
        "asks: day",
        "passes on",
    ]
    assert not any(met(expect, bad).values())
    assert met({"must": [["a"]], "must_not": [], "passes_on": False}, "A") == {"must": True}
    assert unmet({}, "anything") == [] and met({}, "anything") == {}
