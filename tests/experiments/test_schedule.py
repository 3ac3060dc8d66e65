import collections
import functools
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from experiments import recipe, schedule, schedule_report
from experiments.documents import RecipeResults, ScheduleResult, ScheduleResults
from experiments.laboratory import SCHEDULE_PLAN, Experiment, Laboratory, command, read_plan, to_do
from experiments.schedule_tasks import LIBRARIES, first_rows, load
from ftkit.common.errors import KitError
from ftkit.common.files import read_json
from ftkit.common.profiles import read_profiles
from ftkit.course.beliefs import FOLDER
from ftkit.data.task import load_task

LINES = read_plan(SCHEDULE_PLAN)
TASKS = ("desk", "docstrings", "dates", "shop")
loaded = functools.cache(load)  # docstrings reads some hundred files
ON = {"date": "2026-01-01", "threads": 1, "versions": {}}


def test_every_group_begins_with_the_fixed_recipe_and_each_line_says_what_was_expected():
    groups = {}
    for line in LINES:
        groups.setdefault(line.group, []).append(line)
    cpu = read_profiles()["cpu"]
    assert (cpu.epochs, cpu.examples_per_step, cpu.learning_rate) == (2.0, 2, 1e-3)  # what the plan calls fixed
    for name, (centre, *lines) in groups.items():
        older = name.startswith("older")
        for experiment in centre.experiments:
            assert experiment.profile == {} and experiment.special == ("" if older else "shuffled")
            assert experiment.rows <= len(loaded(experiment.task.get("name", "desk")).splits["train"])
        assert bool(lines) != older and all(line.expected and line.experiments[0].profile for line in lines)
        for line in lines:  # the same rows, the same seeds
            assert [e.seed for e in line.experiments] == [e.seed for e in centre.experiments] == [17, 3, 29]
            assert {(e.rows, str(e.task)) for e in line.experiments} == {(e.rows, str(e.task)) for e in centre.experiments}
    first = [e.seed for e in to_do(LINES, {})]
    assert first == sorted(first, key=[17, 3, 29].index)  # one seed of everything comes before the second of anything


@pytest.mark.parametrize("rows", [50, 150])
def test_the_older_groups_stand_beside_what_the_recipe_s_search_trained_on_the_same_rows(rows):
    (centre,) = (line for line in LINES if line.group == f"older{rows}")
    (beside,) = schedule_report._from_the_recipe("curves", centre)
    assert beside.group == centre.group and "steps (RECIPE.md)" in beside.name
    results = RecipeResults.load(FOLDER).results
    for fixed, more in zip(centre.experiments, beside.experiments, strict=True):
        mine, theirs = recipe.profile_of(fixed), recipe.profile_of(more)
        assert replace(mine, max_steps=0) == replace(theirs, max_steps=0) and theirs.max_steps > rows
        assert (fixed.rows, fixed.seed, fixed.special) == (more.rows, more.seed, more.special)
        assert more.task == {"system_prompt": load_task("desk").system_prompt} and more.key in results


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_valid_and_none_stands_in_two_splits(name):
    data = loaded(name)
    messages = [row[data.task.message] for rows in data.splits.values() for row in rows]
    assert len(set(messages)) == len(messages)
    assert not [problem for rows in data.splits.values() for row in rows for problem in data.task.problems(row)]
    assert len(data.splits["validation"]) >= 100
    assert name == "docstrings" or load(name).splits == data.splits


@pytest.mark.parametrize("name", TASKS)
def test_fewer_rows_are_among_more_and_each_class_has_its_share(name):
    data = loaded(name)
    few, more = (first_rows(data, n, 17) for n in (50, 150))
    assert more[:50] == few and len(more) == 150
    assert first_rows(data, 50, 3) != few == first_rows(data, 50, 17)
    if data.task.kind == "label":
        counts = collections.Counter(row[data.task.target] for row in few)
        assert set(counts.values()) == {50 // len(data.task.labels)}


def test_a_sentence_does_not_name_its_library_and_a_date_is_written_in_words():
    rows = [row for split in loaded("docstrings").splits.values() for row in split]
    assert collections.Counter(row["target"] for row in rows) == dict.fromkeys(LIBRARIES, 100)
    assert not [row for row in rows if row["target"] in row["message"].lower()]
    assert all(any(letter.isalpha() for letter in row["message"]) for row in loaded("dates").splits["train"])
    with pytest.raises(KitError, match="no task 'mail'"):
        load("mail")


@pytest.mark.parametrize(
    ("rows", "profile", "steps"),
    [(150, {}, 150), (15, {}, 16), (150, {"epochs": 4, "batch_size": 1}, 600), (15, {"epochs": 2, "max_steps": 7}, 7)],
)
def test_steps_follow_the_epochs(rows, profile, steps):
    made = schedule.with_steps(Experiment("qlora", 17, rows=rows, profile=profile), rows)
    assert made.profile["max_steps"] == steps and made.rows == rows


def test_the_adapter_of_the_lowest_loss_is_kept(monkeypatch):
    import torch

    losses = iter((0.5, 0.2, 0.3, 0.4))
    monkeypatch.setattr(schedule, "validation_loss", lambda *anything: next(losses))
    model, watch = torch.nn.Linear(1, 1), schedule.Watch(loaded("shop"), 8, None)
    for step in range(1, 9):
        torch.nn.init.constant_(model.weight, step)
        watch.on_step_end(None, type("State", (), {"global_step": step}), None, model=model)
    assert [look["step"] for look in watch.seen] == [2, 4, 6, 8] and watch.best_step == 4
    assert float(watch.best["weight"]) == 4 and len(watch.rows) == schedule.LOOKED_AT


def made(experiment, right, **more):
    scored = {"scores": {"exact match": 0.5}, "rows": {"exact match": right}}
    figures = {"steps": 4, "tokens": 100, "seconds": 9.0, "watched_seconds": 1.0, "loss": 0.1}
    seen = [{"step": 2, "validation_loss": 0.1}, {"step": 4, "validation_loss": 0.2}]
    return ScheduleResult(experiment=vars(experiment), seen=seen, **scored, **figures, **ON, **more)


def test_the_page_pairs_each_recipe_with_the_fixed_one_on_the_same_seeds(tmp_path):
    shop = [line for line in LINES if line.group == "shop150"]
    fixed, more = shop[0].experiments, shop[1].experiments
    better = {"step": 2, "scores": {}, "rows": {"exact match": "1111"}}
    results = {
        fixed[0].key: made(fixed[0], "0011"),
        fixed[1].key: made(fixed[1], "0001"),
        more[0].key: made(more[0], "0111", earlier=better),
    }
    (gain,) = schedule_report.gains(shop, results)
    assert (gain.group, gain.name, gain.seeds) == ("shop150", shop[1].name, 1)
    assert gain.value == pytest.approx(0.25) and gain.interval[0] < 0 < gain.interval[1]
    ScheduleResults(results=results).save(tmp_path)
    schedule_report.write(tmp_path / "PAGE.md", tmp_path)
    page = (tmp_path / "PAGE.md").read_text()
    assert f"| {shop[1].name} | {shop[1].expected} | 1 | 4 | 100 | 75.0 | +25.0 (" in page and "| 8 s |" in page
    assert f"| shop150, {shop[1].name} | 17 | 2 of 4 | 75.0 | 100.0 | +25.0 (" in page
    assert "scored: 1 of 1 trainings." in page and "), 1 seed so far |" in page
    assert (tmp_path / schedule_report.PLOT).is_file()


def test_fields_of_a_ticket_and_whole_answers_are_both_shares():
    one = dict.fromkeys(schedule_report.FIELDS, "10") | {"exact match": "00"}
    both = (ScheduleResult(experiment={}, rows=rows, **ON) for rows in (one, {"exact match": "01"}))
    assert np.array_equal(list(map(schedule_report.right, both)), [[1, 0], [0, 1]])


def test_only_so_many_experiments_are_run_as_were_asked_for(tmp_path, monkeypatch):
    ran = []
    laboratory = Laboratory("experiments.schedule", ScheduleResults, tmp_path)
    monkeypatch.setattr(
        Laboratory, "in_a_process", lambda self, one, workers: ran.append(one) or made(one, "01").model_dump(mode="json")
    )
    laboratory.search(LINES, 1, 1, most=2)
    assert [one.key for one in ran] == list(laboratory.results()) == [one.key for one in to_do(LINES, {})[:2]]


def test_one_command_serves_every_set_of_experiments(tmp_path, monkeypatch, capsys):
    laboratory, written = Laboratory("experiments.schedule", ScheduleResults, tmp_path), []
    one = LINES[0].experiments[0]

    def called(*words):
        monkeypatch.setattr(sys, "argv", ["schedule", *words])
        command(laboratory, SCHEDULE_PLAN, lambda e: {"key": e.key}, lambda: written.append(words))
        return capsys.readouterr().out

    assert called("--one", json.dumps(vars(one))) == f'RESULT {{"key": "{one.key}"}}\n' and not written
    laboratory.save(one.key, made(one, "01").model_dump(mode="json"))
    listed = called("--plan", "--only", LINES[0].group).splitlines()
    assert listed[1].split()[0] == LINES[0].group and listed[1].endswith(f"{len(LINES[0].experiments)}     1")
    assert listed[-1].endswith("experiments have no result yet.") and not written
    called("--report")
    assert written == [("--report",)]
    with pytest.raises(SystemExit, match=r"experiments\.schedule: The plan has no group nothing; it has "):
        called("--only", "nothing")


@pytest.mark.skipif(not ScheduleResults.exists(FOLDER), reason="nothing has been run yet")
def test_the_saved_results_say_what_was_run_and_where():
    assert ScheduleResults.load(FOLDER).as_data() == read_json(ScheduleResults.path(FOLDER))
    for key, result in ScheduleResults.load(FOLDER).results.items():
        assert Experiment(**result.experiment).key == key
        if result.failed is None:
            data = loaded(result.experiment["task"].get("name", "desk"))
            assert {len(rows) for rows in result.rows.values()} == {len(data.splits["validation"])}
            assert result.seen[-1].step == result.steps and result.train_rows == result.experiment["rows"]
