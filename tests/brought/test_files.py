"""The files themselves: they hold what expected.json says, and are the same each time they are made."""

import functools
import hashlib
import json
from collections import Counter

import pytest

from tests.brought import make, readings

EXPECTED = readings.EXPECTED
rows_of = functools.cache(readings.reading)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make.make(tmp_path_factory.mktemp("brought"))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_holds_the_rows_that_are_expected_of_it(name, made):
    expected, rows = EXPECTED[name], rows_of(name, made)
    assert len(rows) == expected["rows"]
    several = set(expected.get("several_turns", {}).get("rows", []))
    aside = {entry["row"] for entry in expected["set_aside"]}
    good = [row for row in rows if row.row not in several | aside]
    assert len(good) == expected["usable"]
    assert all(row.message.strip() and len(row.message) <= 4000 and row.target is not None for row in good)
    assert len({row.message for row in good}) == expected.get("different_messages", len(good))
    assert all(len(rows[number - 1].message) > 2 for number in several)
    for example in expected["examples"]:
        assert rows[example["row"] - 1] == (example["row"], example["message"], example["target"])


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if expected["classes"]])
def test_the_classes_are_counted_rightly(name, made):
    expected = EXPECTED[name]
    aside = {entry["row"] for entry in expected["set_aside"]}
    targets = [row.target for row in rows_of(name, made) if row.row not in aside]
    for field, counts in expected["classes"].items():
        assert Counter(str(target if expected["kind"] == "label" else target[field]) for target in targets) == counts


@pytest.mark.parametrize(("name", "begins"), [("rathaus.csv", "{:04d};"), ("support_tickets.csv", "T-{:06d},")])
def test_the_lines_of_rows_to_set_aside_are_theirs(name, begins, made):
    path = (made if EXPECTED[name]["made"] else make.HERE) / name
    lines = path.read_bytes().decode(EXPECTED[name]["encoding"]).split("\n")
    for entry in [*EXPECTED[name]["set_aside"], *filter(None, [EXPECTED[name].get("may_be_set_aside")])]:
        assert lines[entry["line"] - 1].startswith(begins.format(entry["row"]))


def test_the_tickets_are_the_same_each_time_and_their_faults_are_where_the_sidecar_says(made):
    expected = EXPECTED["support_tickets.csv"]
    path = made / "support_tickets.csv"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == expected["sha256"]
    rows = [None, *rows_of(path.name, made)]
    faults = json.loads(path.with_suffix(".faults.json").read_text(encoding="utf-8"))
    assert {name: len(faults[name]) for name in expected["faults"]} == expected["faults"]
    assert all(rows[a][1:] == rows[b][1:] for a, b in faults["copies"])
    assert all(rows[a].message == rows[b].message and rows[a].target != rows[b].target for a, b in faults["contradictions"])
    assert all(rows[number].target is None for number in faults["blank_queue"])
    assert rows[faults["stray_quote"]].message == make.STRAY
    assert len(rows[faults["very_long"]].message) > make.LONG
    assert sum(map(len, make.parts().values())) > 500


def test_the_readme_has_a_line_for_each_file():
    readme = (make.HERE / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}" in readme for name in EXPECTED)
    assert sum(path.stat().st_size for path in make.HERE.rglob("*") if path.suffix not in (".py", ".pyc")) < 600_000
