"""Rows of general talk among a task's own: how many, which, and in which places."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from pydantic import ValidationError

from ftkit.common.console import Say
from ftkit.common.errors import KitError
from ftkit.common.files import read_jsonl, write_jsonl
from ftkit.common.processes import agree, is_first
from ftkit.common.profiles import Profile
from ftkit.data.conversation.turns import marked_turns
from ftkit.data.prompt import prompt_ids
from ftkit.models.families import context_length
from ftkit.models.load import load_config, load_tokenizer
from ftkit.runs.documents import REPLAY, Talk, first_fault
from ftkit.runs.run import Run
from ftkit.training.replay.talk import LONGEST, answer_prompts, kept_answers, prompts, read_answers
from ftkit.training.trainer import TrainingSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def count_talk(profile: Profile, rows: int) -> int:
    """How many rows of general talk go with so many of the task."""
    return round(profile.replay * rows)


def mix_in(data: TrainingSet, say: Say) -> TrainingSet:
    """The training set with the share of general talk that its profile asks for; with none it stays as it is.

    The first of several processes lets the base answer, the others get its rows. `say` is told how many rows there are, and
    which answers were not taken. Raises `KitError` where no answer can be taken.
    """
    wanted = count_talk(data.profile, len(data.dataset))
    if not wanted:
        return data
    return _mixed(data, agree(_take(data, wanted, say) if is_first() else None))


def _take(data: TrainingSet, wanted: int, say: Say) -> list[Talk]:
    """So many rows of general talk; where the base gave fewer answers that can be taken, they are repeated."""
    taken: list[Talk] = []
    asked = without_end = unfit = 0
    limit = min(data.profile.max_length, context_length(load_config(data.profile.model)) or data.profile.max_length)
    for block in answer_prompts(data.profile, data.tokenizer, say):
        for talk in block:
            example = _example(data.tokenizer, talk) if talk.answer else None
            asked, without_end = asked + 1, without_end + (not talk.answer)
            if talk.answer and (example is None or example["length"] > limit):
                unfit += 1
            elif talk.answer:
                taken.append(talk)
        if len(taken) >= wanted:
            break
    left_out = [f"{without_end} answers have no end within {LONGEST} tokens"] if without_end else []
    left_out += [f"{unfit} do not fit the chat template or the {limit} tokens of a row"] if unfit else []
    if not taken:
        raise KitError(
            f"Replay: of the base's answers to {asked} general questions none can be trained on: {'; '.join(left_out)}. "
            "Train with --replay 0."
        )
    repeated = f" There are {len(taken)} different ones: some stand in it more than once." if len(taken) < wanted else ""
    say(
        f"Replay {data.profile.replay:g}: {wanted:,} rows of general talk beside the {len(data.dataset):,} of "
        f"{data.task.name}, answered by the base itself ({asked} prompts{''.join(f'; {reason}' for reason in left_out)})."
        f"{repeated}"
    )
    return list(islice(cycle(taken), wanted))


def _example(tokenizer: PreTrainedTokenizerBase, talk: Talk) -> dict[str, Any] | None:
    """A row as the trainer takes it, made like a conversation's (`marked_turns`), without a system prompt of a task.

    None where the chat template would change the answer, such as one that leaves out thoughts.
    """
    chat = [{"role": "user", "content": talk.prompt}, {"role": "assistant", "content": talk.answer}]
    try:
        marked = marked_turns(tokenizer, chat)[0]
    except KitError:
        return None
    whole = {"prompt": chat[:1], "completion": chat[1:], "input_ids": marked.ids, "completion_mask": marked.mask}
    return {**whole, "length": len(marked.ids), "answers": 1}


def _mixed(data: TrainingSet, talk: Sequence[Talk]) -> TrainingSet:
    """The rows of general talk in places among the task's rows that the profile's seed decides; these keep their order."""
    own, places = iter(data.dataset.to_list()), set(_places(data, len(talk), len(data.dataset) + len(talk)))
    theirs = (_example(data.tokenizer, each) or {} for each in talk)
    columns = data.dataset.column_names
    rows = [
        {name: example[name] for name in columns}
        for place in range(len(data.dataset) + len(talk))
        for example in [next(theirs if place in places else own)]
    ]
    return replace(data, dataset=Dataset.from_list(rows, features=data.dataset.features), replay=tuple(talk))


def _places(data: TrainingSet, talk: int, rows: int) -> list[int]:
    return sorted(random.Random(f"replay {data.profile.seed}").sample(range(rows), talk))


def keep_rows(run: Run, data: TrainingSet) -> TrainingSet:
    """Keep the rows of general talk in the run's folder; a run that is taken up goes on with those that lie there.

    Raises `KitError` if that file is broken.
    """
    if not data.replay:
        return data
    path = run.folder / REPLAY
    if not path.is_file():
        if is_first():
            write_jsonl(path, (talk.model_dump() for talk in data.replay))
        return data
    try:
        kept = [Talk.model_validate(row) for row in read_jsonl(path)]
    except ValidationError as error:
        raise KitError(f"{path}: a line is broken ({first_fault(error)}). Train anew with --fresh.") from None
    if kept == list(data.replay):
        return data
    places = set(_places(data, len(data.replay), len(data.dataset)))
    own = data.dataset.select([place for place in range(len(data.dataset)) if place not in places])
    return _mixed(replace(data, dataset=own), kept)


def count_in_words(data: TrainingSet) -> str:
    """What a training learns from: the examples of its task, and the rows of general talk if there are any."""
    talk = f" and {len(data.replay):,} of general talk" if data.replay else ""
    return f"{len(data.dataset) - len(data.replay):,} examples of {data.task.name}{talk}"


def planned_lengths(profile: Profile, lengths: Sequence[int], source: str) -> tuple[list[int], str]:
    """Lengths of the task's examples (in tokens) with those of the general talk, and the words for where they come from.

    Nothing is answered for a plan: without kept answers each counts as `LONGEST` tokens, and without a tokenizer each row
    as the profile's `max_length`.
    """
    wanted = count_talk(profile, len(lengths))
    if not wanted:
        return list(lengths), source
    try:
        tokenizer = load_tokenizer(profile.model)
        kept = read_answers(kept_answers(profile, tokenizer), lambda line: None).values()
        answered = [example["length"] for talk in kept if talk.answer and (example := _example(tokenizer, talk))]
        chats = ([{"role": "user", "content": each["prompt"]}] for each in islice(prompts(), wanted))
        talk = answered or [len(prompt_ids(tokenizer, chat)) + LONGEST for chat in chats]
    except (KitError, OSError):
        talk = [profile.max_length]
    return [*lengths, *islice(cycle(talk), wanted)], f"{source}, and {wanted:,} rows of general talk"
