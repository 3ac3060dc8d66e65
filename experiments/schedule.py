"""How epochs, rate and batch should follow the rows: experiments out of `schedule.toml`, on the desk and three more tasks.

`python -m experiments.schedule` runs what has no result yet (resumable, a process an experiment), saves after each, and
writes the page and the plot. `--only GROUP ...`, `--most 1`, `--hours 1.5`, `--workers 2`, `--report`, `--plan`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.measure import validation_loss
from experiments import schedule_report
from experiments.documents import ScheduleResults
from experiments.laboratory import SCHEDULE_PLAN, Experiment, Laboratory, command
from experiments.recipe import fit, profile_of, scores_and_rows, subset
from experiments.schedule_tasks import Data, first_rows, load
from ftkit.common.profiles import read_profiles
from ftkit.data.prompt import completion_text, example_ids, training_example
from ftkit.evaluation.answer import Answerer
from ftkit.evaluation.metrics import score
from ftkit.models.adapter import load_adapter
from ftkit.models.four_bit import dequantize
from ftkit.models.load import load_model, load_tokenizer
from ftkit.runs.run import SPARE

LABORATORY = Laboratory("experiments.schedule", ScheduleResults)
LOOKS, LOOKED_AT = 4, 64  # how often a training is looked at that may be too long, and validation rows each time


def run(experiment: Experiment) -> dict[str, Any]:
    """Train on the first rows of a task and score the validation split; the test split where the plan says so."""
    data = load(experiment.task.get("name", "desk"))
    n = experiment.rows or len(data.splits["train"])
    if experiment.task.get("draw") == "apart":  # as `curves` of recipe.toml
        rows = subset(data.splits["train"], n, experiment.seed)
    else:
        rows = first_rows(data, n, experiment.seed)
    experiment = with_steps(experiment, len(rows))
    tokenizer = load_tokenizer(profile_of(experiment).model)
    looks = LOOKS if profile_of(experiment).epochs > read_profiles()["cpu"].epochs else 1
    watch = Watch(data, experiment.profile["max_steps"], tokenizer, looks)
    model, figures, losses = fit(experiment, [training_example(data.task, row) for row in rows], tokenizer, watch)
    lengths = [len(example_ids(tokenizer, data.task, row)) for row in rows]
    figures |= {
        "train_rows": len(rows),
        "row_tokens": round(sum(lengths) / len(rows), 1),
        "loss": losses[-1],
        "seen": watch.seen,
        "watched_seconds": round(watch.seconds, 1),
    }
    return figures | _judge(experiment, data, model, watch)


def with_steps(experiment: Experiment, rows: int) -> Experiment:
    """The experiment with its number of steps written down, from `epochs`: an epoch's last batch may be smaller."""
    profile = profile_of(experiment)
    if profile.max_steps > 0:
        return experiment
    steps = max(1, round(profile.epochs * -(-rows // profile.examples_per_step)))
    return replace(experiment, profile={**experiment.profile, "max_steps": steps})


class Watch(TrainerCallback):
    """Looks at a training a few times: the loss on some validation rows, and the adapter where that was lowest."""

    def __init__(self, data: Data, steps: int, tokenizer: Any, looks: int = LOOKS):
        self.at = {round(steps * look / looks) for look in range(1, looks + 1)} - {0}
        self.task, self.rows, self.tokenizer = data.task, data.splits["validation"][:LOOKED_AT], tokenizer
        self.seen: list[dict[str, Any]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.seconds = 0.0

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Look, where it is time to."""
        if state.global_step not in self.at:
            return
        began = time.monotonic()
        loss = round(validation_loss(model, self.task, self.rows, self.tokenizer), 4)
        if all(loss < before["validation_loss"] for before in self.seen):
            self.best = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        self.seen.append({"step": state.global_step, "validation_loss": loss})
        self.seconds += time.monotonic() - began

    @property
    def best_step(self) -> int:
        """The step of the lowest loss."""
        return min(self.seen, key=lambda look: look["validation_loss"])["step"]


def _judge(experiment: Experiment, data: Data, model: Any, watch: Watch) -> dict[str, Any]:
    """Scores of the trained adapter, and of the earlier one where its validation loss was lower."""
    splits = [split for split in ("validation", "test") if split == "validation" or experiment.test]
    scored = _scores(experiment, data, model, splits)
    figures = {name: scored["validation"][name] for name in ("scores", "rows")}
    figures["answer_seconds"] = scored["validation"]["seconds"]
    if "test" in scored:
        figures["test"] = scored["test"]
    if watch.best_step != watch.seen[-1]["step"]:
        for name, parameter in model.named_parameters():
            if name in watch.best:
                parameter.data = watch.best[name].to(parameter.dtype)
        figures["earlier"] = {"step": watch.best_step, **_scores(experiment, data, model, ["validation"])["validation"]}
    return figures


def _scores(experiment: Experiment, data: Data, model: Any, splits: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the adapter's answers to the messages of some splits score, answered as a run's are: saved and loaded again."""
    profile, scored = profile_of(experiment), {}
    tokenizer = load_tokenizer(profile.model)
    answers = [completion_text(data.task, row[data.task.target]) for row in data.splits["train"]]
    longest = 1 + max(len(ids) for ids in tokenizer(answers, add_special_tokens=False)["input_ids"])
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        tuned = load_adapter(dequantize(load_model(profile.model, profile.dtype)), Path(folder))
    answerer = Answerer(data.task, tuned.eval(), tokenizer, profile.generation_batch, longest + SPARE)
    for split in splits:
        rows, began = data.splits[split], time.monotonic()
        texts = answerer.answer([row[data.task.message] for row in rows])
        took = round(time.monotonic() - began, 1)
        scored[split] = {**scores_and_rows(score(data.task, rows, texts)), "seconds": took}
    return scored


if __name__ == "__main__":
    command(LABORATORY, SCHEDULE_PLAN, run, schedule_report.write)
