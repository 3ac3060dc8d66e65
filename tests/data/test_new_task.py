import csv
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftkit.common.errors import KitError
from ftkit.data.check import check_task
from ftkit.data.columns import choose_columns, guess_kind
from ftkit.data.formats.read import read_table
from ftkit.data.formats.table import Reading
from ftkit.data.new_task import ENOUGH, FEW, make_task, write_task
from ftkit.data.similarity import plain
from ftkit.data.task import SPLITS, load_task
from tests.command import ftkit, refused

DESK = load_task("desk")
ROWS = DESK.rows("train")[:300]


def write_csv(path, header, rows, **options):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **options)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def made(path, name="new", **options):
    table = read_table(str(path))
    message, targets = choose_columns(table, options.pop("message", None), options.pop("target", ()))
    return make_task(name, table, message, targets, **options)


def test_a_csv_of_labels_becomes_a_label_task(tmp_path):
    path = write_csv(
        tmp_path / "in.csv", ["no", "text", "label"], [(i, r["message"], r["ticket"]["intent"]) for i, r in enumerate(ROWS)]
    )
    done = ftkit("task", "new", tmp_path / "new", "--from", path)
    assert done.returncode == 0, done.stderr
    assert "kind label" in done.stdout and "columns left out: no" in done.stdout
    task = load_task(tmp_path / "new")
    assert task.kind == "label" and set(task.labels) == {r["ticket"]["intent"] for r in ROWS}
    splits = {split: task.rows(split) for split in SPLITS}
    assert sum(map(len, splits.values())) == len(ROWS)
    assert len(splits["validation"]) == len(splits["test"]) == 30
    assert len(Counter(row["target"] for row in splits["test"])) >= 10
    assert not [f for f in check_task(task, thorough=False) if f.gate and not f.ok]
    messages = {plain(r["message"]): r["ticket"]["intent"] for r in ROWS}
    assert all(messages[plain(row["message"])] == row["target"] for rows in splits.values() for row in rows)


def test_a_jsonl_of_objects_becomes_a_json_task_with_fields_like_the_desks(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(
        "".join(json.dumps({"question": r["message"], "ticket": r["ticket"]}) + "\n" for r in ROWS), encoding="utf-8"
    )
    task = made(path).task
    assert task.kind == "json"
    found = {f.name: f for f in task.fields}
    assert list(found) == [f.name for f in DESK.fields]
    assert found["intent"].type == "choice" and set(found["intent"].values) <= set(DESK.fields[0].values)
    assert found["guests"].type == "integer" and found["guests"].nullable
    assert found["time"].type == "pattern" and found["time"].form == "HH:MM on the 24-hour clock"
    assert found["allergens"].type == "set"


def test_several_target_columns_become_the_fields_of_an_object(tmp_path):
    rows = [(r["message"], r["ticket"]["intent"], r["ticket"]["guests"] or "") for r in ROWS]
    task = made(write_csv(tmp_path / "in.csv", ["text", "intent", "guests"], rows), target=("intent", "guests"))
    assert [(f.name, f.type, f.nullable) for f in task.task.fields] == [
        ("intent", "choice", False),
        ("guests", "integer", True),
    ]
    assert all(isinstance(row["target"]["guests"], int | None) for row in task.splits["train"])


def test_long_answers_become_a_text_task(tmp_path):
    rows = [(r["message"], f"Dear guest, about “{r['message'][:40]}”: yes.") for r in ROWS]
    result = made(write_csv(tmp_path / "in.tsv", ["prompt", "response"], rows, delimiter="\t"))
    write_task(result, "in.tsv", tmp_path / "new")
    task = load_task(tmp_path / "new")
    assert task.kind == "text" and task.rows("train")[0]["target"].startswith("Dear guest")


def test_parquet_is_read(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": [r["message"] for r in ROWS], "label": [r["ticket"]["urgency"] for r in ROWS]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    assert made(tmp_path / "in.parquet").task.labels == ("high", "low", "normal")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(KitError, match="not readable as Parquet"):
        read_table(str(tmp_path / "bad.parquet"))


def test_a_hub_dataset_that_cannot_be_had_is_said_in_one_line(tmp_path):
    done = ftkit("task", "new", tmp_path / "new", "--from", "someone/something", HF_HUB_OFFLINE="1")
    refused(done, "someone/something is not a file", "hub")


def test_a_hub_dataset_is_read_by_its_id(monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list([{"text": r["message"], "label": r["ticket"]["urgency"]} for r in ROWS])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = read_table("someone/something", Reading(split="validation", part="config"))
    assert asked == [("someone/something", "config", "validation")]
    assert table.columns == ["text", "label"] and table.rows[0] == (1, {"text": ROWS[0]["message"], "label": "normal"})


def test_columns_whose_names_say_nothing_are_asked_for(tmp_path):
    table = read_table(str(write_csv(tmp_path / "in.csv", ["a", "b", "c"], [("1", "2", "3")])))
    asked = []

    def ask(what, columns):
        asked.append((what, columns))
        return columns[-1]

    assert choose_columns(table, None, (), ask) == ("c", ("b",))
    assert asked == [("message", ["a", "b", "c"]), ("target", ["a", "b"])]
    assert choose_columns(table, "a", ("c",), ask) == ("a", ("c",)) and len(asked) == 2
    with pytest.raises(KitError, match="'a' cannot be both"):
        choose_columns(table, "a", ("a",))


def test_near_duplicates_stay_in_one_split_and_labels_in_their_shares(tmp_path):
    rows = [
        (r["message"] + tail, r["ticket"]["urgency"]) for r in ROWS if len(r["message"]) > 60 for tail in ("", " Thanks")
    ]
    splits = made(write_csv(tmp_path / "in.csv", ["text", "label"], rows)).splits
    where = {}
    for split, some in splits.items():
        for row in some:
            where.setdefault(row["message"].removesuffix(" Thanks"), set()).add(split)
    assert len(where) > 100 and all(len(found) == 1 for found in where.values())
    shares = {s: Counter(row["target"] for row in some)["normal"] / len(some) for s, some in splits.items()}
    assert max(shares.values()) - min(shares.values()) < 0.12


def test_messages_from_one_template_are_kept_out_of_the_held_out_splits(tmp_path):
    template = [(f"please book the usual table by the big window for me tonight, number {i}", "a") for i in range(100)]
    rows = template + [(r["message"], "ab"[i % 2]) for i, r in enumerate(ROWS[:100])]
    result = made(write_csv(tmp_path / "in.csv", ["text", "label"], rows))
    assert any("made from a template" in remark for remark in result.remarks)
    assert not any("usual table" in row["message"] for s in ("validation", "test") for row in result.splits[s])
    with pytest.raises(KitError, match="resemble each other"):
        made(write_csv(tmp_path / "in.csv", ["text", "label"], template))


def test_bad_rows_are_set_aside_with_line_and_reason(tmp_path):
    path = write_csv(tmp_path / "in.csv", ["text", "label"], [(r["message"], r["ticket"]["urgency"]) for r in ROWS[:40]])
    with path.open("a", encoding="utf-8") as file:
        file.write('only one field\nthree,fields,here\n"",normal\nno label,\n' + "x" * 5000 + ",normal\n")
    done = ftkit("task", "new", tmp_path / "new", "--from", path)
    assert done.returncode == 0 and "5 row(s) set aside" in done.stdout
    rejected = [json.loads(line) for line in (tmp_path / "new" / "rejected.jsonl").read_text().splitlines()]
    first = rejected[0]["line"]
    assert [entry["line"] - first for entry in rejected] == [0, 1, 2, 3, 4]
    words = ("it has 1 fields, the header has 2", "it has 3 fields", "column 'text'", "column 'label'", "5,000 characters")
    for entry, said in zip(rejected, words, strict=True):
        assert said in entry["reason"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("in.csv", b"", "in.csv is empty"),
        ("in.csv", b"text,label\n", "0 usable row(s)"),
        ("in.csv", b"text,label,text\na,b,c\n", "the header has 'text' twice"),
        ("in.csv", "text,label\ncaf\u00e9,b\n".encode("latin-1"), "1 usable row(s)"),
        ("in.csv", b"a,b\n1,2\n", "'a', 'b': say which is the message"),
        ("in.csv", b"text,b\n1,2\n", "say which is the target"),
        ("in.csv", b"\x00\x01\x02" * 50, "is a binary file"),
        ("in.xlsx", b"PK\x03\x04\x00\x00", "an archive (zip)"),
        ("in.jsonl", b'{"text": "a", "label": "b"\n' * 3, "line 1: not JSON"),
        ("in.jsonl", b"[1, 2", "not readable as JSON"),
        ("in.jsonl", b"[]", "0 usable row(s)"),
        ("in.jsonl", b'{"a": 1}', "say which is the message"),
        ("in.csv", b"text,label\n" + b'"a,b\n' * 5, "5 usable row(s)"),
    ],
)
def test_a_broken_file_ends_in_one_clear_line_and_leaves_nothing(tmp_path, name, data, said):
    path = tmp_path / name
    path.write_bytes(data)
    refused(ftkit("task", "new", tmp_path / "new", "--from", path), said)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_folder_that_is_there_and_a_column_that_is_not(tmp_path):
    path = write_csv(tmp_path / "in.csv", ["text", "label"], [("a", "b")])
    refused(ftkit("task", "new", tmp_path, "--from", path), "is there already")
    refused(
        ftkit("task", "new", tmp_path / "n", "--from", path, "--message", "txt"),
        "columns 'text', 'label': there is no 'txt'",
    )
    refused(ftkit("task", "new", tmp_path / "n", "--from", path, "--kind", "table"), "not one of json, label, text")
    refused(ftkit("task", "new", tmp_path / "n", "--from", tmp_path / "no.csv"), "is missing")


def test_a_line_of_a_hundred_megabytes_ends_in_one_clear_line(tmp_path):
    path = tmp_path / "in.csv"
    with path.open("w") as file:
        file.write("text,label\n" + "x" * 100_000_000 + ",a\n")
    refused(ftkit("task", "new", tmp_path / "new", "--from", path), "0 usable row(s)", "it has 100,000,000 characters")
    path.write_text("x" * 100_000_000)
    done = ftkit("task", "new", tmp_path / "new", "--from", path)
    refused(done, "0 usable row(s)")
    assert len(done.stderr) < 500


def test_fifty_thousand_rows_take_less_than_a_minute_and_two_gigabytes(tmp_path):
    words = sorted({word for row in DESK.rows("train") for word in row["message"].split()})
    rng = random.Random(0)
    rows = [(i, " ".join(rng.choices(words, k=rng.randint(8, 40))), rng.choice("abcdef")) for i in range(50_000)]
    path = write_csv(tmp_path / "in.csv", ["no", "text", "label"], rows)
    # a small process between: one started from here would count the memory of these tests as its own
    between = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    between += "print('KB', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    command = [sys.executable, "-m", "ftkit.cli", "task", "new", str(tmp_path / "new"), "--from", str(path)]
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", between, *command], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "48,000 train, 1,000 validation, 1,000 test" in done.stdout
    assert time.monotonic() - began < 60
    assert int(done.stdout.rsplit("KB", 1)[1]) < 2_000_000


def test_kinds_are_guessed_with_the_reason():
    assert guess_kind([{"a": 1}] * 10)[0] == "json"
    assert guess_kind(["yes", "no"] * 10) == ("label", "there are only 2 different targets")
    assert guess_kind([f"answer {i}" for i in range(20)])[0] == "text"
    assert guess_kind([])[0] == "text"


good = "text,label\n" + "".join(f'"{r["message"].replace(chr(34), "")}",{r["ticket"]["urgency"]}\n' for r in ROWS[:30])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(["in.csv", "in.jsonl", "in.parquet", "in.tsv", "in.json", "in"]))
def test_no_file_ends_in_a_traceback(tmp_path, data, name):
    """Bytes at random, and good files with bytes put in, taken out or doubled: a task or a `KitError`, nothing else."""
    source = good.encode() if data.draw(st.booleans()) else data.draw(st.binary(max_size=200))
    if name in ("in.jsonl", "in.json", "in") and data.draw(st.booleans()):
        value = st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.integers(),
            lambda x: st.lists(x, max_size=3),
            max_leaves=4,
        )
        some = data.draw(st.lists(st.dictionaries(st.sampled_from(["text", "label", "x"]), value, max_size=3), max_size=20))
        source = "\n".join(json.dumps(row) for row in some).encode()
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(source)))
        source = source[:at] + data.draw(st.binary(max_size=5)) + source[at + data.draw(st.integers(0, 40)) :]
    path = tmp_path / name
    path.write_bytes(source)
    folder = tmp_path / "new"
    try:
        result = made(path, name=str(folder))
        write_task(result, name, folder)
        task = load_task(folder)
        assert all(task.rows(split) for split in SPLITS)
    except KitError as error:
        assert str(error) and "Traceback" not in str(error)
        assert not folder.exists()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        path.unlink()


@pytest.mark.parametrize("held_out", [0.01, 0.1, 0.25, 0.34, 0.4])
@pytest.mark.parametrize(("classes", "each"), [(2, 6), (5, 6), (8, 5), (12, 3), (20, 5)])
def test_any_share_of_any_number_of_classes_can_be_held_out(tmp_path, held_out, classes, each):
    rng = random.Random(classes)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(400)]
    rows = [{"text": " ".join(rng.sample(words, 6)), "label": f"class {i % classes}"} for i in range(classes * each)]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = make_task("t", read_table(str(path)), "text", ["label"], "label", held_out=held_out)
    sizes = {split: len(some) for split, some in made.splits.items()}
    assert sum(sizes.values()) == len(rows) and min(sizes.values()) > 0
    of_train = {row["target"] for row in made.splits["train"]}
    stratified = not any("without regard to the target" in remark for remark in made.remarks)
    assert not stratified or each < 5 or each * held_out < 1 or len(of_train) == classes


def test_of_many_rows_no_more_are_held_out_than_a_score_needs(tmp_path, monkeypatch):
    rows = [(row["message"], row["ticket"]["intent"]) for row in DESK.rows("train")[:400]]
    path = write_csv(tmp_path / "in.csv", ["text", "label"], rows)
    monkeypatch.setattr("ftkit.data.new_task.MOST_HELD_OUT", 20)
    new = made(path)
    assert len(new.splits["test"]) == len(new.splits["validation"]) == 20 and len(new.splits["train"]) == 360
    assert ENOUGH in new.remarks and "--held-out" in ENOUGH
    new = made(path, held_out=0.1)
    assert len(new.splits["test"]) == len(new.splits["validation"]) == 40 and ENOUGH not in new.remarks


@pytest.mark.parametrize(("rows", "share"), [(40, 8), (60, 12), (100, 20), (150, 20), (200, 20), (350, 35)])
def test_of_few_rows_twenty_are_held_out_but_no_more_than_a_fifth(tmp_path, rows, share):
    some = [(row["message"], row["ticket"]["intent"]) for row in DESK.rows("train")[:rows]]
    new = made(write_csv(tmp_path / "in.csv", ["text", "label"], some))
    assert len(new.splits["test"]) == len(new.splits["validation"]) == share
    assert (FEW.format(share) in new.remarks) == (rows < 200)
