import html
import json
import re
import socket
from dataclasses import replace

import pytest

from ftkit.common.errors import KitError
from ftkit.data.task import Field, load_task
from ftkit.deployment.demo_page import about_page, answer_card, answer_in_words, evaluation_page, gallery, wrong_answers
from ftkit.deployment.form import form_of_answer, target_of_form
from ftkit.deployment.gatekeeper import free_port
from ftkit.evaluation.measure import FORMAT, table
from ftkit.evaluation.stream import Answer
from ftkit.runs.run import Run

DESK = load_task("desk")
TICKET = {"intent": "book", "urgency": "normal", "guests": 4, "day": None, "time": "19:30", "allergens": ["eggs", "nuts"]}


def card(value, **kwargs):
    text = value if isinstance(value, str) else json.dumps(value)
    return answer_card(DESK, Answer("tuned", text, 9, 1.0, finished=True), **kwargs)


def test_a_busy_port_is_passed_over():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        taken = busy.getsockname()[1]
        assert taken < free_port(taken) < taken + 50
        with pytest.raises(KitError, match="No free port"):
            free_port(taken, tries=1)


def test_the_card_shows_each_field_for_people():
    shown = card(TICKET)
    for text in ("intent", "book", "eggs, nuts", "19:30", "–"):
        assert text in shown
    assert "wrong" not in shown


def test_the_card_marks_what_does_not_fit_and_what_differs():
    assert card({**TICKET, "intent": "chat"}).count("not allowed here") == 1
    assert "should be 6" in card(TICKET, target={**TICKET, "guests": 6})
    assert "wrong" not in card(TICKET, target=TICKET)
    assert "missing" in card({"intent": "book"})
    assert "holds no JSON" in card("I am sorry.")


def test_what_a_model_writes_is_text_in_the_card():
    attack = "<script>alert(1)</script>${alert(2)}{{value}}"
    for value in ({**TICKET, "intent": attack}, {**TICKET, attack: 1}, {**TICKET, "allergens": [attack]}):
        for form in ("<script", "${", "{{"):
            assert form not in card(value)
        assert attack in html.unescape(card(value))
    for kind in ("label", "text"):
        task = replace(DESK, kind=kind, labels=("a", "b"))
        assert "<script" not in answer_card(task, Answer("tuned", attack), attack)


def test_a_label_is_shown_with_its_probability_and_a_text_as_it_is():
    task = replace(DESK, kind="label", labels=("ham", "spam"))
    answer = Answer("tuned", "spam", 2, 0.1, finished=True, probability=0.93)
    assert "93%" in answer_card(task, answer) and "wrong" not in answer_card(task, answer, "spam")
    assert "should be ham" in answer_card(task, answer, "ham")
    assert "no label of this task" in answer_card(task, replace(answer, text="eggs"))
    text = answer_card(replace(DESK, kind="text"), replace(answer, text="Dear guest,\nthank you."), "Thanks.")
    assert "Dear guest,\nthank you." in text and "Thanks." in text


def test_an_answer_in_words_for_a_screen_reader():
    said = answer_in_words(DESK, Answer("tuned", json.dumps(TICKET)))
    assert said.startswith("intent book, urgency normal, guests 4, day none") and "{" not in said
    assert answer_in_words(DESK, Answer("tuned", "I am sorry")) == "no ticket, text only"
    assert answer_in_words(DESK, Answer("tuned")) == "no answer"


@pytest.mark.parametrize(
    "ticket",
    [TICKET, {**TICKET, "guests": None, "day": "12-24", "time": None, "allergens": []}],
)
def test_the_form_shows_an_answer_and_gives_it_back(ticket):
    values = form_of_answer(DESK, json.dumps(ticket))
    assert target_of_form(DESK, values) == ticket
    assert list(target_of_form(DESK, values)) == list(ticket)


def test_the_form_takes_what_people_and_browsers_send():
    values = ["change", "low", 6.0, " friday ", "", ["nuts", "eggs"]]
    target = target_of_form(DESK, values)
    assert target == {
        "intent": "change",
        "urgency": "low",
        "guests": 6,
        "day": "friday",
        "time": None,
        "allergens": ["eggs", "nuts"],
    }
    assert DESK.answer_problems(target) == []
    for broken in ("no object", '{"intent": [1], "guests": "many", "allergens": 3, "day": {}}'):
        assert len(form_of_answer(DESK, broken)) == len(DESK.fields)
    flag = replace(DESK, fields=(Field("vip", "boolean", nullable=True), Field("note", "string")))
    for answer in ({"vip": True, "note": "x"}, {"vip": False, "note": ""}, {"vip": None, "note": "y"}):
        assert target_of_form(flag, form_of_answer(flag, json.dumps(answer))) == answer


def test_the_wrong_answers_are_found_by_field(tmp_path):
    run = Run(tmp_path)
    assert wrong_answers(run, DESK) == ([], 0)
    texts = [TICKET, {**TICKET, "guests": 6, "day": "friday"}, None]
    rows = [{"message": f"<b>{i}", "target": TICKET, "tuned": json.dumps(text)} for i, text in enumerate(texts)]
    for saved in (rows, {"format": 9, "rows": rows}):
        (tmp_path / "predictions.json").write_text(json.dumps(saved))
        wrong, n = wrong_answers(run, DESK)
        assert n == 3 and [row["fields"] for row in wrong] == [["guests", "day"], ["no object"]]
    shown = gallery(DESK, wrong)
    assert "should be 4" in shown and "&lt;b&gt;1" in shown and "<b>" not in shown
    for broken in ("[", "3", '{"a": 1}', '[{"message": 1, "target": 2, "tuned": 3}, 4]'):
        (tmp_path / "predictions.json").write_text(broken)
        assert wrong_answers(run, DESK) == ([], 0)


def test_the_evaluation_is_shown_as_report_or_table_or_why_not(tiny_run, tmp_path):
    run = Run(tmp_path)
    assert "has not been evaluated yet" in evaluation_page(run)
    for broken in ("[", "{}", '{"format": 2}', "3"):
        (tmp_path / "evaluation.json").write_text(broken)
        assert evaluation_page(run).startswith('<p class="note">')
    scores = {"scores": {"exact <match>": 0.5}, "messages_per_second": 1.0}
    result = {"format": FORMAT, "task": "t", "split": "test", "n": 2, "of": 2, "models": {"base": scores, "tuned": scores}}
    (tmp_path / "evaluation.json").write_text(json.dumps(result))
    try:
        table(result)
    except (KeyError, TypeError):
        pass  # another format than this test knows
    else:
        assert "exact &lt;match&gt;" in evaluation_page(run) and "50.0 %" in evaluation_page(run)
    (tmp_path / "report.html").write_text('<p title="a">x</p>')
    assert 'sandbox="" srcdoc="&lt;p title=&quot;a&quot;' in evaluation_page(run)


def test_the_about_page_says_what_it_is_not_for_and_leads_to_no_file(tiny_run):
    page = about_page(tiny_run, DESK)
    for words in ("Do not use it", "Model card", "learning_rate", "Datasheet: the guest desk", "CC0"):
        assert words in page
    assert not re.search(r"\]\((?!https?:)", page) and "\n---\n" not in page
