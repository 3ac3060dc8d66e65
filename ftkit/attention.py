"""Attention for training on a CPU: four matrix products in bfloat16, where PyTorch's fused kernel is slow (lesson 03)."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "ftkit_cpu"
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
    import torch

    batch, heads, length, size = query.shape
    shared = heads // key.shape[1]
    queries = query.reshape(-1, shared * length, size)
    keys, values = (t.reshape(-1, length, size) for t in (key, value))
    mask = blocked.repeat(shared, 1).expand(queries.shape[0], -1, -1)
    scores = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=scaling)
    return torch.bmm(torch.softmax(scores, dim=-1), values).reshape(batch, heads, length, size)


@cache
def _blocked(length: int, dtype: torch.dtype) -> torch.Tensor:
    import torch

    return torch.full((length, length), torch.finfo(dtype).min / 2, dtype=dtype).triu(1)


@cache
def register() -> str:
    """Make the attention known to transformers and return its name for `model.set_attn_implementation`.

    It is used where it is right and fast: in training on a CPU, in bfloat16, up to `LONGEST` tokens, when every position may
    see all before it (no padding on the left, no cache). Everything else goes to `sdpa` as before.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def forward(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **given: Any) -> tuple[Any, None]:
        length = query.shape[2]
        plain = module.training and attention_mask is None and key.shape[2] == length and not given.get("dropout")
        if not (plain and 1 < length <= LONGEST and query.dtype == torch.bfloat16 and query.device.type == "cpu"):
            return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
        scaling = given.get("scaling") or query.shape[-1] ** -0.5
        with torch.autocast("cpu", enabled=False):
            seen = causal_attention(query, key, value, scaling, _blocked(length, query.dtype))
        return seen.transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def wanted(device: str) -> bool:
    """Whether a training on this device takes it; `FTKIT_FAST_ATTENTION=0` leaves PyTorch's own."""
    return device == "cpu" and os.environ.get("FTKIT_FAST_ATTENTION") != "0"
