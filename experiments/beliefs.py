"""Three beliefs put to the test: "it is training from scratch", "any data will do", "it guarantees better results".

`python -m experiments.beliefs` runs what has no result yet out of `beliefs.toml` (resumable, a process an experiment),
saves after each into `experiments/results/beliefs.json`, and writes page and plots. `--plan` lists the experiments and
what they will take; `--only GROUP ...`, `--hours 1.5`, `--workers 2`, `--report`. Everything is scored on the desk's
validation split, never on the test split.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.measure import validation_loss
from experiments import beliefs_report
from experiments.beliefs_data import training_set
from experiments.laboratory import BELIEFS_PLAN, Laboratory, Line, Trial, command, to_do
from experiments.recipe import fit, profile_of, run_baseline, scores_and_rows, subset
from ftkit.common.machine import resolve_dtype
from ftkit.course.beliefs import BeliefResults
from ftkit.data.prompt import chat_prompt
from ftkit.data.task import Task, load_task
from ftkit.evaluation import forgetting
from ftkit.evaluation.answer import Answerer
from ftkit.evaluation.baselines import choose_shots, shots
from ftkit.evaluation.metrics import score
from ftkit.models.four_bit import dequantize
from ftkit.models.load import load_model, load_tokenizer

LABORATORY = Laboratory("experiments.beliefs", BeliefResults)
SHOWN = 6  # answers that are kept as texts, to look at
BATCH = 64
RECIPE = ("model", "learning_rate", "warmup", "batch_size", "gradient_accumulation", "rank", "alpha", "dropout", "max_steps")


def run(trial: Trial) -> dict[str, Any]:
    """One experiment: figures, and every validation row's own score in every metric as a string of 0 and 1."""
    task = load_task("desk")
    if trial.method in ("tfidf", "majority"):
        train = task.rows("train")
        train = subset(train, trial.rows, trial.seed) if trial.rows else train
        return run_baseline(trial.method, task, train, "validation")
    model, tokenizer, figures = _trained(trial, task) if trial.method in ("qlora", "full") else _untrained(trial)
    return figures | _measured(trial, task, model, tokenizer)


def _trained(trial: Trial, task: Task) -> tuple[Any, Any, dict[str, Any]]:
    profile = profile_of(trial)
    tokenizer = load_tokenizer(profile.model)
    examples, facts = training_set(task, trial.rows, trial.seed, trial.data)
    model, figures, losses = fit(trial, examples, tokenizer)
    figures |= {"data": facts, "loss": losses[-1], "losses": " ".join(map(str, losses))}
    figures["recipe"] = {name: getattr(profile, name) for name in RECIPE}  # the profile may be another one day
    if trial.judged:
        figures["validation_loss"] = round(validation_loss(model, task, tokenizer=tokenizer), 4)
    if trial.method == "full":
        model = model.to(getattr(torch, resolve_dtype(profile.dtype)))  # as all the others answer
    return model, tokenizer, figures


def _untrained(trial: Trial) -> tuple[Any, Any, dict[str, Any]]:
    profile = profile_of(trial)
    return dequantize(load_model(profile.model, profile.dtype)), load_tokenizer(profile.model), {}


def _measured(trial: Trial, task: Task, model: Any, tokenizer: Any) -> dict[str, Any]:
    """What the model answers to the validation split, and to the general questions."""
    answerer = Answerer(task, model.eval(), tokenizer, BATCH, profile_of(trial).max_new_tokens)
    figures: dict[str, Any] = {}
    if trial.judged:
        rows = task.rows("validation")
        began = time.monotonic()
        texts, more = _answers(trial, task, answerer, [row[task.message] for row in rows])
        figures |= more | {"answer_seconds": round(time.monotonic() - began, 1), "answers": texts[:SHOWN]}
        figures |= scores_and_rows(score(task, rows, texts))
    if trial.general:
        figures["general"] = check_general(answerer)
    return figures


def _answers(trial: Trial, task: Task, answerer: Answerer, messages: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Answers to messages; for `few-shot` also the number of examples that was chosen, as lesson 04 chooses it."""
    if trial.method not in ("base", "few-shot"):
        return answerer.answer(messages), {}

    def ask(examples: Sequence[Any], some: list[str]) -> list[str]:
        return answerer.complete([chat_prompt(task, message, told=True, shots=examples) for message in some])

    if trial.method == "base":
        return ask([], messages), {}
    train = subset(task.rows("train"), trial.rows or len(task.rows("train")), trial.seed)
    draw = partial(shots, task, train, seed=trial.seed)
    k, tried = choose_shots(task, task.rows("validation"), lambda k, some: ask(draw(k), some))
    return ask(draw(k), messages), {"shots": k, "tried": {str(n): round(share, 4) for n, share in tried.items()}}


def check_general(answerer: Answerer) -> dict[str, Any]:
    """The general check (`evaluation.forgetting`) of one model: which questions it gets right, how likely English is to it.

    `right`: a 0 or 1 for each question; `log_probabilities`: the sum for each chunk of English, `tokens` its length.
    """
    questions = forgetting.questions()
    chats = [[{"role": "user", "content": question["prompt"]}] for question in questions]
    texts = answerer.complete(chats, max_new_tokens=forgetting.MAX_NEW_TOKENS)
    chunks = answerer.log_probabilities(forgetting.english_chunks(answerer.tokenizer))
    right = [forgetting.passes(question["check"], text) for question, text in zip(questions, texts, strict=True)]
    return {
        "right": "".join("01"[yes] for yes in right),
        "answers": texts[:: len(texts) // SHOWN],
        "log_probabilities": [round(total, 2) for total, _ in chunks],
        "tokens": [n for _, n in chunks],
    }


# --- all of them ---


def head(lines: Sequence[Line]) -> dict[str, Any]:
    """What stands before the results: whose rows the 0 and 1 are of, and which experiments belong to which line."""
    task = load_task("desk")
    table = tomllib.loads(BELIEFS_PLAN.read_text(encoding="utf-8"))
    return {
        "about": "Three beliefs put to the test; written by python -m experiments.beliefs, plan in beliefs.toml",
        "task": {"name": task.name, "fingerprint": task.fingerprint(), "split": "validation"},
        "messages": " ".join(row["id"] for row in task.rows("validation")),
        "questions": " ".join(question["id"] for question in forgetting.questions()),
        "general_fingerprint": forgetting.questions_digest(),
        "beliefs": {name: group["about"] for name, group in table.items() if "seeds" in group},
        "lines": [
            {"belief": line.group, "name": line.name, "about": line.about, "expected": line.expected,
             "experiments": " ".join(e.key for e in line.experiments)}
            for line in lines
        ],
    }  # fmt: skip


def minutes(trial: Trial, cost: dict[str, Any]) -> float:
    """What an experiment will take on one core, by the seconds in the plan's table `cost`."""
    if trial.method in ("tfidf", "majority"):
        return cost["start"] / 60
    profile = profile_of(trial)
    of_answers = {"base": "told", "few-shot": "shots"}.get(trial.method, "answers")
    steps = profile.max_steps * cost[trial.method] if trial.method in ("qlora", "full") else 0
    return (cost["start"] + steps + trial.judged * cost[of_answers] + trial.general * cost["general"]) / 60


def plan(lines: Sequence[Line], results: dict[str, Any], workers: int) -> str:
    """The plan as a table: each line's experiments, how many have a result, and the minutes of those that have none."""
    cost = tomllib.loads(BELIEFS_PLAN.read_text(encoding="utf-8"))["cost"]
    table, counted = [], set()
    for group in dict.fromkeys(line.group for line in lines):
        table.append(f"{group}\n  {'line':<28}{'seeds':>6}{'done':>6}{'min each':>10}{'min left':>10}")
        total = 0.0
        for line in (line for line in lines if line.group == group):
            left = [e for e in line.experiments if e.key not in results]
            own = sum(minutes(e, cost) for e in left if e.key not in counted)
            note = "  (with an earlier line)" if any(e.key in counted for e in left) else ""
            counted |= {e.key for e in left}
            total += own
            done = len(line.experiments) - len(left)
            each = minutes(line.experiments[0], cost)
            table.append(f"  {line.name:<28}{len(line.experiments):>6}{done:>6}{each:>10.1f}{own:>10.1f}{note}")
        table.append(f"  {'together':<50}{total:>10.1f}\n")
    waiting = to_do(lines, results)
    total = sum(minutes(e, cost) for e in waiting)
    table.append(
        f"{len(waiting)} experiments, {total:.0f} minutes of one core: about {total / 60 / workers:.1f} hours with "
        f"{workers} worker{'s' if workers > 1 else ''} on {'cores' if workers > 1 else 'a core'} of their own."
    )
    return "\n".join(table)


if __name__ == "__main__":
    command(LABORATORY, BELIEFS_PLAN, run, beliefs_report.write, Trial, plan, head)
