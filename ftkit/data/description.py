"""`task.toml` as a task: each key of the right type, none unknown, none against another (lesson 02)."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ftkit.common.errors import KitError
from ftkit.common.files import read_text
from ftkit.common.paths import folder_name_problem
from ftkit.common.profiles import MOST_REPLAY
from ftkit.data.answer_form import ANSWER_FORMS
from ftkit.data.task import FIELD_TYPES, KINDS, Entry, Field, Task

READER = TypeAdapter(Task)
WANTED = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list in [ ]",
    "dataclass_type": "a table, begun by [[fields]]",
    "dict_type": "a table of lists",
}
KEPT = ("kept", "kept_in_message")
UNCLEAR = "?"  # begins an entry of `[kept_in_message]`: after its expressions the rule cannot tell


def read_description(folder: Path, to_clean: bool = False) -> Task:
    """The task that a folder's `task.toml` describes. Raises `KitError` naming the file, the key and what is wrong.

    `to_clean` lets values pass that cleaning mends: those with spaces at their ends.
    """
    path = folder / "task.toml"
    try:
        table = tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise KitError(f"{path} is not readable as TOML: {error}.") from None
    form = table.pop("answer_form", "compact")
    if form not in list(ANSWER_FORMS):
        raise KitError(f"{path}: answer_form {form!r} is not one of {', '.join(ANSWER_FORMS)}.")
    if table.get("kind") == "chat":
        table = {"message": "messages", "system_prompt": "", **table}
    task = replace(_described(table, path), folder=folder, answer_form=ANSWER_FORMS[form])
    if problem := next(_contradictions(task, to_clean), None):
        raise KitError(f"{path}: {problem}.")
    return task


def _described(table: dict[str, Any], path: Path) -> Task:
    """The task that a file describes; `KitError` with the key, what is there and what is wanted."""
    if "folder" in table:  # which is where the file lies
        raise KitError(f"{path}: folder is no key that is known here.")
    try:
        return READER.validate_json(json.dumps({"folder": "", **table}, default=lambda value: {"date": str(value)}))
    except ValidationError as error:
        fault = error.errors()[0]
    if fault["loc"][:1] in [(key,) for key in KEPT]:
        raise KitError(f"{path}: {_fault_of_kept(fault)}.")
    parts = (str(part + 1) if isinstance(part, int) else part for part in fault["loc"])
    where = " ".join("[[fields]]" if part == "fields" else part for part in parts)
    where = where.removesuffix(" int")  # which of the types of `minimum` was tried
    if fault["type"] in ("missing", "missing_argument"):
        raise KitError(f"{path}: {where} is missing.")
    if fault["type"].startswith("unexpected"):
        known = ", ".join(f.name for f in fields(Field if "fields" in fault["loc"] else Task) if f.name != "folder")
        raise KitError(f"{path}: {where} is no key that is known here. Known: {known}.")
    if fault["type"] == "literal_error":
        known = ", ".join(KINDS if where == "kind" else get_args(get_type_hints(Task)[where]))
        raise KitError(f"{path}: {where} {fault['input']!r} is not one of {known}.")
    wanted = WANTED.get(fault["type"], fault["msg"].lower())
    raise KitError(f"{path}: {where} is {_as_toml(fault['input'])}, and should be {wanted}.")


def _fault_of_kept(fault: Any) -> str:
    """What is wrong with the types under `[kept]` or `[kept_in_message]`."""
    key, *below = fault["loc"]
    if not below:
        return f"[{key}] is {_as_toml(fault['input'])}, and should be a table of lists"
    place = f"[{key}] {below[0]}" + (f", entry {below[1] + 1}" if len(below) > 1 else "")
    wanted = "an expression in quotes, or a list of them" if len(below) > 1 else "a list in [ ]"
    return f"{place}: {_as_toml(fault['input'])} should be {wanted}"


def _as_toml(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"


def _contradictions(task: Task, to_clean: bool) -> Iterator[str]:
    """What is wrong in a task whose keys have the right types, a sentence each."""
    if problem := folder_name_problem(task.name):
        yield f"name {task.name!r} {problem}. Runs and exports become folders of that name; `title` may be any text"
    if task.max_message_characters < 1:
        yield f"max_message_characters is {task.max_message_characters}, and should be 1 or more"
    if not (task.message and task.target) or task.message == task.target:
        yield f"message {task.message!r} and target {task.target!r} should be two different fields of a row"
    yield from _faults_of_numbers(task)
    if task.kind != "chat" and task.too_long != "refuse":
        yield f'too_long "{task.too_long}" is for conversations, and this task is of kind {task.kind}'
    yield from _faults_of_told(task)
    if task.kind == "json" and not task.fields:
        yield "a task of kind json needs [[fields]]"
    if task.kind == "label" and not task.labels:
        yield "a task of kind label needs labels = [...]"
    yield from _faults_of_values("labels", task.labels, to_clean)
    yield from _faults_of_kept(task)
    if twice := _first_twice([f.name for f in task.fields]):
        yield f"[[fields]] holds the name {twice[0]!r} twice"
    for number, f in enumerate(task.fields, 1):
        yield from (f"[[fields]] {number}, {f.name!r}: {fault}" for fault in _faults_of_field(f, to_clean))


def _faults_of_told(task: Task) -> Iterator[str]:
    if task.told and task.kind != "chat":
        yield f'told "{task.told}" is for conversations, and this task is of kind {task.kind}'
    if task.told != Path(task.told).name or "\\" in task.told:
        yield f'told "{task.told}" should be the name of a file in the task\'s folder'


def _faults_of_numbers(task: Task) -> Iterator[str]:
    if task.max_turns < 2:
        yield f"max_turns is {task.max_turns}, and should be 2 or more: a question and its answer"
    if task.replay is not None and not 0 <= task.replay <= MOST_REPLAY:
        yield f"replay is {task.replay:g}, and should be a share of the training rows, from 0 to {MOST_REPLAY:g}"


def _faults_of_field(f: Field, to_clean: bool) -> Iterator[str]:
    if not f.name.strip():
        yield "name is empty"
    if f.type not in FIELD_TYPES:
        yield f"type {f.type!r} is not one of {', '.join(FIELD_TYPES)}"
    if f.type in ("choice", "set"):
        if not f.values:
            yield f"a field of type {f.type} needs values = [...]"
        yield from _faults_of_values("values", f.values, to_clean)
    if f.type == "pattern" and not f.pattern:
        yield 'a field of type pattern needs pattern = "..."'
    try:
        re.compile(f.pattern)
    except (re.error, RecursionError, OverflowError) as error:
        yield f"pattern {f.pattern!r} is no regular expression ({error})"


def _faults_of_kept(task: Task) -> Iterator[str]:
    """What is to be kept in a text: things with a name and expressions; in a message only things that have a rule."""
    if (task.kept or task.kept_in_message) and task.kind != "text":
        yield f"[kept] is for texts, and this task is of kind {task.kind}"
    if unknown := [name for name in task.kept_in_message if name not in task.kept]:
        known = ", ".join(task.kept) or "nothing"
        yield f"[kept_in_message] has {unknown[0]!r}, which [kept] has not; there is {known}"
    for key, table in zip(KEPT, (task.kept, task.kept_in_message), strict=True):
        for name, entries in table.items():
            if not name.strip() or not entries:
                yield f"[{key}] {name!r} should have a name, and one expression or more"
            for number, entry in enumerate(entries, 1):
                yield from (f"[{key}] {name}, entry {number}: {fault}" for fault in _faults_of_entry(entry, key))


def _faults_of_entry(entry: Entry, key: str) -> Iterator[str]:
    words = [entry] if isinstance(entry, str) else list(entry)
    if key == "kept_in_message" and words[:1] == [UNCLEAR]:
        del words[0]
    if not words or not all(word.strip() for word in words):
        yield "it is empty"
    for word in words:
        try:
            if re.compile(f"(?:{word})").search(""):
                yield f"{word!r} fits an empty text too: it would be found everywhere"
        except (re.error, RecursionError, OverflowError) as error:
            yield f"{word!r} is no regular expression ({error})"


def _faults_of_values(key: str, values: Sequence[str], to_clean: bool) -> Iterator[str]:
    """An answer is read without spaces at its ends: a value with some could never be given."""
    for value in values:
        if not value.strip():
            yield f"{key} holds {value!r}: it is empty"
        elif value != value.strip() and not to_clean:
            yield f"{key} holds {value!r}: take away the spaces at its ends, or let ftkit task clean do it"
    if twice := _first_twice(values):
        yield f"{key} holds {twice[0]!r} twice"


def _first_twice(values: Sequence[str]) -> list[str]:
    return [value for place, value in enumerate(values) if value in values[:place]][:1]
