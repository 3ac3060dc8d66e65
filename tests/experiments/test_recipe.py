import json
import re
from dataclasses import replace

import numpy as np
import pytest

from experiments import recipe, recipe_report
from experiments.documents import CutScores, RecipeResult, RecipeResults
from experiments.laboratory import RECIPE_PLAN, Experiment, read_plan
from ftkit.common.files import read_json
from ftkit.common.profiles import read_profiles
from ftkit.course.beliefs import FOLDER
from ftkit.data.prompt import completion_text, parse_answer, training_example
from ftkit.data.task import load_task

RESULTS = recipe.LABORATORY.results()
ON = {"date": "2026-01-01", "threads": 1, "versions": {}}  # what an experiment ran on


def test_every_change_is_one_change_from_its_groups_centre():
    groups = {}
    for line in read_plan(RECIPE_PLAN):
        groups.setdefault(line.group, []).append(line)
    named = "recipe small methods closer longer settled order spaces around faster first curves"
    assert list(groups) == named.split()
    for name in ("first", "recipe", "small", "closer", "longer", "settled", "order", "spaces", "around", "faster"):
        centre, *lines = groups[name]
        base = vars(centre.experiments[0])
        for line in lines:
            assert line.expected
            own = vars(line.experiments[0])
            assert own != base
            assert own["seed"] == base["seed"]
    for lines in groups.values():
        keys = [experiment.key for line in lines for experiment in line.experiments]
        assert len(set(keys)) == len(keys)


def test_the_cpu_profile_is_the_recipe_that_the_search_settled_on():
    (settled,) = (line.experiments[0] for line in read_plan(RECIPE_PLAN) if line.group == "order" and not line.expected)
    profile = read_profiles()["cpu"]
    steps = {"max_steps": profile.epochs * len(load_task("desk").rows("train")) / profile.examples_per_step}
    assert settled.profile == {name: getattr(profile, name) for name in settled.profile} | steps
    assert settled.task == {"system_prompt": load_task("desk").system_prompt}
    assert settled.method == "qlora" and settled.special == "shuffled"
    assert recipe.FORMS[settled.task.get("form", "compact")] == load_task("desk").answer_form


def test_the_saved_results_say_what_was_run_and_where():
    assert RecipeResults.load(FOLDER).as_data() == read_json(RecipeResults.path(FOLDER))
    for key, result in RESULTS.items():
        assert Experiment(**result.experiment).key == key
        assert result.date.startswith("20") and result.versions["torch"]
        if result.failed is None:
            assert result.rows and all(len(rows) == 156 for rows in result.rows.values())
            for name, rows in result.rows.items():
                assert rows.count("1") / 156 == pytest.approx(result.scores[name], abs=1e-4)


def test_the_page_is_what_the_saved_results_say(tmp_path):
    recipe_report.write(tmp_path / "RECIPE.md")
    page = (tmp_path / "RECIPE.md").read_text(encoding="utf-8")
    assert page == recipe_report.PAGE.read_text(encoding="utf-8")
    for part in page.split("\n\n"):
        if part.startswith("|"):
            assert len({line.count("|") for line in part.splitlines()}) == 1, part


def test_an_experiment_trains_with_its_changes_and_is_scored_row_by_row(tiny_choice):
    settings = {"model": tiny_choice.profile.model, "max_steps": 2, "rank": 4, "alpha": 4, "max_new_tokens": 4}
    common = {
        "seed": 1,
        "rows": 24,
        "task": {"order": ["guests", "intent", "urgency", "day", "time", "allergens"]},
    }
    qlora = recipe.run(Experiment("qlora", profile=settings, lora={"target_modules": ["q_proj"]}, **common))
    full, mixed, linear = (
        recipe.run(Experiment("full", profile=settings, special=special, **common, test=special == "mixed"))
        for special in ("float32", "mixed", "mixed linear")
    )
    assert qlora["steps"] == full["steps"] == mixed["steps"] == linear["steps"] == 2
    assert qlora["trained_parameters"] < linear["trained_parameters"] < full["trained_parameters"]
    assert qlora["trained_parameters"] < full["trained_parameters"] / 50
    assert len(mixed["test"]["rows"]["intent"]) == len(load_task("desk").rows("test")) and "test" not in full
    assert len(qlora["rows"]["exact match"]) == 156
    assert list(linear["cut"]) == ["16", "64", "256"] and "cut" not in mixed
    assert 0 < linear["cut"]["16"]["kept"] < linear["cut"]["64"]["kept"] <= 1
    assert all(len(scores["rows"]["exact match"]) == 156 for scores in linear["cut"].values())
    json.dumps([qlora, full, mixed, linear])


def test_a_change_is_cut_to_its_largest_directions(tiny_choice):
    import torch

    from ftkit.models.load import load_model

    before, model = (load_model(tiny_choice.profile.model, "float32", four_bit=False) for _ in range(2))
    name = "model.layers.0.mlp.up_proj.weight"
    now, then = (dict(some.named_parameters())[name].data for some in (model, before))
    one, two = (torch.eye(len(then))[:, [i]] @ torch.eye(then.shape[1])[[i]] for i in (0, 1))
    now += 3 * one + 4 * two  # a change of rank 2
    untouched = model.get_input_embeddings().weight.clone()
    shares = []
    for rank, kept in recipe.cut(model, before, [1, 2]):
        shares.append(kept)
        left = dict(model.named_parameters())[name].data - then
        torch.testing.assert_close(left, 4 * two + (3 * one if rank == 2 else 0), atol=1e-5, rtol=0)
    assert shares == [0.64, 1]
    assert torch.equal(model.get_input_embeddings().weight, untouched)


def test_weights_in_blocks_of_64_are_those_of_the_4_bit_model_and_larger_blocks_lose_more(tiny_choice):
    from ftkit.models.four_bit import dequantize
    from ftkit.models.load import load_model

    def weights(model):
        return {name: weight.detach().float() for name, weight in model.named_parameters() if "proj" in name}

    model = tiny_choice.profile.model
    original, four = (
        weights(load_model(model, "float32", four_bit=False)),
        weights(dequantize(load_model(model, "float32"))),
    )
    lost = {}
    for block in (64, 256):
        rounded = load_model(model, "float32", four_bit=False)
        recipe._in_blocks(rounded, block)
        blocks = weights(rounded)
        lost[block] = sum(float((blocks[name] - original[name]).norm() ** 2) for name in original)
        if block == 64:
            assert all((blocks[name] - four[name]).abs().max() < 1e-3 * four[name].abs().max() for name in four)
    assert 1.02 * lost[64] < lost[256] < 1.5 * lost[64]


@pytest.mark.parametrize("name", recipe.FORMS)
def test_every_form_of_a_ticket_is_read_back_as_it_was(name):
    task = recipe._task(Experiment("qlora", 1, task={"form": name}))
    for row in task.rows("validation"):
        assert parse_answer(task, completion_text(task, row["ticket"])) == row["ticket"]
    for text in ("", "{", "a | b"):
        assert parse_answer(task, text) is None
    assert parse_answer(task, '{"intent": [1]}')["intent"] == [1]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("compact", '{"intent":"book","urgency":"normal","guests":4,"day":null,"time":"20:00","allergens":[]}'),
        ("spaced", '{"intent": "book", "urgency": "normal", "guests": 4, "day": null, "time": "20:00", "allergens": []}'),
        ("given only", '{"intent": "book", "urgency": "normal", "guests": 4, "time": "20:00"}'),
        ("values", "book | normal | 4 | - | 20:00 | -"),
        ("one-token words", '{"intent":"book","urgency":"normal","guests":4,"day":null,"time":"20:00","allergens":[]}'),
    ],
)
def test_a_training_example_has_the_experiment_s_form(form, text):
    task = recipe._task(Experiment("qlora", 1, task={"form": form}))
    ticket = {"intent": "book", "urgency": "normal", "guests": 4, "day": None, "time": "20:00", "allergens": []}
    example = training_example(task, {"message": "For four, at eight.", "ticket": ticket})
    assert example["completion"][0]["content"] == text


def test_tfidf_learns_the_intent_better_from_more_rows():
    few, many = (recipe.run(Experiment("tfidf", 1, rows=n))["scores"]["intent"] for n in (50, 800))
    assert 0.2 < few < many - 0.1


def test_a_subset_is_of_the_seed_and_holds_every_intent():
    rows = load_task("desk").rows("train")
    one, again, other = (recipe.subset(rows, 50, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert len({row["ticket"]["intent"] for row in one}) == 12


def result(seed, **rows):
    return RecipeResult(experiment={"seed": seed}, rows=dict.fromkeys(recipe_report.FIELDS, "0101") | rows, **ON)


def difference(results, centre):
    return recipe_report.difference(*map(recipe_report.fields_by_seed, (results, centre)))


def test_a_difference_is_paired_by_row_and_seed():
    centre = [result(1), result(2)]
    better = [result(1, intent="1111", day="1111")]
    gap, low, high = (float(number) for number in re.findall(r"[-+][\d.]+", difference(better, centre)))
    assert gap == pytest.approx(100 * 4 / 24, abs=0.05)
    assert low < gap < high and high - gap == pytest.approx(gap - low, abs=0.11)
    assert difference([result(9)], centre) == "–"
    assert difference([result(2)], centre) == "+0.0 (+0.0 to +0.0)"
    assert np.array_equal(recipe_report.fields_right(better[0]), [1 / 3, 1, 1 / 3, 1])


def test_what_is_left_of_a_cut_change_is_compared_with_all_of_it_and_with_the_centre():
    lines = [line for line in read_plan(RECIPE_PLAN) if line.group == "order"]
    centre, linear = lines[0], next(line for line in lines if "linear layers alone" in line.name)
    scores = {"intent": 0.5, "exact match": 0.25}

    def scored(one, **rows):
        return result(one.seed, **rows).model_copy(update={"experiment": vars(one), "scores": scores})

    def cut(kept, **rows):
        return CutScores(kept=kept, scores=scores, rows=result(1, **rows).rows)

    results = {one.key: scored(one) for one in centre.experiments}
    for one in linear.experiments:
        parts = {"16": cut(0.5, intent="0111"), "64": cut(0.9, intent="1111")}
        results[one.key] = scored(one, intent="1111").model_copy(update={"cut": parts})
    rows = recipe_report.cut_changes([centre, linear], results)
    assert [row[:2] for row in rows] == [("all of it", "100 %"), ("rank 64", "90 %"), ("rank 16", "50 %")]
    assert [row[5].split()[0] for row in rows] == ["–", "+0.0", "-4.2"]  # one field of 24 is lost
    assert [row[6].split()[0] for row in rows] == ["+8.3", "+8.3", "+4.2"]
    assert recipe_report.cut_changes([centre], results) == []


def test_methods_are_compared_on_the_test_split_by_message_and_seed():
    lines = [line for line in read_plan(RECIPE_PLAN) if line.group == "curves" and line.name.endswith("1400 rows")]
    digits = {"qlora": "1100", "full": "1111", "lora": "1100", "tfidf": "1000"}

    def tested(one, rows):
        return RecipeResult(experiment=vars(one), test={"rows": rows}, **ON)

    results = {}
    for line in lines:
        for one in line.experiments:
            assert one.test
            metrics = ("intent",) if one.method == "tfidf" else ("intent", "exact match")
            results[one.key] = tested(one, dict.fromkeys(metrics, digits[one.method]))
    table = {row[:2]: row[2:] for row in recipe_report.on_test(lines, results)}
    assert len(table) == 7 and table["qlora", "intent"][1:] == ("3", "–")
    assert table["full", "whole ticket"][0].startswith("100.0 (") and table["full", "whole ticket"][2].startswith("-50.0 (")
    assert table["lora", "intent"][2] == "+0.0 (+0.0 to +0.0)" and table["tfidf", "intent"][2].startswith("+25.0")
    qlora = next(line for line in lines if line.name.startswith("qlora"))
    changed = replace(qlora, experiments=tuple(replace(one, special="changed") for one in qlora.experiments))
    for one in changed.experiments:
        results[one.key] = tested(one, {"intent": "0000", "exact match": "0000"})
    more = {row[:2]: row[2:] for row in recipe_report.on_test([*lines, changed], results)}
    own = {key: more.pop(key) for key in list(more) if key[0] == f"qlora, {changed.name}"}
    assert more == table
    assert [row[2].split()[0] for row in own.values()] == ["+50.0", "+50.0"]


def test_loftq_begins_nearer_to_the_weights_than_their_4_bits():
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    torch.manual_seed(0)
    weight = torch.randn(64, 64)
    quantized = Params4bit(weight.clone(), requires_grad=False, quant_type="nf4").to("cpu")
    a, b = recipe._loftq(quantized, weight, num_bits=4, reduced_rank=16)  # as peft calls it
    lost = weight - dequantize_4bit(quantized.data, quantized.quant_state)
    assert a.shape == (16, 64) and b.shape == (64, 16)
    assert (lost - b @ a).norm() < 0.9 * lost.norm()
