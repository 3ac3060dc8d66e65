"""What single families of models do differently: layers that stay whole, and layers that take no adapter (lesson 03)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.quantizers.base import get_keys_to_not_convert

from ftkit.common.errors import KitError
from ftkit.models.four_bit import linear_4bit_layers

# Families with Mamba layers, and the linear layers in these whose weights are multiplied past the layers' own forward, by
# fused kernels on a GPU or by hand: packed weights and adapters would not be seen there. peft refuses some of them too.
MAMBA = ("bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "mamba", "mamba2", "nemotron_h", "zamba2")
PAST_FORWARD = ("dt_proj", "out_proj", "x_proj")
CONTEXT = ("max_position_embeddings", "max_seq_len", "context_length", "seq_length")  # what families call it
# what families call their table of the places that a token can have: learned, or computed up to a length
TABLES = {"wpe", "embed_positions", "position_embeddings", "positions_embed"}
MOST = 0.9  # of the weights that should be in 4 bits: with fewer, a line says so


def kept_whole(model: PreTrainedModel) -> list[str]:
    """Names, or ends of names, of the layers that 4 bits leave as they are: the head, and `PAST_FORWARD` of Mamba layers."""
    past = PAST_FORWARD if model.config.get_text_config().model_type in MAMBA else ()
    return [*get_keys_to_not_convert(model), *past, *(model._keep_in_fp32_modules or ())]


def share_in_4_bits(model: nn.Module) -> float:
    """Which share of a model's matrices is in 4 bits; embeddings and the output layer, which never are, are left out."""
    head = model.get_output_embeddings()
    apart = [m for m in model.modules() if isinstance(m, nn.Embedding) or m is head]
    left_out = {id(p) for module in apart for p in module.parameters()}
    packed = linear_4bit_layers(model)
    left_out |= {id(layer.weight) for layer in packed}
    numbers = sum(layer.in_features * layer.out_features for layer in packed)
    others = sum(p.numel() for p in model.parameters() if id(p) not in left_out and p.ndim > 1)
    return numbers / max(1, numbers + others)


def unfit_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers that no adapter can be put on: their weights are used past their own forward (Mamba), or
    they return more than one tensor (the routers of some mixtures of experts).
    """
    past = PAST_FORWARD if model.config.get_text_config().model_type in MAMBA else ()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return [name for name, module in linear.items() if name.endswith(past) or not _gives_tensor(module)]


def _gives_tensor(layer: nn.Linear) -> bool:
    """Whether a linear layer, possibly of a family's own kind, returns what a linear layer returns."""
    if type(layer).forward in (nn.Linear.forward, Linear4bit.forward):
        return True
    try:
        with torch.no_grad():
            probe = torch.zeros(1, 1, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)
            return isinstance(layer(probe), torch.Tensor)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False


def remarks(model: PreTrainedModel) -> list[str]:
    """What of a loaded base is not as with most families, a sentence each: what stays in 16 bits, what takes no adapter."""
    lines = []
    if (share := share_in_4_bits(model)) < MOST:
        why = "experts, and layers of the family's own kind, are not quantized"
        lines.append(f"In 4 bits are {share:.0%} of the weights, embeddings left out; the others keep their dtype ({why}).")
    if unfit := unfit_layers(model):
        lines.append(f"{len(unfit)} linear layers get no adapter, such as {unfit[0]}: they compute in a way of their own.")
    return lines


def context_length(config: PretrainedConfig) -> int | None:
    """Tokens that a model was made to read at once; None where a family knows no limit (Bloom, Mamba)."""
    text = config.get_text_config()
    return next((n for name in CONTEXT if isinstance(n := getattr(text, name, None), int)), None)


def refuse_long_texts(model: PreTrainedModel) -> PreTrainedModel:
    """Let a model with a table of places refuse longer texts with a `KitError`: it would be an IndexError. In place.

    A prompt and the answer to it count together. Families without such a table go on, and write the worse for it.
    """
    learned = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    names = {name.rsplit(".", 1)[-1] for name in [*learned, *(name for name, _ in model.named_buffers())]}
    if (most := context_length(model.config)) and (names & TABLES or model.config.model_type == "mpt"):
        inner = getattr(model.base_model, "decoder", model.base_model)  # OPT goes past the layer between
        inner.register_forward_pre_hook(partial(_refuse_long, most), with_kwargs=True)
    return model


def _refuse_long(most: int, model: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
    ids, cache = args[0] if args else given.get("input_ids"), given.get("past_key_values")
    tokens = (ids.shape[1] if ids is not None else 0) + (cache.get_seq_length() if cache is not None else 0)
    if tokens > most:
        raise KitError(
            f"A prompt and its answer have {tokens:,} tokens, and {model.config.model_type} has places for {most:,}. "
            "Shorten the message, ask for a shorter answer, or take another base model: ftkit train --model NAME."
        )


def keeps_rows_apart(model: PeftModel) -> bool:
    """Whether every layer with an adapter sees the rows of a batch as rows: experts, and OPT, see a heap of tokens, and
    peft cannot tell there whose they are.
    """
    layers, seen = [module for module in model.modules() if isinstance(module, LoraLayer)], set()
    hooks = [layer.register_forward_pre_hook(lambda _, given: seen.add(given[0].shape[0])) for layer in layers]
    try:
        model(input_ids=torch.ones(2, 3, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return seen <= {2} and not any(isinstance(layer, ParamWrapper) for layer in layers)


def arguments(model: PreTrainedModel | PeftModel) -> Iterable[str]:
    """Names of what a model's forward takes: families without places for tokens (Bloom, Mamba) take no `position_ids`."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return inspect.signature(type(base).forward).parameters


def spare_the_head(model: nn.Module) -> Any:
    """Make a model that answers many rows at once lay their last positions [rows, 1, hidden] out in one block.

    They come as a slice of all positions, and `linear` copies the head's weights once for each row of such a slice: 3.6 GB
    for 64 rows of a model of 135 million weights. Changes `model`, and gives it back.
    """
    model.get_output_embeddings().register_forward_pre_hook(_make_contiguous)
    return model


def _make_contiguous(head: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in inputs)
