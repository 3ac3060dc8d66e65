"""The loss log, the lines with the time left, and the marks of whole checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback

from ftkit.common.console import clock
from ftkit.common.processes import is_first, world_size
from ftkit.common.profiles import Profile
from ftkit.runs.documents import LOG, LogEntry, Mark
from ftkit.runs.run import Run
from ftkit.training.give_way import working_seconds


class Progress(TrainerCallback):
    """Writes the loss log, tells progress with the time left, and marks whole checkpoints.

    `tokens` counts the real tokens seen, `seconds` the time at work, both over all parts of a training that was stopped.
    """

    def __init__(
        self, run: Run, profile: Profile, dataset: Dataset, say: Callable[[str], None], stop_after: int | None = None
    ):
        self.run, self.say, self.stop_after = run, say, stop_after
        self.tokens_per_step = sum(dataset["length"]) / len(dataset) * profile.examples_per_step * world_size()
        self.tokens, self.seconds = 0, 0.0

    def start_at(self, checkpoint: Path | None) -> None:
        """Take up the log where the checkpoint stands: what came after it will be done again."""
        step = int(checkpoint.name.split("-")[1]) if checkpoint else 0
        kept = [entry for entry in self.run.log() if entry.step <= step]
        lines = "".join(json.dumps(entry.model_dump()) + "\n" for entry in kept)
        if is_first():
            (self.run.folder / LOG).write_text(lines, encoding="utf-8")
        if checkpoint:
            mark = Mark.load(checkpoint)
            self.seconds, self.tokens = mark.seconds, mark.tokens
            self.say(f"Going on after step {step}.")

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self.resumed_tokens, self.resumed_seconds = self.tokens, self.seconds
        self.began = working_seconds()

    def on_step_end(self, args, state, control, **kwargs):
        """Read the clock; stop where it was asked for."""
        self.seconds = self.resumed_seconds + working_seconds() - self.began
        if self.stop_after and state.global_step >= self.stop_after:
            control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Add a line to the loss log, and say how far the training is, some twelve times in all."""
        if "loss" not in (logs or {}):
            return
        self.tokens = self.resumed_tokens + int(float(logs["num_tokens"]))
        entry = LogEntry(
            step=state.global_step,
            loss=float(logs["loss"]),
            learning_rate=float(logs["learning_rate"]),
            tokens=self.tokens,
            seconds=round(self.seconds, 2),
        )
        if is_first():
            with (self.run.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry.model_dump()) + "\n")
        interval = max(1, state.max_steps // 12)
        due = state.global_step // interval > (state.global_step - args.logging_steps) // interval
        if due or state.global_step == state.max_steps:
            rate = (self.tokens - self.resumed_tokens) / max(1e-9, self.seconds - self.resumed_seconds)
            left = (state.max_steps - state.global_step) * self.tokens_per_step / max(1e-9, rate)
            self.say(
                f"  step {state.global_step:4d} of {state.max_steps}   loss {entry.loss:.3f}   "
                f"{rate:4.0f} tokens/s   {clock(left)} left"
            )

    def on_save(self, args, state, control, **kwargs):
        """Mark the checkpoint as whole."""
        if is_first():
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            Mark(seconds=self.seconds, tokens=self.tokens).save(folder)
