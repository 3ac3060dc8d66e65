"""Writes `docs/files.md` from the definitions in `ftkit/runs/documents.py`: `python docs/files.py`."""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ftkit.common.files import write_text
from ftkit.common.profiles import Profile
from ftkit.runs.documents import DOCUMENTS, GLIMPSES, LOG, REPLAY, Glimpse, LogEntry, Part, Talk

PAGE = Path(__file__).with_name("files.md")
HEAD = """# The files of a run

Written by `python docs/files.py` from [ftkit/runs/documents.py](../ftkit/runs/documents.py), the only place that spells these
names and keys. `load` refuses a file of another version (`format`) with a sentence; an unknown or wrong field is named.

| in a run's folder | what it is |
|---|---|
| `run.json` | what the run was made from, and what its training took; [below](#runjson) |
| `log.jsonl` | the loss log, a line an entry; [below](#logjsonl) |
| `glimpses.jsonl` | the same held-out messages answered while the model learned, a line a message and look; [below](#glimpsesjsonl) |
| `live.json` | while a training runs: how it stands; [below](#livejson) |
| `replay.jsonl` | the rows of general talk that were mixed into the training, if there were any; [below](#replayjsonl) |
| `adapter/` | `adapter_model.safetensors` and `adapter_config.json`, as peft writes them; where the kit changed the model's chat template, the tokenizer with the changed one too |
| `model_card.md` | the model card, made from the records; written again whenever one of them changes |
| `evaluation.json` | scores, intervals, comparisons; [below](#evaluationjson) |
| `general.json` | answers to general questions, kept so that they are asked once; [below](#generaljson) |
| `predictions/` | a file for each model and split, `test-tuned.jsonl` and so on: first a line with the settings that decide the answers, then a line an answer with `message`, `prediction` and `seconds`. Where the settings differ the file is made anew. Those with `judge` in their name hold a judge's replies |
| `report.html` | the evaluation as a page; can be rebuilt from the records at any time |
| `merge_fidelity.json` | what each way of merging keeps; [below](#merge_fidelityjson) |
| `exports/NAME/` | an export, with its `export.json`; [below](#exportjson) |
| `feedback/` | `feedback.jsonl`: what visitors of the demo said, with their consent |
| `checkpoints/` | while a training runs; a checkpoint without the file `complete` was cut off; [below](#complete) |
| `.lock` | held by the process that trains the run |

| in `runs/verdicts/TASK-DATA/`, a folder for each task and state of its data | what it is |
|---|---|
| `verdict.json` | all contenders on the same rows, their costs, the advice; [below](#verdictjson) |
| `verdict.html` | the verdict as a page |
| `NAME/contender.json` | what one contender answered, so that a verdict goes on where it was stopped; [below](#contenderjson) |
| `fine-tuned-encoder/model/` | the fine-tuned encoder, as `AutoModelForSequenceClassification.from_pretrained` takes it |
"""


def name_of(hint: Any) -> str:
    """A type in words: "number", "list of text", "Score by name"."""
    if typing.get_origin(hint) is typing.Annotated:
        return name_of(typing.get_args(hint)[0])
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        names = list(dict.fromkeys(name_of(argument) for argument in arguments if argument is not type(None)))
        names = ["number"] if set(names) == {"number", "whole number"} else names
        return " or ".join([*names, *(["null"] if type(None) in arguments else [])])
    if origin is typing.Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is list:
        return f"list of {name_of(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} of {name_of(arguments[0])}"
    if origin is dict:
        return f"{name_of(arguments[1])} by name"
    if isinstance(hint, type) and (issubclass(hint, Part) or is_dataclass(hint)):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(hint, "any value")


def limits(hint: Any) -> str:
    """The range that a value of a type has to lie in."""
    if typing.get_origin(hint) is typing.Annotated:
        metadata = [one for extra in typing.get_args(hint)[1:] for one in getattr(extra, "metadata", [])]
        bounds = {type(one).__name__: one for one in metadata}
        if "Ge" in bounds:
            return f"{bounds['Ge'].ge} to {bounds['Le'].le}" if "Le" in bounds else f"from {bounds['Ge'].ge}"
    return next(filter(None, map(limits, typing.get_args(hint))), "")


def table(part: type[Part]) -> str:
    """A Markdown table of a part's fields."""
    rows = ["| key | value | range | |", "|---|---|---|---|"]
    hints = typing.get_type_hints(part, include_extras=True)
    for key, field in part.model_fields.items():
        rows.append(f"| `{field.alias or key}` | {name_of(hints[key])} | {limits(hints[key])} | {field.description or ''} |")
    for key, computed in part.model_computed_fields.items():
        rows.append(f"| `{key}` | {name_of(computed.return_type)} | | {computed.description or ''} |")
    return "\n".join(rows)


def parts_of(part: type[Part]) -> list[type]:
    """Everything that a part is made of, each once, in the order of its fields."""
    found: dict[type, None] = {}

    def look(hint: Any) -> None:
        if isinstance(hint, type) and hint not in found and (issubclass(hint, Part) or hint is Profile):
            found[hint] = None
            if issubclass(hint, Part):
                for inner in typing.get_type_hints(hint, include_extras=True).values():
                    look(inner)
        for argument in typing.get_args(hint):
            look(argument)

    for hint in typing.get_type_hints(part, include_extras=True).values():
        look(hint)
    return list(found)


def summary(kind: type) -> str:
    """The first sentence of a class's docstring."""
    return (kind.__doc__ or "").strip().split("\n")[0]


def page() -> str:
    """The whole page."""
    sections, seen = [HEAD], set()
    titles = {document: f"`{document.FILE}`, version {document.version()}" for document in DOCUMENTS}
    lines = {LogEntry: LOG, Glimpse: GLIMPSES, Talk: REPLAY}  # files with a record a line
    for document in (*DOCUMENTS, *lines):
        anchor = lines.get(document) or document.FILE
        name = titles.get(document, f"`{anchor}`")
        sections.append(f"## {anchor}\n\n{name}. {summary(document)}\n\n{table(document)}\n")
        for part in parts_of(document):
            if part in seen:
                continue
            seen.add(part)
            if is_dataclass(part):
                keys = ", ".join(f"`{field.name}`" for field in fields(part))
                sections.append(f"### {part.__name__}\n\n{summary(part)} Keys: {keys}.\n")
            else:
                sections.append(f"### {part.__name__}\n\n{summary(part)}\n\n{table(part)}\n")
    return "\n".join(sections)


if __name__ == "__main__":
    write_text(PAGE, page())
