"""Proof: whether a model that left its run answers as the tuned model does (lesson 05)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ftkit.common.memory import free_memory
from ftkit.data.prompt import parse_answer
from ftkit.evaluation.answer import TUNED, Answerer, Loaded
from ftkit.runs.documents import Agreement
from ftkit.runs.run import Run

if TYPE_CHECKING:
    pass


@contextlib.contextmanager
def answering(run: Run, load: Callable[[], Loaded]) -> Iterator[Answerer]:
    """An `Answerer` with the model that `load` gives, loaded in the thread that uses it; its memory is freed at the end."""
    worker = ThreadPoolExecutor(1, "ftkit-model")
    answerer = None
    try:
        answerer = Answerer(
            run.task,
            *worker.submit(load).result(),
            batch_size=run.profile.generation_batch,
            max_new_tokens=run.answer_tokens,
            worker=worker,
        )
        answerer.tokenizer.padding_side = "left"
        yield answerer
    finally:
        worker.shutdown()
        if answerer is not None:
            answerer.model = None
        free_memory()


def timed(answerer: Answerer, messages: Sequence[str], progress: Any = None) -> tuple[list[str], float]:
    """Answers of the tuned side, and the seconds that they took."""
    began = time.monotonic()
    return answerer.answer(messages, TUNED, progress), time.monotonic() - began


def agreement(run: Run, tuned: Sequence[str], others: Sequence[str]) -> Agreement:
    """How far two models answered alike: shares of identical texts and of the same answer once read."""
    task, n = run.task, len(tuned)
    pairs = list(zip(tuned, others, strict=True))
    same_answer = sum(parse_answer(task, a) == parse_answer(task, b) for a, b in pairs) / n
    return Agreement(n=n, identical=sum(a == b for a, b in pairs) / n, same_answer=same_answer)
