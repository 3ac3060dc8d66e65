"""The one place where a prompt is made, and an answer read: training, evaluation and demo use it alike (lesson 02)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ftkit.data.task import Row, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Messages = list[dict[str, str]]


# --- prompt and completion: used by training, evaluation and demo alike ---


def chat_prompt(task: Task, message: str, told: bool = False, shots: Sequence[Row] = ()) -> Messages:
    """The chat that asks for an answer: system prompt and the message. Every prompt of the kit is made here.

    `told` adds the fields and their values to the system prompt: what the untouched base model gets, so that it has a
    fair chance. The tuned model learned them and is not told. `shots` are rows that are shown before the message, each
    with its answer (few-shot prompting).
    """
    system = task.system_prompt + ("\n" + describe_answer(task) if told else "")
    shown = [
        turn
        for row in shots
        for turn in (
            {"role": "user", "content": row[task.message]},
            {"role": "assistant", "content": completion_text(task, row[task.target])},
        )
    ]
    return [{"role": "system", "content": system}, *shown, {"role": "user", "content": message}]


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
    answer = completion_text(task, row[task.target])
    return {
        "prompt": chat_prompt(task, row[task.message]),
        "completion": [{"role": "assistant", "content": answer}],
    }


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """The chat as the model reads it, in the model's own template, ending where its answer begins."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Token ids of `prompt_text`: shape [length]. The template brings its special tokens, so none are added."""
    return tokenizer(prompt_text(tokenizer, messages), add_special_tokens=False)["input_ids"]


def example_ids(tokenizer: PreTrainedTokenizerBase, task: Task, row: Row) -> list[int]:
    """Token ids of a whole training example, prompt and completion: shape [length]."""
    example = training_example(task, row)
    text = tokenizer.apply_chat_template(example["prompt"] + example["completion"], tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def parse_answer(task: Task, text: str) -> Any:
    """What a model wrote, as a value: a dict for `json` (None if there is no object in it), else the stripped text."""
    return task.answer_form.read(text) if task.kind == "json" else text.strip()
