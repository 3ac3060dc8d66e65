"""The recipe, looked for: experiments out of `recipe.toml`, each trained on desk training rows and scored on validation.

`python -m tests.benchmarks.recipe` runs what has no result yet (resumable, a process an experiment), saves after each,
and writes the page and the plots. `--only GROUP ...`, `--hours 1.5`, `--workers 2`, `--report`.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from ftkit.base import KitError, kit_root, read_json, write_json
from ftkit.runs import versions

PLAN = Path(__file__).with_name("recipe.toml")
RESULTS = kit_root() / "data" / "experiments" / "recipe.json"
FORMAT = 1


@dataclass(frozen=True)
class Experiment:
    """What decides a result: `method`, `seed`, `rows` (None: all), and changes to profile, task, adapter and trainer."""

    method: str
    seed: int
    rows: int | None = None
    profile: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] = field(default_factory=dict)
    sft: dict[str, Any] = field(default_factory=dict)
    special: str = ""

    @property
    def key(self) -> str:
        """Twelve digits that stand for all of it."""
        text = json.dumps(vars(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Line:
    """One line of the table: a change from its group's centre, what was expected of it, and an experiment a seed."""

    group: str
    name: str
    expected: str
    experiments: tuple[Experiment, ...]
    kept: str = ""


def read_plan(path: Path = PLAN) -> list[Line]:
    """All lines of the plan: the groups in order, each with its centre first."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    lines = []
    for group, given in table.items():
        centre, seeds = given.get("centre", {}), given["seeds"]
        centre = _merged(table[given["from"]]["centre"], centre) if "from" in given else centre
        if "curve" in given:
            lines += _curve(group, centre, given)
            continue
        changes = ([{"name": "the centre", "expected": ""}] if given.get("show_centre", True) else []) + given.get(
            "line", []
        )
        for change in changes:
            own = {k: v for k, v in change.items() if k not in ("name", "expected", "seeds", "kept")}
            whole = _merged(centre, own)
            some = tuple(Experiment(**{"method": "qlora", **whole, "seed": seed}) for seed in change.get("seeds", seeds))
            lines.append(Line(group, change["name"], change["expected"], some, change.get("kept", "")))
    return lines


def _curve(group: str, centre: dict[str, Any], given: dict[str, Any]) -> Iterator[Line]:
    for rows, steps in given["curve"]:
        for method, own in given["methods"].items():
            whole = _merged(_merged(centre, {"profile": {"max_steps": steps}}), own)
            some = tuple(Experiment(**{**whole, "method": method, "rows": rows, "seed": seed}) for seed in given["seeds"])
            yield Line(group, f"{method}, {rows} rows", "", some)


def _merged(centre: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` laid over `centre`, table by table."""
    both = {**centre, **own}
    return {k: {**centre[k], **own[k]} if isinstance(v, dict) and k in centre and k in own else v for k, v in both.items()}


# --- one experiment, in a process of its own ---


def run(experiment: Experiment) -> dict[str, Any]:
    """Train and score. Returns figures and, for every validation row, whether intent and whole ticket were right."""
    task = _task(experiment)
    rows = _rows(experiment, task, "train")
    if experiment.rows:
        rows = _subset(rows, experiment.rows, experiment.seed)
    if experiment.method == "tfidf":
        return _tfidf(task, rows)
    write, read = FORMS[experiment.task.get("form", "compact")]
    with mock.patch("ftkit.tasks.completion_text", lambda task, answer: write(answer)):
        return _trained(experiment, task, rows, read)


def _trained(experiment: Experiment, task: Any, rows: list[dict[str, Any]], read: Callable[[str], str]) -> dict[str, Any]:
    import torch
    from datasets import Dataset

    from ftkit.evaluation import score
    from ftkit.generation import Answerer
    from ftkit.models import load_tokenizer, quiet_libraries
    from ftkit.profiles import read_profiles
    from ftkit.tasks import example_ids, training_example
    from ftkit.training import cast_adapter

    from .measure import validation_loss

    profile = read_profiles()["cpu"].with_changes(seed=experiment.seed, **experiment.profile)
    quiet_libraries()
    tokenizer = load_tokenizer(profile.model)
    data = Dataset.from_list(
        [{**training_example(task, row), "length": len(example_ids(tokenizer, task, row))} for row in rows]
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(experiment, profile, data, Path(folder))
        began = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - began
    messages = _rows(experiment, task, "validation")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    model = trainer.model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    cast_adapter(model, model.dtype)  # as it is saved
    found = {
        "steps": trainer.state.global_step,
        "examples": trainer.state.global_step * profile.examples_per_step,
        "tokens": int(trainer._total_train_tokens),
        "seconds": round(seconds, 1),
        "loss": round(losses[-1], 4),
        "validation_loss": round(validation_loss(model, torch, task, messages, tokenizer), 4),
        "trained_parameters": trained,
    }
    answerer = Answerer(task, model.eval(), tokenizer, 64, profile.max_new_tokens)
    texts = [read(text) for text in answerer.answer([row[task.message] for row in messages])]
    return found | _scored(score(task, messages, texts))


def _task(experiment: Experiment) -> Any:
    """The desk, with its prompt changed."""
    from ftkit.tasks import load_task

    changes = {name: value for name, value in experiment.task.items() if name not in ("order", "form")}
    task = load_task("desk")
    if words := changes.pop("intents_told", None):
        intents = next(f.values for f in task.fields if f.name == "intent")
        changes["system_prompt"] = f"{words} {', '.join(intents)}."
    return replace(task, **changes)


EMPTY = {"guests": None, "day": None, "time": None, "allergens": []}
ONE_TOKEN = {"complaint": "problem", "praise": "thanks", "billing": "money", "lost_item": "lost"}


def _compact(ticket: dict[str, Any]) -> str:
    return json.dumps(ticket, separators=(",", ":"))


def _given_only(ticket: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in ticket.items() if name not in EMPTY or value != EMPTY[name]})


def _read_given(text: str) -> str:
    try:
        return json.dumps({**dict.fromkeys(("intent", "urgency")), **EMPTY, **json.loads(text)})
    except (ValueError, TypeError):
        return text


def _values(ticket: dict[str, Any]) -> str:
    shown = [" ".join(v) or "-" if isinstance(v, list) else "-" if v is None else str(v) for v in ticket.values()]
    return " | ".join(shown)


def _read_values(text: str) -> str:
    parts = [part.strip() for part in text.split("|")]
    if len(parts) != 6:
        return text
    intent, urgency, guests, day, time_, allergens = (None if part == "-" else part for part in parts)
    guests = int(guests) if guests and guests.isascii() and guests.isdigit() else guests
    whole = {"intent": intent, "urgency": urgency, "guests": guests, "day": day, "time": time_}
    return json.dumps({**whole, "allergens": (allergens or "").split()})


def _words(ticket: dict[str, Any]) -> str:
    return _compact({**ticket, "intent": ONE_TOKEN.get(ticket["intent"], ticket["intent"])})


def _read_words(text: str) -> str:
    back = {word: intent for intent, word in ONE_TOKEN.items()}
    try:
        ticket = json.loads(text)
        return json.dumps({**ticket, "intent": back.get(ticket["intent"], ticket["intent"])})
    except (ValueError, TypeError, KeyError):
        return text


# A ticket's form: how it is written for training, and how an answer becomes JSON again before it is scored
FORMS: dict[str, tuple[Callable[[dict[str, Any]], str], Callable[[str], str]]] = {
    "compact": (_compact, str),
    "spaced": (json.dumps, str),
    "given only": (_given_only, _read_given),
    "values": (_values, _read_values),
    "one-token words": (_words, _read_words),
}


def _rows(experiment: Experiment, task: Any, split: str) -> list[dict[str, Any]]:
    """A split's rows, the ticket's fields in the experiment's order."""
    rows = task.rows(split)
    if order := experiment.task.get("order"):
        rows = [{**row, task.target: {name: row[task.target][name] for name in order}} for row in rows]
    return rows


def _subset(rows: list[dict[str, Any]], n: int, seed: int) -> list[dict[str, Any]]:
    """`n` rows drawn by the seed, each intent by its share; smaller draws of a seed are not part of larger ones."""
    from sklearn.model_selection import train_test_split

    if n >= len(rows):
        return rows
    return train_test_split(rows, train_size=n, random_state=seed, stratify=[row["ticket"]["intent"] for row in rows])[0]


def _trainer(experiment: Experiment, profile: Any, data: Any, folder: Path) -> Any:
    """The kit's trainer with the experiment's changes."""
    import torch
    from transformers import PrinterCallback, set_seed

    from ftkit import kernels
    from ftkit.models import load_model, load_tokenizer, prepare_model
    from ftkit.profiles import resolve_dtype
    from ftkit.training import cast_adapter, completion_trainer, lora_config, sft_config

    method, dtype, (special, *more) = experiment.method, resolve_dtype(profile.dtype), experiment.special.split() or [""]
    set_seed(profile.seed)
    config = sft_config(profile, folder, dtype)
    config.save_strategy, config.logging_steps = "no", min(10, profile.max_steps)
    for name, value in experiment.sft.items():
        setattr(config, name, value)
    adapter = lora_config(profile)
    for name, value in experiment.lora.items():
        setattr(adapter, name, value)
    model = load_model(profile.model, profile.dtype, four_bit=method == "qlora")
    if special == "blocks":
        _quantize_again(model, profile, int(more[0]))
    if kernels.wanted(model.device.type):
        model.set_attn_implementation(kernels.register())
    kept = getattr(torch, special) if special in ("float32", "bfloat16") else None
    if method == "full":
        model = model.to(kept or getattr(torch, dtype))
    if special == "eva":
        adapter = _eva(adapter)
    trainer = completion_trainer()(
        model=model,
        args=config,
        train_dataset=data,
        processing_class=load_tokenizer(profile.model),
        peft_config=None if method == "full" else adapter,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_trimming(profile))
    if method == "full":
        return trainer
    if special == "loftq":
        from peft import replace_lora_weights_loftq

        replace_lora_weights_loftq(trainer.model, model_path=str(Path(prepare_model(profile.model)) / "model.safetensors"))
    if special == "eva":
        from peft import initialize_lora_eva_weights

        batches = (batch for batch, _ in zip(trainer.get_train_dataloader(), range(40), strict=False))
        initialize_lora_eva_weights(trainer.model, [{k: v for k, v in batch.items() if k != "labels"} for batch in batches])
    cast_adapter(trainer.model, kept or torch.float32)
    kernels.speed_up_adapters(trainer.model)
    if special == "lora+":
        from peft.optimizers import create_loraplus_optimizer

        trainer.optimizer = create_loraplus_optimizer(
            trainer.model, torch.optim.AdamW, lr=profile.learning_rate, loraplus_lr_ratio=float(more[0])
        )
    return trainer


def _eva(adapter: Any) -> Any:
    """The adapter to be initialized from the activations on training rows (EVA, arXiv 2410.07170), every rank as given."""
    from peft import EvaConfig

    adapter.init_lora_weights, adapter.eva_config = "eva", EvaConfig(rho=1.0, use_label_mask=False)
    return adapter


def _quantize_again(model: Any, profile: Any, block: int) -> None:
    """Quantize the original weights in blocks of another size."""
    from bitsandbytes.nn import Params4bit

    from ftkit.models import linear_4bit_layers, load_model

    original = load_model(profile.model, profile.dtype, four_bit=False)
    names = {id(module): name for name, module in model.named_modules()}
    for layer in linear_4bit_layers(model):
        weight = original.get_submodule(names[id(layer)]).weight.data
        made = Params4bit(weight, requires_grad=False, quant_type="nf4", blocksize=block, compress_statistics=True)
        layer.weight = made.to(weight.device)
        layer.quant_state = layer.weight.quant_state


def _trimming(profile: Any) -> Any:
    from transformers import TrainerCallback

    from ftkit.base import return_freed_memory
    from ftkit.training import trim_steps

    class Trimming(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % trim_steps(profile) == 0:
                return_freed_memory()

    return Trimming()


def _tfidf(task: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """TF-IDF of words and word pairs with logistic regression: the intent alone, it cannot write a ticket."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    began = time.monotonic()
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=30.0, max_iter=2000))
    model.fit([row["message"] for row in rows], [row["ticket"]["intent"] for row in rows])
    messages = task.rows("validation")
    answers = model.predict([row["message"] for row in messages])
    right = [answer == row["ticket"]["intent"] for answer, row in zip(answers, messages, strict=True)]
    return {"seconds": round(time.monotonic() - began, 1), **_scored({"intent": right})}


def _scored(scores: dict[str, list[bool]]) -> dict[str, Any]:
    """Shares, and the rows of every metric as a string of 0 and 1 for paired comparisons."""
    return {
        "scores": {name: round(sum(rows) / len(rows), 4) for name, rows in scores.items()},
        "rows": {name: "".join("01"[value] for value in rows) for name, rows in scores.items()},
    }


# --- all of them ---


def load_results(path: Path = RESULTS) -> dict[str, Any]:
    """The saved results by experiment key."""
    saved = read_json(path) if path.exists() else {"format": FORMAT, "results": {}}
    if saved.get("format") != FORMAT:
        raise KitError(f"{path} is not of format {FORMAT}.")
    return saved


def search(only: list[str], hours: float, workers: int) -> None:
    """Run every experiment that has no result yet, the first seeds of all lines before the second ones."""
    lines = [line for line in read_plan() if not only or line.group in only]
    most = max(len(line.experiments) for line in lines)
    order = [line.experiments[i] for i in range(most) for line in lines if i < len(line.experiments)]
    todo = [e.it for e in dict.fromkeys(_Hashed(e) for e in order) if e.it.key not in load_results()["results"]]
    names = {e.key: f"{line.group}: {line.name}" for line in lines for e in line.experiments}
    print(f"{len(todo)} experiments to run, {workers} at a time", flush=True)
    until, saving = time.monotonic() + hours * 3600, threading.Lock()

    def one(experiment: Experiment) -> None:
        if time.monotonic() > until:
            return
        result = _in_a_process(experiment, workers)
        with saving:
            saved = load_results()
            saved["results"][experiment.key] = result
            write_json(RESULTS, saved)
        shown = {k: result[k] for k in ("seconds", "loss", "validation_loss", "scores", "failed") if k in result}
        print(f"{names[experiment.key]}, seed {experiment.seed}: {json.dumps(shown)}", flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, todo))


def _in_a_process(experiment: Experiment, workers: int) -> dict[str, Any]:
    """The experiment's result, or its last words, with what it ran on."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS=str(threads))
    command = [sys.executable, "-m", "tests.benchmarks.recipe", "--one", json.dumps(vars(experiment))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not found:
        result: dict[str, Any] = {"failed": (done.stderr.strip().splitlines() or ["?"])[-1][:300]}
    else:
        result = json.loads(found[-1][7:])
    ran = {"date": datetime.date.today().isoformat(), "threads": threads, "versions": versions()}
    return {"experiment": vars(experiment), **ran, **result}


@dataclass(frozen=True)
class _Hashed:
    """An experiment that can stand in a set."""

    it: Experiment

    def __hash__(self) -> int:
        return hash(self.it.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self.it.key == other.it.key


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recipe", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="groups of the plan; all if left out")
    parser.add_argument("--hours", type=float, default=24, help="start nothing new after so many hours")
    parser.add_argument("--workers", type=int, default=1, help="processes side by side, the cores shared out")
    parser.add_argument("--report", action="store_true", help="only write page and plots from the saved results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print("RESULT " + json.dumps(run(Experiment(**json.loads(given.one)))), flush=True)
        return
    if not given.report:
        search(given.only, given.hours, given.workers)
    from . import recipe_report

    recipe_report.write()


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(f"recipe: {error}")
