"""Three beliefs put to the test: "it is training from scratch", "any data will do", "it guarantees better results".

`python -m experiments.beliefs` runs what has no result yet out of `beliefs.toml` (resumable, a process an experiment),
saves after each into `experiments/results/beliefs.json`, and writes page and plots. `--plan` lists the experiments and
what they will take; `--only GROUP ...`, `--hours 1.5`, `--workers 2`, `--report`. Everything is scored on the desk's
validation split, never on the test split.
"""

from __future__ import annotations

import json
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from experiments.beliefs_data import training_set
from experiments.laboratory import Experiment, Laboratory, Line, arguments, chosen, load_results, read_plan, to_do
from experiments.recipe import baseline, fit, profile_of, scored, subset
from ftkit.common.errors import KitError
from ftkit.common.paths import kit_root

PLAN = Path(__file__).with_name("beliefs.toml")
RESULTS = kit_root() / "experiments" / "results" / "beliefs.json"
MODULE = "experiments.beliefs"
SHOWN = 6  # answers that are kept as texts, to look at
BATCH = 64
RECIPE = ("model", "learning_rate", "warmup", "batch_size", "gradient_accumulation", "rank", "alpha", "dropout", "max_steps")


@dataclass(frozen=True)
class Trial(Experiment):
    """An experiment on a belief: besides, what is done to the training `data`, and whether the general check is made.

    Methods: `qlora`, `full` (with `special` "mixed", and "mixed random" for random weights), `base`, `few-shot`,
    `tfidf`, `majority`. `judged` false: the task is not the desk's, only the general check counts.
    """

    data: dict[str, Any] = field(default_factory=dict)
    general: bool = False
    judged: bool = True


def run(trial: Trial) -> dict[str, Any]:
    """One experiment: figures, and every validation row's own score in every metric as a string of 0 and 1."""
    from ftkit.data.task import load_task

    task = load_task("desk")
    if trial.method in ("tfidf", "majority"):
        train = task.rows("train")
        return baseline(trial.method, task, subset(train, trial.rows, trial.seed) if trial.rows else train, "validation")
    model, tokenizer, found = _trained(trial, task) if trial.method in ("qlora", "full") else _untrained(trial)
    return found | _measured(trial, task, model, tokenizer)


def _trained(trial: Trial, task: Any) -> tuple[Any, Any, dict[str, Any]]:
    import torch

    from benchmarks.measure import validation_loss
    from ftkit.common.machine import resolve_dtype
    from ftkit.models.load import load_tokenizer

    profile = profile_of(trial)
    tokenizer = load_tokenizer(profile.model)
    examples, facts = training_set(task, trial.rows, trial.seed, trial.data)
    model, found, losses = fit(trial, examples, tokenizer)
    found |= {"data": facts, "loss": losses[-1], "losses": " ".join(map(str, losses))}
    found["recipe"] = {name: getattr(profile, name) for name in RECIPE}  # the profile may be another one day
    if trial.judged:
        loss = validation_loss(model, task, task.rows("validation"), tokenizer)
        found["validation_loss"] = round(loss, 4)
    if trial.method == "full":
        model = model.to(getattr(torch, resolve_dtype(profile.dtype)))  # as all the others answer
    return model, tokenizer, found


def _untrained(trial: Trial) -> tuple[Any, Any, dict[str, Any]]:
    from ftkit.models.four_bit import dequantize
    from ftkit.models.load import load_model, load_tokenizer

    profile = profile_of(trial)
    return dequantize(load_model(profile.model, profile.dtype)), load_tokenizer(profile.model), {}


def _measured(trial: Trial, task: Any, model: Any, tokenizer: Any) -> dict[str, Any]:
    """What the model answers to the validation split, and to the general questions."""
    from ftkit.evaluation.answer import Answerer
    from ftkit.evaluation.metrics import score

    answerer = Answerer(task, model.eval(), tokenizer, BATCH, profile_of(trial).max_new_tokens)
    found: dict[str, Any] = {}
    if trial.judged:
        rows = task.rows("validation")
        began = time.monotonic()
        texts, more = _answers(trial, task, answerer, [row[task.message] for row in rows])
        found |= more | {"answer_seconds": round(time.monotonic() - began, 1), "answers": texts[:SHOWN]}
        found |= scored(score(task, rows, texts))
    if trial.general:
        found["general"] = general_check(answerer)
    return found


def _answers(trial: Trial, task: Any, answerer: Any, messages: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Answers to messages; for `few-shot` also the number of examples that was chosen, as lesson 04 chooses it."""
    from ftkit.data.prompt import chat_prompt
    from ftkit.evaluation.baselines import choose_shots, shots

    if trial.method not in ("base", "few-shot"):
        return answerer.answer(messages), {}

    def ask(shown: Sequence[Any], some: list[str]) -> list[str]:
        return answerer.complete([chat_prompt(task, message, told=True, shots=shown) for message in some])

    if trial.method == "base":
        return ask([], messages), {}
    train = subset(task.rows("train"), trial.rows or len(task.rows("train")), trial.seed)
    some = partial(shots, task, train, seed=trial.seed)
    k, tried = choose_shots(task, task.rows("validation"), lambda k, asked: ask(some(k), asked))
    return ask(some(k), messages), {"shots": k, "tried": {str(n): round(share, 4) for n, share in tried.items()}}


def general_check(answerer: Any) -> dict[str, Any]:
    """The general check (`evaluation.forgetting`) of one model: which questions it gets right, how likely English is to it.

    `right`: a 0 or 1 for each question; `log_probabilities`: the sum for each chunk of English, `tokens` its length.
    """
    from ftkit.evaluation import forgetting as general

    asked = general.questions()
    chats = [[{"role": "user", "content": question["prompt"]}] for question in asked]
    texts = answerer.complete(chats, max_new_tokens=general.MAX_NEW_TOKENS)
    judged = answerer.log_probabilities(general.english_chunks(answerer.tokenizer))
    right = [general.passes(question["check"], text) for question, text in zip(asked, texts, strict=True)]
    return {
        "right": "".join("01"[yes] for yes in right),
        "answers": texts[:: len(texts) // SHOWN],
        "log_probabilities": [round(total, 2) for total, _ in judged],
        "tokens": [n for _, n in judged],
    }


# --- all of them ---


def head(lines: Sequence[Line]) -> dict[str, Any]:
    """What stands before the results: whose rows the 0 and 1 are of, and which experiments belong to which line."""
    from ftkit.data.task import load_task
    from ftkit.evaluation import forgetting as general

    task = load_task("desk")
    table = tomllib.loads(PLAN.read_text(encoding="utf-8"))
    return {
        "about": "Three beliefs put to the test; written by python -m experiments.beliefs, plan in beliefs.toml",
        "task": {"name": task.name, "fingerprint": task.fingerprint(), "split": "validation"},
        "messages": " ".join(row["id"] for row in task.rows("validation")),
        "questions": " ".join(question["id"] for question in general.questions()),
        "general_fingerprint": general.fingerprint(),
        "beliefs": {name: given["about"] for name, given in table.items() if "seeds" in given},
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
    cost = tomllib.loads(PLAN.read_text(encoding="utf-8"))["cost"]
    said, counted = [], set()
    for group in dict.fromkeys(line.group for line in lines):
        said.append(f"{group}\n  {'line':<28}{'seeds':>6}{'done':>6}{'min each':>10}{'min left':>10}")
        total = 0.0
        for line in (line for line in lines if line.group == group):
            left = [e for e in line.experiments if e.key not in results]
            own = sum(minutes(e, cost) for e in left if e.key not in counted)
            note = "  (with an earlier line)" if any(e.key in counted for e in left) else ""
            counted |= {e.key for e in left}
            total += own
            done = len(line.experiments) - len(left)
            each = minutes(line.experiments[0], cost)
            said.append(f"  {line.name:<28}{len(line.experiments):>6}{done:>6}{each:>10.1f}{own:>10.1f}{note}")
        said.append(f"  {'together':<50}{total:>10.1f}\n")
    todo = to_do(lines, results)
    total = sum(minutes(e, cost) for e in todo)
    said.append(
        f"{len(todo)} experiments, {total:.0f} minutes of one core: about {total / 60 / workers:.1f} hours with {workers} "
        f"worker{'s' if workers > 1 else ''} on {'cores' if workers > 1 else 'a core'} of their own."
    )
    return "\n".join(said)


def main() -> None:
    """See the module's docstring."""
    parser = arguments(MODULE, __doc__)
    parser.add_argument("--plan", action="store_true", help="only list the experiments, with their minutes")
    given = parser.parse_args()
    if given.one:
        print("RESULT " + json.dumps(run(Trial(**json.loads(given.one)))), flush=True)
        return
    lines = read_plan(PLAN, Trial)
    wanted = chosen(lines, given.only)
    if given.plan:
        print(plan(wanted, load_results(RESULTS)["results"], given.workers))
        return
    if not given.report:
        Laboratory(MODULE, RESULTS, head(lines)).search(wanted, given.hours, given.workers, given.failed)
    from experiments import beliefs_report

    beliefs_report.write()


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(f"beliefs: {error}")
