import json
import re
import statistics
import subprocess
import sys

import psutil
import pytest

from benchmarks import gpu, interference, report
from benchmarks.__main__ import LEVERS, PARTS, in_pairs
from benchmarks.documents import FOLDER, CpuResults, GpuResults, InterferenceResults, LoadResults, LossAt, OnceMore
from benchmarks.interference import Course, busy
from benchmarks.measure import MEASUREMENTS
from ftkit.common.errors import KitError
from ftkit.common.files import read_json, write_json
from ftkit.common.paths import kit_root
from ftkit.common.threads import Threads

RESULTS = CpuResults.load(FOLDER)


def test_the_page_is_what_the_saved_figures_say(tmp_path):
    report.write(tmp_path / "BENCHMARKS.md")
    assert (tmp_path / "BENCHMARKS.md").read_text(encoding="utf-8") == report.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("document", [CpuResults, LoadResults, OnceMore])
def test_a_results_file_is_read_whole_and_another_version_is_refused(document, tmp_path):
    data = read_json(document.path(FOLDER))
    assert document.load(FOLDER).as_data() == data
    write_json(document.path(tmp_path), {**data, "format": 7})
    with pytest.raises(KitError, match=r"is of version 7; this kit reads version 1\. "):
        document.load(tmp_path)


def test_every_part_was_measured_with_machine_date_and_versions():
    measured = [getattr(RESULTS, name) for name in PARTS if getattr(RESULTS, name)]
    assert measured
    for part in measured:
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", part.machine.date) and part.machine.cpu and part.machine.cores
        assert {"torch", "trl", "bitsandbytes"} <= set(part.machine.versions)
    assert set(RESULTS.levers.levers) <= set(LEVERS) | {name for name, word in report.DECISIONS.items() if "dropped" in word}


def test_a_ratio_is_of_five_pairs_at_least():
    for part in (RESULTS.training, RESULTS.generation, RESULTS.stream):
        assert part is None or len(part.ratios) >= 5


def test_the_page_says_whether_the_machine_was_quiet():
    for processes, words in ((0, "no GPU, quiet;"), (2, "no GPU beside 2 busy processes;"), (None, "no GPU;")):
        machine = RESULTS.training.machine.model_copy(update={"busy": processes})
        assert words in report.where_measured(RESULTS.training.model_copy(update={"machine": machine}))


def test_busy_processes_end_with_the_measurement():
    before = set(psutil.Process().children())
    with busy(2):
        others = set(psutil.Process().children()) - before
        assert len(others) == 2
    psutil.wait_procs(others, timeout=10)
    assert not any(other.is_running() and other.status() != psutil.STATUS_ZOMBIE for other in others)


def test_a_course_goes_through_its_states_and_stops_what_it_started(monkeypatch):
    controller = Threads(2, 2)
    monkeypatch.setattr(interference, "shared", lambda: controller)
    before, course = set(psutil.Process().children()), Course([(0, True), (1, True), (0, False)], seconds=0.0, apart=False)
    tokens = 0
    while course.after(tokens):
        tokens += 10
        controller.now = 2 - course.state[0]
        course.watch()
    assert [(state.busy, state.follows, state.tokens) for state in course.done] == [
        (0, True, 10),
        (1, True, 10),
        (0, False, 10),
    ]
    assert [(change.before, change.after, change.threads) for change in course.followed] == [(0, 1, 1), (1, 0, 2)]
    assert all(change.seconds is not None for change in course.followed)
    assert set(psutil.Process().children()) == before


def test_beside_other_programs_enough_of_the_speed_is_left():
    if not InterferenceResults.exists(FOLDER):
        pytest.skip("not measured yet: python -m benchmarks.interference")
    measured = InterferenceResults.load(FOLDER)
    for name, rounds, beside_one in (("training", measured.training, 0.6), ("stream", measured.stream, 0.55)):
        assert len(rounds) >= 3, name
        for busy_programs, least in ((1, beside_one), (2, 0.35)):
            assert statistics.median(report.share_of_quiet(rounds, busy_programs, True)) >= least, (name, busy_programs)
        if len(rounds) >= 5:  # fewer pairs are too noisy to tell a few per cent: 0.86 to 1.08 in the first three
            quiet = zip(*(report.of_state(rounds, 0, follows) for follows in (True, False)), strict=True)
            assert statistics.median(a.tokens_per_second / b.tokens_per_second for a, b in quiet) > 0.97, name
    changes = [change for each in measured.comes_and_goes for change in each.changes]
    assert len(changes) >= 8 and all(change.seconds is not None and change.seconds <= 10 for change in changes)


def test_pairs_have_their_ratios_and_equal_answers():
    plain = [{"rate": 2.0, "answers": ["a", "b"]}, {"rate": 1.0, "answers": ["a", "b"]}]
    kit = [{"rate": 4.0, "answers": ["a", "b", "c"]}, {"rate": 6.0, "answers": ["a", "x", "c"]}]
    comparison = in_pairs(plain, kit, "rate")
    assert comparison["ratios"] == [2.0, 6.0] and comparison["median_ratio"] == 4.0
    assert comparison["equal_answers"] == 0.75 and comparison["kit"] == [{"rate": 4.0}, {"rate": 6.0}]
    single = in_pairs([{"rate": 1.0, "answer": "a"}], [{"rate": 2.0, "answer": "b"}], "rate")
    assert single["equal_answers"] == 0 and "equal_answers" not in in_pairs([{"rate": 1.0}], [{"rate": 2.0}], "rate")


def test_the_time_to_a_loss_lies_between_two_measurements():
    def curve(*losses, pace=1):
        return [LossAt(step=n, seconds=10.0 * n * pace, loss=loss) for n, loss in enumerate(losses, 1)]

    assert report.seconds_to(curve(4.0, 2.0, 1.0), 1.5) == 25.0
    assert report.seconds_to(curve(4.0, 2.0, 1.0), 2.0) == 20.0 and report.seconds_to(curve(4.0, 2.0), 5.0) == 10.0
    with pytest.raises(ValueError, match="not reached"):
        report.seconds_to(curve(4.0, 2.0), 1.0)
    slow = curve(4.0, 2.0, 1.0, pace=3)
    assert report.sooner_at_the_same_loss(slow, curve(4.0, 2.0, 1.0)) == 3.0
    assert report.sooner_at_the_same_loss(slow, curve(4.0, 2.0, 1.5)) == pytest.approx(75 / 30)


@pytest.mark.parametrize("name", ["kit_training", "plain_training"])
def test_a_measurement_runs_and_gives_its_figures(name):
    settings = {"steps": 1, "batch_size": 1, "examples": 2, "rank": 4, "roofline": False}
    settings |= {"validate_every": 1, "validate_rows": 8}
    command = [sys.executable, "-m", "benchmarks.measure", name, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=kit_root(), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])
    assert result["steps"] == 1 and result["tokens"] > 50 and result["peak_memory_mb"] > 500
    (point,) = result["losses"]
    assert (
        point["step"] == 1 and 0 < point["seconds"] <= result["seconds"] + 1 and point["loss"] == result["validation_loss"]
    )


def test_the_gpu_benchmark_runs_every_method(tmp_path, monkeypatch):
    def here(name, **settings):  # a process for each would only take longer
        return {"given": dict(settings), **MEASUREMENTS[name](**settings)}

    monkeypatch.setattr(gpu, "run", here)
    methods = ["plain", "qlora", "lora", "full"]
    common = ["--shapes", "tiny", "--steps", "1", "--profile", "ci", "--folder", str(tmp_path), "--methods"]
    results = gpu.main([*common, *methods])
    assert GpuResults.load(tmp_path) == results
    trainings = results.shapes["tiny"]
    for method in methods:
        assert trainings[method].steps == 1 and trainings[method].tokens_per_second > 0
        assert 8 * 55 <= trainings[method].tokens <= 8 * 156  # 8 of the desk's rows, by every method
    shares = [trainings[method].trainable_parameters for method in ("qlora", "full")]
    assert shares[1] > 3e6 and shares[0] < shares[1]
