"""Clean a task: safe repairs, row by row, each written down; the original is never touched (lesson 02)."""

from __future__ import annotations

import difflib
import re
import shutil
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import dump, new_folder, write_jsonl
from ftkit.common.profiles import Profile
from ftkit.data.conversation.repair import changed_turns, house_contacts, repair_turns
from ftkit.data.conversation.rows import at_turn, exchanges
from ftkit.data.conversation.similar import repeats
from ftkit.data.faults import REPAIRS, mask_personal_data, personal_values, repair_answer, repair_text
from ftkit.data.formats.own import Line, read_lines
from ftkit.data.task import SPLITS, Row, Task
from ftkit.data.values import Merges, find_merges, merge_answer, merge_task

STEPS = {  # what `without` may name: the repairs of a message, and these
    **{name: what for name, (what, _) in REPAIRS.items()},
    "spelling": "mended the spelling of values and keys, spaces around them, and the order of keys",
    "copies": "set aside a message that stands twice in a split with the same answer",
    "contradictions": "set aside a message that stands in a split with two answers",
    "leaks": "set aside a message that stands in a held-out split too",
}

CLEANING = "cleaning.jsonl"  # what was done to each row, beside the cleaned splits


@dataclass
class CleanSplit:
    """A split after cleaning: its rows, the rows set aside with the reason, and what was done to each row.

    `lines` counts the rows that came in: as many as `rows` and `rejected` have together.
    """

    rows: list[Row] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    lines: int = 0
    sources: list[Line] = field(default_factory=list, repr=False)  # the line that each of `rows` comes from


@dataclass
class Cleaned(dict[str, CleanSplit]):
    """A cleaned task, {split: its rows and what was done}: `task` is its description, `remarks` what changed in it."""

    task: Task
    remarks: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)  # the house's own contacts, and in how many conversations they stand


def clean_task(
    task: Task,
    train: Path | None = None,
    without: Collection[str] = (),
    merge: Mapping[str, str] | None = None,
    merge_spelling: bool = False,
    too_long: Callable[[Task, Row], str | None] | None = None,
) -> Cleaned:
    """Apply the safe repairs to every split: {split: its clean rows and what was done}. Nothing is written.

    Mended: HTML, mail signatures and quoted mail, personal data (masked in message and answer alike), invisible characters,
    the spelling of closed values and keys, the order of keys and lists. Set aside, with the reason: rows that still do not
    fit the task, a message that stands twice (the first stays), a message that stands with two answers (none stays), and
    one that equals or nearly equals one of the test or validation split. Left for people: near-duplicates within a split,
    unlikely labels, other languages, messages that end in the middle.

    `train` is a file to take in the place of `train.jsonl`. `without` names steps of `STEPS` to leave out. `merge` says
    which value becomes which; `merge_spelling` merges all that differ only in spelling. `too_long` says why a row is too
    long for a model, or None. Raises `KitError` for a file that is missing or not text, an unknown step or value.
    """
    if unknown := sorted(set(without) - set(STEPS)):
        raise KitError(f"There is no repair {', '.join(map(repr, unknown))} to leave out: {', '.join(STEPS)}.")
    lines = {
        split: read_lines(train if train and split == "train" else task.folder / f"{split}.jsonl", task) for split in SPLITS
    }
    merges: Merges = {}
    if merge or merge_spelling or "spelling" not in without:
        rows = [line.row for line in lines["train"] if isinstance(line.row, dict)]
        merges = find_merges(task, rows, merge or {}, merge_spelling)
    new_task, remarks = merge_task(task, merges)
    every = [line.row for split in SPLITS for line in lines[split] if isinstance(line.row, dict)]
    own = house_contacts(row.get(task.message) for row in every) if task.kind == "chat" else {}
    cleaned = Cleaned(new_task, remarks, own)
    for split in SPLITS:
        cleaned[split] = _mend(new_task, lines[split], merges, without, too_long, own)
    _set_copies_aside(new_task, cleaned, without)
    return cleaned


def _mend(
    task: Task,
    lines: list[Line],
    merges: Merges,
    without: Collection[str],
    too_long: Callable[[Task, Row], str | None] | None,
    own: Collection[str],
) -> CleanSplit:
    """Repair each row as far as that is safe, and set aside those that do not fit the task afterwards."""
    result = CleanSplit(lines=len(lines))
    for line in lines:
        row, done, problems = line.row, list[str](), list[str]()
        if isinstance(row, dict):
            row = dict(row)
            if task.kind == "chat":
                row[task.message], done = repair_turns(row.get(task.message), without, own)
            elif task.target in row:
                row[task.target], done = merge_answer(task, row[task.target], merges)
                if "spelling" not in without:
                    row[task.target], also = repair_answer(task, row[task.target])
                    done = done + also
            if task.kind != "chat" and isinstance(row.get(task.message), str):
                also, problems = _repair_message(task, row, without)
                done = also + done
        problems = problems + task.problems(row) if row is not None else list(line.problems)
        if not problems and too_long and (reason := too_long(task, row)):
            problems = [reason]
        if problems:
            result.rejected.append(_aside(line, "; ".join(problems)))
            continue
        if done:
            changed = _changed(task, line.row, row)
            before, after = ({key: pair[n] for key, pair in changed.items()} for n in (0, 1))
            result.log.append({**_where(line), "done": done, "before": before, "after": after})
        result.rows.append(row)
        result.sources.append(line)
    return result


def _changed(task: Task, before: Row, after: Row) -> dict[str, tuple[Any, Any]]:
    """{what: (before, after)} of the parts of a row that a repair changed: message and target, or turns."""
    if task.kind == "chat":
        return dict(changed_turns(before[task.message], after[task.message]))
    return {key: (before[key], after[key]) for key in (task.message, task.target) if before[key] != after[key]}


def _where(line: Line) -> dict[str, Any]:
    return {"line": line.number, "id": line.row.get("id") if isinstance(line.row, dict) else None}


def _aside(line: Line, reason: str) -> dict[str, Any]:
    return {**_where(line), "reason": reason, "text": line.text}


def token_limit(profile: Profile) -> Callable[[Task, Row], str | None]:
    """For `too_long`: says when a training example has more tokens than a profile takes, under its model's tokenizer."""
    from ftkit.data.prompt import example_ids
    from ftkit.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(profile.model)

    def too_long(task: Task, row: Row) -> str | None:
        n = len(example_ids(tokenizer, task, exchanges(task, [row])[0] if task.too_long == "cut" else row))
        text = f"it has {n:,} tokens as an example, profile {profile.name} takes {profile.max_length:,}"
        return text if n > profile.max_length else None

    return too_long


# --- message and answer together ---


def _repair_message(task: Task, row: Row, without: Collection[str]) -> tuple[list[str], list[str]]:
    """Repair a row's message: (what was done, problems). What the answer quotes is never taken out of the message alone.

    Personal data gets the same mask on both sides. Another repair is left out where the answer quotes what it would remove.
    """
    done, message = list[str](), row[task.message]
    for name in REPAIRS:
        others = {*without, *REPAIRS} - {name} | ({name} & set(without))
        mended, also = repair_text(message, others)
        if name == "personal-data" and name not in without:
            answer, masked = _mask_answer(task, row.get(task.target), personal_values(message))
            if lost := _quoted(task, answer, message, mended):
                return done, [f"personal data: the answer keeps {', '.join(lost)}, which a mask takes out of the message"]
            if masked and task.answer_problems(answer) and not task.answer_problems(row[task.target]):
                return done, [f"personal data: {'; '.join(masked)}, but the answer's form takes no mask"]
            if masked:
                row[task.target], also = answer, also + masked
        elif mended != message and (lost := _quoted(task, row.get(task.target), message, mended)):
            done.append(f"left as it was ({also[0].split(':')[0]}): the answer quotes {', '.join(lost)}")
            continue
        message, done = mended, done + also
    row[task.message] = message
    return done, []


def _free_values(task: Task, answer: Any) -> dict[str, Any]:
    """{field: value} of the parts of an answer that a message can say in its own words: texts and numbers."""
    if task.kind == "text":
        return {task.target: answer}
    if task.kind == "json" and isinstance(answer, dict):
        return {f.name: answer.get(f.name) for f in task.fields if f.type in ("string", "pattern", "integer", "number")}
    return {}


def _mask_answer(task: Task, answer: Any, personal: Mapping[str, str]) -> tuple[Any, list[str]]:
    """The answer with the personal data masked that it holds, or that its message holds: (answer, what was done)."""
    masked, done = answer, list[str]()
    by_digits = {_digits(value): mask for value, mask in personal.items() if len(_digits(value)) >= 7}
    for name, value in _free_values(task, answer).items():
        if not isinstance(value, str):
            continue
        new = mask_personal_data(value)
        for said, mask in personal.items():
            new = re.sub(re.escape(said), mask, new, flags=re.IGNORECASE)
        if len(digits := _digits(new)) >= 7 and re.fullmatch(r"[\d\s()+./-]+", new):
            new = next((mask for whole, mask in by_digits.items() if whole.endswith(digits) or digits.endswith(whole)), new)
        if new != value:
            masked = new if task.kind == "text" else {**masked, name: new}
            done.append(f"masked personal data of the answer: {name}")
    return masked, done


def _quoted(task: Task, answer: Any, before: str, after: str) -> list[str]:
    """The values of an answer that stood in the message before a repair and do not stand there after it."""
    if before == after:
        return []
    lost = []
    for name, value in _free_values(task, answer).items():
        text = str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
        if len(text) < 3:
            continue
        said = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
        digits = _digits(text)
        number = isinstance(value, int) and len(digits) >= 7 and digits in _digits(before) and digits not in _digits(after)
        if number or (said.search(before) and not said.search(after)):
            lost.append(f"{name} {value!r}")
    return lost


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


# --- rows beside each other ---


def _set_copies_aside(task: Task, cleaned: Cleaned, without: Collection[str]) -> None:
    """Set aside what stands twice in a split, with the same answer or with two, and what stands in a held-out split too."""
    named = [(split, i) for split in ("test", "validation", "train") for i in range(len(cleaned[split].rows))]
    rows = [cleaned[split].rows[i] for split, i in named]
    names = [str(row.get("id") or f"row {i + 1}") for (_, i), row in zip(named, rows, strict=True)]
    reasons: dict[int, str] = {}
    equal: dict[tuple[int, str], list[int]] = {}  # {(the first of equal messages, split): its rows}
    for pair in repeats(task, rows):
        (first, _), (second, _) = named[pair.first], named[pair.second]
        if pair.equal and (task.kind != "chat" or rows[pair.first][task.message] == rows[pair.second][task.message]):
            equal.setdefault((pair.first, first), [pair.first])
            equal.setdefault((pair.first, second), []).append(pair.second)
        if first != second and "leaks" not in without:
            same = task.kind == "chat" or rows[pair.first][task.target] == rows[pair.second][task.target]
            other = "" if same or not pair.equal else ", with another answer: somebody must settle which is right"
            what = f"turn {pair.turns[1]} " if any(pair.turns) else ""
            what += f"{'equals' if pair.equal else 'nearly equals'} {at_turn(names[pair.first], pair.turns[0])}"
            reasons.setdefault(pair.second, f"{what} of the {first} split{other}")
    for members in equal.values():
        answers = {dump(rows[n][task.message if task.kind == "chat" else task.target]) for n in members}
        if len(answers) > 1 and "contradictions" not in without:
            for n in members:
                others = ", ".join(names[m] for m in members if rows[m][task.target] != rows[n][task.target])
                reasons.setdefault(
                    n, f"contradiction: equals {others}, with another answer; somebody must settle which is right"
                )
        elif len(answers) == 1 and "copies" not in without:
            for n in members[1:]:
                reasons.setdefault(n, f"stands twice: equals {names[members[0]]}")
    for split in SPLITS:
        _set_aside(cleaned[split], {i: reasons[n] for n, (of, i) in enumerate(named) if of == split and n in reasons})


def _set_aside(part: CleanSplit, reasons: Mapping[int, str]) -> None:
    part.rejected += [_aside(part.sources[i], reason) for i, reason in sorted(reasons.items())]
    part.rows = [row for i, row in enumerate(part.rows) if i not in reasons]
    part.sources = [line for i, line in enumerate(part.sources) if i not in reasons]


def write_cleaned(task: Task, cleaned: Mapping[str, CleanSplit], folder: Path) -> None:
    """Write the cleaned task to a new folder: description, splits, `rejected.jsonl`, `cleaning.jsonl`.

    Raises `KitError` if the folder is there already, or a split has no row left.
    """
    if empty := [split for split in SPLITS if not cleaned[split].rows]:
        raise KitError(f"No row of {', '.join(empty)} is left after cleaning; see: ftkit task check {task.folder}")
    with new_folder(folder) as temporary:
        for path in sorted(task.folder.iterdir()):
            if path.is_file() and path.suffix in (".toml", ".md"):
                shutil.copy(path, temporary)
        if isinstance(cleaned, Cleaned) and cleaned.remarks:
            _rewrite_description(temporary / "task.toml", cleaned.task)
        for split in SPLITS:
            write_jsonl(temporary / f"{split}.jsonl", cleaned[split].rows)
        for name in ("rejected", "log"):
            rows = [{"split": split, **entry} for split in SPLITS for entry in getattr(cleaned[split], name)]
            write_jsonl(temporary / (CLEANING if name == "log" else f"{name}.jsonl"), rows)


def _rewrite_description(path: Path, task: Task) -> None:
    """Write merged values and the system prompt into `task.toml`; all else in it stays, comments too."""
    import tomlkit

    table = tomlkit.parse(path.read_text(encoding="utf-8"))
    table["system_prompt"] = task.system_prompt
    if task.kind == "label":
        table["labels"] = list(task.labels)
    for entry, f in zip(table.get("fields", []), task.fields, strict=True):
        if f.values:
            entry["values"] = list(f.values)
    path.write_text(tomlkit.dumps(table), encoding="utf-8", newline="\n")


# --- what was changed, to read ---


def short_diff(before: Any, after: Any, around: int = 24) -> list[str]:
    """The places where two values differ, each as a line "- ..." and a line "+ ...", with some characters around."""
    texts = [value if isinstance(value, str) else dump(value) for value in (before, after)]
    one, other = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in texts)
    changes: list[list[int]] = []  # [from, to] in the one, [from, to] in the other; near ones are shown together
    for what, a, b, c, d in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if what != "equal" and changes and len("".join(one[changes[-1][1] : a])) < around:
            changes[-1][1], changes[-1][3] = b, d
        elif what != "equal":
            changes.append([a, b, c, d])
    lines = []
    for a, b, c, d in changes:
        for sign, words, begin, end in (("-", one, a, b), ("+", other, c, d)):
            left, right = "".join(words[:begin]), "".join(words[end:])
            dots = ("…" * (len(left) > around), "…" * (len(right) > around))
            changed = "".join(words[begin:end])
            lines.append(_visible(f"{sign} {dots[0]}{left[-around:]}{changed}{right[:around]}{dots[1]}"))
    return lines


def _visible(text: str) -> str:
    """Line ends, control and invisible characters as escapes, so that a change of one can be seen."""
    seen = (c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode() for c in text)
    return "".join(seen)
