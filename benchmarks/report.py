"""Writes `BENCHMARKS.md` from the saved figures: nothing in the page is typed by hand but the sentences between."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ftkit.common.files import read_json, replacing
from ftkit.common.paths import kit_root
from ftkit.training.plan import describe_gap

PAGE = Path(__file__).with_name("BENCHMARKS.md")


def middle(results: Iterable[dict[str, Any]], key: str) -> float:
    """The median of a figure over several runs."""
    return statistics.median(result[key] for result in results)


def spread(values: Sequence[float]) -> str:
    """Smallest and largest."""
    return f"{min(values):.2f} to {max(values):.2f}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the columns after the first to the right."""
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def on(result: dict[str, Any]) -> str:
    """Where and when a part was measured."""
    m = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    return f"*{m['date']}, {m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, no GPU; Python {m['python']}, {versions}.*"


def _earlier(result: dict[str, Any]) -> str:
    """The settings, where they were others than the profile's today."""
    return f"Measured with {result['earlier']}. " if "earlier" in result else ""


def training(result: dict[str, Any]) -> str:
    """The plain recipe against the kit's."""
    plain, kit = result["plain"], result["kit"]
    gaps = [k["validation_loss"] - p["validation_loss"] for p, k in zip(plain, kit, strict=True)]
    losses = [p["validation_loss"] for p in plain]
    gap, among = statistics.median(gaps), max(losses) - min(losses)
    verdict = "within" if abs(gap) <= among else "more than"
    sooner = [sooner_at_the_same_loss(p["losses"], k["losses"]) for p, k in zip(plain, kit, strict=True)]
    share = statistics.median(_flops(k, result["with"]["rank"]) / k["matrix_gflops"] / 1e9 for k in kit)
    rows = [
        (name, *(f"{middle(runs, key):{form}}" for key, form in
                 (("tokens_per_second", ",.0f"), ("seconds", ",.0f"), ("peak_memory_mb", ",.0f"), ("validation_loss", ".3f"))))
        for name, runs in (("plain recipe", plain), ("ftkit", kit))
    ]  # fmt: skip
    return f"""## Training

{_earlier(result)}The plain recipe is trl's `SFTTrainer` with its defaults over a 4-bit base, LoRA on all linear layers, batches of {result["with"]["batch_size"]}, as
tutorials print it; `ftkit` is the kit's training in batches of as many. Same rows, same rank ({result["with"]["rank"]}), learning rate and
schedule, {plain[0]["steps"]} steps each, {len(plain)} pairs, each with a seed of its own; every run in a process of its own. The rows are those of
steps drawn at random from a whole epoch of the kit's, batch by batch; the plain recipe shuffles them. Real tokens are those that are not padding.

{table(["median of the pairs", "real tokens/s", "seconds", "peak memory, MB", "validation loss"], rows)}

**{result["median_ratio"]:.1f} times the tokens a second** (the pairs: {spread(result["ratios"])}), and as many times sooner through the same rows. After
them the kit's validation loss is {gap:+.3f} beside the plain recipe's (the pairs: {min(gaps):+.3f} to {max(gaps):+.3f}): {verdict}
its spread over the seeds, {among:.3f}. The loss that both reach, the higher of the two at the end of a pair, the kit has
{statistics.median(sooner):.1f} times as soon ({spread(sooner)}). The kit's training reaches {share:.0%} of the rate of bf16 matrix products that the machine showed in the
same minute ({middle(kit, "matrix_gflops"):,.0f} GFLOP/s).

{on(result)}"""


def sooner_at_the_same_loss(plain: list[dict[str, float]], kit: list[dict[str, float]]) -> float:
    """How many times as soon the kit has the loss that both reach: the higher of the two last ones."""
    loss = max(plain[-1]["loss"], kit[-1]["loss"])
    return seconds_to(plain, loss) / seconds_to(kit, loss)


def seconds_to(losses: list[dict[str, float]], wanted: float) -> float:
    """Seconds until the loss is as low as wanted, on the straight line between two measurements."""
    before = losses[0]
    for now in losses:
        if now["loss"] <= wanted:
            share = (before["loss"] - wanted) / (before["loss"] - now["loss"]) if before["loss"] > now["loss"] else 1.0
            return before["seconds"] + share * (now["seconds"] - before["seconds"])
        before = now
    raise ValueError(f"a loss of {wanted} is not reached")


def _flops(result: dict[str, Any], rank: int) -> float:
    """Operations a second of a measured training: 4 a frozen weight and 6 a trained one for every real token."""
    from ftkit.common.profiles import read_profiles
    from ftkit.training.plan import model_shape, operations_per_token

    profile = read_profiles()["cpu"].with_changes(rank=rank)
    return operations_per_token(model_shape(profile.model), "qlora", profile, 105) * result["tokens_per_second"]


def levers(result: dict[str, Any]) -> str:
    """Each lever: what was expected, what was measured, whether it is kept."""
    rows, counts = [], []
    for name, lever in result["levers"].items():
        runs = [run for run in result["rounds"][name] if "failed" not in run]
        if not runs:
            rows.append((name, lever["what"], lever["expected"], "did not run", "", "no"))
            continue
        counts.append(len(runs))
        rates = [run["tokens_per_second"] / run["kit"]["tokens_per_second"] for run in runs]
        memory = statistics.median(run["peak_memory_mb"] - run["kit"]["peak_memory_mb"] for run in runs)
        if lever["how"] == "without":
            gain, saved = 1 / statistics.median(rates) - 1, -memory
            kept = "yes"
        else:
            gain, saved = statistics.median(rates) - 1, memory
            kept = "no"
        rows.append((name, lever["what"], lever["expected"], f"{gain:+.0%}", f"{saved:+,.0f} MB", kept))
    return f"""## The levers, one by one

{_earlier(result)}Each was taken out of the kit's training, or put into it, alone; {min(counts)} rounds, {result["steps"]} steps each, in the same minutes. Gain and
memory are those of *having* the lever.

{table(["lever", "what it does", "expected", "measured", "peak memory", "kept"], rows)}

{on(result)}"""


def generation(result: dict[str, Any]) -> str:
    """One at a time against batches."""
    plain, kit = result["plain"], result["kit"]
    rows = [
        (name, f"{middle(runs, 'messages_per_second'):.2f}", f"{middle(runs, 'peak_memory_mb'):,.0f}")
        for name, runs in (("`generate`, one message at a time", plain), ("ftkit, sorted batches", kit))
    ]
    return f"""## Answers for the evaluation

{_earlier(result)}The tuned model on the desk's test messages, greedily: {plain[0]["n"]} messages one at a time on the PEFT model, {kit[0]["n"]} by the
evaluation's path, {len(plain)} pairs.

{table(["median of the pairs", "messages/s", "peak memory, MB"], rows)}

**{result["median_ratio"]:.1f} times as many** (the pairs: {spread(result["ratios"])}). On the messages that both answered, {result["equal_answers"]:.0%} of the
answers are the same to the letter; the rest differ because a batch adds up in another order, in bfloat16.

{on(result)}"""


def stream(result: dict[str, Any]) -> str:
    """The demo's stream."""
    names = {
        "plain": "`generate` with a streamer, tuned",
        "kit": "ftkit, tuned",
        "both sides": "ftkit, base and tuned at once",
    }
    rows = [
        (said, f"{middle(result[name], 'first_token_seconds'):.2f}", f"{middle(result[name], 'tokens_per_second'):.1f}")
        for name, said in names.items()
    ]
    same = f"; {result['equal_answers']:.0%} of the answers are the same to the letter" if "equal_answers" in result else ""
    return f"""## The demo's stream

One message at a time, each answered in turn by the three ways in one process, {len(result["plain"])} messages after one to warm up.

{table(["median of the messages", "first token, s", "tokens/s"], rows)}

**{result["median_ratio"]:.1f} times the tokens a second** for the tuned side alone (the pairs: {spread(result["ratios"])}){same}. The weights are dequantized
once; what all prompts begin with is computed once; and tokens that the training answers make likely are guessed, so that one step of the
model confirms several (only those that it would have chosen). With both sides, which take turns, the first token is the slower side's.
The plain way's first text comes late because transformers' streamer holds text back until a blank, and a ticket has none.

{on(result)}"""


def growth(result: dict[str, Any]) -> str:
    """Time and memory against size, and the plan beside the measurement."""
    label = {"examples": "examples", "length": "length", "rank": "rank", "batch": "batch_size", "method": "method"}
    rows, gaps = [], []
    for name, runs in result.items():
        if name not in label:
            continue
        for run in runs:
            planned, measured = run["planned_memory_mb"], run["peak_memory_mb"]
            gaps.append(abs(measured / planned - 1))
            rows.append((
                f"{name} {run['given'][label[name]]}", f"{run['tokens_per_second']:,.0f}", f"{run['seconds'] / run['steps']:.2f}",
                f"{planned:,}", f"{measured:,}", describe_gap(planned, measured),
            ))  # fmt: skip
    runs = result["examples"]
    examples, seconds = ([run["given"]["examples"] for run in runs], [run["seconds"] for run in runs])
    line = statistics.linear_regression(examples, seconds)
    off = max(abs(s / (line.intercept + line.slope * n) - 1) for n, s in zip(examples, seconds, strict=True))
    within = sum(gap <= 0.1 for gap in gaps)
    shipped = read_json(kit_root() / "data" / "reference_run" / "run.json")["training"]
    return f"""## Growth, and the plan beside the measurement

{_earlier(result)}One setting changed at a time, the rest as in the `cpu` profile; one epoch of 112, 224 and 448 examples, 56 steps for the others.
`planned` is what `ftkit plan` says before.

{table(["setting", "real tokens/s", "seconds a step", "planned, MB", "measured, MB", "gap"], rows)}

The time of an epoch is a straight line in the number of examples: {line.intercept:.1f} s to begin with and {1000 * line.slope:.0f} ms an example,
which all three meet within {off:.0%}. The plan is within 10 % of the measured peak in {within} of {len(gaps)}
settings; the largest gap is {max(gaps):.0%}. These trainings are short. In a long one the allocator collects more between the tensors: the run in
`data/reference_run` took {shipped["memory_against_plan"]} in its {shipped["steps"]:,} steps.

{on(result)}"""


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "training": training, "levers": levers, "generation": generation, "stream": stream, "growth": growth,
}  # fmt: skip


def write(results: Path) -> None:
    """Write the page from the saved figures."""
    saved = read_json(results)
    parts = [say(saved[name]) for name, say in SECTIONS.items() if name in saved]
    head = """# Benchmarks

Measured by `make bench` (a bit over an hour on two cores; `make bench ARGS="--only stream"` for a part), which writes this page
from `benchmarks/results/`. What is compared was run side by side in one go, in pairs; shared machines are noisy, so read the ratios and not the
single figures. No GPU figure is given: none has been measured yet."""
    with replacing(PAGE) as temporary:
        temporary.write_text("\n\n".join([head, *parts]) + "\n", encoding="utf-8")
