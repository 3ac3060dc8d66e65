"""Looks at held-out rows while a model trains: the loss on them at checkpoints, and what it answers to three messages.

A look changes nothing of the training: random numbers, modes and weights are afterwards as they were. Looks may take a share
of the training's time; what was chosen for it is said, and kept in `run.json`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import load_peft_weights, set_peft_model_state_dict
from transformers import TrainerCallback

from ftkit.common.files import dump
from ftkit.common.processes import agree, is_first, is_sharded
from ftkit.data.prompt import chat_prompt, completion_text, encoded_examples, prompt_ids
from ftkit.models.chat_template import end_tokens
from ftkit.runs.documents import GLIMPSES, Glimpse, LooksPlan
from ftkit.runs.run import SPARE
from ftkit.training.budget import Pace
from ftkit.training.give_way import COURTESY, working_seconds
from ftkit.training.loss import completion_loss, whole_loss
from ftkit.training.progress import Progress
from ftkit.training.proof import without_adapter
from ftkit.training.trainer import CompletionTrainer

LOSS_SHARE, ANSWER_SHARE = 0.03, 0.05  # of the training's time, at most
FORWARD = 0.5  # of what a row costs in training: there is no way back; measured on a CPU, 0.40 to 0.50
MOST_ROWS, FEWEST_ROWS = 64, 8  # for the loss; fewer say nothing
USUAL_LOOKS = 7  # for the loss; more only where all rows can be taken
MESSAGES, MOST_ANSWERED = 3, 8  # messages, and times that they are answered, the first (the base) and the last among them
WORTH_WATCHING = 200  # steps; in fewer, answering would take a large part of the time
LONGEST = 96  # tokens of an answer that are written
TOGETHER = 8  # rows computed at once, and no more than a training step computes: looks take no more memory than training


class Looks(TrainerCallback):
    """Measures the validation loss at checkpoints, and lets the model answer held-out messages.

    Only the first of several processes looks. With `keep_best` the trainer's state remembers the checkpoint with the lowest
    loss, which is then not thrown away; `take_best` puts its adapter back at the end.
    """

    def __init__(self, trainer: CompletionTrainer, progress: Progress, pace: Pace, keep_best: bool = False):
        self.trainer, self.progress, self.pace, self.keep_best = trainer, progress, pace, keep_best
        self.run, self.say, data = progress.run, progress.say, progress.data
        if keep_best:
            trainer.args.save_total_limit = 3  # the best, and two to go on from
        self.plan: LooksPlan | None = agree(self.run.record.looks if is_first() else None)
        self.too_slow = False
        longest = max(data.dataset["length"])
        drawn = random.Random(data.profile.seed).sample(list(data.held_out), min(MOST_ROWS, len(data.held_out)))
        encoded = [(row, encoded_examples(data.tokenizer, data.task, row)) for row in drawn]
        self.rows = [(row, some) for row, some in encoded if max(example["length"] for example in some) <= longest]
        self.left_out = len(encoded) - len(self.rows)
        self.tokens = min(LONGEST, data.longest_completion + SPARE)

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Let the base answer, before the first step."""
        if state.global_step == 0 and state.max_steps >= WORTH_WATCHING and not is_sharded() and is_first():
            self._answer(0)

    def on_step_end(self, args, state, control, **kwargs):
        """Settle the looks as soon as the steps' time is known; look where it is due."""
        step = state.global_step
        if self.plan is None and self.pace.seconds_per_step is not None:
            self._settle(args, state)
        if self.plan is None:
            return
        if step in self.plan.loss_at:
            loss = agree(self._measure(state) if is_first() else None)
            self.progress.looked = loss
            control.should_log = True  # in every process: the mean of the training loss is gathered
            if loss is not None:
                self.progress.validation_loss = loss
                if self.keep_best and (state.best_metric is None or loss < state.best_metric):
                    state.best_metric, state.best_global_step = loss, step
        if step in self.plan.answers_at and is_first():
            self._answer(step)

    def _settle(self, args, state) -> None:
        """Choose rows and steps for the looks from what a step takes; say it, and keep it in the run."""
        done, last, every = state.global_step, state.max_steps, args.save_steps
        checkpoints = [*range(every, last, every), last]
        ahead = [step for step in checkpoints if step >= done]
        rows, loss_at = plan_losses(last * self.progress.data.profile.examples_per_step, len(self.rows), ahead)
        spent, a_step = self.progress.glimpse_seconds, self.pace.seconds_per_step or 0.0
        answers_at = plan_answers(ANSWER_SHARE * a_step * last, spent, ahead) if spent else []
        if is_sharded():
            rows, loss_at, answers_at = 0, [], []
        self.plan = agree(LooksPlan(rows=rows, loss_at=loss_at, answers_at=answers_at))
        if is_first():
            self.run.update(looks=self.plan)
        self.say(self._in_words(last))

    def _in_words(self, steps: int) -> str:
        """What was chosen, for people."""
        assert self.plan
        if is_sharded():
            return "Held-out rows: no looks at them, because no process holds the whole model."
        if not self.plan.loss_at:
            return f"Held-out rows: no looks at them, {steps} steps are too few for that."
        at = self.plan.loss_at
        places = f"at {len(at)} checkpoints, steps {at[0]} to {at[-1]}" if len(at) > 1 else f"at the end, step {at[0]}"
        text = f"Held-out rows: the loss on {self.plan.rows} validation rows {places} (under {LOSS_SHARE:.0%} of the time)"
        if self.left_out:
            text += f"; {self.left_out} longer than any training row left out"
        if self.plan.answers_at:
            n = min(MESSAGES, len(self.rows))
            text += f"; {n} messages answered {1 + len(self.plan.answers_at)} times (under {ANSWER_SHARE:.0%})"
        return f"{text}."

    @contextlib.contextmanager
    def _looking(self) -> Iterator[None]:
        """The model in evaluation mode, without gradients; random numbers and modes are afterwards as before."""
        model = self.trainer.model
        modes = [(module, module.training) for module in model.modules()]
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self.trainer.compute_loss_context_manager(), torch.no_grad():
            model.eval()
            try:
                yield
            finally:
                for module, training in modes:
                    module.training = training

    def _measure(self, state) -> float | None:
        """The loss on the held-out rows; None where the looks so far were slower than they may be, which is said once."""
        assert self.plan
        progress, last = self.progress, state.global_step == state.max_steps
        allowed = LOSS_SHARE * progress.now() / state.global_step * state.max_steps
        done = sum(step < state.global_step for step in self.plan.loss_at)
        if done and not last and progress.validation_seconds * (done + 2) / done > allowed:  # this one, and one at the end
            if not self.too_slow:
                self.say(f"The looks take longer than {LOSS_SHARE:.0%} of the time: the next one is at the end.")
            self.too_slow = True
            return None
        began = working_seconds()
        with self._looking():
            loss = self.validation_loss(self.plan.rows)
        progress.validation_seconds += working_seconds() - began
        return loss

    def validation_loss(self, rows: int) -> float:
        """Mean loss over the completion tokens of the first of the held-out rows; the model is in evaluation mode."""
        trainer, way = self.trainer, self.trainer.proof.way if self.trainer.proof else "completion"
        loss = completion_loss if way == "completion" else whole_loss
        examples = sorted((one for _, some in self.rows[:rows] for one in some), key=lambda example: example["length"])
        items = sum(sum(example["completion_mask"]) for example in examples)
        total, together = 0.0, min(TOGETHER, trainer.args.train_batch_size)
        for at in range(0, len(examples), together):
            COURTESY.wait()  # a visitor's message goes first
            batch = trainer.data_collator([_labelled(example) for example in examples[at : at + together]])
            inputs = {key: value.to(trainer.model.device) for key, value in batch.items()}
            total += float(loss(without_adapter(trainer.model), inputs, items))
        return total

    def _answer(self, step: int) -> None:
        """Let the model answer the messages as it is now, and keep the answers."""
        began = working_seconds()
        shown, task = [row for row, _ in self.rows[:MESSAGES]], self.progress.data.task
        with self._looking():
            answers = self.answers([task.asked(row) for row in shown])
        self.progress.glimpse_seconds += working_seconds() - began
        with (self.run.folder / GLIMPSES).open("a", encoding="utf-8") as file:
            for row, answer in zip(shown, answers, strict=True):
                glimpse = Glimpse(
                    step=step,
                    seconds=round(self.progress.now(), 2),
                    row=str(row.get("id", "")),
                    message=asked if isinstance(asked := task.asked(row), str) else asked[-1]["content"],
                    target=completion_text(task, task.answered(row)),
                    answer=answer,
                )
                file.write(dump(glimpse.model_dump()) + "\n")

    def answers(self, messages: Sequence[Any]) -> list[str]:
        """What the model answers, each token the likeliest, by the prompt of the training; it is in evaluation mode."""
        model, data = self.trainer.model, self.progress.data
        COURTESY.wait()
        ends = end_tokens(model, data.tokenizer)
        prompts = [prompt_ids(data.tokenizer, chat_prompt(data.task, message)) for message in messages]
        inputs = data.tokenizer.pad({"input_ids": prompts}, padding=True, padding_side="left", return_tensors="pt")
        output = model.generate(
            **inputs.to(model.device),
            max_new_tokens=self.tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=ends,
            pad_token_id=data.tokenizer.pad_token_id,
        )
        texts = []
        for ids in output[:, inputs["input_ids"].shape[1] :].tolist():
            end = next((place for place, token in enumerate(ids) if token in ends), None)
            texts.append(data.tokenizer.decode(ids[:end], skip_special_tokens=True).strip() + ("…" if end is None else ""))
        return texts

    def take_best(self) -> int | None:
        """With `keep_best`, put the adapter with the lowest validation loss into the model; returns its step.

        None where the last step is kept: it is the best, nobody looked, or nobody asked. Says which it was.
        """
        state, model = self.trainer.state, self.trainer.model
        if not self.keep_best:
            return None
        best, loss = agree((state.best_global_step, state.best_metric))
        if best is None or best == state.global_step:
            reason = "nobody looked at held-out rows" if best is None else f"its validation loss, {loss:.4f}, is the lowest"
            self.say(f"The adapter of the last step is kept: {reason}.")
            return None
        folder = Path(self.trainer.args.output_dir) / f"checkpoint-{best}"
        set_peft_model_state_dict(model, load_peft_weights(str(folder), device=str(model.device)))
        self.say(f"The adapter of step {best} is kept: its validation loss, {loss:.4f}, is the lowest.")
        return best


def _labelled(example: dict) -> dict[str, list[int]]:
    """Token ids with their labels: -100 where no loss falls."""
    ids, mask = example["input_ids"], example["completion_mask"]
    return {"input_ids": ids, "labels": [token if learned else -100 for token, learned in zip(ids, mask, strict=True)]}


def plan_losses(seen: int, held_out: int, checkpoints: Sequence[int]) -> tuple[int, list[int]]:
    """Validation rows a look, and the steps to look at, so that all looks stay under `LOSS_SHARE` of the time.

    `seen` are the rows that the training sees (one seen twice counts twice): a look's row costs `FORWARD` of one of them, on
    any machine. Seven looks at as many rows as that pays for, 64 at most; (0, []) where it does not pay for one.
    """
    affordable = LOSS_SHARE / FORWARD * seen
    for looks in range(min(len(checkpoints), USUAL_LOOKS), 0, -1):
        rows = min(MOST_ROWS, held_out, int(affordable / looks) // FEWEST_ROWS * FEWEST_ROWS)
        if rows:
            return rows, _spread(checkpoints, int(affordable / rows))
    return 0, []


def plan_answers(allowed: float, first: float, checkpoints: Sequence[int]) -> list[int]:
    """The steps at which messages are answered, the last among them; `allowed` seconds, of which the base's took `first`."""
    return _spread(checkpoints, max(1, min(MOST_ANSWERED - 1, int((allowed - first) / first))))


def _spread(checkpoints: Sequence[int], looks: int) -> list[int]:
    """So many checkpoints, or all of them, as evenly as can be; the last, and of several the first, are among them."""
    last = len(checkpoints) - 1
    places = np.linspace(0, last, min(looks, last + 1)).round().astype(int) if looks > 1 else [last]
    return [checkpoints[place] for place in places]
