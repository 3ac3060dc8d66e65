"""The data check: one line for each way in which a task's rows can spoil a result (lesson 02). Usable as a gate."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

from ftkit.common.errors import Finding, KitError
from ftkit.common.files import dump
from ftkit.common.profiles import Profile
from ftkit.common.threads import alone_in_blas
from ftkit.data.conversation.check import check_conversations
from ftkit.data.conversation.repair import house_contacts, without_contacts
from ftkit.data.conversation.rows import at_turn, said
from ftkit.data.conversation.similar import repeats
from ftkit.data.conversation.turns import CUT, require_turns
from ftkit.data.faults import find_cut_off, find_foreign, find_markup, find_personal_data, repair_answer, split_words
from ftkit.data.formats.own import Line, read_lines
from ftkit.data.kept import check_kept
from ftkit.data.prompt import completion_text, example_ids
from ftkit.data.task import SPLITS, Row, Task
from ftkit.data.values import alike, closed_values, find_missing, labels_of, values_of

FOLDS = 5
MANY, FOLDS_OF_MANY = 10_000, 3  # rows from which the simple model is fitted faster, and less often
DISAGREE = 0.3  # share of examples that only one of two models gets right; 33 % at 75 and 85 % right with unrelated mistakes
DIFFERENCE = 0.1  # between two models, that a test split should be able to show
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
        rows = {split: [line.row for line in some if not line.problems] for split, some in lines.items()}
        return cls(task, rows, {split: [line for line in some if line.problems] for split, some in lines.items()}, files)

    def problems(self) -> list[str]:
        """A sentence for every fault of the lines that cannot be used, and for every empty file."""
        faults = [text for split in SPLITS for line in self.bad[split] for text in line.sentences(self.files[split])]
        return faults + [f"{self.files[s]} is empty" for s in SPLITS if not self.rows[s] and not self.bad[s]]

    def messages(self) -> list[tuple[str, str, str]]:
        """(split, name of the row, message) of every good row; of a conversation every turn of the user, named with it."""
        named = zip(self.names(), self.every(), strict=True)
        return [(s, at_turn(name, turn), text) for (s, name), row in named for turn, text, _ in said(self.task, row)]

    def answers(self) -> list[Any]:
        """The answer to each of `messages`."""
        return [answer for row in self.every() for _, _, answer in said(self.task, row)]

    def names(self) -> list[tuple[str, str]]:
        """(split, name) of every good row: its id, or its number."""
        return [(s, str(r.get("id", f"row {n}"))) for s in SPLITS for n, r in enumerate(self.rows[s], 1)]

    def every(self) -> list[Row]:
        """All good rows, split by split."""
        return [row for split in SPLITS for row in self.rows[split]]

    def labels(self) -> tuple[str, dict[str, list[str]]] | None:
        """The first closed field and its values in each split; None if the task has none."""
        values = {split: labels_of(self.task, self.rows[split]) for split in SPLITS}
        name = next(iter(values["train"]), None)
        return (name, {split: closed[name] for split, closed in values.items()}) if name else None


def gate(task: Task, checked: Checked | None = None) -> Iterator[Finding]:
    """The findings that must stop a training: rows that do not fit the task, and messages that stand in two splits.

    `checked` are the task's rows where they have been read already.
    """
    checked = checked or Checked.of(task)
    findings = itertools.chain([_check_rows(checked)], check_similarity(checked))
    return (finding for finding in findings if finding.gate and not finding.ok)


def check_task(
    task: Task,
    thorough: bool = True,
    profile: Profile | Callable[[], Profile] | None = None,
    train: Path | None = None,
    checked: Checked | None = None,
) -> Iterator[Finding]:
    """Check a task's data, one finding at a time; the cheap checks come first.

    `Finding.gate` marks what must stop a training; the other findings are for people to judge. `thorough` adds what takes
    some seconds: language, suspicious labels, a simple model's score, and the lengths in tokens if a `profile` says by
    which model; a function that chooses one is called then, since looking for a GPU takes a second. `train` is a file to
    check in the place of `train.jsonl`.
    """
    checked = checked or Checked.of(task, train)
    yield _check_rows(checked)
    yield from _check_spelling(checked)
    yield from _count_values(checked)
    yield from _check_values(checked)
    yield from _check_rare(checked)
    yield from _check_size(checked)
    yield from check_similarity(checked)
    yield from check_conversations(task, checked.names(), checked.every())
    yield from check_kept(task, [row for split in SPLITS for row in checked.rows[split]])
    named = checked.messages()
    yield _check_messages("markup", named, find_markup, "no HTML, no mail signatures", "hold HTML or a mail signature")
    yield _check_personal_data(checked)
    yield _check_ends(checked)
    yield from _check_variety(checked)
    chosen = (profile() if callable(profile) else profile) if thorough else None
    yield from _check_special_tokens(checked, chosen)
    if thorough:
        yield _check_language(checked)
        yield from _check_labels(checked)
        yield from _score_simple_model(checked)
    if chosen:
        yield _check_lengths(checked, chosen)


def _check_rows(checked: Checked) -> Finding:
    numbers = {split: len(checked.rows[split]) for split in SPLITS}
    counts = ", ".join(f"{n:,} {split}" for split, n in numbers.items())
    problems = checked.problems()
    if not problems:
        return Finding("rows", True, f"{counts}; all fit the task", numbers=numbers)
    bad = [line for lines in checked.bad.values() for line in lines]
    kinds = Counter(
        re.sub(r": .*? is not ", ": is not ", re.sub(r"\(.*\)", "", p)).strip() for line in bad for p in line.problems
    )
    cases = (*(f"{count} x {kind}" for kind, count in kinds.most_common(6)), *problems)
    fix = "Mend or remove these rows. ftkit task clean mends the safe ones and sets the others aside."
    text = f"{counts}; {len(bad):,} row(s) more do not fit the task"
    return Finding("rows", False, text, fix, cases, gate=True, numbers=numbers)


def _check_spelling(checked: Checked) -> Iterator[Finding]:
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


def _count_values(checked: Checked) -> Iterator[Finding]:
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
            text = f"{name}: {len(counts)} values, from {low} ({least}) to {high} ({most}) training rows"
            yield Finding("balance", True, text, numbers={"field": name, "counts": numbers})


def _check_values(checked: Checked) -> Iterator[Finding]:
    """Values that differ only in spelling, or look like missing ones."""
    task = checked.task
    rows = [row for split in SPLITS for row in checked.rows[split]]
    closed = closed_values(task)
    for name, listed in closed.items():
        if merges := alike(listed, Counter(map(str, values_of(task, name, rows))), spelling=True):
            cases = tuple(f"{old!r} and {new!r}" for old, new in merges.items())
            text = f"{name}: {len(cases)} value(s) differ from another only in spelling"
            fix = "Make them one: ftkit task clean --merge-spelling, or --merge OLD=NEW."
            yield Finding("spelling", False, text, fix, cases, gate=any(old != old.strip() for old in merges))
    texts = [task.target] if task.kind == "text" else [f.name for f in task.fields if f.type == "string"]
    for name in (*closed, *texts):
        if missing := find_missing(values_of(task, name, rows)):
            text = f"{name}: {sum(missing.values()):,} value(s) look like missing ones"
            fix = "Remove these rows if nobody knew the answer; keep them if it is an answer of its own."
            yield Finding("missing?", False, text, fix, tuple(f"{value!r}: {n:,}" for value, n in missing.items()))


def _check_rare(checked: Checked) -> Iterator[Finding]:
    """Closed values of which nothing can be learned: with one training row or none, or the only value of all rows."""
    for name, listed in closed_values(checked.task).items():
        counts = Counter(values_of(checked.task, name, checked.rows["train"]))
        rare = tuple(f"{value!r}: {counts[value]} training row(s)" for value in listed if counts[value] < 2)
        if checked.rows["train"] and sum(counts[value] > 0 for value in listed) == 1:
            fix = "There is nothing to tell apart: look at the column that was taken as the target."
            yield Finding("one value", False, f"{name}: all training rows have the same value", fix, rare)
        elif checked.rows["train"] and rare:
            text = f"{name}: {len(rare)} of {len(listed)} values stand in one training row or none"
            fix = "Collect rows of them, or make them one with another value: ftkit task clean --merge OLD=NEW."
            yield Finding("rare values", False, text, fix, rare)


def _check_size(checked: Checked) -> Iterator[Finding]:
    """Whether the test split can show a difference of ten points between two models."""
    n, needed = len(checked.rows["test"]), rows_needed(DIFFERENCE)
    if 0 < n < needed:
        text = (
            f"{n:,} test rows: a score is known to ±{100 * widest_half(n):.0f} points; to tell models apart that differ by "
            f"{100 * DIFFERENCE:.0f} points (4 times in 5) about {needed:,} are needed"
        )
        fix = "Collect more, or hold out a larger share (ftkit task new --held-out); read scores with their intervals."
        yield Finding("test size", False, text, fix)


def check_similarity(checked: Checked) -> Iterator[Finding]:
    """Duplicates, which stand twice within a split; leakage, which stands in two; contradictions: one text, two answers."""
    task, named, rows = checked.task, checked.names(), checked.every()
    pairs = repeats(task, rows)
    answers = [] if task.kind == "chat" else checked.answers()  # what is right in a conversation hangs on all turns before
    against = [p for p in pairs if answers and p.equal and answers[p.first] != answers[p.second]]
    settled = {id(p) for p in against}
    if against:
        opposed = tuple(
            f"{named[p.first][1]}: {_answer(answers[p.first])}, {named[p.second][1]}: {_answer(answers[p.second])}: "
            f"{_shorten(p.text)}"
            for p in against
        )
        across = sum(named[p.first][0] != named[p.second][0] for p in against)
        text = f"{len(against)} text(s) have two different answers ({across} across splits)"
        yield Finding("contradictions", False, text, "Read them and settle which answer is right; no rule can.", opposed)
    for thing, across in (("duplicates", False), ("leakage", True)):
        mine = [p for p in pairs if (named[p.first][0] != named[p.second][0]) == across and (across or id(p) not in settled)]
        mine = [p for p in mine if across or not any(p.turns)]  # a question may be asked in several conversations of a split
        if not mine:
            what = "conversation" if task.kind == "chat" else "message"
            yield Finding(thing, True, f"no {what} stands in {'two splits' if across else 'a split twice'}, none nearly so")
            continue
        cases = (
            f"{at_turn(named[p.first][1], p.turns[0])} {'=' if p.equal else '~'} {at_turn(named[p.second][1], p.turns[1])}: "
            f"{_shorten(p.text)}"
            for p in mine
        )
        equal, where = sum(p.equal for p in mine), "across splits" if across else "within a split"
        text = f"{equal} equal and {len(mine) - equal} nearly equal pairs {where}"
        fix = "Keep one of each: what stands twice counts twice."
        if across:
            fix = "Remove them from training: a test of what was trained on measures memory."
        yield Finding(thing, False, text, fix, tuple(cases), gate=across)


def _answer(answer: Any) -> str:
    return _shorten(answer if isinstance(answer, str) else dump(answer))


def _shorten(message: str, length: int = 60) -> str:
    text = " ".join(message.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _check_messages(thing: str, named: list, look: Any, well: str, ill: str, do: str = "remove them") -> Finding:
    """A finding over single messages: `look` names what is wrong with one, if anything."""
    kinds = ((name, message, " and ".join(look(message))) for _, name, message in named)
    cases = tuple(f"{name}: {kind} in {_shorten(message)!r}" for name, message, kind in kinds if kind)
    if not cases:
        return Finding(thing, True, well)
    fix = f"Look at them and {do}, unless they belong there: ftkit task clean."
    return Finding(thing, False, f"{len(cases)} message(s) {ill}", fix, cases)


def _check_personal_data(checked: Checked) -> Finding:
    """E-mail addresses, phone and card numbers in messages and in answers: what is masked in one must be in the other."""
    named = checked.messages()
    chats = [row[checked.task.message] for row in checked.every()] if checked.task.kind == "chat" else []
    own = house_contacts(chats)

    def look(text: str) -> list[str]:
        return find_personal_data(without_contacts(text, own))

    well = "no e-mail address, phone or card number"
    well += (
        f", but for the house's own: {', '.join(f'{value} ({n} conversations)' for value, n in own.items())}" if own else ""
    )
    messages = _check_messages("personal data", named, look, well, "seem to hold some", "mask them")
    cases = []
    for (_, name, _), answer in zip(named, checked.answers(), strict=True):
        texts = answer.values() if isinstance(answer, dict) else [answer]
        kinds = [kind for text in texts if isinstance(text, str) for kind in look(text)]
        if kinds and checked.task.kind != "label":
            cases.append(f"{name}: {' and '.join(dict.fromkeys(kinds))} in the answer {_answer(answer)!r}")
    if not cases:
        return messages
    fix = "Mask both sides alike, or the model learns to invent them: ftkit task clean."
    text = f"{len(messages.cases)} message(s) and {len(cases)} answer(s) seem to hold some"
    text += f"; {', '.join(own)} is taken as the house's own" if own else ""
    return Finding("personal data", False, text, fix, (*cases, *messages.cases))


def _check_ends(checked: Checked) -> Finding:
    named = checked.messages()
    ends = find_cut_off([message for _, _, message in named])
    if not ends:
        return Finding("cut off", True, "no message seems to end in the middle")
    cases = tuple(f"{named[i][1]}: … {named[i][2][-50:]!r}" for i in ends)
    fix = "Read them: some will be whole, and others with a clean end are not seen."
    return Finding("cut off", False, f"{len(cases)} message(s) may end in the middle", fix, cases)


def _check_variety(checked: Checked) -> Iterator[Finding]:
    """How varied the training messages are: bigrams and openings (first three words) that are not repeated."""
    bigrams: Counter[tuple[str, str]] = Counter()
    openings: Counter[tuple[str, ...]] = Counter()
    for own in (split_words(text) for split, _, text in checked.messages() if split == "train"):
        bigrams.update(pairwise(own))
        openings[tuple(own[:3])] += 1
    if not bigrams:
        return
    distinct, opened = len(bigrams) / bigrams.total(), len(openings) / openings.total()
    (most, times) = openings.most_common(1)[0]
    text = f"{distinct:.0%} of the word pairs are distinct, {opened:.0%} of the openings"
    case = f"most frequent opening, {times} times: {' '.join(most)!r}"
    fix = "Messages made from templates teach the templates; collect or write more varied ones."
    yield Finding("variety", opened >= 0.5 or len(openings) < 20, text, fix, (case,))


SPECIAL_TOKENS = re.compile(  # as the chat templates of many models write them
    r"<[|｜][^|｜<>\s]{1,40}[|｜]>|<\|[a-z_]{1,20}>|<[a-z_]{1,20}\|>"
    r"|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>|\[/?INST\]|<</?SYS>>|</?think>"
)


def _check_special_tokens(checked: Checked, profile: Profile | None) -> Iterator[Finding]:
    """Texts that hold what looks like a model's control token; the tokens of the profile's model are known exactly."""
    task, marks = checked.task, SPECIAL_TOKENS
    if profile:
        from ftkit.models.tokenizer import load_tokenizer

        own = sorted(load_tokenizer(profile.model).all_special_tokens, key=len, reverse=True)
        marks = re.compile("|".join([SPECIAL_TOKENS.pattern, *map(re.escape, own)]))
    cases = []
    asked, answered = ("the user's turn", "the answer") if task.kind == "chat" else (task.message, task.target)
    for (_, name, message), answer in zip(checked.messages(), checked.answers(), strict=True):
        texts = {asked: message, answered: completion_text(task, answer)}
        held = [
            f"{' '.join(sorted({*found}))} in {where}" for where, text in texts.items() if (found := marks.findall(text))
        ]
        cases += [f"{name}: {'; '.join(held)}"] if held else []
    if cases:
        text = f"{len(cases)} {'turn' if task.kind == 'chat' else 'row'}(s) hold what looks like a control token of a model"
        fix = (
            "The kit reads them as text, in training, evaluation and demo; other programs may take them for control tokens. "
            "Look whether they belong there: chat logs are often saved with them."
        )
        yield Finding("special tokens", False, text, fix, tuple(cases))


def _check_language(checked: Checked) -> Finding:
    named = checked.messages()
    cases = tuple(
        f"{named[i][1]}: {code}, {_shorten(named[i][2])!r}" for i, code in find_foreign([message for _, _, message in named])
    )
    if not cases:
        return Finding("language", True, "all messages are in one language")
    return Finding("language", False, f"{len(cases)} message(s) in another language", "Are they wanted?", cases)


def _check_labels(checked: Checked) -> Iterator[Finding]:
    """Labels of the first closed field that a simple model, which has not seen the row, finds very unlikely."""
    if not (closed := checked.labels()):
        return
    name, labels = closed
    known = Counter(labels["train"])
    if len(known) < 2 or min(known.values()) < FOLDS:
        return
    rows = checked.rows["train"]
    try:
        suspects = suspicious([row[checked.task.message] for row in rows], labels["train"])
    except ValueError:  # an empty vocabulary
        yield Finding("labels", True, "not looked at: the messages hold no words to learn from", looked=False)
        return
    cases = tuple(
        f"{rows[i].get('id', f'row {i + 1}')}: {labels['train'][i]}, looks like {other} ({share:.0%} for the label): "
        f"{_shorten(rows[i][checked.task.message])!r}"
        for i, other, share in suspects
        if share < UNLIKELY
    )
    text = f"{len(cases)} of {len(rows):,} labels of {name!r} look unlikely to a simple model"
    yield Finding("labels", not cases, text, "Read them, the first ones first; many will be right after all.", cases)


def simple_model(rows: int = 0) -> Any:
    """TF-IDF over words and characters with logistic regression: scikit-learn's honest baseline for short texts.

    From `MANY` rows on the same loss is brought down by stochastic gradient descent: a third of the time, and as good.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.pipeline import make_pipeline, make_union

    of_words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    of_characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=2)
    classifier = LogisticRegression(C=10, max_iter=500)
    if rows >= MANY:
        classifier = SGDClassifier(loss="log_loss", alpha=1 / (10 * rows), max_iter=12, tol=None, random_state=17)
    return make_pipeline(make_union(of_words, of_characters), classifier)


def fit_simple_model(messages: Sequence[str], labels: Sequence[str]) -> Any:
    """A fitted `simple_model`; where it has nothing to learn, scikit-learn's DummyClassifier: the most frequent label.

    That is so if all labels are the same, or if the messages hold no word, or no piece of one twice.
    """
    from sklearn.dummy import DummyClassifier

    if len(set(labels)) > 1:
        with contextlib.suppress(ValueError), alone_in_blas():  # an empty vocabulary
            return simple_model(len(messages)).fit(messages, labels)
    return DummyClassifier().fit(messages, labels)


def suspicious(messages: list[str], labels: list[str]) -> list[tuple[int, str, float]]:
    """Rows that a simple model would label differently, as (index, its label, the own label's probability).

    The least likely label comes first. Each row is judged by a `simple_model` that was trained on the other folds. Ranking
    by self-confidence: confident learning, arXiv 1911.00068, section 3. Raises `ValueError` for messages without words.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=17)
    with alone_in_blas():
        probability = cross_val_predict(
            simple_model(), messages, labels, cv=folds, method="predict_proba"
        )  # [rows, classes]
    classes, own = np.unique(labels, return_inverse=True)  # probability: [rows, classes]
    of_label = probability[np.arange(len(labels)), own]
    likeliest = probability.argmax(axis=1)
    order = [i for i in np.argsort(of_label) if likeliest[i] != own[i]]
    return [(int(i), str(classes[likeliest[i]]), float(of_label[i])) for i in order]


def _score_simple_model(checked: Checked) -> Iterator[Finding]:
    """What a simple model makes of the first closed field, trained on one split and scored on the test split."""
    closed = checked.labels()
    if not closed or len(set(closed[1]["train"])) < 2 or not closed[1]["test"]:
        return
    name, labels = closed
    texts = {split: [row[checked.task.message] for row in checked.rows[split]] for split in SPLITS}
    guessed = fit_simple_model(texts["train"], labels["train"]).predict(texts["test"]).tolist()
    right = sum(a == b for a, b in zip(guessed, labels["test"], strict=True)) / len(guessed)
    wrong = Counter(tuple(sorted(pair)) for pair in zip(labels["test"], guessed, strict=True) if pair[0] != pair[1])
    cases = tuple(f"{a} and {b} taken for each other: {n}" for (a, b), n in wrong.most_common())
    text = f"{name}: TF-IDF with logistic regression gets {right:.1%} of {len(guessed)} test rows"
    yield Finding(
        "simple model", True, text, cases=cases, numbers={"gold": labels["test"], "guessed": guessed, "field": name}
    )


def _check_lengths(checked: Checked, profile: Profile) -> Finding:
    """Tokens of prompt and completion under the profile's tokenizer, and how many rows are longer than it takes."""
    from ftkit.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(profile.model)
    try:
        if checked.task.kind == "chat":
            require_turns(tokenizer)
    except KitError as error:
        return Finding("lengths", True, f"not looked at: {error}", looked=False)
    rows = [(split, row) for split in SPLITS for row in checked.rows[split]]
    lengths = [len(example_ids(tokenizer, checked.task, row)) for _, row in rows]
    over = tuple(
        f"{split}, {row.get('id', '?')}: {n} tokens"
        for (split, row), n in zip(rows, lengths, strict=True)
        if n > profile.max_length
    )
    ordered = sorted(lengths) or [0]
    text = f"{ordered[len(ordered) // 2]} tokens in the middle, {ordered[-1]} at most; {len(over)} over {profile.max_length}"
    aside = f"set them aside (ftkit task clean -p {profile.name})"
    fix = f"They would be refused: shorten them, {aside}, or take them (ftkit train --length {ordered[-1]})."
    if checked.task.kind == "chat":
        cut = f"They would be cut after the last answer that fits: or {aside}, or take them whole (--length {ordered[-1]})."
        fix = cut if checked.task.too_long == "cut" else fix[:-1] + CUT
    return Finding("lengths", not over, text, fix, over, numbers={"tokens": lengths, "limit": profile.max_length})


def rows_needed(difference: float, disagree: float = DISAGREE, power: float = 0.8, level: float = 0.05) -> int:
    """Examples from which a paired test finds a difference of two shares (0 to 1) with this probability, `power`.

    `disagree` is the share of the examples that only one of the two models gets right. Connor, Sample size for testing
    differences in proportions for the paired-sample design, Biometrics 43 (1987), for McNemar's test at `level`, two-sided.
    """
    disagree = max(disagree, difference)
    z_level, z_power = NormalDist().inv_cdf(1 - level / 2), NormalDist().inv_cdf(power)
    return math.ceil((z_level * math.sqrt(disagree) + z_power * math.sqrt(disagree - difference**2)) ** 2 / difference**2)


def widest_half(n: int, level: float = 0.05) -> float:
    """Half the width of Wilson's interval of a share of `n` examples where it is widest: half of them yes (Wilson 1927)."""
    z = NormalDist().inv_cdf(1 - level / 2)
    return z / (2 * math.sqrt(n + z**2))
