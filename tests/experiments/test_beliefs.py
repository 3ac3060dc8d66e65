import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from experiments import beliefs, beliefs_data, beliefs_report, recipe, recipe_report
from experiments.laboratory import BELIEFS_PLAN, Laboratory, Trial, choose_groups, read_plan, to_do
from ftkit.common.errors import KitError
from ftkit.common.files import read_json, write_json
from ftkit.common.paths import kit_root
from ftkit.course import beliefs as ftkit_beliefs
from ftkit.course.beliefs import FOLDER, BeliefResults, ExperimentResult
from ftkit.data.task import load_task
from ftkit.evaluation import forgetting as general

DESK = load_task("desk")
LINES = read_plan(BELIEFS_PLAN, Trial)


def intent(example):
    return json.loads(example["completion"][0]["content"])["intent"]


def messages(examples):
    return [example["prompt"][-1]["content"] for example in examples]


# --- the data ---


@pytest.mark.parametrize(("share", "wrong"), [(0.10, 16), (0.25, 40), (0.50, 80)])
def test_the_share_of_wrong_labels_is_exact_and_every_one_is_of_another_intent(share, wrong):
    clean, _ = beliefs_data.training_set(DESK, 160, 17, {})
    spoiled, facts = beliefs_data.training_set(DESK, 160, 17, {"wrong": share})
    assert messages(spoiled) == messages(clean)
    changed = [i for i in range(160) if spoiled[i] != clean[i]]
    assert len(changed) == facts["wrong"] == wrong
    assert all(intent(spoiled[i]) != intent(clean[i]) for i in changed)
    tickets = [example["completion"] for example in clean]
    assert all(spoiled[i]["completion"] in tickets for i in changed)


def test_a_larger_dose_holds_the_smaller_one():
    rows = DESK.rows("train")[:100]
    some, more = (ftkit_beliefs.spoil_tickets(DESK, rows, share, 3) for share in (0.1, 0.5))
    few, many = ([i for i in range(100) if given[i] != rows[i]] for given in (some, more))
    assert len(few) == 10 and len(many) == 50 and set(few) < set(many)
    assert all(some[i] == more[i] for i in few)


def test_clean_data_holds_no_validation_row_and_leaked_data_half_of_them():
    held_out = {row["message"] for row in DESK.rows("validation")} | {row["message"] for row in DESK.rows("test")}
    for changes in ({}, {"wrong": 0.5}, {"keep": 0.25}, {"irrelevant": 0.5}):
        assert not held_out & set(messages(beliefs_data.training_set(DESK, 160, 17, changes)[0]))
    clean, facts = beliefs_data.training_set(DESK, 160, 17, {})
    leaked, with_leak = beliefs_data.training_set(DESK, 160, 17, {"leaked": 0.5})
    assert facts["leaked"] == "" and leaked[:160] == clean
    seen = [row["message"] for row, digit in zip(DESK.rows("validation"), with_leak["leaked"], strict=True) if digit == "1"]
    assert len(seen) == 78 and sorted(seen) == sorted(messages(leaked[160:]))
    assert not {row["message"] for row in DESK.rows("test")} & set(messages(leaked))


@pytest.mark.parametrize(("kept", "number"), [(0.5, 80), (0.25, 40)])
def test_the_rows_that_are_kept_are_those_that_stay_right_where_the_rest_is_spoiled(kept, number):
    clean, _ = beliefs_data.training_set(DESK, 160, 17, {})
    few, facts = beliefs_data.training_set(DESK, 160, 17, {"keep": kept})
    spoiled, _ = beliefs_data.training_set(DESK, 160, 17, {"wrong": 1 - kept})
    assert facts["examples"] == len(few) == number
    assert few == [after for after, before in zip(spoiled, clean, strict=True) if after == before]
    half_parcels, _ = beliefs_data.training_set(DESK, 160, 17, {"irrelevant": 1 - kept})
    assert few == [example for example in half_parcels if example in clean]


def test_irrelevant_examples_are_well_formed_and_as_many():
    clean, _ = beliefs_data.training_set(DESK, 160, 17, {})
    mixed, facts = beliefs_data.training_set(DESK, 160, 17, {"irrelevant": 0.5})
    every, _ = beliefs_data.training_set(DESK, 160, 17, {"irrelevant": 1.0})
    assert facts["irrelevant"] == 80 == sum(a != b for a, b in zip(clean, mixed, strict=True))
    assert len(every) == 160 and not set(messages(every)) & set(messages(clean))
    for example in every:
        label, note = json.loads(example["completion"][0]["content"]), messages([example])[0]
        assert list(label) == ["parcel", "to", "kilos", "way", "fragile"]
        assert all(str(label[name]) in note for name in ("parcel", "to", "kilos", "way"))
        assert label["fragile"] == ("breaks" in note)
    assert len(set(messages(every))) == 160


def test_everyday_questions_are_none_of_the_general_check_s():
    examples, _ = beliefs_data.training_set(DESK, 160, 17, {"everyday": True})
    assert len(examples) == 60 == len(set(messages(examples)))
    assert not set(messages(examples)) & {question["prompt"] for question in general.questions()}
    assert all(example["completion"][0]["content"].strip() for example in examples)


@pytest.mark.parametrize("changes", [{}, {"wrong": 0.25}, {"irrelevant": 0.5}, {"leaked": 0.5}, {"keep": 0.5}])
def test_training_data_are_of_the_seed(changes):
    one, again, other = (beliefs_data.training_set(DESK, 60, seed, changes) for seed in (1, 1, 2))
    assert one == again and one[0] != other[0]


def test_an_unknown_change_is_refused():
    with pytest.raises(KitError, match="no change wrnog"):
        beliefs_data.training_set(DESK, 60, 1, {"wrnog": 0.1})


# --- the plan ---


def test_every_point_has_three_seeds_and_an_expectation_and_what_is_the_same_is_run_once():
    assert list(dict.fromkeys(line.group for line in LINES)) == ["scratch", "data", "better"]
    assert all(line.about and line.expected for line in LINES)
    assert all(len(line.experiments) >= 3 or line.name == "base" for line in LINES)  # the base has nothing to draw
    kit, clean, five = (next(x.experiments for x in LINES if x.group == group) for group in ("scratch", "data", "better"))
    assert kit == clean == five[:3] and len(five) == 5
    assert len(to_do(LINES, {})) == len({e.key for line in LINES for e in line.experiments})


def test_random_and_pre_trained_differ_in_nothing_but_the_first_weights():
    full, random = (next(x.experiments for x in LINES if x.name == name) for name in ("full", "random"))
    for one, other in zip(full, random, strict=True):
        assert replace(one, special="") == replace(other, special="")


def test_passes_over_the_rows_are_what_the_plan_says():
    for line in LINES:
        for trial in line.experiments:
            if trial.method in ("qlora", "full"):
                examples, _ = beliefs_data.training_set(DESK, trial.rows, trial.seed, trial.data)
                seen = trial.profile["max_steps"] * recipe.profile_of(trial).examples_per_step
                assert seen % len(examples) == 0, line.name


def test_the_plan_is_printed_with_its_minutes(tmp_path):
    command = [sys.executable, "-m", "experiments.beliefs", "--plan", "--only", "data", "better", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=kit_root(), timeout=120)
    assert done.returncode == 0, done.stderr
    assert "wrong 25 %" in done.stdout and "with 2 workers" in done.stdout and "random" not in done.stdout
    with pytest.raises(KitError, match="no group leaks"):
        choose_groups(LINES, ["leaks"])


def test_what_is_done_costs_nothing_more():
    everything = beliefs.plan(LINES, {}, 1)
    first = LINES[0].experiments[0]
    less = beliefs.plan(LINES, {first.key: {}}, 1)
    count = len(to_do(LINES, {}))
    assert f"{count} experiments" in everything and f"{count - 1} experiments" in less


# --- an experiment ---


@pytest.fixture(scope="module")
def small(tiny_choice):
    return {"model": tiny_choice.profile.model, "max_steps": 4, "rank": 4, "alpha": 4, "max_new_tokens": 4}


def test_random_weights_are_of_the_seed_and_not_the_pre_trained_ones(tiny_model):
    import torch

    from ftkit.models.load import load_model

    model = load_model(str(tiny_model), "float32", four_bit=False)
    one, again, other = (recipe.random_weights(model, seed) for seed in (1, 1, 2))
    names = [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
    for name in names:
        drawn = [each.get_parameter(name) for each in (one, again, other, model)]
        assert drawn[0].shape == drawn[3].shape
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[3])


def test_an_experiment_keeps_every_loss_and_every_message_s_score(small):
    common = {"rows": 24, "seed": 1, "profile": small, "sft": {"logging_steps": 1}}
    kit = beliefs.run(Trial("qlora", **common, data={"leaked": 0.5}, general=True))
    random = beliefs.run(Trial("full", **common, special="float32 random"))
    for result in (kit, random):
        assert result["steps"] == len(result["losses"].split()) == 4
        assert all(len(rows) == 156 for rows in result["rows"].values())
        assert np.isfinite(result["validation_loss"])
        assert result["recipe"]["rank"] == 4 and result["recipe"]["learning_rate"] > 0
    assert kit["data"]["leaked"].count("1") == 78 and len(kit["general"]["right"]) == 60
    assert "general" not in random and random["trained_parameters"] > 10 * kit["trained_parameters"]
    json.dumps([kit, random])


def test_the_untouched_model_is_asked_with_and_without_examples(small):
    base = beliefs.run(Trial("base", 1, profile=small, general=True))
    shown = beliefs.run(Trial("few-shot", 1, rows=15, profile=small))
    assert len(base["rows"]["intent"]) == 156 and "steps" not in base and len(base["general"]["right"]) == 60
    assert shown["shots"] in (2, 4, 8) and set(shown["tried"]) == {"2", "4", "8"}


def test_a_model_that_was_tuned_on_questions_is_judged_by_questions_alone(small):
    figures = beliefs.run(Trial("qlora", 1, rows=160, profile=small, data={"everyday": True}, general=True, judged=False))
    assert figures["data"]["examples"] == 60 and "rows" not in figures and len(figures["general"]["right"]) == 60


@pytest.mark.parametrize("rows", [15, 160])
def test_baselines_without_a_model_answer_from_the_same_rows(rows):
    tfidf, majority = (beliefs.run(Trial(method, 17, rows=rows)) for method in ("tfidf", "majority"))
    assert set(tfidf["rows"]) == {"intent", "urgency"} and len(tfidf["rows"]["intent"]) == 156
    assert majority["scores"]["valid JSON"] == 1.0 and majority["scores"]["intent"] < 0.2
    assert (tfidf["scores"]["intent"] > 0.3) == (rows == 160)


# --- the results ---


def test_results_are_saved_after_each_and_taken_up_again(tmp_path):
    lines = [line for line in LINES if line.name in ("majority", "TF-IDF, 15 rows")]
    laboratory = replace(beliefs.LABORATORY, folder=tmp_path, head=beliefs.head(LINES))
    laboratory.search(lines[:1], hours=0, workers=1)
    assert not BeliefResults.exists(tmp_path)  # nothing new after the hours are over
    one = to_do(lines, {})[0]
    result = laboratory.in_a_process(one, 1)
    laboratory.save(one.key, result)
    valid(BeliefResults.load(tmp_path))
    assert one.key not in {e.key for e in to_do(lines, laboratory.results())}
    assert len(to_do(lines, laboratory.results())) == 5
    laboratory.save("other", {**{name: result[name] for name in ("experiment", *ON)}, "failed": "memory"})
    assert set(laboratory.results()) == {one.key, "other"} and laboratory.results()["other"].failed == "memory"
    write_json(BeliefResults.path(tmp_path), {"format": 0})
    with pytest.raises(KitError, match="is of version 0; this kit reads version 1"):
        laboratory.results()


def test_a_failed_experiment_is_kept_and_run_again_when_asked(tmp_path):
    broken = Trial("qlora", 1, profile={"no_such_setting": 1})
    result = Laboratory(beliefs.LABORATORY.module, BeliefResults, tmp_path).in_a_process(broken, 1)
    assert "no_such_setting" in result["failed"]
    results = {broken.key: ExperimentResult(**result)}
    line = replace(LINES[0], experiments=(broken,))
    assert to_do([line], results) == []
    assert to_do([line], results, failed=True) == [broken]


def valid(saved):
    """A results file is whole: every line's experiments are named, every result is of its key and scored row by row."""
    ids = saved.messages.split()
    assert ids == [row["id"] for row in DESK.rows("validation")]
    named = {key for line in saved.lines for key in line.experiments.split()}
    for key, result in saved.results.items():
        assert Trial(**result.experiment).key == key and key in named
        assert result.date.startswith("20") and result.versions["torch"]
        for name, rows in result.rows.items():
            assert len(rows) == len(ids) and rows.count("1") / len(ids) == pytest.approx(result.scores[name], abs=1e-4)


def test_the_committed_results_are_whole_and_the_page_says_what_they_say(tmp_path):
    committed = BeliefResults.load(FOLDER)
    valid(committed)
    assert committed.as_data() == read_json(BeliefResults.path(FOLDER))
    committed.save(tmp_path)
    beliefs_report.write(tmp_path / "BELIEFS.md", tmp_path)
    assert (tmp_path / "BELIEFS.md").read_text(encoding="utf-8") == beliefs_report.PAGE.read_text(encoding="utf-8")


ON = {"date": "2026-01-01", "threads": 1, "versions": {}}  # what an experiment ran on
GENERAL = {"right": "1100", "answers": [], "log_probabilities": [], "tokens": []}


def result(trial, digits, leaked=""):
    rows = dict.fromkeys([*recipe_report.FIELDS, "exact match"], digits)
    figures = {"experiment": vars(trial), **ON, "rows": rows, "loss": 1.0, "validation_loss": 1.0}
    data = {"examples": 160, "wrong": 0, "irrelevant": 0, "leaked": leaked}
    return {**figures, "losses": " ".join(["1.5"] * 30), "data": data}


def test_the_page_and_its_plots_are_made_from_a_file(tmp_path):
    good, bad, half = "1" * 156, "0" * 155 + "1", "10" * 78
    results = {}
    for line in LINES:
        for trial in line.experiments:
            digits = good if line.name in ("kit", "clean", "leaked, four passes") else half if "wrong" in line.name else bad
            results[trial.key] = result(trial, digits, leaked="10" * 78 if "leaked" in line.name else "")
    BeliefResults(**beliefs.head(LINES), results=results).save(tmp_path)
    beliefs_report.write(tmp_path / "BELIEFS.md", tmp_path)
    page = (tmp_path / "BELIEFS.md").read_text(encoding="utf-8")
    assert page.count("## ") == 3
    wrong = next(row for row in page.splitlines() if row.startswith("| wrong 10 %"))
    assert "| 50.0 (" in wrong and "-50.0 (" in wrong
    assert "| 17 | leaked | 100.0 | 0.0 |" in page and "| 17 | fresh | 100.0 | 1.3 |" in page
    for name in beliefs_report.PLOTS:
        assert "<svg" in (tmp_path / f"beliefs-{name}.svg").read_text(encoding="utf-8")


def test_a_page_without_results_is_refused(tmp_path):
    with pytest.raises(KitError, match="no results yet"):
        beliefs_report.write(tmp_path / "page.md", tmp_path)


def test_the_dose_has_its_curves():
    lines = [line for line in LINES if line.group == "data"]
    curves = {name: [dose for dose, _ in points] for name, points in beliefs_report.doses(lines).items()}
    assert curves == {"wrong labels": [0, 10, 25, 50], "left out": [0, 50, 75]}


# --- what the labs read ---


@pytest.fixture
def saved(tmp_path):
    """A folder of results: the kit has all fields right but the last message's, others half of them, and one line failed."""
    good, half, bad = "1" * 155 + "0", "10" * 78, "0" * 156
    results = {}
    for line in LINES:
        digits = {"kit": good, "clean": good, "irrelevant": bad}.get(line.name, half)
        for trial in line.experiments:
            figures = result(trial, digits, leaked="10" * 78 if "leaked" in line.name else "")
            if trial.method == "tfidf":
                figures["rows"] = dict.fromkeys(("intent", "urgency"), digits)
            results.setdefault(trial.key, figures | {"general": GENERAL} if trial.general else figures)
    for trial in next(line for line in LINES if line.name == "wrong 25 %").experiments:
        results[trial.key] = {"experiment": vars(trial), **ON, "failed": "memory"}
    BeliefResults(**beliefs.head(LINES), results=results).save(tmp_path)
    return tmp_path


def test_the_points_of_a_belief_are_those_that_have_results(saved):
    points = ftkit_beliefs.points("data", saved)
    assert list(points) == [line.name for line in LINES if line.group == "data" and line.name != "wrong 25 %"]
    assert points["clean"].seeds == [17, 3, 29] and points["clean"].about and points["clean"].expected
    with pytest.raises(KitError, match="no belief 'luck'"):
        ftkit_beliefs.points("luck", saved)
    with pytest.raises(KitError, match="is missing"):
        ftkit_beliefs.points("data", saved / "none")


def test_a_point_is_scored_with_its_interval_and_compared_by_seed_and_message(saved):
    points = ftkit_beliefs.points("data", saved)
    clean, noisy, other = points["clean"], points["wrong 50 %"], points["irrelevant"]
    assert clean.scores().shape == (3, 156)
    value, (low, high) = clean.share()
    assert value == pytest.approx(155 / 156) and low < value < high <= 1
    assert other.share() == (0.0, pytest.approx((0.0, 0.0240), abs=1e-3))  # Wilson's, of 156 messages
    gap, (low, high) = noisy.against(clean, "intent")
    assert gap == pytest.approx(0.5 - 155 / 156) and low < gap < high < 0
    few = ftkit_beliefs.points("better", saved)
    with pytest.raises(KitError, match="no score 'day'; it has: intent, urgency"):
        few["TF-IDF, 15 rows"].scores("day")
    with pytest.raises(KitError, match="no score 'fields'"):
        few["TF-IDF, 15 rows"].scores()  # two fields are not the six of the others
    with pytest.raises(KitError, match="no score"):
        few["everyday questions"].scores("whole")


def test_a_point_knows_its_losses_its_leak_and_its_general_answers(saved):
    points = ftkit_beliefs.points("data", saved)
    assert points["clean"].losses() == [(step, pytest.approx(1.5)) for step in range(10, 31)]
    assert points["clean"].mean("validation_loss") == 1.0
    assert points["leaked, four passes"].leaked().sum(axis=1).tolist() == [78, 78, 78]
    assert points["clean"].general().tolist() == [[1, 1, 0, 0]] * 3


@pytest.mark.parametrize(
    ("gap", "reach", "word"),
    [(0.1, (0.05, 0.15), "better"), (-0.1, (-0.2, -0.01), "worse"), (0.1, (-0.1, 0.3), "no difference detected")],
)
def test_a_verdict_says_no_more_than_the_interval_carries(gap, reach, word):
    said = " ".join(ftkit_beliefs.verdict(gap, reach, ("the one", "the other")).split())
    assert said.startswith(f"The one against the other: {word} ({100 * gap:+.1f} points of the fields")


def test_a_score_is_read_off_the_curve_of_clean_rows():
    curve = [(40, 0.5), (80, 0.6), (160, 0.8)]
    assert ftkit_beliefs.worth(curve, 0.7) == pytest.approx(120)
    assert ftkit_beliefs.worth(curve, 0.5) == 40
    assert ftkit_beliefs.worth(curve, 0.4) is None and ftkit_beliefs.worth(curve, 0.9) is None
