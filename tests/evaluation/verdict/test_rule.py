"""The rule on made-up results: each advice, and the results next to where it changes."""

import pytest

from ftkit.evaluation.verdict.rule import (
    BASE,
    ENCODER,
    FEW_SHOT,
    FEWEST,
    FROZEN,
    MAJORITY,
    NEAREST,
    QLORA,
    RULE,
    SMALL,
    STEEP,
    TFIDF,
    UNSURE,
    decide,
)
from ftkit.runs.documents import Comparison, Doubling, Score, Standing

CLEAR, OPEN = 0.001, 0.3  # p


def made_up(n=400, **gaps):
    """Standings under a best of 90 %: {name: (how far behind, half of the interval's width, p)}."""
    standings = {}
    names = {"majority": MAJORITY, "tfidf": TFIDF, "frozen": FROZEN, "encoder": ENCODER, "few": FEW_SHOT, "qlora": QLORA}
    names |= {"nearest": NEAREST, "base": BASE}
    for short, gap in gaps.items():
        distance, half, p = gap or (0.0, 0.0, 1.0)
        value, behind = 0.9 - distance, None
        if gap is not None:
            interval = (distance - half, distance + half)
            behind = Comparison(n=n, first=value, second=0.9, difference=distance, interval=interval, p=p)
        score = Score(value=value, interval=(value - 0.03, value + 0.03))
        standings[names[short]] = Standing(score=score, behind=behind, rows_needed=1234 if p == OPEN else None)
    best = next(name for name, standing in standings.items() if standing.behind is None)
    return standings, best, n


def advice(doublings=None, **gaps):
    standings, best, n = made_up(**gaps)
    curves = {
        name: Doubling(rows=(500, 1000), gain=gain, interval=(gain - half, gain + half))
        for name, (gain, half) in (doublings or {}).items()
    }
    return decide(standings, best, curves, n)


def test_what_is_told_apart_from_everything_simpler_is_taken():
    said = advice(majority=(0.8, 0.04, CLEAR), tfidf=(0.1, 0.04, CLEAR), encoder=(0.05, 0.03, CLEAR), qlora=None)
    assert (said.kind, said.choice) == ("fine-tune", QLORA) and "90.0 %" in said.text


def test_the_simplest_that_is_close_enough_is_taken_even_if_it_is_told_apart():
    lag = (0.02, 0.015, CLEAR)
    said = advice(majority=(0.8, 0.04, CLEAR), tfidf=lag, encoder=(0.01, 0.02, OPEN), qlora=None)
    assert (said.kind, said.choice) == ("do not fine-tune", TFIDF)
    assert "88.0 %" in said.text and "QLoRA is 2.0 points ahead, 95 % interval +0.5 to +3.5" in said.text
    said = advice(tfidf=(0.08, 0.04, CLEAR), frozen=(0.04, 0.03, CLEAR), encoder=lag, qlora=None)
    assert (said.kind, said.choice) == ("the encoder is enough", ENCODER)
    said = advice(tfidf=(0.08, 0.04, CLEAR), frozen=lag, qlora=None)
    assert (said.kind, said.choice) == ("the encoder is enough", FROZEN)


@pytest.mark.parametrize(
    ("gaps", "choice"),
    [
        ({"majority": (0.5, 0.1, CLEAR), "tfidf": None, "qlora": (0.1, 0.05, CLEAR)}, TFIDF),
        ({"nearest": (0.5, 0.1, CLEAR), "base": (0.2, 0.05, CLEAR), "few": None, "qlora": (0.3, 0.05, CLEAR)}, FEW_SHOT),
        ({"nearest": (0.0, 0.02, 1.0), "base": (0.2, 0.05, CLEAR), "qlora": None}, NEAREST),
        ({"majority": (0.01, 0.02, OPEN), "tfidf": (0.0, 0.02, 1.0), "qlora": None}, MAJORITY),
    ],
)
def test_without_a_training_that_helps_the_advice_is_not_to_fine_tune(gaps, choice):
    said = advice(**gaps)
    assert (said.kind, said.choice) == ("do not fine-tune", choice) and said.text.startswith("Do not fine-tune")
    assert ("look at the answers" in said.text) == (choice == MAJORITY)


def test_an_encoder_that_is_the_best_is_enough():
    said = advice(tfidf=(0.06, 0.03, CLEAR), encoder=None, qlora=(0.02, 0.03, OPEN))
    assert (said.kind, said.choice) == ("the encoder is enough", ENCODER)


@pytest.mark.parametrize("gap", [(SMALL + 0.01, 0.06, OPEN), (SMALL - 0.01, UNSURE, OPEN)])
def test_a_gap_that_is_neither_told_apart_nor_surely_small_needs_more_test_rows(gap):
    said = advice(n=50, majority=(0.6, 0.1, CLEAR), tfidf=gap, qlora=None)
    assert (said.kind, said.choice) == ("too few test rows to tell", QLORA)
    assert (
        "on 50 rows" in said.text
        and "about 1,234" in said.text
        and f"{100 * gap[0]:.1f} points ahead of TF-IDF" in said.text
    )
    near = advice(n=50, majority=(0.6, 0.1, CLEAR), tfidf=(gap[0], gap[1], CLEAR), qlora=None)
    assert near.kind == "fine-tune"


def test_on_few_rows_even_the_majority_may_not_be_told_apart():
    assert advice(n=30, majority=(0.25, 0.4, OPEN), tfidf=(0.1, 0.4, OPEN), qlora=None).kind == "too few test rows to tell"


def test_a_handful_of_test_rows_gives_no_advice_however_clear_it_looks():
    clear = {"majority": (0.8, 0.04, CLEAR), "qlora": None}
    said = advice(n=FEWEST - 1, **clear)
    assert said.kind == "too few test rows to tell" and f"there are {FEWEST - 1}" in said.text and str(FEWEST) in RULE[0]
    assert advice(n=FEWEST, **clear).kind == "fine-tune"


def test_a_contender_that_is_surely_enough_wins_over_a_simpler_one_that_is_open():
    said = advice(tfidf=(0.05, 0.06, OPEN), encoder=(0.0, 0.04, 1.0), qlora=None)
    assert (said.kind, said.choice) == ("the encoder is enough", ENCODER)


def test_labels_come_first_where_twice_as_many_give_more_than_the_best_is_ahead():
    gaps = {"tfidf": (0.04, 0.03, CLEAR), "encoder": (0.02, 0.03, OPEN), "qlora": None}
    said = advice({TFIDF: (0.08, 0.03)}, **gaps)
    assert (said.kind, said.choice) == ("label more first", TFIDF)
    assert (
        "from 500 to 1,000 rows, gave TF-IDF +8.0 points" in said.text and "QLoRA is ahead today (4.0 points)" in said.text
    )
    assert advice({TFIDF: (0.08, 0.03), ENCODER: (0.07, 0.03)}, **gaps).choice == ENCODER  # comes furthest
    for too_little in ((STEEP - 0.01, 0.001), (0.08, 0.05)):  # a gain that is small, or not surely more than the gap
        assert advice({TFIDF: too_little}, **gaps).kind == "the encoder is enough"
    far = {"tfidf": (0.2, 0.05, CLEAR), "qlora": None}
    assert advice({TFIDF: (0.08, 0.03)}, **far).kind == "fine-tune"  # twice the labels would not pass QLoRA
    best = advice({ENCODER: (0.06, 0.02)}, tfidf=(0.1, 0.03, CLEAR), encoder=None)
    assert best.kind == "label more first" and "it is the best already" in best.text


def test_the_rule_that_is_shown_names_the_numbers_that_decide():
    words = " ".join(RULE)
    for number in (SMALL, UNSURE, STEEP):
        assert f"{100 * number:.0f} points" in words or f"at most {100 * number:.0f}" in words
