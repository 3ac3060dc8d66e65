"""The loss proved before a training: held against the model's own on a small batch; the first way that gives it is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel
from trl import SFTTrainer

from ftkit.common.console import Say
from ftkit.common.errors import KitError
from ftkit.common.processes import is_sharded, world_size
from ftkit.training import cpu_kernels as kernels
from ftkit.training.loss import completion_loss, whole_loss

Way = Literal["completion", "trl", "whole"]
Loss = Callable[[Any, dict[str, Any]], torch.Tensor]
WAYS = {"completion": "logits at the completion's tokens alone", "trl": "trl's own way", "whole": "all logits"}
SAME = 2e-3  # relative gap of two ways to compute one loss: 16 bits round differently in products of other sizes
AS_GOOD = 2e-2  # the same between two ways to compute attention: in 16 bits each layer rounds differently


@dataclass(frozen=True)
class Proof:
    """Which way gives the model's own loss, which is `own`; `others` are the ways that did not, with what they gave."""

    way: Way
    own: float
    others: dict[str, float | str]

    def __str__(self) -> str:
        """In words."""
        text = f"Loss by {WAYS[self.way]}: {self.own:.4g} on a first batch, as by the model's own forward"
        gave = (f"{WAYS[way]}: {what if isinstance(what, str) else f'{what:.4g}'}" for way, what in self.others.items())
        return f"{text} (not by {'; '.join(gave)})." if self.others else f"{text}."


def prove_loss(model: PreTrainedModel, inputs: dict[str, Any], ways: dict[Way, Loss]) -> Proof:
    """Try ways to compute the loss of a batch in turn, and take the first that gives the model's own: with `labels`.

    In evaluation mode: dropout would make each of them another. Raises `KitError` for a model whose own loss is not the
    cross-entropy of the next token (the decoders of encoder-decoder models are such).
    """
    own = float(model(**inputs, use_cache=False).loss)
    others: dict[str, float | str] = {}
    for way, loss in (ways | {"whole": whole_loss}).items():
        try:
            gave = float(loss(model, dict(inputs)))
        except Exception as error:  # whatever a family does differently: the next way is tried
            reason = str(error).strip() or "no reason given"
            others[way] = f"{type(error).__name__}: {reason.splitlines()[0][:120]}"
            continue
        if is_same(gave, own, SAME):
            return Proof(way, own, others)
        others[way] = gave
    raise KitError(
        f"{type(model).__name__} cannot be trained: its own loss is {own:.4g} where the cross-entropy of the next token is "
        f"{others.get('whole')}. Take a decoder-only model."
    )


def is_same(one: float, other: float, tolerance: float) -> bool:
    """Whether two losses differ by rounding alone."""
    return abs(one - other) <= tolerance * max(1.0, abs(other))


def without_adapter(model: Any) -> PreTrainedModel:
    """The base inside of a model with an adapter, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def settle_loss(trainer: Any, say: Say, own_attention: bool) -> None:
    """Settle how a trainer computes the loss, on a small batch of its rows, and say so where it is not the kit's way.

    `own_attention`: the model's attention is the kit's, which is held against PyTorch's too. Nothing that the training
    depends on changes, random numbers included. Raises `KitError` where no way gives the model's own loss.
    """
    if is_sharded():  # no process holds the model
        return
    model, before = without_adapter(trainer.model), trainer.model.training
    inputs = {key: value.to(model.device) for key, value in _small_batch(trainer).items()}
    devices = [model.device] if model.device.type == "cuda" else []

    def by_trl(_: Any, given: dict[str, Any]) -> torch.Tensor:
        loss = SFTTrainer.compute_loss(trainer, trainer.model, given)
        trainer._metrics["eval"].clear()
        return loss

    with torch.random.fork_rng(devices), trainer.compute_loss_context_manager(), torch.no_grad():
        trainer.model.eval()
        alone: dict[Way, Loss] = {} if world_size() > 1 else {"completion": completion_loss}
        trainer.proof = prove_loss(model, inputs, alone | {"trl": by_trl})
        if own_attention and not _attends_alike(trainer, model, inputs):
            say("Attention is PyTorch's own: the kit's faster one gives this model another loss.")
    trainer.model.train(before)
    if trainer.proof.others:
        say(str(trainer.proof))
    if world_size() > 1 and trainer.proof.way == "whole":
        raise KitError(f"Several processes compute the loss in trl's way. Train this model in one. {trainer.proof}")


def _small_batch(trainer: Any) -> dict[str, torch.Tensor]:
    """The two shortest of the first rows: little work and memory, and some padding."""
    rows = [dict(row) for row in trainer.train_dataset.select(range(min(64, len(trainer.train_dataset))))]
    return trainer.data_collator(sorted(rows, key=lambda row: len(row["input_ids"]))[:2])


def _attends_alike(trainer: Any, model: PreTrainedModel, inputs: dict[str, Any]) -> bool:
    """Whether the kit's attention, which works in training only, gives the loss of PyTorch's; else it is taken off."""
    trainer.model.train()
    losses = []
    for attention in (kernels.NAME, "sdpa"):
        model.set_attn_implementation(attention)
        torch.manual_seed(0)  # the same dropout
        losses.append(float(whole_loss(model, {**inputs, "attention_mask": None})))
    alike = is_same(losses[0], losses[1], AS_GOOD)
    if alike:
        model.set_attn_implementation(kernels.NAME)
    return alike
