"""Answers that are asked for again, with the tiny model: which candidate is taken, and what is said of it."""

import copy
import json
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

from ftkit.cli.main import app
from ftkit.common.errors import KitError
from ftkit.data.kept import things_in
from ftkit.data.prompt import prompt_ids
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.decoding.checked import answer_checked, describe_checked, look
from ftkit.evaluation.decoding.pruned import Pruned
from ftkit.evaluation.measure import evaluate
from ftkit.runs.run import Run

MESSAGES = ["A table for us on friday", "Do you have soup today", "We come with four children"]
N = 6
RULES = """
[kept]
spices = [["saffron"], ["cumin"]]
[kept_in_message]
spices = [["?", "spicy"], ["saffron"], ["cumin"]]
"""


def text_task(task, wanted="saffron", word="us"):
    """A text task that wants `wanted` in an answer as often as `word` stands in the message."""
    rules = {"kept": {"things": ((wanted,),)}, "kept_in_message": {"things": ((wanted, word),)}}
    return replace(task, kind="text", target="target", fields=(), **rules)


@pytest.fixture
def texts(answerer):
    """The tiny run's answerer with a text task."""
    own = copy.copy(answerer)
    own.task, own.batch_size = text_task(answerer.task), 2 * N
    return own


def beams(answerer, message, which):
    """Candidates by plain `generate` for one message, the likeliest first."""
    ids = torch.tensor([prompt_ids(answerer.tokenizer, answerer.prompt(message, which))])
    most = {"max_new_tokens": answerer.max_new_tokens, "num_beams": N, "num_return_sequences": N, "do_sample": False}
    with torch.inference_mode():
        if which == TUNED:
            out = answerer.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **most)
        else:
            with answerer.model.disable_adapter():
                out = answerer.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **most)
    found = answerer.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in found]


def first_with(found, word):
    """The place of the first text that holds a word, if none holds it twice: such a beam is not followed; or -1."""
    counts = [len(things_in(text, ((word,),))) for text in found]
    return counts.index(1) if max(counts) == 1 else -1


@pytest.mark.parametrize("which", [TUNED, BASE])
def test_the_likeliest_candidate_that_keeps_everything_is_taken(texts, which):
    message = MESSAGES[0]
    found = [*texts.answer([message], which), *beams(texts, message, which)]
    assert len(set(found)) > N // 2
    later = 0
    for place, text in enumerate(found[1:], start=1):
        # a word that this one holds once, and none before it
        words = [word for word in things_in(text, (r"[a-zA-Z]\w*",)) if first_with(found, word) == place]
        if words:
            texts.task = text_task(texts.task, words[0])
            (answer,) = answer_checked(texts, [message], which, candidates=N)
            assert (answer.text, answer.again, answer.lost) == (text, True, [])
            assert answer.in_words() == "things kept; asked for again"
            later += 1
    assert later >= 1


def test_what_keeps_everything_is_not_asked_for_again_and_what_nothing_settles_is_marked(texts, monkeypatch):
    plain, asked = texts.answer(MESSAGES), []
    generate = Answerer._generate

    def watched(self, prompts, which, most=None, shared=None, fitting=None, candidates=1):
        asked.append((len(prompts), candidates))
        return generate(self, prompts, which, most, shared, fitting, candidates)

    monkeypatch.setattr(Answerer, "_generate", watched)
    texts.task = text_task(texts.task, "saffron", "(?:us|four)")  # no candidate holds it: in the first and third message
    answers = answer_checked(texts, MESSAGES, candidates=N)
    assert [answer.text for answer in answers] == plain  # the first answer comes before all that lose as much
    assert [answer.again for answer in answers] == [True, False, True]
    assert [answer.lost for answer in answers] == [["things: “saffron” missing"], [], ["things: “saffron” missing"]]
    assert [call for call in asked if call[1] > 1] == [(2, N)]
    assert describe_checked(answers) == (
        "2 of 3 answers lost something of their message and were asked for again, 2 of them still do; "
        "0 cannot be judged in everything"
    )


def test_the_candidate_that_loses_least_is_taken_where_none_keeps_everything(texts):
    message = MESSAGES[0]
    first, *found = [*texts.answer([message]), *beams(texts, message, TUNED)]
    words = [word for text in found for word in things_in(text, (r"[a-zA-Z]\w*",))]
    word = next(word for word in words if first_with([first, *found], word) > 0 and not things_in(first, ((word,),)))
    wanted = {"kept": {"things": ((word,), ("saffron",))}, "kept_in_message": {"things": ((word, "us"), ("saffron", "on"))}}
    texts.task = replace(texts.task, **wanted)
    (answer,) = answer_checked(texts, [message], candidates=N)
    assert answer.text == found[first_with(found, word)]
    assert (answer.again, answer.faults, answer.lost) == (True, 1, ["things: “saffron” missing"])


def test_no_beam_is_followed_that_holds_what_the_message_does_not_say(texts):
    message = MESSAGES[0]
    plain = beams(texts, message, TUNED)

    def early(some):
        """How many texts hold each word in their first half."""
        halves = (" ".join(text.split()[: len(text.split()) // 2]) for text in some)
        return Counter(word for half in halves for word in sorted(set(things_in(half, (r"[a-zA-Z]\w*",)))))

    counts = early(plain)
    word = max(sorted(counts), key=lambda word: counts[word])
    texts.task = text_task(texts.task, word, "nowhere")
    prompts = [prompt_ids(texts.tokenizer, texts.prompt(message, TUNED))]
    fitting = partial(Pruned, texts.task, texts.tokenizer, [message])
    pruned = texts.worker.submit(texts._generate, prompts, TUNED, None, None, fitting, N).result()
    assert early(pruned)[word] < counts[word]


def test_what_the_rule_cannot_judge_is_neither_asked_for_again_nor_called_kept(texts):
    rules = {"kept_in_message": {"things": (("?", "friday"), ("saffron", "us"))}}
    texts.task = replace(texts.task, **rules)
    (answer,) = answer_checked(texts, MESSAGES[:1], candidates=N)
    assert (answer.again, answer.lost, answer.in_words()) == (False, [], "things: cannot be checked here")
    assert describe_checked([answer]).endswith("; 1 cannot be judged in everything")
    assert look(texts.task, "hello", "saffron").in_words() == "things: “saffron” not wanted"


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """The tiny run as one of a text task, with rules that no answer of it can meet."""
    folder = tmp_path_factory.mktemp("spices")
    (folder / "task.toml").write_text(f'name = "spices"\nkind = "text"\nsystem_prompt = "Cook."\n{RULES}', encoding="utf-8")
    rows = [("Saffron and cumin", "Azafrán"), ("Spicy saffron", "Picante"), ("Nothing", "Nada"), ("Cumin", "Comino")]
    lines = "".join(json.dumps({"message": message, "target": target}) + "\n" for message, target in rows)
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    made = Run(shutil.copytree(tiny_run.folder, tmp_path_factory.mktemp("runs") / "spices"))
    made.update(task=made.record.task.model_copy(update={"name": "spices", "folder": str(folder)}))
    return made


def test_an_evaluation_has_checked_answers_beside_the_plain_ones_and_says_how_many_were_asked_again(run, monkeypatch):
    lines = []
    result = evaluate(run, say=lines.append, quick=True, checked=True)
    counted = (
        "2 of 4 answers lost something of their message and were asked for again, 2 of them still do; "
        "1 cannot be judged in everything"
    )
    own = result.models["tuned, checked"]
    assert own.about.endswith(counted) and any(line == f"  tuned, checked: {counted}" for line in lines)
    assert own.scores.keys() == result.models[TUNED].scores.keys() and own.seconds > 0
    assert "spices kept" in result.comparisons["tuned, checked"]
    assert "2 of 4 answers lost" in (run.folder / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr(Answerer, "_generate", None)  # a second time nothing is asked
    again = evaluate(run, say=lambda line: None, quick=True, checked=True)
    assert again.models["tuned, checked"] == own


def test_generate_says_of_each_row_whether_it_was_asked_again_and_what_it_lost(run, tiny_run, tmp_path):
    source, output = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    rows = [{"message": message} for message in ("Saffron and cumin", "Spicy saffron", "Nothing")]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ["generate", str(run.folder), "--checked"]
    done = CliRunner().invoke(app, [*command, "--input", str(source), "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert "1 of 3 answers lost something of their message and were asked for again, 1 of them still do" in done.output
    answered = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [(row["asked_again"], row["not_kept"]) for row in answered] == [
        (True, ["spices: “cumin”, “saffron” missing"]),
        (False, []),
        (False, []),
    ]
    one = CliRunner().invoke(app, [*command, "Cumin, please"])
    assert one.stderr.strip().endswith("spices: “cumin” missing; asked for again") and one.stdout.strip()
    for refused in (
        ["generate", str(tiny_run.folder), "--checked", "hello"],
        ["evaluate", str(tiny_run.folder), "--checked"],
    ):
        error = CliRunner().invoke(app, refused).exception
        assert isinstance(error, KitError) and "has no [kept_in_message]" in str(error)
