"""Fine-tuning: QLoRA with trl's SFTTrainer over a 4-bit base, resumable, measured, and checked after saving (lesson 03)."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel

from ftkit.common.console import Say, clock
from ftkit.common.errors import KitError
from ftkit.common.files import writing
from ftkit.common.machine import resolve_dtype
from ftkit.common.memory import peak_memory_mb
from ftkit.common.processes import agree, collect, is_first, is_sharded, part, world_size
from ftkit.common.profiles import Asked, Choice, settle_replay
from ftkit.common.threads import describe_threads, following_load
from ftkit.data.prompt import chat_prompt, prompt_ids
from ftkit.data.task import Row, Task
from ftkit.models.adapter import load_adapter
from ftkit.models.chat_template import template_changes
from ftkit.models.find import full_name, weights_digest
from ftkit.models.load import load_model
from ftkit.runs import guards
from ftkit.runs.card import write_card
from ftkit.runs.documents import Live, Mark
from ftkit.runs.run import Run, new_run, unfinished_run
from ftkit.training.budget import Pace
from ftkit.training.give_way import GiveWay
from ftkit.training.looks import Looks
from ftkit.training.plan import plan_training
from ftkit.training.progress import Progress
from ftkit.training.replay.mix import count_in_words, keep_rows, mix_in
from ftkit.training.schedule import follow_data
from ftkit.training.trainer import CompletionTrainer, TrainingSet, cast_adapter, make_trainer, prepare


def train(
    task: Task,
    choice: Choice,
    fresh: bool = False,
    say: Say = print,
    stop_after: int | None = None,
    rows: Mapping[str, Sequence[Row]] | None = None,
    asked: Asked | None = None,
) -> Run:
    """Fine-tune a base model on a task and return the finished run (lesson 03 builds this step by step).

    A run that was stopped midway, with the same data and profile, is taken up from its last checkpoint unless `fresh`.
    `say` gets the progress lines. `stop_after` ends after so many steps as if interrupted (for lessons and tests). `rows`
    are the task's, by split, where they have been read already. `asked` lets epochs, batch and rate follow the data (see
    `schedule.follow_data`) and sets the time allowed (`budget`); left out, the profile's are taken as they are.
    Raises `KitError` for bad rows, rows longer than the profile's `max_length`, or an adapter that fails its check.
    """
    profile = settle_replay(choice.profile, task.replay, asked.replay if asked else None)
    profile = profile.with_changes(model=full_name(profile.model))
    choice = replace(choice, profile=profile)
    data = mix_in(prepare(task, profile, rows), say)
    if asked:
        schedule = follow_data(profile, data.dataset["length"], asked)
        profile = schedule.profile
        choice, data = replace(choice, profile=profile), replace(data, profile=profile)
        if is_first():
            say("\n".join(schedule.reasons))
    if not is_first():
        theirs = _train(Run(Path(agree(None))), choice, data, lambda line: None, stop_after, asked or Asked())
        part()
        return theirs
    stopped = None if fresh else unfinished_run(task, profile)
    if stopped:
        say(f"Taking up {stopped.name}, which was stopped midway (--fresh starts anew).")
    run = stopped or new_run(task, profile, choice.reason)
    with _nothing_left_behind(run), run.claimed(), writing(run.folder), following_load():
        agree(str(run.folder))
        run = _train(run, choice, data, say, stop_after, asked or Asked())
    part()
    return run


@contextlib.contextmanager
def _nothing_left_behind(run: Run) -> Iterator[None]:
    """Remove a run that failed before anything of it could be taken up; a model's own error becomes one line."""
    model = run.profile.model
    try:
        yield
    except Exception as error:
        if last_checkpoint(run) or run.log():
            raise
        shutil.rmtree(run.folder, ignore_errors=True)
        if isinstance(error, KitError | OSError):
            raise
        reason = (str(error).strip() or "no reason given").splitlines()[0][:300]
        look = f"What of it works: ftkit doctor --model {model}"
        raise KitError(f"{model} cannot be trained here ({type(error).__name__}: {reason}). {look}") from error


def _train(run: Run, choice: Choice, data: TrainingSet, say: Say, stop_after: int | None, asked: Asked) -> Run:
    data = keep_rows(run, data)
    profile, dataset = choice.profile, data.dataset
    say(f"Profile {profile.name}: {choice.reason}.")
    together = f", {world_size()} processes together" if world_size() > 1 else ""
    say(f"Fine-tuning {profile.model} in 4-bit on {count_in_words(data)}{together}; run {run.name}")
    for change in template_changes(data.tokenizer):
        say(f"The model's chat template: {change}. The run and its exports keep it.")
    for remark in data.remarks:
        say(remark)
    plan = plan_training(profile, dataset["length"], completion=max(map(sum, dataset["completion_mask"])))
    say(f"Planned: {plan.peak_mb / 1000:.1f} GB of memory at most. Threads: {describe_threads()}.")
    trainer = make_trainer(run.folder / "checkpoints", dataset, profile, data.tokenizer, say)
    known = {"base": weights_digest(profile.model), "loss": trainer.proof.way if trainer.proof else None}
    facts = guards.what_is_learned(trainer, dataset).model_copy(update=known)
    guards.require(guards.at_start(facts, trainer, profile), say)
    progress = Progress(run, data, plan, say, stop_after)
    pace = Pace(trainer, progress, asked.minutes)
    looks = Looks(trainer, progress, pace, asked.keep_best)
    for callback in (GiveWay(run), pace, looks, progress):  # in this order: what was measured is in the log of the same step
        trainer.add_callback(callback)
    checkpoint = last_checkpoint(run)
    progress.start_at(checkpoint)
    pace.take_up(checkpoint is not None)
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop_after and trainer.state.global_step < trainer.state.max_steps:
        return run
    peak, kept = peak_memory_mb(), looks.take_best()
    finish(trainer, run, data)
    if not is_first():
        return run
    record = progress.record(trainer, result.training_loss, peak, kept)
    run.update(status="finished", guards=facts, training=record)
    Live.path(run.folder).unlink(missing_ok=True)
    write_card(run)
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    say(
        f"Finished: {record.steps} steps in {clock(record.seconds)}, {record.tokens_per_second:.0f} tokens/s, peak memory "
        f"{peak / 1000:.1f} GB ({record.memory_against_plan}). The saved adapter, loaded again, gives the same logits."
    )
    guards.require([guards.adapter(run.adapter), guards.learning_rate(profile, run.loss_curve())], say)
    return run


def finish(trainer: CompletionTrainer, run: Run, data: TrainingSet) -> None:
    """Save the adapter and check it; with several processes the first does, after all of them hold the same adapter.

    Raises `KitError` if they do not: then the gradients were not shared.
    """
    model = trainer.model
    if is_sharded():  # every process gives its part; a model spread over cards is not loaded again on one of them
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(str(run.adapter))
        return
    if len(set(collect(_digest(model)))) > 1:
        raise KitError(f"{run.name}: the processes ended with different adapters. Train again in one process.")
    if is_first():
        save_adapter(model, run, data)
        check_saved_adapter(model, run, data)
    collect("saved")


def _digest(model: PeftModel) -> str:
    """A fingerprint of the trainable weights."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def last_checkpoint(run: Run) -> Path | None:
    """The newest checkpoint of a run that was written to its end, or None."""
    complete = [mark.parent for mark in (run.folder / "checkpoints").glob(f"checkpoint-*/{Mark.FILE}")]
    return max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)


def save_adapter(model: PeftModel, run: Run, data: TrainingSet) -> None:
    """Save the adapter as safetensors, the folder complete or not there. Raises `KitError` if nothing was learned.

    The weights are rounded to the dtype that the model computes in, here and in memory: half the size, the same answers.
    Where the kit changed the model's chat template, the tokenizer is saved beside them.
    """
    profile = data.profile
    cast_adapter(model, getattr(torch, resolve_dtype(profile.dtype)))
    learned = any(bool(p.any()) for name, p in model.named_parameters() if "lora_B" in name)
    if not learned:
        raise KitError(f"{run.name}: all adapter weights are zero, nothing was learned. Is the learning rate 0?")
    # the name of the base, not this machine's path to it
    model.peft_config["default"].base_model_name_or_path = profile.model
    temporary = run.folder / ".adapter"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, save_embedding_layers=False)
    (temporary / "README.md").unlink(missing_ok=True)
    if template_changes(data.tokenizer):
        data.tokenizer.save_pretrained(temporary)
    shutil.rmtree(run.adapter, ignore_errors=True)
    temporary.rename(run.adapter)


def check_saved_adapter(model: PeftModel, run: Run, data: TrainingSet) -> None:
    """Load the saved adapter over a fresh base: it must give the logits of the model in memory, or `KitError`."""
    profile = data.profile
    again = load_adapter(load_model(profile.model, profile.dtype), run.adapter)
    ids = torch.tensor([prompt_ids(data.tokenizer, chat_prompt(data.task, data.held_out[0][data.task.message]))])
    with torch.inference_mode():
        here, there = (m.eval()(ids.to(m.device)).logits[0, -1].float() for m in (model, again))
    if not torch.allclose(here, there, atol=1e-2, rtol=1e-2):
        gap = float((here - there).abs().max())
        raise KitError(f"{run.adapter}: loaded again it gives other logits (largest gap {gap:.3g}). Train again.")
