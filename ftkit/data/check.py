"""The data check: one line for each way in which a task's rows can spoil a result (lesson 02). Usable as a gate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ftkit.common.errors import Finding
from ftkit.common.profiles import Profile
from ftkit.data.faults import cut_off, foreign, markup, personal, repair_answer, signature, words
from ftkit.data.prompt import example_ids
from ftkit.data.similarity import similar_pairs
from ftkit.data.task import SPLITS, Line, Row, Task, labels_of, read_lines

FOLDS = 5
UNLIKELY = 0.1  # a label's probability, by a model that has not seen the row, below which it is shown


@dataclass(frozen=True)
class Checked:
    """The rows of a task as far as they can be read, and the lines that cannot."""

    task: Task
    rows: dict[str, list[Row]]
    bad: dict[str, list[Line]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, task: Task, train: Path | None = None) -> Checked:
        """Read all splits; `train` is a file to check in the place of `train.jsonl`.

        Raises `KitError` for a file that is missing or not text.
        """
        files = {split: task.folder / f"{split}.jsonl" for split in SPLITS} | ({"train": train} if train else {})
        lines = {split: read_lines(path, task) for split, path in files.items()}
        rows = {split: [line.row for line in found if not line.problems] for split, found in lines.items()}
        return cls(task, rows, {split: [x for x in found if x.problems] for split, found in lines.items()}, files)

    def problems(self) -> list[str]:
        """A sentence for every fault of the lines that cannot be used, and for every empty file."""
        found = [said for split in SPLITS for line in self.bad[split] for said in line.said(self.files[split])]
        return found + [f"{self.files[s]} is empty" for s in SPLITS if not self.rows[s] and not self.bad[s]]

    def named(self) -> list[tuple[str, str, str]]:
        """(split, name of the row, message) of every good row."""
        message = self.task.message
        return [(s, str(r.get("id", f"row {n}")), r[message]) for s in SPLITS for n, r in enumerate(self.rows[s], 1)]

    def labels(self) -> tuple[str, dict[str, list[str]]] | None:
        """The first closed field and its values in each split; None if the task has none."""
        found = {split: labels_of(self.task, self.rows[split]) for split in SPLITS}
        name = next(iter(found["train"]), None)
        return name and (name, {split: closed[name] for split, closed in found.items()})


def gate(task: Task, checked: Checked | None = None) -> Iterator[Finding]:
    """The findings that must not be trained on: rows that do not fit the task, and messages that stand in two splits.

    `checked` are the task's rows where they have been read already.
    """
    return (finding for finding in check_task(task, thorough=False, checked=checked) if finding.gate and not finding.ok)


def check_task(
    task: Task,
    thorough: bool = True,
    profile: Profile | None = None,
    train: Path | None = None,
    checked: Checked | None = None,
) -> Iterator[Finding]:
    """Check a task's data, one finding at a time; the cheap checks come first.

    `Finding.gate` marks what must stop a training; the other findings are for people to judge. `thorough` adds what takes
    some seconds: language, suspicious labels, a simple model's score, and the lengths in tokens if a `profile` says by
    which model. `train` is a file to check in the place of `train.jsonl`.
    """
    checked = checked or Checked.of(task, train)
    yield _validity(checked)
    yield from _spelling(checked)
    yield from _balance(checked)
    yield from _similarity(checked)
    named = checked.named()
    yield _shown("markup", named, _markup, "no HTML, no mail signatures", "hold HTML or a mail signature", "remove them")
    yield _shown(
        "personal data", named, _personal, "no e-mail address, phone or card number", "seem to hold some", "mask them"
    )
    yield _cut_off(checked)
    yield from _vocabulary(checked)
    if thorough:
        yield _language(checked)
        yield from _suspicious_labels(checked)
        yield from _simple_model(checked)
        if profile:
            yield _lengths(checked, profile)


def _validity(checked: Checked) -> Finding:
    counts = ", ".join(f"{len(checked.rows[split]):,} {split}" for split in SPLITS)
    problems = checked.problems()
    numbers = {split: len(checked.rows[split]) for split in SPLITS}
    if not problems:
        return Finding("rows", True, f"{counts}; all fit the task", numbers=numbers)
    bad = sum(len(lines) for lines in checked.bad.values())
    found = f"{counts}; {bad:,} row(s) more do not fit the task"
    kinds = Counter(
        re.sub(r": .*? is not ", ": is not ", re.sub(r"\(.*\)", "", p)).strip()
        for lines in checked.bad.values()
        for line in lines
        for p in line.problems
    )
    cases = (*(f"{count} x {kind}" for kind, count in kinds.most_common(6)), *problems)
    fix = "Mend or remove these rows. ftkit task clean mends the safe ones and sets the others aside."
    return Finding("rows", False, found, fix, cases, gate=True, numbers=numbers)


def _spelling(checked: Checked) -> Iterator[Finding]:
    """Rows that fit the task once their answer is spelled like the others."""
    task, cases = checked.task, []
    for split, lines in checked.bad.items():
        for line in lines:
            if not isinstance(line.row, dict) or task.target not in line.row:
                continue
            mended, done = repair_answer(task, line.row[task.target])
            if done and not task.answer_problems(mended):
                cases.append(f"{line.row.get('id', f'{split}, line {line.number}')}: {'; '.join(done)}")
    if cases:
        yield Finding(
            "spelling", False, f"{len(cases)} answer(s) are only spelled wrongly", "ftkit task clean", tuple(cases)
        )


def _balance(checked: Checked) -> Iterator[Finding]:
    """How often each value of a closed field occurs, the rarest and the most frequent named."""
    task = checked.task
    closed = [f.name for f in task.fields if f.type == "choice"] if task.kind == "json" else []
    columns = {name: {s: [row[task.target][name] for row in checked.rows[s]] for s in SPLITS} for name in closed}
    if task.kind == "label":
        columns = {task.target: {s: [row[task.target] for row in checked.rows[s]] for s in SPLITS}}
    for name, values in columns.items():
        numbers = {split: dict(Counter(map(str, values[split])).most_common()) for split in SPLITS}
        counts = Counter(map(str, values["train"])).most_common()
        if counts:
            (most, high), (least, low) = counts[0], counts[-1]
            found = f"{name}: {len(counts)} values, from {low} ({least}) to {high} ({most}) training rows"
            yield Finding("balance", True, found, numbers={"field": name, "counts": numbers})


def _similarity(checked: Checked) -> Iterator[Finding]:
    named = checked.named()
    pairs = similar_pairs([message for _, _, message in named])
    for thing, across in (("duplicates", False), ("leakage", True)):
        mine = [p for p in pairs if (named[p.first][0] != named[p.second][0]) == across]
        cases = tuple(
            f"{named[p.first][1]} {'=' if p.equal else '~'} {named[p.second][1]}: {_start(named[p.second][2])}" for p in mine
        )
        where = "two splits" if across else "a split twice"
        equal = sum(p.equal for p in mine)
        if not mine:
            yield Finding(thing, True, f"no message stands in {where}, none nearly so")
        elif across:
            fix = "Remove them from training: a test of what was trained on measures memory."
            found = f"{equal} equal and {len(mine) - equal} nearly equal pairs across splits"
            yield Finding(thing, False, found, fix, cases, gate=True)
        else:
            found = f"{equal} equal and {len(mine) - equal} nearly equal pairs within a split"
            yield Finding(thing, False, found, "Keep one of each: what stands twice counts twice.", cases)


def _start(message: str, length: int = 60) -> str:
    text = " ".join(message.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _shown(thing: str, named: list, look: Any, well: str, ill: str, do: str) -> Finding:
    """A finding over single messages: `look` says what is wrong with one, in words, or nothing."""
    cases = tuple(f"{name}: {what} in {_start(message)!r}" for _, name, message in named if (what := look(message)))
    if not cases:
        return Finding(thing, True, well)
    fix = f"Look at them and {do}, unless they belong there: ftkit task clean."
    return Finding(thing, False, f"{len(cases)} message(s) {ill}", fix, cases)


def _markup(message: str) -> str:
    return " and ".join(["HTML"] * markup(message) + ["signature or quoted mail"] * signature(message))


def _personal(message: str) -> str:
    return " and ".join(personal(message))


def _cut_off(checked: Checked) -> Finding:
    named = checked.named()
    found = cut_off([message for _, _, message in named])
    if not found:
        return Finding("cut off", True, "no message seems to end in the middle")
    cases = tuple(f"{named[i][1]}: … {named[i][2][-50:]!r}" for i in found)
    fix = "Read them: some will be whole, and others with a clean end are not seen."
    return Finding("cut off", False, f"{len(cases)} message(s) may end in the middle", fix, cases)


def _vocabulary(checked: Checked) -> Iterator[Finding]:
    """How varied the training messages are: bigrams and openings (first three words) that are not repeated."""
    bigrams, openings = Counter(), Counter()
    for row in checked.rows["train"]:
        own = words(row[checked.task.message])
        bigrams.update(pairwise(own))
        openings[tuple(own[:3])] += 1
    if not bigrams:
        return
    distinct, opened = len(bigrams) / bigrams.total(), len(openings) / openings.total()
    (most, times) = openings.most_common(1)[0]
    found = f"{distinct:.0%} of the word pairs are distinct, {opened:.0%} of the openings"
    case = f"most frequent opening, {times} times: {' '.join(most)!r}"
    fix = "Messages made from templates teach the templates; collect or write more varied ones."
    yield Finding("variety", opened >= 0.5 or len(openings) < 20, found, fix, (case,))


def _language(checked: Checked) -> Finding:
    named = checked.named()
    cases = tuple(
        f"{named[i][1]}: {code}, {_start(named[i][2])!r}" for i, code in foreign([message for _, _, message in named])
    )
    if not cases:
        return Finding("language", True, "all messages are in one language")
    return Finding("language", False, f"{len(cases)} message(s) in another language", "Are they wanted?", cases)


def _suspicious_labels(checked: Checked) -> Iterator[Finding]:
    """Labels of the first closed field that a simple model, which has not seen the row, finds very unlikely."""
    found = checked.labels()
    if not found:
        return
    name, labels = found
    known = Counter(labels["train"])
    if len(known) < 2 or min(known.values()) < FOLDS:
        return
    rows = checked.rows["train"]
    suspects = suspicious([row[checked.task.message] for row in rows], labels["train"])
    cases = tuple(
        f"{rows[i].get('id', f'row {i + 1}')}: {labels['train'][i]}, looks like {other} ({share:.0%} for the label): "
        f"{_start(rows[i][checked.task.message])!r}"
        for i, other, share in suspects
        if share < UNLIKELY
    )
    said = f"{len(cases)} of {len(rows):,} labels of {name!r} look unlikely to a simple model"
    yield Finding("labels", not cases, said, "Read them, the first ones first; many will be right after all.", cases)


def simple_model() -> Any:
    """TF-IDF over words and characters with logistic regression: scikit-learn's honest baseline for short texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    of_words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    of_characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=2)
    return make_pipeline(make_union(of_words, of_characters), LogisticRegression(C=10, max_iter=500))


def suspicious(messages: list[str], labels: list[str]) -> list[tuple[int, str, float]]:
    """Rows that a simple model would label otherwise: (index, its label, the given label's probability), least likely first.

    Each row is judged by a `simple_model` that was trained on the other folds. Ranking by self-confidence: confident
    learning, arXiv 1911.00068, section 3.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=17)
    probability = cross_val_predict(simple_model(), messages, labels, cv=folds, method="predict_proba")  # [rows, classes]
    classes, own = np.unique(labels, return_inverse=True)
    of_label = probability[np.arange(len(labels)), own]
    likeliest = probability.argmax(axis=1)
    order = [i for i in np.argsort(of_label) if likeliest[i] != own[i]]
    return [(int(i), str(classes[likeliest[i]]), float(of_label[i])) for i in order]


def _simple_model(checked: Checked) -> Iterator[Finding]:
    """What a simple model makes of the first closed field, trained on one split and scored on the test split."""
    found = checked.labels()
    if not found or len(set(found[1]["train"])) < 2 or not found[1]["test"]:
        return
    name, labels = found
    texts = {split: [row[checked.task.message] for row in checked.rows[split]] for split in SPLITS}
    guessed = simple_model().fit(texts["train"], labels["train"]).predict(texts["test"]).tolist()
    right = sum(a == b for a, b in zip(guessed, labels["test"], strict=True)) / len(guessed)
    wrong = Counter(tuple(sorted(pair)) for pair in zip(labels["test"], guessed, strict=True) if pair[0] != pair[1])
    cases = tuple(f"{a} and {b} taken for each other: {n}" for (a, b), n in wrong.most_common())
    said = f"{name}: TF-IDF with logistic regression gets {right:.1%} of {len(guessed)} test rows"
    yield Finding(
        "simple model", True, said, cases=cases, numbers={"gold": labels["test"], "guessed": guessed, "field": name}
    )


def _lengths(checked: Checked, profile: Profile) -> Finding:
    """Tokens of prompt and completion under the profile's tokenizer, and how many rows are longer than it takes."""
    from ftkit.models.load import load_tokenizer

    tokenizer = load_tokenizer(profile.model)
    rows = [(split, row) for split in SPLITS for row in checked.rows[split]]
    lengths = [len(example_ids(tokenizer, checked.task, row)) for _, row in rows]
    over = tuple(
        f"{split}, {row.get('id', '?')}: {n} tokens"
        for (split, row), n in zip(rows, lengths, strict=True)
        if n > profile.max_length
    )
    ordered = sorted(lengths) or [0]
    found = (
        f"{ordered[len(ordered) // 2]} tokens in the middle, {ordered[-1]} at most; {len(over)} over {profile.max_length}"
    )
    fix = f"They would be refused: shorten them, or raise max_length of profile {profile.name}."
    return Finding("lengths", not over, found, fix, over, numbers={"tokens": lengths, "limit": profile.max_length})
