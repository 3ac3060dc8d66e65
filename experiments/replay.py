"""How much general talk a training needs: experiments out of `replay.toml`, each a training by the kit's own `train`.

`python -m experiments.replay` runs what has no result yet (resumable, a process an experiment), saves after each, and
writes the page. `--only GROUP ...`, `--most 1`, `--hours 1.5`, `--workers 2`, `--plan`, `--report`.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

from experiments import replay_report
from experiments.beliefs import check_general
from experiments.documents import ReplayResults
from experiments.laboratory import REPLAY_PLAN, Experiment, Laboratory, command
from experiments.recipe import profile_of, scores_and_rows
from ftkit.common.profiles import Asked, Choice
from ftkit.data.task import load_task
from ftkit.evaluation.answer import Answerer
from ftkit.evaluation.metrics import score
from ftkit.training.finetune import train

LABORATORY = Laboratory("experiments.replay", ReplayResults)


def run(experiment: Experiment) -> dict[str, Any]:
    """Train with the share of general talk, in a folder of runs of its own; score validation rows and general questions."""
    task, profile = load_task(experiment.task.get("name", "desk")), profile_of(experiment)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FTKIT_RUNS"] = folder
        asked = Asked(replay=profile.replay)
        trained = train(task, Choice(profile, "an experiment"), fresh=True, say=lambda line: None, asked=asked)
        record, answerer = trained.training, Answerer.of_run(trained)
        losses = [entry.loss for entry in trained.log()]
    rows, began = task.rows("validation"), time.monotonic()
    texts = answerer.answer([row[task.message] for row in rows])
    return {
        "steps": record.steps,
        "examples": record.steps * profile.examples_per_step,
        "tokens": record.tokens,
        "seconds": record.seconds,
        "train_rows": record.examples,
        "replay": record.replay,
        "loss": losses[-1],
        "answer_seconds": round(time.monotonic() - began, 1),
        **scores_and_rows(score(task, rows, texts)),
        "general": check_general(answerer),
    }


if __name__ == "__main__":
    command(LABORATORY, REPLAY_PLAN, run, replay_report.write)
