"""Saved LoRA adapters: checked, and put on their base (lesson 03)."""

from __future__ import annotations

import warnings
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from ftkit.common.errors import KitError
from ftkit.common.files import read_json

AGAIN = "Copy the adapter's folder again, or train again."


def load_adapter(model: PreTrainedModel, folder: Path, name: str = "default", base: str | None = None) -> PeftModel:
    """Put a saved LoRA adapter on a base model (lesson 03). `KitError` if missing, broken, empty or misfit.

    `base` is the name of the model that the adapter was trained on, as the run knows it: the adapter has to know the same.
    """
    weights = Path(folder) / "adapter_model.safetensors"
    names = set(check_adapter(folder, base))
    try:
        # the adapter keeps the dtype that it was saved in: another one would not give the same answers
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # told below, as an error
            tuned = PeftModel.from_pretrained(model, folder, adapter_name=name, autocast_adapter_dtype=False)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        lines = [line.strip() for line in str(error).strip().splitlines() if not line.endswith("PeftModelForCausalLM:")]
        reason = (lines or [type(error).__name__])[0][:300]
        raise KitError(f"The adapter in {folder} does not fit this base model ({reason}). {AGAIN}") from None
    wanted = set(get_peft_model_state_dict(tuned, adapter_name=name, save_embedding_layers=False))
    if missing := wanted - names:  # peft leaves them at their first values
        raise KitError(f"{weights} lacks {len(missing)} of {len(wanted)} weights, such as {min(missing)}. Train again.")
    if left := names - wanted:  # peft passes over them
        raise KitError(f"The adapter in {folder} does not fit this base model: it has weights for {min(left)}. {AGAIN}")
    return tuned


def check_adapter(folder: Path, base: str | None = None) -> dict[str, list[int]]:
    """{name: shape} of a saved adapter's weights, once its two files are whole and fit each other; no model is needed.

    Raises `KitError` naming the file and what to do. `base` as in `load_adapter`.
    """
    settings, weights = Path(folder) / "adapter_config.json", Path(folder) / "adapter_model.safetensors"
    for path in (settings, weights):
        if not path.is_file():
            raise KitError(f"{path} is missing: the adapter was not saved. Train again: ftkit train --fresh")
    try:
        with safe_open(weights, framework="pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise KitError(f"{weights} is broken ({error}). Copy it again, or train again.") from None
    if not shapes:
        raise KitError(f"{weights} is empty: it holds no weights. Train again: ftkit train --fresh")
    config = read_json(settings)
    if not isinstance(config, dict) or "peft_type" not in config:
        raise KitError(f"{settings} is not an adapter's configuration (no peft_type). {AGAIN}")
    known = config.get("base_model_name_or_path")
    if base is not None and known != base:
        raise KitError(
            f"{settings}: this adapter was trained on {known}, but the run on {base}. "
            "Put the adapter of this run back, or train again."
        )
    ranks = {shape[0] for key, shape in shapes.items() if "lora_A" in key}
    if not config.get("rank_pattern") and ranks - {config.get("r")}:
        clash = f"says rank {config.get('r')}, but the weights have rank {', '.join(map(str, sorted(ranks)))}"
        raise KitError(f"{settings} {clash}: the two are not of one training. {AGAIN}")
    return shapes
