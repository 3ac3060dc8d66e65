import csv
import io
import json
import random

import datasets
import openpyxl
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from ftkit.common.errors import KitError
from ftkit.data.columns import Values, choose_columns, trim
from ftkit.data.formats.delimited import RULE
from ftkit.data.formats.export import export_task
from ftkit.data.formats.read import read_table
from ftkit.data.formats.shapes import recognize
from ftkit.data.formats.table import AGAIN, Reading, Table
from ftkit.data.task import load_task


def read(tmp_path, name, data, **told):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_table(str(path), Reading(**told))


def values(table):
    return [list(row.values()) for _, row in table.rows]


# --- text and encodings ---

SAMPLES = {
    "cp1252": "Der Kläger wünscht Übergrößen – café für 5 €, schöne Grüße",
    "cp1250": "Zażółć gęślą jaźń; proszę o zwrot pieniędzy za paczkę, dziękuję",
    "cp1251": "Посылка пришла разбитой; прошу вернуть деньги как можно скорее",
    "cp1253": "Το δέμα ήρθε σπασμένο· παρακαλώ επιστρέψτε τα χρήματα",
    "cp1255": "החבילה הגיעה שבורה, בבקשה להחזיר את הכסף",
    "cp1256": "وصل الطرد مكسورا، أرجو إعادة المال",
    "shift_jis": "荷物が壊れて届きました。返金をお願いします。",
    "gb18030": "包裹坏了，请退款，谢谢你们的帮助。",
    "euc_kr": "소포가 깨져서 왔어요. 환불해 주세요.",
    "utf-16": "Zażółć, café, 包裹",
    "utf-16-le": "a plain text without a mark",
    "utf-16-be": "a plain text without a mark",
    "utf-32": "Zażółć, café, 包裹",
    "utf-8-sig": "café",
}


@pytest.mark.parametrize("encoding", SAMPLES)
def test_an_encoding_is_found_and_said(tmp_path, encoding):
    text = "text\tlabel\n" + f"{SAMPLES[encoding]}\tx\n" * 20
    table = read(tmp_path, "in.csv", text.encode(encoding))
    assert values(table) == [[SAMPLES[encoding], "x"]] * 20
    said = [remark for remark in table.remarks if remark.startswith("encoding")]
    assert len(said) == (encoding != "utf-8-sig")
    if said and not encoding.startswith("utf"):
        assert "a guess" in said[0] and SAMPLES[encoding][:20] in said[0]


def test_markup_in_a_western_file_does_not_make_it_eastern(tmp_path):
    signs = "a[b]c[/b] d`e f~g h^i j{k}l [a link](http://x) don´t,enquiry"  # what stands in ASCII tells no code page
    rows = ["<p>I can’t open it</p>,money", "Jacob owes £14.80 for dinners,money", "a café<br>Could you,enquiry", signs] * 5
    table = read(tmp_path, "in.csv", "\n".join(["text,label", *rows]).encode("cp1252"))
    assert values(table)[1] == ["Jacob owes £14.80 for dinners", "money"] and "encoding cp1252: a guess" in table.remarks[0]


def test_an_encoding_that_is_named_is_taken_or_refused(tmp_path):
    assert values(read(tmp_path, "in.csv", "a,b\ncafé,x\n".encode("cp850"), encoding="cp850")) == [["café", "x"]]
    with pytest.raises(KitError, match=r"in\.csv, line 2: byte 0x82 is not utf-8"):
        read(tmp_path, "in.csv", "a,b\ncafé,x\n".encode("cp850"), encoding="utf-8")
    with pytest.raises(KitError, match="no encoding 'latin-77'"):
        read(tmp_path, "in.csv", b"a,b\n", encoding="latin-77")


def test_single_bad_bytes_in_utf8_set_their_row_aside(tmp_path):
    data = b"text,label\n" + "café,x\n".encode() * 5 + b"caf\xe9,x\n" + "café,x\n".encode()
    table = read(tmp_path, "in.csv", data)
    assert len(table.rows) == 6
    assert [(r["line"], r["reason"]) for r in table.rejected] == [
        (7, "it holds a byte that is not UTF-8 (0xe9): save the file as UTF-8 again, or mend the line")
    ]


# --- separators, quotes, headers ---


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "^", "~", "\x1f", "¦"])
def test_separators_are_found_though_others_stand_in_the_texts(tmp_path, separator):
    others = [s for s in ",;|" if s != separator]
    text = "".join(f"one{others[0]} two{others[1]} number {i}{separator}{'ab'[i % 2]}\n" for i in range(30))
    table = read(tmp_path, "in.csv", f"text{separator}label\n{text}")
    assert table.columns == ["text", "label"] and len(table.rows) == 30


def test_backslashes_before_quotes_and_spaces_after_separators_are_understood(tmp_path):
    rows = "".join(f'"she said \\"no\\", {i}", "a\\b"\n' for i in range(20))
    table = read(tmp_path, "in.csv", "text, label\n" + rows)
    assert values(table)[3] == ['she said "no", 3', "a\\b"]
    assert 'quotes in quotes written \\", spaces after separators' in table.remarks[0]


def test_quotes_inside_that_are_not_doubled(tmp_path):
    rows = "".join(f'"message, {i}",x\n' for i in range(20))
    table = read(tmp_path, "in.csv", f'text,label\n{rows}"he said "no" to me\nand left",y\n{rows}')
    assert values(table)[20] == ['he said "no" to me\nand left', "y"] and len(table.rows) == 41
    assert "line 22 to 23: a quoted field with quotes in it that are not doubled" in table.remarks


def test_where_two_readings_fit_the_lines_are_set_aside(tmp_path):
    rows = "".join(f'"message, {i}",x\n' for i in range(20))
    table = read(tmp_path, "in.csv", f'text,label\n{rows}"he said "no" to me, well\nand left",y\n{rows}')
    assert len(table.rows) == 40 and [r["line"] for r in table.rejected] == [22]
    assert "it may close in line 23" in table.rejected[0]["reason"]


def test_a_header_is_told_from_a_row(tmp_path):
    rows = "".join(f"the message number {i},{'ab'[i % 2]}\n" for i in range(20))
    assert read(tmp_path, "a.csv", rows).columns == ["column 1", "column 2"]
    assert len(read(tmp_path, "a.csv", rows).rows) == 20
    assert len(read(tmp_path, "a.csv", rows, header=True).rows) == 19
    assert read(tmp_path, "a.csv", "words,kind\n" + rows).columns == ["words", "kind"]
    assert len(read(tmp_path, "a.csv", "words,kind\n" + rows, header=False).rows) == 21
    numbers = "".join(f"1.5,{i}\n" for i in range(20))
    assert read(tmp_path, "a.csv", numbers).columns == ["column 1", "column 2"]


def test_empty_columns_that_a_spreadsheet_leaves_are_dropped_and_said(tmp_path):
    table = read(tmp_path, "in.csv", "text,label,,\n" + "a b c,x,,\n" * 12)
    assert table.columns == ["text", "label"] and "2 empty column(s) without a name left out" in table.remarks


# --- JSON ---

PAIR = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (PAIR, ""),
        ({"data": PAIR}, "'data'"),
        ({"version": 1, "result": {"rows": PAIR}}, "'result.rows'"),
        ({"text": ["a", "b"], "label": ["x", "y"]}, "column by column"),
        ({"data": {"text": ["a", "b"], "label": ["x", "y"]}}, "the rows stand under 'data', written column by column"),
        ({"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}}, "rows numbered"),
        ({"0": PAIR[0], "1": PAIR[1]}, "an object of rows"),
        ({"columns": ["text", "label"], "index": [0, 1], "data": [["a", "x"], ["b", "y"]]}, "columns and data"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_in_the_forms_that_tools_write(tmp_path, value, said, indent):
    table = read(tmp_path, "in.json", json.dumps(value, indent=indent))
    assert values(table) == [["a", "x"], ["b", "y"]] and table.columns == ["text", "label"]
    assert said in "\n".join(table.remarks)


@pytest.mark.parametrize("name", ["in", "in.txt", "in.csv", "in.jsonl"])
def test_json_is_known_by_its_content(tmp_path, name):
    assert values(read(tmp_path, name, "".join(json.dumps(row) + "\n" for row in PAIR))) == [["a", "x"], ["b", "y"]]
    with pytest.raises(KitError, match="a text and what should be answered to it"):
        choose_columns(read(tmp_path, "in.txt", "one line of text\nand another line\n" * 6), None, ())


def test_rows_that_are_lists_get_numbered_columns(tmp_path):
    table = read(tmp_path, "in.jsonl", '["a", "x"]\n["b", "y"]\n')
    assert values(table) == [["a", "x"], ["b", "y"]] and table.columns == ["column 1", "column 2"]


def test_several_lists_are_asked_for(tmp_path):
    data = json.dumps({"train": PAIR, "test": PAIR[:1]})
    with pytest.raises(KitError, match=r"train \(2\), test \(1\). Say which: --part"):
        read(tmp_path, "in.json", data)
    assert len(read(tmp_path, "in.json", data, part="test").rows) == 1
    with pytest.raises(KitError, match="no 'dev'"):
        read(tmp_path, "in.json", data, part="dev")


def test_objects_one_after_the_other_lose_only_the_broken_one(tmp_path):
    text = '{\n "text": "a",\n "label": "x"\n}\n{\n "text": "b" "label"\n}\n{\n "text": "c",\n "label": "y"\n}'
    table = read(tmp_path, "in.json", text)
    assert values(table) == [["a", "x"], ["c", "y"]] and [r["line"] for r in table.rejected] == [5]


def test_a_key_that_stands_twice_would_lose_a_value(tmp_path):
    table = read(tmp_path, "in.jsonl", '{"text": "a", "label": "x", "label": "y"}\n{"text": "b", "label": "y"}\n')
    assert len(table.rows) == 1 and table.rejected[0]["reason"] == "a key stands twice in it"


# --- workbooks and datasets ---


def test_a_workbook_gives_its_first_filled_sheet(tmp_path):
    from openpyxl import Workbook

    book = Workbook()
    first = book.active
    first.title = "notes"
    sheet = book.create_sheet("data")
    sheet.append(["text", None, "label"])
    for i in range(12):
        sheet.append([f"message {i}", None, i % 2])
    book.create_sheet("more").append(["a", "b"])
    book.save(tmp_path / "in.xlsx")
    table = read_table(str(tmp_path / "in.xlsx"))
    assert table.columns == ["text", "label"] and values(table)[3] == ["message 3", 1] and table.rows[0][0] == 2
    assert "sheet 'data' taken, not 'more'" in table.remarks[0]
    assert read_table(str(tmp_path / "in.xlsx"), Reading(part="more", header=False)).rows[0][1] == {
        "column 1": "a",
        "column 2": "b",
    }
    with pytest.raises(KitError, match="no 'x'"):
        read_table(str(tmp_path / "in.xlsx"), Reading(part="x"))


def test_a_header_that_comes_again_in_a_workbook_is_no_row(tmp_path):
    book = openpyxl.Workbook()
    for row in (["text", "label", None], ["a", "b", None], ["text ", "label"], ["c", 1, None], ["text", "other", None]):
        book.active.append(row)
    book.save(tmp_path / "in.xlsx")
    table = read_table(str(tmp_path / "in.xlsx"))
    assert values(table) == [["a", "b"], ["c", 1], ["text", "other"]]
    assert [(one["line"], one["reason"]) for one in table.rejected] == [(3, AGAIN)]


def test_a_folder_of_datasets_gives_names_for_classes(tmp_path):
    names = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names, "tags": datasets.List(names)})
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, -1], "tags": [[0, 1], []]}, features=features)
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "saved"))
    table = read_table(str(tmp_path / "saved"))
    assert values(table) == [["a", "yes", ["no", "yes"]], ["b", None, []]]
    assert "split 'train' taken of train (2), test (2)" in table.remarks[0]
    with pytest.raises(KitError, match="no 'dev'"):
        read_table(str(tmp_path / "saved"), Reading(split="dev"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(KitError, match="not one that datasets saved"):
        read_table(str(tmp_path / "empty"))
    data.to_parquet(tmp_path / "in.parquet")
    assert values(read_table(str(tmp_path / "in.parquet"))) == values(table)


# --- conversations ---

CHATML = (("system", "s"), ("user", "q"), ("assistant", "a"))
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def table_of(rows):
    return Table("in", list(dict.fromkeys(key for row in rows for key in row)), list(enumerate(rows, 1)))


@pytest.mark.parametrize(
    ("row", "message", "target", "prompt"),
    [
        ({"messages": TURNS}, "q", "a", None),
        ({"messages": [{"role": "system", "content": "s"}, *TURNS]}, "q", "a", "s"),
        ({"messages": json.dumps(TURNS)}, "q", "a", None),
        ({"chat": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, TURNS[1]]}, "q", "a", None),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"}, "q", "a", "s"),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, "q", "a", None),
        ({"prompt": TURNS[:1], "completion": "a"}, "q", "a", None),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "q", "a", None),
        ({"chosen": TURNS, "rejected": TURNS}, "q", "a", None),
        ({"prompt": TURNS[:1], "chosen": TURNS, "rejected": TURNS}, "q", "a", None),
        ({"instruction": "i", "input": "q", "output": "a"}, "i\n\nq", "a", None),
        ({"instruction": "i", "input": "", "output": "a", "system": "s"}, "i", "a", "s"),
        ({"instruction": "i", "context": None, "response": "a", "category": "c"}, "i", "a", None),
        ({"instruction": "i", "input": "", "output": "a", "history": []}, "i", "a", None),
        ({"text": "".join(f"<|im_start|>{r}\n{t}<|im_end|>\n" for r, t in CHATML)}, "q", "a", "s"),
        ({"text": "### Human: q\n### Assistant: a"}, "q", "a", None),
        ({"text": "### Instruction:\ni\n\n### Input:\nq\n\n### Response:\na"}, "i\n\nq", "a", None),
        ({"text": "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\nq [/INST] a </s>"}, "q", "a", "s"),
    ],
)  # fmt: skip
def test_a_form_of_conversation_or_instruction_is_recognized(row, message, target, prompt):
    table, own = recognize(table_of([row, row]))
    assert [r for _, r in table.rows] == [{"message": message, "target": target}] * 2 and own == prompt
    assert any(remark.startswith("read as") for remark in table.remarks)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{q}<|eot_id|>"
         "<|start_header_id|>assistant<|end_header_id|>\n\n{a}<|eot_id|>", "<|start_header_id|>"),
        ("<bos><start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n{a}<end_of_turn>\n", "<start_of_turn>"),
        ("<|user|>\n{q}</s>\n<|assistant|>\n{a}</s>\n", "<|assistant|>"),
        ("<|prompter|>{q}<|endoftext|><|assistant|>{a}<|endoftext|>", "<|assistant|>"),
        ("Human: {q}\n\nAssistant: {a}", "Assistant:"),
        ("Q: {q}\nA: {a}", "A:"),
        ("Question: {q}\nAnswer: {a}", "Answer:"),
    ],
)  # fmt: skip
def test_chats_in_one_text_are_read_by_the_marks_of_many_templates(tmp_path, text, mark):
    rows = [(f"Where is parcel {n}?\nIt is late: a week.", f"On its way, {n}.") for n in range(10)]
    data = "\n".join(json.dumps({"text": text.format(q=q, a=a)}) for q, a in rows)
    table, prompt = recognize(read(tmp_path, "in.jsonl", data))
    assert [tuple(row) for row in values(table)] == rows and prompt is None
    assert any(f"marks like {mark}" in remark for remark in table.remarks)


def test_text_around_the_marks_of_a_chat_is_not_lost(tmp_path):
    told, pair = "Below is an instruction.", "### Instruction:\nSort {n}\n\n### Response:\nbox {n}"
    texts = [f"{told}\n\n{pair.format(n=n)}" for n in range(12)]
    texts[3] = "### Instruction:\nSort 3\n\n### Response:\nbox 3"
    table, prompt = recognize(read(tmp_path, "in.jsonl", "\n".join(json.dumps({"text": text}) for text in texts)))
    assert len(table.rows) == 12 and prompt is None  # two system prompts: each stands before its own row
    assert table.rows[0][1]["message"] == f"{told}\n\nSort 0" and table.rows[3][1]["message"] == "Sort 3"
    stray = ["<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>\n"] * 12
    stray[5] = stray[5].replace("<|im_start|>assistant", "by the way\n<|im_start|>assistant")
    table, _ = recognize(read(tmp_path, "in.jsonl", "\n".join(json.dumps({"text": text}) for text in stray)))
    assert len(table.rows) == 11 and table.rejected[0]["reason"] == "column 'text': text outside of the marks: 'by the way'"


def test_what_stands_above_a_table_is_left_out_and_said(tmp_path):
    rows = [f"It is late {n}, a week,{'ab'[n % 2]}" for n in range(20)]
    table = [f'"{row[:-2]}",{row[-1]}' for row in rows]
    expected = [[row[:-2], row[-1]] for row in rows]
    for above in ("Export of 1 May\n\n", "# made by a tool\n", "Complaints,\n"):
        got = read(tmp_path, "in.csv", above + "\n".join(["text,label", *table]))
        assert values(got) == expected and got.columns == ["text", "label"]
        assert sum("stands above the table: left out" in remark for remark in got.remarks) == 1
    alone = read(tmp_path, "in.csv", "text\n" + "\n".join(f"line {n}" for n in range(20)))
    assert alone.columns == ["text"] and len(alone.rows) == 20  # one column: nothing stands above it
    got = read(tmp_path, "in.csv", '"sep=;"\n' + "\n".join(["text;label", *(f"{r[:-2]};{r[-1]}" for r in rows)]))
    assert values(got) == expected


def test_a_header_that_comes_again_and_the_line_that_markdown_draws_are_no_rows(tmp_path):
    rows = [[f"message {n}", "ab"[n % 2]] for n in range(6)]
    lines = [" , ".join(row) for row in rows]
    table = read(tmp_path, "joined.csv", "\n".join(["text,label", *lines[:3], "text , label", *lines[3:]]))
    assert [[v.strip() for v in row] for row in values(table)] == rows
    assert [(one["line"], one["reason"]) for one in table.rejected] == [(5, AGAIN)]
    table = read(tmp_path, "two.csv", "\ufefftext,label\n" + "a,b\n" * 5 + "\ufefftext,label\n" + "a,b\n" * 5)
    assert len(table.rows) == 10 and table.rejected[0]["reason"] == AGAIN
    lines = [f"| {' | '.join(row)} |" for row in rows]
    table = read(tmp_path, "in.md", "\n".join(["| text | label |", "|:---|-----:|", *lines]))
    assert [[v.strip() for v in row] for row in values(table)] == rows
    assert [(one["line"], one["reason"]) for one in table.rejected] == [(2, RULE)]
    table = read(tmp_path, "in.csv", "text,label\n---,---\n" + "a,b\n" * 3)
    assert len(table.rows) == 4 and not table.rejected  # dashes in a CSV file may be somebody's value


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("rows.yaml", "- text: a\n  label: b\n", "is YAML: save its rows in another form first."),
        ("rows.csv", '<?xml version="1.0"?><rows/>', "is XML or HTML"),
        ("page.txt", "\n<!DOCTYPE html>\n<table></table>", "is XML or HTML"),
        ("rows.csv.gz", b"\x1f\x8b\x08" + bytes(60), "is compressed (gzip): unpack it first."),
        ("rows.pdf", b"%PDF-1.7\ntext,label\n", "is a PDF"),
        ("rows.ods", b"PK\x03\x04" + bytes(60), "a document of an office program"),
        ("rows.csv", bytes(range(256)) * 9, "is a binary file, not text."),
        ("rows.txt", "{'text': 'a', 'label': 'b'}\n" * 9, "Python printed it, as it seems: write each row with json.dumps."),
    ],
)
def test_a_file_that_holds_no_rows_is_refused_with_what_it_is(tmp_path, name, data, said):
    with pytest.raises(KitError) as refused:
        read(tmp_path, name, data)
    assert said in str(refused.value) and name in str(refused.value)
    assert ".parquet" in str(refused.value) or "json.dumps" in said


def test_commas_of_sentences_are_no_separators_where_another_sign_separates(tmp_path):
    rows = [[f"Well, it is late, {n} days now", "ab"[n % 2]] for n in range(20)]
    got = read(tmp_path, "in.csv", "\n".join(";".join(row) for row in rows), header=False)
    assert values(got) == rows and got.remarks[0] == "separator semicolon"


def test_the_keys_of_an_only_column_of_objects_are_the_columns(tmp_path):
    data = "\n".join(json.dumps({"translation": {"en": f"one {n}", "de": f"eins {n}"}}) for n in range(10))
    table = read(tmp_path, "in.jsonl", data)
    assert table.columns == ["en", "de"] and table.rows[0][1] == {"en": "one 0", "de": "eins 0"}
    assert table.remarks == ["the only column, 'translation', holds objects: their keys are the columns"]


def test_a_zero_byte_sets_its_row_aside(tmp_path):
    data = b"text,label\n" + b"".join(b"a plain sentence number %d,x\n" % n for n in range(60))
    table = read(tmp_path, "in.csv", data.replace(b"number 7,", b"number \x007,"))
    assert len(table.rows) == 59 and [entry["line"] for entry in table.rejected] == [9]
    assert "byte of value 0" in table.rejected[0]["reason"]
    with pytest.raises(KitError, match="a binary file"):
        read(tmp_path, "in.csv", bytes(range(256)) * 40)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (TURNS * 2, "it has 2 questions and 2 answers: a conversation of several turns"),
        (TURNS[:1], "no answer of an assistant"),
        (TURNS[1:], "does not begin with a question"),
        ([*TURNS, {"role": "tool", "content": "t"}], "turn 3: the role 'tool' is not taken"),
        ([TURNS[0], {"role": "assistant", "content": None, "tool_calls": [{}]}], "turn 2: a call of a tool"),
        ([{"role": "user", "content": [{"type": "image"}]}, TURNS[1]], "turn 1: it is more than text"),
        ([{"role": "user"}, TURNS[1]], "turn 1: it has no text"),
        ([], "is empty"),
    ],
)
def test_what_is_no_question_and_answer_is_set_aside_with_the_reason(turns, reason):
    table, _ = recognize(table_of([{"messages": TURNS}, {"messages": TURNS}, {"messages": turns}]), kind="text")
    assert len(table.rows) == 2 and reason in table.rejected[0]["reason"]
    said = "1 of 3 conversations have several turns and are set aside: --kind chat takes all"
    assert (said in table.remarks) == (turns == TURNS * 2)


def test_only_conversations_of_several_turns_are_refused_with_their_number():
    with pytest.raises(KitError, match="The first: line 1: it has 2 questions"):
        recognize(table_of([{"messages": TURNS * 2}] * 3), kind="text")


def test_conversations_of_several_turns_are_kept_whole():
    system, long = {"role": "system", "content": "s"}, TURNS * 2
    rows = [{"messages": [system, *turns], "topic": "t"} for turns in (long, TURNS, [*long, TURNS[0]], TURNS[:1])]
    table, prompt = recognize(table_of(rows))
    assert prompt == "s" and table.columns == ["messages"]
    assert [row["messages"] for _, row in table.rows] == [long, TURNS, long]
    assert table.rejected[0]["reason"] == "it has no answer of an assistant"
    left = "1 conversation(s) end with a turn that nobody answers (line 3): that turn is left out"
    kind = "kind chat: 2 of 3 conversations have several turns; --kind text makes a task of the others alone"
    assert {left, kind, "columns left out: topic"} <= {*table.remarks}


def test_conversations_keep_system_turns_that_differ_and_single_ones_can_be_told_to_be_a_chat():
    rows = [{"messages": [{"role": "system", "content": s}, *TURNS]} for s in "st"]
    table, prompt = recognize(table_of(rows), kind="chat")
    assert prompt is None and [row["messages"][0]["content"] for _, row in table.rows] == ["s", "t"]
    assert "2 different system prompts: each row's own stays its first turn" in table.remarks
    with pytest.raises(KitError, match="holds no conversations: a task of kind chat is made of `messages`"):
        recognize(table_of([{"text": "a", "label": "b"}] * 3), kind="chat")


def test_the_history_of_an_instruction_is_earlier_turns():
    row = {"instruction": "And tomorrow?", "input": "", "output": "At nine.", "history": [["When today?", "At ten."]]}
    table, _ = recognize(table_of([row] * 3 + [{**row, "history": ["When today?"]}]))
    said = [[(turn["role"], turn["content"]) for turn in r["messages"]] for _, r in table.rows]
    turns = [("user", "When today?"), ("assistant", "At ten."), ("user", "And tomorrow?"), ("assistant", "At nine.")]
    assert said == [turns] * 3 and "a list of pairs" in table.rejected[0]["reason"]
    assert not any("left out" in remark for remark in table.remarks)


def test_few_conversations_of_several_turns_among_many_are_set_aside_with_the_way_on():
    table, _ = recognize(table_of([{"messages": TURNS}] * 10 + [{"messages": TURNS * 2}]))
    assert table.columns == ["message", "target"] and len(table.rejected) == 1
    assert "1 of 11 conversations have several turns and are set aside: --kind chat takes all" in table.remarks


def test_system_prompts_that_differ_stand_before_their_message():
    rows = [{"messages": [{"role": "system", "content": s}, *TURNS]} for s in "st"]
    table, prompt = recognize(table_of(rows))
    assert prompt is None and [row["message"] for _, row in table.rows] == ["s\n\nq", "t\n\nq"]


def test_a_shape_can_be_told():
    rows = [{"instruction": "i", "input": "q", "output": "a"}]
    assert recognize(table_of(rows), "columns") is None
    with pytest.raises(KitError, match="has no messages"):
        recognize(table_of(rows), "messages")
    assert recognize(table_of([{"text": "a", "label": "b"}])) is None


# --- columns by content ---


@pytest.mark.parametrize(
    ("columns", "message", "target"),
    [
        (["Customer text", "Queue"], "Customer text", "Queue"),
        (["id", "customer_message", "assignedLabel", "year"], "customer_message", "assignedLabel"),
        (["x", "y"], "x", "y"),
        (["no", "what they wrote", "where it went"], "what they wrote", "where it went"),
    ],
)
def test_columns_are_found_by_name_or_by_content(columns, message, target):
    made = {"id": str, "no": str, "year": lambda i: 1990 + i}
    rows = []
    for i in range(30):
        row = {message: f"the message of customer {i}", target: "abc"[i % 3]}
        rows.append({c: row[c] if c in row else made[c](i) for c in columns})
    table = table_of(rows)
    assert choose_columns(table, None, ()) == (message, (target,))
    assert [remark.split(":")[0] for remark in table.remarks] == ["message", "target"]


def test_a_column_that_only_numbers_the_rows_is_no_target_and_no_message():
    names = {"email": "a{}@example.org", "ticket": "T-{:04d}", "body": "the parcel of customer {} is late"}
    rows = [{name: form.format(i) for name, form in names.items()} | {"queue": "xyz"[i % 3]} for i in range(30)]
    table = table_of(rows)
    assert choose_columns(table, None, ()) == ("body", ("queue",))
    assert "'ticket': a number or address of each row, not taken as the target" in table.remarks


def test_a_column_of_dates_that_is_named_as_the_target_is_the_target():
    rows = [{"text": f"the {i + 1}. of May, as someone wrote it", "target": f"2026-05-{i + 1:02d}"} for i in range(30)]
    assert choose_columns(table_of(rows), None, ()) == ("text", ("target",))


def test_two_columns_that_could_be_meant_are_asked_for():
    rows = [{"a": f"one text of number {i}", "b": f"another text of number {i}", "c": "xy"[i % 2]} for i in range(30)]
    with pytest.raises(KitError, match="say which is the message"):
        choose_columns(table_of(rows), None, ())


# --- laws ---

cells = st.text(
    st.one_of(
        st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")),
        st.sampled_from(list(",;\t|\"'\n \\=+-0123456789éя中ע")),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(cells, cells), min_size=3, max_size=30),
    separator=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    ends=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_a_csv_writer_wrote_comes_back_to_the_last_character(tmp_path, rows, separator, quoting, ends, encoding):
    """The first two laws: no row is lost, no value changed."""
    assume(not any(set("".join(row)) <= set("-: ") for row in rows if any(row)))  # as Markdown draws a line
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=ends)
    writer.writerow(["text", "label"])
    writer.writerows(rows)
    table = read(tmp_path, "in.csv", file.getvalue().encode(encoding), delimiter=separator, header=True)
    kept = [list(row) for row in rows if any(cell.strip() for cell in row)]
    assert values(table) == kept and not table.rejected


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(cells.filter(lambda t: t.strip() and not set(t) & set("\n\r\x1c\x1d\x1e\x85")), min_size=5, max_size=30),
    stray=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 12)), max_size=4),
)
@example(texts=["0"] * 5, stray=[(0, 0), (4, 1)])  # one field of the whole file
def test_stray_quotes_swallow_no_row(tmp_path, texts, stray):
    """Each line is a row, or is set aside with its number; a message that is taken holds its line's text, quotes and all."""
    lines = [text.replace('"', "").replace(",", "").strip() or "x" for text in texts]
    for number, at in stray:
        line = lines[number % len(lines)]
        lines[number % len(lines)] = line[:at] + '"' + line[at:]
    table = read(tmp_path, "in.csv", "text,label\n" + "".join(f"{line},x\n" for line in lines), delimiter=",", header=True)
    taken = {line: row["text"] for line, row in table.rows}
    gone = {r["line"] + n for r in table.rejected for n in range(r["text"].rstrip("\n").count("\n") + 1)}
    inside = {n for line, text in taken.items() for n in range(line + 1, line + text.count("\n") + 1)}
    assert set(taken) | gone | inside == set(range(2, len(lines) + 2))
    for line, text in taken.items():
        if "\n" not in text:
            assert text.replace('"', "") == lines[line - 2].replace('"', "")
    if inside:
        assert any("quoted field" in remark for remark in table.remarks)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(st.sampled_from("ab"), cells | st.integers() | st.none(), min_size=1), min_size=1),
    form=st.sampled_from(["lines", "list", "pretty", "wrapped"]),
)  # fmt: skip
def test_json_comes_back_in_every_form(tmp_path, rows, form):
    assume(form != "wrapped" or len(rows) > 1)
    written = {
        "lines": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "list": json.dumps(rows),
        "pretty": "\n".join(json.dumps(row, indent=2) for row in rows),
        "wrapped": json.dumps({"rows": rows}),
    }[form]
    table = read(tmp_path, "in.json", written)
    assert [row for _, row in table.rows] == rows and not table.rejected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-50, 10**9).map(str) | st.sampled_from(["", "007", "+1", "1.0", " 3 ", "x"]), min_size=1))
def test_a_column_of_texts_keeps_every_value(column):
    """The value is the same text without the spaces at its ends, or the whole number that this text is."""
    change = Values("n", column)
    for value in column:
        made = change(value)
        assert (made is None and not value.strip()) or str(made) == value.strip()
    changed = any(value != value.strip() for value in column if value.strip())
    assert changed == any("removed" in remark for remark in change.remarks())
    assert trim("\u200b x\ufeff ") == "x"


# --- the way back ---


@pytest.mark.parametrize("form", ["messages", "alpaca", "csv"])
def test_a_task_that_is_exported_is_read_back(tmp_path, form):
    task = load_task("desk")
    paths = export_task(task, form, tmp_path / form)
    assert [path.stem for path in paths] == ["test", "train", "validation"]
    table = read_table(str(tmp_path / form / paths[0].name))
    source = random.Random(0).sample(list(enumerate(task.rows("test"))), 20)
    recognized = recognize(table)
    if form == "csv":
        assert recognized is None and table.columns == ["message", "intent", "urgency", "guests", "day", "time", "allergens"]
        for i, row in source:
            assert table.rows[i][1]["message"] == row["message"] and table.rows[i][1]["intent"] == row["ticket"]["intent"]
        return
    again, prompt = recognized
    assert prompt == task.system_prompt and len(again.rows) == len(task.rows("test"))
    for i, row in source:
        assert again.rows[i][1]["message"] == row["message"] and json.loads(again.rows[i][1]["target"]) == row["ticket"]
    with pytest.raises(KitError, match="is there already"):
        export_task(task, form, tmp_path / form)
