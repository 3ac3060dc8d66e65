"""The data check: one line for each way in which a task's rows can spoil a result (lesson 02). Usable as a gate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .base import Finding
from .profiles import Profile
from .tasks import SPLITS, Row, Task, example_ids, read_rows

NEAR = 0.7  # Jaccard similarity of the character 5-grams from which two messages count as near-duplicates
FOLDS = 5
UNLIKELY = 0.1  # a label's probability, by a model that has not seen the row, below which it is shown
PERSONAL = {
    "e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+"),
    "phone number": re.compile(r"(?<![\d£$€.])(?:\+\d{1,3}[ -]?)?(?:\d[ -]?){9,12}\d(?!\d)"),
}


@dataclass(frozen=True)
class Checked:
    """The rows of a task as far as they can be read, and what is wrong with the others."""

    task: Task
    rows: dict[str, list[Row]]
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, task: Task) -> Checked:
        """Read all splits. Raises `KitError` for a file that is missing or not text."""
        rows, problems = {}, []
        for split in SPLITS:
            rows[split], found = read_rows(task.folder / f"{split}.jsonl", task)
            problems += found
            if not rows[split] and not found:
                problems.append(f"{task.folder / f'{split}.jsonl'} is empty")
        return cls(task, rows, problems)

    def messages(self) -> list[tuple[str, str, str]]:
        """(split, name of the row, message) of every row."""
        message = self.task.message
        return [(s, str(r.get("id", f"row {n}")), r[message]) for s in SPLITS for n, r in enumerate(self.rows[s], 1)]


def gate(task: Task) -> Iterator[Finding]:
    """The findings that must not be trained on: rows that do not fit the task, and messages that stand in two splits."""
    return (finding for finding in check_task(task, thorough=False) if finding.gate and not finding.ok)


def check_task(task: Task, thorough: bool = True, profile: Profile | None = None) -> Iterator[Finding]:
    """Check a task's data, one finding at a time; the cheap checks come first.

    `Finding.gate` marks what must stop a training; the other findings are for people to judge. `thorough` adds what takes
    some seconds: suspicious labels, and the lengths in tokens if a `profile` says by which model.
    """
    checked = Checked.of(task)
    yield _validity(checked)
    yield from _balance(checked)
    same, near = similar_pairs(checked)
    yield _duplicates(same, near)
    yield _leakage(same, near)
    yield _personal_data(checked)
    if thorough:
        yield from _suspicious_labels(checked)
        if profile:
            yield _lengths(checked, profile)


def _validity(checked: Checked) -> Finding:
    counts = ", ".join(f"{len(checked.rows[split]):,} {split}" for split in SPLITS)
    if not checked.problems:
        return Finding("rows", True, f"{counts}; all fit the task")
    found = f"{counts}; {len(checked.problems)} problem(s) in others"
    return Finding("rows", False, found, "Mend or remove these rows.", tuple(checked.problems), gate=True)


def _balance(checked: Checked) -> Iterator[Finding]:
    """How often each value of a closed field occurs in training, the rarest and the most frequent named."""
    task = checked.task
    closed = [f.name for f in task.fields if f.type == "choice"]
    columns = {name: [row[task.target][name] for row in checked.rows["train"]] for name in closed}
    if task.kind == "label":
        columns = {task.target: [row[task.target] for row in checked.rows["train"]]}
    for name, values in columns.items():
        counts = Counter(values).most_common()
        if counts:
            (most, high), (least, low) = counts[0], counts[-1]
            yield Finding(
                "balance", True, f"{name}: {len(counts)} values, from {low} ({least}) to {high} ({most}) training rows"
            )


def similar_pairs(checked: Checked) -> tuple[list[tuple[str, str, bool]], list[tuple[str, str, bool]]]:
    """Pairs of equal messages and of near-duplicates: (name, name, whether they stand in different splits).

    Equal means equal but for case, spaces and punctuation. Near-duplicates are proposed by MinHash with locality-sensitive
    hashing (Broder 1997; datasketch) and confirmed by their true Jaccard similarity, at least `NEAR`.
    """
    from datasketch import MinHash, MinHashLSH

    rows = [(split, name, _plain(message)) for split, name, message in checked.messages()]
    shingles = [{text[i : i + 5] for i in range(max(1, len(text) - 4))} for _, _, text in rows]
    index = MinHashLSH(threshold=NEAR - 0.1, num_perm=128)
    first_of: dict[str, int] = {}
    same, near = [], []
    for i, (split, name, text) in enumerate(rows):
        if text in first_of:
            j = first_of[text]
            same.append((rows[j][1], name, rows[j][0] != split))
            continue
        first_of[text] = i
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch([shingle.encode() for shingle in shingles[i]])
        for j in index.query(sketch):
            if len(shingles[i] & shingles[j]) / len(shingles[i] | shingles[j]) >= NEAR:
                near.append((rows[j][1], name, rows[j][0] != split))
        index.insert(i, sketch)
    return same, near


def _plain(message: str) -> str:
    return re.sub(r"\W+", " ", message.casefold()).strip()


def _duplicates(same: list, near: list) -> Finding:
    within = [f"{a} = {b}" for a, b, across in same if not across] + [f"{a} ~ {b}" for a, b, across in near if not across]
    if not within:
        return Finding("duplicates", True, "no message stands twice in a split, none nearly so")
    found = f"{sum(not p[2] for p in same)} equal and {sum(not p[2] for p in near)} nearly equal pairs within a split"
    return Finding("duplicates", False, found, "Keep one of each: what stands twice counts twice.", tuple(within))


def _leakage(same: list, near: list) -> Finding:
    across = [f"{a} = {b}" for a, b, other in same if other] + [f"{a} ~ {b}" for a, b, other in near if other]
    if not across:
        return Finding("leakage", True, "no message stands in two splits, none nearly so")
    fix = "Remove them from training: a test of what was trained on measures memory."
    return Finding("leakage", False, f"{len(across)} pair(s) across splits", fix, tuple(across), gate=True)


def _personal_data(checked: Checked) -> Finding:
    hits = [
        f"{name}: {kind}"
        for _, name, message in checked.messages()
        for kind, form in PERSONAL.items()
        if form.search(message)
    ]
    if not hits:
        return Finding("personal data", True, "no e-mail address or phone number found")
    fix = "Remove or replace them, unless they are invented."
    return Finding("personal data", False, f"{len(hits)} row(s) look as if they hold some", fix, tuple(hits))


def _suspicious_labels(checked: Checked) -> Iterator[Finding]:
    """Labels of the first closed field that a simple model, which has not seen the row, finds very unlikely."""
    task = checked.task
    name = next((f.name for f in task.fields if f.type == "choice"), None)
    rows = checked.rows["train"]
    labels = [row[task.target] if task.kind == "label" else row[task.target].get(name) for row in rows]
    known = Counter(labels)
    if (name is None and task.kind != "label") or len(known) < 2 or min(known.values()) < FOLDS:
        return
    suspects = suspicious([row[task.message] for row in rows], labels)
    cases = tuple(
        f"{rows[i].get('id', f'row {i + 1}')}: {labels[i]}, looks like {other} ({share:.0%} for the label)"
        for i, other, share in suspects
        if share < UNLIKELY
    )
    found = f"{len(cases)} of {len(rows):,} labels of {name or task.target!r} look unlikely to a simple model"
    yield Finding("labels", not cases, found, "Read them, the first ones first; many will be right after all.", cases)


def suspicious(messages: list[str], labels: list[str]) -> list[tuple[int, str, float]]:
    """Rows that a simple model would label otherwise: (index, its label, the given label's probability), least likely first.

    TF-IDF over words and characters with logistic regression, each row judged by a model that was trained on the other
    folds. Ranking by self-confidence: confident learning, arXiv 1911.00068, section 3.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline, make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=2)
    model = make_pipeline(make_union(words, characters), LogisticRegression(C=10, max_iter=500))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=17)
    probability = cross_val_predict(model, messages, labels, cv=folds, method="predict_proba")  # [rows, classes]
    classes, own = np.unique(labels, return_inverse=True)
    of_label = probability[np.arange(len(labels)), own]
    likeliest = probability.argmax(axis=1)
    order = [i for i in np.argsort(of_label) if likeliest[i] != own[i]]
    return [(int(i), str(classes[likeliest[i]]), float(of_label[i])) for i in order]


def _lengths(checked: Checked, profile: Profile) -> Finding:
    """Tokens of prompt and completion under the profile's tokenizer, and how many rows are longer than it takes."""
    from .models import load_tokenizer

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
    return Finding("lengths", not over, found, "Shorten them, or raise max_length in the profile.", over)
