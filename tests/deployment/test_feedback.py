import json
import multiprocessing
import os
from pathlib import Path

import pytest

from ftkit.common.errors import KitError
from ftkit.data.task import load_task
from ftkit.deployment.feedback import FeedbackFile, add_feedback, feedback_entry, feedback_files, rows_of_feedback
from ftkit.runs.run import Run
from tests.command import ftkit

TICKET = {"intent": "book", "urgency": "normal", "guests": 4, "day": "friday", "time": "20:00", "allergens": ["nuts"]}
RUN = Run(Path("a-run"))


@pytest.fixture
def task(broken_task):
    return load_task(broken_task)


def entry(of, message, target=TICKET, **changes):
    return feedback_entry(RUN, of, message, "{}", target, "corrected") | changes


def lines(file):
    return [json.loads(line) for line in file.path.read_text(encoding="utf-8").splitlines()]


def keep_many(folder, number):
    for i in range(20):
        FeedbackFile(folder, file_bytes=4000).keep({"id": f"{number}-{i}", "text": "é\n\u2028" * 20})


def test_entries_of_many_processes_stand_whole_in_the_files_each_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=keep_many, args=(tmp_path, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    names, files = [], feedback_files(tmp_path)
    for path in files:
        assert path.stat().st_size <= 4000
        names += [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert len(files) > 2
    assert sorted(names) == sorted(f"{n}-{i}" for n in range(3) for i in range(20))


def test_when_all_is_full_nothing_is_lost_and_the_next_one_is_told(tmp_path):
    file = FeedbackFile(tmp_path, file_bytes=100, files=3)
    kept = 0
    with pytest.raises(KitError, match="No more feedback is taken"):
        for kept in range(20):
            file.keep({"id": kept, "text": "x" * 40})
    found = [json.loads(line)["id"] for path in feedback_files(tmp_path) for line in path.read_text().splitlines()]
    assert sorted(found) == list(range(kept)) and kept >= 3


def test_half_a_line_of_a_killed_process_spoils_no_other(tmp_path):
    file = FeedbackFile(tmp_path)
    file.keep({"id": 1})
    with file.path.open("a") as handle:
        handle.write('{"id": 2, "te')
    file.keep({"id": 3})
    assert file.path.read_text().splitlines() == ['{"id": 1}', '{"id": 2, "te', '{"id": 3}']


@pytest.mark.skipif(os.name == "nt", reason="modes as Unix knows them")
def test_only_the_owner_reads_what_strangers_wrote(tmp_path):
    file = FeedbackFile(tmp_path)
    file.keep({"id": 1})
    assert file.path.stat().st_mode & 0o077 == 0


def test_what_does_not_fit_the_task_is_not_kept(task):
    with pytest.raises(KitError, match="Please look again: field 'guests': 0 is not a whole number"):
        entry(task, "hello", {**TICKET, "guests": 0})
    with pytest.raises(KitError, match="This answer cannot be right"):
        feedback_entry(RUN, task, "hello", "I am sorry", None, "right")
    with pytest.raises(KitError, match="The message: it must be text"):
        entry(task, " ")
    made = entry(task, "hello there")
    assert set(made) == {"id", "time", "run", "task", "verdict", "message", "answer", "target"}


def test_feedback_becomes_training_rows_and_every_refusal_has_its_reason(task, tmp_path):
    test, train = task.rows("test")[0], task.rows("train")[0]
    fresh = "Could we have the window seats this friday at 8 in the evening, four of us, one with a nut allergy?"
    entries = [
        entry(task, fresh),
        entry(task, test["message"]),
        entry(task, test["message"] + " Thanks!!"),
        entry(task, train["message"]),
        entry(task, fresh.upper(), {**TICKET, "guests": 5}),
        entry(task, "call me on 020 7946 0018 about the booking for four"),
        entry(task, "another one of these", task="other"),
        entry(task, "a ticket with a wrong day", target=TICKET) | {"target": {**TICKET, "day": "someday"}},
    ]
    path = tmp_path / "feedback.jsonl"
    text = "".join(json.dumps(e) + "\n" for e in [*entries, entries[0]]) + '{"oops\n[1]\n'
    path.write_text(text, encoding="utf-8")
    added = rows_of_feedback(task, [path])
    assert [row["message"] for row in added.rows] == [fresh]
    reasons = {refused["where"].split()[-1]: refused["reason"] for refused in added.refused}
    assert len(added.refused) == 10 and set(reasons) == set(map(str, range(2, 12)))
    for number, words in {
        "2": f"equals {test['id']} of the test split",
        "3": f"nearly equals {test['id']} of the test split",
        "4": f"equals {train['id']} of the train split",
        "5": "of the feedback, with another answer",
        "6": "phone",
        "7": "belongs to the task 'other'",
        "8": "'ticket.day'",
        "9": "the same entry stands earlier",
        "10": "not JSON",
        "11": "not an entry",
    }.items():
        assert words in reasons[number], (number, reasons[number])

    before = (task.folder / "train.jsonl").read_bytes()
    add_feedback(task, added, tmp_path / "more")
    more = load_task(tmp_path / "more")
    assert more.rows("train")[:-1] == task.rows("train") and more.rows("train")[-1][task.target] == TICKET
    assert more.rows("test") == task.rows("test") and (task.folder / "train.jsonl").read_bytes() == before
    assert len((tmp_path / "more" / "feedback_refused.jsonl").read_text().splitlines()) == 10
    add_feedback(task, added)
    assert len(task.rows("train")) == len(more.rows("train"))
    again = rows_of_feedback(task, [path])  # what has been added is not added twice
    assert not again.rows
    with pytest.raises(KitError, match="no row to add"):
        add_feedback(task, again)


def test_the_gate_stops_a_task_that_leaks_already(task, tmp_path):
    leak = task.rows("test")[3]
    with (task.folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(leak) + "\n")
    before = (task.folder / "train.jsonl").read_bytes()
    path = tmp_path / "feedback.jsonl"
    path.write_text(json.dumps(entry(task, "Four of us would like the terrace on friday, no nuts please")) + "\n")
    added = rows_of_feedback(task, [path])
    for to in (None, tmp_path / "more"):
        with pytest.raises(KitError, match=r"leakage: .* Nothing was written"):
            add_feedback(task, added, to)
    assert (task.folder / "train.jsonl").read_bytes() == before and not (tmp_path / "more").exists()


def test_the_command_says_what_it_did(task, tmp_path):
    path = tmp_path / "feedback.jsonl"
    rows = [entry(task, "Four of us would like the terrace on friday, no nuts please"), entry(task, "x y", task="other")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["task", "add-feedback", task.folder, path]
    done = ftkit(*command, "--to", tmp_path / "more")
    assert done.returncode == 0, done.stderr
    assert "line 2 refused: it belongs to the task 'other'" in done.stdout and "1 row(s) to add, 1 refused" in done.stdout
    for wrong, words in ((command, "Say where"), ([*command[:-1], "nowhere", "--in-place"], "is no file of feedback")):
        done = ftkit(*wrong)
        assert done.returncode == 2 and done.stderr.startswith("ftkit: ") and words in done.stderr
