import json
from dataclasses import replace
from functools import partial

import pytest

from ftkit.base import KitError
from ftkit.decoding import only_what_fits
from ftkit.generation import BASE, TUNED


@pytest.mark.parametrize("which", [BASE, TUNED])
def test_under_constrained_decoding_a_model_of_random_weights_keeps_to_the_schema(answerer, which):
    task = answerer.task
    fitting = partial(only_what_fits, task, answerer.tokenizer, vocabulary=answerer.model.config.vocab_size)
    messages = [row["message"] for row in task.rows("test")[:5]]
    chats = [answerer.prompt(message, which) for message in messages]
    whole = 0
    for text in answerer.complete(chats, which, max_new_tokens=160, fitting=fitting):
        if text.endswith("}"):
            answer = json.loads(text)
            problems = [p for p in task.answer_problems(answer) if "sorted" not in p and "allergens" not in p]
            assert not problems and list(answer) == [f.name for f in task.fields]
            whole += 1
        else:  # it rambles in a list until the length ends
            assert text.startswith('{"intent":"')
    assert whole >= 1 or which == BASE


def test_only_a_json_task_has_a_schema_to_keep_to(answerer):
    with pytest.raises(KitError, match="Only the answers of a json task"):
        only_what_fits(replace(answerer.task, kind="text"), answerer.tokenizer, 1, 700)
