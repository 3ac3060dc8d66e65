"""The time allowed: what is settled after the first steps, what it costs by the kit's curve, and that it is kept."""

import json
import math
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.optimization import _get_cosine_schedule_with_warmup_lr_lambda as cosine

from ftkit.common.paths import kit_root
from ftkit.common.profiles import Asked, Choice, read_profiles
from ftkit.runs.documents import Budget
from ftkit.training.budget import CURVE, KEPT_BACK, MEASURED, WARM, describe_budget, forecast, price, steps_in
from ftkit.training.finetune import train
from ftkit.training.plan import plan_training

CPU = read_profiles()["cpu"]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))


def test_the_steps_fit_into_the_time_and_all_are_made_where_they_do():
    assert steps_in(15, 7, 0.335, 20, 1460) == 1460
    steps = steps_in(5, 7, 0.335, 20, 1460)
    assert 20 < steps < 1460 and 0.85 * 300 < 7 + (steps - 20) * 0.335 < 300
    assert steps_in(0.1, 7, 0.335, 20, 1460) == 21  # the time is over: one more, so that the rate can fall
    assert steps_in(5, 7, 0.335, 20, 20) == 20


def test_the_price_is_read_from_the_kit_s_own_trainings():
    saved = json.loads((kit_root() / "experiments/results/recipe.json").read_text(encoding="utf-8"))["results"].values()
    recipe = {"batch_size": 2, "learning_rate": 1e-3, "rank": 16, "alpha": 64, "dropout": 0.0}
    found: dict[int, dict[tuple, tuple[float, float]]] = {}
    for result in saved:
        tried = result["experiment"]
        usual = tried["method"] == "qlora" and recipe.items() <= tried["profile"].items() and not tried["lora"]
        usual = usual and tried["task"] == {"system_prompt": "Write the desk ticket."} and tried["sft"].keys() <= {"seed"}
        if usual and tried["special"] in ("", "shuffled") and tried["rows"] in (None, 1400) and "scores" in result:
            fields = [result["scores"][name] for name in ("intent", "urgency", "guests", "day", "time", "allergens")]
            which = tried["seed"], tried["sft"].get("seed"), tried["special"], tried["rows"]  # some stand there twice
            found.setdefault(result["steps"], {})[which] = 100 * np.mean(fields), 100 * result["scores"]["exact match"]
    means = np.array([np.mean(list(found[steps].values()), axis=0) for steps, *_ in CURVE])
    assert sorted(found) == [steps for steps, *_ in CURVE]
    assert np.maximum.accumulate(means).round(1).tolist() == [[fields, tickets] for _, fields, tickets in CURVE]


def test_fewer_steps_cost_more_and_what_was_not_measured_is_said_so():
    shares = [0.05, 0.14, 0.2, 0.5, 0.8, 0.99, 1.0]
    prices = [price(share) for share in shares]
    assert prices == sorted(prices, key=lambda one: -one[1]) and prices[-1] == (0.0, 0.0, True)
    assert not prices[0][2] and prices[1][2]
    budget = Budget(minutes=5, whole=1460, steps=100, seconds_per_step=2.7)
    words = describe_budget(budget, CPU, 1460)
    assert "1,460 steps, takes some 1 h 05 min" in words and "at least 19 points of right fields" in words
    assert "seen 0.14 times and not 2" in words and "--minutes 73 allows all" in words
    words = describe_budget(budget.model_copy(update={"steps": 1460, "minutes": 90.0}), CPU, 1460)
    assert words.endswith("1 h 30 min are allowed: all of it is made.")


def test_a_forecast_comes_from_the_rate_of_matrix_products():
    rate = 2e11
    seconds = 2 * (plan_training(CPU, [90] * 1460, rate=rate).seconds_per_epoch or 0)
    words = forecast(5, CPU, [90] * 1460, rate)
    made = int(re.search(r"([\d,]+) steps are made", words)[1].replace(",", ""))
    assert made * seconds / 1460 == pytest.approx(300 * (1 - KEPT_BACK), rel=0.01)
    assert "all of it is made" in forecast(math.ceil(seconds / 60 / (1 - KEPT_BACK)), CPU, [90] * 1460, rate)


def adapter(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def test_where_the_time_is_enough_nothing_of_the_training_changes(tiny_task, tiny_choice, tiny_run, runs):
    lines = []
    run = train(tiny_task, tiny_choice, say=lines.append, asked=Asked(minutes=30.0))
    assert all(torch.equal(weight, adapter(tiny_run)[name]) for name, weight in adapter(run).items())
    assert [entry.loss for entry in run.log()] == [entry.loss for entry in tiny_run.log()]
    budget = run.record.budget
    assert budget.minutes == 30 and budget.steps == budget.whole == run.training.steps == 12
    assert any("30 min 00 s are allowed: all of it is made" in line for line in lines)
    assert tiny_run.record.budget is None and run.profile == tiny_run.profile


def test_too_little_time_makes_fewer_steps_with_a_schedule_of_their_own_and_keeps_to_it(tiny_task, tiny_choice, runs):
    profile = tiny_choice.profile.with_changes(max_steps=6000, checkpoint_steps=10, batch_size=2)
    lines = []
    stopped = train(tiny_task, Choice(profile, "a test"), say=lines.append, stop_after=22, asked=Asked(minutes=0.1))
    budget = stopped.record.budget
    assert WARM < budget.steps < budget.whole == 6000 and budget.seconds_per_step > 0
    assert any(f"{budget.steps:,} steps are made" in line and "What that costs" in line for line in lines)
    run = train(tiny_task, Choice(profile, "a test"), say=lines.append)  # the same, without the option
    assert run.folder == stopped.folder and run.record.budget == budget
    assert run.training.steps == budget.steps and run.loss_curve()[-1][0] <= budget.steps
    assert any(f"This run makes {budget.steps:,} of 6,000 steps" in line for line in lines)
    warm = math.ceil(profile.warmup * budget.steps)
    for entry in run.log():
        if entry.step > MEASURED + 1:
            rate = profile.learning_rate * cosine(
                entry.step - 1, num_warmup_steps=warm, num_training_steps=budget.steps, num_cycles=0.5
            )
            assert entry.learning_rate == pytest.approx(rate, rel=1e-6)
    assert run.log()[-1].learning_rate < 0.25 * profile.learning_rate
    text = (run.folder / "model_card.md").read_text(encoding="utf-8")
    assert f"was enough for {budget.steps} of 6000 steps" in text


def test_a_run_that_began_without_a_limit_goes_on_without_one_and_says_so(tiny_task, tiny_choice, runs):
    stopped, lines = train(tiny_task, tiny_choice, stop_after=5, say=lambda line: None), []
    run = train(tiny_task, tiny_choice, say=lines.append, asked=Asked(minutes=0.001))
    assert run.folder == stopped.folder and run.training.steps == 12 and run.record.budget is None
    assert any("began without a limit of time and goes on so" in line for line in lines)
