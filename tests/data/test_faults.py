import json
import time
import unicodedata
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ftkit.data.faults import (
    REPAIRS,
    find_cut_off,
    find_foreign,
    find_markup,
    find_personal_data,
    mask_personal_data,
    match_spelling,
    normalize_text,
    remove_markup,
    remove_signature,
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


CORPORA = Path(__file__).with_name("corpora")
HARMLESS, TO_MEND = (
    [json.loads(line) for line in (CORPORA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in ("harmless", "to_mend")
)


def test_the_corpora_are_large_and_varied():
    assert len({row["text"] for row in HARMLESS}) == len(HARMLESS) >= 400 and len(TO_MEND) >= 100
    scripts = {unicodedata.name(c, "?").split()[0] for row in HARMLESS for c in row["text"] if c.isalpha()}
    assert len(scripts) >= 25, scripts


@pytest.mark.parametrize("row", HARMLESS, ids=lambda row: row["text"][:30].encode("unicode_escape").decode())
def test_a_harmless_message_is_left_alone_to_the_last_character(row):
    assert repair_text(row["text"]) == (row["text"], [])
    assert not find_markup(row["text"]) and not find_personal_data(row["text"])


@pytest.mark.parametrize("row", TO_MEND, ids=lambda row: row["text"][:30].encode("unicode_escape").decode())
def test_a_fault_is_mended_exactly_and_once(row):
    mended, done = repair_text(row["text"])
    assert mended == row["mended"] and done
    assert repair_text(mended) == (mended, [])


@pytest.mark.parametrize("row", TO_MEND, ids=lambda row: row["text"][:30].encode("unicode_escape").decode())
def test_a_repair_that_is_switched_off_is_not_made(row):
    assert repair_text(row["text"], tuple(REPAIRS)) == (row["text"], [])
    for name, (what, _) in REPAIRS.items():
        assert what not in repair_text(row["text"], (name,))[1]


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


PLAIN = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Cn", "Co", "M"), exclude_characters="<>&@"), max_size=60
)
SIGNATURES = ("-- \nAnn\nSales", "Sent from my iPhone", "Get Outlook for Android", "Von meinem iPhone gesendet")


@given(st.text())
@example("&amp;lt;p>a</p>")
@example("<p>&lt;p&gt;a&lt;/p&gt;</p>")
def test_repairing_never_fails_and_a_second_time_never_adds_anything(text):
    once, _ = repair_text(text)
    again, _ = repair_text(once)
    assert isinstance(once, str) and len(again) <= len(once)
    find_cut_off([text]), find_markup(text), find_personal_data(text)


@given(st.text(st.characters(exclude_characters="0123456789@<&", exclude_categories=("Nd", "Cs"))))
def test_characters_lose_nothing_but_controls_spaces_and_what_nobody_sees(text):
    def seen(text):
        letters = (c for c in text if c not in "\u200b\ufeff\u00ad" and unicodedata.category(c) != "Cc" and not c.isspace())
        return unicodedata.normalize("NFC", "".join(letters))

    assert seen(normalize_text(text)) == seen(text)
    assert mask_personal_data(text) == text and remove_markup(text) == text


@given(PLAIN.map(str.strip).filter(bool), st.sampled_from(SIGNATURES))
def test_a_signature_goes_and_the_message_stays_whole(text, signature):
    assume(not text.endswith((":", "：")))  # what follows is what the text speaks of
    assert remove_signature(f"{text}\n\n{signature}") == text
    assert remove_signature(f"{text} {signature.splitlines()[-1]}") == f"{text} {signature.splitlines()[-1]}"


@given(PLAIN.map(str.strip).filter(bool))
def test_html_around_a_message_goes_and_the_message_stays_whole(text):
    assert remove_markup(f"<p>{text}</p>") == text
    assert remove_markup(f"<b>{text}") == f"<b>{text}"


@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2099, 12, 31)),
    st.sampled_from(["%Y-%m-%d %H:%M", "%d.%m.%Y %H.%M", "%m/%d/%Y %H:%M", "%d-%m-%Y %H:%M", "%Y%m%d %H%M%S", "%d %m %Y"]),
)
def test_a_date_is_no_phone_number_and_no_card(when, form):
    text = f"seen {when.strftime(form)} at the hub"
    assert mask_personal_data(text) == text


@given(
    st.integers(10**5, 10**19),
    st.sampled_from(["order", "tracking number", "parcel no.", "ref", "Bestellung", "заказ", "订单"]),
)
def test_an_order_number_is_no_phone_number_and_no_card(number, word):
    assert mask_personal_data(f"{word} {number} is late") == f"{word} {number} is late"


@given(st.integers(1, 10**13))
def test_a_bare_number_without_a_word_that_says_so_is_no_phone_number(number):
    assert mask_personal_data(f"{number} was it") == f"{number} was it"


def test_the_characters_that_go_are_named():
    assert repair_text("\ufeffa\u00adb\x07c\u200b")[1] == [
        "normalised characters and spaces: without U+FEFF, U+00AD, U+200B, U+0007"
    ]
    assert repair_text(" a")[1] == ["normalised characters and spaces"]


def test_no_text_makes_the_repairs_slow():
    began = time.process_time()
    for piece in (
        "<b ",
        "<!--",
        "&amp;",
        "a\nFrom: x\n",
        "\nOn 1 ",
        "+1 ",
        "0123 ",
        "a.",
        "--\n",
        "\nsent from my ",
        "(0",
        " \n",
    ):
        repair_text(piece * (4000 // len(piece)) + "@")
    assert time.process_time() - began < 2


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
