"""The school's messages: the raw file gives the task by the kit's own commands, and guide, datasheet and readings agree."""

import csv
import re

import pytest
from sklearn.metrics import cohen_kappa_score

from ftkit.data.check import check_task
from ftkit.data.clean import clean_task
from ftkit.data.formats.read import read_table
from ftkit.data.formats.table import Reading
from ftkit.data.new_task import make_task, write_task
from ftkit.data.task import SPLITS, load_task

SCHOOL = load_task("school")
ROWS = {split: SCHOOL.rows(split) for split in SPLITS}
SHEET = (SCHOOL.folder / "DATASHEET.md").read_text(encoding="utf-8")
GUIDE = (SCHOOL.folder / "GUIDE.md").read_text(encoding="utf-8")
RAW = read_table(str(SCHOOL.folder / "raw.csv"), Reading(encoding="cp1252"))


@pytest.fixture(scope="module")
def twice():
    with (SCHOOL.folder / "twice.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_raw_file_gives_the_shipped_splits_by_the_commands_of_the_datasheet(tmp_path):
    assert "--encoding cp1252 --held-out 0.25" in SHEET and "--merge-spelling" in SHEET
    made = make_task("school", RAW, "Message", ["Desk"], held_out=0.25)
    write_task(made, "raw.csv", tmp_path / "school")
    cleaned = clean_task(load_task(tmp_path / "school"), merge_spelling=True)
    assert cleaned.task.labels and set(cleaned.task.labels) == set(SCHOOL.labels)
    for split in SPLITS:
        assert [(r["message"], r["target"]) for r in cleaned[split].rows] == [
            (r["message"], r["target"]) for r in ROWS[split]
        ]


def test_nothing_in_the_school_stops_a_training_and_what_the_check_finds_was_read():
    findings = list(check_task(SCHOOL))
    assert not [finding for finding in findings if finding.gate and not finding.ok]
    open_ones = {finding.thing for finding in findings if not finding.ok}
    assert open_ones <= {"test size", "duplicates", "cut off", "language", "labels"}


def test_without_its_encoding_the_kit_guesses_wrong_and_asks():
    guessed = read_table(str(SCHOOL.folder / "raw.csv"))
    assert any("Is this right?" in remark and "Ł14.80" in remark for remark in guessed.remarks)
    assert any("£14.80" in row["Message"] for _, row in RAW.rows)


def test_every_label_stands_in_the_guide_and_in_every_split():
    assert re.findall(r"^\| `(\w+)` \|", GUIDE, re.MULTILINE) and set(
        re.findall(r"^\| `(\w+)` \|", GUIDE, re.MULTILINE)
    ) == set(SCHOOL.labels)
    for split in SPLITS:
        assert {row["target"] for row in ROWS[split]} == set(SCHOOL.labels)
    assert all(f"`{label}`" in GUIDE.split("## Version 2")[1] for label in ("collection", "money", "absence", "health"))


def test_the_datasheet_counts_right(twice):
    for split in SPLITS:
        assert f"| `{split}` | {len(ROWS[split])} |" in SHEET
    assert f"{sum(map(len, ROWS.values()))} messages" in SHEET and f"{len(RAW.rows)} lines" in SHEET
    for version, about in (("1", "version 1"), ("2", "version 2")):
        rows = [row for row in twice if row["guide"] == version]
        first, second = ([row[reader] for row in rows] for reader in ("first", "second"))
        differ = sum(a != b for a, b in zip(first, second, strict=True))
        kappa = cohen_kappa_score(first, second)
        assert re.search(rf"\| {len(rows)} \| {about}[^|]* \| {differ} \| {kappa:.2f} \|", SHEET), version


def test_what_was_settled_is_the_label_of_the_raw_file_and_was_named_by_a_reader(twice):
    raw = {str(row["Nr"]): row for _, row in RAW.rows}
    for row in twice:
        assert row["settled"] == raw[row["Nr"]]["Desk"].strip().lower(), row
        assert row["settled"] in (row["first"], row["second"])
    differing = {row["Nr"] for row in twice if row["first"] != row["second"]}
    named = set(re.findall(r"\d+", " ".join(re.findall(r"\((?:Rows?|row) [^)]*\)", GUIDE))))
    assert named == differing  # each case has become a ruling
