"""The small inputs of `tests/cases`, each with the right reading: through the functions that `ftkit task new` calls."""

import json

import pytest

from ftkit.common.errors import KitError
from ftkit.common.files import dump
from ftkit.common.paths import kit_root
from ftkit.data.columns import choose_columns, trim
from ftkit.data.conversation.make import make_chat_task
from ftkit.data.formats.read import read_table
from ftkit.data.formats.shapes import recognize
from ftkit.data.formats.table import Reading
from ftkit.data.new_task import make_task
from tests.brought import make, readings

CASES = kit_root() / "tests" / "cases" / "in"
FIVE = {"customs", "damage", "delay", "misdelivery", "refund"}
FIRST = "I could hear it was broken before I opened it"


def new(name, told=None, target=(), shape="auto", **options):
    """(the new task, everything that was said) of a file."""
    table = read_table(str(CASES / name if isinstance(name, str) else name), told)
    prompt = None
    if not target and (recognized := recognize(table, shape, options.get("kind"))):
        table, prompt = recognized
        message, target = "message", ("target",)
    else:
        message, target = choose_columns(table, None, target)
    made = make_task("new", table, message, target, prompt=prompt, **options)
    assert sum(map(len, made.splits.values())) + len(made.rejected) == len(table.rows) + len(table.rejected)
    return made, table.remarks + made.remarks


def rows(made):
    """All rows in the order of the file."""
    return sorted((row for some in made.splits.values() for row in some), key=lambda row: row["id"])


@pytest.mark.parametrize(
    ("name", "n", "labels", "said"),
    [
        ("alpaca.json", 60, FIVE, "read as instructions"),
        ("bom.csv", 60, FIVE, "separator comma"),
        ("bool_labels.jsonl", 60, {"true", "false"}, ""),
        ("cjk.csv", 60, {"甲", "乙", "丙"}, ""),
        ("classlabel.parquet", 60, FIVE, "replaced by the names"),
        ("columns.json", 60, FIVE, "column by column"),
        ("cp1252.csv", 60, FIVE, "encoding cp1252: a guess"),
        ("crlf.csv", 60, FIVE, ""),
        ("float_labels_nan.jsonl", 50, {"0", "1", "2"}, "without .0"),
        ("int_labels.csv", 60, {"0", "1", "2"}, ""),
        ("int_labels.jsonl", 60, {"0", "1", "2"}, ""),
        ("na_is_a_label.csv", 60, {"NA", "EU", "ASIA"}, ""),
        ("newline_in_quotes.csv", 60, FIVE, ""),
        ("no_header.csv", 60, FIVE, "no header: 'damage' in the first line"),
        ("old_mac.csv", 60, FIVE, ""),
        ("open_quote_swallows.csv", 60, FIVE, "line 12: a quote that is not closed well"),
        ("openai_messages.jsonl", 60, FIVE, "conversations (OpenAI"),
        ("pretty_objects.jsonl", 60, FIVE, "objects over several lines"),
        ("quote_at_start.csv", 60, FIVE, "line 7: a quote that is not closed well"),
        ("rare_class.csv", 60, {"fraud", "normal"}, ""),
        ("sep_line.csv", 60, FIVE, "separator semicolon"),
        ("sharegpt.json", 60, FIVE, "conversations (ShareGPT"),
        ("some_emoji.csv", 69, {"pos", "neg"}, ""),
        ("special_tokens.jsonl", 60, FIVE, ""),
        ("trailing_blank_labels.csv", 60, FIVE, "label: 40 value(s) spaces or invisible marks"),
        ("utf16.csv", 60, FIVE, "encoding utf-16"),
        ("wrapped.json", 60, FIVE, "under 'data'"),
        ("zero_width_labels.csv", 60, FIVE, "spaces or invisible marks"),
    ],
)
def test_a_file_of_labels_is_read_rightly(name, n, labels, said):
    made, remarks = new(name)
    assert made.task.kind == "label" and set(made.task.labels) == labels
    assert len(rows(made)) == n
    assert said in "\n".join(remarks)


def test_quotes_that_do_not_close_stay_in_their_line_and_in_the_text():
    made, _ = new("open_quote_swallows.csv")
    message = rows(made)[10]["message"]
    assert message == '"parcel held at customs for three weeks  what documents do you need' and not made.rejected
    made, _ = new("quote_at_start.csv")
    assert rows(made)[5]["message"] == '"Undeliverable" it says on the card'


def test_a_field_of_many_lines_is_one_row(tmp_path):
    path = tmp_path / "huge.csv"
    log = "\n".join(f"line {i} of a log,refund" for i in range(8000))
    path.write_text((CASES / "bom.csv").read_text(encoding="utf-8-sig") + f'"{log}\n",delay\n', encoding="utf-8")
    made, remarks = new(path)
    assert len(rows(made)) == 60 and len(made.rejected) == 1 and "characters" in made.rejected[0]["reason"]
    assert "line 62 to 8062: one quoted field, though its lines look like rows" in "\n".join(remarks)
    made, _ = new(path, Reading(quotes=False))
    assert len(rows(made)) + len(made.rejected) == 60 + 8001


def test_what_looks_like_a_number_and_is_none_stays_text():
    made, _ = new("zip_codes.csv", target=("zip", "category"))
    assert {row["target"]["zip"] for row in rows(made)} >= {"00000", "00137", "00685"}
    assert made.task.fields[0].type == "string"


def test_values_that_look_missing_are_named_and_kept():
    made, remarks = new("nan_strings.csv")
    assert len(rows(made)) == 60
    assert "15 row(s) look like missing ones: 'nan' (3), 'None' (3), 'NA' (3)" in "\n".join(remarks)


def test_a_label_that_is_as_frequent_as_others_is_no_missing_one():
    assert "missing" not in "\n".join(new("na_is_a_label.csv")[1])


def test_empty_targets_are_set_aside():
    made, _ = new("float_labels_nan.jsonl")
    assert [entry["reason"] for entry in made.rejected] == ["column 'label': it is empty"] * 10


def test_instruction_and_input_are_joined():
    made, _ = new("alpaca.json")
    assert rows(made)[0]["message"] == f"Say what this complaint is about.\n\n{FIRST}"


def test_a_system_prompt_that_all_rows_share_is_the_tasks():
    made, remarks = new("openai_messages.jsonl")
    assert made.task.system_prompt == "Label the complaint." and rows(made)[0]["message"] == FIRST
    assert "every row has one system prompt: it is the task's" in remarks


def test_spaces_at_the_ends_of_field_values_go_and_other_spellings_are_named():
    made, remarks = new("blank_in_values.jsonl")
    values = {row["target"]["category"] for row in rows(made)}
    assert values == {value for one in FIVE for value in (one, one.capitalize())}
    assert "category: 10 value(s) spaces or invisible marks at an end removed" in remarks
    assert "category: 'Damage' (8), 'damage' (3) differ only in spelling" in "\n".join(remarks)


def test_lists_of_names_become_a_field():
    made, _ = new("list_only.jsonl")
    assert made.task.kind == "json" and made.task.fields[0].type == "set"
    assert rows(made)[1]["target"] == {"label": ["cheap", "late"]}
    made, _ = new("list_columns.parquet")
    assert rows(made)[0]["target"] == {"label": ["damage", "urgent"]}


@pytest.mark.parametrize("name", ["empty_set.jsonl", "odd_fields.jsonl", "order_numbers.jsonl", "rare_choice.jsonl"])
def test_objects_come_through_unchanged(name):
    made, _ = new(name)
    source = [json.loads(line) for line in (CASES / name).read_text(encoding="utf-8").splitlines()]
    assert [(row["message"], row["target"]) for row in rows(made)] == [(row["text"], row["target"]) for row in source]


def test_an_object_written_as_text_is_read():
    made, _ = new("target_as_string.jsonl")
    assert made.task.kind == "json" and rows(made)[0]["target"] == {"category": "damage", "n": 0}


def test_dates_and_decimals_are_written_as_they_stand():
    made, _ = new("date_decimal.parquet", target=("day", "price"))
    assert rows(made)[0]["target"] == {"day": "2024-01-01", "price": "0.50"}
    made, _ = new("decimal_comma.csv", target=("price", "weight"))
    assert rows(made)[0]["target"] == {"price": "0,50", "weight": "0.5"}


def test_a_row_without_a_message_is_set_aside_and_null_stays_null():
    made, _ = new("null_required.jsonl")
    assert len(made.rejected) == 12 and rows(made)[0]["target"] == {"category": "customs", "n": 1}


def test_a_longer_limit_takes_longer_rows():
    assert len(new("long_text.csv")[0].rejected) == 6
    made, _ = new("long_text.csv", max_message_characters=5000)
    assert not made.rejected and made.task.max_message_characters == 5000


def test_a_control_character_in_a_line_ends_no_line():
    made, remarks = new("clean_me.csv")
    assert "form feed\x0cbetween\rwords" in {row["message"] for row in rows(made)} and not made.rejected
    assert "a carriage return in the middle of a line: kept" in "\n".join(remarks)


def test_one_class_is_said():
    made, remarks = new("one_class.csv")
    assert made.task.kind == "text" and "kind text: all targets are the same: there is nothing to learn from them" in remarks


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dup_columns.csv", "'text' twice"),
        ("nested.jsonl", "holds dicts inside"),
        ("two_rows.csv", "gives 2 usable row"),
        ("date_decimal.parquet", "say which is the target"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(name, said):
    with pytest.raises(KitError, match=said):
        new(name)


# --- ten files as people bring them, every value compared with a plain reading of the file ---


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    return make.make(tmp_path_factory.mktemp("brought"))


@pytest.mark.parametrize("name", [name for name in readings.EXPECTED if name != "support_tickets.csv"])
def test_a_file_as_people_bring_it_is_read_to_the_last_value(name, brought):
    expected = readings.EXPECTED[name]
    path = (brought if expected["made"] else make.HERE) / name
    told = {"kind": "text"} if "several_turns" in expected else {}
    made, _ = new(path, target=("Amt", "Dringlichkeit") if name == "rathaus.csv" else (), **told)
    aside = {entry["row"] for entry in expected["set_aside"]} | set(expected.get("several_turns", {}).get("rows", []))
    right = [(row.message, row.target) for row in readings.reading(name, brought) if row.row not in aside]
    assert made.task.kind == expected["kind"] and len(made.rejected) == len(aside)
    assert sorted((row["message"], dump(row["target"])) for row in rows(made)) == sorted((m, dump(t)) for m, t in right)
    assert made.task.system_prompt == expected.get("system_prompt", made.task.system_prompt)


def test_conversations_as_people_bring_them_are_kept_whole_and_only_what_nobody_answers_is_left_out(brought):
    expected = readings.EXPECTED["houseplants.json"]
    table, _ = recognize(read_table(str(make.HERE / "houseplants.json")))
    made = make_chat_task("new", table)
    aside = {entry["row"] for entry in expected["set_aside"]}
    right = []
    for row in readings.reading("houseplants.json", brought):
        turns = [("user", row.message), ("assistant", row.target)] if isinstance(row.message, str) else list(row.message)
        if row.row not in aside:
            right.append([{"role": role, "content": text} for role, text in turns[: len(turns) // 2 * 2]])
    assert sorted(dump(row["messages"]) for row in rows(made)) == sorted(map(dump, right)) and len(right) == 79
    ends = expected["several_turns"]["ends_with_question"]
    assert any(f"{len(ends)} conversation(s) end with a turn that nobody answers" in remark for remark in table.remarks)


def test_a_file_of_fifty_thousand_rows_is_read_to_the_last_value(brought):
    table = read_table(str(brought / "support_tickets.csv"))
    right = readings.reading("support_tickets.csv", brought)
    message, (target,) = choose_columns(table, None, ())
    assert len(table.rows) + len(table.rejected) == len(right) == 50_000 and len(table.rejected) <= 1
    by_line = [(row[message], trim(row[target]) or None) for _, row in table.rows]
    assert set(by_line) <= {(row.message, row.target) for row in right}
