"""The loss log, the lines with the time left, and the marks of whole checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.common.console import clock
from ftkit.common.memory import return_freed_memory
from ftkit.common.processes import is_first, world_size
from ftkit.common.profiles import Profile
from ftkit.runs.documents import LOG, LogEntry, Mark
from ftkit.runs.run import Run

if TYPE_CHECKING:
    from datasets import Dataset


TRIM_ROWS = 24  # after how many rows memory that glibc keeps is given back; see base.keep_freed_memory


def _progress(run: Run, profile: Profile, dataset: Dataset, say: Callable[[str], None], stop_after: int | None) -> Any:
    """Make the callback that writes the loss log, tells progress with the time left, and marks whole checkpoints."""
    from transformers import TrainerCallback

    mean_length = sum(dataset["length"]) / len(dataset)

    class Progress(TrainerCallback):
        tokens = 0
        seconds = 0.0

        def start_at(self, checkpoint: Path | None) -> None:
            """Take up the log where the checkpoint stands: what came after it will be done again."""
            step = int(checkpoint.name.split("-")[1]) if checkpoint else 0
            kept = [entry for entry in run.log() if entry.step <= step]
            lines = "".join(json.dumps(entry.model_dump()) + "\n" for entry in kept)
            if is_first():
                (run.folder / LOG).write_text(lines, encoding="utf-8")
            if checkpoint:
                mark = Mark.load(checkpoint)
                self.seconds, self.tokens = mark.seconds, mark.tokens
                say(f"Going on after step {step}.")

        def on_train_begin(self, args, state, control, **kwargs):
            self.resumed_tokens, self.resumed_seconds = self.tokens, self.seconds
            self.began = time.monotonic()

        def on_step_end(self, args, state, control, **kwargs):
            self.seconds = self.resumed_seconds + time.monotonic() - self.began
            if state.global_step % trim_steps(profile) == 0:
                return_freed_memory()
            if stop_after and state.global_step >= stop_after:
                control.should_training_stop = True

        def on_log(self, args, state, control, logs=None, **kwargs):
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
                with (run.folder / LOG).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry.model_dump()) + "\n")
            tellings = max(1, state.max_steps // 12)
            due = state.global_step // tellings > (state.global_step - args.logging_steps) // tellings
            if due or state.global_step == state.max_steps:
                self.tell(state, entry)

        def tell(self, state, entry):
            rate = (self.tokens - self.resumed_tokens) / max(1e-9, self.seconds - self.resumed_seconds)
            per_step = mean_length * profile.examples_per_step * world_size()
            left = (state.max_steps - state.global_step) * per_step / max(1e-9, rate)
            say(
                f"  step {state.global_step:4d} of {state.max_steps}   loss {entry.loss:.3f}   "
                f"{rate:4.0f} tokens/s   {clock(left)} left"
            )

        def on_save(self, args, state, control, **kwargs):
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if is_first():
                Mark(seconds=self.seconds, tokens=self.tokens).save(folder)

    return Progress()


def trim_steps(profile: Profile) -> int:
    """After how many steps freed memory is given back: what is kept grows with the rows, not with the steps."""
    return max(1, TRIM_ROWS // profile.examples_per_step)
