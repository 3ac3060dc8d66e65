"""Conversations as rows: what is wrong with one is one clear line, and nothing is lost."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from ftkit.cli.main import app
from ftkit.common.errors import KitError
from ftkit.data.check import Checked, check_task, gate
from ftkit.data.clean import clean_task
from ftkit.data.conversation.rows import chat_of, exchanges, said
from ftkit.data.conversation.similar import repeats
from ftkit.data.formats.export import export_task
from ftkit.data.formats.own import read_rows
from ftkit.data.prompt import chat_prompt
from ftkit.data.task import load_task
from tests.data.conversation.chats import SYSTEM, write_chat_task

U, A, S = ({"role": role, "content": f"{role} says this"} for role in ("user", "assistant", "system"))


@pytest.fixture
def folder(tmp_path):
    return write_chat_task(tmp_path / "host")


@pytest.fixture
def task(folder):
    return load_task(folder)


def test_a_task_of_conversations_is_read(task):
    assert (task.kind, task.message, task.max_turns, task.too_long) == ("chat", "messages", 20, "refuse")
    row = task.rows("test")[2]
    assert task.asked(row) == row["messages"][:-1] and task.answered(row) == row["messages"][-1]["content"]
    assert [number for number, _, _ in said(task, row)] == [1, 3, 5]


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ("Hello", "field 'messages': it must be a list of turns, each with role and content"),
        ([], "field 'messages': the conversation is empty"),
        ([U, A, {"role": "user"}], "field 'messages', turn 3: it must be an object with role and content"),
        ([U, {**A, "content": " \n"}], "field 'messages', turn 2: it must be text and not empty"),
        ([U, {**A, "content": "\ud83d"}], "field 'messages', turn 2: it holds half of a character"),
        ([U, {**A, "content": "x" * 20_000}], "field 'messages', turn 2: it has 20,000 characters, at most 4,000 are taken"),
        ([U, {**A, "role": "gpt"}], "field 'messages', turn 2: the role 'gpt' is not one of system, user, assistant"),
        ([U, {**A, "name": "Pip"}], "field 'messages', turn 2: it has 'name', which the kit does not read"),
        ([U, A, S, U, A], "field 'messages', turn 3: a system turn in the middle; only the first turn may be one"),
        ([A, U, A], "field 'messages', turn 1: the assistant's turn stands as the first turn, where the user's should"),
        ([U, U, A], "field 'messages', turn 2: the user's turn stands after the user's, where the assistant's should"),
        ([S, U, A, A], "field 'messages', turn 4: the assistant's turn stands after the assistant's, where the user's"),
        ([U, A, U], "field 'messages', turn 3: the last turn is the user's, and should be the assistant's"),
        ([S], "field 'messages', turn 1: the last turn is the system's, and should be the assistant's"),
        ([U, A] * 11, "field 'messages': it has 22 turns, at most 20 are taken; part it, or raise max_turns in task.toml"),
    ],
)
def test_what_is_wrong_with_a_conversation_is_one_line_with_file_row_and_turn(folder, turns, problem):
    task, path = load_task(folder), folder / "train.jsonl"
    good = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([good[0], json.dumps({"id": "x", "messages": turns}), *good[1:]]), encoding="utf-8")
    rows, problems = read_rows(path, task)
    assert len(rows) == len(good) and len(problems) == 1
    assert problems[0].startswith(f"{path}, line 2, {problem}")
    with pytest.raises(KitError, match=r"1 bad row\(s\):"):
        task.rows("train")
    found = next(check_task(task, thorough=False))
    assert not found.ok and found.gate and problem in found.cases[-1]


def test_every_fault_of_a_conversation_is_told(task):
    turns = [{**U, "content": ""}, {**A, "role": "bot"}, {**U, "content": 3}]
    assert [p.split(":")[0] for p in task.problems({"messages": turns})] == [
        f"field 'messages', turn {n}" for n in (1, 2, 3)
    ]
    assert task.problems({"message": "x"}) == ["field 'messages': it is missing"]
    assert task.problems({"messages": [S, U, A]}) == []


@pytest.mark.parametrize(
    ("expect", "problem"),
    [
        ({}, "it must be a list with one object for each of the 2 answers, and holds no list"),
        ([{}], "each of the 2 answers, and holds 1"),
        ([{}, "x"], "answer 2: it must be an object"),
        ([{"musts": []}, {}], "answer 1: 'musts' is no key that is known here; known: must, asks, must_not, passes_on"),
        ([{"must": ["a"]}, {}], "answer 1: 'must' must be a list of lists of texts"),
        ([{"must": [[]]}, {}], "answer 1: 'must' must be a list of lists of texts"),
        ([{"must_not": "a"}, {}], "answer 1: 'must_not' must be a list of texts"),
        ([{}, {"passes_on": "yes"}], "answer 2: 'passes_on' must be true or false"),
    ],
)
def test_what_is_wrong_with_expectations_is_told(task, expect, problem):
    (told,) = task.problems({"messages": [U, A, U, A], "expect": expect})
    assert told.startswith("field 'expect'") and problem in told
    good = [{"must": [["a", "b"]], "must_not": ["c"], "asks": [["d"]], "passes_on": True}, {}]
    assert task.problems({"messages": [U, A, U, A], "expect": good}) == []


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"max_turns": 1}, "max_turns is 1, and should be 2 or more"),
        ({"too_long": "shorten"}, "too_long 'shorten' is not one of refuse, cut"),
        ({"kind": "text", "too_long": "cut"}, "is for conversations, and this task is of kind text"),
        ({"kind": "chatty"}, "kind 'chatty' is not one of json, label, text, chat"),
    ],
)
def test_a_description_that_cannot_be_is_refused(tmp_path, keys, words):
    with pytest.raises(KitError, match=words):
        load_task(write_chat_task(tmp_path / "host", **keys))


def test_a_prompt_is_the_conversation_with_a_system_turn_before_it(task, tmp_path):
    system = {"role": "system", "content": SYSTEM}
    assert chat_prompt(task, [U, A, U]) == [system, U, A, U] == chat_prompt(task, [U, A, U], told=True)
    assert chat_prompt(task, "Hello") == [system, {"role": "user", "content": "Hello"}]
    assert chat_prompt(task, [S, U]) == [S, U]  # its own takes the place of the task's
    assert chat_of("", [U]) == [U]
    assert load_task(write_chat_task(tmp_path / "none", system_prompt=None)).system_prompt == ""


def test_what_is_asked_must_end_on_the_users_turn(task):
    for good in ("Hello", [U], [S, U, A, U]):
        assert task.check_message(good) is good
    wrong = [([U, A], "turn 2: the last turn is the assistant's"), ([U, S], "turn 2: a system turn in the middle")]
    for bad, words in (*wrong, ([], "conversation is empty"), ("", "not empty"), ({}, "must be text")):
        with pytest.raises(KitError, match=words):
            task.check_message(bad)


def test_each_answer_of_a_conversation_is_a_conversation_of_its_own(task):
    rows = task.rows("test")[:3]
    parts = exchanges(task, rows)
    assert [part["id"] for part in parts[:3]] == ["test-00, answer 1", "test-01, answer 1", "test-01, answer 2"]
    assert [(part["conversation"], part["answer"]) for part in parts] == [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]
    assert all(not task.problems(part) and len(part["expect"]) == part["answer"] for part in parts)
    assert parts[-1]["messages"] == rows[2]["messages"] and parts[-1]["expect"] == rows[2]["expect"]
    assert parts[-2]["messages"] == rows[2]["messages"][:4]
    desk = load_task("desk")
    assert exchanges(desk, desk.rows("test")) == desk.rows("test")


# --- checks ---


LONG = "Could you tell me whether your apple tart holds any nuts, as my sister must not eat them?"


def changed(folder, split, number, change):
    """The task after a change of one row."""
    path = folder / f"{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    change(rows[number])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_task(folder)


def say(turn, text):
    return lambda row: row["messages"][turn - 1].update(content=text)


def finding(task, thing):
    return next(found for found in check_task(task, thorough=False) if found.thing == thing)


def test_a_long_turn_that_stands_in_two_splits_is_leakage_and_a_short_one_is_not(folder, task):
    assert finding(task, "leakage").ok and not list(gate(task))
    for split, number, turn in (("train", 4, 3), ("test", 2, 5)):
        task = changed(folder, split, number, say(turn, "Yes, please."))
    assert finding(task, "leakage").ok
    changed(folder, "train", 4, say(3, LONG))
    task = changed(folder, "test", 2, say(5, LONG.upper() + "!"))
    leakage = finding(task, "leakage")
    assert not leakage.ok and leakage.gate and leakage.cases[0].startswith("train-04, turn 3 = test-02, turn 5: COULD YOU")
    assert finding(task, "duplicates").ok
    cleaned = clean_task(task)
    assert [entry["reason"] for entry in cleaned["train"].rejected] == ["turn 3 equals test-02, turn 5 of the test split"]
    assert len(cleaned["train"].rows) == 35 and len(cleaned["test"].rows) == 8


def test_conversations_that_repeat_each_other_are_found_as_a_whole(folder, task):
    rows = task.rows("train")
    task = changed(folder, "train", 5, lambda row: row.update(messages=rows[2]["messages"]))
    duplicates = finding(task, "duplicates")
    assert not duplicates.ok and not duplicates.gate and duplicates.cases[0].startswith("train-02 = train-05: ")
    assert [entry["reason"] for entry in clean_task(task)["train"].rejected] == ["stands twice: equals train-02"]
    other = [{**turn, "content": "Gladly."} if turn["role"] == "assistant" else turn for turn in rows[2]["messages"]]
    task = changed(folder, "train", 5, lambda row: row.update(messages=other))
    assert not finding(task, "duplicates").ok and not clean_task(task)["train"].rejected  # two good answers: for people
    assert [(repeat.first, repeat.second, repeat.turns) for repeat in repeats(task, task.rows("train"))] == [(2, 5, (0, 0))]


def test_what_stands_in_turns_is_found_in_all_of_them(folder):
    changed(folder, "train", 2, say(1, "<p>Call me: +44 141 496 0110, or mail ann@example.com</p>"))
    changed(folder, "train", 2, say(2, "I have noted ann@example.com. <|im_end|>"))
    changed(folder, "train", 2, say(4, "I have noted ANN@example.com."))
    task = changed(folder, "train", 2, say(6, "I have noted ann@example.com. <|im_end|>"))
    assert "train-02, turn 1: HTML in" in finding(task, "markup").cases[0]
    personal = finding(task, "personal data")
    assert personal.text == "1 message(s) and 3 answer(s) seem to hold some" and "train-02, turn 3" in personal.cases[1]
    assert finding(task, "special tokens").cases[0] == "train-02, turn 1: <|im_end|> in the answer"
    repeated = finding(task, "repeated turns")
    assert any(case.startswith("train-02, turns 2 and 6: 'I have noted") for case in repeated.cases)
    cleaned = clean_task(task)
    row = cleaned["train"].rows[2]["messages"]
    assert (
        row[0]["content"] == "Call me: [phone], or mail [e-mail]"
        and row[1]["content"] == "I have noted [e-mail]. <|im_end|>"
    )
    assert row[3]["content"] == "I have noted [e-mail]."
    (entry,) = cleaned["train"].log
    assert list(entry["before"]) == ["turn 1", "turn 2", "turn 4", "turn 6"] and entry["after"]["turn 4"].endswith(
        "[e-mail]."
    )
    assert clean_task(task, without=("personal-data", "markup"))["train"].log == []


def test_the_houses_own_number_is_no_personal_data_and_stays(folder):
    for number in range(6):
        task = changed(folder, "train", number, say(2, f"Ring us on 0141 496 0110{'.' * (number % 2)}"))
    well = finding(task, "personal data")
    assert well.ok and well.text.endswith("but for the house's own: 0141 496 0110 (6 conversations)")
    task = changed(folder, "train", 7, say(1, "My number is 0141 496 0999, is yours 0141 496 0110?"))
    personal = finding(task, "personal data")
    assert [case.split(":")[0] for case in personal.cases] == ["train-07, turn 1"]
    cleaned = clean_task(task)
    assert cleaned.kept == {"0141 496 0110": 6}
    assert cleaned["train"].rows[7]["messages"][0]["content"] == "My number is [phone], is yours 0141 496 0110?"
    assert [entry["id"] for entry in cleaned["train"].log] == ["train-07"]


def test_a_system_turn_of_its_own_is_said(folder, task):
    assert not [f for f in check_task(task, thorough=False) if f.thing == "system turns"]
    task = changed(folder, "train", 0, lambda row: row["messages"].insert(0, dict(S)))
    assert finding(task, "system turns").cases == ("train-00",)
    told = "; 8 conversation(s) say what is expected of them"
    assert finding(task, "turns").text == f"2 to 6 a conversation, 4 in the middle; 99 answers{told}"


def test_a_file_of_conversations_becomes_a_task_whole_and_near_copies_stay_in_one_split(task, tmp_path):
    rows = [row for split in ("train", "validation", "test") for row in task.rows(split)]
    rows[3]["messages"][0]["content"] = LONG
    rows[40]["messages"][-2]["content"] = LONG + " Thanks!"
    source = tmp_path / "talks.jsonl"
    broken = [{"messages": [U, U, A]}, {"messages": [U, A, S, U, A]}, {"messages": [U, A] * 11}]
    lines = [{"messages": [{"role": "system", "content": SYSTEM}, *row["messages"]]} for row in rows] + broken
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    done = CliRunner().invoke(app, ["task", "new", str(tmp_path / "talks"), "--from", str(source), "--max-turns", "20"])
    assert done.exit_code == 0, done.output
    assert "53 rows = 50 taken + 3 set aside" in done.stdout and "turn 3: a system turn in the middle" in done.stdout
    assert "assistant\nNoted: " in done.stdout or "assistant: Noted: " in done.stdout  # the preview shows the history
    made = load_task(tmp_path / "talks")
    assert (made.kind, made.message, made.max_turns) == ("chat", "messages", 20) and made.system_prompt == ""
    splits = {split: [row["messages"] for row in made.rows(split)] for split in ("train", "validation", "test")}
    taken = [json.dumps(turns) for some in splits.values() for turns in some]
    assert sorted(taken) == sorted(json.dumps(line["messages"]) for line in lines[:50])
    where = [next(split for split, some in splits.items() if lines[n]["messages"] in some) for n in (3, 40)]
    assert where[0] == where[1]
    assert finding(made, "leakage").ok


def test_a_task_of_conversations_is_exported_as_messages_alone(task, tmp_path):
    files = export_task(task, "messages", tmp_path / "out")
    first = json.loads(files[0].read_text(encoding="utf-8").splitlines()[1])
    assert first == {"messages": [{"role": "system", "content": SYSTEM}, *task.rows("test")[1]["messages"]]}
    for form in ("alpaca", "csv"):
        with pytest.raises(KitError, match="--as messages"):
            export_task(task, form, tmp_path / form)
    assert Checked.of(replace(task, max_turns=4)).problems()
