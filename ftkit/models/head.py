"""A model's head, which makes the logits: let see few positions, and the loss of many, piece by piece (lesson 03)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ftkit.common.errors import KitError

PIECE = 128  # tokens whose logits exist at once: those of a conversation's answers would take more memory than its layers
_HANDED_ON: WeakSet[nn.Module] = WeakSet()  # heads whose output was seen to be the model's logits: no scale, no cap, no cast


class Glance:
    """What the head sees in one forward pass of its model: the positions before the `wanted` tokens [batch, length - 1]."""

    def __init__(self, head: nn.Module, wanted: torch.Tensor):
        self.head, self.wanted = head, wanted
        self.made: Any = None
        self.waiting: torch.Tensor | None = None  # [tokens, hidden]: the head has seen the first of them only

    def narrow(self, _: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Before the head: the wanted positions [tokens, hidden] alone; where they are to be taken in pieces, one."""
        hidden = given[0][:, :-1][self.wanted]
        if self.head in _HANDED_ON and len(hidden) > PIECE:
            self.waiting, hidden = hidden, hidden[:1]
        return hidden, *given[1:]

    def keep(self, _: nn.Module, given: Any, made: Any) -> None:
        """After the head: what it made."""
        self.made = made

    def sum_losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The cross-entropy of the wanted tokens, added up. `logits` are the model's, `targets` [tokens].

        More than `PIECE` tokens are taken in pieces, and each piece's logits are computed again for the backward pass: the
        head's products once more, for a part of the memory. A model that changes what its head made (Gemma, Cohere, Granite)
        is let do so at once.
        """
        if self.waiting is None:
            if logits is self.made:
                _HANDED_ON.add(self.head)
            return F.cross_entropy(logits.float(), targets, reduction="sum")
        pieces = zip(self.waiting.split(PIECE), targets.split(PIECE), strict=True)
        return torch.stack([checkpoint(self._of_piece, *piece, use_reentrant=False) for piece in pieces]).sum()

    def _of_piece(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.head(hidden).float(), targets, reduction="sum")


@contextlib.contextmanager
def glance_at(model: PreTrainedModel, wanted: torch.Tensor) -> Iterator[Glance]:
    """Let the model's head see the positions before the `wanted` tokens only, until the block ends.

    Raises `KitError` for a model that does not name its head.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise KitError(f"{type(model).__name__} does not say which of its layers makes the logits.")
    glance = Glance(head, wanted)
    hooks = head.register_forward_pre_hook(glance.narrow), head.register_forward_hook(glance.keep)
    try:
        yield glance
    finally:
        for hook in hooks:
            hook.remove()
