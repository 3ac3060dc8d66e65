"""Loading a base model, by default in 4 bits, with its tokenizer (lessons 01 and 03)."""

from __future__ import annotations

import warnings
from pathlib import Path

import datasets
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import is_flash_attn_2_available
from transformers.utils import logging as transformers_logging

from ftkit.common.machine import detect_hardware, resolve_dtype
from ftkit.common.processes import is_sharded, local_rank
from ftkit.models.families import MAMBA, kept_whole, refuse_long_texts
from ftkit.models.find import prepare_model, readable
from ftkit.models.four_bit import keep_weights_unpacked
from ftkit.models.tokenizer import load_tokenizer as load_tokenizer


def load_model(name: str, dtype: str = "auto", four_bit: bool = True, device: str | None = None) -> PreTrainedModel:
    """Load a base model, by default in 4-bit: NF4 with double quantization, computing in `dtype` (lesson 03).

    `device` is "cpu" or "cuda"; left out, CUDA is used if there is a GPU. Weights come only from safetensors, code never
    from the hub. NF4 and double quantization: QLoRA, arXiv 2305.14314, section 3.
    """
    quiet_libraries()
    place = prepare_model(name)
    hardware = detect_hardware()
    device = device or hardware.device
    compute = getattr(torch, resolve_dtype(dtype, hardware))
    with readable(name):
        model = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=compute,
            attn_implementation=choose_attention(device, compute),
            quantization_config=_quantization(name, compute) if four_bit else None,
            device_map=None if is_sharded() else {"": local_rank() if device == "cuda" else device},
            use_safetensors=True,
            local_files_only=Path(place).is_dir(),
        )
    return refuse_long_texts(keep_weights_unpacked(model))


def load_config(name: str) -> PretrainedConfig:
    """Load a model's configuration alone."""
    place = prepare_model(name)
    with readable(name):
        return AutoConfig.from_pretrained(place, local_files_only=Path(place).is_dir())


def _quantization(name: str, compute: torch.dtype) -> BitsAndBytesConfig:
    """What bitsandbytes is asked for. Of Mamba layers more has to stay whole than transformers knows by itself."""
    config, skipped = load_config(name), None
    if config.get_text_config().model_type in MAMBA:
        with torch.device("meta"):  # no weights
            skipped = kept_whole(AutoModelForCausalLM.from_config(config))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_storage=compute if is_sharded() else torch.uint8,  # FSDP shards tensors of one dtype
        llm_int8_skip_modules=skipped,
    )


def choose_attention(device: str, dtype: torch.dtype) -> str | None:
    """Choose the attention for transformers: FlashAttention 2 where it is installed, on a GPU in 16 bits.

    Else the family decides (None): `sdpa`, or its own where that would leave out a soft cap (Gemma 2) or sinks (gpt-oss).
    """
    flash = device == "cuda" and dtype in (torch.bfloat16, torch.float16) and is_flash_attn_2_available()
    return "flash_attention_2" if flash else None


def quiet_libraries() -> None:
    """Keep the libraries' notices that tell a learner nothing out of the output. Downloads still show their progress."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing` is deprecated", category=FutureWarning)
    for notice in ("fan_in_fan_out is set to False", "The following (rank|alpha)_pattern keys did not match"):
        warnings.filterwarnings("ignore", message=notice)  # peft on GPT-2 and on experts: it sees to both by itself
