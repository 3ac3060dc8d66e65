"""What works beside the demo waits while a visitor is answered, and saves what it has when the page is gone."""

from contextlib import ExitStack

import pytest
from safetensors.torch import load_file

from ftkit.evaluation.answer import Answerer
from ftkit.runs.documents import Mark
from ftkit.runs.run import all_runs
from ftkit.training import give_way
from ftkit.training.finetune import last_checkpoint, train
from ftkit.training.give_way import Courtesy, go_first, working_seconds


class Clock(ExitStack):
    """Takes the place of the module `time`: it goes on only while somebody sleeps. Closes what it holds at `end`."""

    now = end = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.now >= self.end:
            self.close()


@pytest.fixture
def clock(monkeypatch):
    with Clock() as clock:
        monkeypatch.setattr(give_way, "time", clock)
        yield clock


@pytest.fixture
def courtesy(tmp_path, monkeypatch, clock):
    """This process works beside a page, whose folder is empty."""
    monkeypatch.setattr(give_way, "COURTESY", Courtesy(tmp_path, since=0.0))
    return give_way.COURTESY


def answering(clock, folder, seconds):
    """The page answers a message for so long, from now on."""
    clock.end = clock.now + seconds
    clock.enter_context(go_first(folder))


def waited(courtesy):
    began = give_way.time.monotonic()
    courtesy.wait()
    return give_way.time.monotonic() - began


def about(seconds):
    return pytest.approx(seconds, abs=1.01 * give_way.LOOK)


def test_it_waits_for_the_answer_and_the_clock_of_its_work_stands_still(courtesy, clock, tmp_path):
    assert waited(courtesy) == 0
    began = working_seconds()
    answering(clock, tmp_path, 0.6)
    assert waited(courtesy) == about(0.6) and working_seconds() == pytest.approx(began)
    assert waited(courtesy) == 0


def test_it_waits_no_longer_in_a_row_than_its_patience_and_work_gives_that_back(courtesy, clock, tmp_path, monkeypatch):
    monkeypatch.setattr(give_way, "PATIENCE", 0.5)
    answering(clock, tmp_path, 1.5)
    assert waited(courtesy) == about(0.5) and waited(courtesy) < 0.1
    clock.sleep(0.4)  # work
    assert waited(courtesy) == about(0.4) and clock.now < 1.5


def test_where_nothing_works_beside_a_page_nothing_waits_or_is_locked(tmp_path, clock):
    assert waited(Courtesy(None)) == 0
    with go_first(None):
        pass
    gone = Courtesy(tmp_path / "removed" / "by" / "somebody", since=0.0)
    assert waited(gone) == 0


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


def test_an_evaluation_waits_within_an_answer_and_ends_with_the_page(courtesy, clock, tiny_run, tmp_path):
    answerer = give_way.give_way_at_each_pass(Answerer.of_run(tiny_run))
    answering(clock, tmp_path, 1)
    assert answerer.answer(["a table for two"])
    assert clock.now == courtesy.waited == about(1) and working_seconds() == pytest.approx(0)
    courtesy.gone.set()
    with pytest.raises(KeyboardInterrupt):
        answerer.answer(["a table for two"])
    answerer.worker.shutdown()
