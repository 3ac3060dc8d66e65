"""Beam search that takes no beam further which holds what its message does not say (lesson 04)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from ftkit.data.kept import things_in, things_wanted
from ftkit.data.task import Task

BEHIND = 1e4  # taken from the log probabilities of such a beam: it falls behind all others of its message


class Pruned(LogitsProcessor):
    """A logits processor for `generate` with several beams for each of `rows` messages; scores [rows x beams, vocabulary].

    It goes by the task's rules, where they can tell what an answer should hold. The last word of a beam is not looked at:
    it may still grow ("19" into "19:30"). Made new for every batch.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, messages: Sequence[str], rows: int):
        self.task, self.tokenizer, self.rows = task, tokenizer, rows
        self.wanted = [things_wanted(task, message) for message in messages]
        self.begin: int | None = None  # how long the prompts are, padding included

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores, those of beams with something unwanted far below; `input_ids` [rows, length] end with the answers."""
        self.begin = input_ids.shape[1] if self.begin is None else self.begin
        texts = self.tokenizer.batch_decode(input_ids[:, self.begin :], skip_special_tokens=True)
        beams = len(texts) // self.rows
        unwanted = [self._holds_more(text, self.wanted[place // beams]) for place, text in enumerate(texts)]
        return scores - BEHIND * torch.tensor(unwanted, device=scores.device, dtype=scores.dtype)[:, None]

    def _holds_more(self, text: str, wanted: dict[str, Counter[str]]) -> bool:
        whole = text[: len(text) - len(text.split()[-1])] if text.split() and not text[-1].isspace() else text
        return any(Counter(things_in(whole, self.task.kept[name])) - things for name, things in wanted.items())
