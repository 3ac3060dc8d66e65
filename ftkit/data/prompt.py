"""The one place where a prompt is made, and an answer read: training, evaluation and demo use it alike (lesson 02)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from ftkit.data.conversation.rows import chat_of
from ftkit.data.task import Row, Task
from ftkit.models.chat_template import answer_borders, chat_ids, inner_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]
Message = str | Messages  # what is asked: a text, or the turns of a conversation, the user's last


# --- prompt and completion: used by training, evaluation and demo alike ---


def chat_prompt(task: Task, message: Message, told: bool = False, shots: Sequence[Row] = ()) -> Messages:
    """The chat that asks for an answer: system prompt and the message. Every prompt of the kit is made here.

    In a `chat` task the message is the conversation so far: see `chat_of`.

    `told` adds the fields and their values to the system prompt: what the untouched base model gets, so that it has a
    fair chance. The tuned model learned them and is not told. `shots` are rows that are shown before the message, each
    with its answer (few-shot prompting).
    """
    if task.kind == "chat":
        return chat_of(task.system_prompt, message)
    system = task.system_prompt + ("\n" + describe_answer(task) if told else "")
    shown = [
        turn
        for row in shots
        for turn in (
            {"role": "user", "content": task.asked(row)},
            {"role": "assistant", "content": completion_text(task, task.answered(row))},
        )
    ]
    return [{"role": "system", "content": system}, *shown, {"role": "user", "content": cast(str, message)}]


def describe_answer(task: Task) -> str:
    """The wanted answer in words, for a model that was not trained on the task."""
    if task.kind == "label":
        return f"Answer with one of these words and nothing else: {', '.join(task.labels)}."
    if task.kind == "text":
        return "Answer with the text alone."
    lines = [f'"{f.name}": {f.about}; {f.allowed()}' for f in task.fields]
    return "\n".join(["Answer with one JSON object on one line and nothing else, with these keys in this order:", *lines])


def completion_text(task: Task, answer: Any) -> str:
    """The answer as the model should write it: a `json` task's object in the task's form, else the text itself."""
    return task.answer_form.write(answer) if task.kind == "json" else str(answer)


def training_example(task: Task, row: Row) -> dict[str, Messages]:
    """A row as trl's SFTTrainer takes it: conversational `prompt` and `completion` (loss falls on the completion)."""
    answer = completion_text(task, task.answered(row))
    return {
        "prompt": chat_prompt(task, task.asked(row)),
        "completion": [{"role": "assistant", "content": answer}],
    }


# --- text and token ids ---


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """The chat as the model reads it, in the model's own template, ending where its answer begins. To be looked at.

    What the model gets are `prompt_ids`: in them an end mark that somebody wrote into a message is no end.
    """
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Token ids of `prompt_text`: shape [length]. The template brings its special tokens, so none are added.

    Special tokens come from the template alone: what looks like one in a message is encoded as the text that it is.
    """
    return chat_ids(tokenizer, messages, add_generation_prompt=True)


def answered_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of a chat and of the answer to it: the prompt's, and those of the answer with what ends it.

    The two side by side are what is trained on, so a prompt is the same in training and afterwards. They are the ids of
    the whole chat, unless tokens would join across the border or the template writes prompt or answer differently.
    """
    prompt, answered = prompt_ids(tokenizer, messages), [*messages, {"role": "assistant", "content": answer}]
    whole = chat_ids(tokenizer, answered)
    written = answer.strip() in tokenizer.apply_chat_template(answered, tokenize=False)  # some leave out thoughts
    if written and whole[: len(prompt)] == prompt:
        return prompt, whole[len(prompt) :]
    before, after = answer_borders(tokenizer)
    return prompt, inner_ids(tokenizer, before + answer, split_special_tokens=True) + inner_ids(tokenizer, after)


def begun_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages, beginning: str) -> list[int]:
    """Token ids of a chat whose answer has begun: prompt and the first characters of the answer, as in training."""
    prompt = prompt_ids(tokenizer, messages)
    if not beginning:
        return prompt
    begun = chat_ids(tokenizer, [*messages, {"role": "assistant", "content": beginning}], continue_final_message=True)
    if begun[: len(prompt)] == prompt:
        return begun
    return prompt + inner_ids(tokenizer, answer_borders(tokenizer)[0] + beginning, split_special_tokens=True)


def example_ids(tokenizer: PreTrainedTokenizerBase, task: Task, row: Row) -> list[int]:
    """Token ids of a whole training example, prompt and completion: shape [length]."""
    example = training_example(task, row)
    prompt, answer = answered_ids(tokenizer, example["prompt"], example["completion"][0]["content"])
    return prompt + answer


def encoded_example(tokenizer: PreTrainedTokenizerBase, task: Task, row: Row) -> dict[str, Any]:
    """A `training_example` with its token ids: columns `input_ids`, `completion_mask` (1 where loss falls) and `length`.

    trl takes these ids as they are, instead of making its own.
    """
    example = training_example(task, row)
    prompt, answer = answered_ids(tokenizer, example["prompt"], example["completion"][0]["content"])
    mask = [0] * len(prompt) + [1] * len(answer)
    return {**example, "input_ids": prompt + answer, "completion_mask": mask, "length": len(mask)}


def encoded_examples(tokenizer: PreTrainedTokenizerBase, task: Task, row: Row) -> list[dict[str, Any]]:
    """What is trained on of a row: its `encoded_example`; of a conversation see `conversation.turns`."""
    if task.kind == "chat":
        from ftkit.data.conversation.turns import encoded_conversation

        return encoded_conversation(tokenizer, task, row)
    return [encoded_example(tokenizer, task, row)]


def parse_answer(task: Task, text: str) -> Any:
    """What a model wrote, as a value: a dict for `json` (None if there is no object in it), else the stripped text."""
    return task.answer_form.read(text) if task.kind == "json" else text.strip()
