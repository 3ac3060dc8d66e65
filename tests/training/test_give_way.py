"""What works beside the demo waits while a visitor is answered, and saves what it has when the page is gone."""

import threading
import time

import pytest
from safetensors.torch import load_file

from ftkit.evaluation.answer import Answerer
from ftkit.runs.documents import Mark
from ftkit.runs.run import all_runs
from ftkit.training import give_way
from ftkit.training.finetune import last_checkpoint, train
from ftkit.training.give_way import Courtesy, go_first, working_seconds


@pytest.fixture
def courtesy(tmp_path, monkeypatch):
    """This process works beside a page, whose folder is empty."""
    monkeypatch.setattr(give_way, "COURTESY", Courtesy(tmp_path))
    return give_way.COURTESY


def answering(folder, seconds):
    """The page answers a message for so long, from now on; gives its thread."""
    begun = threading.Event()

    def answer():
        with go_first(folder):
            begun.set()
            time.sleep(seconds)

    thread = threading.Thread(target=answer)
    thread.start()
    begun.wait(5)
    return thread


def waited(courtesy):
    began = time.monotonic()
    courtesy.wait()
    return time.monotonic() - began


def test_it_waits_for_the_answer_and_the_clock_of_its_work_stands_still(courtesy, tmp_path):
    assert waited(courtesy) < 0.2
    began = working_seconds()
    page = answering(tmp_path, 0.6)
    assert 0.4 < waited(courtesy) < 2
    page.join()
    assert working_seconds() - began < 0.3
    assert waited(courtesy) < 0.2


def test_it_waits_no_longer_in_a_row_than_its_patience_and_work_gives_that_back(courtesy, tmp_path, monkeypatch):
    monkeypatch.setattr(give_way, "PATIENCE", 0.5)
    page = answering(tmp_path, 1.5)
    assert 0.4 < waited(courtesy) < 1
    assert waited(courtesy) < 0.2
    time.sleep(0.4)  # work
    assert 0.2 < waited(courtesy) < 1
    page.join()


def test_where_nothing_works_beside_a_page_nothing_waits_or_is_locked(tmp_path):
    assert waited(Courtesy(None)) < 0.05
    with go_first(None):
        pass
    gone = Courtesy(tmp_path / "removed" / "by" / "somebody")
    assert waited(gone) < 0.2


def test_without_its_page_a_training_saves_a_checkpoint_and_goes_on_from_there(
    tiny_task, tiny_choice, tiny_run, tmp_path, monkeypatch
):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))

    class Left(Courtesy):
        steps = 0

        def wait(self):
            self.steps += 1
            if self.steps == 6:
                self.gone.set()

    monkeypatch.setattr(give_way, "COURTESY", Left(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        train(tiny_task, tiny_choice, say=lambda line: None)
    (half,) = all_runs()
    assert (tmp_path / give_way.RUN).read_text() == str(half.folder.resolve())
    assert last_checkpoint(half).name == "checkpoint-6" and Mark.load(last_checkpoint(half)).tokens == half.log()[-1].tokens
    assert not half.finished and not half.is_claimed
    monkeypatch.setattr(give_way, "COURTESY", Courtesy(None))
    said = []
    run = train(tiny_task, tiny_choice, say=said.append)
    assert run == half and run.finished and "Going on after step 6." in said
    assert [entry.step for entry in run.log()] == [4, 6, 8, 12]
    assert run.log()[-1].tokens == tiny_run.log()[-1].tokens
    ours, theirs = (load_file(one.adapter / "adapter_model.safetensors") for one in (run, tiny_run))
    for name, weight in theirs.items():
        assert ours[name].float().sub(weight.float()).abs().max() < 1e-3, name


def test_an_evaluation_waits_within_an_answer_and_ends_with_the_page(courtesy, tiny_run, tmp_path):
    answerer = give_way.give_way_at_each_pass(Answerer.of_run(tiny_run))
    page = answering(tmp_path, 1)
    began, worked = time.monotonic(), working_seconds()
    assert answerer.answer(["a table for two"])
    assert time.monotonic() - began > 0.7 and time.monotonic() - began - (working_seconds() - worked) > 0.7
    page.join()
    courtesy.gone.set()
    with pytest.raises(KeyboardInterrupt):
        answerer.answer(["a table for two"])
    answerer.worker.shutdown()
