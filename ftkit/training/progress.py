"""The loss log, the lines with the time left, how it stands for others to read, and the marks of whole checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback

from ftkit.common.console import Say, clock
from ftkit.common.files import dump
from ftkit.common.machine import resolve_dtype
from ftkit.common.memory import peak_memory_mb
from ftkit.common.processes import is_first, world_size
from ftkit.common.threads import in_words, shared
from ftkit.runs.documents import GLIMPSES, LOG, Live, LogEntry, Mark, TrainingRecord
from ftkit.runs.run import Run
from ftkit.training.give_way import working_seconds
from ftkit.training.plan import Plan, describe_gap

if TYPE_CHECKING:
    from ftkit.training.trainer import CompletionTrainer, TrainingSet


class Progress(TrainerCallback):
    """Writes the loss log and `live.json`, tells progress with the time left, and marks whole checkpoints.

    `tokens` counts the real tokens seen, `seconds` the time at work, both over all parts of a training that was stopped.
    `validation_seconds` and `glimpse_seconds` are those of the looks at held-out rows (`Looks` counts them here).
    """

    def __init__(self, run: Run, data: TrainingSet, plan: Plan, say: Say, stop_after: int | None = None):
        self.run, self.data, self.plan, self.say, self.stop_after = run, data, plan, say, stop_after
        a_step = data.profile.examples_per_step * world_size()
        self.tokens_per_step = sum(data.dataset["length"]) / len(data.dataset) * a_step
        self.tokens, self.seconds, self.validation_seconds, self.glimpse_seconds = 0, 0.0, 0.0, 0.0
        self.began: float | None = None
        self.looked: float | None = None  # the validation loss of this step, until it is in the log
        self.validation_loss: float | None = None  # the last that was measured

    def start_at(self, checkpoint: Path | None) -> None:
        """Take up the logs where the checkpoint stands: what came after it will be done again."""
        step = int(checkpoint.name.split("-")[1]) if checkpoint else 0
        if is_first():
            for file, entries in ((LOG, self.run.log()), (GLIMPSES, self.run.glimpses())):
                kept = [entry for entry in entries if checkpoint and entry.step <= step]
                lines = "".join(dump(entry.model_dump(exclude_none=True)) + "\n" for entry in kept)
                if kept or file == LOG or (self.run.folder / file).exists():
                    (self.run.folder / file).write_text(lines, encoding="utf-8")
        if checkpoint:
            mark = Mark.load(checkpoint)
            self.seconds, self.tokens = mark.seconds, mark.tokens
            self.validation_seconds, self.glimpse_seconds = mark.validation_seconds, mark.glimpse_seconds
            self.validation_loss = next((loss for _, loss in reversed(self.run.validation_curve())), None)
            self.say(f"Going on after step {step}.")

    def now(self) -> float:
        """Seconds of training so far, over all its parts."""
        return self.seconds if self.began is None else self.resumed_seconds + working_seconds() - self.began

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self.resumed_tokens, self.resumed_seconds = self.tokens, self.seconds
        self.began = working_seconds()
        self._show(state)

    def on_step_end(self, args, state, control, **kwargs):
        """Read the clock; stop where it was asked for."""
        self.seconds = self.now()
        if self.stop_after and state.global_step >= self.stop_after:
            control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Add a line to the loss log, and say how far the training is: some twelve times in all, and after each look."""
        if "loss" not in (logs or {}):
            return
        self.tokens = self.resumed_tokens + int(float(logs["num_tokens"]))
        looked, self.looked = self.looked, None
        entry = LogEntry(
            step=state.global_step,
            loss=float(logs["loss"]),
            learning_rate=float(logs["learning_rate"]),
            tokens=self.tokens,
            seconds=round(self.seconds, 2),
            validation_loss=looked,
            threads=shared().now if args.use_cpu else None,
        )
        if is_first():
            with (self.run.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(dump(entry.model_dump(exclude_none=True)) + "\n")
        rate, left = self._show(state, entry.loss)
        interval = max(1, state.max_steps // 12)
        due = state.global_step // interval > (state.global_step - args.logging_steps) // interval
        if due or looked is not None or state.global_step == state.max_steps:
            held_out = "" if looked is None else f", validation {looked:.3f}"
            self.say(
                f"  step {state.global_step:4d} of {state.max_steps}   loss {entry.loss:.3f}{held_out}   "
                f"{rate:4.0f} tokens/s   {clock(left)} left{in_words()}"
            )

    def _show(self, state, loss: float | None = None) -> tuple[float, float]:
        """Write `live.json`; returns the tokens a second and the seconds left."""
        rate = (self.tokens - self.resumed_tokens) / max(1e-9, self.seconds - self.resumed_seconds)
        left = (state.max_steps - state.global_step) * self.tokens_per_step / max(1e-9, rate)
        if is_first():
            Live(
                phase="training",
                step=state.global_step,
                steps=state.max_steps,
                loss=loss,
                validation_loss=self.validation_loss,
                tokens_per_second=round(rate, 1) if rate else None,
                seconds_left=round(left) if rate else None,
                memory_mb=round(peak_memory_mb()),
                planned_mb=round(self.plan.peak_mb),
                threads=None if torch.cuda.is_available() else shared().now,
            ).save(self.run.folder)
        return rate, left

    def on_save(self, args, state, control, **kwargs):
        """Mark the checkpoint as whole."""
        if is_first():
            Mark(
                seconds=self.seconds,
                tokens=self.tokens,
                validation_seconds=self.validation_seconds,
                glimpse_seconds=self.glimpse_seconds,
            ).save(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def record(self, trainer: CompletionTrainer, loss: float, peak: float, kept: int | None = None) -> TrainingRecord:
        """What `run.json` keeps of a training that came to its end.

        `loss` is the mean over all steps, for a log without a line; `peak` is in MB; `kept` is the step whose adapter was
        kept, where it is not the last.
        """
        log, planned = self.run.log(), round(self.plan.peak_mb)
        return TrainingRecord(
            steps=trainer.state.global_step,
            examples=len(self.data.dataset) - len(self.data.replay),
            replay=len(self.data.replay),
            loss=log[-1].loss if log else loss,
            tokens=self.tokens,
            seconds=round(self.seconds, 1),
            tokens_per_second=round(self.tokens / self.seconds, 1),
            peak_memory_mb=round(peak),
            planned_memory_mb=planned,
            memory_against_plan=describe_gap(planned, round(peak)),
            processes=world_size(),
            trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            dtype=resolve_dtype(self.data.profile.dtype),
            longest_completion=self.data.longest_completion,
            validation_loss=dict(self.run.validation_curve()).get(kept or trainer.state.global_step),
            kept_step=kept,
            validation_seconds=round(self.validation_seconds, 1),
            glimpse_seconds=round(self.glimpse_seconds, 1),
            threads=sorted({entry.threads for entry in log if entry.threads}),
        )
