from dataclasses import replace
from pathlib import Path

import pytest

from ftkit.data.kept import Check, check_answer, check_kept, things_in
from ftkit.data.task import Task
from ftkit.evaluation.errors import slices, worst
from ftkit.evaluation.scores import Scores

NUMBERS = (r"\d+(?:[.,:]\d+)*",)
ALLERGENS = (("huevo", "huevos"), ("frutos secos",), ("nueces", "nuez"), ("leche",))
ASKED = {
    "numbers": (("?", "half", "at \\d+"), r"\d+", ("2", "two", "a couple of"), ("12", "twelve")),
    "allergens": (("huevo", "eggs?"), ("nueces", "walnuts?"), ("frutos secos", "nuts?")),
}
TEXT = Task(
    folder=Path(),
    name="t",
    kind="text",
    system_prompt="",
    kept={"numbers": NUMBERS, "allergens": ALLERGENS, "negation": (("no", "sin", "nunca"),)},
    kept_in_message=ASKED,
)
ROWS = [
    {"id": "a", "message": "two soups, no eggs", "target": "2 sopas sin huevo."},
    {"id": "b", "message": "walnuts", "target": "Nueces y leche."},
    {"id": "c", "message": "hello", "target": "Hola."},
]


@pytest.mark.parametrize(
    "text, entries, things",
    [
        ("Mesa 12: 2 sopas, 18,50 a las 19:30.", NUMBERS, ["12", "18,50", "19:30", "2"]),
        ("mesa12 y 3x", NUMBERS, []),  # between word borders
        ("Huevos, HUEVO; huevería", ALLERGENS, ["huevo", "huevo"]),
        ("nuez y nueces, leche, lechera, frutos  secos", ALLERGENS, ["leche", "nueces", "nueces"]),
        ("celi\u0301aco celíaco celiaco", ("celíaco",), ["celíaco", "celíaco"]),  # composed or not; the accent counts
        ("diez, 10 y 10", (("10", "diez"), r"\d+"), ["10", "10", "10"]),  # at one place only one thing
        ("\ud800 sin", (("no", "sin"),), ["no"]),
        ("", NUMBERS, []),
    ],
)
def test_things_are_found_between_word_borders_and_named_by_their_first_word(text, entries, things):
    assert things_in(text, entries) == things


def test_an_answer_keeps_a_thing_if_it_holds_as_many_of_it_as_the_right_one_and_no_other():
    scores = Scores(TEXT, ROWS, ["2 sopas, nunca huevos", "Nuez y leche y 3", "Hola, hola"]).rows
    assert scores["numbers kept"] == [True, False, True]
    assert scores["allergens kept"] == [True, True, True]
    assert scores["negation kept"] == [True, True, True]
    assert Scores(TEXT, ROWS[:1], ["2 2 sopas con huevo y leche"]).rows["numbers kept"] == [False]
    assert "numbers kept" not in Scores(replace(TEXT, kept={}), ROWS, [""] * 3).rows


def test_each_kept_score_has_an_interval_and_a_paired_test_against_the_base():
    rows = ROWS[:1] * 12
    base, tuned = Scores(TEXT, rows, ["eggs"] * 12), Scores(TEXT, rows, ["2 sopas sin huevo"] * 12)
    score = tuned.with_intervals()["numbers kept"]
    assert score.value == 1 and score.interval[0] == pytest.approx(0.757, abs=1e-3)  # Wilson's, 12 of 12
    compared = tuned.against(base)["allergens kept"]
    assert (compared.better, compared.worse, compared.p) == (12, 0, 2 / 2**12) and compared.detected


def test_the_rows_that_hold_something_are_a_part_of_their_own_and_what_is_lost_makes_an_answer_worse():
    texts = ["3 sopas sin huevo.", "Nueces.", "Hola"]
    parts = {part.value: part for part in slices(TEXT, ROWS, Scores(TEXT, ROWS, texts).rows) if part.by == "holds"}
    assert {name: part.n for name, part in parts.items()} == {"numbers": 1, "allergens": 2, "negation": 1}
    assert parts["numbers"].fields == {"numbers kept": 0, "allergens kept": 1, "negation kept": 1}
    assert parts["allergens"].fields["allergens kept"] == 0.5
    assert [(row.id, row.wrong) for row in worst(TEXT, ROWS, texts)] == [
        ("b", ["target", "allergens"]),
        ("a", ["target", "numbers"]),
        ("c", ["target"]),
    ]


def test_an_answer_is_checked_against_the_right_one_or_else_by_the_messages_rule_where_it_can_tell():
    found = check_answer(TEXT, "2 sopas con huevo", "3 sopas sin huevo", "anything")
    assert found == [Check("numbers", ("3",), ("2",)), Check("allergens"), Check("negation", ("no",))]
    assert [check.kept for check in found] == [False, True, False]
    numbers, allergens, negation = check_answer(
        TEXT, "2 sopas sin nueces", message="Two soups with EGGS, no walnuts, table 12"
    )
    assert numbers.in_words() == "numbers: “12” missing"
    assert allergens.in_words() == "allergens: “huevo” missing"
    assert not negation.known and negation.in_words() == "negation: cannot be checked here"  # it has no rule for messages
    for message in ("two soups at 8", "half of it"):
        assert not check_answer(TEXT, "2 sopas", message=message)[0].known
    assert check_answer(TEXT, "12 sopas", message="twelve soups")[0].in_words() == "numbers kept"
    assert not any(check.known for check in check_answer(TEXT, "2"))


def test_the_data_check_counts_the_answers_that_hold_what_their_message_says():
    good = {"message": "two soups, no eggs", "target": "2 sopas sin huevo."}
    bad = {"id": "x", "message": "two soups, no eggs", "target": "3 sopas sin leche."}
    numbers, allergens = check_kept(TEXT, [good] * 98 + [bad] * 2 + [{**good, "message": "half of it"}])
    assert (numbers.ok, allergens.ok) == (True, False)  # 2 of 100, and 3 of 101
    assert str(numbers).split(maxsplit=2)[2].startswith("98 of 100 answers hold what their message says; 1 cannot be judged")
    assert numbers.cases == ("x numbers: “2” missing; “3” not wanted: 'two soups, no eggs'",) * 2
    assert list(check_kept(replace(TEXT, kept_in_message={}), [good])) == []
