"""The chat page: a visitor's conversation with both sides, what each is shown of it, and how it is shown (lesson 06).

Each side goes on from its own answers. It is asked with the token ids of the training: `fit_turns`, by `prompt_ids`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ftkit.common.errors import KitError
from ftkit.data.conversation.rows import Turn
from ftkit.data.prompt import Message, prompt_ids
from ftkit.data.task import Task
from ftkit.deployment.demo_page import SIDES, render_html
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.stream import Answer
from ftkit.runs.run import Run

MOST = 40  # messages of a visitor in one conversation
EMPTY = "-"  # stands in the history for an answer without a word, as in an evaluation
SPEAKERS = {"system": "System", "user": "You", "assistant": "Model"}


@dataclass(frozen=True)
class Prompt:
    """What a side is asked with: turns that end on the user's, their token ids, and how many earlier turns were left out."""

    turns: list[Turn]
    ids: list[int]
    left_out: int


def fit_turns(answerer: Answerer, side: str, turns: Sequence[Turn], tokens: int) -> Prompt:
    """The latest turns of a conversation that make a prompt of at most `tokens` token ids, beginning with the user's.

    It is cut before a user's turn; a system turn of its own stays. With the answer it has `max_turns` of the task at most.
    Raises `KitError` if the last turn alone is too long.
    """
    own = list(turns[:1]) if turns[0]["role"] == "system" else []
    spoken = list(turns[len(own) :])
    found = 0
    for start in range(0, len(spoken), 2):
        kept = [*own, *spoken[start:]]
        if len(spoken) - start >= answerer.task.max_turns:  # the answer is one more
            continue
        ids = prompt_ids(answerer.tokenizer, answerer.prompt(kept, side))
        if (found := len(ids)) <= tokens:
            return Prompt(kept, ids, start)
    raise KitError(f"This message has {found:,} tokens with the system prompt, at most {tokens:,} are taken. Shorten it.")


# --- a conversation of the page ---


@dataclass(frozen=True)
class Exchange:
    """A message of the visitor, what each side was shown, how many turns were left out of it, and each side's answer."""

    text: str
    run: Run
    shown: dict[str, list[Turn]]
    left_out: dict[str, int]
    answers: dict[str, Answer]

    def kept(self) -> dict[str, Any]:
        """What feedback is about: the conversation as the tuned model saw it, its answer, and the run."""
        return {"message": self.shown[TUNED], "answer": self.answers[TUNED], "run": self.run}


@dataclass(eq=False)
class Asking:
    """A message that is being answered, after `keep` exchanges; with a `seed` by drawn tokens."""

    text: str
    keep: int
    seed: int | None = None
    taken: bool = False  # whether the model has begun with it


@dataclass
class Talk:
    """One visitor's conversation, in the server's memory until the page is closed (gradio keeps it an hour longer).

    It changes in place: an answer under way sees what the visitor does meanwhile.
    """

    exchanges: list[Exchange] = field(default_factory=list)
    asking: Asking | None = None
    tries: int = 0  # at the last answer: each draws anew

    def ask(self, task: Task, text: Any) -> None:
        """A new message. `KitError` if it may not be read, the one before is not answered yet, or there are too many."""
        self._require_rest()
        if problem := task.text_problem(text):
            raise KitError(f"The message: {problem}.")
        if len(self.exchanges) >= MOST:
            raise KitError(f"A conversation takes {MOST} messages, and this one has them. Clear begins a new one.")
        self.asking, self.tries = Asking(text, len(self.exchanges)), 0

    def ask_again(self) -> None:
        """Let the last message be answered again, by tokens drawn at random: the likeliest would be the same again."""
        self._require_rest()
        if not self.exchanges:
            raise KitError("There is no answer yet that could be tried again.")
        self.tries += 1
        self.asking = Asking(self.exchanges[-1].text, len(self.exchanges) - 1, self.tries)

    def _require_rest(self) -> None:
        if self.asking:
            raise KitError("Wait for the answer first, or take the message back with Undo.")

    def answered(self, exchange: Exchange) -> None:
        """The answer to what was asked is there."""
        assert self.asking
        self.exchanges[self.asking.keep :] = [exchange]
        self.asking = None

    def undo(self) -> str:
        """Take back the last message, answered or not; gives its text. Raises `KitError` if there is none."""
        asking, self.asking = self.asking, None
        if asking and asking.seed is None:
            return asking.text
        if not self.exchanges:
            raise KitError("There is no message that could be taken back.")
        self.tries = 0
        return self.exchanges.pop().text

    def clear(self) -> None:
        """Forget all of it."""
        self.exchanges, self.asking, self.tries = [], None, 0


def turns_for(exchanges: Sequence[Exchange], side: str, text: str) -> list[Turn]:
    """The conversation with a side's own answers, and the visitor's next message at its end."""
    turns = []
    for one in exchanges:
        turns.append({"role": "user", "content": one.text})
        turns.append({"role": "assistant", "content": one.answers[side].text or EMPTY})
    return [*turns, {"role": "user", "content": text}]


def converse(
    run: Run, answerer: Answerer, chats: dict[str, list[Turn]], seconds: float | None = None, seed: int | None = None
) -> Iterator[Exchange]:
    """Let both sides answer, each the conversation that `chats` has for it: the exchange, as its answers grow.

    What does not fit into the length of the training, less the answer's, is left out at the beginning: see `fit_turns`.
    """
    tokens = run.profile.max_length - answerer.max_new_tokens
    prompts = {side: fit_turns(answerer, side, turns, tokens) for side, turns in chats.items()}
    exchange = Exchange(
        chats[TUNED][-1]["content"],
        run,
        {side: prompt.turns for side, prompt in prompts.items()},
        {side: prompt.left_out for side, prompt in prompts.items()},
        {side: Answer(side) for side in prompts},
    )
    yield exchange
    for answers in answerer.grow({side: prompt.ids for side, prompt in prompts.items()}, seconds, seed):
        yield replace(exchange, answers=answers)


# --- how it is shown ---


def render_talk(side: str, exchanges: Sequence[Exchange], asked: str | None = None, problem: str = "") -> str:
    """A side of the conversation as HTML: turns, a line where its memory begins, what waits for an answer, and a problem."""
    left_out = exchanges[-1].left_out[side] if exchanges and asked is None else 0
    name = SIDES[side].split(":")[0]
    turns = []
    for one in exchanges:
        answer = one.answers[side]
        ended = answer.finished or answer.timed_out or one is not exchanges[-1]
        turns.append({"who": "visitor", "name": "You", "text": one.text})
        turns.append({"who": "model", "name": name, "text": answer.text or ("(no word)" if ended else "…")})
    if asked is not None:
        turns += [{"who": "visitor", "name": "You", "text": asked}, {"who": "model", "name": name, "text": "…"}]
    return render_html("chat", turns=turns, left_out=left_out, cut=describe_cut(left_out), problem=problem)


def describe_cut(left_out: int) -> str:
    """That a side was not shown the beginning of the conversation, in words; an empty text if it saw all of it."""
    longer = "the conversation is longer than what the model was trained on"
    return f"The first {left_out} turns are no longer read: {longer}." if left_out else ""


def describe_exchange(exchange: Exchange) -> str:
    """Both answers in words, for a screen reader: said once, when they are there."""
    said = []
    for side in (TUNED, BASE):
        said.append(f"{SIDES[side]}: {exchange.answers[side].text or 'no answer'}")
        if exchange.left_out[side]:
            said.append(describe_cut(exchange.left_out[side]))
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in said)


def written(message: Message) -> str:
    """What was asked as a text for people: a message as it is, a conversation turn by turn."""
    if isinstance(message, str):
        return message
    return "\n\n".join(f"{SPEAKERS[turn['role']]}: {turn['content']}" for turn in message)


def list_choices(exchanges: Sequence[Exchange]) -> list[tuple[str, int]]:
    """The answers of a conversation to choose from: (number and beginning of the message, its place)."""
    texts = [" ".join(one.text.split()) for one in exchanges]
    return [(f"{n}: {text if len(text) <= 60 else text[:59] + '…'}", n - 1) for n, text in enumerate(texts, 1)]


def list_openings(task: Task) -> list[str]:
    """What users say first in the validation split's conversations."""
    return [next(turn["content"] for turn in row[task.message] if turn["role"] == "user") for row in task.rows("validation")]
