"""What each way of merging keeps of the tuned model (lesson 05)."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ftkit.common.console import clock
from ftkit.common.errors import KitError
from ftkit.common.files import read_json, write_json
from ftkit.common.memory import free_memory
from ftkit.deployment.merge import _merged, merged_model
from ftkit.deployment.proof import agreement, answering, timed
from ftkit.evaluation import intervals
from ftkit.evaluation.answer import Answerer, Loaded, load_tuned
from ftkit.evaluation.metrics import score
from ftkit.models.adapter import load_adapter
from ftkit.models.four_bit import dequantize
from ftkit.models.load import load_model, load_tokenizer
from ftkit.runs.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel


FORMAT = 1
VARIANTS = {
    "adapter": "adapter on the 4-bit base",
    "merged": "merged into the dequantized 4-bit base",
    "original": "merged into the original base",
    "requantized": "merged, then quantized to 4 bits again",
    "into 4-bit": "merged straight into the 4-bit layers",
}
SPOKEN = {"into 4-bit": "4-bit merged", "original": "original-base"}  # in sentences: "the ... model"


# --- what each way of merging keeps ---


def fidelity(run: Run, limit: int | None = None, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Let every variant answer the test split and compare each with the adapter on its 4-bit base, message by message.

    Quantizing a merged model again rounds much of the adapter away: the base's values lie on the 16 steps of 4 bits already,
    and the adapter moves most of them by less than half a step.

    Saves `merge_fidelity.json` in the run. `limit` takes the first so many rows. One model is in memory at a time.
    """
    task = run.task
    available = task.rows("test")
    rows = available[:limit]
    messages = [row[task.message] for row in rows]
    result: dict[str, Any] = {"format": FORMAT, "task": task.name, "split": "test", "n": len(rows), "of": len(available)}
    result["variants"], reference = {}, None
    for number, (key, name) in enumerate(VARIANTS.items(), start=1):
        with _loaded_variant(run, key) as answerer:
            say(f"{number} of {len(VARIANTS)}: {name}")
            texts, seconds = timed(answerer, messages, _progress(say))
        scores = {metric: values for metric, values in score(task, rows, texts).items() if isinstance(values[0], bool)}
        found: dict[str, Any] = {
            "name": name,
            "scores": {metric: sum(values) / len(values) for metric, values in scores.items()},
            "seconds": round(seconds, 1),
            "messages_per_second": round(len(rows) / seconds, 2),
        }
        if reference is None:
            reference = scores, texts
        else:
            found |= agreement(run, reference[1], texts)
            found["against_adapter"] = {
                metric: intervals.compare_shares(reference[0][metric], values).as_dict() for metric, values in scores.items()
            }
        result["variants"][key] = found
    write_json(run.folder / "merge_fidelity.json", result)
    return result


@contextlib.contextmanager
def _loaded_variant(run: Run, key: str) -> Iterator[Answerer]:
    profile = run.profile

    def tokenized(model: PreTrainedModel) -> Loaded:
        fast = model.device.type == "cpu" and getattr(model, "is_quantized", False)
        return (dequantize(model) if fast else model).eval(), load_tokenizer(profile.model)

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


def _progress(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Progress lines with the time left for this variant."""
    began = time.monotonic()

    def progress(done: int, of: int) -> None:
        left = (time.monotonic() - began) / done * (of - done)
        say(f"  {done} of {of} answered" + (f", {clock(left)} left" if left else ""))

    return progress


def load_fidelity(run: Run) -> dict[str, Any]:
    """The saved comparison. Raises `KitError` if there is none."""
    path = run.folder / "merge_fidelity.json"
    if not path.is_file():
        raise KitError(f"{run.name} has no merge fidelity yet: ftkit export {run.name} --fidelity")
    result = read_json(path)
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise KitError(f"{path} is not a merge fidelity of format {FORMAT}: ftkit export {run.name} --fidelity")
    return result


def fidelity_table(result: dict[str, Any]) -> Any:
    """The comparison for the terminal: a column a variant, the shares in percent, exact match with interval and p."""
    from rich.table import Table

    variants = result["variants"]
    part = f"the first {result['n']} of {result['of']}" if result["n"] < result["of"] else f"n = {result['n']}"
    grid = Table(title=f"{result['task']}, {result['split']} split, {part}", title_justify="left")
    grid.add_column("metric")
    for key in variants:
        grid.add_column(key, justify="right")
    for metric in variants["adapter"]["scores"]:
        grid.add_row(metric, *(f"{100 * found['scores'][metric]:.1f} %" for found in variants.values()))
    paired = [found.get("against_adapter", {}).get("exact match") for found in variants.values()]
    low_high = [p and " to ".join(f"{100 * x:+.1f}" for x in p["interval"]) for p in paired]
    grid.add_row("exact match, difference", *(f"{100 * p['difference']:+.1f}" if p else "" for p in paired), style="bold")
    grid.add_row("  95 % interval", *(shown or "" for shown in low_high))
    grid.add_row("  p (McNemar)", *(f"{p['p']:.2g}" if p else "" for p in paired))
    grid.add_row("same text", *(f"{100 * f['identical']:.0f} %" if "identical" in f else "" for f in variants.values()))
    grid.add_row("seconds", *(f"{found['seconds']:.0f}" for found in variants.values()), style="dim")
    return grid


def fidelity_in_words(result: dict[str, Any], metric: str = "exact match") -> list[str]:
    """One sentence a variant: what was done, and how it compares with the adapter on its 4-bit base."""
    said = []
    for key, found in result["variants"].items():
        if paired := found.get("against_adapter", {}).get(metric):
            fields = {name: value for name, value in paired.items() if name != "detected"}
            compared = intervals.Paired(**{**fields, "interval": tuple(fields["interval"])})
            name = found["name"][:1].upper() + found["name"][1:]
            said.append(f"{name}: {intervals.in_words(compared, ('adapter', SPOKEN.get(key, key)))}")
    return said
