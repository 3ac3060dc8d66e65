import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from ftkit.common import console, threads
from ftkit.common.errors import KitError
from ftkit.common.threads import CALM, LONGEST, Reading, Threads, following_load, look, quota
from ftkit.evaluation.answer import BASE, TUNED


def after(controller, others, seconds=10.0, step=0.5, polite=0.0):
    """The number of threads after so many seconds beside others that take so many cores."""
    for _ in range(round(seconds / step)):
        number = controller.follow(step, others, polite)
    return number


@pytest.fixture
def scripted(monkeypatch):
    """A controller of two threads in the place of the process's own; the load is what `load` holds: cores, or None."""
    controller, load, clock = Threads(2, 2), [0.0], [0.0]
    own = torch.get_num_threads()

    def read():
        clock[0] += 1.0
        before = controller._window
        return Reading(before.wall + 1.0, before.own + 1.0, before.idle + 2.0 - 1.0 - load[0], before.nice)

    monkeypatch.setattr(controller, "_read", read)
    monkeypatch.setattr(controller, "_cpus", [0, 1])
    monkeypatch.setattr(threads, "WINDOW", -1e9)  # every look reads
    monkeypatch.setattr(threads, "shared", lambda: controller)
    monkeypatch.setattr(threads, "BREAK", 1e9)
    controller.load, controller._due = load, 0.0
    yield controller
    torch.set_num_threads(own)


def test_a_thread_goes_at_once_and_comes_back_after_a_calm():
    controller = Threads(2, 2)
    assert after(controller, 0.1) == 2
    assert controller.follow(0.5, 0.8) == 1  # a program that takes a core gets two thirds of one beside two threads
    assert after(controller, 1.0) == 1
    assert after(controller, 0.05, seconds=CALM - 0.5) == 1 and controller.follow(0.5, 0.05) == 2


@pytest.mark.parametrize(
    ("cores", "others", "number"),
    [(2, 0.3, 2), (2, 0.4, 1), (2, 3.0, 1), (4, 1.0, 3), (8, 2.2, 6), (8, 0.1, 8), (8, 9.0, 1)],
)
def test_so_many_threads_as_others_leave_cores(cores, others, number):
    assert after(Threads(cores, cores), others) == number


def test_between_the_two_borders_the_number_stays_as_it_is():
    few, all_of_them = Threads(2, 2), Threads(2, 2)
    few.follow(0.5, 1.0)
    assert after(few, 0.28, seconds=60) == 1 and after(all_of_them, 0.28, seconds=60) == 2


def test_cores_that_no_thread_uses_are_there_for_others():
    assert after(Threads(2, 8), 5.0) == 2 and after(Threads(2, 8), 7.0) == 1


def test_a_rise_that_was_wrong_makes_the_next_one_wait_longer():
    controller, rises = Threads(2, 2), 0
    for _ in range(240):  # two minutes beside something that shows only when all threads are at work
        before = controller.now
        rises += controller.follow(0.5, 0.9 if before == 2 else 0.0) > before
    assert 3 <= rises <= 7
    assert after(controller, 0.0, seconds=2 * LONGEST) == 2
    controller.follow(0.5, 1.0)
    assert after(controller, 0.0, seconds=CALM) == 2  # the last rise held: the wait is short again


def test_programs_of_low_priority_stop_no_rise():
    controller = Threads(2, 2)
    controller.follow(0.5, 1.0)
    assert after(controller, 1.0) == 1 and after(controller, 1.0, seconds=CALM, polite=1.0) == 2
    assert after(controller, 0.1, polite=0.1) == 2  # beside as many threads as cores they get little


def test_what_other_programs_take_is_read_from_the_machines_clocks():
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for _ in range(20):  # a program needs a while to begin where many want the cores
            controller = Threads(2, 2)
            time.sleep(0.5)
            seconds, others, _ = threads._load(controller._window, controller._read(), len(controller._cpus))
            assert seconds > 0.4 and others <= len(controller._cpus) + 0.1
            if others > 0.3:
                break
    finally:
        other.kill()
    assert others > 0.3


def test_a_pause_says_nothing_about_the_load(monkeypatch):
    controller = Threads(2, 2)
    monkeypatch.setattr(controller, "follow", lambda *_: pytest.fail("the pause was counted"))
    before = controller._window
    controller._seen -= 2 * threads.BREAK  # since then nobody looked, and nothing was computed
    monkeypatch.setattr(controller, "_read", lambda: replace(before, wall=before.wall + 2 * threads.BREAK))
    assert controller.look() == 2 and controller._window.wall > before.wall


def test_every_one_of_pythons_threads_gets_the_number_when_it_looks(scripted):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(look).result()
        scripted.load[0] = 1.0
        look()
        assert torch.get_num_threads() == 1 and scripted.in_words() == "   1 of 2 threads: other programs are busy"
        pool.submit(look).result()
        assert pool.submit(torch.get_num_threads).result() == 1
    with pytest.raises(ZeroDivisionError), following_load():
        look()
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2 and scripted.in_words() == "   2 threads again" and scripted.in_words() == ""


def test_a_line_of_progress_says_when_threads_were_taken_away(scripted, monkeypatch):
    monkeypatch.setattr(console, "in_words", scripted.in_words)
    said = []
    progress = console.Progress(say=said.append)
    progress(1, 2)
    scripted.now = 1
    progress(2, 2)
    assert "threads" not in said[0] and said[1] == "  2 of 2 answered   1 of 2 threads: other programs are busy"


def test_an_answer_is_the_same_while_the_number_of_threads_changes(answerer, scripted, tiny_task):
    messages = [tiny_task.rows("test")[0]["message"]]
    before = [answerer.answer(messages, side) for side in (BASE, TUNED)]
    numbers = []
    real = scripted.look

    def flip():
        scripted.load[0] = 1.0 - scripted.load[0]
        numbers.append(real())
        return numbers[-1]

    scripted.look = flip
    scripted._wait = 0.0
    assert [answerer.answer(messages, side) for side in (BASE, TUNED)] == before
    *_, answers = answerer.stream(messages[0])
    assert [answers[side].text for side in (BASE, TUNED)] == [some[0] for some in before] and len(numbers) > 10
    assert answerer.worker.submit(torch.get_num_threads).result() in (1, 2)


def test_a_number_that_was_asked_for_is_kept():
    code = """import os, torch
from ftkit.common import threads
print(threads.describe_threads())
threads.shared().follow(5, 2.0)
threads.look()
print(torch.get_num_threads())
os.environ["FTKIT_THREADS"] = "3"
threads.shared.cache_clear()
threads.look()
print(torch.get_num_threads(), threads.describe_threads())"""
    environment = {name: text for name, text in os.environ.items() if name not in threads.ASKED} | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [
        "2, as OMP_NUM_THREADS asks, beside busy programs too",
        "2",
        "3 3, as FTKIT_THREADS asks, beside busy programs too",
    ], done.stderr


@pytest.mark.parametrize("value", ["0", "two", "-1", "1.5"])
def test_a_number_that_is_none_is_named(value, monkeypatch):
    monkeypatch.setenv("FTKIT_THREADS", value)
    with pytest.raises(KitError, match=rf"FTKIT_THREADS is '{value}'; it takes a number of threads"):
        threads.shared.__wrapped__()


def test_a_containers_share_is_read_in_both_forms(tmp_path):
    assert quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert quota(tmp_path) == 2
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert quota(tmp_path) == 1
    old = tmp_path / "old" / "cpu"
    old.mkdir(parents=True)
    (old / "cpu.cfs_period_us").write_text("100000\n")
    (old / "cpu.cfs_quota_us").write_text("-1\n")
    assert quota(tmp_path / "old") is None
    (old / "cpu.cfs_quota_us").write_text("300000\n")
    assert quota(tmp_path / "old") == 3
