"""A task of conversations from training to evaluation, with the tiny model; one prompt for training, evaluation and demo."""

import io
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from ftkit.cli.main import app
from ftkit.common.errors import KitError
from ftkit.data.conversation.rows import exchanges
from ftkit.data.conversation.told import read_sheet, told_prompt
from ftkit.data.prompt import example_ids, prompt_ids
from ftkit.data.task import load_task
from ftkit.deployment.roads.export import export
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.conversations.scores import FIRST, LATER, TURNS, WHOLE, ChatScores, worst_turns
from ftkit.evaluation.measure import compare_runs, evaluate
from ftkit.evaluation.tables import comparison_table, describe_evaluation, evaluation_table, told_table
from ftkit.models.load import load_tokenizer
from ftkit.runs import guards
from ftkit.runs.card import CARD, write_card
from ftkit.training.finetune import train
from ftkit.training.trainer import make_trainer, prepare
from tests.data.conversation.chats import write_chat_task


@pytest.fixture(scope="module")
def task(chat_task):
    return chat_task


@pytest.fixture(scope="module")
def choice(chat_choice):
    return chat_choice


@pytest.fixture(scope="module")
def run(chat_run):
    return chat_run


@pytest.fixture(scope="module")
def answerer(run):
    return Answerer.of_run(run)


@pytest.fixture(scope="module")
def evaluation(run):
    return evaluate(run, say=lambda line: None, quick=True, own_history=True, told=True)


# --- training ---


def test_a_training_learns_every_answer(run, task):
    facts = run.record.guards
    rows = task.rows("train")[: facts.rows]
    assert facts.answers == sum(len(row["messages"]) // 2 for row in rows) and facts.answers_in_part == 0
    assert facts.prompt_loss_tokens == facts.padding_loss_tokens == facts.rows_without_end == facts.prompts_otherwise == 0
    assert run.finished and run.training.examples == 36
    assert all(finding.ok for finding in guards.of_run(run) if finding.thing not in ("learning rate", "leakage"))


def test_a_training_that_was_stopped_goes_on_to_the_same_adapter(run, task, choice, tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path))
    train(task, choice, say=lambda line: None, stop_after=4)
    said = []
    again = train(task, choice, say=said.append)
    assert any("Taking up" in line for line in said)
    assert again.loss_curve() == run.loss_curve()
    assert (again.adapter / "adapter_model.safetensors").read_bytes() == (
        run.adapter / "adapter_model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("spoil", "thing", "words"),
    [
        (lambda labels, ids: torch.full_like(labels, -100), "loss mask", "no token carries loss"),
        (lambda labels, ids: ids.clone(), "loss mask", "of the tokens that carry loss are not the answers'"),
        (lambda labels, ids: torch.where(ids == 2, -100, labels), "end token", "the end token carries no loss"),
        (lambda labels, ids: first_answer_off(labels), "loss mask", "answers carry loss in part, or not at all"),
    ],
)
def test_a_guard_stops_marks_that_are_empty_everything_or_miss_an_end(task, choice, tmp_path, spoil, thing, words):
    data = prepare(task, choice.profile)
    trainer = make_trainer(tmp_path, data.dataset, choice.profile, data.tokenizer, say=lambda line: None)
    inner = trainer.data_collator

    def collate(rows):
        batch = inner(rows)
        return {**batch, "labels": spoil(batch["labels"], batch["input_ids"])}

    trainer.data_collator = collate
    facts = guards.what_is_learned(trainer, data.dataset)
    findings = guards.at_start(facts, trainer, choice.profile)
    assert words in next(f.text for f in findings if f.thing == thing)
    with pytest.raises(KitError, match=thing):
        guards.require(findings)


def first_answer_off(labels):
    """Labels without those of each row's first answer."""
    labels = labels.clone()
    for row in labels:
        places = (row != -100).nonzero().flatten().tolist()
        stop = next((n for n, (a, b) in enumerate(pairwise(places), 1) if b != a + 1), len(places))
        row[places[:stop]] = -100
    return labels


def test_what_is_too_long_is_refused_with_the_way_on_or_cut(task, choice, tmp_path):
    tokenizer = load_tokenizer(choice.profile.model)
    limit = max(len(example_ids(tokenizer, task, exchanges(task, [row])[0])) for row in task.rows("train"))
    short = choice.profile.with_changes(max_length=limit)
    with pytest.raises(KitError, match=r'row train-\d+: \d+ tokens .*ftkit train --length \d+; with too_long = "cut" in'):
        prepare(task, short)
    cutting = load_task(write_chat_task(tmp_path / "cutting", too_long="cut"))
    data = prepare(cutting, short)
    (remark,) = data.remarks
    assert f"conversation(s) of more than {limit} tokens are cut after an answer" in remark
    assert len(data.dataset) == 36 and max(data.dataset["length"]) <= limit
    with pytest.raises(KitError, match="tokens"):
        prepare(cutting, choice.profile.with_changes(max_length=limit - 1))


def test_where_a_template_writes_earlier_answers_differently_each_answer_is_an_example(task, choice, tiny_model, tmp_path):
    from tests.data.test_prompt import QWEN3

    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = QWEN3
    folder = tmp_path / "thinking"
    for path in tiny_model.iterdir():
        (folder / path.name).parent.mkdir(exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer.save_pretrained(folder)
    data = prepare(task, choice.profile.with_changes(model=str(folder)))
    answers = sum(len(row["messages"]) // 2 for row in task.rows("train"))
    assert len(data.dataset) == answers and set(data.dataset["answers"]) == {1}
    assert f"({answers} examples from 36 conversations)" in data.remarks[0]
    trainer = make_trainer(tmp_path, data.dataset, choice.profile, data.tokenizer, say=lambda line: None)
    facts = guards.what_is_learned(trainer, data.dataset)
    guards.require(guards.at_start(facts, trainer, choice.profile))
    assert facts.answers == facts.rows and facts.prompts_otherwise == 0


# --- answers ---


def test_the_next_turn_is_asked_for_with_the_ids_of_the_training(answerer, task, run):
    data = prepare(task, run.profile)
    row = next(row for row in task.rows("train") if len(row["messages"]) == 6)
    ids = data.dataset[task.rows("train").index(row)]["input_ids"]
    for part in exchanges(task, [row]):
        for side in (BASE, TUNED):
            prompt = prompt_ids(answerer.tokenizer, answerer.prompt(task.asked(part), side))
            assert ids[: len(prompt)] == prompt
    history = task.asked(row)
    texts = answerer.answer([history, "Hello", history[:1]])
    *_, streamed = answerer.stream(history, (TUNED,))
    assert streamed[TUNED].text == texts[0]
    with pytest.raises(KitError, match="Message 2: turn 2: the last turn is the assistant's, and should be the user's"):
        answerer.answer(["Hello", row["messages"][:2]])


def test_what_is_told_twice_is_as_likely_by_a_mask_as_by_its_parts(answerer, task):
    ids = prompt_ids(answerer.tokenizer, answerer.prompt("Hello there, a table please", TUNED))
    mask = [int(4 <= n < 6 or 9 <= n < 12) for n in range(len(ids))]
    ((total, n),) = answerer.log_probabilities([ids], masks=[mask])
    pieces = [answerer.log_probabilities([ids[:stop]], skip=[start])[0][0] for start, stop in ((4, 6), (9, 12))]
    assert n == 5 and total == pytest.approx(sum(pieces), rel=1e-2)


def ftkit(*arguments):
    """A command in this process."""
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_generate_answers_conversations_of_a_file(run, task, tmp_path):
    rows = [{"id": n, "messages": row["messages"][:-1]} for n, row in enumerate(task.rows("test")[:3])]
    source, output = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = ftkit("generate", run.folder, "--input", source, "--output", output)
    assert done.exit_code == 0, done.output
    answered = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert all(isinstance(row.pop("prediction"), str) for row in answered) and answered == rows

    def refused(row, words):
        source.write_text(json.dumps(row), encoding="utf-8")
        bad = ftkit("generate", run.folder, "--input", source, "--output", tmp_path / "none.jsonl")
        assert isinstance(bad.exception, KitError) and not (tmp_path / "none.jsonl").exists()
        assert str(bad.exception).startswith(f"{source}, line 1, field 'messages': {words}")

    asked = rows[1]["messages"]
    ended = [*asked, {"role": "assistant", "content": "a"}]
    refused({"messages": ended}, f"turn {len(ended)}: the last turn is the assistant's, and should be the user's")
    refused({"messages": [asked[0], asked[0]]}, "turn 2: the user's turn stands after the user's")
    refused({"messages": [{"role": "user", "content": "x" * 20_000}]}, "turn 1: it has 20,000 characters")
    refused({"messages": []}, "the conversation is empty")
    refused({"message": "Hello"}, "it is missing")


# --- evaluation ---


def part(conversation, answer, expect, gold="x"):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": gold}] * answer
    one = {"id": f"{conversation}.{answer}", "messages": turns, "answer": answer, "conversation": conversation}
    return one | ({"expect": [{}] * (answer - 1) + [expect]} if expect is not None else {})


def test_scores_are_by_turn_and_by_conversation_first_turns_apart(task):
    yes, no = {"must": [["yes"]]}, {"must_not": ["no"]}
    parts = [part(0, 1, yes), part(0, 2, no), part(1, 1, yes), part(1, 2, {}), part(2, 1, None)]
    good = ChatScores(task, parts, ["yes", "fine", "Yes!", "anything", "x"])
    bad = ChatScores(task, parts, ["nay", "no", "yes", "anything", "y"])
    assert good.metrics() == [TURNS, FIRST, LATER, WHOLE, "must", "chrF", "must not"]
    values = {metric: score.value for metric, score in bad.with_intervals().items()}
    assert values[TURNS] == pytest.approx(1 / 3) and values[FIRST] == 1 / 2 and values[LATER] == 0
    assert values[WHOLE] == 1 / 2 and values["must"] == 1 / 2 and values["must not"] == 0
    assert good.whole == {WHOLE: [True, True]} and good.with_intervals()["chrF"].value < 1
    against = good.against(bad)
    assert against[WHOLE].better == 1 and against[WHOLE].worse == 0 and against[WHOLE].p == 1.0
    assert against[TURNS].difference == pytest.approx(2 / 3) and against[TURNS].n == 2 and against[TURNS].better == 1
    (worst, second) = worst_turns(task, parts, ["nay", "no", "yes", "anything", "y"])
    assert (worst.id, worst.message, worst.wrong) == ("0.1", "q", ["must: yes"]) and second.wrong == ["must not: no"]


def test_an_interval_knows_which_turns_belong_together(task):
    """Turns that are all right or all wrong in a conversation tell no more than one of them: the interval stays as wide."""
    rng = np.random.default_rng(0)
    right = [bool(yes) for yes in rng.integers(0, 2, size=40)]
    expect = {"must": [["yes"]]}

    def width(turns):
        parts = [part(n, k, expect) for n in range(40) for k in range(1, turns + 1)]
        scores = ChatScores(task, parts, ["yes" if right[p["conversation"]] else "-" for p in parts])
        low, high = scores.with_intervals()[TURNS].interval
        return high - low

    assert width(5) == pytest.approx(width(1), rel=0.05)


def test_base_and_tuned_are_measured_on_the_same_turns(evaluation, run, task):
    asked = [BASE, "base, own history", TUNED, "tuned, own history", "base, told", "tuned, told"]
    assert list(evaluation.models) == asked
    assert evaluation.kind == "chat" and evaluation.n == evaluation.of == 8
    metrics = [TURNS, FIRST, LATER, WHOLE, "must", "must not", "asks", "chrF"]
    for model in evaluation.models.values():
        assert list(model.scores) == metrics
    assert set(evaluation.comparisons) == {*asked} - {TUNED}
    assert evaluation.comparisons[BASE][TURNS].n == 8 and evaluation.perplexity.n == 8
    parts = [(part.by, part.value, part.n) for part in evaluation.slices]
    assert parts == [("topic", "booking", 15), ("answer", 1, 8), ("answer", 2, 5), ("answer", 3, 2)]
    assert evaluation.perplexity.second > 1 and evaluation.worst and evaluation.worst[0].wrong
    kept = (run.folder / "predictions" / "test-tuned.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(kept) == 1 + len(exchanges(task, task.rows("test")))
    said = []
    again = evaluate(run, say=said.append, quick=True)
    assert again.perplexity == evaluation.perplexity and all(
        "were there already" in line for line in said if "answers" in line
    )


def test_what_was_told_is_recorded_and_asked_for_with_the_sheet_in_the_prompt(evaluation, answerer, run, task):
    told = evaluation.told
    assert told.file == "SHEET.md" and told.tokens > 20 and told.cut == 0 and told.window == 2048
    extra = evaluation.models["base, told"].prompt_tokens - evaluation.models[BASE].prompt_tokens
    assert abs(extra - told.tokens) <= 1 and evaluation.models["base, own history"].prompt_tokens is None
    kept = (run.folder / "predictions" / "test-base-told.jsonl").read_text(encoding="utf-8").splitlines()
    sheet = read_sheet(task)
    assert sheet in json.loads(kept[0])["settings"]["prompt"][0]["content"]
    saved = {entry["message"]: entry["prediction"] for entry in map(json.loads, kept[1:])}
    asked = [json.loads(message) for message in saved]  # all of them went into one batch
    again = answerer.complete([told_prompt(task, turns, sheet) for turns in asked], BASE)
    assert again == list(saved.values())
    assert any("Against base, told, later turns met:" in sentence for sentence in describe_evaluation(evaluation))
    (line,) = [sentence for sentence in describe_evaluation(evaluation) if sentence.startswith("Told in the prompt")]
    assert f"SHEET.md, {told.tokens} tokens; nothing was left out (the model reads 2,048" in line
    out = io.StringIO()
    Console(file=out, width=80).print(told_table(evaluation))
    assert "In the prompt or in the weights" in out.getvalue() and "tokens of a prompt" in out.getvalue()
    evaluation.save(run.folder)
    assert "The base that was told SHEET.md in its prompt" in write_card(run).read_text(encoding="utf-8")


def test_without_being_asked_for_the_base_alone_is_told_and_not_where_it_is_quick(run, monkeypatch):
    from ftkit.evaluation import measure

    monkeypatch.setattr(measure, "_forgetting", lambda *given: None)  # its sixty questions have tests of their own
    assert set(evaluate(run, say=lambda line: None).models) == {BASE, TUNED, "base, told"}
    assert set(evaluate(run, say=lambda line: None, told=False).models) == {BASE, TUNED}
    quick = evaluate(run, say=lambda line: None, quick=True)
    assert set(quick.models) == {BASE, TUNED} and quick.told is None and told_table(quick) is None


def test_the_perplexity_is_that_of_the_answers_with_their_ends(evaluation, answerer, task):
    from ftkit.data.conversation.turns import encoded_conversation

    total = tokens = 0
    for row in task.rows("test"):
        (example,) = encoded_conversation(answerer.tokenizer, task, row)
        ids, mask = torch.tensor([example["input_ids"]]), torch.tensor(example["completion_mask"])
        with torch.inference_mode():
            logits = answerer.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        total, tokens = total + float(each[mask[1:] == 1].sum()), tokens + int(mask.sum())
    assert evaluation.perplexity.second == pytest.approx(np.exp(total / tokens), rel=1e-3)


def test_an_evaluation_of_conversations_is_told_and_shown(evaluation, run):
    sentences = describe_evaluation(evaluation)
    for words in (
        "Against base, turns met:",
        "later turns met:",
        "conversations met:",
        "Perplexity of the assistant's turns:",
    ):
        assert any(words in sentence for sentence in sentences)
    out = io.StringIO()
    Console(file=out, width=200).print(evaluation_table(evaluation))
    assert "conversations met" in out.getvalue() and "own history" in out.getvalue()
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert (
        "all 8 conversations of the test split" in page
        and "must: " in page
        and "topic: booking" in page
        and "turns met, %" in page
    )
    card = (run.folder / CARD).read_text(encoding="utf-8")
    assert "| conversations met |" in card and "You are the host." in card
    compared = compare_runs(run, run, say=lambda line: None)
    assert compared.metrics[TURNS].difference == 0 and comparison_table(compared).row_count == 8


def test_an_export_answers_the_next_turns_like_the_run(run, task, tmp_path):
    record = export(run, "adapter", tmp_path / "out", say=lambda line: None)
    assert record.verification.n == 8 and record.verification.identical == 1
    turns = record.verification.turns
    assert turns.identical == [1, 1, 1] and turns.same_prompts == turns.prompts == 13 and turns.same_ends


def test_the_commands_take_conversations_or_say_why_not(run, task):
    for arguments, words in (
        (("evaluate", run.folder, "--constrained"), "--constrained is for tasks of kind json"),
        (("evaluate", run.folder, "--judge", "http://localhost:1/v1"), "--judge URL and --judge-model NAME go together"),
        (("verdict", task.folder), "host is a task of conversations"),
    ):
        refused = ftkit(*arguments)
        assert isinstance(refused.exception, KitError) and words in str(refused.exception)
    shown = ftkit("doctor", run.folder)
    assert "[ok]  loss mask     only answers carry loss" in shown.output
