import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from ftkit.cli.main import _train
from ftkit.common.console import clock
from ftkit.common.errors import KitError
from ftkit.common.files import write_json
from ftkit.common.memory import peak_memory_mb
from ftkit.common.paths import kit_root
from ftkit.common.profiles import PAD_TO, Choice
from ftkit.data.task import Task, load_task
from ftkit.models.load import load_tokenizer
from ftkit.runs.documents import Mark, RunRecord, TaskOfRun
from ftkit.runs.run import Run, all_runs, open_run, unfinished_run
from ftkit.training.finetune import last_checkpoint, train
from ftkit.training.plan import example_lengths
from ftkit.training.trainer import LengthBatches, completion_loss, count_longest_completion, make_trainer, training_data


def quietly(*args, **kwargs):
    return train(*args, **kwargs, say=lambda line: None)


def adapter_weights(run):
    return load_file(run.adapter / "adapter_model.safetensors")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def trainer(tiny_task, tiny_choice, tmp_path):
    dataset = training_data(tiny_task, load_tokenizer(tiny_choice.profile.model), tiny_choice.profile)
    return make_trainer(tmp_path, dataset, tiny_choice.profile)


def test_the_run_records_what_it_was_made_from_and_what_it_measured(tiny_run, tiny_task, tiny_choice):
    record = tiny_run.record
    assert record.status == "finished"
    assert record.seed == tiny_choice.profile.seed
    of_desk = {"name": "desk", "system_prompt": tiny_task.system_prompt}
    assert record.task == TaskOfRun(folder=str(tiny_task.folder), fingerprint=tiny_task.fingerprint(), **of_desk)
    assert record.versions["torch"] == torch.__version__
    assert tiny_run.profile == tiny_choice.profile
    measured = tiny_run.training
    assert measured.steps == 12 and measured.examples == 48
    assert measured.tokens_per_second > 0 and measured.peak_memory_mb > 100 and measured.seconds > 0
    steps = [entry.step for entry in tiny_run.log()]
    assert steps == [4, 8, 12]
    assert measured.threads == sorted({entry.threads for entry in tiny_run.log()}) and min(measured.threads) >= 1
    assert measured.tokens == tiny_run.log()[-1].tokens == sum(training_lengths(tiny_task, tiny_choice))


def test_the_model_card_tells_the_runs_own_figures(tiny_run):
    import yaml

    _, head, text = (tiny_run.folder / "model_card.md").read_text(encoding="utf-8").split("---\n", 2)
    assert "base_model" not in yaml.safe_load(head)  # a folder of this machine: nothing that a hub could link to
    reference = (kit_root() / "data" / "reference_run" / "model_card.md").read_text(encoding="utf-8")
    assert yaml.safe_load(reference.split("---\n", 2)[1])["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    measured = tiny_run.training
    for figure in (tiny_run.record.task.fingerprint, f"{measured.tokens_per_second:.0f} tokens/s", "| rank | 8 |"):
        assert figure in text
    assert "Not evaluated yet" in text or "n = 12" in text
    log = [json.loads(line)["loss"] for line in (kit_root() / "data/reference_run/log.jsonl").read_text().splitlines()]
    assert len(log) == 146 and f"mean loss of the last steps, on training rows, {sum(log[-14:]) / 14:.3f}." in reference


def training_lengths(task, choice):
    return training_data(task, load_tokenizer(choice.profile.model), choice.profile)["length"]


def test_learning_happened_and_only_safetensors_hold_weights(tiny_run):
    losses = [entry.loss for entry in tiny_run.log()]
    assert losses[-1] < losses[0]
    assert any(w.abs().sum() > 0 for name, w in adapter_weights(tiny_run).items() if "lora_B" in name)
    assert sorted(p.name for p in tiny_run.adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((tiny_run.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_run.profile.model
    assert not (tiny_run.folder / "checkpoints").exists()


def test_the_loss_is_trls_own_on_completion_tokens_only(trainer):
    from trl import SFTTrainer

    batch = next(iter(trainer.get_train_dataloader()))
    carries = batch["labels"] != -100
    assert 0 < carries.sum() < batch["attention_mask"].sum()
    with torch.no_grad():
        ours = completion_loss(trainer.model.get_base_model(), batch)
        theirs = SFTTrainer.compute_loss(trainer, trainer.model, dict(batch))
        changed = batch["labels"].clone()
        changed[carries] = (changed[carries] + 1) % 600
        other = completion_loss(trainer.model.get_base_model(), {**batch, "labels": changed})
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)
    assert abs(float(other - ours)) > 0.01


def test_the_end_of_the_turn_carries_loss(trainer):
    tokenizer = trainer.processing_class
    for example in trainer.train_dataset.select(range(4)):
        assert tokenizer.eos_token_id in example["labels"]


def test_batches_hold_rows_of_like_length(trainer, tiny_task, tiny_choice):
    padded = real = 0
    for batch in trainer.get_train_dataloader():
        assert batch["input_ids"].shape[1] % PAD_TO == 0
        padded += batch["input_ids"].shape[0] * int(batch["attention_mask"].sum(1).max())
        real += int(batch["attention_mask"].sum())
    lengths = training_lengths(tiny_task, tiny_choice)
    by_chance = sum(max(lengths[i : i + 4]) * len(lengths[i : i + 4]) for i in range(0, len(lengths), 4))
    assert real == sum(lengths)
    assert padded - real < 0.5 * (by_chance - real)


def test_batches_of_like_length_come_in_random_order_the_longest_row_first():
    lengths = [20 + 7 * n % 61 for n in range(203)]
    batches = LengthBatches(lengths, 2, seed=17)
    order = list(batches)
    assert len(batches) == 203 and sorted(order) == list(range(203)) and lengths[order[0]] == max(lengths)
    pairs = [(lengths[a], lengths[b]) for a, b in zip(order[2:-1:2], order[3::2], strict=True)]
    assert sum(abs(a - b) for a, b in pairs) / len(pairs) < 4
    falls = sum(one[0] >= after[0] for one, after in itertools.pairwise(pairs))
    assert 0.35 < falls / len(pairs) < 0.65, "the lengths go down"
    assert list(batches) == order
    batches.set_epoch(1)
    assert list(batches) != order != list(LengthBatches(lengths, 2, seed=3))
    assert list(LengthBatches([5], 2, seed=17)) == [0] and sorted(LengthBatches([5, 6, 7], 2, seed=17)) == [0, 1, 2]


def test_the_second_pass_has_an_order_of_its_own(trainer):
    first, second = [], []
    for epoch, seen in enumerate((first, second)):
        batches = trainer.get_train_dataloader()
        batches.set_epoch(epoch)
        seen += [tuple(row) for batch in batches for row in batch["input_ids"].tolist()]
    assert first != second and len(first) == len(second)


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(tiny_task, tiny_choice, tiny_run, runs):
    again = quietly(tiny_task, tiny_choice, fresh=True)
    for name, weight in adapter_weights(tiny_run).items():
        torch.testing.assert_close(adapter_weights(again)[name], weight, msg=name)
    other = quietly(tiny_task, Choice(tiny_choice.profile.with_changes(seed=3), "a test"))
    assert any(not torch.equal(w, adapter_weights(other)[name]) for name, w in adapter_weights(tiny_run).items())


KILLED = """
import json, os, signal, sys
from ftkit.training import trainer
from ftkit.training.finetune import train
from ftkit.common.profiles import Choice, Profile
from ftkit.data.task import load_task

calls, loss = 0, trainer.completion_loss

def killing(*args, **kwargs):
    global calls
    calls += 1
    if calls == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(*args, **kwargs)

trainer.completion_loss = killing
profile = Profile(**json.loads(sys.argv[2]))
train(load_task(sys.argv[1]), Choice(profile, "a test"))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("at", [2, 7])  # before the first checkpoint, and between the first and the second
def test_a_killed_training_is_taken_up_and_ends_the_same(at, tiny_task, tiny_choice, tiny_run, runs):
    profile = tiny_choice.profile
    script = KILLED.format(at=at)
    command = [sys.executable, "-c", script, str(tiny_task.folder), json.dumps(vars(profile))]
    killed = subprocess.run(command, env=os.environ | {"FTKIT_RUNS": str(runs)}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (half,) = all_runs()
    assert not half.finished
    assert (last_checkpoint(half) is None) == (at == 2)
    lines = []
    run = train(tiny_task, tiny_choice, say=lines.append)
    assert run.folder == half.folder and run.finished
    assert any(line.startswith("Going on after step 4") for line in lines) == (at == 7)
    for name, weight in adapter_weights(tiny_run).items():
        torch.testing.assert_close(adapter_weights(run)[name], weight, rtol=1e-2, atol=1e-4, msg=name)
    assert [entry.step for entry in run.log()] == [4, 8, 12]
    assert run.log()[-1].tokens == tiny_run.log()[-1].tokens
    assert [r.folder for r in all_runs()] == [run.folder]


def test_a_training_stopped_in_its_second_pass_ends_the_same(tiny_task, tiny_choice, runs):
    twice = Choice(tiny_choice.profile.with_changes(max_steps=24), "a test")  # 12 steps are a pass
    whole = quietly(tiny_task, twice)
    assert not quietly(tiny_task, twice, fresh=True, stop_after=16).finished
    lines = []
    run = train(tiny_task, twice, say=lines.append)
    assert any(line.startswith("Going on after step 16") or line.startswith("Going on after step 18") for line in lines), (
        lines
    )
    assert run.folder != whole.folder and run.log()[-1].tokens == whole.log()[-1].tokens
    assert [entry.loss for entry in run.log()] == pytest.approx([entry.loss for entry in whole.log()], rel=1e-2)
    for name, weight in adapter_weights(whole).items():
        torch.testing.assert_close(adapter_weights(run)[name], weight, rtol=1e-2, atol=1e-4, msg=name)


def test_a_checkpoint_cut_off_is_not_taken(tmp_path):
    run = Run(tmp_path)
    for step, complete in ((4, True), (8, True), (12, False)):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if complete:
            (folder / Mark.FILE).write_text("{}")
    assert last_checkpoint(run).name == "checkpoint-8"


def test_other_data_or_settings_start_a_new_run(tiny_task, tiny_choice, runs, broken_task):
    stopped = quietly(tiny_task, tiny_choice, stop_after=5)
    assert not stopped.finished
    assert unfinished_run(tiny_task, tiny_choice.profile).folder == stopped.folder
    assert unfinished_run(tiny_task, tiny_choice.profile.with_changes(rank=4)) is None
    with (broken_task / "train.jsonl").open("a") as file:
        file.write("\n")
    assert unfinished_run(load_task(broken_task), tiny_choice.profile) is None
    with stopped.claimed():  # another process trains it
        assert unfinished_run(tiny_task, tiny_choice.profile) is None
    with pytest.raises(KitError, match="is not finished"):
        open_run(stopped.folder)


def test_the_command_checks_every_row_once_and_loads_one_tokenizer(tiny_task, tiny_choice, runs, monkeypatch):
    rows, tokenizers = [], []
    check, load = Task.problems, AutoTokenizer.from_pretrained
    monkeypatch.setattr(Task, "problems", lambda task, row: rows.append(row["id"]) or check(task, row))
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *args, **more: tokenizers.append(args) or load(*args, **more)
    )
    two_steps = Choice(tiny_choice.profile.with_changes(max_steps=2, checkpoint_steps=2), "a test")
    monkeypatch.setattr("ftkit.common.profiles.choose_profile", lambda name: two_steps)
    run = _train(str(tiny_task.folder), None, {}, fresh=True)
    assert run.finished
    assert len(rows) == len(set(rows)) == 48 + 8 + 12
    assert len(tokenizers) == 1


def test_a_row_longer_than_the_profile_takes_is_named(tiny_task, tiny_choice, runs):
    short = Choice(tiny_choice.profile.with_changes(max_length=100), "a test")
    with pytest.raises(KitError, match=r"train\.jsonl, row desk-\d+: \d+ tokens \(\d+ such row\(s\)\)") as refused:
        train(tiny_task, short)
    longest = max(example_lengths(tiny_task, tiny_choice.profile)[0])
    assert f"but profile ci takes 100. Shorten them, or: ftkit train --length {longest}" in str(refused.value)
    assert not runs.exists()


def test_an_adapter_that_learned_nothing_is_an_error(tiny_task, tiny_choice, runs):
    with pytest.raises(KitError, match="all adapter weights are zero"):
        quietly(tiny_task, Choice(tiny_choice.profile.with_changes(learning_rate=0.0), "a test"))
    assert not all_runs()[0].finished
    assert not all_runs()[0].adapter.exists()


def test_a_saved_adapter_that_differs_from_the_trained_one_is_an_error(tiny_task, tiny_choice, runs, monkeypatch):
    from safetensors.torch import save_file

    import ftkit.training.finetune as training

    save = training.save_adapter

    def spoil(model, run, profile):
        save(model, run, profile)
        weights = {name: w * 0 for name, w in adapter_weights(run).items()}
        save_file(weights, run.adapter / "adapter_model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(training, "save_adapter", spoil)
    with pytest.raises(KitError, match="loaded again it gives other logits"):
        quietly(tiny_task, tiny_choice)


def test_runs_are_found_by_name_and_the_newest_finished_one_is_taken(tiny_run, runs, monkeypatch):
    monkeypatch.setattr("ftkit.runs.run.reference_run", lambda: None)  # a kit without its own run
    with pytest.raises(KitError, match=r"no finished run .* ftkit train"):
        open_run()
    for name, created, status in (
        ("a", "2026-01-02", "finished"),
        ("b", "2026-01-01", "finished"),
        ("c", "2026-01-03", "training"),
    ):
        shutil.copytree(tiny_run.folder, runs / name)
        Run(runs / name).update(created=created, status=status)
    (runs / "broken").mkdir()
    (runs / "broken" / "run.json").write_text("{")
    assert open_run().name == "a"
    assert open_run("b").name == open_run(runs / "b").name == "b"
    with pytest.raises(KitError, match=r"nowhere is not a run.*c, a, b"):
        open_run("nowhere")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations_are_told_for_people(seconds, text):
    assert clock(seconds) == text


LIGHT = "cli.main cli.task cli.doctor data.check models.find models.hub runs.run common.memory"


def test_importing_what_every_command_needs_loads_nothing_heavy():
    heavy = ("torch", "trl", "gradio", "transformers", "bitsandbytes")
    modules = ", ".join(f"ftkit.{name}" for name in LIGHT.split())
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_tuned_model_may_write_as_long_as_the_longest_training_answer(tiny_run, tiny_task, tmp_path):
    import shutil

    from ftkit.evaluation.answer import Answerer
    from ftkit.models.load import load_tokenizer
    from ftkit.runs.run import SPARE, Run

    tokenizer = load_tokenizer(tiny_run.profile.model)
    texts = [json.dumps(row["ticket"], separators=(",", ":")) + tokenizer.eos_token for row in tiny_task.rows("train")]
    longest = max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    data = training_data(tiny_task, tokenizer, tiny_run.profile)
    assert count_longest_completion(data, tokenizer) == longest > tiny_run.profile.max_new_tokens
    copy = Run(shutil.copytree(tiny_run.folder, tmp_path / "copy"))
    copy.update(training=copy.training.model_copy(update={"longest_completion": longest}))
    assert Answerer.of_run(copy).max_new_tokens == longest + SPARE
    record = copy.record.as_data()
    del record["training"]["longest_completion"]  # a run of an older version
    write_json(RunRecord.path(copy.folder), record)
    assert Answerer.of_run(copy).max_new_tokens == tiny_run.profile.max_new_tokens


def test_the_peak_on_a_gpu_is_what_the_allocator_took_as_the_plan_counts_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1_000_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 1_300_000_000)
    assert peak_memory_mb() == 1300


def test_the_peak_is_this_process_s_own_and_not_that_of_the_one_that_started_it():
    held = bytearray(b"x" * 1_500_000_000)  # more than Python with torch takes
    code = "from ftkit.common.memory import peak_memory_mb; print(peak_memory_mb())"
    own = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 50 < own < 1_200 and len(held) == 1_500_000_000
