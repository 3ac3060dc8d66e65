"""What a run keeps of its evaluation: a model's answers to held-out rows, so that nothing is computed twice (lesson 04)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.common.console import Progress, Say
from ftkit.common.errors import KitError
from ftkit.common.files import dump, json_lines, read_text, write_text
from ftkit.runs.documents import Evaluation
from ftkit.runs.run import Run
from ftkit.training.give_way import working_seconds


@dataclass(frozen=True)
class Predictions:
    """The texts that a model gave, in the order of the rows, and the seconds that it took for all of them."""

    texts: list[str]
    seconds: float


def load_evaluation(run: Run) -> Evaluation:
    """The saved evaluation of a run. Raises `KitError` if there is none or it cannot be read."""
    if not Evaluation.exists(run.folder):
        raise KitError(f"{run.name} has not been evaluated yet: ftkit evaluate {run.name}")
    return Evaluation.load(run.folder)


def answers_file(split: str, model: str) -> str:
    """Where a run keeps the answers of a model ("base", "tuned", "few-shot") to a split."""
    return f"predictions/{split}-{model.replace(', ', '-')}.jsonl"


def read_answers(run: Run, split: str, model: str) -> dict[str, str]:
    """The saved answers of a model to a split: {message: text}; none where it was not evaluated.

    Raises `KitError` if they cannot be read.
    """
    path = run.folder / answers_file(split, model)
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[1:-1]  # the first holds the settings
        return {entry["message"]: str(entry["prediction"]) for entry in map(json.loads, lines)}
    except (ValueError, KeyError, TypeError):
        raise KitError(f"{path} is broken. Delete it, then measure again: ftkit evaluate {run.name}") from None


def predict(
    run: Run,
    name: str,
    settings: dict[str, Any],
    messages: Sequence[str],
    answer: Callable[[list[str]], list[str]],
    batch: int,
    say: Say = print,
) -> Predictions:
    """Answers to `messages` by `answer`, which takes some messages and gives as many texts.

    They are kept in the run's `predictions/<name>.jsonl`, which grows after every batch: a second call computes nothing, and
    an interrupted one goes on. `settings` is everything that decides the answers: if it differs from the settings in the
    file, the file is made anew. The longest messages come first, so that what does not fit fails early.
    """
    path = run.folder / "predictions" / f"{name}.jsonl"
    kept = _kept(path, settings)
    missing = sorted({m for m in messages if m not in kept}, key=lambda m: (-len(m), m))
    progress = Progress(name, say=say)
    for start in range(0, len(missing), batch):
        some = missing[start : start + batch]
        then = working_seconds()
        texts = answer(some)
        each = (working_seconds() - then) / len(some)
        new = {message: {"prediction": text, "seconds": each} for message, text in zip(some, texts, strict=True)}
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.writelines(dump({"message": message, **entry}) + "\n" for message, entry in new.items())
        kept |= new
        progress(start + len(some), len(missing))
    if not missing:
        say(f"  {name}: {len(messages):,} answers were there already")
    entries = [kept[message] for message in messages]
    return Predictions([entry["prediction"] for entry in entries], sum(entry["seconds"] for entry in entries))


def _kept(path: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The file's entries for these settings, by message. Afterwards the file has its head and whole lines, nothing else."""
    head = json.dumps({"settings": settings}, sort_keys=True)
    try:
        lines = read_text(path).split("\n") if path.is_file() else []
    except KitError:  # not even text: made anew
        lines = []
    if not lines or lines[0] != head:
        write_text(path, head + "\n")
        return {}
    whole = list(json_lines("\n".join(lines[1:-1])))  # what follows the last line's end was cut off
    good = [line for line in whole if not line.fault and _is_entry(line.value)]
    if lines[-1] or len(good) < len(whole):
        write_text(path, "\n".join([head, *(line.text for line in good)]) + "\n")
    return {line.value.pop("message"): line.value for line in good}


def _is_entry(value: Any) -> bool:
    """Whether a line's value is an answer as `predict` writes it; others, which a damaged file may hold, are asked again."""
    kinds: dict[str, Any] = {"message": str, "prediction": str, "seconds": (int, float)}
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())
