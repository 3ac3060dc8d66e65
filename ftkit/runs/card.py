"""The model card of a run, written from its records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ftkit.common.errors import KitError
from ftkit.common.files import replacing
from ftkit.common.templates import render
from ftkit.data.conversation.rows import chat_of
from ftkit.models.catalog import licence_of
from ftkit.models.find import public_name
from ftkit.runs.documents import Evaluation, show_interval
from ftkit.runs.run import Run

CARD = "model_card.md"


def write_card(run: Run) -> Path:
    """Write the run's model card, `model_card.md`, from `run.json` and, once there is one, `evaluation.json`.

    Training and evaluation both call it, so that the card never lags behind.
    """
    path = run.folder / CARD
    with replacing(path) as temporary:
        make_card(run).save(temporary)
    return path


def make_card(run: Run, merged: bool = False, folder: str = "FOLDER", **load: str) -> ModelCard:
    """The model card of a run's adapter, or of its merged model.

    Its code loads the model from `folder`, with further arguments from `load`. Raises `KitError` if the run is not finished.
    """
    place = ", ".join([json.dumps(folder), *(f"{name}={json.dumps(value)}" for name, value in load.items())])
    return ModelCard(render("runs/templates/model_card.md", **_values(run, merged), merged=merged, folder=place))


def _values(run: Run, merged: bool) -> dict[str, Any]:
    """What the card's template is filled in with."""
    record, profile = run.record, run.profile
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", profile.model)  # else a folder of somebody's machine
    head = ModelCardData(
        base_model=profile.model if on_hub else None,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        language="en",
        license=licence_of(profile.model),
        tags=["qlora", "lora", "ftkit"],
    )
    try:
        system, task_folder, kind = run.task.system_prompt, run.task.folder, run.task.kind
    except KitError:
        system, task_folder, kind = "...", None, None
    return {
        "head": head,
        "task": record.task,
        "base": public_name(profile.model),
        "own_tokenizer": (run.adapter / "tokenizer_config.json").is_file(),
        "profile": profile,
        "training": run.training,
        "budget": record.budget,
        "versions": record.versions,
        "machine": record.machine,
        "source": record.base_source,
        "last_loss": _average_last_losses(run),
        "scores": _list_scores(run),
        "data_licence": _find_data_licence(task_folder),
        "chat": chat_of(system, "a message"),
        "of_chats": kind == "chat",
        "answer_tokens": run.answer_tokens,
        "name": run.name,
    }


def _find_data_licence(task: Path | None) -> str:
    """What the datasheet in the task's folder says under **Licence.**, or that it is not stated."""
    try:
        text = (task / "DATASHEET.md").read_text(encoding="utf-8") if task else ""
    except OSError:
        text = ""
    licence = re.search(r"\*\*Licen[cs]e\.?\*\*\s*([^\n]+)", text)
    return licence.group(1).strip().rstrip(".") if licence else "not stated, ask who made it"


def _average_last_losses(run: Run) -> float:
    """The mean over the last tenth of the loss log: a single entry is of a few rows, and those of like length."""
    losses = [entry.loss for entry in run.log()] or [run.training.loss]
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _list_scores(run: Run) -> dict[str, Any] | str:
    """The scores of base and tuned and their gaps, as the card shows them; or a sentence why there are none."""
    if not run.is_evaluated:
        return f"Not evaluated yet: `ftkit evaluate {run.name}`."
    try:
        result = Evaluation.load(run.folder)
    except KitError:
        return f"The evaluation in this run is of another version of ftkit: `ftkit evaluate {run.name}`."
    sides = {
        side: {
            metric: f"{100 * score.value:.1f} % ({show_interval(score.interval)})"
            for metric, score in result.models[side].scores.items()
        }
        for side in ("base", "tuned")
    }
    gaps = {
        metric: f"{100 * compared.difference:+.1f} ({show_interval(compared.interval, '+.1f')})"
        for metric, compared in result.comparisons["base"].items()
    }
    return {"split": result.split, "n": result.n, "gaps": gaps, "told": _told(result), **sides}


def _told(result: Evaluation) -> str:
    """How the tuned model compares with the base that was told the task's sheet, in a sentence; nothing without one."""
    compared = result.comparisons.get("base, told")
    if not (compared and result.told):
        return ""
    metric = next(iter(compared))
    one = compared[metric]
    gap = f"{100 * one.difference:+.1f} ({show_interval(one.interval, '+.1f')})"
    return (
        f"The base that was told {result.told.file} in its prompt ({result.told.tokens:,} tokens), against the tuned model "
        f"without it: {metric} {100 * one.first:.1f} % and {100 * one.second:.1f} %, difference {gap}."
    )
