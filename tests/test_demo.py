import importlib.util
import json

import pytest

from ftkit.base import kit_root
from ftkit.deployment import free_port
from ftkit.generation import BASE, TUNED


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("ftkit_demo", kit_root() / "apps" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def client(demo, tiny_run, answerer):
    from gradio_client import Client

    page = demo.launch(tiny_run, free_port(), block=False, answerer=answerer)
    yield Client(page.local_url, verbose=False)
    page.close()


def test_both_sides_stream_and_end_as_the_models_answer(client, answerer, tiny_task):
    message = tiny_task.rows("test")[0]["message"]
    last = [step[TUNED].text for step in answerer.stream(message)][-1]
    job = client.submit(message, api_name="/answer")
    cards_and_texts = job.result(timeout=120)
    assert len(job.outputs()) > 2  # it came in pieces
    assert len(cards_and_texts) == 6
    assert cards_and_texts[4] == last
    for measures in (cards_and_texts[2], cards_and_texts[5]):
        assert measures.startswith(("finished", "cut off at the length limit"))
        assert " s · " in measures and "tokens" in measures


def test_a_message_that_may_not_be_read_is_answered_in_one_sentence(client):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="at most 2,000 are taken"):
        client.predict("x" * 20_000, api_name="/answer")
    with pytest.raises(AppError, match="not empty"):
        client.predict(" ", api_name="/answer")


def test_the_examples_come_from_the_test_split(demo, tiny_run, answerer, tiny_task):
    page = demo.build(tiny_run, answerer)
    config = json.dumps(page.get_config_file(), default=str)
    shown = [row["message"] for row in tiny_task.rows("test") if json.dumps(row["message"])[1:-1] in config]
    assert len(shown) == 8


def test_the_same_model_answers_base_and_tuned(answerer):
    assert {BASE, TUNED} == {"base", "tuned"}
    assert list(answerer.model.peft_config) == ["default"]
