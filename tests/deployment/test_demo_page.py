import html
import json
import re
import shutil
import socket
from dataclasses import replace

import pytest

from ftkit.common.errors import KitError
from ftkit.data.task import Field, load_task
from ftkit.deployment.demo_page import (
    answer_card,
    describe_answer,
    list_wrong_answers,
    render_about,
    render_evaluation,
    render_gallery,
)
from ftkit.deployment.form import fill_form, read_form
from ftkit.deployment.gatekeeper import free_port
from ftkit.evaluation.measure import evaluate
from ftkit.evaluation.stream import Answer
from ftkit.runs.documents import WrongAnswer
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
    said = describe_answer(DESK, Answer("tuned", json.dumps(TICKET)))
    assert said.startswith("intent book, urgency normal, guests 4, day none") and "{" not in said
    assert describe_answer(DESK, Answer("tuned", "I am sorry")) == "no ticket, text only"
    assert describe_answer(DESK, Answer("tuned")) == "no answer"


@pytest.mark.parametrize(
    "ticket",
    [TICKET, {**TICKET, "guests": None, "day": "12-24", "time": None, "allergens": []}],
)
def test_the_form_shows_an_answer_and_gives_it_back(ticket):
    values = fill_form(DESK, json.dumps(ticket))
    assert read_form(DESK, values) == ticket
    assert list(read_form(DESK, values)) == list(ticket)


def test_the_form_takes_what_people_and_browsers_send():
    values = ["change", "low", 6.0, " friday ", "", ["nuts", "eggs"]]
    target = read_form(DESK, values)
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
        assert len(fill_form(DESK, broken)) == len(DESK.fields)
    flag = replace(DESK, fields=(Field("vip", "boolean", nullable=True), Field("note", "string")))
    for answer in ({"vip": True, "note": "x"}, {"vip": False, "note": ""}, {"vip": None, "note": "y"}):
        assert read_form(flag, fill_form(flag, json.dumps(answer))) == answer


def save_answers(run, texts):
    """What an evaluation saves of the tuned model's answers: the settings, then a line each."""
    lines = [{"settings": {}}, *({"message": m, "prediction": text, "seconds": 0.1} for m, text in texts.items())]
    path = run.folder / "predictions" / "test-tuned.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_the_wrong_answers_are_listed_by_field(tiny_task_folder, tmp_path):
    run = Run(tmp_path)
    folder = shutil.copytree(tiny_task_folder, tmp_path / "task")
    rows = [{"id": str(i), "message": f"<b>{i}", "ticket": TICKET} for i in range(3)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_task(folder)
    assert list_wrong_answers(run, task) == ([], 0)
    texts = [TICKET, {**TICKET, "guests": 6, "day": "friday"}, None]
    path = save_answers(run, {f"<b>{i}": json.dumps(text) for i, text in enumerate(texts)} | {"of another split": "x"})
    wrong, n = list_wrong_answers(run, task)
    assert n == 3 and [row["fields"] for row in wrong] == [["guests", "day"], ["no object"]]
    shown = render_gallery(task, wrong)
    assert "should be 4" in shown and "&lt;b&gt;1" in shown and "<b>" not in shown
    for broken in ("[", "3", '{"a": 1}\n{"a": 1}\n', '{}\n{"message": 1, "prediction": 2}\n4\n', '{}\n{"message": []}\n'):
        path.write_text(broken)
        assert list_wrong_answers(run, task) == ([], 0)


def test_the_evaluation_is_shown_as_report_or_why_not(tiny_run, tmp_path):
    run = Run(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    assert "has not been evaluated yet" in render_evaluation(run)
    for broken in ("[", "{}", '{"format": 2}', '{"format": 1}', "3"):
        (run.folder / "evaluation.json").write_text(broken)
        assert render_evaluation(run).startswith('<p class="note">')
    result = evaluate(run, say=lambda line: None, limit=2, quick=True)
    worst = WrongAnswer(id="x", message="</iframe>${1}", target="{}", prediction="<script>", wrong=["day"])
    result.model_copy(update={"worst": [worst]}).save(run.folder)
    shown = render_evaluation(run)
    assert shown.startswith('<iframe class="report"') and 'sandbox="" srcdoc="&lt;!doctype html&gt;' in shown
    assert "<script" not in shown and "${" not in shown and shown.count("</iframe>") == 1
    page = html.unescape(shown)
    assert "<h2>All figures</h2>" in page and "&lt;script&gt;" in page and "the first 2 of 12 messages" in page


def test_the_about_page_says_what_it_is_not_for_and_leads_to_no_file(tiny_run):
    page = render_about(tiny_run, DESK)
    for words in ("Do not use it", "Model card", "learning_rate", "Datasheet: the guest desk", "CC0"):
        assert words in page
    assert not re.search(r"\]\((?!https?:)", page) and "\n---\n" not in page
