"""Evaluation: base, baselines and tuned on the same held-out examples, each figure with its interval (lesson 04)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ftkit.common.console import clock
from ftkit.common.errors import KitError
from ftkit.common.files import read_json, write_json
from ftkit.common.machine import versions
from ftkit.data.prompt import chat_prompt
from ftkit.data.task import Row, Task
from ftkit.evaluation import baselines
from ftkit.evaluation import constrained as decoding
from ftkit.evaluation import errors as analysis
from ftkit.evaluation import forgetting as general
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.intervals import (
    Paired,
    bootstrap_interval,
    compare_scores,
    compare_shares,
    in_words,
    share_interval,
)
from ftkit.evaluation.metrics import corpus_scores, perplexity, row_scores, same, score
from ftkit.evaluation.report import in_order, write_report
from ftkit.evaluation.saved_answers import predict
from ftkit.models.four_bit import weight_bytes
from ftkit.runs.card import write_card
from ftkit.runs.run import Run, adapter_digest

FORMAT = 3
FEW_SHOT, TFIDF, MAJORITY = "few-shot", "TF-IDF", "majority"
ABOUT = {
    BASE: "the untouched model, told the fields and their values",
    TUNED: "the model after fine-tuning, told nothing",
}
Say = Callable[[str], None]
__all__ = ["FORMAT", "compare_runs", "evaluate", "load_evaluation", "same", "score", "sentences", "table"]


def evaluate(
    run: Run,
    split: str = "test",
    say: Say = print,
    limit: int | None = None,
    quick: bool = False,
    constrained: bool = False,
) -> dict[str, Any]:
    """Let base and tuned answer a split and score them; saves `evaluation.json` and `report.html`.

    Without `quick` the baselines come to it, the general check, and the calibration. `constrained` adds both models under
    constrained decoding (a `json` task). `limit` takes only the first so many rows of the split, recorded as `n`. All decode
    greedily. Answers are kept in the run: a second call takes seconds, and an interrupted one goes on. Returns the content
    of `evaluation.json`.
    """
    task = run.task
    if run.record["task"]["fingerprint"] != task.fingerprint():
        say(f"Note: {task.folder.name} has changed since {run.name} was trained.")
    available = task.rows(split)
    rows = available[:limit]
    began = time.monotonic()
    measured = _Measured(run, split, rows, say)
    measured.side(BASE)
    measured.side(TUNED)
    if not quick:
        measured.few_shot()
        measured.cheap_baselines()
    if constrained:
        for side in (BASE, TUNED):
            measured.side(side, fits=True)
    texts, models = measured.texts, measured.models
    own = _Scores(task, rows, texts[TUNED])
    result: dict[str, Any] = {
        "format": FORMAT, "run": run.name, "task": task.name, "kind": task.kind, "split": split,
        "n": len(rows), "of": len(available), "seed": run.profile.seed, "versions": versions(),
        "models": models,
        "comparisons": {name: _compared(task, rows, texts[name], own, models[name]["judged by"])
                        for name in models if name != TUNED},
        "few_shot": measured.chosen,
        "general": None if quick else _general(run, measured.answerer, say),
        "confusions": analysis.confusions(task, rows, texts[TUNED]),
        "slices": analysis.slices(task, rows, own.rows),
        "worst": analysis.worst(task, rows, texts[TUNED]),
        "calibration": None if quick else analysis.calibration(measured.answerer, rows),
    }  # fmt: skip
    result["seconds"] = round(time.monotonic() - began, 1)
    write_json(run.folder / "evaluation.json", result)
    write_report(run, result, sentences(result))
    write_card(run)
    return result


class _Measured:
    """The models of one evaluation: their answers, and what these were worth and cost."""

    def __init__(self, run: Run, split: str, rows: Sequence[Row], say: Say):
        self.run, self.split, self.rows, self.say = run, split, rows, say
        self.task, self.profile = run.task, run.profile
        self.messages = [row[self.task.message] for row in rows]
        self.answerer = Answerer.of_run(run)
        self.texts: dict[str, list[str]] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.chosen: dict[str, Any] | None = None
        self.memory = weight_bytes(self.answerer.model) / 1e6

    def side(self, which: str, fits: bool = False) -> None:
        """Base or tuned, as the demo shows them; with `fits` under constrained decoding."""
        answerer = self.answerer
        name = f"{which}, constrained" if fits else which
        most = answerer.max_new_tokens * (decoding.ROOM if fits else 1)
        settings = self._settings(which, chat_prompt(self.task, "", told=which == BASE))
        settings |= {"constrained": fits, "most": most}
        vocabulary = answerer.model.config.vocab_size
        fitting = partial(decoding.only_what_fits, self.task, answerer.tokenizer, vocabulary=vocabulary) if fits else None

        def ask(messages: list[str]) -> list[str]:
            chats = [answerer.prompt(message, which) for message in messages]
            return answerer.complete(chats, which, max_new_tokens=most, fitting=fitting)

        about = ABOUT[which] + ("; only tokens that fit the schema" if fits else "")
        self._add(name, about, self._predict(name, settings, self.messages, ask))

    def few_shot(self) -> None:
        """The base model, told the fields and shown training examples; their number is chosen on validation rows."""
        train, validation = self.task.rows("train"), self.task.rows("validation")

        def ask(k: int, messages: list[str], name: str = "") -> list[str]:
            shown = baselines.shots(self.task, train, k, self.profile.seed)

            def answers(some: list[str]) -> list[str]:
                chats = [chat_prompt(self.task, message, told=True, shots=shown) for message in some]
                return self.answerer.complete(chats, BASE)

            settings = self._settings(BASE, chat_prompt(self.task, "", told=True, shots=shown))
            found = self._predict(name or f"validation-{k}-shot", settings, messages, answers, plain=not name)
            self.last = found
            return found.texts

        k, scores = baselines.choose_shots(self.task, validation, ask)
        self.chosen = {"k": k, "tried": {str(n): value for n, value in scores.items()}, "on": baselines.CHOSEN_ON}
        ask(k, self.messages, FEW_SHOT)
        self._add(FEW_SHOT, f"the untouched model, told the fields and shown {k} training examples", self.last)

    def cheap_baselines(self) -> None:
        """The most frequent answer, and TF-IDF for closed fields."""
        train = self.task.rows("train")
        for name, make in ((MAJORITY, baselines.majority), (TFIDF, baselines.tfidf)):
            found = make(self.task, train, self.rows)
            if found:
                self.texts[name] = found.texts
                self.models[name] = {
                    "about": found.about, "judged by": found.metrics and list(found.metrics),
                    "scores": _Scores(self.task, self.rows, found.texts).with_intervals(found.metrics),
                    "seconds": round(found.seconds, 2), "seconds_per_message": found.seconds / len(self.rows),
                    "training_seconds": round(found.training_seconds, 1), "memory_mb": round(found.memory_mb, 1),
                }  # fmt: skip

    def _settings(self, which: str, prompt: Any) -> dict[str, Any]:
        adapter = adapter_digest(self.run) if which == TUNED else None
        return {"model": self.profile.model, "adapter": adapter, "prompt": prompt, "most": self.answerer.max_new_tokens}

    def _predict(self, name: str, settings: dict[str, Any], messages: Sequence[str], ask: Any, plain: bool = False) -> Any:
        file = name if plain else f"{self.split}-{name.replace(', ', '-')}"
        return predict(self.run, file, settings, messages, ask, self.answerer.batch_size, self.say)

    def _add(self, name: str, about: str, found: Any) -> None:
        self.texts[name] = found.texts
        training = self.run.record["training"]["seconds"] if name.startswith(TUNED) else 0.0
        self.models[name] = {
            "about": about, "judged by": None,
            "scores": _Scores(self.task, self.rows, found.texts).with_intervals(),
            "seconds": round(found.seconds, 1), "seconds_per_message": found.seconds / len(self.rows),
            "messages_per_second": round(len(self.rows) / max(found.seconds, 1e-9), 2),
            "training_seconds": training, "memory_mb": round(self.memory),
        }  # fmt: skip


class _Scores:
    """One model's scores on rows: `rows` has each row's own, `corpus` those that are no mean over rows."""

    def __init__(self, task: Task, rows: Sequence[Row], texts: Sequence[str]):
        self.n = len(rows)
        self.rows = row_scores(task, rows, texts)
        self.corpus = corpus_scores(task, rows, texts)

    def with_intervals(self, only: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """{metric: {"value", "interval"}}: Wilson's for yes/no metrics, BCa bootstrap for the others."""
        found = {}
        for metric in (*self.rows, *self.corpus):
            if only is None or metric in only:
                statistic, own = self.statistic(metric), self.rows.get(metric)
                yes_no = own is not None and isinstance(own[0], bool)
                interval = share_interval(own) if yes_no else bootstrap_interval(statistic, self.n)
                found[metric] = {"value": float(statistic(np.arange(self.n))), "interval": list(interval)}
        return found

    def statistic(self, metric: str) -> Callable[[np.ndarray], np.ndarray]:
        """The metric on resampled rows: indices [..., k] to scores [...]."""
        if metric in self.corpus:
            return self.corpus[metric]
        own = np.asarray(self.rows[metric], dtype=float)
        return lambda index: own[index].mean(axis=-1)

    def against(self, other: _Scores, metric: str) -> Paired:
        """This model's metric compared with another's on the same rows."""
        if metric in self.corpus:
            return compare_scores(other.statistic(metric), self.statistic(metric), self.n)
        ours, theirs = self.rows[metric], other.rows[metric]
        if isinstance(ours[0], bool):
            return compare_shares(theirs, ours)
        return compare_scores(other.statistic(metric), self.statistic(metric), self.n, (theirs, ours))


def _compared(
    task: Task, rows: Sequence[Row], texts: Sequence[str], tuned: _Scores, only: Sequence[str] | None
) -> dict[str, Any]:
    other = _Scores(task, rows, texts)
    metrics = [m for m in (*tuned.rows, *tuned.corpus) if only is None or m in only]
    return {metric: tuned.against(other, metric).as_dict() for metric in metrics}


def _general(run: Run, answerer: Answerer, say: Say) -> dict[str, Any]:
    """The general check, kept in `general.json` of the run, with base and tuned compared."""
    path, key = run.folder / "general.json", {"questions": general.fingerprint(), "adapter": adapter_digest(run)}
    kept = read_json(path) if path.is_file() else {}
    if kept.get("key") != key:
        began = time.monotonic()

        def progress(done: int, of: int) -> None:
            say(f"  general check: {done} of {of}, {clock((time.monotonic() - began) / done * (of - done))} left")

        kept = {"key": key, "check": general.general_check(answerer, progress)}
        write_json(path, kept)
    check = kept["check"]
    base, tuned = (check["models"][side] for side in (BASE, TUNED))
    statistics = [perplexity(side["log_probabilities"], check["tokens"]) for side in (base, tuned)]
    n = len(check["tokens"])
    kinds = [question["kind"] for question in check["questions"]]

    def right(side: dict[str, Any], kind: str) -> int:
        return sum(yes for yes, own in zip(side["right"], kinds, strict=True) if own == kind)

    return {
        "questions": compare_shares(base["right"], tuned["right"]).as_dict(),
        "by kind": {
            kind: {"base": right(base, kind), "tuned": right(tuned, kind), "of": kinds.count(kind)}
            for kind in dict.fromkeys(kinds)
        },
        "perplexity": compare_scores(statistics[0], statistics[1], n).as_dict(),
    }


def compare_runs(first: Run, second: Run, split: str = "test", say: Say = print, limit: int | None = None) -> dict[str, Any]:
    """Two runs' tuned models on the same messages, paired: {metric: comparison}, the second's value minus the first's.

    Raises `KitError` if the runs are of different tasks.
    """
    task = second.task
    if first.task.folder.resolve() != task.folder.resolve():
        raise KitError(f"{first.name} is of the task {first.task.name}, {second.name} of {task.name}: nothing to compare.")
    rows = task.rows(split)[:limit]
    scores = []
    for run in (first, second):
        measured = _Measured(run, split, rows, say)
        measured.side(TUNED)
        scores.append(_Scores(task, rows, measured.texts[TUNED]))
        del measured
    metrics = (*scores[1].rows, *scores[1].corpus)
    found = {metric: scores[1].against(scores[0], metric).as_dict() for metric in metrics}
    return {"format": FORMAT, "task": task.name, "split": split, "n": len(rows), "runs": [first.name, second.name],
            "metrics": found}  # fmt: skip


def load_evaluation(run: Run) -> dict[str, Any]:
    """The saved evaluation of a run. Raises `KitError` if there is none or it cannot be read."""
    path = run.folder / "evaluation.json"
    if not path.is_file():
        raise KitError(f"{run.name} has not been evaluated yet: ftkit evaluate {run.name}")
    result = read_json(path)
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise KitError(f"{path} is not an evaluation of format {FORMAT}: ftkit evaluate {run.name}")
    return result


def paired(given: dict[str, Any]) -> Paired:
    """A comparison as it was before it was saved."""
    values = {name: given[name] for name in Paired.__dataclass_fields__}
    return Paired(**{**values, "interval": tuple(values["interval"])})


def sentences(result: dict[str, Any]) -> list[str]:
    """What an evaluation says, in plain words."""
    said = []
    for name, compared in result["comparisons"].items():
        whole, closed = (next((m for m in compared if m.endswith(end)), None) for end in ("exact match", "macro-F1"))
        for metric in filter(None, (whole, closed)):
            said.append(f"Against {name}, {metric}: {in_words(paired(compared[metric]), (name, TUNED))}")
    held = result["models"].get(f"{BASE}, constrained")
    if held:
        before, after = (result["models"][side]["scores"] for side in (BASE, TUNED))
        for metric in [m for m in ("exact match", *result["confusions"]) if m in after]:
            gain, form = (100 * (scores[metric]["value"] - before[metric]["value"]) for scores in (after, held["scores"]))
            said.append(
                f"Of {gain:+.1f} points in {metric}, {form:+.1f} are format alone: what constrained decoding gives the base."
            )
    if result.get("general"):
        questions = in_words(paired(result["general"]["questions"]), (BASE, TUNED))
        change = paired(result["general"]["perplexity"])
        low, high = change.interval
        said.append(f"General questions: {questions}")
        said.append(
            f"Perplexity of plain English: {change.first:.1f} before, {change.second:.1f} after "
            f"(difference {change.difference:+.1f}, 95 % interval {low:+.1f} to {high:+.1f}; lower is better)."
        )
    return said


def table(result: dict[str, Any]) -> Any:
    """The evaluation as a table for the terminal: a row a metric, in percent, tuned against base with its interval."""
    from rich import box
    from rich.table import Table

    part = f"the first {result['n']} of {result['of']}" if result["n"] < result["of"] else f"n = {result['n']}"
    title = f"{result['task']}, {result['split']} split, {part}; in %, differences with 95 % intervals"
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    order = in_order(result["models"])
    grid.add_column("metric")
    for heading in order:
        grid.add_column(heading, justify="right")
    grid.add_column("tuned - base", justify="right")
    against = result["comparisons"][BASE]
    for metric in result["models"][TUNED]["scores"]:
        values = [result["models"][name]["scores"].get(metric) for name in order]
        low, high = against[metric]["interval"]
        gap = f"{100 * against[metric]['difference']:+.0f} ({100 * low:.0f} to {100 * high:.0f})"
        grid.add_row(metric, *(f"{100 * value['value']:.1f}" if value else "-" for value in values), gap)
    each = [f"{1000 * result['models'][name]['seconds_per_message']:,.0f}" for name in order]
    grid.add_row("ms a message", *each, "", style="dim")
    grid.add_row("memory, MB", *(f"{result['models'][name]['memory_mb']:,.0f}" for name in order), "", style="dim")
    return grid


def comparison_table(found: dict[str, Any]) -> Any:
    """Two runs side by side for the terminal: a row a metric, in percent, with the difference and what it says."""
    from rich.table import Table

    first, second = found["runs"]
    grid = Table(title=f"{found['task']}, {found['split']} split, n = {found['n']}; in %", title_justify="left")
    grid.add_column("metric")
    for heading in (first, second, "difference (95 %)", ""):
        grid.add_column(heading, justify="right")
    for metric, given in found["metrics"].items():
        low, high = given["interval"]
        gap = f"{100 * given['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        said = ("better" if given["difference"] > 0 else "worse") if given["detected"] else "no detectable difference"
        grid.add_row(metric, f"{100 * given['first']:.1f}", f"{100 * given['second']:.1f}", gap, said)
    return grid
