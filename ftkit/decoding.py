"""Constrained decoding: only tokens with which an answer can still fit the task's schema (lesson 04)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .base import KitError
from .tasks import Task

if TYPE_CHECKING:
    from transformers import LogitsProcessor, PreTrainedTokenizerBase


def only_what_fits(task: Task, tokenizer: PreTrainedTokenizerBase, rows: int, vocabulary: int) -> LogitsProcessor:
    """A logits processor for `generate` that forbids every token which breaks the schema of a `json` task.

    For a batch of `rows` greedy answers; logits [rows, vocabulary]. Made new for every batch. The grammar follows the JSON
    Schema, without blanks, keys in the schema's order (llguidance). Raises `KitError` for other kinds of task.
    """
    if task.kind != "json":
        raise KitError(f"Only the answers of a json task have a schema to keep to; {task.name} is a {task.kind} task.")
    import llguidance
    import llguidance.hf
    import llguidance.torch as masks
    import torch
    from transformers import LogitsProcessor

    compact = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
    # a grammar cannot say that no item comes twice, so that rule is left out
    fields = {f.name: {k: v for k, v in f.schema().items() if k != "uniqueItems"} for f in task.fields}
    schema = {**task.schema, "properties": fields, "x-guidance": compact}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    known = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary)
    matchers = [llguidance.LLMatcher(known, grammar) for _ in range(rows)]
    if error := matchers[0].get_error():
        raise KitError(f"{task.folder / 'task.toml'}: its fields make no grammar ({error}).")

    class OnlyWhatFits(LogitsProcessor):
        read: int | None = None  # how many tokens of each row the matchers have seen

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            if self.read is not None:
                for matcher, token in zip(matchers, input_ids[:, -1].tolist(), strict=True):
                    if not matcher.is_stopped():
                        matcher.consume_token(token)
            self.read = input_ids.shape[1]
            mask = masks.allocate_token_bitmask(rows, vocabulary)  # a bit a token, 32 to a number
            over = torch.tensor([matcher.is_stopped() for matcher in matchers], device=scores.device)
            for row, matcher in enumerate(matchers):
                if not matcher.is_stopped():
                    masks.fill_next_token_bitmask(matcher, mask, row)
            bits = mask.to(scores.device)[:, :, None] >> torch.arange(32, device=scores.device) & 1
            allowed = bits.reshape(rows, -1)[:, : scores.shape[1]].bool()
            allowed[over] = False
            allowed[over, tokenizer.eos_token_id] = True  # the object is whole: nothing but the end may follow
            return scores.masked_fill(~allowed, float("-inf"))

    return OnlyWhatFits()
