"""The Training tab's texts and pictures, from files written by hand."""

import json
import re

import pytest

from ftkit.deployment.training_page import Standing, announce, describe_phase, render_look, render_standing
from ftkit.runs.documents import GLIMPSES, LOG, Live
from ftkit.runs.run import Run

LINE = {"loss": 1.0, "learning_rate": 1e-3, "tokens": 100, "seconds": 2.0}
NOW = {"phase": "training", "step": 20, "steps": 80, "loss": 0.5, "tokens_per_second": 240.0, "seconds_left": 90.0}
NOW |= {"memory_mb": 1100, "planned_mb": 1400, "threads": 2, "validation_loss": 0.6}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def run(tiny_run, tmp_path):
    """A run that is being trained, with a loss log of two lines."""
    record = tiny_run.record.model_copy(update={"status": "training", "training": None})
    record.save(tmp_path)
    write_lines(tmp_path / LOG, [{"step": 10, **LINE, "loss": 4.0}, {"step": 20, **LINE, "tokens": 500}])
    return Run(tmp_path)


def standing(run, phase="training", **more):
    made = Standing(phase=phase, run=run, **more)
    made._read(run)
    return made


def test_the_loss_log_alone_is_enough(run):
    html = render_standing(standing(run))
    assert "Your model is learning: step 20." in html and "250 <small>tokens a second" in html
    assert 'aria-label="Training loss: 4.00 at step 10, 1.00 at step 20."' in html
    assert "progressbar" not in html and "validation" not in html.lower()
    assert re.search(r'<polyline class="trained" points="50.00,13.86 100.00,100.00"', html)  # from 1 to 5, logarithmic


def test_with_live_figures_it_says_how_long_and_how_much(run):
    Live(**NOW).save(run.folder)
    lines = [{"step": 10, **LINE, "loss": 4.0, "validation_loss": 2.0}, {"step": 20, **LINE, "validation_loss": 0.6}]
    write_lines(run.folder / LOG, lines)
    now = standing(run)
    html = render_standing(now)
    for words in (
        "step 20 of 80",
        "1 min 30 s",
        "1.1 GB",
        "at most 1.4 GB planned",
        "240 <small>tokens a second",
        'aria-valuenow="25.0"',
    ):
        assert words in html, words
    assert "Validation loss: 2.00 at step 10, 0.60 at step 20." in html
    assert re.search(r'class="checked" points="12.50,\d+.\d\d 25.00,\d+.\d\d"', html)
    assert announce(now) == "Your model is learning: 25 per cent done."
    write_lines(run.folder / LOG, [*lines, {"step": 30, **LINE}])
    assert announce(standing(run)) == announce(now) and standing(run).version != now.version
    Live(**NOW | {"tokens_per_second": None, "seconds_left": None, "loss": None}).save(run.folder)  # as at its beginning
    assert "at work so far" in render_standing(standing(run))
    Live(**{**NOW, "phase": "evaluating"}).save(run.folder)
    assert "looking at its answers" in describe_phase(standing(run))


def test_a_loss_that_is_no_number_and_files_that_are_broken_do_not_stop_the_page(run):
    write_lines(run.folder / LOG, [{"step": n, **LINE, "loss": float("nan") if n == 2 else 1.0} for n in (1, 2, 3)])
    assert "nan" not in render_standing(standing(run)).split("polyline")[1]
    (run.folder / Live.FILE).write_text("{", encoding="utf-8")
    assert "live.json is not readable as JSON" in render_standing(standing(run))
    (run.folder / LOG).write_text('{"step": "x"}\n', encoding="utf-8")
    assert "a line is broken" in render_standing(standing(run))


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("begin", "the model is loaded"),
        ("elsewhere", "step 20"),
        ("measuring", "5 of 24 answers"),
        ("stopped", "It has stopped. The cat did it. What was learned so far is kept."),
        ("done", "finished"),
    ],
)
def test_each_phase_is_a_sentence(run, phase, words):
    assert words in describe_phase(standing(run, phase, why="The cat did it.", answered=5, messages=24))


def test_a_finished_run_shows_its_whole_training(tiny_run):
    html = render_standing(Standing.of(tiny_run))
    assert "The training is finished." in html and "GB planned" in html and "progressbar" not in html


def test_before_there_is_a_run_it_says_that_it_begins():
    html = render_standing(Standing(phase="begin"))
    assert "begins" in html and "polyline" not in html and "<dl>" not in html


def test_a_look_shows_each_answer_beside_what_it_should_be(run):
    row = run.task.rows("validation")[0]
    target = json.dumps(row["ticket"])
    wrong = json.dumps({**row["ticket"], "intent": "complain<b>${1}"})
    common = {"row": row["id"], "message": row["message"], "target": target}
    answers = ((0, "hello"), (4, wrong), (8, target))
    write_lines(
        run.folder / GLIMPSES, [{"step": step, "seconds": 1.0, **common, "answer": answer} for step, answer in answers]
    )
    looks = standing(run).looks
    assert [step for step, _ in looks] == [0, 4, 8]
    first, second, third = (render_look(run.task, looks, place) for place in range(3))
    assert "Before the first step" in first and "0 of 1 right" in first and "No ticket" in first
    assert "After step 4" in second and "<b>" not in second and "${" not in second and "not allowed here" in second
    assert "1 of 1 right" in third and "✓ right" in third and "should be" not in third
