import collections
import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from ftkit.cli.main import app
from ftkit.common.errors import KitError
from ftkit.evaluation import forgetting as general
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.forgetting import CHUNK, KINDS, describe_check, english_chunks, general_check, passes, questions
from ftkit.runs.documents import GeneralCheck
from ftkit.runs.run import Run


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ({"any_of": ["Paris"]}, ["It is PARIS.", "paris"], ["Parisian food", "London", ""]),
        ({"any_of": ["South America"]}, ["in south america!"], ["America", "South"]),
        ({"any_of": ["CO₂", "C++"]}, ["CO₂ it is", "c++"], ["CO", "C"]),
        ({"contains_all": ["dog", "park"]}, ["A dog in the park"], ["dogs in the park", "dog"]),
        ({"none_of": ["6"], "any_of": ["5"]}, ["4, 5"], ["5, 6"]),
        ({"in_order": ["1", "2", "3"]}, ["1, 2, 3", "1\n2\n3"], ["3, 1, 2", "1 2"]),
        ({"at_least": {"words": ["bat", "hat"], "times": 2}}, ["bat, hat", "hat hat bat"], ["bat", "bath hate"]),
        ({"exactly": {"words": ["blue"], "times": 3}}, ["Blue blue, blue."], ["blue blue", "blue blue blue blue"]),
        ({"number": 12}, ["12", "It is 12.", "$12.00", "6 × 2 = 12!"], ["112", "1.12", "12,000", "twelve", "1 2"]),
        ({"number": 1200}, ["1,200", "1200 m"], ["200", "1,2,0,0"]),
        ({"number": 5}, ["5"], ["9" * 6000, "٥"]),
        ({"starts_with": "Today"}, ["today it rains"], ["Well, today"]),
        ({"ends_with": "?"}, ["Why? "], ["Why? Because."]),
        ({"lines": 2, "max_words": 2}, ["apple\n\npear\n"], ["apple pear", "an apple\npear"]),
        ({"each_line_starts": "-"}, ["- a\n- b"], ["- a\nb"]),
        ({"uppercase": True}, ["GOOD MORNING!"], ["Good Morning", "123"]),
    ],
)
def test_a_check_lets_right_answers_pass_and_no_others(check, right, wrong):
    assert [text for text in right if not passes(check, text)] == []
    assert [text for text in wrong if passes(check, text)] == []


def test_an_empty_answer_never_passes():
    assert not passes({"max_words": 5}, " \n") and not passes({"none_of": ["a"]}, "")


@pytest.mark.parametrize("check", [{}, {"any_off": ["a"]}])
def test_a_check_that_says_nothing_known_is_refused(check):
    with pytest.raises(KitError, match="any_of, contains_all"):
        passes(check, "text")


def test_the_questions_are_sixty_and_each_can_be_failed():
    asked = questions()
    assert len(asked) == 60 == len({q["id"] for q in asked}) == len({q["prompt"] for q in asked})
    assert collections.Counter(q["kind"] for q in asked) == dict.fromkeys(KINDS, 20)
    for q in asked:
        assert set(q) == {"id", "kind", "prompt", "check"} and q["id"].startswith(q["kind"])
        assert not passes(q["check"], "I do not know what to say about this.")
        assert not passes(
            q["check"], '{"intent":"other","urgency":"low","guests":null,"day":null,"time":null,"allergens":[]}'
        )
        if "number" in q["check"]:
            assert not passes(q["check"], q["prompt"]), q["id"]


RIGHT = {
    "knowledge-01": "Paris",
    "knowledge-08": "The symbol is Au.",
    "arithmetic-06": "2 + 2 = 4",
    "instruction-01": "Hello",
    "instruction-11": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday",
    "instruction-12": "1 2 3 4 5",
    "instruction-16": "blue blue blue",
    "instruction-20": "- cat\n- dog\n- cow\n- hen",
}


def test_good_answers_to_the_questions_pass():
    checks = {q["id"]: q["check"] for q in questions()}
    assert [key for key, text in RIGHT.items() if not passes(checks[key], text)] == []


def test_the_english_text_is_a_few_pages_of_plain_words():
    text = general.english()
    assert 1000 < len(text.split()) < 1600 and text.count("***") >= 3
    assert text.isascii()


def test_the_chunks_are_the_whole_text_without_overlap(answerer):
    chunks = english_chunks(answerer.tokenizer)
    ids = answerer.tokenizer(general.english(), add_special_tokens=False)["input_ids"]
    joined = [token for chunk in chunks for token in chunk]
    assert joined == ids[: len(joined)] and len(joined) >= len(ids) - 1  # a last token alone cannot be judged
    assert {len(chunk) for chunk in chunks[:-1]} == {CHUNK} and 2 <= len(chunks[-1]) <= CHUNK


@pytest.fixture(scope="module")
def checked(answerer):
    seen = []
    return general_check(answerer, lambda done, of: seen.append((done, of))), seen


def test_the_check_gives_a_yes_or_no_for_each_question_and_a_sum_for_each_chunk(answerer, checked):
    result, seen = checked
    assert [q.id for q in result.questions] == [q["id"] for q in questions()]
    chunks = english_chunks(answerer.tokenizer)
    assert result.tokens == [len(chunk) - 1 for chunk in chunks]
    for side in (BASE, TUNED):
        model = result.models[side]
        assert {type(right) for right in model.right} == {bool} and len(model.right) == len(model.answers) == 60
        assert len(model.log_probabilities) == len(chunks) and max(model.log_probabilities) < 0
    assert result.models[BASE].answers != result.models[TUNED].answers
    done = [step for step, _ in seen]
    assert done == sorted(done) and seen[-1][0] == seen[-1][1] == 2 * (60 + len(chunks))
    assert GeneralCheck.model_validate_json(result.model_dump_json()) == result
    lines = describe_check(result)
    assert [line.split()[0] for line in lines[1:4]] == list(KINDS) and "95 % interval" in lines[-1]


def test_an_adapter_that_adds_nothing_costs_nothing(tiny_run, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_run.folder, tmp_path / "zero", ignore=shutil.ignore_patterns("checkpoints"))
    weights = tmp_path / "zero" / "adapter" / "adapter_model.safetensors"
    next_to_nothing = {name: torch.full_like(tensor, 1e-30) for name, tensor in load_file(weights).items()}
    save_file(next_to_nothing, weights)  # an adapter that is all zeros is refused
    result = general_check(Answerer.of_run(Run(tmp_path / "zero")))
    base, tuned = result.models[BASE], result.models[TUNED]
    assert base.answers == tuned.answers and base.right == tuned.right
    assert base.log_probabilities == pytest.approx(tuned.log_probabilities, rel=1e-5)
    assert "No detectable difference" in describe_check(result)[-1]


def test_log_probabilities_are_those_computed_directly(answerer):
    ids = answerer.tokenizer("a table for two on friday, please", add_special_tokens=False)["input_ids"]

    def directly(start):
        with torch.inference_mode():
            logits = answerer.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        return sum(float(logits[i - 1, ids[i]]) for i in range(start, len(ids)))

    found = answerer.log_probabilities([ids, ids[:1]], TUNED)
    assert found[0] == (pytest.approx(directly(1), rel=1e-3), len(ids) - 1) and found[1] == (0.0, 0)
    assert answerer.log_probabilities([ids], TUNED, skip=[4]) == [(pytest.approx(directly(4), rel=1e-3), len(ids) - 4)]
    with answerer.model.disable_adapter():
        base = directly(1)
    assert answerer.log_probabilities([ids], BASE)[0][0] == pytest.approx(base, rel=1e-3)
    assert abs(base - found[0][0]) > 1e-3 * abs(base)  # further apart than the tolerance above


def test_a_chat_is_gone_on_with_in_the_models_own_format_without_the_tasks_prompt(answerer, monkeypatch):
    seen = []
    generate = answerer.model.generate

    def watched(*args, **kwargs):
        seen.append((answerer.tokenizer.decode(kwargs["input_ids"][0]), kwargs["max_new_tokens"]))
        return generate(*args, **kwargs)

    monkeypatch.setattr(answerer.model, "generate", watched)
    texts = answerer.complete([[{"role": "user", "content": "What is 2 + 2?"}]], BASE, 3)
    assert seen == [("<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n", 3)]
    assert len(texts) == 1
    with pytest.raises(KitError, match="'tunde' is not a model of a run"):
        answerer.complete([], "tunde")
    with pytest.raises(KitError, match="'tunde' is not a model of a run"):
        answerer.log_probabilities([], "tunde")


def test_the_command_prints_the_check_and_says_how_to_get_public_benchmarks(tiny_run):
    done = CliRunner().invoke(app, ["general", str(tiny_run.folder)])
    assert done.exit_code == 0 and "perplexity" in done.stdout and ("n = 60" in done.stdout or "of 60" in done.stdout)
    import importlib.util

    if importlib.util.find_spec("lm_eval") is None:
        done = CliRunner().invoke(app, ["general", str(tiny_run.folder), "--lm-eval", "hellaswag"])
        assert isinstance(done.exception, KitError) and "pip install lm-eval" in str(done.exception)


def test_public_benchmarks_run_on_both_sides_where_lm_eval_is_installed(answerer, tmp_path):
    pytest.importorskip("lm_eval")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"q": q, "a": a}) + "\n" for q, a in [("is it so", 0), ("a table", 1)] * 4))
    task = {
        "task": "mini",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": ["yes", "no"],
        "doc_to_target": "{{a}}",
        "metric_list": [{"metric": "acc"}],
    }
    found = general.lm_eval(answerer, [task], limit=6)
    assert set(found) == {BASE, TUNED} and all(0 <= side["mini"]["acc,none"] <= 1 for side in found.values())
    with pytest.raises(KitError, match="no_such_task"):
        general.lm_eval(answerer, ["no_such_task"])
