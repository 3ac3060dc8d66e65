"""Looks at held-out rows during a training: what they measure, what they cost, and that they change nothing."""

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file

from ftkit.common.profiles import Asked, Choice, read_profiles
from ftkit.course import plots
from ftkit.data.prompt import completion_text, encoded_example
from ftkit.data.task import load_task
from ftkit.evaluation.report import _draw_losses
from ftkit.models.adapter import load_adapter
from ftkit.models.load import load_model, load_tokenizer
from ftkit.runs.documents import Live
from ftkit.runs.run import Run, all_runs
from ftkit.runs.timeline import stories
from ftkit.training import looks
from ftkit.training.finetune import last_checkpoint, train
from ftkit.training.looks import FEWEST_ROWS, FORWARD, LOSS_SHARE, MOST_ANSWERED, MOST_ROWS, plan_answers, plan_losses
from ftkit.training.loss import whole_loss


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))


def look_often(monkeypatch):
    """Look at every checkpoint, however short the training."""
    for name, value in (("LOSS_SHARE", 50.0), ("ANSWER_SHARE", 50.0), ("WORTH_WATCHING", 1)):
        monkeypatch.setattr(looks, name, value)


def weights(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def quietly(*args, **more):
    return train(*args, say=lambda line: None, **more)


def test_looked_at_or_not_a_training_ends_the_same_to_the_last_bit(tiny_task, tiny_choice, runs, monkeypatch):
    choice = Choice(tiny_choice.profile.with_changes(dropout=0.1), "a test")  # dropout draws random numbers at each step
    plain = quietly(tiny_task, choice)
    assert not plain.glimpses() and plain.record.looks.answers_at == []
    look_often(monkeypatch)
    lines, live = [], []

    def say(line):
        lines.append(line)
        if line.startswith("  step"):
            live.append(Live.load(next(run for run in all_runs() if not run.finished).folder))

    looked = train(tiny_task, choice, fresh=True, say=say)
    assert same_weights(weights(plain), weights(looked))
    assert [entry.loss for entry in plain.log()] == [entry.loss for entry in looked.log()]
    assert [step for step, _ in looked.validation_curve()] == [4, 8, 12]
    assert looked.record.looks.model_dump() == {"rows": 8, "loss_at": [4, 8, 12], "answers_at": [4, 8, 12]}
    assert "the loss on 8 validation rows at 3 checkpoints, steps 4 to 12" in " ".join(lines)
    assert "3 messages answered 4 times" in " ".join(lines)
    check_live(live, looked)
    check_glimpses(looked, tiny_task)
    check_loss(looked, tiny_task)
    check_pictures(looked)
    measured = looked.training
    assert measured.validation_loss == looked.validation_curve()[-1][1] and measured.kept_step is None
    assert 0 < measured.validation_seconds + measured.glimpse_seconds < measured.seconds + 0.1


def check_live(live, run):
    """The file for others to read goes along with the log, and is gone at the end."""
    assert [one.step for one in live] == [4, 8, 12] and {one.steps for one in live} == {12}
    assert [(one.step, one.loss) for one in live] == run.loss_curve()
    assert [one.validation_loss for one in live] == [loss for _, loss in run.validation_curve()]
    assert {one.phase for one in live} == {"training"} and live[-1].seconds_left == 0
    assert live[0].memory_mb > 100 and live[0].planned_mb == run.training.planned_memory_mb and live[0].threads
    assert not Live.exists(run.folder)


def check_glimpses(run, task):
    """The same messages at each look, none of them trained on, and the base's answer first."""
    glimpses = run.glimpses()
    assert [glimpse.step for glimpse in glimpses] == [0] * 3 + [4] * 3 + [8] * 3 + [12] * 3
    by_step = [[glimpse.row for glimpse in glimpses[at : at + 3]] for at in range(0, 12, 3)]
    assert len(set(by_step[0])) == 3 and all(ids == by_step[0] for ids in by_step)
    rows = {row["id"]: row for row in task.rows("validation")}
    for glimpse in glimpses:
        assert glimpse.message == rows[glimpse.row]["message"]
        assert glimpse.target == completion_text(task, rows[glimpse.row]["ticket"])
    assert [g.seconds for g in glimpses] == sorted(g.seconds for g in glimpses)
    assert {g.answer for g in glimpses[:3]}.isdisjoint(g.answer for g in glimpses[9:])


def check_loss(run, task):
    """The last loss is that of the saved adapter on the validation rows, one at a time by the model's own forward."""
    tokenizer = load_tokenizer(run.profile.model)
    model = load_adapter(load_model(run.profile.model, run.profile.dtype), run.adapter).eval()
    total = items = 0.0
    for row in task.rows("validation"):
        example = encoded_example(tokenizer, task, row)
        ids = torch.tensor([example["input_ids"]])
        labels = ids.masked_fill(torch.tensor([example["completion_mask"]]) == 0, -100)
        with torch.no_grad():
            total += float(whole_loss(model, {"input_ids": ids, "labels": labels}, 1))
        items += sum(example["completion_mask"])
    assert run.validation_curve()[-1][1] == pytest.approx(total / items, rel=1e-2)


def check_pictures(run):
    """Lesson and report show them."""
    view = plots.timeline(run)
    assert view.html.count("<table") == 3 and "0, the base" in view.html and "✗" in view.html
    assert "intent, should be " in str(view) and "step 12: " in str(view)
    assert "on held-out rows" in _draw_losses(run)


def test_a_timeline_tells_field_by_field_what_was_right(tiny_run, tiny_task, tmp_path):
    run = Run(shutil.copytree(tiny_run.folder, tmp_path / "copy"))
    row = tiny_task.rows("validation")[0]
    target = completion_text(tiny_task, row["ticket"])
    half = completion_text(tiny_task, {**row["ticket"], "guests": 99})
    answers = {0: "Sure! <b>I am", 4: half, 12: target}
    lines = [
        {"step": step, "seconds": 1.0, "row": row["id"], "message": row["message"], "target": target, "answer": answer}
        for step, answer in answers.items()
    ]
    (run.folder / "glimpses.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"half', encoding="utf-8"
    )
    (story,) = stories(run)
    guests = next(strand for strand in story.strands if strand.name == "guests")
    assert story.steps == [0, 4, 12] and guests.right == [False, False, True] and guests.values[:2] == ["–", "99"]
    page = plots.timeline(run).html
    assert "&lt;b&gt;I am" in page and ":99,<wbr>" in page and "step 4: 99; step 12" in str(story)
    assert story.strands[0].right == [False, True, True] and not story.strands[-1].right
    run.update(task=run.record.task.model_copy(update={"folder": "gone"}))  # the answers are then shown as they are
    (story,) = stories(run)
    assert [strand.name for strand in story.strands] == ["answer"] and story.strands[0].right == [False, False, True]
    (run.folder / "glimpses.jsonl").unlink()
    assert "keeps no answers" in str(plots.timeline(run)) and stories(run) == []


def test_a_training_taken_up_looks_at_the_same_rows_and_keeps_the_best_adapter(tiny_task, tiny_choice, runs, monkeypatch):
    look_often(monkeypatch)
    worse = {"learning_rate": 0.6, "warmup": 0.95, "max_steps": 24}  # the rate rises, the last steps are too long
    choice, more = Choice(tiny_choice.profile.with_changes(**worse), "a test"), {"asked": Asked(keep_best=True)}
    lines = []
    whole = train(tiny_task, choice, say=lines.append, **more)
    curve = dict(whole.validation_curve())
    best = min(curve, key=curve.get)
    assert best < 24 and whole.training.kept_step == best and whole.training.validation_loss == curve[best]
    assert f"The adapter of step {best} is kept" in " ".join(lines) and f"that of step {best}" in card(whole)
    half = quietly(tiny_task, choice, fresh=True, stop_after=best + 1, **more)
    saved = load_file(last_checkpoint(half) / "adapter_model.safetensors")
    kept = weights(whole)
    assert all(torch.equal(saved[name].to(weight.dtype), weight) for name, weight in kept.items())
    again = quietly(tiny_task, choice, **more)
    assert again.folder == half.folder and dict(again.validation_curve()) == pytest.approx(curve, rel=1e-3)
    shown = [[(glimpse.step, glimpse.row) for glimpse in run.glimpses()] for run in (whole, again)]
    assert shown[0] == shown[1] and len(shown[0]) == 3 * (1 + len(curve))
    assert again.training.kept_step == best and same_weights(weights(again), kept)


def card(run):
    return (run.folder / "model_card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("held_out", [1, 5, 8, 40, 200])
@pytest.mark.parametrize("seen", [6, 48, 96, 300, 600, 2920, 60_000])
def test_the_looks_planned_stay_under_their_share_of_the_work(seen, held_out):
    for checkpoints in ([12], [100, 200, 300], [*range(100, 1460, 100), 1460]):
        rows, steps = plan_losses(seen, min(held_out, MOST_ROWS), checkpoints)
        assert len(steps) * rows * FORWARD <= LOSS_SHARE * seen
        assert rows <= min(MOST_ROWS, held_out) and set(steps) <= set(checkpoints) and steps == sorted(steps)
        assert (not rows) == (not steps) and (not steps or steps[-1] == checkpoints[-1])
        assert not rows or rows == held_out or rows % FEWEST_ROWS == 0


def test_the_desk_is_looked_at_with_some_rows_and_a_long_training_with_all():
    rows, steps = plan_losses(2920, 64, [*range(100, 1460, 100), 1460])
    assert rows == 24 and len(steps) == 7 and steps[0] == 100
    assert plan_losses(60_000, 64, list(range(100, 30_100, 100)))[0] == 64
    assert plan_losses(12, 64, [3, 6]) == (0, [])


@pytest.mark.parametrize("first", [0.5, 3.0, 10.0, 100.0])
def test_messages_are_answered_at_the_end_and_as_often_as_time_allows(first):
    checkpoints = [*range(100, 1460, 100), 1460]
    steps = plan_answers(25.0, first, checkpoints)
    assert steps[-1] == 1460 and steps == sorted(set(steps)) and len(steps) < MOST_ANSWERED
    assert len(steps) == 1 or (1 + len(steps)) * first <= 25.0
    assert first > 0.5 or (len(steps) == MOST_ANSWERED - 1 and steps[0] == 100)


def test_a_real_model_learns_the_same_with_looks_and_without(runs, monkeypatch):
    """Six steps of the small real model: on processors with AVX512-BF16 a look could repack its 4-bit weights."""
    look_often(monkeypatch)
    task = load_task("desk")
    few = {split: random.Random(1).sample(task.rows(split), 8) for split in ("train", "validation")}
    profile = read_profiles()["ci"].with_changes(max_steps=6, checkpoint_steps=3)
    monkeypatch.setattr(looks, "LONGEST", 8)
    looked = quietly(task, Choice(profile, "a test"), rows=few)
    monkeypatch.setattr(looks, "LOSS_SHARE", 0.0)
    monkeypatch.setattr(looks, "WORTH_WATCHING", 200)
    plain = quietly(task, Choice(profile, "a test"), rows=few, fresh=True)
    assert len(looked.glimpses()) == 9 and not plain.glimpses() and not plain.validation_curve()
    assert same_weights(weights(plain), weights(looked))
    assert [entry.loss for entry in plain.log()] == [entry.loss for entry in looked.log()]
    (_, before), (_, after) = looked.validation_curve()[0], looked.validation_curve()[-1]
    assert after < before
