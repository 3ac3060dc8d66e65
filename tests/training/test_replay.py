"""General talk in a training: its prompts, the base's answers, the places among the rows, and what is recorded of it."""

import json
import re
from dataclasses import replace

import pytest

from ftkit.common.errors import KitError
from ftkit.common.files import read_jsonl, write_jsonl
from ftkit.common.profiles import Asked, Choice, read_profiles, settle_replay
from ftkit.data.prompt import prompt_ids
from ftkit.data.similarity import similar_pairs
from ftkit.data.task import load_task
from ftkit.evaluation.forgetting import questions
from ftkit.models.load import load_tokenizer
from ftkit.runs import guards
from ftkit.runs.card import make_card
from ftkit.runs.documents import REPLAY, Talk
from ftkit.runs.run import finished_run
from ftkit.training.finetune import train
from ftkit.training.replay import talk
from ftkit.training.replay.mix import _example, mix_in, planned_lengths
from ftkit.training.trainer import make_trainer, prepare
from tests.data.conversation.chats import write_chat_task
from tests.data.conversation.test_turns import FAMILIES, shown, tokenizer_of

PROMPTS = talk.prompts()
WORD = r"(?<!\w){}(?!\w)"
SHARED_WORDS = {"yes", "no", "write", "begin", "spanish"}  # of the form of a question, not of what it is about


def stands_in(phrase, text):
    return re.search(WORD.format(re.escape(phrase.casefold())), text.casefold())


# --- the prompts ---


def test_there_are_enough_prompts_of_many_kinds_each_on_its_own():
    texts = [each["prompt"] for each in PROMPTS]
    assert len(PROMPTS) >= 320 and len({each["id"] for each in PROMPTS}) == len(PROMPTS)
    assert all(set(each) == {"id", "kind", "prompt"} and 4 <= len(each["prompt"].split()) <= 40 for each in PROMPTS)
    kinds = [each["kind"] for each in PROMPTS]
    assert len(set(kinds)) >= 10 and min(map(kinds.count, kinds)) >= 20
    assert not similar_pairs(texts)
    half = kinds[: len(kinds) // 2]  # a smaller share takes the first ones: all kinds are among them
    assert all(0.25 < half.count(kind) / kinds.count(kind) < 0.75 for kind in set(kinds))


def test_the_prompts_share_nothing_with_the_general_check():
    asked = questions()
    both = [question["prompt"] for question in asked] + [each["prompt"] for each in PROMPTS]
    assert [pair for pair in similar_pairs(both) if pair.second >= len(asked)] == []
    wanted = set()
    for question in asked:
        for value in question["check"].values():
            phrases = value["words"] if isinstance(value, dict) else value if isinstance(value, list) else [str(value)]
            wanted |= {phrase.casefold() for phrase in phrases if re.search(r"[^\W\d]", phrase)}
    about = {name.casefold() for q in asked if q["kind"] == "knowledge" for name in re.findall(r"\s([A-Z]\w+)", q["prompt"])}
    about |= {"spider", "cat", "cats", "dog", "dogs", "pyramids", "apples", "books"} - {"world", "second"}
    sums = [re.findall(r"\d+", q["prompt"]) for q in asked if q["kind"] == "arithmetic"]
    for each in PROMPTS:
        text = each["prompt"]
        shared = {phrase for phrase in wanted | about - {"world", "second", "war"} if stands_in(phrase, text)}
        assert not shared - SHARED_WORDS - {"true"}, text
        numbers = sorted(re.findall(r"\d+", text))
        assert len(numbers) < 2 or numbers not in map(sorted, sums), text


def test_the_prompts_have_nothing_of_the_desk():
    desk = [row["message"] for split in ("train", "validation", "test") for row in load_task("desk").rows(split)]
    both = desk + [each["prompt"] for each in PROMPTS]
    assert [pair for pair in similar_pairs(both) if pair.second >= len(desk)] == []
    words = (
        "table menu guest guests waiter restaurant refund bill booking reservation allergy allergic monday friday dish chef"
    )
    assert [each for each in PROMPTS if any(stands_in(word, each["prompt"]) for word in words.split())] == []


# --- how much ---


def test_an_option_goes_before_the_task_and_the_task_before_the_profile(tiny_task):
    profile = read_profiles()["cpu"]
    assert profile.replay == 0
    assert settle_replay(profile, None) == profile
    assert settle_replay(profile.with_changes(replay=0.3), None).replay == 0.3
    assert settle_replay(profile.with_changes(replay=0.3), 0.1).replay == 0.1
    assert settle_replay(profile, 0.1, 0.0).replay == 0
    with pytest.raises(KitError, match=r"replay is 0.6: it is a share of the training rows, from 0 to 0.5"):
        settle_replay(profile, None, 0.6)


@pytest.mark.parametrize(("value", "words"), [("0.7", "replay is 0.7"), ("-1", "replay is -1"), ('"much"', "a number")])
def test_a_share_in_a_task_that_cannot_be_is_refused(broken_task, value, words):
    path = broken_task / "task.toml"
    whole = path.read_text(encoding="utf-8")
    path.write_text(f"replay = {value}\n{whole}", encoding="utf-8")
    with pytest.raises(KitError, match=words) as error:
        load_task(broken_task)
    assert "task.toml" in str(error.value)
    path.write_text(f"replay = 0.25\n{whole}", encoding="utf-8")
    assert load_task(broken_task).replay == 0.25


# --- the training ---


@pytest.fixture
def apart(tmp_path, monkeypatch):
    """A folder of runs and a cache of its own."""
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FTKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_training_with_general_talk_records_it_and_a_stopped_one_goes_on_with_its_rows(
    apart, tiny_task, tiny_choice, talking_model
):
    choice = Choice(tiny_choice.profile.with_changes(model=str(talking_model)), "a test")
    task, lines = replace(tiny_task, replay=0.25), []
    whole = train(task, choice, fresh=True, say=lines.append)
    said = "\n".join(lines)
    assert "Replay 0.25: 12 rows of general talk beside the 48 of desk, answered by the base itself" in said
    assert "on 48 examples of desk and 12 of general talk" in said
    assert (whole.training.examples, whole.training.replay, whole.profile.replay) == (48, 12, 0.25)
    assert finished_run(task, choice.profile) == whole and finished_run(tiny_task, choice.profile) is None
    rows = read_jsonl(whole.folder / REPLAY)
    assert len(rows) == 12 and all(row["answer"] and set(row) == {"id", "prompt", "answer"} for row in rows)
    assert "12 rows of general talk beside 48 of the task (replay 0.25)" in whole.describe_replay()
    assert "48 training examples and 12 rows of general talk" in str(make_card(whole))
    tokenizer = load_tokenizer(str(talking_model))
    kept = talk.kept_answers(whole.profile, tokenizer)
    assert kept.is_file() and len(read_jsonl(kept)) in (talk.TOGETHER, 2 * talk.TOGETHER)  # not all were asked
    lengths, source = planned_lengths(whole.profile, [50] * 48, "so many")
    assert len(lengths) == 60 and lengths[:48] == [50] * 48 and source == "so many, and 12 rows of general talk"

    stopped = train(task, choice, fresh=True, say=lambda line: None, stop_after=4)
    others = [{**row, "answer": "something else"} for row in read_jsonl(kept)]
    write_jsonl(kept, others)  # what the cache holds now is not what the training began with
    again = train(task, choice, say=lines.append)
    assert again == stopped and "Taking up" in "\n".join(lines)
    assert read_jsonl(again.folder / REPLAY) == rows
    weights = [(run.adapter / "adapter_model.safetensors").read_bytes() for run in (whole, again)]
    assert weights[0] == weights[1]


def test_without_general_talk_the_rows_are_those_of_the_task_and_nobody_is_asked(apart, tiny_task, tiny_choice):
    data = prepare(tiny_task, tiny_choice.profile)
    assert mix_in(data, pytest.fail) is data
    assert mix_in(replace(data, profile=data.profile.with_changes(replay=0.01)), pytest.fail).replay == ()  # 0.48 of a row
    assert not (apart / "cache" / "replay").exists()


def test_general_talk_goes_into_conversations_too_and_every_guard_is_content(apart, tiny_choice, talking_model):
    task = load_task(write_chat_task(apart / "host"))
    profile = tiny_choice.profile.with_changes(model=str(talking_model), replay=0.5)
    tokenizer, path, lines = load_tokenizer(str(talking_model)), None, []
    path = talk.kept_answers(profile, tokenizer)
    said = [Talk(id=p["id"], prompt=p["prompt"], answer="" if n % 4 == 0 else f"Yes, {n}.") for n, p in enumerate(PROMPTS)]
    write_jsonl(path, (each.model_dump() for each in said[: talk.TOGETHER]))  # 24 of 32 came to their end
    data = prepare(task, profile)
    n = len(data.dataset)
    mixed = mix_in(data, lines.append)
    assert len(mixed.dataset) == n + 18 and len(mixed.replay) == 18
    assert "(32 prompts; 8 answers have no end within 64 tokens)" in lines[0]
    general = [example for example in mixed.dataset if example["prompt"][0]["role"] == "user"]
    assert [e["prompt"][0]["content"] for e in general] == [each.prompt for each in mixed.replay]
    assert [e for e in mixed.dataset if e["prompt"][0]["role"] == "system"] == data.dataset.to_list()
    at_the_end = [*data.dataset["length"], *(e["length"] for e in general)]
    assert list(mixed.dataset["length"]) != at_the_end  # they are mixed in
    for example, each in zip(general, mixed.replay, strict=True):
        before = prompt_ids(tokenizer, [{"role": "user", "content": each.prompt}])
        learned = [i for i, m in zip(example["input_ids"], example["completion_mask"], strict=True) if m]
        assert example["input_ids"][: len(before)] == before
        assert tokenizer.decode(learned) == each.answer + "<|im_end|>" and example["answers"] == 1
    assert mix_in(data, lines.append).dataset.to_list() == mixed.dataset.to_list()
    other = mix_in(replace(data, profile=profile.with_changes(seed=3)), lines.append)
    assert other.replay == mixed.replay
    assert list(other.dataset["length"]) != list(mixed.dataset["length"])  # the same rows in other places
    trainer = make_trainer(apart, mixed.dataset, profile, tokenizer, lines.append)
    facts = guards.what_is_learned(trainer, mixed.dataset)
    assert facts.prompts_otherwise == facts.prompt_loss_tokens == facts.answers_in_part == facts.rows_without_end == 0
    assert all(finding.ok for finding in guards.at_start(facts, trainer, profile))


def test_answers_that_cannot_be_trained_on_are_counted_and_few_are_repeated(apart, tiny_task, tiny_choice, monkeypatch):
    monkeypatch.setattr(talk, "PROMPTS", apart / "prompts.jsonl")
    write_jsonl(apart / "prompts.jsonl", PROMPTS[:5])
    profile = tiny_choice.profile.with_changes(replay=0.1)
    answers = ["First.", "", "word " * 600, "Second.", ""]
    said = [Talk(id=p["id"], prompt=p["prompt"], answer=text) for p, text in zip(PROMPTS, answers, strict=False)]
    path = talk.kept_answers(profile, load_tokenizer(profile.model))
    write_jsonl(path, (each.model_dump() for each in said))
    lines, data = [], prepare(tiny_task, profile)
    mixed = mix_in(data, lines.append)
    assert [each.answer for each in mixed.replay] == ["First.", "Second."] * 2 + ["First."]
    assert "2 answers have no end" in lines[0] and "1 do not fit" in lines[0]
    assert "There are 2 different ones: some stand in it more than once." in lines[0]
    write_jsonl(path, (each.model_copy(update={"answer": ""}).model_dump() for each in said))
    with pytest.raises(KitError, match=r"to 5 general questions none can be trained on.*--replay 0"):
        mix_in(data, lines.append)
    path.write_text("broken", encoding="utf-8")
    assert talk.read_answers(path, lines.append) == {} and "is broken" in lines[-1]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_is_what_the_model_is_asked_with_in_every_family_of_templates(name):
    tokenizer = tokenizer_of(FAMILIES[name])
    example = _example(tokenizer, Talk(id="a", prompt="q", answer="a1"))
    before = prompt_ids(tokenizer, [{"role": "user", "content": "q"}])
    assert example["input_ids"][: len(before)] == before and example["length"] == len(example["input_ids"])
    marked = type("Marked", (), {"ids": example["input_ids"], "mask": example["completion_mask"]})
    assert re.search(r"«\s?a1\s?<[^<>«]+>»", shown(tokenizer, marked)), shown(tokenizer, marked)
    thought = _example(tokenizer, Talk(id="a", prompt="q", answer="<think>well</think>a1"))
    if thought:  # what a template would leave out is not trained on as if it stood there
        learned = [i for i, m in zip(thought["input_ids"], thought["completion_mask"], strict=True) if m]
        assert "well" in tokenizer.decode(learned)


def test_the_option_and_its_limits(apart):
    from typer.testing import CliRunner

    from ftkit.cli.main import app

    run = CliRunner().invoke(app, ["train", "desk", "--replay", "0.9"])
    assert run.exit_code == 2 and "0.5" in run.output
    run = CliRunner().invoke(app, ["plan", "desk", "--length", "80", "--replay", "0.1"])
    assert isinstance(run.exception, KitError) and "--replay need the number of a task's rows" in str(run.exception)
    assert Asked(replay=0.1).replay == 0.1 and json.dumps(PROMPTS[0])
