"""`make bench`: measure side by side, keep the figures in results/, write BENCHMARKS.md. `--help` lists the parts."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.documents import FOLDER, CpuResults
from benchmarks.interference import busy
from ftkit.common.errors import KitError
from ftkit.common.machine import describe_machine
from ftkit.common.profiles import read_profiles

LEVERS = {  # lever: what taking it out, or putting it in, was expected to do to the speed
    "attention": ("without", "attention as four bf16 matrix products", "+15 % (its backward was a sixth)"),
    "adapter layers": ("without", "4-bit product and adapter in one autograd step", "+10 % (six passes over memory saved)"),
    "kept scales": ("without", "scales of the 4-bit blocks unpacked from their 8 bits once", "+3 % (half of the unpacking)"),
    "completion loss": ("without", "logits on completion tokens only, no entropy and accuracy", "+30 %"),
    "like lengths": ("without", "batches of like length: less padding", "+25 % (a quarter of random batches is padding)"),
    "round lengths": ("without", "batches padded to multiples of 8 tokens", "-3 % (padding), but fewer sizes of blocks"),
    "no checkpointing": ("without", "activations kept, not computed twice", "+33 % (one forward of three passes saved)"),
    "threads": ("without", "two threads on two cores, against one", "+80 %"),
    "small steps": ("extra", "a batch of 8 as two of 4, gradients added up", "-5 % (it is for the memory)"),
    "bf16 adapter": ("extra", "adapter weights in bfloat16, not float32", "+10 % (no casts)"),
    "packing": ("extra", "rows packed to 1,024 tokens, sdpa with a block mask", "-20 % (attention over all of them)"),
    "dequantized once": (
        "extra",
        "4-bit weights dequantized before training, not at each use",
        "+5 % (2 % of the time, twice)",
    ),
    "compiled": ("extra", "torch.compile on the model", "+10 %, less in the first minutes"),
}


OLDER = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}  # no AVX-512, and no bfloat16 with it
PROCESSORS: dict[str, dict[str, Any]] = {  # how the recipe is computed: what is different from this machine's own way
    "bfloat16": {},
    "bfloat16, one core": {"environment": {"OMP_NUM_THREADS": "1"}},
    "float32, AVX2": {"environment": OLDER},
    "float32, AVX2, one core": {"environment": OLDER | {"OMP_NUM_THREADS": "1"}},
    "float32, AVX2, layers of PyTorch and peft": {"environment": OLDER | {"FTKIT_FAST_KERNELS": "0"}},
    "float32, AVX-512": {"dtype": "float32"},
}


def run(name: str, timeout: float = 900, **settings: Any) -> dict[str, Any]:
    """One measurement in a process of its own; raises `KitError` with its last words if it fails.

    `environment` among the settings holds variables for the process.
    """
    given = settings.get("environment", {})
    environment = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", **given)
    command = [sys.executable, "-m", "benchmarks.measure", name, json.dumps(settings)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=timeout, cwd=Path(__file__).parents[1]
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise KitError(f"{name} failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    result = json.loads(lines[-1][7:])
    figures = {k: v for k, v in result.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    print(f"  {name} {json.dumps(settings)}: {json.dumps(figures)}", flush=True)
    return {"given": settings, **result}


def in_pairs(plain: Sequence[dict[str, Any]], kit: Sequence[dict[str, Any]], rate: str) -> dict[str, Any]:
    """Both sides' measurements and the kit's `rate` in the plain one's, pair by pair.

    Where they hold an `answer`, or `answers`, those are compared and taken out.
    """
    ratios = [k[rate] / p[rate] for p, k in zip(plain, kit, strict=True)]
    comparison = {"plain": plain, "kit": kit, "ratios": ratios, "median_ratio": statistics.median(ratios)}
    texts = [[result.pop("answers", None) or [result.pop("answer", None)] for result in side] for side in (plain, kit)]
    equal = [
        a == b for ours, theirs in zip(*texts, strict=True) for a, b in zip(ours, theirs, strict=False) if a is not None
    ]
    return comparison | ({"equal_answers": sum(equal) / len(equal)} if equal else {})


def training(pairs: int, steps: int = 48) -> dict[str, Any]:
    """The plain recipe against the kit's training: the same rows, steps and settings; a pair has a seed of its own.

    Both take the plain recipe's 8 examples at a time: the code is compared, not the recipe. The rows are those of steps
    drawn from a whole epoch; the plain recipe shuffles them, as it would all. Meanwhile the loss on the validation split is
    taken several times, while the clock is stopped.
    """
    plain, kit = [], []
    for seed in range(pairs):
        settings = {"steps": steps, "sample": steps, "seed": seed, "validate_every": steps // 4}
        plain.append(run("plain_training", **settings))
        kit.append(run("kit_training", **settings, **as_plain()))
    both = {"rank": read_profiles()["cpu"].rank, **as_plain()}
    return {"with": both, **in_pairs(plain, kit, "tokens_per_second")}


def as_plain() -> dict[str, int]:
    """The plain recipe's batch: what the kit is given where its code is measured."""
    from benchmarks.measure import PLAIN_BATCH

    return {"batch_size": PLAIN_BATCH, "gradient_accumulation": 1}


def levers(rounds: int, steps: int = 8, only: Sequence[str] = ()) -> dict[str, Any]:
    """The kit's training, and the same with one lever taken out or put in; every round measures all of them, or `only` some.

    Each figure stands beside the kit's own of the same round. Levers that are not measured keep their saved figures.
    """
    saved = saved_results().get("levers", {"rounds": {}, "levers": {}}) if only else {"rounds": {}, "levers": {}}
    names = only or list(LEVERS)
    results = saved["rounds"] | {name: [] for name in names}
    settings = {"steps": steps, "sample": steps, **as_plain()}
    for _ in range(rounds):
        kit = run("kit_training", **settings)
        beside = {key: kit[key] for key in ("tokens_per_second", "peak_memory_mb")}
        for name in names:
            try:
                results[name].append({**run("kit_training", **settings, **{LEVERS[name][0]: [name]}), "kit": beside})
            except (KitError, subprocess.TimeoutExpired) as error:
                results[name].append({"failed": str(error)[:300]})
                print(f"  {name}: {error}", flush=True)
    about = {name: dict(zip(("how", "what", "expected"), LEVERS[name], strict=True)) for name in names}
    return {"rounds": results, "steps": steps, "levers": saved["levers"] | about}


def generation(pairs: int, n: int = 8) -> dict[str, Any]:
    """One message at a time against batches; the answers to the same messages compared."""
    rounds = [(run("plain_generation", n=n), run("kit_generation", n=64)) for _ in range(pairs)]
    return in_pairs(*zip(*rounds, strict=True), "messages_per_second")


def stream(pairs: int) -> dict[str, Any]:
    """The demo's stream against plain `generate` with a streamer."""
    sides = run("streams", n=pairs, timeout=1800)["sides"]
    return sides | in_pairs(sides["plain"], sides["kit"], "tokens_per_second")


def growth(_: int) -> dict[str, Any]:
    """Time and memory against the number of examples, their length, the rank, the batch, and the method; and the plan."""
    from benchmarks.measure import planned_memory_mb

    changes = {  # 56 steps: the second round of lengths has begun, from the longest on, and memory stands where it stays
        "examples": [{"examples": 112 * k, "steps": 56 * k} for k in (1, 2, 4)],
        "length": [{"length": n, "steps": 56, "examples": 112} for n in (192, 384)],
        "rank": [{"rank": r, "steps": 56} for r in (8, 128)],
        "batch": [{"batch_size": b, "steps": 56} for b in (2, 4, 8)],
        "method": [{"method": m, "steps": 56} for m in ("qlora", "lora", "full")],
    }
    results: dict[str, list] = {name: [] for name in changes}
    for name, some in changes.items():
        for settings in some:
            result = run("kit_training", **settings) | {"planned_memory_mb": planned_memory_mb(settings)}
            results[name].append(result)
            print(f"    planned {result['planned_memory_mb']} MB, measured {result['peak_memory_mb']} MB", flush=True)
    return results


def processors(rounds: int, steps: int = 24) -> dict[str, Any]:
    """The recipe as processors without bfloat16, or with one core, compute it: this one, kept from what it could do."""
    results: dict[str, list] = {name: [] for name in PROCESSORS}
    for seed in range(rounds):
        for name, settings in PROCESSORS.items():
            given = {"steps": steps, "sample": steps, "seed": seed, "roofline": False}
            results[name].append(run("kit_training", **given, **settings))
    return {"steps": steps, "ways": results}


def step(rounds: int, steps: int = 24, profiled: int = 12) -> dict[str, Any]:
    """Where the time of a training step goes, with the recipe's batches of 2 and with batches of 8."""
    settings = {"steps": steps, "sample": steps, "where": profiled, "roofline": False}
    batches = ({}, as_plain())
    return {"runs": [run("kit_training", seed=seed, **settings, **own) for seed in range(rounds) for own in batches]}


PARTS = {
    "training": training,
    "levers": levers,
    "generation": generation,
    "stream": stream,
    "growth": growth,
    "processors": processors,
    "step": step,
}
APART = "interference"  # in a file of its own


def saved_results() -> dict[str, Any]:
    """The parts that were measured before."""
    return CpuResults.load(FOLDER).as_data() if CpuResults.exists(FOLDER) else {}


def main() -> None:
    """Measure the parts asked for, save after each, and write the page."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--only", nargs="*", choices=[*PARTS, APART], default=[*PARTS, APART], help="parts to measure; all if left out"
    )
    parser.add_argument("--pairs", type=int, default=5, help="pairs, or rounds, of each part")
    parser.add_argument("--lever", nargs="*", choices=LEVERS, default=[], help="of the part levers, only these")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="measure beside N processes that take a core each")
    parser.add_argument("--report", action="store_true", help="only write BENCHMARKS.md from the saved figures")
    options = parser.parse_args()
    for name in [] if options.report else options.only:
        if name == APART:
            command = [sys.executable, "-m", f"benchmarks.{APART}", "--fresh", "--rounds", str(options.pairs)]
            subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
            continue
        print(f"{name}: {PARTS[name].__doc__}", flush=True)
        with busy(options.busy):
            result = PARTS[name](options.pairs, **({"only": options.lever} if name == "levers" else {}))
        part = {"machine": describe_machine() | {"busy": options.busy}, **result}
        CpuResults.model_validate_json(json.dumps(saved_results() | {name: part})).save(FOLDER)
    report.write()
    print(f"Written: {report.PAGE.name}")


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(f"make bench: {error}")
