import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftkit.common.errors import KitError
from ftkit.data.check import check_task
from ftkit.data.clean import STEPS, clean_task, short_diff, write_cleaned
from ftkit.data.new_task import write_task
from ftkit.data.task import load_task
from tests.command import ftkit, refused
from tests.data.tasks import make_task
from tests.data.test_cases import new
from tests.data.test_check import RAW, edit


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_cleaning_mends_sets_aside_and_says_so_row_by_row(broken_task, tmp_path):
    def change(rows):
        rows[0]["message"] = "<p>" + rows[0]["message"] + "</p>"
        rows[1]["ticket"]["urgency"] = rows[1]["ticket"]["urgency"].upper()
        rows[2]["message"] = rows[3]["message"]
        rows[4]["message"] = ""
        rows[5]["message"] = load_task(broken_task).rows("test")[0]["message"] + "!"
        rows[6]["ticket"]["intent"] = "booking"

    before = [row["message"] for row in lines(broken_task / "train.jsonl")]
    rows = edit(broken_task, "train", change)
    original = (broken_task / "train.jsonl").read_bytes()
    done = ftkit("task", "clean", broken_task, "--to", tmp_path / "clean")
    assert done.returncode == 0, done.stderr
    assert "removed markup" in done.stdout and "5 row(s) set aside" in done.stdout
    assert "train: 48 rows in = 43 out + 5 set aside" in done.stdout
    assert (broken_task / "train.jsonl").read_bytes() == original

    kept = {row["id"]: row for row in lines(tmp_path / "clean" / "train.jsonl")}
    assert kept[rows[0]["id"]]["message"] == before[0]
    assert kept[rows[1]["id"]]["ticket"]["urgency"] == rows[1]["ticket"]["urgency"].lower()
    reasons = {entry["id"]: entry["reason"] for entry in lines(tmp_path / "clean" / "rejected.jsonl")}
    assert set(reasons) == {rows[i]["id"] for i in (2, 3, 4, 5, 6)}
    assert f"contradiction: equals {rows[2]['id']}, with another answer" in reasons[rows[3]["id"]]
    assert f"contradiction: equals {rows[3]['id']}, with another answer" in reasons[rows[2]["id"]]
    assert "equals" in reasons[rows[5]["id"]] and "test split" in reasons[rows[5]["id"]]
    assert "'booking' is not" in reasons[rows[6]["id"]].replace('"', "'")
    log = lines(tmp_path / "clean" / "cleaning.jsonl")
    assert log[0]["line"] == 1 and log[0]["done"] == ["removed markup"]
    assert log[0]["before"]["message"].startswith("<p>") and log[0]["after"]["message"] == before[0]
    assert not [f for f in check_task(load_task(tmp_path / "clean"), thorough=False) if f.gate and not f.ok]


def test_the_raw_messages_pass_the_gate_after_cleaning_and_keep_what_was_right(tmp_path):
    task = load_task("desk")
    cleaned = clean_task(task, RAW)
    write_cleaned(task, cleaned, tmp_path / "clean")
    findings = {f.thing: f for f in check_task(load_task(tmp_path / "clean"), thorough=False)}
    assert all(f.ok for f in findings.values() if f.gate)
    assert findings["markup"].ok and findings["personal data"].ok
    truth = {entry["id"]: entry for entry in lines(RAW.with_name("raw_key.jsonl"))}
    for row in cleaned["train"].rows:
        kind = truth.get(row["id"], {}).get("kind")
        if kind == "label spelling":
            assert row["ticket"] == truth[row["id"]]["ticket"]
        elif kind == "markup or signature":
            assert row["message"].removeprefix("Hi there, ") == truth[row["id"]]["message"]
    assert [len(cleaned[split].rows) for split in ("validation", "test")] == [156, 408]
    assert not [entry for split in ("validation", "test") for entry in cleaned[split].rejected]


def test_a_folder_that_is_there_is_not_overwritten_and_nothing_is_half_written(broken_task, tmp_path):
    refused(ftkit("task", "clean", broken_task, "--to", broken_task), "is there already")
    edit(broken_task, "train", lambda rows: [row.update(message="") for row in rows])
    task = load_task(broken_task)
    with pytest.raises(KitError, match="No row of train is left"):
        write_cleaned(task, clean_task(task), tmp_path / "new")
    assert not list(tmp_path.glob("*new*"))


# --- other people's data ---


ORDER = """
[[fields]]
name = "mail"
type = "string"
nullable = true
[[fields]]
name = "phone"
type = "{phone}"
nullable = true
"""


def test_personal_data_is_masked_alike_in_message_and_answer(tmp_path):
    rows = [
        ("mail me at Ann@example.org", {"mail": "ann@example.org", "phone": None}),
        ("call 07700 900123", {"mail": None, "phone": "+447700900123"}),
        ("call 07700 900123", {"mail": None, "phone": "07700900123"}),
        ("no number here", {"mail": "kofi@example.org", "phone": None}),
        ("order 100044770019 is late", {"mail": "100044770019", "phone": None}),
    ]
    task = make_task(tmp_path / "t", rows, "json", "Read.", ORDER.replace("{phone}", "string"))
    answers = [row["target"] for row in clean_task(task, without=["copies", "contradictions"])["train"].rows]
    assert [answer["mail"] for answer in answers] == ["[e-mail]", None, None, "[e-mail]", "100044770019"]
    assert [answer["phone"] for answer in answers] == [None, "[phone]", "[phone]", None, None]
    untouched = clean_task(task, without=["personal-data", "copies", "contradictions"])["train"]
    assert [row["target"] for row in untouched.rows] == [answer for _, answer in rows] and not untouched.log


def test_a_row_whose_answer_takes_no_mask_is_set_aside(tmp_path):
    rows = [("call 07700 900123 now", {"mail": None, "phone": 7700900123}), ("no call", {"mail": None, "phone": None})]
    part = clean_task(make_task(tmp_path / "t", rows, "json", "Read.", ORDER.replace("{phone}", "integer")))["train"]
    assert len(part.rows) == 1 and "answer keeps phone 7700900123" in part.rejected[0]["reason"]
    rows = [("I am at ann@example.org", {"mail": None, "phone": "ann@example.org"})]
    fields = ORDER.replace('"{phone}"', '"pattern"\npattern = "^[a-z]+@[a-z.]+$"')
    part = clean_task(make_task(tmp_path / "u", rows, "json", "Read.", fields))["train"]
    assert not part.rows and "takes no mask" in part.rejected[0]["reason"]


def test_what_the_answer_quotes_is_not_cut_off(tmp_path):
    rows = [("The lid is gone\n\n-- \nAnn Lee\nSales", "Ann Lee"), ("The lid is gone\n\n-- \nAnn Lee\nSales", "the lid")]
    part = clean_task(make_task(tmp_path / "t", rows, "text", "Who wrote it?"), without=["contradictions"])["train"]
    assert [row["message"] for row in part.rows] == [rows[0][0], "The lid is gone"]
    assert "the answer quotes target 'Ann Lee'" in part.log[0]["done"][0]


def test_a_text_with_two_answers_is_for_a_reader_to_settle(tmp_path):
    rows = [
        ("great 👍", "pos"),
        ("great 👍", "pos"),
        ("great 👎", "neg"),
        ("so so", "pos"),
        ("So so!", "neg"),
        ("meh", "neg"),
    ]
    task = make_task(tmp_path / "t", rows, test=[("meh", "pos"), ("fine", "pos")])
    part = clean_task(task)["train"]
    assert [row["id"] for row in part.rows] == ["train-0", "train-2"]
    reasons = {entry["id"]: entry["reason"] for entry in part.rejected}
    assert reasons["train-1"] == "stands twice: equals train-0"
    assert "contradiction: equals train-4" in reasons["train-3"] and "contradiction: equals train-3" in reasons["train-4"]
    assert reasons["train-5"] == "equals test-0 of the test split, with another answer: somebody must settle which is right"
    assert all(entry["line"] for entry in part.rejected) and part.lines == len(part.rows) + len(part.rejected)
    kept = clean_task(task, without=["copies", "contradictions", "leaks"])["train"]
    assert len(kept.rows) == len(rows) and not kept.rejected


def test_values_that_differ_in_spaces_are_merged_and_those_in_spelling_on_request(tmp_path):
    rows = [("one", "customs"), ("two", "customs "), ("three", "Customs"), ("four", "customs"), ("five", "delay\u200b"),
            ("six", "+"), ("seven", "-")]  # fmt: skip
    task = make_task(tmp_path / "t", rows)
    cleaned = clean_task(task)
    assert cleaned.task.labels == ("+", "-", "Customs", "customs", "delay")
    assert [row["target"] for row in cleaned["train"].rows] == [
        "customs",
        "customs",
        "Customs",
        "customs",
        "delay",
        "+",
        "-",
    ]
    assert cleaned.task.system_prompt == "Label the text. Answer with one of: +, -, Customs, customs, delay."
    assert clean_task(task, without=["spelling"]).task.labels == task.labels
    done = ftkit(
        "task", "clean", tmp_path / "t", "--to", tmp_path / "new", "--merge-spelling", "--merge", "delay\u200b=customs"
    )
    assert done.returncode == 0, done.stderr
    assert "target: 'Customs' becomes 'customs'" in done.stdout and "system prompt: " in done.stdout
    new = load_task(tmp_path / "new")
    assert new.labels == ("+", "-", "customs") and new.system_prompt == "Label the text. Answer with one of: +, -, customs."
    assert "# a comment" in (tmp_path / "new" / "task.toml").read_text(encoding="utf-8")
    assert [row["target"] for row in new.rows("train")] == ["customs"] * 5 + ["+", "-"]
    refused(
        ftkit("task", "clean", tmp_path / "t", "--dry-run", "--merge", "Custom=customs"), "no value is 'Custom'", "'Customs'"
    )
    refused(ftkit("task", "clean", tmp_path / "t", "--dry-run", "--merge", "Customs"), "OLD=NEW")


def test_values_of_fields_are_merged_too(tmp_path):
    fields = '[[fields]]\nname = "part"\ntype = "choice"\nvalues = ["lid", "Lid ", "box"]\n'
    fields += '[[fields]]\nname = "seen"\ntype = "set"\nvalues = ["a-b", "A b", "c"]\n'
    rows = [("one", {"part": "lid", "seen": ["A b", "c"]}), ("two", {"part": "Lid ", "seen": ["a-b"]})]
    task = make_task(tmp_path / "t", rows, "json", "part is lid, Lid  or box.", fields)
    cleaned = clean_task(task, merge_spelling=True)
    assert [f.values for f in cleaned.task.fields] == [("lid", "box"), ("a-b", "c")]
    assert [row["target"]["part"] for row in cleaned["train"].rows] == ["lid", "lid"]
    assert [row["target"]["seen"] for row in cleaned["train"].rows] == [["a-b", "c"], ["a-b"]]


def test_a_row_that_is_too_long_is_set_aside_with_its_length(tmp_path, tiny_choice):
    from ftkit.data.clean import token_limit

    rows = [("x " * 200 + "x", "a"), ("short one", "b"), ("of some words more than the other one is", "a")]
    task = make_task(tmp_path / "t", rows)
    (entry,) = clean_task(task)["train"].rejected
    assert "it has 401 characters, at most 300" in entry["reason"] and len(entry["text"]) > 400
    limit = token_limit(tiny_choice.profile.with_changes(max_length=60))
    entries = clean_task(task, too_long=limit)["train"].rejected
    assert any("tokens as an example, profile ci takes 60" in entry["reason"] for entry in entries)


def test_a_dry_run_shows_every_change_and_writes_nothing(tmp_path):
    rows = [(f"<p>message {n} is {'abcdefghijklmno'[n] * 9}</p>", "ab"[n % 2]) for n in range(15)]
    make_task(tmp_path / "t", rows)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = ftkit("task", "clean", tmp_path / "t", "--dry-run")
    assert done.returncode == 0, done.stderr
    for n in range(15):
        assert f"train, line {n + 1} (train-{n}): removed markup" in done.stdout
    assert "    - <p>message 3 is ddddddddd</p>\n    + message 3 is ddddddddd\n" in done.stdout
    assert "Nothing was written" in done.stdout
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    silent = ftkit("task", "clean", tmp_path / "t", "--dry-run", "--without", "markup")
    assert "removed markup" not in silent.stdout
    refused(
        ftkit("task", "clean", tmp_path / "t", "--dry-run", "--without", "html"), "no repair 'html'", "markup, signature"
    )
    refused(ftkit("task", "clean", tmp_path / "t"), "--to FOLDER", "--dry-run")
    assert ftkit("task", "clean", tmp_path / "t", "--to", tmp_path / "new").returncode == 0


def test_a_change_is_shown_with_what_stands_around_it():
    text = "a b c d e f g h i j k l m n o p q r s t u v w x y z"
    assert short_diff(text + " 1 " + text, text + " 2 " + text) == [
        "- …o p q r s t u v w x y z 1 a b c d e f g h i j k l…",
        "+ …o p q r s t u v w x y z 2 a b c d e f g h i j k l…",
    ]
    assert short_diff("a\u200bb", "ab") == ["- a\\u200bb", "+ ab"]


def test_the_help_names_every_step_that_can_be_left_out():
    text = ftkit("task", "clean", "--help", COLUMNS="400").stdout
    assert all(step in text for step in STEPS)


ANSWERS = st.one_of(st.sampled_from(["a", "A ", "b", "c-d", "C d", "nope", ""]), st.integers(), st.none())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=40), ANSWERS), max_size=12))
def test_rows_in_are_rows_out_and_rows_set_aside_and_every_change_is_in_the_log(tmp_path_factory, rows):
    rows = [("a message", "a"), ("b message", "b"), ("c message", "c-d"), *rows]
    part = clean_task(make_task(tmp_path_factory.mktemp("law") / "t", rows))["train"]
    assert part.lines == len(rows) == len(part.rows) + len(part.rejected)
    named = {entry["id"] for entry in part.log}
    for row in part.rows:
        assert row["id"] in named or (row["message"], row["target"]) == rows[int(row["id"].split("-")[1])]
    assert all(entry["reason"] and entry["text"] for entry in part.rejected)


# --- the small inputs of tests/cases ---


def brought(name, folder, **options):
    """The task that `task new` makes of an input, and what cleaning makes of it: (the task, its rows, the cleaned task)."""
    made, _ = new(name, **options)
    write_task(made, name, folder)
    task = load_task(folder, to_clean=True)
    return task, {row["id"]: row for split in made.splits.values() for row in split}, clean_task(task)


def test_clean_me_is_left_alone_but_for_escapes_and_control_characters(tmp_path):
    _, before, cleaned = brought("clean_me.csv", tmp_path / "t")
    after = {row["id"]: row for part in cleaned.values() for row in part.rows}
    assert not [entry for part in cleaned.values() for entry in part.rejected]
    changed = {before[key]["message"]: after[key]["message"] for key in before if before[key] != after[key]}
    mended = changed.pop("AT&amp;T bill &lt;enclosed&gt;")
    assert mended == "AT&T bill <enclosed>"
    assert list(changed.items()) == [("form feed\x0cbetween\rwords", "form feed between\nwords")]


def test_order_numbers_stay_and_addresses_are_masked_in_message_and_answer(tmp_path):
    task, before, cleaned = brought("order_numbers.jsonl", tmp_path / "t")
    rows = [row for part in cleaned.values() for row in part.rows]
    assert len(rows) == len(before) == 60
    for row in rows:
        assert row["target"]["order"] in row["message"] and row["target"]["order"] == before[row["id"]]["target"]["order"]
        assert row["target"]["mail"] == "[e-mail]" and "[e-mail]" in row["message"] and "@" not in row["message"]
    write_cleaned(task, cleaned, tmp_path / "clean")
    assert all(f.ok for f in check_task(load_task(tmp_path / "clean"), thorough=False) if f.thing == "personal data")


@pytest.mark.parametrize("name", ["some_emoji.csv", "cjk.csv", "na_is_a_label.csv", "quote_at_start.csv"])
def test_cleaning_changes_nothing_in_these(name, tmp_path):
    _, before, cleaned = brought(name, tmp_path / "t")
    assert not cleaned.remarks and not [entry for part in cleaned.values() for entry in part.log]
    after = {row["id"]: row for part in cleaned.values() for row in part.rows}
    assert all(row == before[key] for key, row in after.items())
    gone = [entry["reason"] for part in cleaned.values() for entry in part.rejected]
    assert len(after) + len(gone) == len(before) and all("equals" in reason for reason in gone)
    assert not gone or name == "cjk.csv"


@pytest.mark.parametrize("name", ["blank_in_values.jsonl", "trailing_blank_labels.csv", "zero_width_labels.csv"])
def test_values_that_differ_in_spelling_are_merged_with_their_prompt(name, tmp_path):
    task, _, _ = brought(name, tmp_path / "t")
    cleaned = clean_task(task, merge_spelling=True)
    five = {"customs", "damage", "delay", "misdelivery", "refund"}
    values = cleaned.task.labels or cleaned.task.fields[0].values
    assert {value.casefold() for value in values} == five and len(values) == 5
    assert not cleaned.task.labels or cleaned.task.system_prompt.endswith(f": {', '.join(values)}.")
    for part in cleaned.values():
        assert {row["target"] if cleaned.task.labels else row["target"]["category"] for row in part.rows} <= set(values)
