"""Answers by base and tuned: one 4-bit model in memory, the adapter chosen row by row; batched, or streamed (lesson 04)."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import BatchEncoding, Cache, LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from ftkit.common import threads
from ftkit.common.errors import KitError
from ftkit.data.prompt import Message, Messages, chat_prompt, prompt_ids
from ftkit.data.task import Task
from ftkit.evaluation.stream import (
    Answer,
    Drafts,
    Streamer,
    copy_without_adapter,
    cut_at,
    encode_training_answers,
    new_cache,
    run_aside,
)
from ftkit.models.adapter import load_adapter
from ftkit.models.chat_template import end_tokens
from ftkit.models.families import arguments, keeps_rows_apart, spare_the_head
from ftkit.models.four_bit import dequantize
from ftkit.models.load import load_model, load_tokenizer
from ftkit.runs import guards
from ftkit.runs.run import Run

Loaded = tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]
BASE, TUNED = "base", "tuned"
WORTH_SHARING = 48  # tokens that all prompts must begin with to be computed once
_ADAPTER = {BASE: "__base__", TUNED: "default"}  # peft's names: the untouched model, and the adapter


@dataclass
class Answerer:
    """Base and tuned model of a run, sharing one 4-bit base in memory.

    Both sides are told apart by peft's `adapter_names`, a name for each row of a batch, and not by switching the model: a
    row cannot be answered by the wrong one. (Mixtures of experts take no names: for them see `_side`.) All work with the
    model happens in one thread of its own, a batch at a time, so calls from many threads are safe. On a CPU the 4-bit
    weights are dequantized once, after loading: the same numbers go into the same products, only not computed again for
    every token. A second thread would also bring its own set of OpenMP threads, which contend with the first for the cores
    (measured on two cores: twice the time a token).
    """

    task: Task
    model: PeftModel | PreTrainedModel  # without an adapter it answers as it is, which counts as tuned
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 64
    max_new_tokens: int = 96
    worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "ftkit-model"), repr=False)
    ends: list[int] = field(init=False)  # the tokens that end an answer
    _made: dict[str, Streamer] | None = field(default=None, init=False, repr=False)
    _by_names: bool | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.ends = end_tokens(self.model, self.tokenizer)
        spare_the_head(self.model)
        self.model.get_output_embeddings().register_forward_pre_hook(threads.look)  # before each token: are all cores free?

    @classmethod
    def of_run(cls, run: Run, worker: ThreadPoolExecutor | None = None) -> Answerer:
        """Load the models of a finished run. Raises `KitError` if its adapter is missing or broken."""
        worker = worker or ThreadPoolExecutor(1, "ftkit-model")
        model, tokenizer = worker.submit(load_tuned, run).result()
        guards.require(guards.at_loading(run, model, tokenizer))
        return cls(run.task, model, tokenizer, run.profile.generation_batch, run.answer_tokens, worker)

    def prompt(self, message: Message, which: str) -> Messages:
        """The chat for a message: the base model is told the fields in its prompt, the tuned one learned them."""
        _check_side(which)
        return chat_prompt(self.task, message, told=which == BASE)

    def answer(
        self, messages: Sequence[Message], which: str = TUNED, progress: Callable[[int, int], None] | None = None
    ) -> list[str]:
        """Answer many messages, greedily, in batches of like length; the answers come back in the order of `messages`.

        `progress` is called with (answered, all) after every batch. Raises `KitError` for a message that may not be read.
        """
        for number, message in enumerate(messages, start=1):
            self.task.check_message(message, f"Message {number}")
        return self.complete([self.prompt(message, which) for message in messages], which, progress=progress)

    def complete(
        self,
        chats: Sequence[Messages],
        which: str = TUNED,
        max_new_tokens: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        fitting: Callable[[int], LogitsProcessor] | None = None,
    ) -> list[str]:
        """Go on with any chats, greedily, in batches of like length; the texts come back in the order of `chats`.

        What all chats begin with is computed once. `max_new_tokens` left out is the profile's. `progress` is called with
        (done, all) after every batch. `fitting` makes a logits processor for so many rows (see `constrained`).
        """
        _check_side(which)
        prompts = [prompt_ids(self.tokenizer, chat) for chat in chats]
        shared = self.worker.submit(self._compute_shared, prompts, which).result()
        order = self._longest_first(prompts)
        answers = [""] * len(prompts)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = [prompts[i] for i in rows]
            texts = self.worker.submit(self._generate, batch, which, max_new_tokens, shared, fitting).result()
            for i, text in zip(rows, texts, strict=True):
                answers[i] = text
            if progress:
                progress(start + len(rows), len(order))
        return answers

    def _longest_first(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """The places of prompts in the order of their characters, the longest first: what is too long fails early."""
        return sorted(range(len(prompts)), key=lambda i: len(self.tokenizer.decode(prompts[i])), reverse=True)

    def _compute_shared(self, prompts: list[list[int]], which: str) -> tuple[list[int], Cache] | None:
        """The tokens that all prompts begin with, and their keys and values; None where that saves next to nothing.

        A base prompt that describes the fields, or shows examples, is ten times as long as the message after it. Runs in
        the model's thread.
        """
        ids = prompts if len(prompts) > 1 else [[]]
        low, high = min(ids), max(ids)  # what these two share, all share
        same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
        common = low[: min(same, min(map(len, ids)) - 1)]
        cache = new_cache(self.model.config)
        if len(common) < WORTH_SHARING or cache is None:
            return None
        row = torch.tensor([common], device=self.model.device)
        with torch.inference_mode(), self._side(which, 1) as names:
            self.model(input_ids=row, past_key_values=cache, use_cache=True, logits_to_keep=1, **names)
        return common, cache

    def next_token_probabilities(
        self,
        prompts: Sequence[list[int]],
        tokens: Sequence[int],
        which: str = TUNED,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """The probability of each of `tokens` right after each prompt: shape [prompts, tokens].

        Prompts as of `prompt_ids`, or with the beginning of an answer: `begun_ids`.
        """
        _check_side(which)
        order = self._longest_first(prompts)
        probabilities = np.zeros((len(prompts), len(tokens)))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = [prompts[i] for i in rows]
            probabilities[rows] = self.worker.submit(self._next_token, batch, tokens, which).result()
            if progress:
                progress(start + len(rows), len(order))
        return probabilities

    def _next_token(self, prompts: list[list[int]], tokens: Sequence[int], which: str) -> np.ndarray:
        """[prompts, tokens]; runs in the model's thread. With the padding on the left the last position is the prompt's."""
        inputs = _pad(self.tokenizer, prompts).to(self.model.device)
        places = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        with torch.inference_mode(), self._side(which, len(prompts)) as names:
            more = {"position_ids": places, "logits_to_keep": 1}
            known = {name: value for name, value in more.items() if name in arguments(self.model)}
            output = self.model(**inputs, **known, use_cache=False, **names)
            logits = output.logits[:, -1].float()
            return logits.softmax(dim=-1)[:, list(tokens)].cpu().numpy()

    def log_probabilities(
        self, sequences: Sequence[Sequence[int]], which: str = TUNED, skip: Sequence[int] | None = None, masks: Any = None
    ) -> list[tuple[float, int]]:
        """How likely token sequences are: for each, the sum of the tokens' natural log probabilities, and their number.

        Each token is judged by all before it in its sequence. The first `skip[i]` tokens (left out: one, which nothing
        stands before) are only read, not judged: a prompt, say; or those with 0 in `masks[i]`. One sequence at a time, so
        no padding plays a part.
        """
        _check_side(which)
        read = skip or [1] * len(sequences)
        masks = masks or [[0] * n + [1] * (len(ids) - n) for ids, n in zip(sequences, read, strict=True)]
        pairs = zip(sequences, masks, strict=True)
        return [self.worker.submit(self._log_probability, list(ids), list(mask), which).result() for ids, mask in pairs]

    def _log_probability(self, ids: list[int], mask: list[int], which: str) -> tuple[float, int]:
        """Sum of ln p of the tokens with 1 in their mask, but for the first, and their number; in the model's thread."""
        row, judge = torch.tensor([ids], device=self.model.device), torch.tensor(mask[1:], dtype=torch.bool)
        if not judge.any():
            return 0.0, 0
        with torch.inference_mode(), self._side(which, 1) as names:
            logits = self.model(input_ids=row, use_cache=False, **names).logits[0, :-1][judge].float()
        judged = row[0, 1:][judge]
        return -float(torch.nn.functional.cross_entropy(logits, judged, reduction="sum")), len(judged)

    def stream(
        self, message: Message, sides: Sequence[str] = (BASE, TUNED), time_limit: float | None = None
    ) -> Iterator[dict[str, Answer]]:
        """Answer one message by both sides at once: yields {side: Answer} while they grow.

        Greedy like `answer`. The sides take turns in the model's thread, the tuned one first. After `time_limit` seconds of
        generation an answer is left as it is. Closing the iterator stops generation. Raises `KitError` for a message that
        may not be read.
        """
        self.task.check_message(message)
        prompts = {side: prompt_ids(self.tokenizer, self.prompt(message, side)) for side in sides}
        yield from self.grow(prompts, time_limit)

    def grow(
        self, prompts: dict[str, list[int]], time_limit: float | None = None, seed: int | None = None
    ) -> Iterator[dict[str, Answer]]:
        """What `stream` does, for a prompt of token ids for each side; with a `seed` tokens are drawn (see `Growing`)."""
        yield from run_aside(self.worker, lambda: self._stream(prompts, time_limit, seed))

    def prepare_stream(self) -> None:
        """Make now what the first `stream` would make: the drafts, and the keys and values of the prompts' beginnings."""
        self.worker.submit(self._streamers).result()

    def _stream(
        self, prompts: dict[str, list[int]], time_limit: float | None, seed: int | None
    ) -> Iterator[dict[str, Answer]]:
        """The answers as they grow, a step of one side at a time; runs in the model's thread."""
        streamers = self._streamers()
        began = time.monotonic()
        order = sorted(prompts, key=lambda side: side != TUNED)
        growing = {side: streamers[side].begin(prompts[side], self.max_new_tokens, began, seed) for side in order}
        while True:
            for side in order:
                if growing[side].over:
                    continue
                growing[side].step(time_limit)
                yield {side: growing[side].answer(side) for side in prompts}
            if all(each.over for each in growing.values()):
                return

    def _streamers(self) -> dict[str, Streamer]:
        """What each side streams with; made once, in the model's thread.

        Tuned uses the model as it is. Base uses modules of its own over the same weights, without the adapter's layers.
        (An adapter added to the weights would be faster, and round them: one answer in four came out differently.)
        """
        if self._made is None:
            base = copy_without_adapter(self.model) if hasattr(self.model, "peft_config") else self.model
            penalty = self.model.generation_config.repetition_penalty or 1.0
            common = self.model.config, self.tokenizer, self.ends, penalty
            drafts = Drafts(encode_training_answers(self.task, self.tokenizer, self.ends))
            self._made = {BASE: Streamer(base, *common, Drafts([])), TUNED: Streamer(self.model, *common, drafts)}
            for side, streamer in self._made.items():
                streamer.keep_prefix(*(prompt_ids(self.tokenizer, self.prompt(text, side)) for text in ("a", "0")))
        return self._made

    @contextlib.contextmanager
    def _side(self, which: str, rows: int) -> Iterator[dict[str, list[str]]]:
        """What tells the model to answer `rows` rows as one side; runs in the model's thread.

        peft looks at every row's name in every layer: not worth it where the adapter is wanted. Where names cannot be used
        the adapter is switched off for the while: nothing else is at work with the model in its thread.
        """
        if self._by_names is None and which == BASE:
            self._by_names = not isinstance(self.model, PeftModel) or keeps_rows_apart(self.model)
        if which == TUNED or self._by_names:
            yield {} if which == TUNED else {"adapter_names": [_ADAPTER[which]] * rows}
            return
        with self.model.disable_adapter():
            yield {}

    def _generate(
        self,
        prompts: list[list[int]],
        which: str,
        max_new_tokens: int | None = None,
        shared: tuple[list[int], Cache] | None = None,
        fitting: Callable[[int], LogitsProcessor] | None = None,
        candidates: int = 1,
    ) -> list[str]:
        """Greedy answers for a batch of prompts, or by beam search `candidates` for each, the likeliest first.

        Runs in the model's thread.
        """
        inputs = _encode(self.tokenizer, prompts, shared).to(self.model.device)
        with torch.inference_mode(), self._side(which, len(prompts)) as names:
            output = self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens or self.max_new_tokens,
                do_sample=False,
                num_beams=candidates,
                num_return_sequences=candidates,
                eos_token_id=self.ends,
                pad_token_id=self.tokenizer.pad_token_id,
                **names,
                **({"past_key_values": _repeat_cache(shared[1], len(prompts))} if shared else {}),
                logits_processor=LogitsProcessorList([fitting(len(prompts))] if fitting else []),
            )
        new = [cut_at(ids, self.ends) for ids in output[:, inputs["input_ids"].shape[1] :].tolist()]
        return [text.strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]


def _pad(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> BatchEncoding:
    """Token ids and mask of a batch, [rows, longest], the padding on the left."""
    return tokenizer.pad({"input_ids": rows}, padding=True, padding_side="left", return_tensors="pt")


def _encode(
    tokenizer: PreTrainedTokenizerBase, ids: list[list[int]], shared: tuple[list[int], Cache] | None
) -> BatchEncoding:
    """A batch's token ids and mask; after a shared beginning the padding stands behind it, where the rest begins."""
    begin = shared[0] if shared else []
    rest = _pad(tokenizer, [row[len(begin) :] for row in ids])
    if begin:
        before = torch.tensor(begin).expand(len(ids), -1)
        rest["input_ids"] = torch.cat([before, rest["input_ids"]], dim=1)
        rest["attention_mask"] = torch.cat([torch.ones_like(before), rest["attention_mask"]], dim=1)
    return rest


def _repeat_cache(cache: Cache, rows: int) -> Cache:
    """Keys and values of one row, copied for so many."""
    own = copy.deepcopy(cache)
    own.batch_repeat_interleave(rows)
    return own


def _check_side(which: str) -> None:
    if which not in _ADAPTER:
        raise KitError(f"{which!r} is not a model of a run: it is {BASE!r} or {TUNED!r}.")


def load_tuned(run: Run, adapter: Path | None = None, base: str | None = None) -> Loaded:
    """Load a run's tuned model and its tokenizer: the adapter over the 4-bit base, dequantized once on a CPU.

    `adapter` and `base` name copies elsewhere, in an export. Raises `KitError` if one of them is missing or broken.
    """
    name, folder = base or run.profile.model, adapter or run.adapter
    model = load_model(name, run.profile.dtype)
    model = dequantize(model) if model.device.type == "cpu" else model
    tuned = load_adapter(model, folder, base=None if adapter else run.profile.model)
    return tuned.eval(), load_tokenizer(name, folder)
