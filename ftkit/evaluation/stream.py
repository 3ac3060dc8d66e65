"""Streaming: one answer token by token, with guesses ahead that cost nothing where they fail (lesson 05)."""

from __future__ import annotations

import copy
import math
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase, RepetitionPenaltyLogitsProcessor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ftkit.common.errors import KitError
from ftkit.data.conversation.rows import exchanges
from ftkit.data.prompt import answered_ids, chat_prompt, completion_text
from ftkit.data.task import Task

TEMPERATURE = 0.7  # of drawn tokens
Item = TypeVar("Item")


@dataclass
class Answer:
    """One answer: `text`, its length in tokens, the seconds since generation began, and whether it came to its end.

    `timed_out` says that a time limit cut it off; `probability` is what the model gave to the whole of it, token by token.
    """

    which: str
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    finished: bool = False
    timed_out: bool = False
    probability: float = 1.0


def run_aside(worker: ThreadPoolExecutor, iterate: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """What an iterator gives that runs in the thread of `worker`, as it comes, and its error. Closing this one stops it."""
    made: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        try:
            # the reader may have gone while this waited for its turn
            for item in () if stop.is_set() else iterate():
                made.put(item)
                if stop.is_set():
                    break
            made.put(None)
        except BaseException as error:  # handed to the thread that reads
            made.put(error)

    worker.submit(work)
    try:
        while (event := made.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        stop.set()


def copy_without_adapter(model: PeftModel) -> PreTrainedModel:
    """Make the model without its adapter, as modules of their own over the same tensors: nothing is copied."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared).unload().eval()


def cut_at(ids: list[int], ends: Collection[int]) -> list[int]:
    """Token ids up to the first of the tokens that end an answer, without it."""
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


def new_cache(config: Any) -> DynamicCache | None:
    """An empty cache of keys and values that can be copied for several rows and taken back by some tokens; None where a
    family keeps something else (Mamba's states). Of a sliding window all keys are kept: the mask still hides the old ones.
    """
    cache = DynamicCache(config=config)
    kinds = {type(layer) for layer in cache.layers}
    if kinds <= {DynamicLayer}:
        return cache
    return DynamicCache() if kinds <= {DynamicLayer, DynamicSlidingWindowLayer} else None


def encode_training_answers(
    task: Task, tokenizer: PreTrainedTokenizerBase, ends: Collection[int], most: int = 500
) -> list[list[int]]:
    """Read the token ids of training answers with the end token; none where the training split is not at hand."""
    try:
        rows = task.rows("train")[:most]
    except KitError:
        return []
    answered = exchanges(task, rows)
    pairs = ((chat_prompt(task, task.asked(row)), completion_text(task, task.answered(row))) for row in answered)
    answers = [answered_ids(tokenizer, chat, text)[1] for chat, text in pairs]
    return [ids[: len(cut_at(ids, ends)) + 1] for ids in answers]


class Drafts:
    """What followed in the training answers, as guesses at the next tokens of a tuned answer.

    Most of a ticket is the same in every ticket: quotes, commas, the fields' names. A guess costs nearly nothing, for the
    model looks at several tokens in the time that it needs for one, and it is taken only where it is the model's own
    likeliest token: speculative decoding with n-grams (Leviathan et al. 2023, arXiv 2211.17192, for the greedy case).
    """

    ORDER, SURE, MOST = 5, 0.6, 12  # tokens of context at most; share from which to guess; tokens guessed at once

    def __init__(self, answers: Iterable[list[int]]):
        counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for answer in answers:
            ids = [-1, *answer]  # -1: where an answer begins
            for i in range(1, len(ids)):
                for n in range(1, min(self.ORDER, i) + 1):
                    counts[tuple(ids[i - n : i])][ids[i]] += 1
        self.following = {}
        for context, following in counts.items():
            ((token, times),) = following.most_common(1)
            self.following[context] = token if times >= self.SURE * following.total() else None

    def after(self, ids: list[int]) -> list[int]:
        """Tokens that will probably follow the answer's tokens `ids`; an empty list where that is open."""
        seen = [-1, *ids]
        start = len(seen)
        while len(seen) - start < self.MOST:
            contexts = (tuple(seen[-n:]) for n in range(min(self.ORDER, len(seen)), 0, -1))
            token = next((self.following[c] for c in contexts if c in self.following), None)
            if token is None:
                break
            seen.append(token)
        return seen[start:]


class Streamer:
    """A side's way to grow answers: its model, the drafts, and the keys and values of what all its prompts begin with."""

    def __init__(
        self,
        model: Any,
        config: Any,
        tokenizer: PreTrainedTokenizerBase,
        ends: Collection[int],
        penalty: float,  # on repetition: some models' own setting, which `generate` heeds
        drafts: Drafts,
    ):
        self.model, self.config, self.tokenizer, self.ends, self.drafts = model, config, tokenizer, ends, drafts
        self.processor = RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1.0 else None
        self.prefix: list[int] = []
        self.cache: Any = None
        self.remembers = new_cache(config) is not None

    def forward(self, ids: list[int], cache: Any, keep: int) -> Any:
        """Logits of the last `keep` positions, in float32: [keep, vocabulary]. `cache` grows by `ids`; without one `ids` are
        all there is.
        """
        row = torch.tensor([ids], device=self.model.device)
        with torch.inference_mode():
            if cache is None:
                return self.model(input_ids=row, use_cache=False).logits[0, -keep:].float()
            output = self.model(input_ids=row, past_key_values=cache, use_cache=True, logits_to_keep=keep)
            return output.logits[0].float()

    def keep_prefix(self, one: list[int], other: list[int]) -> None:
        """Compute once what two prompts of different messages have in common at their beginning."""
        common = []
        for mine, yours in zip(one, other, strict=False):
            if mine != yours:
                break
            common.append(mine)
        if common and self.remembers:
            self.cache = new_cache(self.config)
            self.forward(common, self.cache, 1)
            self.prefix = common

    def begin(self, ids: list[int], most: int, began: float, seed: int | None = None) -> Growing:
        """A new answer to a prompt, in token ids, of at most `most` tokens; see `Growing` for the `seed`."""
        n = len(self.prefix)
        if n and ids[:n] == self.prefix and len(ids) > n:
            return Growing(self, ids, copy.deepcopy(self.cache), n, most, began, seed)
        return Growing(self, ids, new_cache(self.config), 0, most, began, seed)


class Growing:
    """One answer while it grows: by the likeliest token, or with a `seed` by tokens drawn at `TEMPERATURE`.

    A drawn token is taken from the model's own distribution after all before it, whether it was guessed ahead or not.
    """

    def __init__(
        self, streamer: Streamer, prompt: list[int], cache: Any, cached: int, most: int, began: float, seed: int | None
    ):
        self.streamer, self.prompt, self.cache, self.most, self.began = streamer, prompt, cache, most, began
        self.waiting = prompt[cached:]  # tokens that the model has not seen yet
        self.ids: list[int] = []
        self.logarithm = 0.0
        self.seconds = 0.0
        self.finished = self.timed_out = False
        self.chance = None if seed is None else torch.Generator(streamer.model.device).manual_seed(seed)

    @property
    def over(self) -> bool:
        """Whether nothing will be added: at its end, at the length limit, or out of time."""
        return self.finished or self.timed_out or len(self.ids) >= self.most

    def step(self, time_limit: float | None = None) -> None:
        """Add the model's next token, and those after it that were guessed right."""
        streamer = self.streamer
        guesses = [] if streamer.processor else streamer.drafts.after(self.ids)[: self.most - len(self.ids) - 1]
        logits = streamer.forward(self.waiting + guesses, self.cache, len(guesses) + 1)
        if streamer.processor:
            seen = torch.tensor([self.prompt + self.ids], device=logits.device)
            logits = streamer.processor(seen, logits)
        values, indices = self._choose(logits)
        logarithms = (values - logits.logsumexp(dim=-1)).tolist()
        chosen = indices.tolist()
        right = 0
        while right < len(guesses) and guesses[right] == chosen[right] and chosen[right] not in streamer.ends:
            right += 1
        if (wrong := len(guesses) - right) and self.cache is not None:
            self.cache.crop(-wrong)
        for token, logarithm in zip(chosen[: right + 1], logarithms, strict=False):
            self.logarithm += logarithm
            if token in streamer.ends:
                self.finished = True
            else:
                self.ids.append(token)
        self.waiting = chosen[right : right + 1] if self.cache is not None else self.prompt + self.ids
        self.seconds = time.monotonic() - self.began
        self.timed_out = not self.over and time_limit is not None and self.seconds >= time_limit

    def _choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token after each position, and its logit: two of shape [positions], from [positions, vocabulary]."""
        if self.chance is None:
            return logits.max(dim=-1)
        drawn = torch.multinomial((logits / TEMPERATURE).softmax(dim=-1), 1, generator=self.chance)
        return logits.gather(-1, drawn)[:, 0], drawn[:, 0]

    def answer(self, which: str) -> Answer:
        """The answer so far."""
        text = self.streamer.tokenizer.decode(self.ids, skip_special_tokens=True).strip()
        text = text if self.over else text.rstrip("\ufffd")  # half a character: its other bytes are still to come
        probability = math.exp(self.logarithm)
        return Answer(which, text, len(self.ids), self.seconds, self.finished, self.timed_out, probability)
