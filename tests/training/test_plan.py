import pytest
import torch

from ftkit.common.errors import KitError
from ftkit.common.machine import Hardware
from ftkit.common.profiles import choose_profile, read_profiles
from ftkit.data.task import load_task
from ftkit.models.catalog import CATALOG
from ftkit.models.four_bit import weight_bytes
from ftkit.models.head import PIECE
from ftkit.models.load import load_model
from ftkit.training.plan import (
    METHODS,
    MOST_EXAMPLES,
    MOST_TOKENS,
    describe_gap,
    example_lengths,
    fits,
    largest_batch,
    longest_rows,
    model_shape,
    operations_per_token,
    plan_training,
)
from ftkit.training.trainer import completion_loss, make_trainer, training_data
from tests.command import ftkit, refused

CPU = Hardware("cpu", "a laptop", 16.0)
T4 = Hardware("cuda", "T4", 15.0, (7, 5))
A100 = Hardware("cuda", "A100", 40.0, (8, 0))
PROFILES = read_profiles()


@pytest.fixture(scope="module")
def trainer(tiny_task, tiny_choice, tmp_path_factory):
    from ftkit.models.load import load_tokenizer

    data = training_data(tiny_task, load_tokenizer(tiny_choice.profile.model), tiny_choice.profile)
    return make_trainer(tmp_path_factory.mktemp("plan"), data, tiny_choice.profile)


def test_the_models_of_the_profiles_can_be_planned_without_a_hub():
    sizes = {name: model_shape(name).weights for name in CATALOG}
    assert {profile.model for profile in PROFILES.values()} == set(CATALOG)
    assert [round(size / 1e6) for size in sizes.values()] == [135, 1711, 7616]


def test_weights_and_adapter_are_those_of_the_model_itself(trainer, tiny_choice):
    shape = model_shape(tiny_choice.profile.model)
    plan = plan_training(tiny_choice.profile, [100], "qlora", shape, CPU)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert tiny_choice.profile.rank * shape.sides == trained
    assert plan.parts["adapter"] == pytest.approx(trained * 4 / 1e6)  # kept in float32
    real = read_profiles()["cpu"].with_changes(dtype="bfloat16")
    alone = weight_bytes(load_model(real.model, "bfloat16"))
    assert plan_training(real, [100], hardware=CPU).parts["weights"] * 1e6 == pytest.approx(alone, rel=0.01)


@pytest.mark.parametrize(("batch", "length", "learned"), [(2, 40, 5), (4, 100, 5), (3, 200, 5), (4, 100, 60)])
def test_the_activations_are_what_pytorch_keeps_for_the_backward_pass(trainer, tiny_choice, batch, length, learned):
    model = trainer.model.get_base_model().train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(5, 600, (batch, length))
    labels = ids.clone()
    labels[:, :-learned] = -100
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.autocast("cpu", dtype=torch.bfloat16), hooks:
        completion_loss(model, inputs)
    logits = learned * batch if learned * batch <= PIECE else 0  # those of a conversation are computed again
    measured = sum(storage.nbytes() for storage in kept.values()) - logits * model.config.vocab_size * 4
    profile = tiny_choice.profile.with_changes(batch_size=batch, dtype="bfloat16")
    plan = plan_training(profile, [length], "qlora", model_shape(profile.model), CPU)
    assert plan.parts["activations"] * 1e6 == pytest.approx(measured, rel=0.08)


def test_the_parts_follow_method_device_and_settings():
    profile = PROFILES["cpu"].with_changes(dtype="bfloat16", batch_size=4)
    plans = {method: plan_training(profile, [100], method, hardware=CPU) for method in METHODS}
    assert plans["lora"].parts["weights"] > 2 * plans["qlora"].parts["weights"]
    assert plans["full"].parts["optimizer"] > 3 * plans["lora"].parts["optimizer"]
    assert plans["full"].parts["adapter"] == 0
    halves, whole = (plan_training(PROFILES["t4"], [100], "full", hardware=card).parts["weights"] for card in (A100, T4))
    assert whole == pytest.approx(2 * halves)  # float16 training keeps what it trains in 32 bits
    long, short = (plan_training(profile, [n], hardware=T4).parts["activations"] for n in (192, 96))
    assert long == pytest.approx(2 * short)
    twice = plan_training(profile.with_changes(batch_size=8), [100], hardware=CPU)
    assert twice.parts["activations"] == pytest.approx(2 * plans["qlora"].parts["activations"], rel=0.03)
    thrifty = plan_training(profile.with_changes(gradient_checkpointing=True), [100], hardware=CPU)
    assert thrifty.parts["activations"] < 0.2 * plans["qlora"].parts["activations"]
    logits = [plan_training(profile, [512], hardware=CPU, completion=n).parts["logits"] for n in (8, 64, 512)]
    assert logits[0] < logits[1] == logits[2]  # at a piece of the tokens at most
    on_card = plan_training(PROFILES["t4"], [100], hardware=T4)
    assert "libraries" not in on_card.parts
    assert on_card.parts["optimizer"] == pytest.approx(on_card.parts["adapter"] / 2)  # 8 bits for each of two states, of 32


def test_a_t4_takes_the_larger_model_in_four_bits_and_not_in_full():
    profile = PROFILES["big"]
    found = {m: largest_batch(profile, [200], T4.memory, method=m, hardware=T4) for m in METHODS}
    assert found["full"] is None and found["lora"] is None
    batch, accumulation = found["qlora"]
    assert 1 <= batch < profile.batch_size and batch * accumulation == profile.examples_per_step


@pytest.fixture(scope="module")
def desk_lengths():
    return example_lengths(load_task("desk"), PROFILES["cpu"])[0]


@pytest.mark.parametrize(("name", "capability"), [("t4", (7, 5)), ("t4", (8, 6)), ("big", (8, 9))])
def test_a_profile_of_a_gpu_fits_the_smallest_card_that_it_is_chosen_for(name, capability, desk_lengths, monkeypatch):
    monkeypatch.delenv("FTKIT_PROFILE", raising=False)
    cards = [Hardware("cuda", "a card", gb / 2, capability) for gb in range(2, 160)]
    card = next(card for card in cards if choose_profile(hardware=card).profile.name == name)
    assert fits(plan_training(PROFILES[name], desk_lengths, hardware=card), card.memory)


def test_the_batch_that_fits_is_looked_for_beyond_that_of_the_profile(desk_lengths):
    h200 = Hardware("cuda", "H200", 141.0, (9, 0))
    for name in ("cpu", "t4"):
        assert largest_batch(PROFILES[name], desk_lengths, 141, hardware=h200) == (MOST_EXAMPLES, 1)
    profile, shape = PROFILES["big"], model_shape(PROFILES["big"].model)
    on = {"method": "qlora", "shape": shape, "hardware": A100}
    for memory in (7, 9, 22, 40, 80):
        found = largest_batch(profile, desk_lengths, memory, **on)
        if found is None:
            assert not fits(plan_training(profile.with_changes(batch_size=1), desk_lengths, **on), memory)
            continue
        batch, accumulation = found
        assert batch * accumulation == profile.examples_per_step or (accumulation == 1 and batch in (32, 64))
        given = {"batch_size": batch, "gradient_accumulation": accumulation}
        assert fits(plan_training(profile.with_changes(**given), desk_lengths, **on), memory)
        twice = {"batch_size": 2 * batch, "gradient_accumulation": max(1, accumulation // 2)}
        assert batch == MOST_EXAMPLES or not fits(plan_training(profile.with_changes(**twice), desk_lengths, **on), memory)


def test_the_longest_rows_that_fit_are_the_last_that_do():
    shape = model_shape(PROFILES["big"].model)
    on = {"method": "qlora", "shape": shape, "hardware": A100}
    length = longest_rows(PROFILES["big"], 22, **on)
    assert length % 8 == 0 and 156 < length < PROFILES["big"].max_length
    assert fits(plan_training(PROFILES["big"], [length], **on), 22)
    assert not fits(plan_training(PROFILES["big"], [length + 8], **on), 22)
    assert longest_rows(PROFILES["big"], 4, **on) is None
    assert longest_rows(PROFILES["t4"], 141, hardware=A100) == MOST_TOKENS


def test_operations_count_six_a_trained_weight_and_four_a_frozen_one():
    shape, profile = model_shape(PROFILES["cpu"].model), PROFILES["cpu"].with_changes(rank=1)
    full = operations_per_token(shape, "full", profile, 64)
    frozen = operations_per_token(shape, "qlora", profile, 64)
    assert full / frozen == pytest.approx(1.5, rel=0.02)
    tables = 4 * (16 + 256) * 30 * 7  # of each layer
    assert (shape.packed - tables) / shape.linear == pytest.approx(0.5159, abs=1e-4)


def test_the_gap_is_told_in_words():
    assert describe_gap(100, 101) == "as planned"
    assert describe_gap(100, 112) == "12% more than planned"
    assert describe_gap(100, 80) == "20% less than planned"


def test_the_command_prints_the_plan_and_names_a_model_that_cannot_be_had(tmp_path):
    done = ftkit("plan", "--profile", "big", "--length", "200", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    for word in (
        "Qwen/Qwen2.5-7B-Instruct: 7,616 million weights",
        "QLoRA, rank 32",
        "most at once",
        "time for its 2 epochs",
        "T4, 15 GB",
        "does not fit",
        "Largest batch that fits",
        "Longest row that fits, in tokens, at batch 8",
    ):
        assert word in done.stdout
    refused(ftkit("plan", "--model", tmp_path / "nothing", "--length", "100"), "no configuration to be had")


def test_a_run_records_its_plan_beside_what_was_measured(tiny_run):
    measured = tiny_run.training
    assert measured.planned_memory_mb > 500
    assert measured.memory_against_plan == describe_gap(measured.planned_memory_mb, measured.peak_memory_mb)


def test_an_unknown_method_is_refused():
    with pytest.raises(KitError, match="not one of full, lora, qlora"):
        plan_training(PROFILES["cpu"], [10], "prompt")
