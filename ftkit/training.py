"""Fine-tuning: QLoRA with trl's SFTTrainer over a 4-bit base, resumable, measured, and checked after saving (lesson 03)."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit import kernels
from ftkit.common.console import clock
from ftkit.common.errors import KitError
from ftkit.common.files import write_json
from ftkit.common.machine import detect_hardware, resolve_dtype
from ftkit.common.memory import peak_memory_mb, return_freed_memory
from ftkit.common.processes import agree, collect, is_first, is_sharded, part, world_size
from ftkit.common.profiles import PAD_TO, Choice, Profile
from ftkit.data.prompt import chat_prompt, completion_text, example_ids, prompt_ids, training_example
from ftkit.data.task import Task
from ftkit.models.adapter import load_adapter
from ftkit.models.find import weights_digest
from ftkit.models.load import load_model, load_tokenizer
from ftkit.planning import in_words, plan_training
from ftkit.runs import guards
from ftkit.runs.card import write_card
from ftkit.runs.run import Run, new_run, unfinished_run

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from torch.utils.data import Sampler
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig, SFTTrainer


TRIM_ROWS = 24  # after how many rows memory that glibc keeps is given back; see base.keep_freed_memory
COMPLETE = "complete"  # written last into a checkpoint: without it the checkpoint was cut off


def train(
    task: Task,
    choice: Choice,
    fresh: bool = False,
    say: Callable[[str], None] = print,
    stop_after: int | None = None,
) -> Run:
    """Fine-tune a base model on a task and return the finished run (lesson 03 builds this step by step).

    A run that was stopped midway, with the same data and profile, is taken up from its last checkpoint unless `fresh`.
    `say` gets the progress lines. `stop_after` ends after so many steps as if interrupted (for lessons and tests).
    Raises `KitError` for bad rows, rows longer than the profile's `max_length`, or an adapter that fails its check.
    """
    profile = choice.profile
    dataset = training_data(task, load_tokenizer(profile.model), profile)
    if not is_first():
        run = _train(Run(Path(agree(None))), task, choice, dataset, lambda line: None, stop_after)
        part()
        return run
    run = None if fresh else unfinished_run(task, profile)
    if run:
        say(f"Taking up {run.name}, which was stopped midway (--fresh starts anew).")
    else:
        run = new_run(task, profile, choice.reason)
    with run.claimed():
        agree(str(run.folder))
        run = _train(run, task, choice, dataset, say, stop_after)
    part()
    return run


def _train(
    run: Run, task: Task, choice: Choice, dataset: Dataset, say: Callable[[str], None], stop_after: int | None
) -> Run:
    profile = choice.profile
    say(f"Profile {profile.name}: {choice.reason}.")
    together = f", {world_size()} processes together" if world_size() > 1 else ""
    say(f"Fine-tuning {profile.model} in 4-bit on {len(dataset)} examples of {task.name}{together}; run {run.name}")
    plan = plan_training(profile, dataset["length"])
    say(f"Planned: {plan.peak_mb / 1000:.1f} GB of memory at most.")
    trainer = make_trainer(run.folder / "checkpoints", dataset, profile)
    facts = guards.what_is_learned(trainer, dataset) | {"base": weights_digest(profile.model)}
    guards.require(guards.at_start(facts, trainer, profile), say)
    progress = _progress(run, profile, dataset, say, stop_after)
    trainer.add_callback(progress)
    checkpoint = last_checkpoint(run)
    progress.start_at(checkpoint)
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop_after and trainer.state.global_step < trainer.state.max_steps:
        return run
    peak = peak_memory_mb()
    finish(trainer, run, task)
    if not is_first():
        return run
    run.update(
        status="finished",
        guards=facts,
        training={
            "steps": trainer.state.global_step,
            "examples": len(dataset),
            "loss": run.log()[-1]["loss"] if run.log() else result.training_loss,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 1),
            "tokens_per_second": round(progress.tokens / progress.seconds, 1),
            "peak_memory_mb": round(peak),
            "planned_memory_mb": round(plan.peak_mb),
            "memory_against_plan": in_words(round(plan.peak_mb), round(peak)),
            "processes": world_size(),
            "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            "dtype": resolve_dtype(profile.dtype),
            "longest_completion": longest_completion(task, load_tokenizer(profile.model)),
        },
    )
    write_card(run)
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    measured = run.record["training"]
    say(
        f"Finished: {measured['steps']} steps in {clock(measured['seconds'])}, "
        f"{measured['tokens_per_second']:.0f} tokens/s, peak memory {peak / 1000:.1f} GB "
        f"({measured['memory_against_plan']}). "
        "The saved adapter, loaded again, gives the same logits."
    )
    guards.require([guards.adapter(run.adapter), guards.learning_rate(profile, run.log())], say)
    return run


def training_data(task: Task, tokenizer: PreTrainedTokenizerBase, profile: Profile) -> Dataset:
    """The training split as trl takes it: columns `prompt`, `completion` and `length` (tokens).

    Raises `KitError` naming the first row that is longer than the profile's `max_length`: nothing is cut in silence.
    """
    from datasets import Dataset

    examples = []
    for number, row in enumerate(task.rows("train"), start=1):
        length = len(example_ids(tokenizer, task, row))
        if length > profile.max_length:
            raise KitError(
                f"{task.folder / 'train.jsonl'}, row {row.get('id', number)}: {length} tokens, but profile "
                f"{profile.name} takes {profile.max_length}. Shorten the row or raise max_length."
            )
        examples.append({**training_example(task, row), "length": length})
    return Dataset.from_list(examples)


def longest_completion(task: Task, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest training answer with its end: how long the tuned model must be let write."""
    texts = [completion_text(task, row[task.target]) for row in task.rows("train")]
    return 1 + max(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])


def lora_config(profile: Profile) -> LoraConfig:
    """The adapter: low-rank matrices beside every linear layer. LoRA: arXiv 2106.09685; all layers: arXiv 2305.14314."""
    from peft import LoraConfig

    return LoraConfig(
        r=profile.rank,
        lora_alpha=profile.alpha,
        lora_dropout=profile.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def sft_config(profile: Profile, folder: Path, dtype: str) -> SFTConfig:
    """The trainer's settings that follow from the profile; `dtype` is the resolved one."""
    from trl import SFTConfig

    on_cpu = detect_hardware().device == "cpu"
    return SFTConfig(
        output_dir=str(folder),
        seed=profile.seed,
        num_train_epochs=profile.epochs,
        max_steps=profile.max_steps,
        per_device_train_batch_size=profile.batch_size,
        gradient_accumulation_steps=profile.gradient_accumulation,
        learning_rate=profile.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=profile.warmup,
        optim="adamw_torch_fused" if on_cpu else profile.optimizer,
        max_length=None,  # lengths were checked: nothing is cut
        completion_only_loss=True,
        train_sampling_strategy="group_by_length",  # see `length_batches`
        length_column_name="length",
        pad_to_multiple_of=PAD_TO,
        gradient_checkpointing=profile.gradient_checkpointing,
        use_cpu=on_cpu,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        save_strategy="steps",
        save_steps=profile.checkpoint_steps,
        save_total_limit=2,
        logging_steps=min(10, profile.checkpoint_steps),
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
    )


def make_trainer(folder: Path, dataset: Dataset, profile: Profile) -> SFTTrainer:
    """Build the trainer: 4-bit base, a new LoRA adapter, and the loss on completion tokens only."""
    import torch
    from transformers import PrinterCallback, set_seed

    set_seed(profile.seed)  # the adapter's first weights are drawn when the trainer is built
    dtype = resolve_dtype(profile.dtype)
    model = load_model(profile.model, profile.dtype)
    fast = kernels.wanted(model.device.type)
    if fast:
        model.set_attn_implementation(kernels.register())
        kernels.speed_up_small_layers(model)
    kernels.fuse(model)
    trainer = completion_trainer()(
        model=model,
        args=sft_config(profile, folder, dtype),
        train_dataset=dataset,
        processing_class=load_tokenizer(profile.model),
        peft_config=lora_config(profile),
    )
    trainer.remove_callback(PrinterCallback)
    cast_adapter(trainer.model, torch.float32)  # trl makes it bfloat16, which rounds small updates away
    if fast:
        kernels.speed_up_adapters(trainer.model)
    return trainer


def cast_adapter(model: PeftModel, dtype: Any) -> None:
    """Give the trainable parameters another dtype, in place."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def completion_loss(model: PreTrainedModel, inputs: dict[str, Any], items: Any = None) -> Any:
    """Mean cross-entropy over the completion's tokens, the logits computed at those positions only.

    `inputs` holds `input_ids`, `attention_mask` and `labels`, each [batch, length], labels -100 where no loss falls; packed
    rows have `position_ids` in the place of the mask. `items` divides the sum when a step is spread over several batches.
    Logits: [completion tokens, vocabulary]. With the padding on the right no mask is needed: a position sees those before
    it only, and padding carries no loss.
    """
    from torch.nn import functional as F

    targets = inputs["labels"][:, 1:]
    carries_loss = targets != -100
    mask = inputs.get("attention_mask")
    on_the_right = mask is None or bool((mask[:, 1:] <= mask[:, :-1]).all())
    read = {"attention_mask": None if on_the_right else mask, "position_ids": inputs.get("position_ids")}
    hidden = model.model(inputs["input_ids"], **read, use_cache=False).last_hidden_state[:, :-1]
    logits = model.lm_head(hidden[carries_loss]).float()
    loss = F.cross_entropy(logits, targets[carries_loss], reduction="sum")
    return loss / (carries_loss.sum() if items is None else items)


def length_batches(lengths: Sequence[int], size: int, seed: int) -> Sampler:
    """Row numbers, `size` at a time of like length: little padding. The batches come in random order, another each epoch.

    The longest row comes first, so that too little memory shows at once. An epoch's order hangs on seed and epoch alone:
    a training that was stopped in its second epoch goes on with the same rows. transformers' own `group_by_length` draws
    them from the global random numbers, and lets the lengths go down, fifty batches at a time.
    """
    import torch
    from torch.utils.data import Sampler
    from transformers.trainer_pt_utils import get_length_grouped_indices

    class LengthBatches(Sampler):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __len__(self) -> int:
            return len(lengths)

        def __iter__(self) -> Iterator[int]:
            generator = torch.Generator().manual_seed(seed + self.epoch)  # the same order in every process
            rows = get_length_grouped_indices(lengths, size, generator=generator)
            first, *others = [rows[at : at + size] for at in range(0, len(rows), size)]
            last = [others.pop()] if others else []  # it may be smaller
            order = torch.randperm(len(others), generator=generator).tolist()
            return iter([row for batch in (first, *(others[at] for at in order), *last) for row in batch])

    return LengthBatches()


def completion_trainer() -> type[SFTTrainer]:
    """SFTTrainer with `completion_loss`: the same loss as trl's own, without work that nobody reads here."""
    import torch
    from trl import SFTTrainer

    class CompletionTrainer(SFTTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            lean = self.model.training and not return_outputs and model is self.model
            if not lean:  # several processes wrap the model: its own forward must run
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            mask = inputs.get("attention_mask")  # packed rows have none, and no padding
            self._total_train_tokens += inputs["input_ids"].numel() if mask is None else int(mask.sum())
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
            base = model.get_base_model() if hasattr(model, "get_base_model") else model
            return completion_loss(base, inputs, num_items_in_batch)

        def compute_loss_context_manager(self):
            """Weights kept in float32 are multiplied in the 16 bits that were asked for.

            accelerate sees to that in the model's own forward, which the loss above goes past.
            """
            if self.model.dtype == torch.float32 and (self.args.bf16 or self.args.fp16):
                dtype = torch.bfloat16 if self.args.bf16 else torch.float16
                return torch.autocast(self.args.device.type, dtype)
            return super().compute_loss_context_manager()

        def _get_train_sampler(self, train_dataset=None):
            """Batches of rows that are alike in length, in random order; with several processes, alike for all of them."""
            rows, length = self.train_dataset, self.args.length_column_name  # what is given has lost that column
            if length not in (getattr(rows, "column_names", None) or ()):
                return super()._get_train_sampler(train_dataset)
            together = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            return length_batches(rows[length], together, self.args.seed)

        def create_model_card(self, *args, **kwargs):
            """The kit writes its own card, once, for the finished run."""

    return CompletionTrainer


def finish(trainer: SFTTrainer, run: Run, task: Task) -> None:
    """Save the adapter and check it; with several processes the first does, after all of them hold the same adapter.

    Raises `KitError` if they do not: then the gradients were not shared.
    """
    model, profile = trainer.model, run.profile
    if is_sharded():  # every process gives its part; a model spread over cards is not loaded again on one of them
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(str(run.adapter))
        return
    if len(set(collect(_digest(model)))) > 1:
        raise KitError(f"{run.name}: the processes ended with different adapters. Train again in one process.")
    if is_first():
        save_adapter(model, run, profile)
        check_saved_adapter(model, run, task)
    collect("saved")


def _digest(model: PeftModel) -> str:
    """A fingerprint of the trainable weights."""
    import torch

    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def last_checkpoint(run: Run) -> Path | None:
    """The newest checkpoint of a run that was written to its end, or None."""
    complete = [mark.parent for mark in (run.folder / "checkpoints").glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)


def save_adapter(model: PeftModel, run: Run, profile: Profile) -> None:
    """Save the adapter as safetensors, the folder complete or not there. Raises `KitError` if nothing was learned.

    The weights are rounded to the dtype that the model computes in, here and in memory: half the size, the same answers.
    """
    import torch

    cast_adapter(model, getattr(torch, resolve_dtype(profile.dtype)))
    learned = any(bool(p.any()) for name, p in model.named_parameters() if "lora_B" in name)
    if not learned:
        raise KitError(f"{run.name}: all adapter weights are zero, nothing was learned. Is the learning rate 0?")
    # the name of the base, not this machine's path to it
    model.peft_config["default"].base_model_name_or_path = profile.model
    temporary = run.folder / ".adapter"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, save_embedding_layers=False)
    (temporary / "README.md").unlink(missing_ok=True)
    shutil.rmtree(run.adapter, ignore_errors=True)
    temporary.rename(run.adapter)


def check_saved_adapter(model: PeftModel, run: Run, task: Task) -> None:
    """Load the saved adapter over a fresh base: it must give the logits of the model in memory, or `KitError`."""
    import torch

    profile = run.profile
    again = load_adapter(load_model(profile.model, profile.dtype), run.adapter)
    message = task.rows("validation")[0][task.message]
    ids = torch.tensor([prompt_ids(load_tokenizer(profile.model), chat_prompt(task, message))])
    with torch.inference_mode():
        here, there = (m.eval()(ids.to(m.device)).logits[0, -1].float() for m in (model, again))
    if not torch.allclose(here, there, atol=1e-2, rtol=1e-2):
        gap = float((here - there).abs().max())
        raise KitError(f"{run.adapter}: loaded again it gives other logits (largest gap {gap:.3g}). Train again.")


def _progress(run: Run, profile: Profile, dataset: Dataset, say: Callable[[str], None], stop_after: int | None) -> Any:
    """Make the callback that writes the loss log, tells progress with the time left, and marks whole checkpoints."""
    from transformers import TrainerCallback

    mean_length = sum(dataset["length"]) / len(dataset)

    class Progress(TrainerCallback):
        tokens = 0
        seconds = 0.0

        def start_at(self, checkpoint: Path | None) -> None:
            """Take up the log where the checkpoint stands: what came after it will be done again."""
            step = int(checkpoint.name.split("-")[1]) if checkpoint else 0
            kept = [entry for entry in run.log() if entry["step"] <= step]
            lines = "".join(json.dumps(entry) + "\n" for entry in kept)
            if is_first():
                (run.folder / "log.jsonl").write_text(lines, encoding="utf-8")
            if checkpoint:
                mark = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
                self.seconds, self.tokens = mark["seconds"], mark["tokens"]
                say(f"Going on after step {step}.")

        def on_train_begin(self, args, state, control, **kwargs):
            self.resumed_tokens, self.resumed_seconds = self.tokens, self.seconds
            self.began = time.monotonic()

        def on_step_end(self, args, state, control, **kwargs):
            self.seconds = self.resumed_seconds + time.monotonic() - self.began
            if state.global_step % trim_steps(profile) == 0:
                return_freed_memory()
            if stop_after and state.global_step >= stop_after:
                control.should_training_stop = True

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" not in (logs or {}):
                return
            self.tokens = self.resumed_tokens + int(float(logs["num_tokens"]))
            entry = {
                "step": state.global_step,
                "loss": float(logs["loss"]),
                "learning_rate": float(logs["learning_rate"]),
                "tokens": self.tokens,
                "seconds": round(self.seconds, 2),
            }
            if is_first():
                with (run.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
            tellings = max(1, state.max_steps // 12)
            due = state.global_step // tellings > (state.global_step - args.logging_steps) // tellings
            if due or state.global_step == state.max_steps:
                self.tell(state, entry)

        def tell(self, state, entry):
            rate = (self.tokens - self.resumed_tokens) / max(1e-9, self.seconds - self.resumed_seconds)
            per_step = mean_length * profile.examples_per_step * world_size()
            left = (state.max_steps - state.global_step) * per_step / max(1e-9, rate)
            say(
                f"  step {state.global_step:4d} of {state.max_steps}   loss {entry['loss']:.3f}   "
                f"{rate:4.0f} tokens/s   {clock(left)} left"
            )

        def on_save(self, args, state, control, **kwargs):
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if is_first():
                write_json(folder / COMPLETE, {"seconds": self.seconds, "tokens": self.tokens})

    return Progress()


def trim_steps(profile: Profile) -> int:
    """After how many steps freed memory is given back: what is kept grows with the rows, not with the steps."""
    return max(1, TRIM_ROWS // profile.examples_per_step)
