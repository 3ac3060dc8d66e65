"""The recipe, looked for: experiments out of `recipe.toml`, each trained on desk training rows and scored on validation.

`python -m experiments.recipe` runs what has no result yet (resumable, a process an experiment), saves after each,
and writes the page and the plots. `--only GROUP ...`, `--hours 1.5`, `--workers 2`, `--report`, `--plan`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from datasets import Dataset
from peft import EvaConfig, LoraConfig, initialize_lora_eva_weights, replace_lora_weights_loftq
from peft.optimizers import create_loraplus_optimizer
from peft.utils.loftq_utils import _low_rank_decomposition
from sklearn.model_selection import train_test_split
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback, set_seed
from trl import SFTTrainer

from benchmarks.measure import validation_loss
from experiments import recipe_report
from experiments.documents import RecipeResults
from experiments.laboratory import RECIPE_PLAN, Experiment, Laboratory, command
from ftkit.common.machine import resolve_dtype
from ftkit.common.profiles import Profile, read_profiles
from ftkit.data.answer_form import ANSWER_FORMS, COMPACT, AnswerForm
from ftkit.data.prompt import training_example
from ftkit.data.task import Row, Task, load_task
from ftkit.evaluation import baselines
from ftkit.evaluation.answer import Answerer
from ftkit.evaluation.metrics import score
from ftkit.models import head
from ftkit.models.find import prepare_model
from ftkit.models.load import load_model, load_tokenizer, quiet_libraries
from ftkit.runs.run import SPARE
from ftkit.training import cpu_kernels as kernels
from ftkit.training.trainer import CompletionTrainer, cast_adapter, lora_config, sft_config

LABORATORY = Laboratory("experiments.recipe", RecipeResults)


# --- one experiment, in a process of its own ---


def run(experiment: Experiment) -> dict[str, Any]:
    """Train and score. Returns figures and, for every validation row, whether intent and whole ticket were right."""
    task = _task(experiment)
    rows = _rows(experiment, task, "train")
    if experiment.rows:
        rows = subset(rows, experiment.rows, experiment.seed)
    if experiment.method == "tfidf":
        judge = partial(run_baseline, "tfidf", task, rows)
        return judge("validation") | ({"test": judge("test")} if experiment.test else {})
    return _train_and_score(experiment, task, rows)


def _train_and_score(experiment: Experiment, task: Task, rows: list[Row]) -> dict[str, Any]:
    profile = profile_of(experiment)
    tokenizer = load_tokenizer(profile.model)
    examples = [training_example(task, row) for row in rows]
    model, figures, losses = fit(experiment, examples, tokenizer)
    figures["loss"] = losses[-1]
    answers = [example["completion"][0]["content"] for example in examples]  # in this experiment's form
    longest = 1 + max(len(ids) for ids in tokenizer(answers)["input_ids"])
    rows = _rows(experiment, task, "validation")
    figures["validation_loss"] = round(validation_loss(model, task, rows, tokenizer), 4)
    answerer = Answerer(task, model.eval(), tokenizer, 64, max(profile.max_new_tokens, longest + SPARE))

    def judge(rows: list[Row]) -> dict[str, Any]:
        return scores_and_rows(score(task, rows, answerer.answer([row[task.message] for row in rows])))

    figures |= judge(rows) | ({"test": judge(_rows(experiment, task, "test"))} if experiment.test else {})
    if "linear" in experiment.special.split():
        before = load_model(profile.model, profile.dtype, four_bit=False)
        figures["cut"] = {str(rank): {"kept": kept, **judge(rows)} for rank, kept in cut(model, before, CUTS)}
    return figures


CUTS = (16, 64, 256)  # ranks; the narrower side of every layer is 192 or 576


def cut(model: Any, before: Any, ranks: Sequence[int]) -> Iterator[tuple[int, float]]:
    """Leave of each linear layer's change since `before` its `rank` largest directions: the most an adapter could hold.

    Gives (rank, share of the change's squared size that is left) for one rank after the other, the model being so.
    """
    weights = dict(before.named_parameters())
    changed = [(now, weights[name].data.float()) for name, now in model.named_parameters() if "proj" in name]
    parts = [torch.linalg.svd(now.data.float() - then, full_matrices=False) for now, then in changed]
    whole = sum(float(sizes.square().sum()) for _, sizes, _ in parts)
    for rank in ranks:
        for (now, then), (left, sizes, right) in zip(changed, parts, strict=True):
            now.data = (then + left[:, :rank] * sizes[:rank] @ right[:rank]).to(now.dtype)
        yield rank, round(sum(float(sizes[:rank].square().sum()) for _, sizes, _ in parts) / whole, 4)


def profile_of(experiment: Experiment) -> Profile:
    """The kit's `cpu` profile with the experiment's seed and changes."""
    return read_profiles()["cpu"].with_changes(seed=experiment.seed, **experiment.profile)


def fit(
    experiment: Experiment, examples: Sequence[Any], tokenizer: Any, watch: TrainerCallback | None = None
) -> tuple[Any, dict[str, Any], list[float]]:
    """Train on examples (dicts of the chats `prompt` and `completion`): the model, what it took, the logged losses.

    `watch` is told of every step; what it does counts as training time.
    """
    quiet_libraries()
    profile = profile_of(experiment)

    def length(example: Any) -> int:
        text = tokenizer.apply_chat_template(example["prompt"] + example["completion"], tokenize=False)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    data = Dataset.from_list([{**example, "length": length(example)} for example in examples])
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(experiment, profile, data, Path(folder))
        if watch:
            trainer.add_callback(watch)
        began, worked = time.monotonic(), time.process_time()
        trainer.train()
        seconds, worked = time.monotonic() - began, time.process_time() - worked
    model = trainer.model
    figures = {
        "steps": trainer.state.global_step,
        "examples": trainer.state.global_step * profile.examples_per_step,
        "tokens": int(trainer._total_train_tokens),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(worked, 1),  # of all threads: what else the machine does counts less
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    cast_adapter(model, model.dtype)  # as it is saved
    return model, figures, [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry]


def _task(experiment: Experiment) -> Task:
    """The desk, with its prompt and the form of its answers changed."""
    changes = {name: value for name, value in experiment.task.items() if name not in ("order", "form")}
    task = load_task("desk")
    if words := changes.pop("intents_told", None):
        intents = next(f.values for f in task.fields if f.name == "intent")
        changes["system_prompt"] = f"{words} {', '.join(intents)}."
    return replace(task, answer_form=FORMS[experiment.task.get("form", "compact")], **changes)


EMPTY = {"guests": None, "day": None, "time": None, "allergens": []}
ONE_TOKEN = {"complaint": "problem", "praise": "thanks", "billing": "money", "lost_item": "lost"}


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
    return COMPACT.write({**ticket, "intent": ONE_TOKEN.get(ticket["intent"], ticket["intent"])})


def _read_words(text: str) -> str:
    back = {word: intent for intent, word in ONE_TOKEN.items()}
    try:
        ticket = json.loads(text)
        return json.dumps({**ticket, "intent": back.get(ticket["intent"], ticket["intent"])})
    except (ValueError, TypeError, KeyError):
        return text


@dataclass(frozen=True)
class OtherForm(AnswerForm):
    """A form that the kit does not offer: how a ticket becomes text, and how an answer becomes JSON before it is read."""

    as_text: Callable[[dict[str, Any]], str] = json.dumps
    as_json: Callable[[str], str] = str

    def write(self, answer: Any) -> str:
        """The ticket in this form."""
        return self.as_text(answer)

    def read(self, text: str) -> dict[str, Any] | None:
        """The ticket that an answer in this form stands for."""
        return super().read(self.as_json(text))


FORMS: dict[str, AnswerForm] = {
    **ANSWER_FORMS,
    "given only": OtherForm(as_text=_given_only, as_json=_read_given),
    "values": OtherForm(as_text=_values, as_json=_read_values),
    "one-token words": OtherForm(as_text=_words, as_json=_read_words),
}


def _rows(experiment: Experiment, task: Task, split: str) -> list[Row]:
    """A split's rows, the ticket's fields in the experiment's order."""
    rows = task.rows(split)
    if order := experiment.task.get("order"):
        rows = [{**row, task.target: {name: row[task.target][name] for name in order}} for row in rows]
    return rows


def subset(rows: list[Row], n: int, seed: int) -> list[Row]:
    """`n` rows drawn by the seed, each intent by its share; smaller draws of a seed are not part of larger ones."""
    if n >= len(rows):
        return rows
    return train_test_split(rows, train_size=n, random_state=seed, stratify=[row["ticket"]["intent"] for row in rows])[0]


# In which numbers what is trained is kept; "mixed": float32 weights, as the adapter's are, their products in 16 bits
DTYPES = {"float32": "float32", "mixed": "float32", "bfloat16": "bfloat16"}


def _trainer(experiment: Experiment, profile: Profile, data: Dataset, folder: Path) -> SFTTrainer:
    """The kit's trainer with the experiment's changes."""
    full, dtype = experiment.method == "full", resolve_dtype(profile.dtype)
    special, *more = experiment.special.split() or [""]
    set_seed(profile.seed)
    config = sft_config(profile, folder, dtype)
    config.save_strategy, config.logging_steps = "no", min(10, profile.max_steps)
    if special == "float32":
        config.bf16 = config.fp16 = False
    adapter = lora_config(profile)
    for target, changes in ((config, experiment.sft), (adapter, experiment.lora)):
        for name, value in changes.items():
            setattr(target, name, value)
    if special == "eva":
        adapter = _eva(adapter)
    kept = getattr(torch, DTYPES[special]) if special in DTYPES else None
    trainer = CompletionTrainer(
        model=_model(experiment, profile, kept or getattr(torch, dtype)),
        args=config,
        train_dataset=data,
        processing_class=load_tokenizer(profile.model),
        peft_config=None if full else adapter,
    )
    trainer.remove_callback(PrinterCallback)
    if "shuffled" not in (special, *more):  # the older order: the lengths go down, fifty batches at a time
        trainer._get_train_sampler = partial(SFTTrainer._get_train_sampler, trainer)
    if full:
        return trainer
    if special == "loftq":
        _begin_with_loftq(trainer, profile)
    if special == "eva":
        batches = (batch for batch, _ in zip(trainer.get_train_dataloader(), range(40), strict=False))
        initialize_lora_eva_weights(trainer.model, [{k: v for k, v in batch.items() if k != "labels"} for batch in batches])
    cast_adapter(trainer.model, kept or torch.float32)
    kernels.speed_up_adapters(trainer.model)
    _optimize_otherwise(trainer, profile, special, more)
    return trainer


def _optimize_otherwise(trainer: SFTTrainer, profile: Profile, special: str, more: Sequence[str]) -> None:
    """Another optimizer, or what is done with its steps, where the experiment asks for one."""
    if special == "lora+":
        trainer.optimizer = create_loraplus_optimizer(
            trainer.model, torch.optim.AdamW, lr=profile.learning_rate, loraplus_lr_ratio=float(more[0])
        )
    if special == "muon":
        learned = [weight for weight in trainer.model.parameters() if weight.requires_grad]
        as_adam = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}  # so that a rate means what it means to Adam
        trainer.optimizer = torch.optim.Muon(learned, lr=profile.learning_rate, **as_adam)
    if special == "hard":
        head.F = SimpleNamespace(cross_entropy=loss_of_hard_tokens)  # in this process alone, which trains once
    if special == "mean":
        trainer.add_callback(MeanOfTheLast(profile.max_steps // 4))


HARD = 0.05  # a token's loss, nat: the model gives it a chance of less than 95 %


def loss_of_hard_tokens(logits: torch.Tensor, targets: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
    """The sum of the tokens' losses, as if each had the mean of those above `HARD`: what is known already counts no more."""
    losses = cross_entropy(logits, targets, reduction="none")
    hard = losses.detach() > HARD
    return losses[hard].sum() * targets.numel() / hard.sum().clamp(min=1)


class MeanOfTheLast(TrainerCallback):
    """At the end the trained weights become their mean over the last `steps` steps."""

    def __init__(self, steps: int):
        self.steps, self.sums = steps, dict[str, torch.Tensor]()

    def on_step_end(self, args, state, control, model, **kwargs):
        """Add what is trained."""
        if state.global_step > state.max_steps - self.steps:
            for name, weight in model.named_parameters():
                if weight.requires_grad:
                    self.sums[name] = self.sums.get(name, 0) + weight.detach() / self.steps
        return control

    def on_train_end(self, args, state, control, model, **kwargs):
        """Take the mean."""
        model.load_state_dict(self.sums, strict=False)
        return control


def _model(experiment: Experiment, profile: Profile, dtype: torch.dtype) -> Any:
    """The base with the experiment's changes; `dtype` is what all its weights are kept in where all are trained."""
    special, *more = experiment.special.split() or [""]
    model = load_model(profile.model, profile.dtype, four_bit=experiment.method == "qlora")
    if special == "blocks":
        _in_blocks(model, int(more[0]))
    if "random" in more:
        model = random_weights(model, profile.seed)
    if kernels.is_used(model.device.type):
        model.set_attn_implementation(kernels.register())
    if experiment.method == "full":
        model = model.to(dtype)
        if "linear" in more:  # what the adapter stands beside, and nothing else: no embeddings, no norms
            for name, weight in model.named_parameters():
                weight.requires_grad_("proj" in name)
    return model


def _begin_with_loftq(trainer: SFTTrainer, profile: Profile) -> None:
    with mock.patch("peft.utils.loftq_utils._loftq_init_new", _loftq):
        weights = Path(prepare_model(profile.model)) / "model.safetensors"
        replace_lora_weights_loftq(trainer.model, model_path=str(weights))
    for layer in trainer.model.modules():
        if hasattr(layer, "lora_B"):  # peft leaves out that B A is multiplied by this
            layer.lora_B["default"].weight.data /= layer.scaling["default"]


def random_weights(model: Any, seed: int) -> Any:
    """A model of the same architecture, its weights drawn by the seed as the library draws them before any training."""
    set_seed(seed)
    made = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype).to(model.device)
    made.generation_config = model.generation_config  # which token ends an answer
    return made


def _loftq(qweight: Any, weight: Any, num_bits: int, reduced_rank: int) -> tuple[Any, Any]:
    """A and B nearest to what the 4 bits lost of a weight (LoftQ, arXiv 2310.08659): peft's own step asks for a GPU."""
    lost = weight.float() - dequantize_4bit(qweight.data, qweight.quant_state).float()
    halves = _low_rank_decomposition(lost, reduced_rank=reduced_rank)
    return halves["R"], halves["L"]


def _eva(adapter: LoraConfig) -> LoraConfig:
    """The adapter to be initialized from the activations on training rows (EVA, arXiv 2410.07170), every rank as given."""
    adapter.init_lora_weights, adapter.eva_config = "eva", EvaConfig(rho=1.0, use_label_mask=False)
    return adapter


def _in_blocks(model: Any, block: int) -> None:
    """Round the linear layers' weights of an unquantized model to what 4 bits keep of them, in blocks of another size.

    A row as long as the block at a time: on a CPU bitsandbytes 0.50.2 reads wrong values, and says nothing, where a
    block runs over the end of a row.
    """
    for name, weight in model.named_parameters():
        if "proj" in name:
            kept = quantize_4bit(weight.data.reshape(-1, block), blocksize=block, compress_statistics=True, quant_type="nf4")
            weight.data = dequantize_4bit(*kept).reshape(weight.shape).to(weight.dtype)


def run_baseline(name: str, task: Task, train: list[Row], split: str) -> dict[str, Any]:
    """A baseline that needs no language model (`tfidf` or `majority`), judged by what it can do."""
    rows = task.rows(split)
    answers = {"tfidf": baselines.tfidf, "majority": baselines.majority}[name](task, train, rows)
    scores = score(task, rows, answers.texts)
    judged = {name: values for name, values in scores.items() if answers.metrics is None or name in answers.metrics}
    return {"seconds": round(answers.seconds + answers.training_seconds, 1), **scores_and_rows(judged)}


def scores_and_rows(scores: dict[str, list[bool]]) -> dict[str, Any]:
    """Shares, and the rows of every metric as a string of 0 and 1 for paired comparisons."""
    return {
        "scores": {name: round(sum(rows) / len(rows), 4) for name, rows in scores.items()},
        "rows": {name: "".join("01"[value] for value in rows) for name, rows in scores.items()},
    }


if __name__ == "__main__":
    command(LABORATORY, RECIPE_PLAN, run, recipe_report.write)
