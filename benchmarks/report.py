"""Writes `BENCHMARKS.md` from the saved figures: nothing in the page is typed by hand but the sentences between."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.documents import (
    FOLDER,
    CpuResults,
    Failure,
    Generation,
    Growth,
    InterferenceResults,
    LeverRounds,
    Levers,
    LossAt,
    OnceMore,
    Processors,
    Section,
    Step,
    Stream,
    Training,
    TrainingPairs,
    UnderLoad,
)
from ftkit.common.files import replacing
from ftkit.common.paths import kit_root
from ftkit.common.profiles import read_profiles
from ftkit.runs.run import Run
from ftkit.training.plan import describe_gap, model_shape, operations_per_token

PAGE = Path(__file__).with_name("BENCHMARKS.md")
DECISIONS = {  # on the levers that were measured once more
    "allocator": "dropped",
    "trim": "dropped (it gave back what the allocator kept)",
    "round lengths": "kept, for the memory",
    "small layers": "dropped",
}


def median_of(results: Iterable[Any], field: str) -> float:
    """The median of a figure over several measurements."""
    return statistics.median(getattr(result, field) for result in results)


def spread(values: Sequence[float]) -> str:
    """Smallest and largest."""
    return f"{min(values):.2f} to {max(values):.2f}"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the columns after the first to the right."""
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def where_measured(section: Section | LeverRounds | InterferenceResults) -> str:
    """Where and when a part was measured, and what else the machine did if that is known."""
    m = section.machine
    state = "" if m.busy is None else f" beside {m.busy} busy processes" if m.busy else ", quiet"
    versions = ", ".join(f"{name} {version}" for name, version in m.versions.items())
    return f"*{m.date}, {m.cpu}, {m.cores} cores, {m.memory_gb} GB, no GPU{state}; Python {m.python}, {versions}.*"


def _earlier(section: Section) -> str:
    """The settings, where they were different from today's."""
    return f"Measured with {section.earlier}. " if section.earlier else ""


def training_section(result: TrainingPairs) -> str:
    """The plain recipe against the kit's."""
    plain, kit = result.plain, result.kit
    gaps = [k.validation_loss - p.validation_loss for p, k in zip(plain, kit, strict=True)]
    losses = [p.validation_loss for p in plain]
    gap, among = statistics.median(gaps), max(losses) - min(losses)
    verdict = "within" if abs(gap) <= among else "more than"
    sooner = [sooner_at_the_same_loss(p.losses, k.losses) for p, k in zip(plain, kit, strict=True)]
    share = statistics.median(_flops(k, result.both["rank"]) / k.matrix_gflops / 1e9 for k in kit)
    rows = [
        (name, *(f"{median_of(runs, key):{form}}" for key, form in
                 (("tokens_per_second", ",.0f"), ("seconds", ",.0f"), ("peak_memory_mb", ",.0f"), ("validation_loss", ".3f"))))
        for name, runs in (("plain recipe", plain), ("ftkit", kit))
    ]  # fmt: skip
    return f"""## Training

{_earlier(result)}The plain recipe is trl's `SFTTrainer` with its defaults over a 4-bit base, LoRA on all linear layers, batches of {result.both["batch_size"]}, as
tutorials print it; `ftkit` is the kit's training in batches of as many. Same rows, same rank ({result.both["rank"]}), learning rate and
schedule, {plain[0].steps} steps each, {len(plain)} pairs, each with a seed of its own; every run in a process of its own. The rows are those of
steps drawn at random from a whole epoch of the kit's, batch by batch; the plain recipe shuffles them. Real tokens are those that are not padding.

{markdown_table(["median of the pairs", "real tokens/s", "seconds", "peak memory, MB", "validation loss"], rows)}

**{result.median_ratio:.1f} times the tokens a second** (the pairs: {spread(result.ratios)}), and as many times sooner through the same rows. After
them the kit's validation loss is {gap:+.3f} beside the plain recipe's (the pairs: {min(gaps):+.3f} to {max(gaps):+.3f}): {verdict}
its spread over the seeds, {among:.3f}. The loss that both reach, the higher of the two at the end of a pair, the kit has
{statistics.median(sooner):.1f} times as soon ({spread(sooner)}). The kit's training reaches {share:.0%} of the rate of bf16 matrix products that the machine showed in the
same minute ({median_of(kit, "matrix_gflops"):,.0f} GFLOP/s).

{where_measured(result)}"""


def sooner_at_the_same_loss(plain: Sequence[LossAt], kit: Sequence[LossAt]) -> float:
    """How many times as soon the kit has the loss that both reach: the higher of the two last ones."""
    loss = max(plain[-1].loss, kit[-1].loss)
    return seconds_to(plain, loss) / seconds_to(kit, loss)


def seconds_to(losses: Sequence[LossAt], wanted: float) -> float:
    """Seconds until the loss is as low as wanted, on the straight line between two measurements."""
    before = losses[0]
    for now in losses:
        if now.loss <= wanted:
            share = (before.loss - wanted) / (before.loss - now.loss) if before.loss > now.loss else 1.0
            return before.seconds + share * (now.seconds - before.seconds)
        before = now
    raise ValueError(f"a loss of {wanted} is not reached")


def _flops(result: Training, rank: int) -> float:
    """Operations a second of a measured training: 4 a frozen weight and 6 a trained one for every real token."""
    profile = read_profiles()["cpu"].with_changes(rank=rank)
    return operations_per_token(model_shape(profile.model), "qlora", profile, 105) * result.tokens_per_second


def levers_section(result: Levers) -> str:
    """Each lever: what was expected, what was measured, whether it is kept."""
    rows, counts = [], []
    for name, lever in result.levers.items():
        runs = [run for run in result.rounds[name] if not isinstance(run, Failure)]
        if not runs:
            rows.append((name, lever.what, lever.expected, "did not run", "", "no"))
            continue
        counts.append(len(runs))
        rate = statistics.median(run.tokens_per_second / run.kit.tokens_per_second for run in runs)
        memory = statistics.median(run.peak_memory_mb - run.kit.peak_memory_mb for run in runs)
        removed = lever.how == "without"
        gain, saved = (1 / rate - 1, -memory) if removed else (rate - 1, memory)
        kept = "dropped since" if DECISIONS.get(name, "").startswith("dropped") else "yes" if removed else "no"
        rows.append((name, lever.what, lever.expected, f"{gain:+.0%}", f"{saved:+,.0f} MB", kept))
    return f"""## The levers, one by one

{_earlier(result)}Each was taken out of the kit's training, or put into it, alone; {min(counts)} rounds, {result.steps} steps each, in the same minutes. Gain and
memory are those of *having* the lever.

{markdown_table(["lever", "what it does", "expected", "measured", "peak memory", "kept"], rows)}

{where_measured(result)}"""


def once_more_section(result: OnceMore) -> str:
    """Four levers with the recipe's own batches, quiet and beside a busy process, and what was decided on each."""
    quiet, beside = result.quiet, result.busy
    rows = [
        (name, *_having(quiet, name), *_having(beside, name), DECISIONS.get(name, "–")) for name in (*DECISIONS, "all four")
    ]
    heads = ["lever", "speed, quiet", "peak memory, quiet", "speed, busy", "peak memory, busy", "decision"]
    return f"""## Levers measured once more

Four levers that did not pay in the table above, with the recipe's own small batches: {len(quiet.kit)} rounds of {quiet.steps} steps on a quiet machine, and
{len(beside.kit)} of {beside.steps} beside a process that took a core. Speed and memory are those of *having* the lever: the median, and in
brackets smallest and largest; what stands without brackets is a single measurement, and says little.

{markdown_table(heads, rows)}

A lever is dropped if it neither speeds up training nor saves memory worth having. On the quiet machine allocator, trim and small layers made
nothing faster by more than the rounds differ, and none saved a twentieth of the memory. Round lengths cost nothing that was seen and save a
fifth of it. In the one busy round all four together were much faster, which none of them shows alone: one measurement is no reason to keep them.

{where_measured(quiet)}"""


def _having(rounds: LeverRounds, name: str) -> tuple[str, str]:
    """Speed as a factor and MB of memory of having a lever."""
    pairs = list(zip(rounds.kit, getattr(rounds, name.replace(" ", "_")), strict=True))
    factors = [kit.tokens_per_second / without.tokens_per_second for kit, without in pairs]
    memory = statistics.median(kit.peak_memory_mb - without.peak_memory_mb for kit, without in pairs)
    reach = f" ({spread(factors)})" if len(factors) > 1 else ""
    return f"x{statistics.median(factors):.2f}{reach}", f"{memory:+,.0f} MB"


def generation_section(result: Generation) -> str:
    """One at a time against batches."""
    plain, kit = result.plain, result.kit
    rows = [
        (name, f"{median_of(runs, 'messages_per_second'):.2f}", f"{median_of(runs, 'peak_memory_mb'):,.0f}")
        for name, runs in (("`generate`, one message at a time", plain), ("ftkit, sorted batches", kit))
    ]
    return f"""## Answers for the evaluation

{_earlier(result)}The tuned model on the desk's test messages, greedily: {plain[0].n} messages one at a time on the PEFT model, {kit[0].n} by the
evaluation's path, {len(plain)} pairs.

{markdown_table(["median of the pairs", "messages/s", "peak memory, MB"], rows)}

**{result.median_ratio:.1f} times as many** (the pairs: {spread(result.ratios)}). On the messages that both answered, {result.equal_answers:.0%} of the
answers are the same to the letter; the rest differ because a batch adds up in another order, in bfloat16.

{where_measured(result)}"""


def stream_section(result: Stream) -> str:
    """The demo's stream."""
    ways = {
        "`generate` with a streamer, tuned": result.plain,
        "ftkit, tuned": result.kit,
        "ftkit, base and tuned at once": result.both_sides,
    }
    rows = [
        (way, f"{median_of(answers, 'first_token_seconds'):.2f}", f"{median_of(answers, 'tokens_per_second'):.1f}")
        for way, answers in ways.items()
    ]
    equal = result.equal_answers
    same = "" if equal is None else f"; {equal:.0%} of the answers are the same to the letter"
    return f"""## The demo's stream

{_earlier(result)}One message at a time, each answered in turn by the three ways in one process, {len(result.plain)} messages after one to warm up.

{markdown_table(["median of the messages", "first token, s", "tokens/s"], rows)}

**{result.median_ratio:.1f} times the tokens a second** for the tuned side alone (the pairs: {spread(result.ratios)}){same}. The weights are dequantized
once; what all prompts begin with is computed once; and tokens that the training answers make likely are guessed, so that one step of the
model confirms several (only those that it would have chosen). With both sides, which take turns, the first token is the slower side's.
The plain way's first text comes late because transformers' streamer holds text back until a space, and a ticket has none.

{where_measured(result)}"""


def growth_section(result: Growth) -> str:
    """Time and memory against size, and the plan beside the measurement."""
    rows, gaps = [], []
    for name in ("examples", "length", "rank", "batch", "method"):
        for run in getattr(result, name):
            planned, measured = round(run.planned_memory_mb), round(run.peak_memory_mb)
            gaps.append(abs(measured / planned - 1))
            rows.append((
                f"{name} {run.settings['batch_size' if name == 'batch' else name]}",
                f"{run.tokens_per_second:,.0f}", f"{run.seconds / run.steps:.2f}",
                f"{planned:,}", f"{measured:,}", describe_gap(planned, measured),
            ))  # fmt: skip
    examples, seconds = zip(*((run.settings["examples"], run.seconds) for run in result.examples), strict=True)
    line = statistics.linear_regression(examples, seconds)
    off = max(abs(s / (line.intercept + line.slope * n) - 1) for n, s in zip(examples, seconds, strict=True))
    within = sum(gap <= 0.1 for gap in gaps)
    shipped = Run(kit_root() / "data" / "reference_run").record.training
    return f"""## Growth, and the plan beside the measurement

{_earlier(result)}One setting changed at a time, the rest as in the `cpu` profile; one epoch of 112, 224 and 448 examples, 56 steps for the others.
`planned` is what `ftkit plan` says before.

{markdown_table(["setting", "real tokens/s", "seconds a step", "planned, MB", "measured, MB", "gap"], rows)}

The time of an epoch is a straight line in the number of examples: {line.intercept:.1f} s to begin with and {1000 * line.slope:.0f} ms an example,
which all three meet within {off:.0%}. The plan is within 10 % of the measured peak in {within} of {len(gaps)}
settings; the largest gap is {max(gaps):.0%}. These trainings are short. In a long one the allocator collects more between the tensors: the run in
`data/reference_run` took {shipped.memory_against_plan} in its {shipped.steps:,} steps.

{where_measured(result)}"""


def interference_section(result: InterferenceResults) -> str:
    """Training and stream beside busy programs, with threads that follow the load and with all of them."""
    rows = []
    for name, rounds in (("training", result.training), ("the demo's stream", result.stream)):
        for busy in (0, 1, 2):
            follows, fixed = (of_state(rounds, busy, whether) for whether in (True, False))
            shares = [share_of_quiet(rounds, busy, whether) for whether in (True, False)]
            beside = f"beside {busy}" if busy else "quiet"
            speeds = [f"{statistics.median(each.tokens_per_second for each in some):,.0f}" for some in (follows, fixed)]
            kept = [f"{statistics.median(some):.0%} ({min(some):.0%} to {max(some):.0%})" if busy else "" for some in shares]
            rows.append((f"{name}, {beside}", speeds[0], kept[0], speeds[1], kept[1]))
    quiet = {
        name: [
            a.tokens_per_second / b.tokens_per_second
            for a, b in zip(*(of_state(rounds, 0, w) for w in (True, False)), strict=True)
        ]
        for name, rounds in (("training", result.training), ("the stream", result.stream))
    }
    changes = [change for each in result.comes_and_goes for change in each.changes]
    came, went = ([c.seconds for c in changes if (c.after > c.before) == up] for up in (True, False))
    heads = ["tokens/s, median of the rounds", "following", "of its quiet speed", "all threads", "of its quiet speed"]
    return f"""## Beside other programs

Measured by `python -m benchmarks.interference`. A busy program is a loop that takes a core. *Following*: the number of threads follows the load,
as in every training, evaluation and demo of the kit (`ftkit/common/threads.py`); *all threads*: as before, and as `FTKIT_THREADS` or
`OMP_NUM_THREADS` ask. {len(result.training)} rounds of training and {len(result.stream)} of the stream (base and tuned at once), each with every state in an order of its own,
{_shortest(result.training):.0f} and {_shortest(result.stream):.0f} seconds a state or a little more. Each begins with all threads: the time until fewer are taken is part of it.

{markdown_table(heads, rows)}

On a quiet machine following has {" and ".join(f"{statistics.median(r):.2f} times the speed of all threads in {name} ({spread(r)})" for name, r in quiet.items())}.
A load that came was followed within {_within(came)}, one that went within {_within(went)} ({len(came)} and {len(went)} changes).

{where_measured(result)}"""


def of_state(rounds: Sequence[Sequence[UnderLoad]], busy: int, follows: bool) -> list[UnderLoad]:
    """What was measured in one state, round by round."""
    return [state for states in rounds for state in states if (state.busy, state.follows) == (busy, follows)]


def share_of_quiet(rounds: Sequence[Sequence[UnderLoad]], busy: int, follows: bool) -> list[float]:
    """What is left of the quiet speed of the same way and round."""
    pairs = zip(of_state(rounds, busy, follows), of_state(rounds, 0, follows), strict=True)
    return [beside.tokens_per_second / quiet.tokens_per_second for beside, quiet in pairs]


def _shortest(rounds: Sequence[Sequence[UnderLoad]]) -> float:
    return min(state.seconds for states in rounds for state in states)


def _within(seconds: Sequence[float | None]) -> str:
    known = [each for each in seconds if each is not None]
    late = len(seconds) - len(known)
    return f"{max(known, default=0.0):.1f} s" + (f" (but {late} not before the next change)" if late else "")


def processors_section(result: Processors) -> str:
    """The recipe in float32 and on one core."""
    own = result.ways["bfloat16"]
    rows = []
    for name, runs in result.ways.items():
        speed, of_own = (
            median_of(runs, "tokens_per_second"),
            [a.tokens_per_second / b.tokens_per_second for a, b in zip(runs, own, strict=True)],
        )
        rows.append(
            (
                name,
                f"{speed:,.0f}",
                f"{statistics.median(of_own):.2f} ({spread(of_own)})",
                f"{median_of(runs, 'peak_memory_mb'):,.0f}",
            )
        )
    heads = ["median of the rounds", "real tokens/s", "of bfloat16's speed", "peak memory, MB"]
    return f"""## Processors without bfloat16, and one core

The recipe's training, {result.steps} steps with batches of 2, {len(own)} rounds, as other processors would compute it: this one was kept from AVX-512 (`ATEN_CPU_CAPABILITY=avx2
ONEDNN_MAX_CPU_ISA=AVX2`, which the kit heeds when it chooses float32 or bfloat16), or from its second core (`OMP_NUM_THREADS=1`). A real older
processor also has another clock and other caches: read the ratios.

{markdown_table(heads, rows)}

{where_measured(result)}"""


def step_section(result: Step) -> str:
    """What a training step is made of."""
    batches = {run.settings.get("batch_size", 2) for run in result.runs}
    of_batch = {n: [run for run in result.runs if run.settings.get("batch_size", 2) == n] for n in sorted(batches)}
    kinds = sorted({kind for run in result.runs for kind in run.where}, key=lambda kind: -_share(result.runs, kind))
    rows = [(kind, *(f"{_share(runs, kind):.0%}" for runs in of_batch.values())) for kind in kinds]
    base, (most, largest) = kinds[0], max(of_batch.items())
    rates = [f"{n}: {median_of(runs, 'tokens_per_second'):,.0f} tokens/s" for n, runs in of_batch.items()]
    return f"""## Where a step's time goes

torch's profiler over {result.runs[0].settings["where"]} steps of {result.runs[0].steps}, in {len(result.runs)} trainings; medians. A step's rows: {"; ".join(rates)} (as they are
while they are profiled: slower). A product with weights counts what the operator itself takes, its fetching of them among it.

{markdown_table(["share of the time", *(f"{n} rows a step" for n in of_batch)], rows)}

If all but the {base} took no time, a step of {most} rows would be {1 / _share(largest, base):.1f} times as fast, and no kernel of the kit's
could make it faster. No single kind of work beside them takes a fifth: what is left has to be won in many small places.

{where_measured(result)}"""


def _share(runs: Sequence[Training], kind: str) -> float:
    return statistics.median(run.where.get(kind, 0) for run in runs)


def write(page: Path = PAGE, folder: Path = FOLDER) -> None:
    """Write the page from the saved figures."""
    results = CpuResults.load(folder)
    sections = (
        (training_section, results.training),
        (levers_section, results.levers),
        (once_more_section, OnceMore.load(folder) if OnceMore.exists(folder) else None),
        (generation_section, results.generation),
        (stream_section, results.stream),
        (growth_section, results.growth),
        (interference_section, InterferenceResults.load(folder) if InterferenceResults.exists(folder) else None),
        (processors_section, results.processors),
        (step_section, results.step),
    )
    head = """# Benchmarks

Measured by `make bench` (a bit over an hour on two cores; `make bench ARGS="--only stream"` for a part, `ARGS="--busy 1"` beside a
process that takes a core), which writes this page from `benchmarks/results/`. What is compared was run side by side in one go, in pairs;
shared machines are noisy, so read the ratios and not the single figures. No GPU figure is given: none has been measured yet."""
    with replacing(page) as temporary:
        parts = [head, *(write_section(result) for write_section, result in sections if result)]
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
