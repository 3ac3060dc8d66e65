"""Answers by base and tuned: one 4-bit model in memory, the adapter chosen row by row; batched, or streamed (lesson 04)."""

from __future__ import annotations

import copy
import math
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .base import KitError
from .models import dequantized, load_adapter, load_model, load_tokenizer
from .runs import Run
from .tasks import Messages, Task, chat_prompt, completion_text, prompt_text

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE, TUNED = "base", "tuned"
_ADAPTER = {BASE: "__base__", TUNED: "default"}  # peft's names: the untouched model, and the adapter


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


@dataclass
class Answerer:
    """Base and tuned model of a run, sharing one 4-bit base in memory.

    Both sides are told apart by peft's `adapter_names`, a name for each row of a batch, never by switching the model: a
    row cannot be answered by the wrong one. All work with the model happens in one thread of its own, a batch at a time,
    so calls from many threads are safe. On a CPU the 4-bit weights are dequantized once, after loading: the same numbers
    go into the same products, only not computed again for every token. A second thread would also bring its own set of
    OpenMP threads, which contend with the first for the cores (measured on two cores: twice the time a token).
    """

    task: Task
    model: PeftModel | PreTrainedModel  # without an adapter it answers as it is, which counts as tuned
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 64
    max_new_tokens: int = 96
    worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "ftkit-model"), repr=False)
    _made: dict[str, _Streamer] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.model.get_output_embeddings().register_forward_pre_hook(_laid_out)

    @classmethod
    def of_run(cls, run: Run) -> Answerer:
        """Load the models of a finished run. Raises `KitError` if its adapter is missing or broken."""
        profile = run.profile
        worker = ThreadPoolExecutor(1, "ftkit-model")

        def load() -> tuple[PeftModel, PreTrainedTokenizerBase]:
            base = load_model(profile.model, profile.dtype)
            if base.device.type == "cpu":
                base = dequantized(base)
            return load_adapter(base, run.adapter).eval(), load_tokenizer(profile.model)

        model, tokenizer = worker.submit(load).result()
        return cls(run.task, model, tokenizer, profile.generation_batch, profile.max_new_tokens, worker)

    def prompt(self, message: str, which: str) -> Messages:
        """The chat for a message: the base model is told the fields in its prompt, the tuned one learned them."""
        if which not in _ADAPTER:
            raise KitError(f"{which!r} is not a model of a run: it is {BASE!r} or {TUNED!r}.")
        return chat_prompt(self.task, message, told=which == BASE)

    def answer(
        self, messages: Sequence[str], which: str = TUNED, progress: Callable[[int, int], None] | None = None
    ) -> list[str]:
        """Answer many messages, greedily, in batches of like length; the answers come back in the order of `messages`.

        `progress` is called with (answered, all) after every batch. Raises `KitError` for a message that may not be read.
        """
        for number, message in enumerate(messages, start=1):
            self.task.check_message(message, f"Message {number}")
        prompts = [prompt_text(self.tokenizer, self.prompt(message, which)) for message in messages]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)  # the longest first: fails early
        answers = [""] * len(prompts)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            texts = self.worker.submit(self._generate, [prompts[i] for i in rows], [which] * len(rows)).result()
            for i, text in zip(rows, texts, strict=True):
                answers[i] = text
            if progress:
                progress(start + len(rows), len(order))
        return answers

    def stream(
        self, message: str, sides: Sequence[str] = (BASE, TUNED), time_limit: float | None = None
    ) -> Iterator[dict[str, Answer]]:
        """Answer one message by both sides at once: yields {side: Answer} while they grow.

        Greedy like `answer`. The sides take turns in the model's thread, the tuned one first. After `time_limit` seconds of
        generation an answer is left as it is. Closing the iterator stops generation. Raises `KitError` for a message that
        may not be read.
        """
        self.task.check_message(message)
        prompts = {side: prompt_text(self.tokenizer, self.prompt(message, side)) for side in sides}
        grown: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stop = threading.Event()

        def work() -> None:
            try:
                # the reader may have gone while this waited for its turn
                for answers in () if stop.is_set() else self._stream(prompts, time_limit):
                    grown.put(answers)
                    if stop.is_set():
                        break
                grown.put(None)
            except BaseException as error:  # handed to the thread that reads
                grown.put(error)

        self.worker.submit(work)
        try:
            while (event := grown.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            stop.set()

    def prepare_stream(self) -> None:
        """Make now what the first `stream` would make: the drafts, and the keys and values of the prompts' beginnings."""
        self.worker.submit(self._streamers).result()

    def _stream(self, prompts: dict[str, str], time_limit: float | None) -> Iterator[dict[str, Answer]]:
        """The answers as they grow, a step of one side at a time; runs in the model's thread."""
        streamers = self._streamers()
        began = time.monotonic()
        order = sorted(prompts, key=lambda side: side != TUNED)
        growing = {side: streamers[side].begin(prompts[side], self.max_new_tokens, began) for side in order}
        while True:
            for side in order:
                if growing[side].over:
                    continue
                growing[side].step(time_limit)
                yield {side: growing[side].answer(side) for side in prompts}
            if all(each.over for each in growing.values()):
                return

    def _streamers(self) -> dict[str, _Streamer]:
        """What each side streams with; made once, in the model's thread.

        Tuned uses the model as it is. Base uses modules of its own over the same weights, without the adapter's layers.
        (An adapter added to the weights would be faster, and round them: one answer in four came out otherwise.)
        """
        if self._made is None:
            base = _without_adapter(self.model) if hasattr(self.model, "peft_config") else self.model
            config = self.model.config, self.model.generation_config
            drafts = _Drafts(_training_answers(self.task, self.tokenizer))
            self._made = {
                BASE: _Streamer(base, *config, self.tokenizer, _Drafts([])),
                TUNED: _Streamer(self.model, *config, self.tokenizer, drafts),
            }
            for side, streamer in self._made.items():
                streamer.keep_prefix(*(prompt_text(self.tokenizer, self.prompt(text, side)) for text in ("a", "0")))
        return self._made

    def _generate(self, prompts: list[str], sides: list[str]) -> list[str]:
        """Greedy answers for a batch of prompts; runs in the model's thread."""
        import torch

        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(self.model.device)
        with torch.inference_mode():
            output = self.model.generate(
                **inputs,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
                # peft looks at every row's name in every layer: not worth it where all rows want the adapter
                **({} if set(sides) == {TUNED} else {"adapter_names": [_ADAPTER[side] for side in sides]}),
            )
        new = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]


def _laid_out(head: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Lay the last positions [batch, 1, hidden] out in one block before the head multiplies them.

    They come as a slice of all positions, and `linear` copies the head's weights once for each row of such a slice: 3.6 GB
    for 64 rows of a model of 135 million weights.
    """
    return tuple(tensor.contiguous() for tensor in given)


def _without_adapter(model: PeftModel) -> PreTrainedModel:
    """The model without its adapter, as modules of their own over the same tensors: nothing is copied."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared).unload().eval()


def _training_answers(task: Task, tokenizer: PreTrainedTokenizerBase, most: int = 500) -> list[list[int]]:
    """Token ids of training answers with the end token; none where the training split is not at hand."""
    try:
        rows = task.rows("train")[:most]
    except KitError:
        return []
    texts = [completion_text(task, row[task.target]) + tokenizer.eos_token for row in rows]
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


class _Drafts:
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
        for context, found in counts.items():
            ((token, times),) = found.most_common(1)
            self.following[context] = token if times >= self.SURE * found.total() else None

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


class _Streamer:
    """A side's way to grow answers: its model, the drafts, and the keys and values of what all its prompts begin with."""

    def __init__(self, model: Any, config: Any, generation: Any, tokenizer: PreTrainedTokenizerBase, drafts: _Drafts):
        from transformers import RepetitionPenaltyLogitsProcessor

        self.model, self.config, self.tokenizer, self.drafts = model, config, tokenizer, drafts
        ends = generation.eos_token_id if generation.eos_token_id is not None else []
        self.ends = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id}
        penalty = generation.repetition_penalty or 1.0  # some models' own setting, which `generate` heeds
        self.processor = RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1.0 else None
        self.prefix: list[int] = []
        self.cache: Any = None

    def ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt: shape [length]."""
        return self.tokenizer(prompt, add_special_tokens=False)["input_ids"]

    def forward(self, ids: list[int], cache: Any, keep: int) -> Any:
        """Logits of the last `keep` positions, in float32: [keep, vocabulary]. `cache` grows by `ids`."""
        import torch

        given = torch.tensor([ids], device=self.model.device)
        with torch.inference_mode():
            output = self.model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=keep)
            return output.logits[0].float()

    def keep_prefix(self, one: str, other: str) -> None:
        """Compute once what two prompts of different messages have in common at their beginning."""
        from transformers import DynamicCache

        pairs = zip(self.ids(one), self.ids(other), strict=False)
        common = []
        for mine, yours in pairs:
            if mine != yours:
                break
            common.append(mine)
        if common:
            self.cache = DynamicCache(config=self.config)
            self.forward(common, self.cache, 1)
            self.prefix = common

    def begin(self, prompt: str, most: int, began: float) -> _Growing:
        """A new answer to `prompt` of at most `most` tokens."""
        from transformers import DynamicCache

        ids = self.ids(prompt)
        n = len(self.prefix)
        if n and ids[:n] == self.prefix and len(ids) > n:
            return _Growing(self, ids, copy.deepcopy(self.cache), n, most, began)
        return _Growing(self, ids, DynamicCache(config=self.config), 0, most, began)


class _Growing:
    """One answer while it grows by greedy decoding."""

    def __init__(self, streamer: _Streamer, prompt: list[int], cache: Any, cached: int, most: int, began: float):
        self.streamer, self.prompt, self.cache, self.most, self.began = streamer, prompt, cache, most, began
        self.waiting = prompt[cached:]  # tokens that the model has not seen yet
        self.ids: list[int] = []
        self.logarithm = 0.0
        self.seconds = 0.0
        self.finished = self.timed_out = False

    @property
    def over(self) -> bool:
        """Whether nothing will be added: at its end, at the length limit, or out of time."""
        return self.finished or self.timed_out or len(self.ids) >= self.most

    def step(self, time_limit: float | None = None) -> None:
        """Add the model's next token, and those after it that were guessed rightly."""
        streamer = self.streamer
        guessed = [] if streamer.processor else streamer.drafts.after(self.ids)[: self.most - len(self.ids) - 1]
        logits = streamer.forward(self.waiting + guessed, self.cache, len(guessed) + 1)
        if streamer.processor:
            import torch

            seen = torch.tensor([self.prompt + self.ids], device=logits.device)
            logits = streamer.processor(seen, logits)
        best = logits.max(dim=-1)
        logarithms = (best.values - logits.logsumexp(dim=-1)).tolist()
        chosen = best.indices.tolist()
        right = 0
        while right < len(guessed) and guessed[right] == chosen[right] and chosen[right] not in streamer.ends:
            right += 1
        if rejected := len(guessed) - right:
            self.cache.crop(-rejected)
        for token, logarithm in zip(chosen[: right + 1], logarithms, strict=False):
            self.logarithm += logarithm
            if token in streamer.ends:
                self.finished = True
            else:
                self.ids.append(token)
        self.waiting = chosen[right : right + 1]
        self.seconds = time.monotonic() - self.began
        self.timed_out = not self.over and time_limit is not None and self.seconds >= time_limit

    def answer(self, which: str) -> Answer:
        """The answer so far."""
        text = self.streamer.tokenizer.decode(self.ids, skip_special_tokens=True).strip()
        probability = math.exp(self.logarithm)
        return Answer(which, text, len(self.ids), self.seconds, self.finished, self.timed_out, probability)
