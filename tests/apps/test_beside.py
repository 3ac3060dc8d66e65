"""A training beside the page: it is watched, it gives way, it is killed and goes on, and its model takes the page over."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import psutil
import pytest

from ftkit.data.task import load_task
from ftkit.deployment.beside import Beside
from ftkit.runs.documents import GLIMPSES, LOG, Mark
from ftkit.runs.run import all_runs
from ftkit.training.finetune import last_checkpoint
from ftkit.training.give_way import go_first
from tests.browser import CHROMIUM

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals as Unix knows them")
STEPS = 400
PAGE = """
import json, sys, time
from ftkit.data.task import load_task
from ftkit.deployment.beside import Beside
Beside(load_task(sys.argv[1]), json.loads(sys.argv[2])).start()
time.sleep(600)
"""


def until(true, seconds=180):
    """Wait until `true()` is; gives what it gave."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return value


def lines_of(run):
    path = run.folder / LOG
    return path.read_text(encoding="utf-8").count("\n") if path.is_file() else 0


def standstill(run):
    """The lines of the log, once none is added for half a second."""
    before = lines_of(run)
    time.sleep(0.5)
    return lines_of(run) == before and before


@pytest.fixture
def arguments(tiny_task_folder, tiny_model, tmp_path, monkeypatch):
    """What `ftkit train` is given; the runs lie in a folder of their own."""
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    return [str(tiny_task_folder), "--model", str(tiny_model), "--profile", "cpu", "--steps", str(STEPS)]


@pytest.fixture
def ended():
    """Ends what a test that failed would leave."""
    with ExitStack() as stack:
        yield stack


def test_killed_pages_and_trainings_lose_nothing_and_the_page_turns_to_the_trained_model(
    arguments, demo, ticket_run, browser_or_none, ended, capsys
):
    task = load_task(arguments[0])
    kill_both(task, arguments)
    run, checkpoint = kill_the_page(task, arguments)
    beside = Beside(task, arguments, rows=4)
    served = demo.launch(ticket_run, block=False, beside=beside)
    ended.callback(served.close)
    ended.callback(beside.stop)
    until(lambda: beside.phase == "training" and beside.run.log() and beside.run.log()[-1].step > checkpoint)
    assert beside.run == run and f"Going on after step {checkpoint}." in beside.log.read_text()
    page = None
    with go_first(beside.folder):  # as while a message is answered: the training waits, on a fast machine too
        at = until(lambda: standstill(run))
        if browser_or_none:
            page = Visitor(browser_or_none, served)
            page.steps_through_what_it_learned(run)
            until(lambda: page.step() == run.log()[-1].step)
        assert lines_of(run) <= at + 1  # of the step that was under way
    if page:
        page.lets_a_message_be_answered()
    until(lambda: lines_of(run) > at)
    with go_first(beside.folder):
        if page:
            until(lambda: page.step() == run.log()[-1].step)
        kill_the_training(beside)
    if page:
        page.page.locator("#go-on").click()
    else:
        beside.start()
    until(lambda: beside.phase == "done")
    said = capsys.readouterr().out
    assert "ended from outside (signal 9)" in said and "has a button that shows it" in said
    assert run.finished and run.is_evaluated and [one.folder for one in all_runs()] == [run.folder]
    assert run.log()[-1].step == STEPS and [e.step for e in run.log()] == sorted({e.step for e in run.log()})
    if page:
        page.turns_to_the_trained_model(run)


def kill_both(task, arguments):
    """Kill a page and its training at the same moment, as when a laptop's power fails: neither can save anything more."""
    page = started(task, arguments)
    try:
        run = until(lambda: next(iter(all_runs()), None))
        until(lambda: last_checkpoint(run))
        (training,) = psutil.Process(page.pid).children()
        training.kill()
    finally:
        page.kill()
        page.wait()
    until(lambda: not run.is_claimed)  # its other threads may end after its first
    assert not run.finished and last_checkpoint(run)


def kill_the_page(task, arguments):
    """Kill a page in the midst of a training: that saves a checkpoint and ends. Gives the run and the checkpoint's step.

    The training is the one that was killed before, and has gone on.
    """
    (run,) = all_runs()
    before = last_checkpoint(run)
    page = started(task, arguments)
    try:
        until(lambda: last_checkpoint(run) != before)
        (training,) = psutil.Process(page.pid).children()
    finally:
        page.kill()
        page.wait()
    until(lambda: not training.is_running() or training.status() == psutil.STATUS_ZOMBIE)
    assert not run.finished and not run.is_claimed and [one.folder for one in all_runs()] == [run.folder]
    saved = last_checkpoint(run)
    assert Mark.load(saved).tokens == run.log()[-1].tokens  # of the very step at which it stopped
    return run, int(saved.name.split("-")[1])


def started(task, arguments):
    return subprocess.Popen([sys.executable, "-c", PAGE, str(task.folder), json.dumps(arguments)])


def kill_the_training(beside):
    step = beside.run.log()[-1].step
    beside._process.send_signal(signal.SIGKILL)
    until(lambda: beside.phase == "stopped")
    assert beside.run.log()[-1].step >= step and last_checkpoint(beside.run)


class Visitor:
    """Somebody who looks at the page in a browser."""

    def __init__(self, browser, served):
        self.page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
        self.page.set_default_timeout(60_000)
        self.page.goto(served.local_url)
        self.page.get_by_text("This is the kit's own model").wait_for()
        self.tab("Training")

    def tab(self, name):
        self.page.get_by_role("tab", name=name).click()

    def step(self):
        words = self.page.locator("#now .phase").inner_text()
        return int(found[1]) if (found := re.search(r"step (\d+)", words)) else 0

    def lets_a_message_be_answered(self):
        self.tab("Compare")
        message = self.page.get_by_label("Message").first
        message.fill("A table for four on friday at eight please, one of us cannot eat nuts.")
        self.page.get_by_role("button", name="Answer", exact=True).click()
        self.tab("Training")
        self.page.wait_for_function("/finished|cut off/.test(document.querySelector('#tuned-measures').textContent)")

    def steps_through_what_it_learned(self, run):
        rows = run.task.rows("validation")[:3]
        seen = [
            {"step": step, "seconds": 1.0, "row": row["id"], "message": row["message"], "target": json.dumps(row["ticket"])}
            | {"answer": json.dumps(row["ticket"]) if step == 20 else "Sure!"}
            for step in (0, 10, 20)
            for row in rows
        ]
        (run.folder / GLIMPSES).write_text("".join(json.dumps(one) + "\n" for one in seen), encoding="utf-8")
        look = self.page.locator("#look")
        look.get_by_text("3 of 3 right").wait_for()
        slider = self.page.locator("#place input[type=range]")
        slider.focus()
        slider.press("Home")
        look.get_by_text("Before the first step").wait_for()
        assert "0 of 3 right" in look.inner_text() and "No ticket" in look.inner_text()
        self.page.wait_for_function("document.querySelector('#training-said').innerText.includes('Step 0: 0 of 3 right')")

    def turns_to_the_trained_model(self, run):
        self.page.locator("#show").click()
        self.page.get_by_text("This is your model").wait_for()
        assert run.name in self.page.locator("#heading").inner_text()
        assert not self.page.locator("#show").is_visible()
        self.tab("Evaluation")
        assert run.name in self.page.frame_locator("iframe.report").locator("h1").inner_text()
        self.tab("Compare")
        self.page.get_by_role("button", name="Where it is wrong").wait_for()
        self.page.get_by_role("button", name="Answer", exact=True).click()
        self.page.wait_for_function("/finished|cut off/.test(document.querySelector('#tuned-measures').textContent)")


@pytest.fixture
def browser_or_none(request):
    return request.getfixturevalue("browser") if CHROMIUM else None
