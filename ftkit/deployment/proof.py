"""Proof: whether a model that left its run answers as the tuned model does (lesson 05)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ftkit.common.memory import free_memory
from ftkit.data.conversation.rows import exchanges
from ftkit.data.prompt import Messages, parse_answer, prompt_ids, prompt_text
from ftkit.data.task import Row, Task
from ftkit.evaluation.answer import TUNED, Answerer, Loaded
from ftkit.evaluation.conversations.talk import Given, own_answers
from ftkit.runs.documents import Agreement, TurnsAgree
from ftkit.runs.run import Run

TURNS = 3  # answers of a conversation that are compared, each after the model's own earlier ones
CONVERSATIONS = 6  # of an export's proof


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


# --- conversations that go on ---


@dataclass(frozen=True)
class Talk:
    """How a model went on with conversations: its answers, and each prompt as its own tokenizer writes it, (bytes, ids)."""

    answers: Given
    chats: list[Messages]
    prompts: list[tuple[bytes, list[int]]]
    ends: list[int]

    def with_prompts_of(self, chats: Sequence[Messages], answerer: Answerer) -> Talk:
        """The same with what this model's tokenizer makes of other chats: both sides are compared on the same ones."""
        return Talk(self.answers, list(chats), _written(answerer, chats), self.ends)


def longest_talks(task: Task, rows: Sequence[Row], most: int | None = CONVERSATIONS) -> list[Row]:
    """The answers, up to `TURNS` of each, of the `most` conversations with the most of them, one by one (`exchanges`)."""
    parts = exchanges(task, rows)
    if most is not None:
        count = {part["conversation"]: part["answer"] for part in parts}
        longest = sorted(count, key=lambda place: (-min(count[place], TURNS), place))[:most]
        parts = [part for part in parts if part["conversation"] in longest]
    return [part for part in parts if part["answer"] <= TURNS]


def talk_on(answerer: Answerer, parts: Sequence[Row]) -> Talk:
    """Let a model go on with conversations after its own answers."""
    chats: list[Messages] = []

    def ask(some: list[Messages]) -> list[str]:
        chats.extend(answerer.prompt(chat, TUNED) for chat in some)
        return answerer.answer(some, TUNED)

    answers = own_answers(answerer.task, parts, ask)
    return Talk(answers, chats, _written(answerer, chats), answerer.ends)


def _written(answerer: Answerer, chats: Sequence[Messages]) -> list[tuple[bytes, list[int]]]:
    tokenizer = answerer.tokenizer
    return [(prompt_text(tokenizer, chat).encode(), prompt_ids(tokenizer, chat)) for chat in chats]


def turns_agree(tuned: Talk, other: Talk) -> TurnsAgree:
    """How far two models went on alike; `other` has its prompts of the tuned model's chats (`with_prompts_of`)."""
    shares = []
    for number in sorted({number for _, number in tuned.answers}):
        pairs = [(text, other.answers[place]) for place, text in tuned.answers.items() if place[1] == number]
        shares.append(sum(a == b for a, b in pairs) / len(pairs))
    return TurnsAgree(
        conversations=len({conversation for conversation, _ in tuned.answers}),
        prompts=len(tuned.prompts),
        same_prompts=sum(a == b for a, b in zip(tuned.prompts, other.prompts, strict=True)),
        same_ends=tuned.ends == other.ends,
        identical=shares,
    )
