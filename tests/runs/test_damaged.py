"""Runs that are damaged, unfinished or moved: each ends in a sentence, and none is passed over without one."""

import importlib
import json
import os
import shutil

import pytest
from typer.testing import CliRunner

from ftkit.common.errors import KitError
from ftkit.data.task import load_task
from ftkit.runs.documents import RunRecord
from ftkit.runs.run import Run, new_run, open_run, passed_over

cli = importlib.import_module("ftkit.cli.main")  # the package lends its name to the function


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder of runs of one's own, empty."""
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("FTKIT_RUNS", str(folder))
    return folder


@pytest.fixture
def finished(tiny_run, runs):
    """A finished run, some time old."""
    run = Run(shutil.copytree(tiny_run.folder, runs / "old"))
    os.utime(run.folder / "run.json", (1, 1))
    return run


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1}', b'{"format": 99}'])
def test_a_damaged_newer_run_is_named_when_an_older_one_is_taken(finished, runs, content):
    (runs / "new").mkdir()
    (runs / "new" / "run.json").write_bytes(content)
    assert open_run().name == "old"
    (said,) = passed_over(finished)
    assert str(runs / "new" / "run.json") in said
    with pytest.raises(KitError, match=r"run\.json"):
        open_run("new")
    done = CliRunner().invoke(cli.app, ["generate", ""])
    assert f"Taking old. {said}" in done.stderr and "must be text and not empty" in str(done.exception)


def test_an_unfinished_newer_run_is_named_with_how_to_go_on(finished, runs, tiny_task, tiny_choice):
    begun = new_run(tiny_task, tiny_choice.profile, "a test")
    assert passed_over(finished) == [f"{begun.name} is not finished. Go on with it: ftkit train {tiny_task.folder}"]
    os.utime(begun.folder / "run.json", (0, 0))  # an old one is no news
    assert passed_over(finished) == []


def test_a_run_may_be_moved_and_a_task_that_was_is_named(finished, tmp_path, tiny_task_folder):
    task = shutil.copytree(tiny_task_folder, tmp_path / "task")
    finished.update(task=finished.record.task.model_copy(update={"folder": str(task)}))
    moved = open_run(shutil.move(finished.folder, tmp_path / "elsewhere"))
    assert moved.finished and moved.task.name == "desk"
    task.rename(tmp_path / "task2")
    with pytest.raises(KitError, match=r"trained on cannot be opened.*is not a task.*write its new place into .*run\.json"):
        _ = moved.task
    record = json.loads(RunRecord.path(moved.folder).read_text(encoding="utf-8"))
    record["task"]["folder"] = str(tmp_path / "task2")  # as the sentence says
    RunRecord.path(moved.folder).write_text(json.dumps(record), encoding="utf-8")
    assert moved.task.name == "desk"


def test_a_log_that_is_no_text_is_a_sentence(finished):
    (finished.folder / "log.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KitError, match=r"log\.jsonl is not UTF-8"):
        finished.log()


def test_names_that_differ_in_case_only_are_two_runs_and_no_name_makes_a_nest(runs, broken_task, tiny_choice):
    from dataclasses import replace

    task = load_task(broken_task)
    folders = {new_run(replace(task, name=name), tiny_choice.profile, "a test").folder for name in ("Mail", "mail", "苦情")}
    assert len(folders) == 3 and all(folder.parent == runs for folder in folders)
    for name in ("Parcels / complaints", "..", "con"):
        with pytest.raises(KitError, match="is no folder's name"):
            new_run(replace(task, name=name), tiny_choice.profile, "a test")
    assert len(list(runs.iterdir())) == 3


def test_a_run_that_cannot_be_written_leaves_no_folder(runs, tiny_task, tiny_choice, monkeypatch):
    def refuse(self, folder):
        folder.mkdir()
        raise KitError("the disk is full")

    monkeypatch.setattr(RunRecord, "save", refuse)
    with pytest.raises(KitError, match="full"):
        new_run(tiny_task, tiny_choice.profile, "a test")
    assert not list(runs.iterdir())


@pytest.mark.parametrize(
    "error", [RuntimeError("unexpected pos 128 vs 22"), KeyboardInterrupt()], ids=["full disk", "Ctrl+C"]
)
def test_a_training_that_could_not_save_is_taken_up_again(runs, tiny_task, tiny_choice, monkeypatch, error):
    from ftkit.training import finetune

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "save_adapter", fail)
        expected = KitError if isinstance(error, RuntimeError) else KeyboardInterrupt
        with pytest.raises(expected) as refused:
            finetune.train(tiny_task, tiny_choice, say=lambda line: None)
    (folder,) = runs.iterdir()
    if expected is KitError:
        assert str(refused.value).startswith(f"{folder}: the disk is full")
    assert not Run(folder).finished and not (folder / "adapter").exists()
    said = []
    assert finetune.train(tiny_task, tiny_choice, say=said.append).folder == folder
    assert "Taking up" in said[0] and Run(folder).finished


class Answering:
    """Answers by the number of the message; fails from the message on that is `failing`."""

    batch_size = 1

    def __init__(self, failing=None):
        self.failing, self.asked = failing, 0

    def answer(self, messages, which):
        self.asked += len(messages)
        if self.failing in messages:
            raise RuntimeError("no more")
        return [f"to {message}" for message in messages]


def test_generate_looks_at_the_output_first_and_keeps_what_it_has(finished, tmp_path, monkeypatch):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"message": f"m{n}"}) + "\n" for n in range(10)))
    answering = Answering()
    monkeypatch.setattr(cli, "_answerer", lambda run: answering)

    def generate(output):
        return CliRunner().invoke(cli.app, ["generate", "old", "--input", str(source), "--output", str(output)])

    for bad in (source / "x", tmp_path):
        assert isinstance(generate(bad).exception, KitError) and answering.asked == 0
    assert generate(output).exit_code == 0 and answering.asked == 10
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert rows == [{"message": f"m{n}", "prediction": f"to m{n}"} for n in range(10)]
    answering.failing = "m6"
    assert isinstance(generate(tmp_path / "more.jsonl").exception, RuntimeError)
    kept = [json.loads(line) for line in (tmp_path / "more.jsonl.part").read_text().splitlines()]
    assert kept == rows[:4] and not (tmp_path / "more.jsonl").exists()
