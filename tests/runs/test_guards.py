"""Each guard twice: it fires on what is broken, and stays silent on what is well."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftkit.common.errors import KitError
from ftkit.common.files import read_json, write_json
from ftkit.common.paths import kit_root
from ftkit.common.profiles import Choice
from ftkit.data.prompt import chat_prompt, prompt_text
from ftkit.data.task import load_task
from ftkit.deployment.merge import merged_model
from ftkit.evaluation.answer import Answerer
from ftkit.models.adapter import load_adapter
from ftkit.models.find import weights_digest
from ftkit.models.four_bit import dequantize, linear_4bit_layers
from ftkit.models.load import load_model, load_tokenizer
from ftkit.runs import guards
from ftkit.runs.documents import ExportRecord, RunRecord, TaskOfRun
from ftkit.runs.run import Run, all_runs
from ftkit.training.finetune import train
from ftkit.training.trainer import make_trainer, training_data
from tests.command import ftkit, refused

THINGS = ["template", "end token", "loss mask", "learning rate", "leakage", "base", "adapter", "merge", "lengths"]
SHIPPED = Run(kit_root() / "data" / "reference_run")


@pytest.fixture(scope="module")
def tokenizer(tiny_choice):
    return load_tokenizer(tiny_choice.profile.model)


@pytest.fixture(scope="module")
def dataset(tiny_task, tokenizer, tiny_choice):
    return training_data(tiny_task, tokenizer, tiny_choice.profile)


@pytest.fixture
def trainer(dataset, tiny_choice, tmp_path):
    return make_trainer(tmp_path, dataset, tiny_choice.profile)


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the tiny run, to be broken."""
    return Run(shutil.copytree(tiny_run.folder, tmp_path / "copy"))


def collated(trainer, change):
    """Let the trainer's batches be changed before they are learned from."""
    inner = trainer.data_collator

    def collate(rows):
        batch = inner(rows)
        change(batch)
        return batch

    trainer.data_collator = collate


def at_start(trainer, dataset, choice):
    facts = guards.what_is_learned(trainer, dataset)
    return {finding.thing: finding for finding in guards.at_start(facts, trainer, choice.profile)}


def of_run(run):
    return {finding.thing: finding for finding in guards.of_run(run)}


def only(findings, thing, *words):
    """Only this guard fires, its message holds these words and says what to do; returns the message."""
    assert [name for name, finding in findings.items() if not finding.ok] == [thing]
    message = str(findings[thing])
    assert findings[thing].fix and all(word in message for word in words), message
    return message


# --- healthy ---


def test_a_healthy_training_starts_without_a_word(trainer, dataset, tiny_choice):
    found = at_start(trainer, dataset, tiny_choice)
    assert set(found) == {"template", "lengths", "loss mask", "end token", "4-bit weights", "learning rate"}
    assert all(finding.ok for finding in found.values()), list(map(str, found.values()))


def test_a_healthy_run_passes_all_guards_and_records_what_they_need(tiny_run):
    found = of_run(tiny_run)
    assert list(found) == THINGS
    assert all(finding.ok for finding in found.values()), list(map(str, found.values()))
    assert not any("not recorded" in finding.text for finding in found.values())
    facts = tiny_run.record.guards
    assert facts.loss_tokens > 0 and facts.rows == guards.ROWS
    assert facts.rows_cut == facts.prompt_loss_tokens == facts.padding_loss_tokens == facts.rows_without_end == 0


def test_the_kits_own_run_passes_all_guards():
    found = of_run(SHIPPED)
    assert list(found) == THINGS
    assert all(finding.ok for finding in found.values()), list(map(str, found.values()))


def test_a_run_of_an_earlier_version_is_read_and_said_to_lack_records(run):
    record = run.record.as_data()
    del record["guards"]
    write_json(RunRecord.path(run.folder), record)
    found = of_run(run)
    assert all(finding.ok for finding in found.values())
    for thing in ("template", "end token", "loss mask", "base", "lengths"):
        assert "not recorded" in found[thing].text
    for finding in found.values():
        assert str(finding).startswith("[--] " if "not recorded" in finding.text else "[ok] "), str(finding)
    assert Answerer.of_run(run).task.name == "desk"


# --- 1: another template ---


def test_another_template_than_that_of_the_training_is_refused_at_loading(run):
    run.update(guards=run.record.guards.model_copy(update={"chat_template": "0123456789abcdef"}))
    only(of_run(run), "template", "0123456789abcdef")
    with pytest.raises(KitError, match="template: trained with the chat template 0123456789abcdef"):
        Answerer.of_run(run)


def test_a_base_of_the_same_name_and_shapes_with_other_weights_is_refused(run, tmp_path):
    trained_on = weights_digest(run.profile.model)
    base = Path(shutil.copytree(run.profile.model, tmp_path / "base"))  # here the name of a model is its folder
    run.update(profile=run.profile.with_changes(model=str(base)))
    config = read_json(run.adapter / "adapter_config.json")
    write_json(run.adapter / "adapter_config.json", {**config, "base_model_name_or_path": str(base)})
    assert of_run(run)["base"].ok
    weights = base / "model.safetensors"
    save_file({name: w * 1.01 for name, w in load_file(weights).items()}, weights, {"format": "pt"})
    only(of_run(run), "base", trained_on, weights_digest(str(base)), str(base))
    for use in (Answerer.of_run, merged_model):
        with pytest.raises(KitError, match=r"base: the weights of .* are not those that the adapter belongs to"):
            use(run)


def test_training_prompts_that_are_not_those_that_will_be_asked_are_found(trainer, dataset, tiny_choice):
    trainer.train_dataset = trainer.train_dataset.map(lambda row: {"input_ids": [5, *row["input_ids"][1:]]})
    only(at_start(trainer, dataset, tiny_choice), "template", "32 of 32 training prompts")


def test_a_prompt_that_somebody_wrote_by_hand_is_found(tiny_task, tokenizer):
    chat = chat_prompt(tiny_task, "Table for two")
    assert guards.prompt_form(prompt_text(tokenizer, chat), tokenizer).ok
    closed = tokenizer.apply_chat_template(chat, tokenize=False)
    for prompt in (closed, "Table for two\nTicket:"):
        found = guards.prompt_form(prompt, tokenizer)
        assert not found.ok and repr("<|im_start|>assistant\n") in found.text


# --- 2 and 3: the loss mask ---


def mask_by_token(tokenizer):
    def change(batch):
        batch["labels"][batch["input_ids"] == tokenizer.pad_token_id] = -100

    return change


def test_an_end_masked_as_padding_is_found_before_the_training(trainer, dataset, tiny_choice, tokenizer):
    collated(trainer, mask_by_token(tokenizer))
    found = at_start(trainer, dataset, tiny_choice)
    only(found, "end token", "32 of 32", "does not learn to stop", "attention mask")
    with pytest.raises(KitError, match="end token: in 32 of 32 examples"):
        guards.require(found.values())


def test_loss_on_the_prompt_is_found(trainer, dataset, tiny_choice):
    def change(batch):
        batch["labels"] = torch.where(batch["attention_mask"] == 1, batch["input_ids"], -100)

    collated(trainer, change)
    only(at_start(trainer, dataset, tiny_choice), "loss mask", "of prompts, 0 of padding", "completion_only_loss")


def test_loss_on_padding_is_found(trainer, dataset, tiny_choice):
    def change(batch):
        batch["labels"][batch["attention_mask"] == 0] = batch["input_ids"][batch["attention_mask"] == 0]

    collated(trainer, change)
    only(at_start(trainer, dataset, tiny_choice), "loss mask", ": 0 of prompts")


def test_a_model_that_ends_its_turn_with_another_token_than_the_tokenizers_end_is_healthy(trainer, dataset, tiny_choice):
    """As some models do: the turn's end stands in the generation settings only."""
    end = trainer.processing_class.eos_token_id
    trainer.processing_class.eos_token = "<|endoftext|>"
    trainer.model.get_base_model().generation_config.eos_token_id = [0, end]
    assert at_start(trainer, dataset, tiny_choice)["end token"].ok
    trainer.model.get_base_model().generation_config.eos_token_id = 0  # generation stops at training's own end all the same
    assert at_start(trainer, dataset, tiny_choice)["end token"].ok
    assert guards.what_is_learned(trainer, dataset).end_tokens == [0, end]


def test_a_batch_without_any_loss_is_found(trainer, dataset, tiny_choice):
    collated(trainer, lambda batch: batch["labels"].fill_(-100))
    found = at_start(trainer, dataset, tiny_choice)
    assert "nothing can be learned" in found["loss mask"].text


def test_a_broken_training_is_stopped_before_its_first_step(tiny_task, tiny_choice, tokenizer, tmp_path, monkeypatch):
    from ftkit.training import finetune as training
    from ftkit.training.trainer import make_trainer

    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path))
    whole = make_trainer

    def broken(*arguments):
        trainer = whole(*arguments)
        collated(trainer, mask_by_token(tokenizer))
        return trainer

    monkeypatch.setattr(training, "make_trainer", broken)
    with pytest.raises(KitError, match="end token"):
        train(tiny_task, tiny_choice, say=lambda line: None)
    assert not all_runs() and not list(tmp_path.iterdir())  # nothing that could be taken up is left
    monkeypatch.setattr(training, "make_trainer", whole)
    run = train(tiny_task, tiny_choice, say=lambda line: None, stop_after=4)
    assert not run.finished
    done = ftkit("doctor", run.folder)  # the doctor takes runs that did not end, too
    assert done.returncode == 1 and "[fix] adapter" in done.stdout, done.stdout + done.stderr


# --- 4 and 5: the learning rate ---


@pytest.mark.parametrize(("factor", "words"), [(100, "too high"), (0.01, "too low")])
def test_a_learning_rate_off_by_a_hundred_is_said_before_the_training(tiny_choice, factor, words):
    for rate in (2e-4, 1e-3):  # the profiles' own
        profile = tiny_choice.profile.with_changes(learning_rate=rate)
        assert guards.learning_rate(profile).ok
        found = guards.learning_rate(profile.with_changes(learning_rate=rate * factor))
        assert not found.ok and words in found.text and not found.gate


def curve_of(*losses, every=10):
    return [(every * n, loss) for n, loss in enumerate(losses, 1)]


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ((3.6, 6.1, 5.9, 5.2), "too high"),
        ((3.6, 9.1, 6.9, 3.3), "too high"),
        ((3.6, float("nan")), "too high"),
        ((28.8, 29.1, 12.1, 4.8), "too high"),  # it was thrown out within the first ten steps
        ((3.6, 3.6, 3.5, 3.5), "too low"),
        ((3.6, 1.4, 0.6, 0.4), ""),
        ((3.6, 4.4, 0.6, 0.4), ""),
    ],
)
def test_the_loss_tells_a_learning_rate_that_looked_usual(tiny_choice, losses, words):
    found = guards.learning_rate(tiny_choice.profile, curve_of(*losses))
    assert found.ok == (not words) and words in found.text


def test_a_training_of_a_few_steps_is_not_judged_by_its_loss(tiny_choice):
    assert guards.learning_rate(tiny_choice.profile, curve_of(3.6, 3.7, every=3)).ok


def test_a_training_says_that_its_learning_rate_is_too_high(tiny_task, tiny_choice, tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path))
    said = []
    profile = tiny_choice.profile.with_changes(learning_rate=0.2, max_steps=24, checkpoint_steps=6)
    run = train(tiny_task, Choice(profile, "a test"), say=said.append)
    assert any("[fix] learning rate 0.2 is too high" in line for line in said)
    only(of_run(run), "learning rate", "0.2 is too high; the loss went from")


# --- 6: leakage ---


def test_test_rows_in_the_training_data_are_found(broken_task, tiny_choice, run):
    lines = (broken_task / "test.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    with (broken_task / "train.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    task = load_task(broken_task)
    run.update(task=TaskOfRun(name="desk", folder=str(broken_task), fingerprint=task.fingerprint()))
    only(of_run(run), "leakage", "3 equal and 0 nearly equal pairs across splits")
    assert refused(ftkit("train", broken_task), "leakage: 3 equal")


def test_data_that_changed_after_the_training_are_found(broken_task, run):
    with (broken_task / "test.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    run.update(task=run.record.task.model_copy(update={"folder": str(broken_task)}))
    only(of_run(run), "leakage", "not those of the training")


# --- 7: the adapter ---


def changed(run, change):
    weights = run.adapter / "adapter_model.safetensors"
    save_file(change(load_file(weights)), weights)


def test_a_saved_adapter_of_zeros_is_refused(run):
    changed(run, lambda weights: {name: w * 0 if "lora_B" in name else w for name, w in weights.items()})
    only(of_run(run), "adapter", "all its B matrices are zero", "the base's")
    with pytest.raises(KitError, match="all zeros: it answers as the base"):
        Answerer.of_run(run)
    with pytest.raises(KitError, match="all zeros: it answers as the base"):
        merged_model(run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: {}, "it holds no LoRA weights"),
        (lambda weights: {name: w * float("nan") for name, w in weights.items()}, "not finite"),
    ],
)
def test_a_saved_adapter_that_is_empty_or_not_finite_is_found(run, change, words):
    changed(run, change)
    only(of_run(run), "adapter", words)


def test_a_missing_or_broken_adapter_file_is_a_finding(run):
    weights = run.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    only(of_run(run), "adapter", "is broken")
    weights.unlink()
    only(of_run(run), "adapter", "is missing")


def test_a_model_that_answers_without_its_adapter_is_found(tiny_run):
    base = load_model(tiny_run.profile.model, tiny_run.profile.dtype)
    assert "no adapter is on this model" in guards.adapter_in_use(base).text
    tuned = load_adapter(base, tiny_run.adapter)
    assert guards.adapter_in_use(tuned).ok
    with tuned.disable_adapter():
        assert "switched off" in guards.adapter_in_use(tuned).text
    assert guards.adapter_in_use(tuned).ok


# --- 8: four bits ---


def test_layers_that_an_evaluation_would_repack_are_found_and_the_trainer_is_not_started(trainer, dataset, tiny_choice):
    for layer in linear_4bit_layers(trainer.model):
        layer.support_avx512bf16_for_cpu = True
    only(at_start(trainer, dataset, tiny_choice), "4-bit weights", "will be repacked", "keep_weights_unpacked")


def test_layers_that_were_repacked_are_found_and_not_merged(tiny_run):
    from bitsandbytes.functional import has_avx512bf16

    model = load_model(tiny_run.profile.model, tiny_run.profile.dtype)
    assert guards.unpacked(model).ok
    layers = linear_4bit_layers(model)
    for layer in layers:
        layer.support_avx512bf16_for_cpu = has_avx512bf16()
    if not has_avx512bf16():  # what such a processor would leave behind
        layers[0].weight.quant_state.packing_format_for_cpu = True
    with torch.inference_mode():
        model.eval()(torch.arange(3, 43)[None])
    found = guards.unpacked(model)
    assert not found.ok and "were repacked by a forward pass" in found.text
    assert guards.mergeable(model) == found


def test_merging_into_four_bits_is_found(tiny_run):
    model = load_model(tiny_run.profile.model, tiny_run.profile.dtype)
    found = guards.mergeable(load_adapter(model, tiny_run.adapter))
    assert not found.ok and "14 layers are in 4 bits" in found.text and "Dequantize" in found.fix
    whole = dequantize(load_model(tiny_run.profile.model, tiny_run.profile.dtype))
    assert guards.mergeable(load_adapter(whole, tiny_run.adapter)).ok


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"adapter": "other", "verification": None}, "merged was made of another adapter"),
        ({"verification": {"n": 20, "identical": 0.5, "same_answer": 0.55}}, "merged answers like the tuned model in 55%"),
        ({"verification": {"n": 20, "identical": 1.0, "same_answer": 1.0}}, ""),
        ({"verification": None}, ""),
    ],
)
def test_an_export_that_lost_the_tuned_model_is_found(run, record, words):
    from ftkit.runs.run import adapter_digest

    made = {"to": "merged", "run": run.name, "created": "today", "size_mb": 1.0, "adapter": adapter_digest(run)}
    write_json(ExportRecord.path(run.folder / "exports" / "merged"), {"format": 1, **made, **record})
    found = of_run(run)
    if words:
        only(found, "merge", words)
    else:
        assert found["merge"].ok and "merged" in found["merge"].text


# --- 9: lengths ---


def test_examples_cut_by_the_maximum_length_are_found(trainer, dataset, tiny_choice):
    limit = sorted(dataset["length"])[len(dataset) // 2]
    trainer.train_dataset = trainer.train_dataset.map(
        lambda row: {name: row[name][:limit] for name in ("input_ids", "labels")}
    )
    over = sum(length > limit for length in dataset["length"])
    message = only(at_start(trainer, dataset, tiny_choice), "lengths", f"{over} training examples were cut")
    assert f"max_length to {max(dataset['length'])}" in message


def test_answers_that_may_not_be_as_long_as_in_training_are_found():
    assert guards.lengths(None, longest_answer=52, room=56).ok
    assert "answers end after 40 tokens at most" in guards.lengths(None, longest_answer=52, room=40).text


def test_an_export_may_write_as_much_as_the_longest_training_answer(run, tmp_path):
    from ftkit.deployment.merge import save_merged

    run.update(training=run.training.model_copy(update={"longest_completion": 90}))
    save_merged(run, tmp_path / "merged")
    settings = json.loads((tmp_path / "merged" / "generation_config.json").read_text(encoding="utf-8"))
    assert settings["max_new_tokens"] == run.answer_tokens >= 90


# --- the doctor ---


def test_the_doctor_of_a_run_prints_a_line_a_guard_and_fails_where_something_must_be_mended(run):
    done = ftkit("doctor", run.folder)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line[6:].split("  ")[0][:13].strip() for line in lines] == THINGS
    assert all(line.startswith("[ok]") for line in lines)
    (run.adapter / "adapter_model.safetensors").unlink()
    done = ftkit("doctor", run.folder)
    assert done.returncode == 1 and "[fix] adapter" in done.stdout and done.stdout.count("[ok]") == len(THINGS) - 1
    assert refused(ftkit("doctor", "nowhere"), "nowhere is not a run")


def test_a_run_whose_record_is_broken_is_refused_with_file_and_field(run):
    record = RunRecord.load(run.folder).as_data()
    write_json(RunRecord.path(run.folder), record | {"task": {"folder": "desk"}})
    assert refused(ftkit("doctor", run.folder), "run.json, field 'task.name': field required. Restore it from a copy")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"peft_type": "LORA"', r"adapter/adapter_config\.json is not readable as JSON"),
        (
            '{"peft_type": "LORA", "r": 3, "base_model_name_or_path": "BASE"}',
            r"says rank 3, but the weights have rank 8",
        ),
        ('{"peft_type": "LORA", "r": 8, "base_model_name_or_path": "a/b"}', "was trained on a/b, but the run on"),
    ],
)
def test_an_adapter_with_another_configuration_is_found_without_a_model(run, config, words):
    assert guards.adapter(run.adapter, run.profile.model).ok
    (run.adapter / "adapter_config.json").write_text(config.replace("BASE", run.profile.model))
    found = next(finding for finding in guards.of_run(run) if finding.thing == "adapter")
    assert not found.ok and found.fix and re.search(words, found.text) and str(run.folder) not in str(found)
