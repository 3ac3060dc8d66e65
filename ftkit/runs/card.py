"""The model card of a run, written from its records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import UndefinedError

from ftkit.common.errors import KitError
from ftkit.common.files import read_json, replacing
from ftkit.common.templates import render
from ftkit.evaluation.intervals import share_interval
from ftkit.models.find import BASE_LICENCES, public_name
from ftkit.runs.run import RESTORE, Run


def write_card(run: Run) -> Path:
    """Write the run's model card, `model_card.md`, from `run.json` and, once there is one, `evaluation.json`.

    Training and evaluation both call it, so that the card never lags behind.
    """
    path = run.folder / "model_card.md"
    with replacing(path) as temporary:
        make_card(run).save(temporary)
    return path


def make_card(run: Run, merged: bool = False, folder: str = "FOLDER", **load: str) -> ModelCard:
    """The model card of a run's adapter, or of its merged model.

    Its code loads the model from `folder`, with further arguments from `load`. Raises `KitError` if `run.json` lacks what
    the card says.
    """
    place = ", ".join([json.dumps(folder), *(f"{name}={json.dumps(value)}" for name, value in load.items())])
    try:
        return ModelCard(render("runs/templates/model_card.md", **_values(run, merged), merged=merged, folder=place))
    except (KeyError, TypeError, ValueError, UndefinedError) as error:
        raise KitError(f"{run.folder / 'run.json'} lacks what a model card says ({error}). {RESTORE}") from None


def _values(run: Run, merged: bool) -> dict[str, Any]:
    """What the card's template is filled in with."""
    record, profile = run.record, run.profile
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", profile.model)  # else a folder of somebody's machine
    head = ModelCardData(
        base_model=profile.model if on_hub else None,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        language="en",
        license=BASE_LICENCES.get(profile.model),
        tags=["qlora", "lora", "ftkit"],
    )
    try:
        system, task_folder = run.task.system_prompt, run.task.folder
    except KitError:
        system, task_folder = "...", None
    return {
        "head": head,
        "task": record["task"],
        "base": public_name(profile.model),
        "profile": profile,
        "training": record["training"],
        "versions": record["versions"],
        "machine": record["machine"],
        "source": record.get("base_source"),
        "last_loss": _average_last_losses(run),
        "scores": _list_scores(run),
        "data_licence": _find_data_licence(task_folder),
        "chat": [{"role": "system", "content": system}, {"role": "user", "content": "a message"}],
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
    losses = [entry["loss"] for entry in run.log()] or [run.record["training"]["loss"]]
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _list_scores(run: Run) -> dict[str, Any] | str:
    """The scores of base and tuned and their gaps, as the card shows them; or a sentence why there are none."""
    path = run.folder / "evaluation.json"
    if not path.is_file():
        return f"Not evaluated yet: `ftkit evaluate {run.name}`."
    result = read_json(path)
    try:
        sides = {side: _with_intervals(result["models"][side]["scores"], result["n"]) for side in ("base", "tuned")}
        gaps = {metric: _show_gap(gap) for metric, gap in result.get("comparisons", {}).get("base", {}).items()}
        return {"split": result["split"], "n": result["n"], "gaps": gaps, **sides}
    except (KeyError, TypeError, AttributeError):
        return f"The evaluation in this run is of another version of ftkit: `ftkit evaluate {run.name}`."


def _with_intervals(scores: dict[str, Any], n: int) -> dict[str, str]:
    """{metric: "84.7 % (78.0 to 89.7)"}: as it is saved; for a share without an interval, Wilson's for `n` examples."""
    shown = {}
    for metric, score in scores.items():
        value, interval = (score["value"], score.get("interval")) if isinstance(score, dict) else (score, None)
        right = round(value * n)
        low, high = interval or share_interval([True] * right + [False] * (n - right))
        shown[metric] = f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return shown


def _show_gap(comparison: dict[str, Any]) -> str:
    """The difference of a paired comparison, with its interval."""
    low, high = comparison["interval"]
    return f"{100 * comparison['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
