import json
from dataclasses import replace
from functools import partial

import pytest

from ftkit.common.errors import KitError
from ftkit.data.answer_form import ANSWER_FORMS
from ftkit.data.prompt import completion_text
from ftkit.evaluation.answer import BASE, TUNED
from ftkit.evaluation.decoding import constrained
from ftkit.evaluation.decoding.constrained import SchemaProcessor


@pytest.mark.parametrize("which", [BASE, TUNED])
def test_under_constrained_decoding_a_model_of_random_weights_keeps_to_the_schema(answerer, which):
    task = answerer.task
    fitting = partial(SchemaProcessor, task, answerer.tokenizer, vocabulary=answerer.model.config.vocab_size)
    messages = [row["message"] for row in task.rows("test")[:5]]
    chats = [answerer.prompt(message, which) for message in messages]
    whole = 0
    for text in answerer.complete(chats, which, max_new_tokens=240, fitting=fitting):
        if text.endswith("}"):
            answer = json.loads(text)
            assert not task.answer_problems(answer)
            assert text == completion_text(task, answer)
            whole += 1
        else:  # it rambles in a number until the length ends
            assert text.startswith('{"intent":"')
    assert whole >= 1 or which == BASE


@pytest.mark.parametrize("form", ANSWER_FORMS)
def test_the_grammar_takes_every_right_ticket_and_no_list_out_of_order_or_with_a_name_twice(answerer, form):
    import llguidance
    import llguidance.hf

    task, tokenizer = replace(answerer.task, answer_form=ANSWER_FORMS[form]), answerer.tokenizer
    known = llguidance.hf.from_tokenizer(tokenizer, n_vocab=answerer.model.config.vocab_size)
    grammar = llguidance.LLMatcher.grammar_from_lark(constrained._grammar(task))

    def taken(text):
        matcher = llguidance.LLMatcher(known, grammar)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    ticket = {"intent": "book", "urgency": "normal", "guests": 4, "day": None, "time": "20:00", "allergens": []}
    for row in task.rows("train")[:40]:
        assert taken(completion_text(task, row["ticket"]))
    for allergens in (["eggs", "milk"], ["celery", "eggs", "sulphites"]):
        assert taken(completion_text(task, {**ticket, "allergens": allergens}))
    for allergens in (["milk", "eggs"], ["eggs", "eggs"], ["tahini"]):
        assert not taken(completion_text(task, {**ticket, "allergens": allergens}))
    for wrong in ({"guests": "4"}, {"guests": 0}, {"time": "25:00"}, {"intent": "party"}, {"intent": None}):
        assert not taken(completion_text(task, {**ticket, **wrong})), wrong
    assert taken(completion_text(task, ticket)) and taken(json.dumps(ticket)) == (form == "spaced")


def test_only_a_json_task_has_a_schema_to_keep_to(answerer):
    with pytest.raises(KitError, match="Only the answers of a json task"):
        SchemaProcessor(replace(answerer.task, kind="text"), answerer.tokenizer, 1, 700)
