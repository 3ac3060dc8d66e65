import json
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ftkit.common.errors import KitError
from ftkit.common.profiles import read_profiles
from ftkit.data.formats.own import read_rows
from ftkit.data.prompt import chat_prompt, completion_text, describe_answer, parse_answer, prompt_ids, training_example
from ftkit.data.task import FIELD_TYPES, Field, load_task
from ftkit.models.load import load_tokenizer

DESK = load_task("desk")
GOOD = {"intent": "book", "urgency": "normal", "guests": 4, "day": "friday", "time": "19:30", "allergens": ["nuts"]}


def test_the_splits_are_disjoint_and_stratified():
    splits = {split: DESK.rows(split) for split in ("train", "validation", "test")}
    messages = [row["message"] for rows in splits.values() for row in rows]
    assert len(messages) == len(set(messages))
    assert len({row["id"] for rows in splits.values() for row in rows}) == len(messages)
    for rows in splits.values():
        counts = Counter(row["ticket"]["intent"] for row in rows)
        assert len(counts) == 12
        assert max(counts.values()) <= 2 * min(counts.values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"intent": "bok"}, r"'ticket.intent': \"bok\" is not one of \"book\""),
        ({"guests": "four"}, r"'ticket.guests': \"four\" is not a whole number from 1 or null"),
        ({"guests": 0}, "'ticket.guests': 0 is not a whole number from 1"),
        ({"guests": True}, "'ticket.guests': true is not"),
        ({"day": "Friday"}, "'ticket.day': \"Friday\" is not a weekday in lower case"),
        ({"day": "13-01"}, "'ticket.day'"),
        ({"time": "7:30"}, "'ticket.time': \"7:30\" is not HH:MM"),
        ({"time": "24:00"}, "'ticket.time'"),
        ({"allergens": ["nuts", "eggs"]}, "'ticket.allergens': the names must be sorted"),
        ({"allergens": ["nuts", "nuts"]}, "'ticket.allergens'"),
        ({"allergens": ["pollen"]}, "'ticket.allergens'"),
        ({"mood": "good"}, "'ticket.mood': the task has no such field"),
    ],
)
def test_a_bad_field_is_named_with_its_reason(change, reason):
    assert DESK.answer_problems(GOOD) == []
    (problem,) = DESK.answer_problems({**GOOD, **change})
    assert re.search(reason, problem), problem


def test_a_missing_field_and_a_wrong_order_are_named():
    without = {k: v for k, v in GOOD.items() if k != "day"}
    assert DESK.answer_problems(without) == ["field 'ticket.day': it is missing"]
    assert "order intent, urgency" in DESK.answer_problems(dict(reversed(GOOD.items())))[0]


ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["a", "b", "1", "", "12", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(
    st.builds(
        Field,
        name=st.just("f"),
        type=st.sampled_from(FIELD_TYPES),
        values=st.just(("a", "b", "1")),
        pattern=st.sampled_from(["", "^[a-z]$", "1"]),
        minimum=st.sampled_from([None, 0, 1.5]),
        nullable=st.booleans(),
    ),
    ANY_VALUE,
)
def test_a_field_takes_what_json_schema_takes(field, value):
    assert field.fits(value) == Draft202012Validator(field.schema()).is_valid(value)


def test_tasks_are_read_without_the_package_jsonschema_which_takes_a_second():
    code = "import sys; from ftkit.data.task import load_task; load_task('desk').rows('test'); print([*sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'ftkit.data.task'" in loaded and "'jsonschema" not in loaded


def test_problems_are_told_by_field():
    answer = {**GOOD, "time": "24:00", "mood": "good", "allergens": ["nuts", "eggs"]}
    del answer["day"]
    problems = DESK.field_problems(answer)
    assert DESK.field_problems(GOOD) == {}
    assert problems.pop("time").startswith('"24:00" is not ')
    assert problems == {
        "day": "it is missing",
        "mood": "the task has no such field",
        "allergens": "the names must be sorted",
    }


def test_bad_rows_are_named_by_file_line_field_and_reason(broken_task):
    path = broken_task / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] = json.dumps({"message": "hello"})
    lines[4] = "{broken"
    lines[6] = json.dumps({"message": " ", "ticket": GOOD})
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(KitError) as caught:
        load_task(broken_task).rows("train")
    text = str(caught.value)
    assert "3 bad row(s)" in text
    assert "train.jsonl, line 3, field 'ticket': it is missing" in text
    assert "train.jsonl, line 5: not JSON" in text
    assert "train.jsonl, line 7, field 'message': it must be text and not empty" in text


def test_the_good_rows_of_a_bad_file_are_kept_apart(broken_task):
    path = broken_task / "test.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + "[]\n", encoding="utf-8")
    rows, problems = read_rows(path, load_task(broken_task))
    assert len(rows) == 12
    assert len(problems) == 1 and "the line must be a JSON object" in problems[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", b"", r"train\.jsonl is empty"),
        ("train.jsonl", b"\xff\xfe\x00", r"train\.jsonl is not UTF-8"),
        ("train.jsonl", None, r"train\.jsonl is missing"),
        ("task.toml", b"name = ", r"task\.toml is not readable as TOML"),
        ("task.toml", b'name = "a"\nkind = "jsn"\nsystem_prompt = "b"', "kind 'jsn' is not one of json, label, text"),
        ("task.toml", b'name = "a"\nkind = "json"\nsystem_prompt = "b"', r"needs \[\[fields\]\]"),
        ("task.toml", b'name = "a"\nkind = "label"\nsystem_prompt = "b"', "needs labels"),
        ("task.toml", b'name = "a"\nkind = "text"', "system_prompt"),
        ("task.toml", b'answer_form = "yaml"', r"task\.toml: answer_form 'yaml' is not one of compact, spaced"),
    ],
)
def test_a_broken_task_folder_is_one_clear_error(broken_task, name, content, message):
    (broken_task / name).unlink() if content is None else (broken_task / name).write_bytes(content)
    with pytest.raises(KitError, match=message):
        load_task(broken_task).rows("train")


LABEL = 'name = "a"\nkind = "label"\nsystem_prompt = "b"\nlabels = ["x", "y"]\n'
TEXT = 'name = "a"\nkind = "text"\nsystem_prompt = "b"\n'
JSON = 'name = "a"\nkind = "json"\nsystem_prompt = "b"\n[[fields]]\nname = "f"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LABEL + 'max_message_characters = "4000"', 'max_message_characters is "4000", and should be a whole number.'),
        (LABEL + "max_message_characters = true", "max_message_characters is true, and should be a whole number."),
        (LABEL + "max_message_characters = 0", "max_message_characters is 0, and should be 1 or more."),
        (LABEL.replace('["x", "y"]', "[0, 1]"), "labels 1 is 0, and should be text in quotes."),
        (LABEL.replace('["x", "y"]', '"xy"'), 'labels is "xy", and should be a list in [ ].'),
        (LABEL.replace('["x", "y"]', "[1979-05-27]"), "labels 1 is "),
        (LABEL.replace('"y"', '"x"'), "labels holds 'x' twice"),
        (LABEL.replace('"y"', '""'), "labels holds '': it is empty"),
        (LABEL.replace('"y"', '"y "'), "labels holds 'y ': take away the spaces"),
        (LABEL.replace('["x", "y"]', "[]"), "needs labels"),
        (LABEL.replace('"b"', "5"), "system_prompt is 5, and should be text in quotes."),
        (LABEL.replace('"label"', "[1]"), "kind [1] is not one of json, label, text"),
        (LABEL + "mood = 1", "mood is no key that is known here. Known: name, kind, "),
        (LABEL + 'folder = "x"', "folder is no key"),
        (LABEL + 'answer_form = ["compact"]', "answer_form ['compact'] is not one of compact, spaced"),
        (LABEL + 'message = "target"', "should be two different fields"),
        (LABEL + "fields = 3", "[[fields]] is 3, and should be a list"),
        (LABEL + "fields = [3]", "[[fields]] 1 is 3, and should be a table"),
        ("a = " + "[" * 3000, "not readable as TOML"),
        (JSON, "[[fields]] 1 type is missing"),
        (JSON + 'type = "strng"', "[[fields]] 1, 'f': type 'strng' is not one of choice, integer, number"),
        (JSON + 'type = "string"\nmode = 2', "[[fields]] 1 mode is no key that is known here. Known: name, type, about"),
        (JSON + 'type = "pattern"\npattern = "(["', "[[fields]] 1, 'f': pattern '([' is no regular expression"),
        (JSON + 'type = "pattern"', "[[fields]] 1, 'f': a field of type pattern needs pattern"),
        (JSON + 'type = "integer"\nminimum = "3"', '[[fields]] 1 minimum is "3", and should be a whole number'),
        (JSON + 'type = "string"\nnullable = "yes"', '[[fields]] 1 nullable is "yes", and should be true or false'),
        (JSON + 'type = "choice"', "[[fields]] 1, 'f': a field of type choice needs values"),
        (JSON + 'type = "set"\nvalues = []', "[[fields]] 1, 'f': a field of type set needs values"),
        (JSON + 'type = "choice"\nvalues = ["a", "a"]', "[[fields]] 1, 'f': values holds 'a' twice"),
        (JSON + 'type = "string"\n[[fields]]\nname = "f"\ntype = "string"', "[[fields]] holds the name 'f' twice"),
        (JSON.replace('"f"', '""') + 'type = "string"', "[[fields]] 1, '': name is empty"),
        (LABEL + '[kept]\nnumbers = ["x"]', "[kept] is for texts, and this task is of kind label"),
        (TEXT + "kept = 3", "[kept] is 3, and should be a table of lists"),
        (TEXT + "[kept]\nnumbers = 3", "[kept] numbers: 3 should be a list in [ ]"),
        (
            TEXT + "[kept]\nnumbers = [['a'], 3]",
            "[kept] numbers, entry 2: 3 should be an expression in quotes, or",
        ),
        (TEXT + "[kept]\nnumbers = [['a', 3]]", "[kept] numbers, entry 1"),
        (TEXT + "[kept]\nnumbers = []", "[kept] 'numbers' should have a name, and one expression or more"),
        (TEXT + "[kept]\nnumbers = ['(']", "[kept] numbers, entry 1: '(' is no regular expression ("),
        (TEXT + "[kept]\nnumbers = ['a', ['b', 'c*']]", "[kept] numbers, entry 2: 'c*' fits an empty text too"),
        (TEXT + "[kept]\nnumbers = [[]]", "[kept] numbers, entry 1: it is empty"),
        (TEXT + "[kept]\nnumbers = ['a', ' ']", "[kept] numbers, entry 2: it is empty"),
        (TEXT + "[kept]\nnumbers = [['?', 'a']]", "[kept] numbers, entry 1: '?' is no regular expression"),
        (TEXT + "[kept]\nnumbers = ['a']\n[kept_in_message]\nx = ['a']", "has 'x', which [kept] has not; there is numbers"),
        (TEXT + "[kept]\nn = ['a']\n[kept_in_message]\nn = [['?']]", "[kept_in_message] n, entry 1: it is empty"),
    ],
)
def test_a_wrong_key_is_named_with_what_is_there_and_what_should_be(tmp_path, text, words):
    (tmp_path / "task.toml").write_text(text, encoding="utf-8")
    with pytest.raises(KitError) as refused:
        load_task(tmp_path)
    assert words in str(refused.value) and str(refused.value).startswith(str(tmp_path / "task.toml"))


def test_a_description_keeps_its_values_as_they_are_written(tmp_path):
    text = JSON + 'type = "integer"\nminimum = 1\n[[fields]]\nname = "g"\ntype = "number"\nminimum = 0.5\nnullable = true'
    (tmp_path / "task.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())  # as some editors save it
    task = load_task(tmp_path)
    assert [f.allowed() for f in task.fields] == ["a whole number from 1", "a number or null"]
    assert [repr(f.minimum) for f in task.fields] == ["1", "0.5"] and task.folder == tmp_path


NO_NAMES = ["Parcels / complaints", "..", ".", "", " ", ".hidden", "a.", "a ", "n" * 300, "con", "NUL.x", "a:b"]


@pytest.mark.parametrize("name", [*NO_NAMES, "a\\\\b", "a\\nb"])
def test_a_name_that_is_no_folders_name_is_refused(tmp_path, name):
    (tmp_path / "task.toml").write_text(LABEL.replace('"a"', f'"{name}"'), encoding="utf-8")
    with pytest.raises(KitError, match="Runs and exports become folders of that name"):
        load_task(tmp_path)


@pytest.mark.parametrize(
    "name", ["Parcels and complaints", "Жалобы", "苦情", "شكاوى", "v1.2", "console", "n" * 100, "été_2"]
)
def test_a_name_of_any_script_is_kept(tmp_path, name):
    (tmp_path / "task.toml").write_text(LABEL.replace('"a"', f'"{name}"'), encoding="utf-8")
    assert load_task(tmp_path).name == name


def test_a_folder_that_is_no_task_lists_the_kits_tasks(tmp_path):
    with pytest.raises(KitError, match=r"is not a task: .*The kit's own: desk"):
        load_task(tmp_path)


def test_labels_and_texts_are_tasks_too(tmp_path):
    (tmp_path / "task.toml").write_text(
        'name = "mood"\nkind = "label"\nsystem_prompt = "Say the mood."\ntarget = "mood"\nlabels = ["good", "bad"]\n'
    )
    task = load_task(tmp_path)
    assert task.problems({"message": "hm", "mood": "good"}) == []
    assert "'mild' is not one of good, bad" in task.problems({"message": "hm", "mood": "mild"})[0]
    assert parse_answer(task, " good \n") == "good"
    assert "good, bad" in describe_answer(task)


def test_the_fingerprint_follows_the_data(broken_task):
    before = load_task(broken_task).fingerprint()
    assert before == load_task(broken_task).fingerprint()
    with (broken_task / "test.jsonl").open("a") as file:
        file.write("\n")
    assert load_task(broken_task).fingerprint() != before


def test_training_and_generation_read_the_same_prompt_ids(tiny_task, tmp_path):
    """What trl trains on is, token for token, the prompt of generation followed by the completion and the end of turn."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from ftkit.models.load import load_model

    name = read_profiles()["cpu"].model
    tokenizer = load_tokenizer(name)
    rows = tiny_task.rows("train")[:6]
    trainer = SFTTrainer(
        model=load_model(name),
        args=SFTConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, max_length=None, disable_tqdm=True),
        train_dataset=Dataset.from_list([training_example(tiny_task, row) for row in rows]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules="all-linear"),
    )
    for row, seen in zip(rows, trainer.train_dataset, strict=True):
        prompt = prompt_ids(tokenizer, chat_prompt(tiny_task, row["message"]))
        answer = completion_text(tiny_task, row["ticket"])
        completion = tokenizer(answer + "<|im_end|>\n", add_special_tokens=False)["input_ids"]
        assert seen["input_ids"] == prompt + completion
        assert seen["labels"] == [-100] * len(prompt) + completion


def test_the_base_model_is_told_every_field_and_value():
    told = chat_prompt(DESK, "hello", told=True)[0]["content"]
    plain = chat_prompt(DESK, "hello")[0]["content"]
    assert told.startswith(plain)
    for f in DESK.fields:
        assert f'"{f.name}"' in told and all(value in told for value in f.values)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Sure! ```json\n{"a": [1, {"b": 2}]}\n``` Bye {', {"a": [1, {"b": 2}]}),
        ('{broken {"a": 1}', {"a": 1}),
        ("", None),
        ("[1, 2]", None),
        ('{"a": 1', None),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ('{"a": ' + "9" * 5000 + "}", None),
        ("{" * 5000, None),
    ],
)
def test_the_first_object_in_an_answer_counts(text, value):
    assert parse_answer(DESK, text) == value


def test_a_ticket_is_written_without_blanks_and_read_back():
    for row in DESK.rows("validation"):
        text = completion_text(DESK, row["ticket"])
        assert '": ' not in text and '", ' not in text
        read = parse_answer(DESK, text)
        assert (read, list(read)) == (row["ticket"], list(row["ticket"]))


def test_a_task_may_ask_for_spaces_in_its_answers(broken_task):
    path = broken_task / "task.toml"
    path.write_text('answer_form = "spaced"\n' + path.read_text(encoding="utf-8"), encoding="utf-8")
    spaced = load_task(broken_task)
    ticket = DESK.rows("validation")[0]["ticket"]
    text = completion_text(spaced, ticket)
    assert text == json.dumps(ticket, ensure_ascii=False) and '"intent": ' in text
    assert parse_answer(spaced, text) == parse_answer(DESK, text) == ticket


@given(st.text())
def test_no_text_breaks_the_parser(text):
    value = parse_answer(DESK, text)
    assert value is None or isinstance(value, dict)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([f.name for f in DESK.fields]) | st.text(), json_values))
def test_no_answer_breaks_the_check(answer):
    assert all(isinstance(problem, str) for problem in DESK.answer_problems(answer))


def test_the_desk_set_is_valid_balanced_and_without_overlap():
    splits = {split: DESK.rows(split) for split in ("train", "validation", "test")}
    assert len(splits["train"]) >= 1450 and len(splits["validation"]) >= 150 and len(splits["test"]) >= 400
    rows = [row for split in splits.values() for row in split]
    assert len({re.sub(r"\W+", " ", row["message"].lower()) for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)
    for part in splits.values():
        counts = Counter(row["ticket"]["intent"] for row in part)
        assert max(counts.values()) <= 2 * min(counts.values())
        assert all((row["difficulty"] == "hard") == (row["trap"] is not None) for row in part)


def test_the_test_messages_are_nowhere_in_the_training_split():
    def words(row):
        return frozenset(re.findall(r"\w+", row["message"].lower()))

    training = [words(row) for row in DESK.rows("train")]
    for row in DESK.rows("test"):
        own = words(row)
        closest = max(len(own & other) / len(own | other) for other in training)
        assert closest < 0.6, row["id"]
