"""Tasks: a folder with `task.toml` and three splits, every row checked (lesson 02)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ftkit.common.errors import KitError
from ftkit.common.files import digest
from ftkit.common.paths import expanded, kit_root
from ftkit.data.answer_form import COMPACT, AnswerForm
from ftkit.data.conversation.rows import asked_problem, row_problems
from ftkit.data.formats.own import read_rows

SPLITS = ("train", "validation", "test")
Kind = Literal["json", "label", "text", "chat"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FIELD_TYPES = ("choice", "integer", "number", "boolean", "pattern", "set", "string")
CHECKED: Any = {"extra": "forbid", "strict": True}  # how pydantic reads the two classes from task.toml: nothing is converted
Row = dict[str, Any]
Entry = str | tuple[str, ...]  # of `[kept]`: an expression, or several words for one thing
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # a lone surrogate: no text in UTF-8 has one
TOLD = re.compile(rb"^told\s*=.*\n?", re.MULTILINE)  # the line of a description that no training depends on


@dataclass(frozen=True)
class Field:
    """One key of a `json` task's answer, as `[[fields]]` in `task.toml` describes it."""

    __pydantic_config__ = CHECKED

    name: str
    type: str
    about: str = ""
    values: tuple[str, ...] = ()
    pattern: str = ""
    form: str = ""
    minimum: int | float | None = None
    nullable: bool = False

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the field's value."""
        if self.type == "choice":
            return {"enum": [*self.values, None] if self.nullable else list(self.values)}
        if self.type == "set":
            return {"type": "array", "items": {"enum": list(self.values)}, "uniqueItems": True}
        kind = self.type if self.type in ("integer", "number", "boolean") else "string"
        schema: dict[str, Any] = {"type": [kind, "null"] if self.nullable else kind}
        if self.pattern:
            schema["pattern"] = self.pattern
        if self.minimum is not None:
            schema["minimum"] = self.minimum
        return schema

    def fits(self, value: Any) -> bool:
        """Whether a value is one by `schema`. The package jsonschema says the same, but its import takes over a second."""
        if value is None:
            return self.nullable and self.type != "set"
        if self.type == "choice":
            return value in self.values
        if self.type == "set":
            names = value if isinstance(value, list) else [None]
            return all(isinstance(n, str) and n in self.values for n in names) and len(set(names)) == len(names)
        if self.type == "boolean" or isinstance(value, bool):
            return self.type == "boolean" and isinstance(value, bool)
        if self.type in ("integer", "number"):
            number = isinstance(value, int) or (isinstance(value, float) and (self.type == "number" or value.is_integer()))
            return number and not (self.minimum is not None and value < self.minimum)
        return isinstance(value, str) and re.search(self.pattern, value) is not None

    def allowed(self) -> str:
        """What may stand here, in words: for error messages and for the base model's prompt."""
        quoted = ", ".join(f'"{value}"' for value in self.values)
        words = {
            "choice": f"one of {quoted}",
            "set": f"a sorted list of names out of {quoted}, or []",
            "integer": "a whole number" + (f" from {self.minimum}" if self.minimum is not None else ""),
            "number": "a number",
            "boolean": "true or false",
            "pattern": self.form or f"text that fits {self.pattern}",
            "string": "text",
        }[self.type]
        return words + (" or null" if self.nullable else "")


@dataclass(frozen=True)
class Task:
    """A task folder, its description read and checked; the rows are read when asked for."""

    __pydantic_config__ = CHECKED

    folder: Path
    name: str
    kind: Kind
    system_prompt: str
    title: str = ""
    message: str = "message"
    target: str = "target"
    max_message_characters: int = 4000
    max_turns: int = 20  # of a conversation
    too_long: Literal["refuse", "cut"] = "refuse"  # a conversation with more tokens than a training takes
    labels: tuple[str, ...] = ()
    fields: tuple[Field, ...] = field(default=())
    kept: dict[str, tuple[Entry, ...]] = field(default_factory=dict, hash=False)  # see `ftkit.data.kept`
    kept_in_message: dict[str, tuple[Entry, ...]] = field(default_factory=dict, hash=False)
    answer_form: AnswerForm = COMPACT  # by name in task.toml: see `ANSWER_FORMS`
    replay: float | None = None  # rows of general talk in its trainings, as a share of its own; None: the profile decides
    told: str = ""  # a file of the folder, to compare: all that a chat's base may be told; see `data.conversation.told`

    def rows(self, split: str) -> list[Row]:
        """All rows of a split, each checked. Raises `KitError` naming file, line, field and reason of the bad ones."""
        if split not in SPLITS:
            raise KitError(f"There is no split {split!r}. A task has {', '.join(SPLITS)}.")
        path = self.folder / f"{split}.jsonl"
        rows, problems = read_rows(path, self)
        if problems:
            more = f"\n  ... and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise KitError("\n  ".join([f"{len(problems)} bad row(s):", *problems[:5]]) + more)
        if not rows:
            and_target = "" if self.kind == "chat" else f" and {self.target!r}"
            raise KitError(f"{path} is empty: it needs one JSON object a line with {self.message!r}{and_target}.")
        return rows

    def fingerprint(self) -> str:
        """SHA-256 over description, but for `told`, and splits (first 16 hexadecimal digits): which data a run has seen."""
        names = ("task.toml", *(f"{split}.jsonl" for split in SPLITS))
        return digest(*(name.encode() + b"\0" + TOLD.sub(b"", (self.folder / name).read_bytes()) for name in names))

    def check_message(self, message: Any, where: str = "The message") -> str:
        """Return `message` if the model may read it. Raises `KitError` if it is no text, empty or too long."""
        if problem := self.message_problem(message):
            raise KitError(f"{where}: {problem}.")
        return message

    def asked(self, row: Row) -> Any:
        """What a row asks: its message; of a conversation all turns before the last, a list."""
        return row[self.message][:-1] if self.kind == "chat" else row[self.message]

    def answered(self, row: Row) -> Any:
        """The right answer of a row: its target; of a conversation the text of the last turn."""
        return row[self.message][-1]["content"] if self.kind == "chat" else row[self.target]

    def message_problem(self, message: Any) -> str | None:
        """What is wrong with a message, or in a `chat` task with a conversation that ends on the user's turn; or None."""
        return (
            asked_problem(self, message) if self.kind == "chat" and isinstance(message, list) else self.text_problem(message)
        )

    def text_problem(self, message: Any) -> str | None:
        """What is wrong with a text that the model reads, or None."""
        if not isinstance(message, str) or not message.strip():
            return "it must be text and not empty"
        if HALF_CHARACTER.search(message):
            return "it holds half of a character (a lone surrogate); save the text again as UTF-8"
        if len(message) > self.max_message_characters:
            return f"it has {len(message):,} characters, at most {self.max_message_characters:,} are taken; shorten it"
        return None

    def problems(self, row: Any) -> list[str]:
        """Everything wrong with a row, one sentence each ("field ...: reason"); an empty list for a good row."""
        if not isinstance(row, dict):
            return ["the line must be a JSON object"]
        if self.kind == "chat":
            return row_problems(self, row)
        problems = [f"field {key!r}: it is missing" for key in (self.message, self.target) if key not in row]
        if self.message in row and (problem := self.message_problem(row[self.message])):
            problems.append(f"field {self.message!r}: {problem}")
        if self.target in row:
            problems += self.answer_problems(row[self.target])
        return problems

    def answer_problems(self, answer: Any) -> list[str]:
        """Everything wrong with an answer: against the fields for `json`, the labels for `label`, else text."""
        if self.kind == "label":
            good = answer in self.labels
            return [] if good else [f"field {self.target!r}: {answer!r} is not one of {', '.join(self.labels)}"]
        if self.kind in ("text", "chat"):
            good = isinstance(answer, str) and bool(answer.strip())
            return [] if good else [f"field {self.target!r}: it must be text and not empty"]
        if not isinstance(answer, dict):
            return [f"field {self.target!r}: it must be a JSON object"]
        problems = [f"field '{self.target}.{name}': {reason}" for name, reason in self._faults(answer)]
        if not problems and list(answer) != [f.name for f in self.fields]:
            order = ", ".join(f.name for f in self.fields)
            problems.append(f"field {self.target!r}: the keys must stand in the order {order}")
        return problems

    def field_problems(self, answer: dict[str, Any]) -> dict[str, str]:
        """What is wrong with the fields of a `json` task's answer, {field: reason} of the bad ones."""
        reasons: dict[str, str] = {}
        for name, reason in self._faults(answer):
            reasons.setdefault(name, reason)
        return reasons

    def _faults(self, answer: dict[str, Any]) -> list[tuple[str, str]]:
        """(field, reason) of everything wrong in an object: missing and unknown fields, bad values, names not sorted."""
        by_name = {f.name: f for f in self.fields}
        faults = [(name, "it is missing") for name in by_name if name not in answer]
        faults += [(name, "the task has no such field") for name in answer if name not in by_name]
        for f in self.fields:
            if f.name in answer and not f.fits(answer[f.name]):
                faults.append((f.name, f"{json.dumps(answer[f.name], ensure_ascii=False)} is not {f.allowed()}"))
            names = answer.get(f.name) if f.type == "set" else None
            if isinstance(names, list) and all(isinstance(v, str) for v in names) and names != sorted(names):
                faults.append((f.name, "the names must be sorted"))
        return list(dict.fromkeys(faults))


def find_task(name: str | Path = "desk") -> Path:
    """Folder of a task: a path, or the name of one of the kit's. Raises `KitError` listing the kit's tasks."""
    shipped = kit_root() / "data" / str(name)
    folder = next((p for p in (expanded(name), shipped) if (p / "task.toml").is_file()), None)
    if folder is None:
        known = ", ".join(sorted(p.parent.name for p in (kit_root() / "data").glob("*/task.toml")))
        raise KitError(
            f"{name} is not a task: a task is a folder with task.toml, {', '.join(f'{s}.jsonl' for s in SPLITS)}. "
            f"The kit's own: {known}."
        )
    return folder


def load_task(name: str | Path = "desk", to_clean: bool = False) -> Task:
    """Read a task's description. Raises `KitError` naming the file and what is wrong in it, but for what cleaning mends."""
    from ftkit.data.description import read_description  # pydantic takes a tenth of a second

    return read_description(find_task(name), to_clean)
