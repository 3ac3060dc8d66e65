"""The doctor for a model: the whole road with it on a few rows, one line for each thing that works or does not."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.common.errors import Finding, KitError
from ftkit.common.profiles import Profile, choose_profile
from ftkit.models.catalog import licence_of
from ftkit.models.find import Source, find_model, full_name

if TYPE_CHECKING:
    from ftkit.data.task import Task
    from ftkit.runs.run import Run

ROWS, STEPS = 16, 3  # of the desk, the shortest ones: enough to see whether a step can be made
NEAR = 0.15  # the plan's gap to the measured weights that is no finding
CLOSE = 0.1  # the largest gap of a token's logits, as a share of the largest, that rounding to 16 bits explains


@dataclass
class Trial:
    """A model on its way: what each check leaves for the next. `folder` is thrown away at the end."""

    name: str
    folder: Path
    task: Task
    profile: Profile
    said: list[str] = field(default_factory=list)
    run: Run | None = None
    ids: Any = None
    logits: Any = None


def examine_model(name: str, **changes: Any) -> Iterator[Finding]:
    """Take a model through the whole road on a few rows of the desk, one finding at a time (about a minute for 135M).

    `changes` go to the profile, which is this machine's. Nothing is kept. A check that itself fails is the last finding.
    """
    from ftkit.data.task import load_task
    from ftkit.models.load import quiet_libraries

    quiet_libraries()
    settings: dict[str, Any] = {"model": full_name(name), "max_steps": STEPS, "checkpoint_steps": STEPS, "max_length": 2048}
    settings |= {"gradient_accumulation": 1, "max_new_tokens": 16, **changes}
    profile = choose_profile().profile.with_changes(**settings)
    with tempfile.TemporaryDirectory(prefix="ftkit-doctor-") as folder, _runs_in(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' notices on single families
        trial = Trial(profile.model, Path(folder), load_task("desk"), profile)
        for check in CHECKS:
            try:
                yield from check(trial)
            except Exception as error:  # whatever a family does differently
                reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
                text = reason if isinstance(error, KitError) else f"{type(error).__name__}: {reason}"
                yield Finding(check.__name__.strip("_").replace("_", " "), False, text[:400], gate=True)
                return


@contextlib.contextmanager
def _runs_in(folder: str) -> Iterator[None]:
    before = os.environ.get("FTKIT_RUNS")
    os.environ["FTKIT_RUNS"] = folder
    try:
        yield
    finally:
        os.environ.pop("FTKIT_RUNS")
        if before is not None:
            os.environ["FTKIT_RUNS"] = before


def _family(trial: Trial) -> Iterator[Finding]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    from ftkit.models.families import context_length
    from ftkit.models.load import load_config

    config = load_config(trial.name)
    known = config.model_type in CAUSAL and not config.is_encoder_decoder
    reads = f"reads {n:,} tokens at once" if (n := context_length(config)) else "reads any number of tokens"
    text = f"{config.model_type}, {CAUSAL.get(config.model_type, 'no causal language model')}; {reads}"
    yield Finding("family", known, text, "Take a decoder-only language model that transformers knows.", gate=True)
    if not known:
        raise KitError(f"{config.model_type} is no decoder-only language model of transformers.")


def _licence(trial: Trial) -> Iterator[Finding]:
    licence, source = licence_of(trial.name), find_model(trial.name)
    if licence is None and source.path is not None:
        licence = _licence_in(source.path)
    yield Finding("licence", True, licence or "not known here: read the model's page", looked=licence is not None)


def _licence_in(folder: Path) -> str | None:
    """The licence that a model's README names in its front matter."""
    from huggingface_hub.repocard import metadata_load

    readme = folder / "README.md"
    with contextlib.suppress(ValueError):  # the front matter is no table
        return (metadata_load(readme) or {}).get("license") if readme.is_file() else None
    return None


def _weights(trial: Trial) -> Iterator[Finding]:
    source: Source = find_model(trial.name)
    if source.path is None or source.kind == "package":
        yield Finding("weights", True, f"from the {source.kind}, as safetensors")
        return
    files = [path.name for path in source.path.glob("*.safetensors")]
    text = f"{len(files)} file{'s' * (len(files) != 1)} of safetensors" if files else "no safetensors in the folder"
    fix = "Load the model where you trust its files, and save it again: model.save_pretrained(FOLDER)."
    yield Finding("weights", bool(files), text, fix)
    if not files:
        raise KitError(f"{source.path} holds no safetensors: weights in other formats can run code.")


def _tokenizer(trial: Trial) -> Iterator[Finding]:
    from ftkit.data.prompt import example_ids
    from ftkit.models.load import load_config, load_tokenizer

    tokenizer = load_tokenizer(trial.name)
    row = trial.task.rows("train")[0]
    n = len(example_ids(tokenizer, trial.task, row))
    marks = f"end {tokenizer.eos_token!r}, padding {tokenizer.pad_token!r}"
    text = f"{len(tokenizer):,} tokens, {marks}; the desk's first row has {n}"
    yield Finding("tokenizer", True, text)
    known = load_config(trial.name).get_text_config().vocab_size
    fits, text = len(tokenizer) <= known, f"the model knows {known:,} tokens"
    yield Finding("vocabulary", fits, text, "The tokenizer has more: it belongs to another model.")


def _four_bit(trial: Trial) -> Iterator[Finding]:
    import torch

    from ftkit.models.families import MOST, share_in_4_bits
    from ftkit.models.four_bit import linear_4bit_layers, weight_bytes
    from ftkit.models.load import load_model
    from ftkit.training.plan import plan_training

    began = time.monotonic()
    model = load_model(trial.name, trial.profile.dtype)
    layers, share = linear_4bit_layers(model), share_in_4_bits(model)
    rest = "" if share > MOST else "; the others, of the family's own kind, keep their dtype"
    text = f"{len(layers)} layers, {share:.0%} of the weights without embeddings{rest}; {time.monotonic() - began:.1f} s"
    yield Finding("4-bit", True, text)
    measured, planned = weight_bytes(model) / 1e6, plan_training(trial.profile, [128]).parts["weights"]
    text = f"weights {measured:,.1f} MB, planned {planned:,.1f} MB"
    yield Finding("memory", abs(measured / planned - 1) < NEAR, text, "The plan of this model's memory is off: leave room.")
    attention, ids = model.config._attn_implementation, torch.randint(0, 100, (1, 8))
    with torch.no_grad():
        finite = bool(model.eval()(ids.to(model.device), use_cache=False).logits.isfinite().all())
    yield Finding("forward", finite, f"attention by {attention}", "The logits are not finite numbers: try dtype float32.")


def _training(trial: Trial) -> Iterator[Finding]:
    from ftkit.common.profiles import Choice
    from ftkit.training.finetune import train

    rows = sorted(trial.task.rows("train"), key=lambda row: len(row[trial.task.message]))[:ROWS]
    splits = {"train": rows, "validation": trial.task.rows("validation")[:1]}
    trial.run = train(trial.task, Choice(trial.profile, "the doctor"), fresh=True, say=trial.said.append, rows=splits)
    record = trial.run.training
    fast = "by logits at the completion's tokens alone, equal to the model's own loss"
    yield Finding("loss", True, next((line for line in trial.said if line.startswith("Loss by")), fast))
    unfit = next((line for line in trial.said if "get no adapter" in line), "on all linear layers")
    yield Finding("adapter", True, f"{record.trainable_parameters:,} numbers; {unfit}")
    text = f"{record.steps} steps, {record.tokens_per_second:.0f} tokens/s, at most {record.peak_memory_mb / 1000:.1f} GB"
    yield Finding("training", True, f"{text}, {record.memory_against_plan}; saved and loaded again: the same logits")


def _answers(trial: Trial) -> Iterator[Finding]:
    import torch

    from ftkit.data.prompt import chat_prompt, prompt_ids
    from ftkit.evaluation.answer import BASE, TUNED, Answerer

    assert trial.run  # the training before made it
    answerer, messages = Answerer.of_run(trial.run), [row["message"] for row in trial.task.rows("validation")[:2]]
    began = time.monotonic()
    for side in (BASE, TUNED):
        answerer.answer(messages, side)
    seconds = (time.monotonic() - began) / 4
    *_, streamed = answerer.stream(messages[0], (TUNED,))
    text = f"base and tuned answer, {seconds:.1f} s a message; streamed, the tuned one wrote {streamed[TUNED].tokens} tokens"
    yield Finding("generation", True, text)
    trial.ids = torch.tensor([prompt_ids(answerer.tokenizer, chat_prompt(trial.task, messages[0]))])
    with torch.inference_mode():
        trial.logits = answerer.model(input_ids=trial.ids.to(answerer.model.device), use_cache=False).logits[0].float()
    answerer.worker.shutdown()


def _merge(trial: Trial) -> Iterator[Finding]:
    import torch

    from ftkit.deployment.merge import load_folder, save_merged

    assert trial.run
    folder = trial.folder / "merged"
    save_merged(trial.run, folder)
    model, _ = load_folder(folder)
    with torch.inference_mode():
        logits = model(input_ids=trial.ids.to(model.device), use_cache=False).logits[0].float()
    gaps = (logits - trial.logits).abs().amax(dim=-1) / trial.logits.abs().amax(dim=-1)
    gap = float(gaps.median())  # where rounding sends a token to another expert, all is different
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6
    text = f"merged, saved and loaded as an ordinary model of {size:,.1f} MB; logits {gap:.1%} apart"
    yield Finding("merge", gap < CLOSE, text, "Serve the adapter on its base: ftkit export --to adapter.")


CHECKS: tuple[Callable[[Trial], Iterator[Finding]], ...] = (
    *(_family, _licence, _weights, _tokenizer, _four_bit, _training, _answers, _merge),
)
