import json
import os

import pytest

from ftkit.common.errors import KitError
from ftkit.common.paths import kit_root
from ftkit.common.profiles import Choice, choose_profile, read_profiles
from ftkit.data.task import load_task
from ftkit.evaluation.answer import TUNED, Answerer
from ftkit.evaluation.measure import evaluate
from ftkit.evaluation.saved_answers import load_evaluation, read_answers
from ftkit.runs import guards
from ftkit.runs.card import write_card
from ftkit.runs.run import REFERENCE, Run, finished_run, open_run, reference_run
from ftkit.training.finetune import train

SHIPPED = Run(kit_root() / "data" / "reference_run")
DESK = load_task("desk")


@pytest.fixture
def no_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path))
    return tmp_path


def test_the_reference_run_is_of_the_cpu_profile_and_the_desk_as_they_are():
    record = SHIPPED.record
    assert record.profile == read_profiles()["cpu"]
    assert record.task.fingerprint == DESK.fingerprint()
    assert record.status == "finished" and record.versions["torch"] and record.machine.processor
    assert (SHIPPED.adapter / "adapter_model.safetensors").stat().st_size < 12e6
    assert load_evaluation(SHIPPED).n == 408


def test_every_guard_has_what_it_looks_at_in_the_reference_run_and_finds_it_well(no_runs):
    findings = list(guards.of_run(open_run()))
    assert [finding.text for finding in findings if not (finding.ok and finding.looked)] == []
    assert {"base", "template", "loss mask", "end token"} <= {finding.thing for finding in findings}


def test_its_card_is_the_one_that_the_kit_writes_today_and_its_command_works(no_runs):
    run = open_run()
    shipped = (run.folder / "model_card.md").read_text(encoding="utf-8")
    assert write_card(run).read_text(encoding="utf-8") == shipped and f"`ftkit generate {REFERENCE} " in shipped


def test_who_has_no_run_gets_a_copy_of_the_kits(no_runs, tiny_run):
    run = open_run()
    assert run.is_reference and run.folder == no_runs / REFERENCE
    assert open_run("reference") == run == reference_run()
    (run.folder / "note.txt").write_text("mine", encoding="utf-8")
    assert (open_run().folder / "note.txt").is_file() and not (SHIPPED.folder / "note.txt").exists()
    run.update(created="2020-01-01T00:00:00+00:00")  # a kit of another day
    assert not (open_run().folder / "note.txt").exists()
    (no_runs / tiny_run.name).symlink_to(tiny_run.folder)
    assert open_run().name == tiny_run.name  # one's own comes first


@pytest.mark.parametrize(
    "path", sorted((kit_root() / "data").glob("reference_*/run.json")), ids=lambda path: path.parent.name
)
def test_each_run_that_the_kit_ships_opens_by_its_name_and_fits_its_task(path, no_runs):
    name = path.parent.name.replace("reference_run", REFERENCE).replace("_", "-")
    run = open_run(name)
    assert run.is_reference and run.folder == no_runs / name
    assert run.record.task.fingerprint == run.task.fingerprint() and run.is_evaluated
    assert (run.adapter / "adapter_model.safetensors").stat().st_size < 12e6
    card = (run.folder / "model_card.md").read_text(encoding="utf-8")
    assert write_card(run).read_text(encoding="utf-8") == card and f"`ftkit generate {name} " in card


def test_a_name_like_those_of_the_kits_runs_is_an_ordinary_name(no_runs, tiny_run):
    with pytest.raises(KitError, match="reference-mine is not a run"):
        open_run("reference-mine")
    (no_runs / "reference-mine").symlink_to(tiny_run.folder)
    assert open_run("reference-mine").name == "reference-mine" and not open_run("reference-mine").is_reference


def test_the_reference_run_is_not_taken_for_a_training_of_ones_own(no_runs):
    open_run()
    assert finished_run(DESK, read_profiles()["cpu"]) is None


def test_the_reference_run_still_answers_as_it_was_measured(no_runs):
    run = open_run()
    rows, saved = DESK.rows("test")[:24], read_answers(run, "test", TUNED)
    texts = [saved[row["message"]] for row in rows]
    answers = Answerer.of_run(run).answer([row["message"] for row in rows], TUNED)
    same = sum(answer == text for answer, text in zip(answers, texts, strict=True))
    assert same >= 20  # another batch, another processor: a tie may fall differently
    right = sum(json.loads(text)["intent"] == row["ticket"]["intent"] for text, row in zip(texts, rows, strict=True))
    assert right >= 16


@pytest.mark.skipif(os.environ.get("FTKIT_SLOW") != "1", reason="trains for ten minutes: FTKIT_SLOW=1")
@pytest.mark.timeout(3600)
def test_training_again_with_the_same_seed_gives_the_same_scores(no_runs):
    again = train(DESK, Choice(choose_profile("cpu").profile, "again"), fresh=True)
    mine, theirs = (
        evaluate(again, quick=True).models[TUNED].scores,
        load_evaluation(SHIPPED).models[TUNED].scores,
    )
    for metric in ("intent", "exact match"):
        low, high = theirs[metric].interval
        assert abs(mine[metric].value - theirs[metric].value) <= (high - low) / 2
