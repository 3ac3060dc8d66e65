import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import FTKIT, core_seconds, ftkit, ftkit_alone, refused


@pytest.fixture(scope="module")
def runs(tiny_run):
    """The tiny run as the command line finds it."""
    return str(tiny_run.folder.parent)


def test_help_answers_in_under_a_second():
    ftkit_alone("--help")  # files in the system's cache
    began = core_seconds()
    done = ftkit_alone("--help")
    assert core_seconds() - began < 1
    for command in ("doctor", "train", "evaluate", "demo", "generate"):
        assert command in done.stdout


def test_the_import_takes_under_a_third_of_a_second():
    code = "import time; t = time.perf_counter(); import ftkit; print(time.perf_counter() - t)"
    took = min(float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout) for _ in range(3))
    assert took < 0.3


def test_the_doctor_has_a_line_a_thing():
    done = ftkit("doctor")
    lines = [line for line in done.stdout.splitlines() if line.startswith(("[ok] ", "[fix]"))]
    things = ["Python", "torch", "device", "threads", "bitsandbytes", "model", "disk", "port", "versions"]
    assert [line[5:].split()[0] for line in lines] == things
    assert (done.returncode == 0) == all(line.startswith("[ok]") for line in lines)


def test_the_doctor_names_the_fix(monkeypatch):
    import ftkit.cli.doctor as doctor

    monkeypatch.setattr(doctor, "NEEDED_DISK_GB", 10**9)
    (disk,) = [finding for finding in doctor.examine() if finding.thing == "disk"]
    assert not disk.ok and "-> Free" in str(disk) and str(disk).startswith("[fix] disk")

    def broken():
        raise ImportError("no such library")

    broken.__name__ = "_bitsandbytes"
    monkeypatch.setattr(doctor, "_bitsandbytes", broken)
    (line,) = [finding for finding in doctor.examine() if finding.thing == "bitsandbytes"]
    assert not line.ok and "no such library" in line.text


def test_bad_tasks_are_refused_in_one_line(broken_task, tmp_path):
    began = core_seconds()
    refused(ftkit_alone("train", tmp_path, FTKIT_RUNS=str(tmp_path)), "is not a task", "The kit's own: desk")
    assert core_seconds() - began < 2  # nothing heavy was imported
    (broken_task / "train.jsonl").write_text('{"message": "hi"}\n', encoding="utf-8")
    refused(ftkit("train", broken_task, FTKIT_RUNS=str(tmp_path)), "train.jsonl, line 1, field 'ticket': it is missing")
    (broken_task / "train.jsonl").write_text("{oops\n", encoding="utf-8")
    refused(ftkit("train", broken_task, FTKIT_RUNS=str(tmp_path)), "train.jsonl, line 1: not JSON")
    (broken_task / "train.jsonl").write_text("", encoding="utf-8")
    refused(ftkit("train", broken_task, FTKIT_RUNS=str(tmp_path)), "train.jsonl is empty")
    assert not list(tmp_path.glob("*/run.json"))


def test_a_wrong_profile_is_refused_in_one_line(tmp_path):
    refused(ftkit("train", "--profile", "gpu", FTKIT_RUNS=str(tmp_path)), "no profile 'gpu'", "cpu, ci, t4, big")
    refused(ftkit("train", FTKIT_PROFILE="gpu", FTKIT_RUNS=str(tmp_path)), "no profile 'gpu'")
    assert not list(tmp_path.iterdir())


def test_without_a_run_of_ones_own_the_kits_answers_and_says_so(tmp_path):
    done = ftkit("generate", "a table for two on friday at 8 please", FTKIT_RUNS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "no finished run of your own" in done.stderr and "ftkit train" in done.stderr
    assert json.loads(done.stdout)["guests"] == 2


def test_generate_answers_one_message(runs, answerer, tiny_run):
    message = "a table for two on friday please"
    done = ftkit("generate", message, FTKIT_RUNS=runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == answerer.answer([message])[0].strip()
    by_base = ftkit("generate", tiny_run.name, message, "--base", FTKIT_RUNS=runs)
    assert by_base.stdout.strip() == answerer.answer([message], "base")[0].strip()


def test_generate_adds_a_prediction_to_each_row_of_a_file(runs, answerer, tmp_path):
    rows = [{"id": 1, "message": "table for 2"}, {"id": 2, "message": "we lost a hat on friday", "note": "é"}]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = ftkit("generate", "--input", source, "--output", target, "--base", FTKIT_RUNS=runs)
    assert done.returncode == 0, done.stderr
    written = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [{k: v for k, v in row.items() if k != "prediction"} for row in written] == rows
    assert [row["prediction"] for row in written] == answerer.answer([row["message"] for row in rows], "base")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"message": "a"}\n{"text": "b"}\n', ["in.jsonl, line 2, field 'message': it is missing"]),
        ('{"message": "a"}\n{oops\n', ["in.jsonl, line 2: not JSON"]),
        ("", ["in.jsonl is empty"]),
        (json.dumps({"message": "x" * 20_000}), ["line 1, field 'message': it has 20,000 characters", "shorten it"]),
        (b"\xff\xfe\x00\x01", ["not UTF-8"]),
        (None, ["in.jsonl is missing"]),
    ],
)
def test_bad_input_leaves_no_output(runs, tmp_path, content, words):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    if content is not None:
        source.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(ftkit("generate", "--input", source, "--output", target, FTKIT_RUNS=runs), *words)
    assert {p.name for p in tmp_path.iterdir()} <= {"in.jsonl"}


def test_a_message_of_20000_characters_is_refused(runs):
    refused(ftkit("generate", "x" * 20_000, FTKIT_RUNS=runs), "20,000 characters, at most 2,000")


def test_generate_wants_a_message_or_a_file(runs):
    refused(ftkit("generate", FTKIT_RUNS=runs), "Give one message")
    refused(ftkit("generate", "a", "table", "for two", FTKIT_RUNS=runs), "in quotes")
    refused(ftkit("generate", "nowhere", "hello", FTKIT_RUNS=runs), "nowhere is not a run")
    refused(ftkit("generate", "--input", "a.jsonl", FTKIT_RUNS=runs), "go together")


def test_train_and_evaluate_from_the_command_line(tiny_model, tiny_task_folder, tmp_path):
    trained = ftkit_alone("train", tiny_task_folder, "--model", tiny_model, "-p", "ci", FTKIT_RUNS=str(tmp_path))
    assert trained.returncode == 0, trained.stderr
    assert "Profile ci: asked for by argument" in trained.stdout
    assert "step    6 of 6" in trained.stdout and "left" in trained.stdout
    evaluated = ftkit("evaluate", "--limit", 4, FTKIT_RUNS=str(tmp_path))
    assert evaluated.returncode == 0, evaluated.stderr
    assert "the first 4 of" in evaluated.stdout and "exact match" in evaluated.stdout
    for noise in ("Warning", "Failed to load"):
        assert noise not in trained.stderr + evaluated.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals as Unix knows them")
def test_a_verdict_from_the_command_line(broken_task, tmp_path):
    done = ftkit("verdict", broken_task, "--quick", FTKIT_RUNS=str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    for words in (
        "Left out: frozen encoder and fine-tuned encoder",
        "[3/3] TF-IDF",
        "the whole answer",
        "With plots and the rule",
    ):
        assert words in done.stdout
    page = re.search(r"With plots and the rule: (.+)", done.stdout)[1]
    assert Path(page).read_text(encoding="utf-8").startswith("<!doctype html>")
    row = (broken_task / "test.jsonl").read_text(encoding="utf-8").splitlines()[0]
    with (broken_task / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(row + "\n")
    assert refused(ftkit("verdict", broken_task, FTKIT_RUNS=str(tmp_path / "runs")), "leakage", "ftkit task check")


def test_an_interrupted_training_says_how_to_go_on(tiny_model, tiny_task_folder, tmp_path):
    arguments = ["train", str(tiny_task_folder), "--model", str(tiny_model), "-p", "cpu"]
    process = subprocess.Popen(
        [*FTKIT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"FTKIT_RUNS": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for line in process.stdout:
        if "Fine-tuning" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "continues from the last checkpoint" in errors and "Traceback" not in errors


def test_what_the_demo_opens_with_and_what_runs_beside_it(tiny_run, tmp_path, monkeypatch):
    from ftkit.cli.main import _open_or_train
    from ftkit.common.paths import kit_root
    from ftkit.common.profiles import read_profiles
    from ftkit.data.task import load_task
    from ftkit.runs.documents import Evaluation, TaskOfRun
    from ftkit.runs.run import Run

    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path))
    opened, beside = _open_or_train("ci", False)
    assert opened.is_reference and beside.run is None and beside.arguments == ["desk", "--profile", "ci"]
    task = TaskOfRun(name="desk", folder="desk", fingerprint=load_task("desk").fingerprint())
    tiny_run.record.model_copy(update={"task": task, "profile": read_profiles()["ci"]}).save(tmp_path / "mine")
    mine = Run(tmp_path / "mine")
    opened, beside = _open_or_train("ci", False)  # only to be measured
    assert opened == mine and beside.run == mine and beside.rows == mine.profile.demo_test_rows
    Evaluation.load(kit_root() / "data" / "reference_run").save(mine.folder)
    assert _open_or_train("ci", False) == (mine, None)
    opened, beside = _open_or_train("ci", True)
    assert opened.is_reference and beside.run is None and "--fresh" in beside.arguments
