"""What each way of merging keeps of the tuned model (lesson 05)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ftkit.common.console import Progress, Say
from ftkit.common.errors import KitError
from ftkit.common.memory import free_memory
from ftkit.deployment.merge import _merged, merged_model
from ftkit.deployment.proof import agreement, answering, timed
from ftkit.evaluation.answer import Answerer, Loaded, load_tuned
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

    Saves `merge_fidelity.json` in the run. `limit` takes the first so many rows. One model is in memory at a time.
    """
    task = run.task
    available = task.rows("test")
    rows = available[:limit]
    messages = [task.asked(row) for row in rows]
    variants: dict[str, Variant] = {}
    reference: tuple[dict[str, Any], list[str]] | None = None
    for number, (key, name) in enumerate(VARIANTS.items(), start=1):
        with _loaded_variant(run, key) as answerer:
            say(f"{number} of {len(VARIANTS)}: {name}")
            texts, seconds = timed(answerer, messages, Progress(say=say))
        scores = {metric: values for metric, values in score(task, rows, texts).items() if isinstance(values[0], bool)}
        beside: dict[str, Any] = {}
        if reference is None:
            reference = scores, texts
        else:
            beside = agreement(run, reference[1], texts).model_dump(exclude_unset=True)
            compared = {metric: compare_shares(reference[0][metric], values) for metric, values in scores.items()}
            beside["against_adapter"] = compared
        variants[key] = Variant(
            name=name,
            scores={metric: sum(values) / len(values) for metric, values in scores.items()},
            seconds=round(seconds, 1),
            messages_per_second=round(len(rows) / seconds, 2),
            **beside,
        )
    result = Fidelity(task=task.name, split="test", n=len(rows), of=len(available), variants=variants)
    result.save(run.folder)
    return result


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
    variants = result.variants
    grid = Table(title=f"{result.task}, {result.split} split, {result.rows_measured}", title_justify="left")
    grid.add_column("metric")
    for key in variants:
        grid.add_column(key, justify="right")
    for metric in variants["adapter"].scores:
        grid.add_row(metric, *(f"{100 * variant.scores[metric]:.1f} %" for variant in variants.values()))
    compared = [(variant.against_adapter or {}).get("exact match") for variant in variants.values()]
    grid.add_row("exact match, difference", *(f"{100 * c.difference:+.1f}" if c else "" for c in compared), style="bold")
    bounds = [show_interval(c.interval, "+.1f") if c else "" for c in compared]
    grid.add_row("  95 % interval", *bounds)
    grid.add_row("  p (McNemar)", *(f"{c.p:.2g}" if c else "" for c in compared))
    grid.add_row("same text", *("" if v.identical is None else f"{100 * v.identical:.0f} %" for v in variants.values()))
    grid.add_row("seconds", *(f"{variant.seconds:.0f}" for variant in variants.values()), style="dim")
    return grid


def describe_fidelity(result: Fidelity, metric: str = "exact match") -> list[str]:
    """One sentence a variant: what was done, and how it compares with the adapter on its 4-bit base."""
    sentences = []
    for key, variant in result.variants.items():
        if compared := (variant.against_adapter or {}).get(metric):
            name = variant.name[:1].upper() + variant.name[1:]
            sentences.append(f"{name}: {describe_comparison(compared, ('adapter', SPOKEN.get(key, key)))}")
    return sentences
