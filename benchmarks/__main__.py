"""`make bench`: measure side by side, keep the figures in results/, write BENCHMARKS.md. `--help` lists the parts."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from ftkit.common.errors import KitError
from ftkit.common.files import read_json, write_json
from ftkit.common.machine import detect_hardware
from ftkit.common.profiles import read_profiles

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "cpu.json"
LEVERS = {  # lever: what taking it out, or putting it in, was expected to do to the speed
    "allocator": ("without", "memory kept between steps instead of returned to the kernel", "+25 % (system time)"),
    "attention": ("without", "attention as four bf16 matrix products", "+15 % (its backward was a sixth)"),
    "adapter layers": ("without", "4-bit product and adapter in one autograd step", "+10 % (six passes over memory saved)"),
    "small layers": ("without", "norms and gates in one autograd step each", "+3 %; and less memory kept"),
    "kept scales": ("without", "scales of the 4-bit blocks unpacked from their 8 bits once", "+3 % (half of the unpacking)"),
    "completion loss": ("without", "logits on completion tokens only, no entropy and accuracy", "+30 %"),
    "like lengths": ("without", "batches of like length: less padding", "+25 % (a quarter of random batches is padding)"),
    "round lengths": ("without", "batches padded to multiples of 8 tokens", "-3 % (padding), but fewer sizes of blocks"),
    "no checkpointing": ("without", "activations kept, not computed twice", "+33 % (one forward of three passes saved)"),
    "trim": ("without", "kept memory given back every 24 rows", "0 % (it is for the memory)"),
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


def run(name: str, timeout: float = 900, **given: Any) -> dict[str, Any]:
    """One measurement in a process of its own; raises `KitError` with its last words if it fails."""
    environment = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    plain = name.startswith("plain") or "allocator" in given.get("without", [])
    environment["FTKIT_KEEP_MEMORY"] = "0" if plain else "1"
    command = [sys.executable, "-m", "benchmarks.measure", name, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, cwd=HERE.parent)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise KitError(f"{name} failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    result = json.loads(lines[-1][7:])
    shown = {k: v for k, v in result.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    print(f"  {name} {json.dumps(given)}: {json.dumps(shown)}", flush=True)
    return {"given": given, **result}


def machine() -> dict[str, Any]:
    """What was measured on, and with which versions."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    names = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(detect_hardware().memory),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def training(pairs: int, steps: int = 48) -> dict[str, Any]:
    """The plain recipe against the kit's training: the same rows, steps and settings; a pair has a seed of its own.

    Both take the plain recipe's 8 examples at a time: the code is compared, not the recipe. The rows are those of steps
    drawn from a whole epoch; the plain recipe shuffles them, as it would all. Meanwhile the loss on the validation split is
    taken several times, the clock standing still.
    """
    profile = read_profiles()["cpu"]
    found: dict[str, list] = {"plain": [], "kit": []}
    for seed in range(pairs):
        given = {"steps": steps, "sample": steps, "seed": seed, "validate_every": steps // 4}
        found["plain"].append(run("plain_training", **given))
        found["kit"].append(run("kit_training", **given, **as_plain()))
    ratios = [k["tokens_per_second"] / p["tokens_per_second"] for p, k in zip(*found.values(), strict=True)]
    with_ = {"rank": profile.rank, **as_plain()}
    return {**found, "with": with_, "ratios": ratios, "median_ratio": statistics.median(ratios)}


def as_plain() -> dict[str, int]:
    """The plain recipe's batch: what the kit is given where its code is measured."""
    from benchmarks.measure import PLAIN_BATCH

    return {"batch_size": PLAIN_BATCH, "gradient_accumulation": 1}


def levers(rounds: int, steps: int = 8, only: Sequence[str] = ()) -> dict[str, Any]:
    """The kit's training, and the same with one lever taken out or put in; every round measures all of them, or `only` some.

    Each figure stands beside the kit's own of the same round. Levers that are not measured keep their saved figures.
    """
    saved = read_json(RESULTS).get("levers", {}).get("rounds", {}) if only and RESULTS.exists() else {}
    names = only or list(LEVERS)
    found: dict[str, list] = {name: [] if name in names else saved.get(name, []) for name in LEVERS}
    given = {"steps": steps, "sample": steps, **as_plain()}
    for _ in range(rounds):
        kit = run("kit_training", **given)
        beside = {key: kit[key] for key in ("tokens_per_second", "peak_memory_mb")}
        for name in names:
            try:
                found[name].append({**run("kit_training", **given, **{LEVERS[name][0]: [name]}), "kit": beside})
            except (KitError, subprocess.TimeoutExpired) as error:
                found[name].append({"failed": str(error)[:300]})
                print(f"  {name}: {error}", flush=True)
    told = {name: {"how": h, "what": w, "expected": e} for name, (h, w, e) in LEVERS.items()}
    return {"rounds": found, "steps": steps, "levers": told}


def generation(pairs: int, n: int = 8) -> dict[str, Any]:
    """One message at a time against batches; the answers to the same messages compared."""
    found: dict[str, list] = {"plain": [], "kit": []}
    for _ in range(pairs):
        found["plain"].append(run("plain_generation", n=n))
        found["kit"].append(run("kit_generation", n=64))
    ratios = [k["messages_per_second"] / p["messages_per_second"] for p, k in zip(*found.values(), strict=True)]
    equal = [a == b for p, k in zip(*found.values(), strict=True) for a, b in zip(p["answers"], k["answers"], strict=False)]
    for result in (*found["plain"], *found["kit"]):
        del result["answers"]
    return {**found, "ratios": ratios, "median_ratio": statistics.median(ratios), "equal_answers": sum(equal) / len(equal)}


def stream(pairs: int) -> dict[str, Any]:
    """The demo's stream against plain `generate` with a streamer."""
    found = run("streams", n=pairs, timeout=1800)["found"]
    pairs_ = list(zip(found["plain"], found["kit"], strict=True))
    ratios = [k["tokens_per_second"] / p["tokens_per_second"] for p, k in pairs_]
    equal = [p.pop("answer") == k.pop("answer") for p, k in pairs_]
    return {**found, "ratios": ratios, "median_ratio": statistics.median(ratios), "equal_answers": sum(equal) / len(equal)}


def growth(_: int) -> dict[str, Any]:
    """Time and memory against the number of examples, their length, the rank, the batch, and the method; and the plan."""
    from ftkit.training.plan import plan_training

    settings = {  # 56 steps: the second round of lengths has begun, from the longest on, and memory stands where it stays
        "examples": [{"examples": 112 * k, "steps": 56 * k} for k in (1, 2, 4)],
        "length": [{"length": n, "steps": 56, "examples": 112} for n in (192, 384)],
        "rank": [{"rank": r, "steps": 56} for r in (8, 128)],
        "batch": [{"batch_size": b, "steps": 56} for b in (2, 4, 8)],
        "method": [{"method": m, "steps": 56} for m in ("qlora", "lora", "full")],
    }
    found: dict[str, list] = {}
    for name, some in settings.items():
        found[name] = []
        for given in some:
            result = run("kit_training", **given)
            result["planned_memory_mb"] = round(plan_training(**_planned(given)).peak_mb)
            found[name].append(result)
            print(f"    planned {result['planned_memory_mb']} MB, measured {result['peak_memory_mb']} MB", flush=True)
    return found


def _planned(given: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.measure import examples, profile_of

    profile = profile_of(given)
    lengths = examples(profile, given)["length"]
    return {"profile": profile, "method": given.get("method", "qlora"), "lengths": lengths}


PARTS = {"training": training, "levers": levers, "generation": generation, "stream": stream, "growth": growth}


def main() -> None:
    """Measure the parts asked for, save after each, and write the page."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="parts to measure; all if left out")
    parser.add_argument("--pairs", type=int, default=5, help="pairs, or rounds, of each part")
    parser.add_argument("--lever", nargs="*", choices=LEVERS, default=[], help="of the part levers, only these")
    parser.add_argument("--report", action="store_true", help="only write BENCHMARKS.md from the saved figures")
    given = parser.parse_args()
    for name in [] if given.report else given.only:
        print(f"{name}: {PARTS[name].__doc__}", flush=True)
        result = PARTS[name](given.pairs, **({"only": given.lever} if name == "levers" else {}))
        results = read_json(RESULTS) if RESULTS.exists() else {"format": 1}
        results[name] = {"machine": machine(), **result}
        write_json(RESULTS, results)
    report.write(RESULTS)
    print(f"Written: {report.PAGE.name}")


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(f"make bench: {error}")
