"""The loss: the model's own, with logits at the completion's tokens only (lesson 03)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftkit.models.head import glance_at


def completion_loss(model: PreTrainedModel, inputs: dict[str, Any], items: Any = None) -> Any:
    """Mean cross-entropy over the completion's tokens: the model's own loss, the logits computed at those positions only.

    `inputs` holds `input_ids`, `attention_mask` and `labels`, each [batch, length], labels -100 where no loss falls; packed
    rows have `position_ids` in the place of the mask. `items` divides the sum when a step is spread over several batches.
    The model's own forward runs, so that scales and soft caps on the logits are there; only its head is given fewer
    positions, and many of them piece by piece (see `Glance`). With the padding on the right no mask is needed: a position
    sees those before it only.
    """
    targets = inputs["labels"][:, 1:]
    carries_loss = targets != -100
    with glance_at(model, carries_loss) as glance:
        output = model(**_read(model, inputs), use_cache=False)
    targets = targets[carries_loss]
    return _mean(model, output, glance.sum_losses(output.logits, targets), targets, items)


def whole_loss(model: PreTrainedModel, inputs: dict[str, Any], items: Any = None) -> Any:
    """The same loss from the logits of all positions: slower and larger, for models whose head cannot be told fewer."""
    targets = inputs["labels"][:, 1:]
    carries_loss = targets != -100
    output = model(**{key: value for key, value in inputs.items() if key != "labels"}, use_cache=False)
    targets = targets[carries_loss]
    loss = F.cross_entropy(output.logits[:, :-1][carries_loss].float(), targets, reduction="sum")
    return _mean(model, output, loss, targets, items)


def _mean(model: PreTrainedModel, output: Any, loss: torch.Tensor, targets: torch.Tensor, items: Any) -> torch.Tensor:
    """The mean of losses added up; a mixture of experts adds what keeps its experts equally busy."""
    if (balance := getattr(output, "aux_loss", None)) is not None:
        loss = loss + model.router_aux_loss_coef * balance * targets.numel()
    return loss / (targets.numel() if items is None else items)


def _read(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the model's forward has to be given: no mask where it would change nothing."""
    mask, places = inputs.get("attention_mask"), inputs.get("position_ids")
    given = {"input_ids": inputs["input_ids"], **({} if places is None else {"position_ids": places})}
    balanced = getattr(model.config.get_text_config(), "output_router_logits", False)  # that counts padding, if not told
    on_the_right = mask is None or bool((mask[:, 1:] <= mask[:, :-1]).all())
    return given if on_the_right and not (balanced and mask is not None) else {**given, "attention_mask": mask}
