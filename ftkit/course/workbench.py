"""Helpers of the labs: short trainings that may be spoiled, answers to raw prompts, and what to count in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, set_seed
from trl import SFTTrainer

from ftkit.common.machine import resolve_dtype
from ftkit.common.memory import free_memory
from ftkit.common.profiles import Profile
from ftkit.data.prompt import (
    chat_prompt,
    completion_text,
    encoded_example,
    example_ids,
    parse_answer,
    prompt_ids,
    prompt_text,
)
from ftkit.data.task import Row, Task
from ftkit.training.cpu_kernels import FollowLoad
from ftkit.training.trainer import CompletionTrainer, make_trainer, sft_config

Spoil = Callable[[SFTTrainer], None]
WIDTH = 96  # characters of an answer that are shown


@dataclass(frozen=True)
class Workbench:
    """What all experiments of a lab share: the task, the tokenizer, the profile, and how long a short training is."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    profile: Profile
    steps: int
    folder: Path

    def prompts(self, rows: Sequence[Row]) -> list[str]:
        """The rows' messages as the tuned model is asked: in the chat template, the assistant's turn opened."""
        return [prompt_text(self.tokenizer, chat_prompt(self.task, row[self.task.message])) for row in rows]

    def data(self, rows: Sequence[Row]) -> Dataset:
        """Rows as `training.training_data` gives them: messages and token ids."""
        return Dataset.from_list([encoded_example(self.tokenizer, self.task, row) for row in rows])

    def tune(
        self, data: Dataset, spoil: Spoil | None = None, rate: float | None = None, steps: int | None = None
    ) -> SFTTrainer:
        """A short QLoRA training, its loss printed on the way; `spoil` may break the trainer before it starts."""
        free_memory()  # of a training that nobody holds any more
        trainer = make_trainer(self.folder / "checkpoints", data, self._settings(rate, steps))
        trainer.add_callback(LossPrinter())
        if spoil:
            spoil(trainer)
        return _finish(trainer)

    def tune_all(self, model: PreTrainedModel, data: Dataset, rate: float, steps: int | None = None) -> SFTTrainer:
        """A short training of all the model's weights, no adapter and no 4 bits, in all else like `tune`.

        The weights are kept in float32, so that small steps are not rounded away; their products are computed in the
        profile's dtype.
        """
        free_memory()
        settings = self._settings(rate, steps)
        set_seed(settings.seed)
        config = sft_config(settings, self.folder / "checkpoints", resolve_dtype(settings.dtype))
        trainer = CompletionTrainer(model=model.float(), args=config, train_dataset=data, processing_class=self.tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(FollowLoad())
        trainer.add_callback(LossPrinter())
        return _finish(trainer)

    def _settings(self, rate: float | None, steps: int | None) -> Profile:
        return self.profile.with_changes(learning_rate=rate or self.profile.learning_rate, max_steps=steps or self.steps)

    def write(self, model: PreTrainedModel, prompts: Sequence[str], tokens: int) -> list[str]:
        """What a model writes after each text as it stands: the likeliest token each time, `tokens` at most."""
        free_memory()
        inputs = self.tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        with torch.inference_mode():
            output = model.eval().generate(
                **inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
            )
        return self.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def show(self, texts: Sequence[str], rows: Sequence[Row], first: int = 3) -> int:
        """Print how many answers are whole and right, and the first ones; returns how many are whole (see `whole`)."""
        count = sum(map(self.whole, texts))
        print(f"{count} of {len(texts)} answers are tickets, {self.right(texts, rows)} right in every field. The first:")
        for text in texts[:first]:
            print("  ", text[:WIDTH].replace("\n", "⏎"))
        return count

    def whole(self, text: str) -> bool:
        """Whether a text is one answer that fits the task and nothing else."""
        answer = parse_answer(self.task, text)
        fits = answer is not None and not self.task.answer_problems(answer)
        return fits and text.strip() == completion_text(self.task, answer)

    def right(self, texts: Sequence[str], rows: Sequence[Row]) -> int:
        """How many answers are whole (see `whole`) and right in every field."""
        pairs = zip(texts, rows, strict=True)
        return sum(self.whole(text) and parse_answer(self.task, text) == row[self.task.target] for text, row in pairs)

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has."""
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def loss_by_part(self, model: PreTrainedModel, rows: Sequence[Row]) -> dict[str, float]:
        """A model's mean loss at the tokens of the rows' prompts and at those of their answers: {"prompt", "answer"}."""
        parts: dict[str, list[Any]] = {"prompt": [], "answer": []}
        for row in rows:
            ids = torch.tensor([example_ids(self.tokenizer, self.task, row)], device=model.device)
            start = len(prompt_ids(self.tokenizer, chat_prompt(self.task, row[self.task.message])))
            with torch.inference_mode():
                logits = model.eval()(input_ids=ids).logits[0, :-1].float()
            each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")  # [length - 1]
            parts["prompt"].append(each[: start - 1])
            parts["answer"].append(each[start - 1 :])
        return {part: float(torch.cat(values).mean()) for part, values in parts.items()}


def change_batches(change: Callable[[dict[str, Any]], None]) -> Spoil:
    """Change every batch of a trainer in place, after its own collator has made it."""

    def spoil(trainer: SFTTrainer) -> None:
        inner = trainer.data_collator

        def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = inner(examples)
            change(batch)
            return batch

        trainer.data_collator = collate

    return spoil


def cut_examples(limit: int) -> Spoil:
    """Cut every training example after `limit` tokens, as a trainer's `max_length` does."""

    def spoil(trainer: SFTTrainer) -> None:
        trainer.train_dataset = trainer.train_dataset.map(
            lambda row: {part: row[part][:limit] for part in ("input_ids", "labels")}
        )

    return spoil


def losses(trainer: SFTTrainer) -> list[tuple[int, float]]:
    """(step, loss) pairs of a training's log."""
    return [(entry["step"], float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry]


def _finish(trainer: SFTTrainer) -> SFTTrainer:
    """Train to the end, eight lines of loss on the way, no checkpoints; print how long it took."""
    began, steps = time.monotonic(), trainer.args.max_steps
    trainer.args.save_strategy, trainer.args.logging_steps = "no", max(1, steps // 8)
    trainer.train()
    trainer.model.zero_grad(set_to_none=True)
    free_memory()
    print(f"{steps} steps in {time.monotonic() - began:.0f} s")
    return trainer


class LossPrinter(TrainerCallback):
    """Prints the loss whenever it is logged."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Print one line."""
        if "loss" in (logs or {}):
            print(f"   step {state.global_step:3} of {state.max_steps}   loss {float(logs['loss']):.2f}", flush=True)
