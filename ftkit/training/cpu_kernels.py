"""Faster training: on a CPU attention as matrix products, and a 4-bit layer with its adapter in one step; on a GPU what
liger-kernel fuses (lesson 03).
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from types import MethodType
from typing import Any

import torch
from bitsandbytes.functional import dequantize_blockwise
from peft import PeftModel
from peft.tuners.lora.bnb import Linear4bit
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, TrainerCallback
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ftkit.common.threads import look, take_all

NAME = "ftkit_cpu"
PACKED = "packing_format_for_cpu"  # bitsandbytes marks weights so that it has rearranged for inference
SPECIAL = ("softcap", "s_aux", "position_bias", "alibi", "cache")  # what some families add to attention, left to theirs
DTYPES = (torch.bfloat16, torch.float32)  # what the kit's own products are computed in
LONGEST = 512  # tokens; beyond, the scores [batch, heads, length, length] that are kept would cost more than they save


def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, blocked: torch.Tensor
) -> torch.Tensor:
    """Causal attention, query heads that share a key head multiplied together (grouped queries, arXiv 2305.13245).

    query [batch, heads, length, size]; key and value [batch, kv heads, length, size]; `blocked` [length, length] is very
    negative where a position must not look. Returns [batch, heads, length, size].
    On two cores this took a quarter of the time of `scaled_dot_product_attention`, forwards and back, whose CPU kernel
    works in small blocks: its backward pass alone was a sixth of a training step.
    """
    batch, heads, length, size = query.shape
    shared = heads // key.shape[1]
    queries = query.reshape(-1, shared * length, size)
    keys, values = (t.reshape(-1, length, size) for t in (key, value))
    mask = blocked.repeat(shared, 1).expand(queries.shape[0], -1, -1)
    scores = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=scaling)
    return torch.bmm(torch.softmax(scores, dim=-1), values).reshape(batch, heads, length, size)


@cache
def _blocked(length: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.full((length, length), torch.finfo(dtype).min / 2, dtype=dtype).triu(1)


def register() -> str:
    """Make the attention known to transformers and return its name for `model.set_attn_implementation`.

    It is used where it is right and fast: in training on a CPU, up to `LONGEST` tokens, in one of `DTYPES`, when every
    position may see all before it (no padding on the left, no cache). Everything else goes to `sdpa` as before.
    """
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def use_attention(model: PreTrainedModel) -> bool:
    """Let a model's attention be the kit's; False where it is of another kind than the `sdpa` that the kit's replaces."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(register())
    return model.config._attn_implementation == NAME


def _attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **settings: Any) -> tuple[Any, None]:
    length = query.shape[2]
    plain = module.training and attention_mask is None and not any(settings.get(name) is not None for name in SPECIAL)
    plain = (
        plain and not settings.get("dropout") and settings.get("is_causal", getattr(module, "is_causal", True)) is not False
    )
    plain = plain and key.shape == value.shape and key.shape[2:] == query.shape[2:]
    alike = query.dtype == key.dtype == value.dtype and query.dtype in DTYPES
    if query.dtype == torch.float32 and torch.is_autocast_enabled("cpu"):  # 16 bits were asked for: sdpa computes in them
        alike = False
    if not (plain and alike and 1 < length <= LONGEST and query.device.type == "cpu"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    scaling = settings.get("scaling") or query.shape[-1] ** -0.5
    with torch.autocast("cpu", enabled=False):
        output = causal_attention(query, key, value, scaling, _blocked(length, query.dtype))
    return output.transpose(1, 2).contiguous(), None


def dequantize_weight(weight: Any) -> torch.Tensor:
    """What a 4-bit weight (bitsandbytes' `Params4bit`) stands for. Double quantization keeps the scales of its blocks in 8
    bits: they are unpacked once and kept with the weight, half a bit for each of its numbers.
    """
    state = weight.quant_state
    if not hasattr(state, "unpacked_scales"):
        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
        state.unpacked_scales = scales.float()
    unpack = torch.ops.bitsandbytes.dequantize_4bit.default
    return unpack(weight.data, state.unpacked_scales, state.blocksize, state.quant_type, state.shape, state.dtype)


class LoraProduct(torch.autograd.Function):
    """y = x W' + s (x A') B', with W in 4 bits and not trained; ' is the transpose.

    x [..., in] in bfloat16 or float32; A [rank, in] and B [out, rank] in that or float32, multiplied in x's; y [..., out].
    With g the gradient of y and h = s g B, backwards: x gets g W + h A; A gets h' x; B gets s g' (x A'). The adapter's
    part is added by the product itself, in place: peft and autograd copy, scale and add in six passes over memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, a: Any, b: Any, weight: Any, scaling: float) -> torch.Tensor:
        """y; keeps what `backward` needs."""
        look()  # in each layer: beside busy programs a single step may take many seconds
        rows = x.reshape(-1, x.shape[-1])
        ctx.dtype, (a, b) = a.dtype, (a.to(x.dtype), b.to(x.dtype))
        low = rows @ a.t()
        out = rows @ dequantize_weight(weight).t()
        out.addmm_(low, b.t(), alpha=scaling)
        ctx.save_for_backward(rows, low, a, b)
        ctx.weight, ctx.scaling, ctx.shape = weight, scaling, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        """The gradients of x, A and B, where the gradient of y is `gradient`."""
        look()
        rows, low, a, b = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        for_low = (gradient @ b).mul_(ctx.scaling)
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = gradient @ dequantize_weight(ctx.weight)
            for_x = for_x.addmm_(for_low, a).view(ctx.shape)
        for_a, for_b = for_low.t() @ rows, (gradient.t() @ low).mul_(ctx.scaling)
        return for_x, for_a.to(ctx.dtype), for_b.to(ctx.dtype), None, None


def speed_up_adapters(model: PeftModel) -> int:
    """Let the 4-bit LoRA layers of a model compute in one step while it trains on a CPU; returns how many.

    A layer does so where it is right: one of `DTYPES` (the adapter may be kept in float32), one plain adapter, no dropout,
    not merged. Everything else, evaluation included, goes peft's way as before.
    """
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for layer in layers:
        layer.forward = MethodType(_forward_adapted, layer)
    return len(layers)


def _forward_adapted(layer: Any, x: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
    name = layer.active_adapters[0] if len(layer.active_adapters) == 1 else None
    plain = layer.training and not (args or more or layer.disable_adapters or layer.merged or layer.lora_variant)
    if not (plain and name in layer.lora_A and isinstance(layer.lora_dropout[name], torch.nn.Identity)):
        return type(layer).forward(layer, x, *args, **more)
    a, b, linear = layer.lora_A[name], layer.lora_B[name], layer.base_layer
    fits = x.device.type == "cpu" and x.dtype == linear.compute_dtype and x.dtype in DTYPES
    fits = fits and a.weight.dtype == b.weight.dtype and a.weight.dtype in (x.dtype, torch.float32)
    fits = fits and linear.weight.quant_state.dtype == x.dtype
    if not fits or linear.bias is not None or b.bias is not None or getattr(linear.weight.quant_state, PACKED, False):
        return type(layer).forward(layer, x)
    with torch.autocast("cpu", enabled=False):
        return LoraProduct.apply(x, a.weight, b.weight, linear.weight, layer.scaling[name])


class FollowLoad(TrainerCallback):
    """Between steps and small steps: as many threads as other programs leave; all of them again after the training."""

    def on_step_begin(self, args, state, control, **kwargs):
        """Look at the load."""
        look()

    def on_substep_end(self, args, state, control, **kwargs):
        """Look at the load."""
        look()

    def on_train_end(self, args, state, control, **kwargs):
        """Take all threads."""
        take_all()


def is_used(device: str) -> bool:
    """Whether a training on this device takes these layers; `FTKIT_FAST_KERNELS=0` leaves PyTorch's and peft's own."""
    return device == "cpu" and os.environ.get("FTKIT_FAST_KERNELS") != "0"


def fuse(model: torch.nn.Module) -> bool:
    """Let liger-kernel, where it is installed, compute norms, rotary positions and MLPs of a model on a GPU in one kernel
    each (arXiv 2410.10989); the loss stays the kit's. Returns whether it was done; `FTKIT_FAST_KERNELS=0` forbids it.
    """
    asked_not_to = os.environ.get("FTKIT_FAST_KERNELS") == "0"
    if model.device.type != "cuda" or asked_not_to or importlib.util.find_spec("liger_kernel") is None:
        return False
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
    return True
