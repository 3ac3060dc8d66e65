"""Merging: the adapter added into its base's weights (lesson 05)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ftkit.common.errors import KitError
from ftkit.common.machine import detect_hardware
from ftkit.evaluation.answer import Loaded
from ftkit.models.adapter import load_adapter
from ftkit.models.chat_template import end_tokens
from ftkit.models.four_bit import dequantize
from ftkit.models.load import load_model, load_tokenizer
from ftkit.runs import guards
from ftkit.runs.run import Run


def merged_model(run: Run, four_bit: bool = True) -> PreTrainedModel:
    """An ordinary model with the adapter in its weights, in the dtype that the run computes in.

    The adapter was trained on the values that the 4-bit weights stand for, so it is added to those: the base is loaded in
    4-bit and dequantized first. `four_bit=False` adds it to the base's original weights instead, which is another model.
    Raises `KitError` if the adapter is missing, broken or holds numbers that are not finite.
    """
    base = load_model(run.profile.model, run.profile.dtype, four_bit)
    tuned = load_adapter(dequantize(base) if four_bit else base, run.adapter, base=run.profile.model)
    belongs = guards.base(run.record.guards, run.profile.model)
    guards.require([belongs, guards.mergeable(tuned), guards.adapter_in_use(tuned)])
    return _merged(tuned, run)


def _merged(tuned: Any, run: Run) -> PreTrainedModel:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Merge lora module to 4-bit")  # what the comparison is there to show
            return tuned.merge_and_unload(safe_merge=True).eval()
    except ValueError as error:
        raise KitError(f"The adapter in {run.adapter} cannot be merged: {error}. Train again.") from None


def save_merged(run: Run, folder: Path) -> None:
    """Write the merged model into `folder`: config, safetensors, tokenizer with chat template, generation config.

    Nothing in it asks for quantization. The generation config asks for what the kit measures: the likeliest token each
    time, an end at the run's limit or at each of the tokens that end an answer.
    """
    model, tokenizer = merged_model(run), load_tokenizer(run.profile.model, run.adapter)
    settings = model.generation_config
    for name in ("temperature", "top_p", "top_k"):
        setattr(settings, name, None)
    settings.do_sample = False
    settings.max_new_tokens = run.answer_tokens
    ends = end_tokens(model, tokenizer)
    settings.eos_token_id, settings.pad_token_id = ends if len(ends) > 1 else ends[0], tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.init_kwargs["padding_side"] = "left"  # as batched answers need it; saved only from here
    tokenizer.save_pretrained(folder)


def load_folder(folder: Path) -> Loaded:
    """Load an exported model as anybody would: transformers' Auto classes and the folder, nothing of the kit's."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return model.eval().to(detect_hardware().device), tokenizer
