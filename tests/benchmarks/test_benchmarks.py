import json
import re
import subprocess
import sys

import pytest

from benchmarks import gpu, report
from benchmarks.__main__ import LEVERS, PARTS, RESULTS
from ftkit.common.files import read_json
from ftkit.common.paths import kit_root


def test_the_page_is_what_the_saved_figures_say(tmp_path, monkeypatch):
    committed = report.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(report, "PAGE", tmp_path / "BENCHMARKS.md")
    report.write(RESULTS)
    assert (tmp_path / "BENCHMARKS.md").read_text(encoding="utf-8") == committed


def test_every_part_was_measured_with_machine_date_and_versions():
    results = read_json(RESULTS)
    measured = [name for name in PARTS if name in results]
    assert measured
    for name in measured:
        machine = results[name]["machine"]
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", machine["date"]) and machine["cpu"] and machine["cores"]
        assert {"torch", "trl", "bitsandbytes"} <= set(machine["versions"])
    assert set(results.get("levers", {}).get("levers", {})) <= set(LEVERS)


def test_a_ratio_is_of_five_pairs_at_least():
    results = read_json(RESULTS)
    for name in ("training", "generation", "stream"):
        assert name not in results or len(results[name]["ratios"]) >= 5


def test_the_time_to_a_loss_lies_between_two_measurements():
    def curve(*losses):
        return [{"seconds": 10.0 * n, "loss": loss} for n, loss in enumerate(losses, 1)]

    assert report.seconds_to(curve(4.0, 2.0, 1.0), 1.5) == 25.0
    assert report.seconds_to(curve(4.0, 2.0, 1.0), 2.0) == 20.0 and report.seconds_to(curve(4.0, 2.0), 5.0) == 10.0
    with pytest.raises(ValueError, match="not reached"):
        report.seconds_to(curve(4.0, 2.0), 1.0)
    slow = [{**point, "seconds": 3 * point["seconds"]} for point in curve(4.0, 2.0, 1.0)]
    assert report.sooner_at_the_same_loss(slow, curve(4.0, 2.0, 1.0)) == 3.0
    assert report.sooner_at_the_same_loss(slow, curve(4.0, 2.0, 1.5)) == pytest.approx(75 / 30)


@pytest.mark.parametrize("name", ["kit_training", "plain_training"])
def test_a_measurement_runs_and_gives_its_figures(name):
    given = {"steps": 1, "batch_size": 1, "examples": 2, "rank": 4, "roofline": False, "validate_every": 1}
    command = [sys.executable, "-m", "benchmarks.measure", name, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=kit_root(), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])
    assert result["steps"] == 1 and result["tokens"] > 50 and result["peak_memory_mb"] > 500
    (point,) = result["losses"]
    assert (
        point["step"] == 1 and 0 < point["seconds"] <= result["seconds"] + 1 and point["loss"] == result["validation_loss"]
    )


def test_the_gpu_benchmark_runs_every_method(tmp_path, monkeypatch):
    methods = ["plain", "qlora", "lora", "full"]
    common = ["--shapes", "tiny", "--steps", "1", "--profile", "ci", "--output", str(tmp_path / "gpu.json"), "--methods"]
    results = gpu.main([*common, *methods])
    assert read_json(tmp_path / "gpu.json") == results
    for method in methods:
        assert results["tiny"][method].get("failed") is None
        assert results["tiny"][method]["steps"] == 1 and results["tiny"][method]["tokens_per_second"] > 0
        assert 8 * 55 <= results["tiny"][method]["tokens"] <= 8 * 156  # 8 of the desk's rows, by every method
    shares = [results["tiny"][method]["trainable_parameters"] for method in ("qlora", "full")]
    assert shares[1] > 3e6 and shares[0] < shares[1]
