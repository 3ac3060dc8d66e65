"""The trainer: what is learned from which rows, in which order, with which loss (lesson 03)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase, PrinterCallback, set_seed
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig, SFTTrainer

from ftkit.common.console import Say
from ftkit.common.errors import KitError
from ftkit.common.machine import detect_hardware, resolve_dtype
from ftkit.common.profiles import PAD_TO, Profile
from ftkit.data.conversation.turns import APART, CUT, cut_to_fit
from ftkit.data.prompt import encoded_examples
from ftkit.data.task import Row, Task
from ftkit.models.chat_template import answer_end
from ftkit.models.families import context_length, remarks, unfit_layers
from ftkit.models.load import load_config, load_model, load_tokenizer
from ftkit.runs.documents import Talk
from ftkit.training import cpu_kernels as kernels
from ftkit.training.loss import completion_loss, whole_loss
from ftkit.training.proof import Proof, settle_loss, without_adapter


def training_data(
    task: Task, tokenizer: PreTrainedTokenizerBase, profile: Profile, rows: Sequence[Row] | None = None
) -> Dataset:
    """The training split as trl takes it, the token ids among its columns: see `encoded_examples`.

    `rows` are those of the split where they have been read already. Raises `KitError` naming the first row that is longer
    than the profile's `max_length`, or than the model reads at once, and their number: nothing is cut in silence.
    """
    rows = task.rows("train") if rows is None else rows
    by_row = [encoded_examples(tokenizer, task, row) for row in rows]
    lengths = [max(example["length"] for example in examples) for examples in by_row]
    context = context_length(load_config(profile.model)) or profile.max_length
    if over := [n for n, length in enumerate(lengths) if length > min(profile.max_length, context)]:
        n, longest = over[0], max(lengths[n] for n in over)
        way_on = f"profile {profile.name} takes {profile.max_length}. Shorten them, or: ftkit train --length {longest}"
        if longest > context:
            way_on = f"{profile.model} reads {context} at once. Shorten them, or take a model that reads more"
        size = f"{lengths[n]} tokens ({len(over)} such row(s)), but {way_on}{CUT if task.kind == 'chat' else ''}"
        raise KitError(f"{task.folder / 'train.jsonl'}, row {rows[n].get('id', n + 1)}: {size}")
    return Dataset.from_list([example for examples in by_row for example in examples])


@dataclass(frozen=True)
class TrainingSet:
    """What a training starts from, read once: the examples (see `training_data`), the tokenizer, and the validation rows.

    `longest_completion` is in tokens, with the end; nothing is learned from the rows that are `held_out`.
    """

    task: Task
    profile: Profile
    tokenizer: PreTrainedTokenizerBase
    dataset: Dataset
    longest_completion: int
    held_out: Sequence[Row]
    remarks: Sequence[str] = ()  # what was done to rows on their way into the examples, for the log
    replay: Sequence[Talk] = ()  # rows of general talk among the examples (see `replay.mix`)


def prepare(task: Task, profile: Profile, rows: Mapping[str, Sequence[Row]] | None = None) -> TrainingSet:
    """Read what a training starts from; `rows` are the task's, by split, where they have been read already.

    Raises `KitError` for bad rows, and for rows longer than the profile's `max_length`.
    """
    rows = rows or {split: task.rows(split) for split in ("train", "validation")}
    tokenizer = load_tokenizer(profile.model)
    train, remarks = cut_to_fit(tokenizer, task, rows["train"], profile.max_length)
    dataset = training_data(task, tokenizer, profile, train)
    remarks += [APART.format(len(dataset), len(train))] if len(dataset) > len(train) else []
    longest = count_longest_completion(dataset, tokenizer)
    return TrainingSet(task, profile, tokenizer, dataset, longest, rows["validation"], remarks)


def count_longest_completion(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest training answer with its end: how long the tuned model must be let write."""
    end, columns = answer_end(tokenizer), dataset.select_columns(["input_ids", "completion_mask"])
    runs = (run for row in columns for learned, run in groupby(zip(*row.values(), strict=True), itemgetter(1)) if learned)
    return max(1 + [*(i for i, _ in run), end].index(end) for run in runs)


def lora_config(profile: Profile, without: Sequence[str] = ()) -> LoraConfig:
    """The adapter: low-rank matrices beside every linear layer, but those `without`, by their names (`unfit_layers`).

    LoRA: arXiv 2106.09685; all layers: arXiv 2305.14314.
    """
    return LoraConfig(
        r=profile.rank,
        lora_alpha=profile.alpha,
        lora_dropout=profile.dropout,
        target_modules="all-linear",
        exclude_modules=list(without) or None,
        task_type="CAUSAL_LM",
    )


def sft_config(profile: Profile, folder: Path, dtype: str) -> SFTConfig:
    """The trainer's settings that follow from the profile; `dtype` is the resolved one."""
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
        train_sampling_strategy="group_by_length",  # see `LengthBatches`
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


def make_trainer(
    folder: Path, dataset: Dataset, profile: Profile, tokenizer: PreTrainedTokenizerBase | None = None, say: Say = print
) -> CompletionTrainer:
    """Build the trainer: 4-bit base, a new LoRA adapter, and the loss on completion tokens only.

    `tokenizer` is the base's where it has been loaded already. The loss is proved on a small batch (see `settle_loss`), and
    `say` is told where a family of models does not take the fast way. Raises `KitError` for a model that cannot be trained.
    """
    set_seed(profile.seed)  # the adapter's first weights are drawn when the trainer is built
    dtype = resolve_dtype(profile.dtype)
    model = load_model(profile.model, profile.dtype)
    for remark in remarks(model):
        say(remark)
    if profile.gradient_checkpointing and not model.supports_gradient_checkpointing:
        say("This family cannot compute activations again (gradient checkpointing): they are kept, which takes more memory.")
        profile = profile.with_changes(gradient_checkpointing=False)
    fast = kernels.is_used(model.device.type)
    own_attention = fast and kernels.use_attention(model)
    kernels.fuse(model)
    trainer = CompletionTrainer(
        model=model,
        args=sft_config(profile, folder, dtype),
        train_dataset=dataset,
        processing_class=tokenizer or load_tokenizer(profile.model),
        peft_config=lora_config(profile, unfit_layers(model)),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(kernels.FollowLoad())
    cast_adapter(trainer.model, torch.float32)  # trl makes it bfloat16, which rounds small updates away
    if fast:
        kernels.speed_up_adapters(trainer.model)
    settle_loss(trainer, say, own_attention)
    return trainer


def cast_adapter(model: PeftModel, dtype: Any) -> None:
    """Give the trainable parameters another dtype, in place."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


class LengthBatches(Sampler):
    """Row numbers, `size` at a time of like length: little padding. The batches come in random order, another each epoch.

    The longest row comes first, so that too little memory shows at once. An epoch's order hangs on seed and epoch alone:
    a training that was stopped in its second epoch goes on with the same rows. transformers' own `group_by_length` draws
    them from the global random numbers, and lets the lengths go down, fifty batches at a time.
    """

    def __init__(self, lengths: Sequence[int], size: int, seed: int):
        self.lengths, self.size, self.seed, self.epoch = lengths, size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch's order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)  # the same order in every process
        rows = get_length_grouped_indices(self.lengths, self.size, generator=generator)
        first, *others = [rows[at : at + self.size] for at in range(0, len(rows), self.size)]
        last = [others.pop()] if others else []  # it may be smaller
        order = torch.randperm(len(others), generator=generator).tolist()
        return iter([row for batch in (first, *(others[at] for at in order), *last) for row in batch])


class CompletionTrainer(SFTTrainer):
    """SFTTrainer with `completion_loss`: the same loss as trl's own, without work that nobody reads here.

    `proof` says how the loss is computed, once `settle_loss` has looked.
    """

    proof: Proof | None = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The mean loss of a batch; see `completion_loss`."""
        way = self.proof.way if self.proof else "completion"
        lean = self.model.training and not return_outputs and model is self.model
        if not lean or way == "trl":  # several processes wrap the model: its own forward must run
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mask = inputs.get("attention_mask")  # packed rows have none, and no padding
        self._total_train_tokens += inputs["input_ids"].numel() if mask is None else int(mask.sum())
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        loss = completion_loss if way == "completion" else whole_loss
        return loss(without_adapter(model), inputs, num_items_in_batch)

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
        rows, length = self.train_dataset, self.args.length_column_name  # the argument has lost that column
        if length not in (getattr(rows, "column_names", None) or ()):
            return super()._get_train_sampler(train_dataset)
        together = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthBatches(rows[length], together, self.args.seed)

    def create_model_card(self, *args, **kwargs):
        """Write nothing: the kit writes its own card, once, for the finished run."""
