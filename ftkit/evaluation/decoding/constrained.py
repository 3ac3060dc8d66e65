"""Constrained decoding: only tokens with which an answer can still fit the task's schema (lesson 04)."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import llguidance.hf
import llguidance.torch as masks
import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from ftkit.common.errors import KitError
from ftkit.data.task import Task
from ftkit.models.chat_template import answer_end

ROOM = 3  # how many times longer than a tuned model's answers may be: a base model goes on with its lists


class SchemaProcessor(LogitsProcessor):
    """A logits processor for `generate` that forbids every token which breaks the schema of a `json` task.

    For a batch of `rows` greedy answers; logits [rows, vocabulary]. Made new for every batch. The grammar (llguidance)
    holds the fields in their order, and lists sorted with nothing named twice. Raises `KitError` for other kinds of task.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, rows: int, vocabulary: int):
        if task.kind != "json":
            raise KitError(f"Only the answers of a json task have a schema to keep to; {task.name} is a {task.kind} task.")
        grammar = llguidance.LLMatcher.grammar_from_lark(_grammar(task))
        tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary)
        self.matchers = [llguidance.LLMatcher(tokens, grammar) for _ in range(rows)]
        if error := self.matchers[0].get_error():
            raise KitError(f"{task.folder / 'task.toml'}: its fields make no grammar ({error}).")
        self.vocabulary, self.end = vocabulary, answer_end(tokenizer)
        self.begun = False  # whether the matchers stand before the first token of the answers, or after one

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The logits with those of forbidden tokens at minus infinity; `input_ids` [rows, length] end with the answers."""
        if self.begun:
            for matcher, token in zip(self.matchers, input_ids[:, -1].tolist(), strict=True):
                if not matcher.is_stopped():
                    matcher.consume_token(token)
        self.begun, rows = True, len(self.matchers)
        mask = masks.allocate_token_bitmask(rows, self.vocabulary)  # a bit a token, 32 to a number
        over = torch.tensor([matcher.is_stopped() for matcher in self.matchers], device=scores.device)
        for row, matcher in enumerate(self.matchers):
            if not matcher.is_stopped():
                masks.fill_next_token_bitmask(matcher, mask, row)
        bits = mask.to(scores.device)[:, :, None] >> torch.arange(32, device=scores.device) & 1
        allowed = bits.reshape(rows, -1)[:, : scores.shape[1]].bool()
        allowed[over] = False
        allowed[over, self.end] = True  # the object is whole: nothing but the end may follow
        return scores.masked_fill(~allowed, float("-inf"))


def _grammar(task: Task) -> str:
    """The answers that fit, in the form of Lark: fields in their order, written as `completion_text` writes them."""

    def literal(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)  # Lark quotes as JSON does

    comma, colon = task.answer_form.comma, task.answer_form.colon
    whole, rules = ['"{"'], []
    for n, field in enumerate(task.fields):
        whole.append(f"{literal((comma if n else '') + json.dumps(field.name, ensure_ascii=False) + colon)} f{n}")
        if field.type != "set":
            rules.append(f"f{n}: %json {json.dumps(field.schema())}")
            continue
        names = sorted(field.values)
        some = [f"f{n}_{i}" for i in range(len(names))]  # a list that begins with this name: only later ones may follow
        rules.append(f'f{n}: "[" ({" | ".join(some)})? "]"')
        for i, name in enumerate(names):
            later = f" ({literal(comma)} ({' | '.join(some[i + 1 :])}))?" if some[i + 1 :] else ""
            rules.append(f"f{n}_{i}: {literal(json.dumps(name, ensure_ascii=False))}{later}")
    return "\n".join([f"start: {' '.join(whole)} " + '"}"', *rules])
