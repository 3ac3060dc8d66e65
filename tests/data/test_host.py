"""The host's conversations: what the guide says about them holds."""

import re
from collections import Counter

from ftkit.data.task import load_task
from ftkit.evaluation.metrics.expectations import unmet

HOST = load_task("host")
ROWS = {split: HOST.rows(split) for split in ("train", "validation", "test")}
TRAPS = {"refers_back", "changes_mind", "cannot_know", "role", "off_topic", "danger"}


def answers(row):
    return [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]


def test_the_splits_are_what_the_datasheet_says():
    assert {split: len(rows) for split, rows in ROWS.items()} == {"train": 460, "validation": 40, "test": 60}
    said = Counter(split for split, rows in ROWS.items() for row in rows for _ in answers(row))
    assert said == {"train": 1255, "validation": 101, "test": 152}
    for rows in ROWS.values():
        traps = Counter(row["trap"] for row in rows)
        assert set(traps) == {None, *TRAPS} and min(traps.values()) >= 0.08 * len(rows)
        assert all(2 <= len(row["messages"]) <= 12 for row in rows)


def test_what_pip_writes_keeps_to_the_guide():
    for rows in ROWS.values():
        for row in rows:
            for text in answers(row):
                assert 1 <= len(text.split()) <= 58, row["id"]
                assert not re.search(r"[\U0001F300-\U0001FAFF\u2600-\u27BF]", text), row["id"]  # no emoji
                assert not re.search(r"^\s*[-*•]", text, re.MULTILINE), row["id"]  # no lists


def test_every_written_answer_meets_its_own_expectations():
    judged = 0
    for split in ("validation", "test"):
        for row in ROWS[split]:
            for expect, text in zip(row["expect"], answers(row), strict=True):
                assert unmet(expect, text) == [], (row["id"], text)
                judged += any(expect.values())
    assert judged == 251  # all but one turn of small talk in each split


def test_prices_in_answers_are_those_of_the_sheet():
    """A dish that is named right before a price has the sheet's price, or half of it."""
    sheet = (HOST.folder / "SHEET.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+?) \| ([\d.]+) \|", sheet, re.M)
    prices = {name.split(" with ")[0].split(" (")[0]: float(price) for name, price in rows}
    assert len(prices) == 14
    wrong = []
    for rows in ROWS.values():
        for row in rows:
            for text in answers(row):
                for name, price in prices.items():
                    for said in re.findall(rf"\b{name} is (\d+(?:\.\d\d)?) pounds", text):
                        if float(said) not in (price, price / 2):
                            wrong.append((row["id"], text))
    assert not wrong
