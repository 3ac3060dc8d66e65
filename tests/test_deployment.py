import json
import socket

import pytest

from ftkit.base import KitError
from ftkit.deployment import answer_card, free_port
from ftkit.generation import Answer
from ftkit.tasks import load_task

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
    attack = "<script>alert(1)</script>"
    for value in ({**TICKET, "intent": attack}, {**TICKET, attack: 1}, {**TICKET, "allergens": [attack]}):
        assert "<script" not in card(value)
        assert "&lt;script" in card(value)
