"""Weights in 4 bits: which layers have them, what they take, and the cure for a trap on CPUs (lesson 03)."""

from __future__ import annotations

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def keep_weights_unpacked(model: PreTrainedModel) -> PreTrainedModel:
    """Cure the CPU trap: keep bitsandbytes from repacking 4-bit weights in place at the first forward in eval mode.

    On CPUs with AVX512-BF16 the repacked layers lose their gradients and dequantize to garbage; a later merge or save is
    wrong without a word. Called right after loading; a test compares gradients and merged weights before and after.
    """
    for module in linear_4bit_layers(model):
        module.support_avx512bf16_for_cpu = False
    return model


def dequantize(model: PreTrainedModel) -> PreTrainedModel:
    """Give the model ordinary weights, each the value that its 4 bits stand for: same answers, more memory, faster on
    a CPU, where every use of a 4-bit weight computes it anew. Changes `model`, which must have no adapter yet.

    GPT-2 and its kind keep their weights the other way round, in `Conv1D`. They get that back: a model saved with ordinary
    linear layers in its place would be loaded with transposed weights, and without a word where they are square.
    """
    if not (layers := linear_4bit_layers(model)):
        return model
    turned = {name for name, layer in model.named_modules() if layer in layers and layer.source_cls is Conv1D}
    model = model.dequantize(dtype=model.dtype)
    for name in turned:
        linear = model.get_submodule(name)
        with torch.device("meta"):
            layer = Conv1D(linear.out_features, linear.in_features)
        layer.weight, layer.bias = nn.Parameter(linear.weight.T.contiguous()), linear.bias
        model.set_submodule(name, layer)
    return model


def linear_4bit_layers(model: nn.Module) -> list[nn.Module]:
    """All bitsandbytes 4-bit linear layers of a model."""
    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def weight_bytes(model: nn.Module) -> int:
    """Bytes that the parameters and buffers take, 4-bit weights at their packed size with their quantization state."""
    total = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    for layer in linear_4bit_layers(model):
        state = layer.weight.quant_state
        if state is not None:
            nested = [state.state2.absmax, state.state2.code] if state.nested else []
            total += sum(t.numel() * t.element_size() for t in [state.absmax, state.code, *nested])
    return total
