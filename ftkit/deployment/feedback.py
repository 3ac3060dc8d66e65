"""Feedback: what people say about the demo's answers, kept as JSON lines, and made into training rows (lesson 05)."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import dump, json_lines, new_folder, read_text, write_jsonl
from ftkit.common.paths import expanded
from ftkit.data.check import gate
from ftkit.data.conversation.repair import house_contacts, without_contacts
from ftkit.data.conversation.similar import repeats
from ftkit.data.faults import find_personal_data
from ftkit.data.prompt import Message
from ftkit.data.task import SPLITS, Row, Task, load_task
from ftkit.runs.run import Run

RIGHT, CORRECTED = "right", "corrected"
FILE_BYTES = 1_000_000  # a file is put away at this size
FILES = 20  # and with so many put away no more is kept


@dataclass(frozen=True)
class FeedbackFile:
    """The feedback on a run: `feedback.jsonl` in a folder, its older parts as `feedback-001.jsonl` and so on.

    Safe for many threads and processes at once. When all files are full, new feedback is refused: nothing old is lost.
    """

    folder: Path
    file_bytes: int = FILE_BYTES
    files: int = FILES

    @classmethod
    def of(cls, run: Run) -> FeedbackFile:
        """The feedback of a run, in its folder."""
        return cls(run.folder / "feedback")

    @property
    def path(self) -> Path:
        """The file that is being written."""
        return self.folder / "feedback.jsonl"

    def keep(self, entry: dict[str, Any]) -> None:
        """Add an entry as one line, whole or not at all. Raises `KitError` when all is full, or nothing can be written."""
        from filelock import FileLock, Timeout

        line = (dump(entry) + "\n").encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=10):
                self._make_room(len(line))
                binary = getattr(os, "O_BINARY", 0)  # Windows would write two bytes for the end of a line
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | binary, 0o600)
                try:
                    size = os.fstat(handle).st_size
                    os.lseek(handle, max(0, size - 1), os.SEEK_SET)
                    torn = size and os.read(handle, 1) != b"\n"  # a killed process may leave half a line
                    written = os.write(handle, b"\n" * bool(torn) + line)
                    if written < len(line) + bool(torn):  # the disk is full
                        os.ftruncate(handle, size)
                        raise OSError(28, "no space left")
                    os.fsync(handle)
                finally:
                    os.close(handle)
        except Timeout:
            raise KitError("The feedback could not be kept: its file is in use. Try again.") from None
        except OSError as error:
            raise KitError(f"The feedback could not be kept: {error.strerror}.") from None

    def _make_room(self, more: int) -> None:
        if not self.path.exists() or self.path.stat().st_size + more <= self.file_bytes:
            return
        for number in range(1, self.files):
            old = self.folder / f"feedback-{number:03}.jsonl"
            if not old.exists():
                self.path.rename(old)
                return
        raise KitError("No more feedback is taken: the room for it is full. Whoever runs this demo can empty it.")


def feedback_entry(run: Run, task: Task, message: Message, answer: str, target: Any, verdict: str) -> dict[str, Any]:
    """What is kept of one feedback: message, the tuned model's answer, the right answer; nothing about who gave it.

    In a `chat` task the message has the turns before the answer.

    Raises `KitError` naming what is wrong if message or target do not fit the task.
    """
    task.check_message(message)
    if verdict not in (RIGHT, CORRECTED):
        raise KitError(f"The verdict is {RIGHT!r} or {CORRECTED!r}.")
    if isinstance(target, str) and len(target) > task.max_message_characters:
        raise KitError(f"The answer has {len(target):,} characters, at most {task.max_message_characters:,} are taken.")
    if problems := task.answer_problems(target):
        reasons = "; ".join(p.replace(f"'{task.target}.", "'") for p in problems)
        raise KitError(f"{'This answer cannot be right' if verdict == RIGHT else 'Please look again'}: {reasons}.")
    return {
        "id": uuid.uuid4().hex[:12],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run.name,
        "task": task.name,
        "verdict": verdict,
        "message": message,
        "answer": answer,
        "target": target,
    }


@dataclass
class FeedbackRows:
    """Training rows made from feedback, and the entries that were refused, each with its reason and place."""

    rows: list[Row] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)


def feedback_files(path: Path) -> list[Path]:
    """The files of feedback at a path: the file itself, or those in a folder or a run. `KitError` if there are none."""
    path = expanded(path)
    if path.is_file():
        return [path]
    files = sorted(path.glob("feedback*.jsonl")) or sorted(path.glob("feedback/feedback*.jsonl"))
    if not files:
        raise KitError(f"{path} is no file of feedback, and no folder or run that holds one.")
    return files


def rows_of_feedback(task: Task, files: Iterable[Path]) -> FeedbackRows:
    """Make training rows of the feedback that may be trained on; every refusal has its reason.

    An entry is refused if it cannot be read, belongs to another task, does not fit it, seems to hold personal data, or if
    its message stands in the validation or test split (equal or nearly so), in the training split, or in an earlier entry.
    A conversation's row ends with the right answer; its earlier answers stand in it as the model gave them. It is refused
    for a long turn that a held-out conversation has, too (see `repeats`).
    """
    added, seen = FeedbackRows(), set()
    own = house_contacts(row[task.message] for row in task.rows("train")) if task.kind == "chat" else ()
    for path in files:
        for number, text, entry, fault in json_lines(read_text(path)):
            where = f"{path.name}, line {number}"
            row, reason = ({}, "not JSON") if fault else _row(task, entry, own)
            if not reason and row["id"] in seen:
                reason = "the same entry stands earlier"
            if reason:
                added.refused.append({"where": where, "reason": reason, "text": text[:2000]})
            else:
                seen.add(row["id"])
                added.rows.append({**row, "_where": where})
    _refuse_known(task, added)
    return added


def _row(task: Task, entry: Any, own: Collection[str]) -> tuple[Row, str]:
    """A training row made of one entry of feedback, or why it cannot be one."""
    if not isinstance(entry, dict) or not {"id", "task", "message", "target"} <= set(entry):
        return {}, "not an entry of feedback: id, task, message or target is missing"
    if entry["task"] != task.name:
        return {}, f"it belongs to the task {entry['task']!r}"
    row, asked = {"id": f"feedback-{entry['id']}", task.message: entry["message"]}, entry["message"]
    if task.kind != "chat":
        row[task.target] = entry["target"]
    elif isinstance(asked, list):
        row[task.message] = [*asked, {"role": "assistant", "content": entry["target"]}]
    if problems := task.problems(row):
        return {}, "; ".join(problems)
    texts = [turn["content"] for turn in row[task.message]] if task.kind == "chat" else [asked]
    if kinds := find_personal_data(without_contacts("\n".join(texts), own)):
        return {}, f"it seems to hold {' and '.join(kinds)}; mask it in the file if you want it"
    return row, ""


def _refuse_known(task: Task, added: FeedbackRows) -> None:
    """Set aside rows whose message stands already in a split or in an earlier row."""
    known = [(split, row) for split in ("test", "validation", "train") for row in task.rows(split)]
    everything = [*known, *(("feedback", row) for row in added.rows)]
    reasons: dict[int, str] = {}
    for pair in repeats(task, [row for _, row in everything]):
        (split, first), (other, second) = everything[pair.first], everything[pair.second]
        held_out = split in ("test", "validation")
        again = pair.equal and not any(pair.turns)  # one turn may well be said in two conversations that are learned
        if other != "feedback" or not (held_out or again) or pair.first - len(known) in reasons:
            continue
        same = "" if held_out or task.answered(first) == task.answered(second) else ", with another answer"
        place = "the feedback" if split == "feedback" else f"the {split} split"
        how = "equals" if pair.equal else "nearly equals"
        how = f"turn {pair.turns[1]} {how} turn {pair.turns[0]} of" if any(pair.turns) else how
        reasons.setdefault(pair.second - len(known), f"{how} {first.get('id', 'a row')} of {place}{same}")
    for i, row in enumerate(added.rows):
        if reason := reasons.get(i):
            added.refused.append({"where": row["_where"], "reason": reason, "text": dump(row)[:2000]})
    added.rows = [
        {key: value for key, value in row.items() if key != "_where"} for i, row in enumerate(added.rows) if i not in reasons
    ]


def add_feedback(task: Task, added: FeedbackRows, to: Path | None = None) -> Path:
    """Write the training split with the new rows: into a new folder `to`, or in the task's own folder, by replacement.

    The result goes through the data gate first. Returns the training file. Raises `KitError` if there is nothing to add,
    the folder is there already, or the gate finds what must not be trained on.
    """
    if not added.rows:
        raise KitError("There is no row to add: nothing was written.")
    rows = [*task.rows("train"), *added.rows]
    if to is None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            _pass_gate(task, rows, Path(folder))
        write_jsonl(task.folder / "train.jsonl", rows)
        return task.folder / "train.jsonl"
    with new_folder(to) as temporary:
        for path in sorted(task.folder.glob("*.md")):
            shutil.copy(path, temporary)
        _pass_gate(task, rows, temporary)
        write_jsonl(temporary / "feedback_refused.jsonl", added.refused)
    return to / "train.jsonl"


def _pass_gate(task: Task, rows: Sequence[Row], folder: Path) -> None:
    """Write the task with these training rows into `folder` and look at it as a training would."""
    for name in ("task.toml", *(f"{split}.jsonl" for split in SPLITS if split != "train")):
        shutil.copy(task.folder / name, folder)
    write_jsonl(folder / "train.jsonl", rows)
    for finding in gate(load_task(folder)):
        raise KitError(f"{finding.thing}: {finding.text} ({finding.cases[0]}). Nothing was written. {finding.fix}")
