"""What each way of merging keeps of the tuned model (lesson 05)."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ftkit.common.console import Progress, Say, clock
from ftkit.common.errors import KitError
from ftkit.common.memory import free_memory
from ftkit.data.task import Row, Task
from ftkit.deployment.merge import _merged, merged_model
from ftkit.deployment.proof import TURNS, Talk, agreement, answering, longest_talks, talk_on, timed, turns_agree
from ftkit.evaluation.answer import Answerer, Loaded, load_tuned
from ftkit.evaluation.conversations.scores import ChatScores
from ftkit.evaluation.conversations.talk import in_order
from ftkit.evaluation.intervals import compare_shares, describe_comparison
from ftkit.evaluation.metrics import score
from ftkit.models.adapter import load_adapter
from ftkit.models.four_bit import dequantize
from ftkit.models.load import load_model, load_tokenizer
from ftkit.runs.documents import Fidelity, Variant, show_interval
from ftkit.runs.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel


VARIANTS = {
    "adapter": "adapter on the 4-bit base",
    "merged": "merged into the dequantized 4-bit base",
    "original": "merged into the original base",
    "requantized": "merged, then quantized to 4 bits again",
    "into 4-bit": "merged straight into the 4-bit layers",
}
SPOKEN = {"into 4-bit": "4-bit merged", "original": "original-base"}  # in sentences: "the ... model"


def compare_merges(run: Run, limit: int | None = None, say: Say = print) -> Fidelity:
    """Let every variant answer the test split and compare each with the adapter on its 4-bit base, message by message.

    Quantizing a merged model again rounds much of the adapter away: the base's values lie on the 16 steps of 4 bits already,
    and the adapter moves most of them by less than half a step.

    A conversation is gone on with after each variant's own answers, up to three of them.

    Saves `merge_fidelity.json` in the run. `limit` takes the first so many rows. One model is in memory at a time.
    """
    task = run.task
    available = task.rows("test")
    rows = available[:limit]
    answered = _Talks(task, rows) if task.kind == "chat" else _Messages(task, rows)
    variants: dict[str, Variant] = {}
    for number, (key, name) in enumerate(VARIANTS.items(), start=1):
        with _loaded_variant(run, key) as answerer:
            say(f"{number} of {len(VARIANTS)}: {name}")
            texts, seconds = answered.by(answerer, say)
        beside: dict[str, Any] = {}
        if number > 1:
            beside = agreement(run, answered.reference, texts).model_dump(exclude_unset=True) | answered.beside(texts)
        variants[key] = Variant(
            name=name,
            scores=answered.scores(texts),
            seconds=round(seconds, 1),
            messages_per_second=round(len(texts) / seconds, 2),
            **beside,
        )
    result = Fidelity(task=task.name, split="test", n=len(rows), of=len(available), variants=variants)
    result.save(run.folder)
    return result


class _Messages:
    """Rows of one message as the variants answer them; the first variant's answers are the `reference`."""

    reference: list[str]

    def __init__(self, task: Task, rows: Sequence[Row]):
        self.task, self.rows = task, rows

    def by(self, answerer: Answerer, say: Say) -> tuple[list[str], float]:
        """A variant's answers, and the seconds that they took."""
        texts, seconds = timed(answerer, [self.task.asked(row) for row in self.rows], Progress(say=say))
        self.reference = getattr(self, "reference", texts)
        return texts, seconds

    def _right(self, texts: Sequence[str]) -> dict[str, list[bool]]:
        every = score(self.task, self.rows, texts)
        return {metric: values for metric, values in every.items() if isinstance(values[0], bool)}

    def scores(self, texts: Sequence[str]) -> dict[str, float]:
        """The share that is right, by metric."""
        return {metric: sum(values) / len(values) for metric, values in self._right(texts).items()}

    def beside(self, texts: Sequence[str]) -> dict[str, Any]:
        """What is recorded of a variant beside the reference."""
        right = self._right(self.reference)
        compared = {metric: compare_shares(right[metric], values) for metric, values in self._right(texts).items()}
        return {"against_adapter": compared}


class _Talks:
    """Conversations as the variants go on with them, each after its own answers."""

    reference: list[str]

    def __init__(self, task: Task, rows: Sequence[Row]):
        self.task, self.parts = task, longest_talks(task, rows, None)
        self.talks: list[Talk] = []

    def by(self, answerer: Answerer, say: Say) -> tuple[list[str], float]:
        """A variant's answers, and the seconds that they took."""
        began = time.monotonic()
        talk = talk_on(answerer, self.parts)
        seconds = time.monotonic() - began
        say(f"  {len(self.parts)} answers in {clock(seconds)}")
        texts = in_order(self.parts, talk.answers)
        if self.talks:
            talk = talk.with_prompts_of(self.talks[0].chats, answerer)
        else:
            self.reference = texts
        self.talks.append(talk)
        return texts, seconds

    def scores(self, texts: Sequence[str]) -> dict[str, float]:
        """Each metric's value."""
        return {metric: one.value for metric, one in ChatScores(self.task, self.parts, texts).with_intervals().items()}

    def beside(self, texts: Sequence[str]) -> dict[str, Any]:
        """What is recorded of the last variant beside the first."""
        first, this = (ChatScores(self.task, self.parts, some) for some in (self.reference, texts))
        return {"against_adapter": this.against(first), "turns": turns_agree(self.talks[0], self.talks[-1])}


@contextlib.contextmanager
def _loaded_variant(run: Run, key: str) -> Iterator[Answerer]:
    profile = run.profile

    def tokenized(model: PreTrainedModel) -> Loaded:
        fast = model.device.type == "cpu" and getattr(model, "is_quantized", False)
        return (dequantize(model) if fast else model).eval(), load_tokenizer(profile.model, run.adapter)

    def requantized() -> Loaded:
        with tempfile.TemporaryDirectory() as folder:
            merged_model(run).save_pretrained(folder)
            free_memory()
            return tokenized(load_model(folder, profile.dtype))

    def into_four_bit() -> Loaded:
        tuned = load_adapter(load_model(profile.model, profile.dtype), run.adapter, base=profile.model)
        return tokenized(_merged(tuned, run))

    loads = {
        "adapter": lambda: load_tuned(run),
        "merged": lambda: tokenized(merged_model(run)),
        "original": lambda: tokenized(merged_model(run, four_bit=False)),
        "requantized": requantized,
        "into 4-bit": into_four_bit,
    }
    with answering(run, loads[key]) as answerer:
        yield answerer


def load_fidelity(run: Run) -> Fidelity:
    """The saved comparison. Raises `KitError` if there is none, or it cannot be read."""
    if not Fidelity.exists(run.folder):
        raise KitError(f"{run.name} has no merge fidelity yet: ftkit export {run.name} --fidelity")
    return Fidelity.load(run.folder)


def fidelity_table(result: Fidelity) -> Table:
    """The comparison for the terminal: a column a variant, the shares in percent, exact match with interval and p."""
    variants, every = result.variants, list(result.variants.values())
    grid = Table(title=f"{result.task}, {result.split} split, {result.rows_measured}", title_justify="left")
    grid.add_column("metric")
    for key in variants:
        grid.add_column(key, justify="right")
    for metric in variants["adapter"].scores:
        grid.add_row(metric, *(f"{100 * variant.scores[metric]:.1f} %" for variant in variants.values()))
    main = _main_metric(variants["adapter"].scores)
    compared = [(variant.against_adapter or {}).get(main) for variant in variants.values()]
    grid.add_row(f"{main}, difference", *(f"{100 * c.difference:+.1f}" if c else "" for c in compared), style="bold")
    bounds = [show_interval(c.interval, "+.1f") if c else "" for c in compared]
    grid.add_row("  95 % interval", *bounds)
    if any(c and c.p is not None for c in compared):
        grid.add_row("  p (McNemar)", *(f"{c.p:.2g}" if c and c.p is not None else "" for c in compared))
    grid.add_row("same text", *("" if v.identical is None else f"{100 * v.identical:.0f} %" for v in variants.values()))
    for turn in range(TURNS):
        cells = [
            f"{100 * v.turns.identical[turn]:.0f} %" if v.turns and turn < len(v.turns.identical) else "" for v in every
        ]
        if any(cells):
            grid.add_row(f"  answer {turn + 1}", *cells)
    if any(v.turns for v in every):
        grid.add_row("same prompts", *(f"{v.turns.same_prompts} of {v.turns.prompts}" if v.turns else "" for v in every))
    grid.add_row("seconds", *(f"{variant.seconds:.0f}" for variant in variants.values()), style="dim")
    return grid


def _main_metric(metrics: Iterable[str]) -> str:
    """The metric of whole answers."""
    return "exact match" if "exact match" in metrics else next(iter(metrics))


def describe_fidelity(result: Fidelity, metric: str = "") -> list[str]:
    """One sentence a variant: what was done, and how it compares with the adapter on its 4-bit base.

    `metric` left out is that of whole answers.
    """
    sentences = []
    metric = metric or _main_metric(result.variants["adapter"].scores)
    for key, variant in result.variants.items():
        if compared := (variant.against_adapter or {}).get(metric):
            name = variant.name[:1].upper() + variant.name[1:]
            sentences.append(f"{name}: {describe_comparison(compared, ('adapter', SPOKEN.get(key, key)))}")
    return sentences
