"""Answers by base and tuned: one 4-bit model in memory, the adapter chosen row by row; batched, or streamed (lesson 04)."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .base import KitError
from .models import dequantized, load_adapter, load_model, load_tokenizer
from .runs import Run
from .tasks import Messages, Task, chat_prompt, prompt_text

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE, TUNED = "base", "tuned"
_ADAPTER = {BASE: "__base__", TUNED: "default"}  # peft's names: the untouched model, and the adapter


@dataclass
class Answer:
    """One answer: `text`, its length in tokens, the seconds since generation began, and whether it came to its end."""

    which: str
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    finished: bool = False


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
            return load_adapter(base, run.adapter, base=profile.model).eval(), load_tokenizer(profile.model)

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

    def stream(self, message: str, sides: Sequence[str] = (BASE, TUNED)) -> Iterator[dict[str, Answer]]:
        """Answer one message by both sides at once, token by token: yields {side: Answer} while it grows.

        Both rows go through the model in one batch. Closing the iterator stops generation. Raises `KitError` for a
        message that may not be read.
        """
        self.task.check_message(message)
        prompts = [prompt_text(self.tokenizer, self.prompt(message, which)) for which in sides]
        streamer = _RowStreamer(self.tokenizer, list(sides))
        stop = threading.Event()

        def work() -> None:
            try:
                if not stop.is_set():  # the reader may have gone while this waited for its turn
                    streamer.start()
                    self._generate(prompts, list(sides), streamer, stop)
                streamer.grown.put(None)
            except BaseException as error:  # handed to the thread that reads
                streamer.grown.put(error)

        self.worker.submit(work)
        try:
            while (event := streamer.grown.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            stop.set()

    def _generate(
        self, prompts: list[str], sides: list[str], streamer: Any = None, stop: threading.Event | None = None
    ) -> list[str]:
        """Greedy answers for a batch of prompts; runs in the model's thread."""
        import torch
        from transformers import StoppingCriteriaList

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
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([_stops_on(stop)] if stop else []),
            )
        new = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]


def _laid_out(head: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Lay the last positions [batch, 1, hidden] out in one block before the head multiplies them.

    They come as a slice of all positions, and `linear` copies the head's weights once for each row of such a slice: 3.6 GB
    for 64 rows of a model of 135 million weights.
    """
    return tuple(tensor.contiguous() for tensor in given)


def _stops_on(stop: threading.Event) -> Any:
    """A stopping criterion that ends generation once the reader has gone."""
    import torch
    from transformers import StoppingCriteria

    class Stops(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((input_ids.shape[0],), stop.is_set(), dtype=torch.bool, device=input_ids.device)

    return Stops()


class _RowStreamer:
    """Takes a batch's tokens as `generate` makes them and hands on each row's text (transformers' own takes one row)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, sides: list[str]):
        self.tokenizer, self.sides = tokenizer, sides
        self.grown: queue.Queue[Any] = queue.Queue()
        self.ids: list[list[int]] = [[] for _ in sides]
        self.done = [False] * len(sides)
        self.seconds = [0.0] * len(sides)
        self.prompt_seen = False

    def start(self) -> None:
        self.began = time.monotonic()

    def put(self, value: Any) -> None:
        if not self.prompt_seen:  # the first call brings the prompt
            self.prompt_seen = True
            return
        for row, token in enumerate(value.tolist()):
            if self.done[row]:
                continue
            self.seconds[row] = time.monotonic() - self.began
            self.done[row] = token == self.tokenizer.eos_token_id
            if not self.done[row]:
                self.ids[row].append(token)
        self.grown.put(self.answers())

    def end(self) -> None:
        self.grown.put(self.answers())

    def answers(self) -> dict[str, Answer]:
        rows = zip(self.sides, self.ids, self.seconds, self.done, strict=True)
        return {
            side: Answer(side, self.tokenizer.decode(ids, skip_special_tokens=True).strip(), len(ids), seconds, done)
            for side, ids, seconds, done in rows
        }
