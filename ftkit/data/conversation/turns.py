"""Which tokens of a conversation are learned: every answer with the token that ends it, and nothing else (lesson 06).

The measure is what the model will be asked with. For each answer there are the prompt's token ids, as the demo makes them
of the conversation so far, and the ids of the answer as it is learned after that prompt (`answered_ids`). Where the ids of
the whole conversation begin with all of these, it is one example, and the mask marks each answer in its place. That holds
for most chat templates, whether they bring marks for training or not. Some write an answer differently once others follow
it (Qwen 3 puts an empty thought before the last one alone; some move the system prompt). Then each answer becomes an
example of its own, after the history that the demo shows. So in both cases a turn has the same ids in training and later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ftkit.common.errors import KitError
from ftkit.data.conversation.rows import Turn, count_answers, exchanges
from ftkit.data.prompt import answered_ids, example_ids, training_example
from ftkit.data.task import Row, Task
from ftkit.models.chat_template import answer_end, inner_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# what is said where conversations do not go into the training as they are
CUT = '; with too_long = "cut" in task.toml a conversation ends with the last answer that fits.'
APART = (
    "The model's chat template writes an answer differently once others follow it: each answer is an example of its own, "
    "after the history that the model will be shown ({:,} examples from {:,} conversations)."
)
PROBE = [  # a conversation to see what a template makes of one
    {"role": role, "content": f"ftkit-turn-{n}"} for n, role in enumerate(("system", "user", "assistant", "user"), 1)
]


@dataclass(frozen=True)
class Marked:
    """A conversation's token ids, and 1 in `mask` where loss falls: on its last `answers` answers. Both [length]."""

    chat: list[Turn]
    ids: list[int]
    mask: list[int]
    answers: int


def marked_turns(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Turn]) -> list[Marked]:
    """The examples that a conversation gives: one, or one for each answer where the template needs that (see above).

    `chat` begins with the system turn, if there is one, and ends with an answer. Raises `KitError` with the reason where an
    answer cannot be found in the ids that the template gives.
    """
    chat = list(chat)
    places = [place for place, turn in enumerate(chat) if turn["role"] == "assistant"]
    parts = [_learned(tokenizer, chat, place) for place in places]
    prompt, answer, _ = parts[-1]
    ids = prompt + answer
    if any(ids[: len(p) + stop] != p + a[:stop] for p, a, stop in parts):
        return [
            Marked(chat[: place + 1], p + a, _mask(len(p + a), [(len(p), stop)]), 1)
            for place, (p, a, stop) in zip(places, parts, strict=True)
        ]
    return [Marked(chat, ids, _mask(len(ids), [(len(p), stop) for p, _, stop in parts]), len(parts))]


def _mask(length: int, answers: Sequence[tuple[int, int]]) -> list[int]:
    mask = [0] * length
    for start, tokens in answers:
        mask[start : start + tokens] = [1] * tokens
    return mask


def _learned(tokenizer: PreTrainedTokenizerBase, chat: list[Turn], place: int) -> tuple[list[int], list[int], int]:
    """(ids of the prompt, ids of what follows it, how many of these are the answer and its end) of the turn at `place`."""
    text = chat[place]["content"]
    prompt, answer = answered_ids(tokenizer, chat[:place], text)
    end = answer_end(tokenizer)
    if end not in answer:
        mark = tokenizer.convert_ids_to_tokens(end)
        raise KitError(f"The model's chat template does not end turn {place + 1} of a conversation with {mark!r}.")
    stop = answer.index(end) + 1
    if _read(tokenizer, answer[: stop - 1]) != _read(tokenizer, inner_ids(tokenizer, text, split_special_tokens=True)):
        written = tokenizer.decode(answer[: stop - 1]).strip()
        what = f"turn {place + 1} says {_short(text)}, and would be learned as {_short(written)}"
        raise KitError(f"The model's chat template changes an answer: {what}. Change that text, or take another model.")
    return prompt, answer, stop


def _read(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """What token ids say, without spaces: templates and tokenizers add or drop some around a text."""
    return "".join(tokenizer.decode(ids).split())


def _short(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[: length - 1] + "…")


def require_turns(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `KitError`, with the reason, for a chat template that does not show the model a whole conversation."""
    try:
        text = tokenizer.apply_chat_template(PROBE, tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise KitError(f"The model's chat template takes no conversation of several turns: {reason}.") from None
    places = [text.find(turn["content"]) for turn in PROBE]
    if -1 in places or places != sorted(places):
        lost = next((n for n, place in enumerate(places, 1) if place < 0), 2)
        what = f"turn {lost} of {len(PROBE)} is {'missing in the prompt' if -1 in places else 'out of its order'}"
        raise KitError(f"The model's chat template does not show a whole conversation: {what}. Take another model.")


def encoded_conversation(tokenizer: PreTrainedTokenizerBase, task: Task, row: Row) -> list[dict[str, Any]]:
    """A row's examples as `prompt.encoded_example` gives one, each with the number of its `answers` that carry loss."""
    example = training_example(task, row)
    return [
        {
            "prompt": marked.chat[:-1],
            "completion": marked.chat[-1:],
            "input_ids": marked.ids,
            "completion_mask": marked.mask,
            "length": len(marked.ids),
            "answers": marked.answers,
        }
        for marked in marked_turns(tokenizer, example["prompt"] + example["completion"])
    ]


def cut_to_fit(
    tokenizer: PreTrainedTokenizerBase, task: Task, rows: Sequence[Row], limit: int
) -> tuple[list[Row], list[str]]:
    """Rows of more than `limit` tokens cut after the last answer that fits, and a line that says so; for `too_long` "cut".

    A conversation whose first answer does not fit stays as it is: it is refused like any other row that is too long.
    Raises `KitError` where the model's chat template does not take conversations (`require_turns`).
    """
    if task.kind == "chat":
        require_turns(tokenizer)
    if task.too_long != "cut":
        return list(rows), []
    kept, cut, lost = [], 0, 0
    for row in rows:
        parts = exchanges(task, [row])
        fitting = next((part for part in reversed(parts) if len(example_ids(tokenizer, task, part)) <= limit), None)
        turns = fitting[task.message] if fitting else row[task.message]
        short = {**row, task.message: turns}
        if gone := len(parts) - count_answers(turns):
            cut, lost = cut + 1, lost + gone
            if "expect" in row:
                short["expect"] = row["expect"][: count_answers(turns)]
        kept.append(short)
    line = f"{cut:,} conversation(s) of more than {limit:,} tokens are cut after an answer: {lost:,} answer(s) are left out."
    return kept, [line] if cut else []
