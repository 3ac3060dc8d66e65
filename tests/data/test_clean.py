import json

import pytest

from ftkit.common.errors import KitError
from ftkit.data.check import check_task
from ftkit.data.clean import clean_task, write_cleaned
from ftkit.data.task import load_task
from tests.cli.test_main import ftkit, refused
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
    assert "removed markup" in done.stdout and "4 row(s) set aside" in done.stdout and "44 train" in done.stdout
    assert (broken_task / "train.jsonl").read_bytes() == original

    kept = {row["id"]: row for row in lines(tmp_path / "clean" / "train.jsonl")}
    assert kept[rows[0]["id"]]["message"] == before[0]
    assert kept[rows[1]["id"]]["ticket"]["urgency"] == rows[1]["ticket"]["urgency"].lower()
    reasons = {entry["id"]: entry["reason"] for entry in lines(tmp_path / "clean" / "rejected.jsonl")}
    assert set(reasons) == {rows[i]["id"] for i in (3, 4, 5, 6)}
    assert "stands twice" in reasons[rows[3]["id"]] and "another answer" in reasons[rows[3]["id"]]
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
