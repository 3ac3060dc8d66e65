import itertools

import pytest

from ftkit.common.machine import Hardware
from ftkit.common.profiles import Asked, Choice, read_profiles
from ftkit.training.finetune import train
from ftkit.training.plan import model_shape
from ftkit.training.schedule import ENOUGH, EPOCHS, MINUTES, MINUTES_FOR_FEW, MOST_EPOCHS, follow_data, steps_of
from tests.command import ftkit, refused

CPU = Hardware("cpu", "2 CPU cores", 8.0)
T4 = Hardware("cuda", "Tesla T4", 14.6, (7, 5))
PROFILES = read_profiles()
CPU_PROFILE = PROFILES["cpu"]
SHAPE = model_shape(CPU_PROFILE.model)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))


def settled(rows, tokens=90, profile=CPU_PROFILE, hardware=CPU, **asked):
    return follow_data(profile, [tokens] * rows, Asked(**asked), SHAPE, hardware)


@pytest.mark.parametrize("name", ["cpu", "t4", "big"])
@pytest.mark.parametrize("rows", [1400, 1460])
def test_the_desk_gets_the_recipe_as_it_was(name, rows):
    profile = PROFILES[name]
    hardware = CPU if name == "cpu" else Hardware("cuda", "A100", 40.0, (8, 0))
    schedule = follow_data(profile, [90] * rows, Asked(), model_shape(profile.model), hardware)
    assert schedule.profile == profile
    assert steps_of(profile, rows) == 2 * -(-rows // profile.examples_per_step)


@pytest.mark.parametrize(
    ("rows", "epochs", "steps"),
    [(10, 6, 30), (15, 6, 48), (50, 6, 150), (100, 6, 300), (150, 4, 300), (400, 4, 800), (640, 2.5, 800), (800, 2, 800)],
)
def test_few_rows_are_repeated_until_the_updates_are_enough(rows, epochs, steps):
    schedule = settled(rows)
    assert (schedule.profile.epochs, schedule.profile.examples_per_step) == (epochs, 2)
    assert steps_of(schedule.profile, rows) == steps
    assert schedule.profile == CPU_PROFILE.with_changes(epochs=epochs)


def test_more_rows_never_mean_clearly_fewer_updates():
    steps = [steps_of(settled(rows).profile, rows) for rows in range(10, 1500, 10)]
    assert all(after >= 0.95 * before for before, after in itertools.pairwise(steps))  # epochs have one decimal
    assert settled(ENOUGH - 1).profile.epochs == settled(ENOUGH).profile.epochs == CPU_PROFILE.epochs
    assert max(settled(rows).profile.epochs for rows in range(1, 1500, 7)) == MOST_EPOCHS


def test_repeating_takes_no_more_than_its_minutes_and_never_fewer_epochs_than_the_profile():
    long = settled(150, 500)
    assert CPU_PROFILE.epochs < long.profile.epochs < EPOCHS
    assert 50 * MINUTES_FOR_FEW < long.seconds <= 60 * MINUTES_FOR_FEW
    assert "as far as time allows" in " ".join(long.reasons)
    assert settled(290, 500).profile.epochs == CPU_PROFILE.epochs


def test_many_rows_do_not_get_hours_unasked_and_it_says_how_many_are_seen():
    schedule = settled(50_000)
    assert 0.9 * 60 * MINUTES < schedule.seconds <= 60 * MINUTES + 1
    assert schedule.profile.epochs == 0.19
    words = " ".join(schedule.reasons)
    assert "2 epochs would take some 5 h" in words and "9,500 of the rows, drawn at random, once" in words
    (asked_for,) = [word for word in words.split("--minutes ")[1].split() if word.isdigit()][:1]
    assert settled(50_000, minutes=float(asked_for)).profile == CPU_PROFILE
    assert "all rows 1.9 times" in " ".join(settled(1460, 300).reasons)


def test_the_time_allowed_is_kept_to_while_it_trains_and_cuts_nothing_before():
    for minutes in (0.5, 5, 60):
        assert settled(150, minutes=minutes).profile.epochs == settled(150, 500, minutes=minutes).profile.epochs == 4
    assert settled(150, minutes=5, epochs=3.0).profile.epochs == 3


def test_what_is_asked_for_always_wins_and_is_said():
    schedule = settled(150, epochs=3.0, batch=8, rate=5e-4)
    assert schedule.profile == CPU_PROFILE.with_changes(epochs=3.0, batch_size=8, learning_rate=5e-4)
    assert "As asked: epochs 3, batch 8, rate 0.0005." in schedule.reasons
    assert settled(150, steps=40).profile == CPU_PROFILE.with_changes(max_steps=40)
    assert settled(50_000, epochs=2.0).profile == CPU_PROFILE
    ci = PROFILES["ci"]
    assert settled(150, profile=ci).profile == ci  # a profile that counts its steps is left alone
    assert settled(150, profile=ci, epochs=1.0).profile == ci.with_changes(max_steps=-1)


def test_a_gpu_takes_small_steps_for_few_rows_and_its_own_for_many():
    profile, shape = PROFILES["t4"], model_shape(PROFILES["t4"].model)
    few = follow_data(profile, [90] * 150, Asked(), shape, T4).profile
    assert (few.examples_per_step, few.epochs) == (2, 4)
    assert follow_data(profile, [90] * 150, Asked(batch=4), shape, T4).profile.examples_per_step == 4
    assert follow_data(PROFILES["big"], [90] * 150, Asked(), shape, T4).profile.gradient_accumulation == 1


def test_a_larger_model_than_the_profile_s_takes_smaller_steps():
    larger = CPU_PROFILE.with_changes(model=PROFILES["t4"].model)
    schedule = follow_data(larger, [90] * 1400, Asked(), model_shape(larger.model), CPU)
    assert schedule.profile.learning_rate == PROFILES["t4"].learning_rate == 4e-4
    assert "nobody has searched it" in " ".join(schedule.reasons)
    largest = CPU_PROFILE.with_changes(model=PROFILES["big"].model)
    assert follow_data(largest, [90] * 1400, None, None, CPU).profile.learning_rate == PROFILES["big"].learning_rate
    assert follow_data(larger, [90] * 150, Asked(rate=1e-3), None, CPU).profile.learning_rate == 1e-3


def test_the_same_data_give_the_same_schedule_so_that_a_stopped_training_is_taken_up(tiny_task, tiny_choice, runs):
    choice = Choice(tiny_choice.profile.with_changes(max_steps=-1, checkpoint_steps=5), "a test")
    lines = []
    stopped = train(tiny_task, choice, say=lines.append, stop_after=6, asked=Asked(epochs=1.0))
    again = train(tiny_task, choice, say=lines.append, asked=Asked(epochs=1.0))
    assert again.folder == stopped.folder and again.training.steps == 12
    assert any(line.startswith("Schedule for 48 rows: 1 epochs, 12 steps of 4") for line in lines)
    assert again.profile == choice.profile.with_changes(epochs=1.0)


def test_without_the_rule_a_profile_is_trained_as_it_is(tiny_task, tiny_choice, runs):
    lines = []
    run = train(tiny_task, tiny_choice, say=lines.append, stop_after=1)
    assert run.profile == tiny_choice.profile and not any("Schedule" in line for line in lines)


def test_the_commands_say_what_they_chose(tmp_path):
    done = ftkit("plan", "desk", "--profile", "cpu", "--minutes", "5", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "Schedule for 1,460 rows: 2 epochs" in done.stdout and "5 min 00 s are allowed" in done.stdout
    assert "time for its 2 epochs" in done.stdout
    refused(ftkit("plan", "--length", "100", "--minutes", "5"), "leave out --length")
