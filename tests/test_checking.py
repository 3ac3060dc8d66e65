import json
import random
import re
import time

import pytest

from ftkit.checking import Checked, check_task, similar_pairs, suspicious
from ftkit.tasks import load_task
from tests.test_cli import ftkit, refused


def findings(folder):
    return {finding.thing: finding for finding in check_task(load_task(folder), thorough=False)}


def edit(folder, split, change):
    path = folder / f"{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


@pytest.mark.parametrize("name", ["desk", "desk-2000"])
def test_the_kits_tasks_pass_the_gate(name):
    for thing, finding in findings(name).items():
        assert finding.ok or not finding.gate, (thing, finding.cases)


def test_equal_and_nearly_equal_messages_in_a_split_are_duplicates(broken_task):
    def change(rows):
        rows[5]["message"] = rows[0]["message"].upper() + "!!"
        rows[6]["message"] = rows[1]["message"].replace("the", "teh", 1) + " x"

    rows = edit(broken_task, "train", change)
    duplicates = findings(broken_task)["duplicates"]
    assert not duplicates.ok and not duplicates.gate
    assert f"{rows[0]['id']} = {rows[5]['id']}" in duplicates.cases
    assert f"{rows[1]['id']} ~ {rows[6]['id']}" in duplicates.cases
    assert len(duplicates.cases) == 2
    assert findings(broken_task)["leakage"].ok


def test_every_near_duplicate_is_found_that_comparing_all_pairs_finds(broken_task):
    def change(rows):
        for i in range(20):
            words = rows[i]["message"].split()
            rows[20 + i]["message"] = " ".join([*words[: i % len(words)], "hm", *words[i % len(words) :]])

    edit(broken_task, "train", change)
    checked = Checked.of(load_task(broken_task))
    _, near = similar_pairs(checked)

    def shingles(text):
        text = re.sub(r"\W+", " ", text.casefold()).strip()
        return {text[i : i + 5] for i in range(max(1, len(text) - 4))}

    sets = [(name, shingles(message)) for _, name, message in checked.messages()]
    expected = {
        (a, b) for i, (a, x) in enumerate(sets) for b, y in sets[i + 1 :] if len(x & y) / len(x | y) >= 0.7 and x != y
    }
    found = {(a, b) for a, b, _ in near}
    assert found <= expected
    assert len(expected) >= 15 and len(found) >= 0.95 * len(expected)


def test_a_test_message_in_training_stops_the_training(broken_task, tmp_path):
    stolen = json.loads((broken_task / "test.jsonl").read_text(encoding="utf-8").splitlines()[3])
    edit(broken_task, "train", lambda rows: rows.append({**stolen, "id": "stolen"}))
    leakage = findings(broken_task)["leakage"]
    assert not leakage.ok and leakage.gate and leakage.cases == (f"stolen = {stolen['id']}",)
    done = ftkit("task", "check", broken_task)
    assert done.returncode == 1 and "[fix] leakage" in done.stdout and "stolen" in done.stdout
    refused(ftkit("train", broken_task, "-p", "ci", FTKIT_RUNS=str(tmp_path / "runs")), "leakage", "stolen", "task check")
    assert not (tmp_path / "runs").exists()


def test_rows_that_do_not_fit_are_shown_and_stop(broken_task):
    edit(broken_task, "train", lambda rows: rows[3]["ticket"].update(urgency="urgent"))
    rows = findings(broken_task)["rows"]
    assert not rows.ok and rows.gate and "train.jsonl, line 4" in rows.cases[0] and "47 train" in rows.found
    (broken_task / "test.jsonl").write_text("")
    assert any("test.jsonl is empty" in case for case in findings(broken_task)["rows"].cases)


def test_personal_data_is_pointed_at(broken_task):
    def change(rows):
        rows[0]["message"] = "mail me: jo.smith@example.com"
        rows[1]["message"] = "ring 07700 900 123 after six"
        rows[2]["message"] = "we were 8 on 14/06/2025 at 19:30, paid £1200.50"

    rows = edit(broken_task, "train", change)
    cases = findings(broken_task)["personal data"].cases
    assert f"{rows[0]['id']}: e-mail address" in cases and f"{rows[1]['id']}: phone number" in cases
    assert not any(case.startswith(rows[2]["id"]) for case in cases)


def test_balance_names_the_rarest_and_the_most_frequent_value(tiny_task_folder):
    lines = [f.found for f in check_task(load_task(tiny_task_folder)) if f.thing == "balance"]
    assert [line.split(":")[0] for line in lines] == ["intent", "urgency"]


def test_wrong_labels_are_among_the_first_suspects():
    rows = load_task("desk").rows("train")
    labels = [row["ticket"]["intent"] for row in rows]
    names = sorted(set(labels))
    rng = random.Random(5)
    wrong = rng.sample(range(len(rows)), 50)
    for i in wrong:
        labels[i] = rng.choice([name for name in names if name != labels[i]])
    suspects = [i for i, _, _ in suspicious([row["message"] for row in rows], labels)]
    assert len(set(suspects[: len(rows) // 5]) & set(wrong)) >= 0.7 * len(wrong)
    assert len(suspects) < len(rows) // 2


def test_a_row_longer_than_the_profile_takes_is_shown(tiny_task, tiny_choice):
    lengths = {}
    for limit in (100, 1000):
        profile = tiny_choice.profile.with_changes(max_length=limit)
        (lengths[limit],) = [f for f in check_task(tiny_task, profile=profile) if f.thing == "lengths"]
    assert lengths[1000].ok and "0 over 1000" in lengths[1000].found
    assert not lengths[100].ok and lengths[100].cases[0].endswith("tokens")


def test_the_whole_check_answers_in_under_a_minute():
    began = time.monotonic()
    done = ftkit("task", "check", "desk-2000", "--cases", "2")
    assert done.returncode == 0, done.stdout
    for line in ("[ok]  leakage", "labels of 'intent'", "tokens in the middle", "more (--cases"):
        assert line in done.stdout
    assert time.monotonic() - began < 60
