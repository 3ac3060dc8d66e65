import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftkit.data.faults import (
    find_cut_off,
    find_foreign,
    find_markup,
    find_personal_data,
    match_spelling,
    repair_answer,
    repair_text,
)
from ftkit.data.task import load_task

DESK = load_task("desk")
TICKET = {
    "intent": "book",
    "urgency": "normal",
    "guests": 4,
    "day": "friday",
    "time": "19:30",
    "allergens": ["fish", "nuts"],
}


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("<p>Fish &amp; chips<br>for two</p>", "Fish & chips for two"),
        ("Table for 4\n\n-- \nAnn\nSales", "Table for 4"),
        ("Table for 4\n\nSent from my iPhone", "Table for 4"),
        ("Yes please\nOn Tue, 4 Mar at 18:02, The Pot wrote:\n> hello", "Yes please"),
        ("call 07700 900123 after 6", "call [phone] after 6"),
        ("ann.lee@example.com please", "[e-mail] please"),
        ("card 4111 1111 1111 1111 ok", "card [card] ok"),
        ("zero\u200bwidth\x07 ", "zerowidth"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_a_fault_in_a_message_is_mended(text, mended):
    assert repair_text(text)[0] == mended
    assert len(repair_text(text)[1]) == 1
    assert repair_text(mended) == (mended, [])


@pytest.mark.parametrize(
    "text",
    [
        "I <3 your chips, 2 < 3 and a & b",
        "we were 8 on 14/06/2025 at 19:30, paid £1200.50",
        "ref 6071, order 12345678",
        "sent my friends, all from Leeds",
        "Sent from my iPhone",  # nothing would be left
    ],
)
def test_what_only_looks_like_a_fault_stays(text):
    assert repair_text(text) == (text, [])
    assert not find_markup(text) and not find_personal_data(text)


def test_a_long_number_that_is_no_card_is_not_called_one():
    assert find_personal_data("4111 1111 1111 1111") == ["card number"]
    assert "card number" not in find_personal_data("4111 1111 1111 1112")


def test_every_desk_message_stays_as_it_is_but_for_phone_numbers():
    for split in ("train", "validation", "test"):
        for row in DESK.rows(split):
            mended, done = repair_text(row["message"])
            assert mended == row["message"] or done == ["masked personal data"]
            assert repair_answer(DESK, row["ticket"]) == (row["ticket"], [])


@pytest.mark.parametrize(
    "change",
    [
        {"intent": "Book"},
        {"intent": " BOOK "},
        {"urgency": "Normal"},
        {"guests": "4"},
        {"day": "Friday"},
        {"day": "FRIDAY "},
        {"allergens": ["Nuts", "fish"]},
        {"allergens": ["nuts", "fish", "nuts"]},
    ],
)
def test_a_misspelled_answer_is_mended_and_what_was_done_is_said(change):
    mended, done = repair_answer(DESK, TICKET | change)
    assert mended == TICKET and list(mended) == list(TICKET) and len(done) == 1


def test_keys_are_mended_and_put_in_order():
    mended, done = repair_answer(DESK, {"Urgency": "normal", **{k: v for k, v in TICKET.items() if k != "urgency"}})
    assert list(mended.items()) == list(TICKET.items()) and len(done) == 2


@pytest.mark.parametrize("answer", [TICKET | {"intent": "booking"}, TICKET | {"guests": "four"}, None, [], "{", 7, {}])
def test_what_an_answer_says_is_never_guessed(answer):
    assert repair_answer(DESK, answer) == (answer, [])


def test_two_values_that_are_alike_are_not_chosen_between():
    assert match_spelling("lost item", ["lost_item", "lostitem"]) is None
    assert match_spelling("Lost-Item", ["lost_item", "book"]) == "lost_item"
    assert match_spelling("book", ["book"]) is None


@given(st.text())
def test_repairing_twice_changes_nothing_more_and_never_fails(text):
    once, _ = repair_text(text)
    again, _ = repair_text(once)
    assert isinstance(once, str) and len(again) <= len(once)
    find_cut_off([text]), find_markup(text), find_personal_data(text)


def test_messages_that_end_in_the_middle_are_found_and_whole_ones_are_not():
    whole = [row["message"] for row in DESK.rows("train")]
    usual = find_cut_off(whole)
    assert len(usual) < 0.01 * len(whole)
    long = [i for i, text in enumerate(whole) if len(text) > 120][:60]
    texts = [text[: 40 + i % 40] if i in long else text for i, text in enumerate(whole)]
    assert len(set(find_cut_off(texts)) & set(long)) >= 0.3 * len(long)
    assert find_cut_off([]) == []


def test_messages_in_another_language_are_found():
    english = [row["message"] for row in DESK.rows("test")[:50]]
    texts = [*english, "Einen Tisch für zehn Personen bitte, am Freitag um sieben.", "Vorrei prenotare un tavolo per due"]
    found = find_foreign(texts)
    assert [i for i, _ in found] == [50, 51] and [code for _, code in found] == ["de", "it"]
    assert find_foreign([]) == []
