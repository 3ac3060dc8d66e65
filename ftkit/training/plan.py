"""Planning: the memory and time of a training, told before it starts, from the model's configuration alone (lesson 03)."""

from __future__ import annotations

import bisect
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.table import Table
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.quantizers_utils import should_convert_module

from ftkit.common.console import clock
from ftkit.common.errors import KitError
from ftkit.common.machine import Hardware, detect_hardware, resolve_dtype
from ftkit.common.paths import expanded
from ftkit.common.profiles import PAD_TO, Profile
from ftkit.data.prompt import example_ids
from ftkit.data.task import Task
from ftkit.models.catalog import CATALOG
from ftkit.models.families import kept_whole, unfit_layers
from ftkit.models.head import PIECE
from ftkit.models.tokenizer import load_tokenizer
from ftkit.training import cpu_kernels as kernels

METHODS = ("full", "lora", "qlora")
LIBRARIES_MB = 640  # Python with torch, transformers, trl, peft, datasets; measured
# What the allocator holds beyond what is in use at the peak: measured on CPUs, assumed on a GPU
ALLOCATOR = {"cpu": 1.4, "cuda": 1.08}
FRAGMENTS_MB = 220  # what batches of many sizes leave between the blocks in RAM after some fifty steps; measured
# GB, and TFLOP/s of dense matrix products in 16 bits, by the makers' data sheets
DEVICES = {"T4": (15.0, 65), "L4": (22.5, 121), "A100": (40.0, 312), "H200": (141.0, 989)}
SHARE = {"cpu": 0.5, "cuda": 0.35}  # of the matrix-product rate that a training reaches: measured on a CPU, assumed on a GPU
USABLE = 0.92  # of a device's memory
COMPLETION = 48  # tokens at which loss falls in an example, where nobody counted them: a desk ticket has 32 to 53
MOST_EXAMPLES, MOST_TOKENS = 64, 8192  # no larger batch and no longer row is looked for


@dataclass(frozen=True)
class Shape:
    """What a model's memory follows from: `linear` weights sit in the decoder layers' matrices, `other` are
    embeddings, norms, and experts that are no linear layers."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    linear: int  # those that 4 bits can hold
    other: int
    sides: int  # the inputs and outputs of all linear layers, added up: a LoRA adapter has rank times as many weights
    packed: int  # bytes of `linear` in 4 bits
    buffers: int  # bytes of tables that are no weights: masks, positions

    @property
    def weights(self) -> int:
        """All weights."""
        return self.linear + self.other


@dataclass(frozen=True)
class Plan:
    """The memory of one training by its parts, in MB (10**6 bytes), and its time."""

    method: str
    device: str
    batch: int
    longest: int
    parts: dict[str, float] = field(default_factory=dict)
    seconds_per_epoch: float | None = None

    @property
    def peak_mb(self) -> float:
        """The most that is held at once."""
        return sum(self.parts.values())


def model_shape(name: str) -> Shape:
    """Read a model's configuration and count its weights; none are loaded. `name` is a folder or a hub name.

    Families call the same thing by different names; what a family does not have (a Mamba has no heads) counts as one, and
    the width of an MLP without a name for it is that of its widest layer. Raises `KitError` if there is no configuration
    to be had.
    """
    config = _config(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linear = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head}
    sizes = {n: _sizes(m) for n, m in linear.items()}
    whole, unfit = kept_whole(model), unfit_layers(model)
    packed = [n for n, m in linear.items() if type(m) in (nn.Linear, Conv1D) and should_convert_module(n, whole)]
    four_bit, text = sum(linear[n].weight.numel() for n in packed), config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 1
    widest = max((max(both) for both in sizes.values()), default=text.hidden_size)
    return Shape(
        name=name,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=width if isinstance(width := getattr(text, "intermediate_size", None), int) else widest,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        linear=four_bit,
        other=model.num_parameters() - four_bit,
        sides=sum(sum(both) for n, both in sizes.items() if n not in unfit),
        packed=sum(_packed_bytes(linear[n].weight.numel()) for n in packed),
        buffers=sum(table.numel() * table.element_size() for table in model.buffers()),
    )


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    return (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else (layer.nx, layer.nf)


def _packed_bytes(numbers: int) -> int:
    """Bytes of a weight matrix in 4 bits: half a byte each, a byte of scale for 64 of them, for 256 scales four bytes, and
    two tables of 16 and 256 values (QLoRA, arXiv 2305.14314, as bitsandbytes keeps it).
    """
    scales = -(-numbers // 64)
    return -(-numbers // 2) + scales + 4 * -(-scales // 256) + 4 * (16 + 256)


def _config(name: str) -> PretrainedConfig:
    if name in CATALOG:
        return AutoConfig.for_model(**CATALOG[name].configuration)
    path = expanded(name)
    try:
        return AutoConfig.from_pretrained(path if path.exists() else name)
    except (OSError, ValueError) as error:
        raise KitError(
            f"{name} has no configuration to be had: give a model's folder or its name on the hub "
            f"({str(error).strip().splitlines()[0]})."
        ) from None


def plan_training(
    profile: Profile,
    lengths: Sequence[int],
    method: str = "qlora",
    shape: Shape | None = None,
    hardware: Hardware | None = None,
    rate: float | None = None,
    completion: int = COMPLETION,
) -> Plan:
    """Predict the peak memory of a training, part by part, and with `rate` (FLOP/s of matrix products) its time.

    `lengths` are the tokens of the training examples; the longest make the largest batch. `completion` is at how many tokens
    of an example loss falls, at most. Activations are the tensors that
    PyTorch keeps for the backward pass of a Llama-like decoder with a fused attention, counted per token:
    in every layer two normalisations in float32, the inputs of attention and MLP, queries, keys, values, the attention's
    output, four tensors of the MLP, and the adapters' inner vectors. The logits exist at completion tokens only, and at no
    more than `PIECE` of them at once (models that scale or cap their logits take all of a batch's, which is not counted).
    """
    if method not in METHODS:
        raise KitError(f"The method {method!r} is not one of {', '.join(METHODS)}.")
    shape = shape or model_shape(profile.model)
    hardware = hardware or detect_hardware()
    width = {"bfloat16": 2, "float16": 2, "float32": 4}[resolve_dtype(profile.dtype, hardware)]
    trained_width = width if method == "full" and resolve_dtype(profile.dtype, hardware) != "float16" else 4
    kept_width = trained_width if method == "full" else width  # float16 training keeps what it trains in 32 bits
    adapter = 0 if method == "full" else profile.rank * shape.sides
    trained = shape.weights if method == "full" else adapter
    state = 1 if "8bit" in profile.optimizer and hardware.device != "cpu" else trained_width
    own_kernels = kernels.is_used(hardware.device) and width == 2
    copies = adapter * width if own_kernels and method == "qlora" else 0  # the adapter in the dtype it is multiplied in
    in_use = {
        "weights": shape.buffers + (shape.packed + shape.other * width if method == "qlora" else shape.weights * kept_width),
        "adapter": adapter * trained_width,
        "gradients": trained * trained_width,
        "optimizer": 2 * trained * state,
        "activations": _activations(profile, shape, method, width, max(lengths), own_kernels) + copies,
        "logits": min(PIECE, profile.batch_size * min(completion, max(lengths))) * shape.vocabulary * (8 + 2 * width),
    }
    parts = {name: size / 1e6 for name, size in in_use.items()}
    between = (ALLOCATOR[hardware.device] - 1) * (parts["activations"] + parts["logits"])
    parts["allocator"] = between + (FRAGMENTS_MB if hardware.device == "cpu" else 0)
    if profile.gradient_accumulation == 1:  # gradients appear as the activations go, last layer first: the larger counts
        parts["gradients"] = max(0.0, parts["gradients"] - parts["activations"])
    if hardware.device == "cpu":
        parts["file as read"] = shape.weights * width / 1e6
        parts["libraries"] = LIBRARIES_MB
    seconds = None
    if rate:
        operations = sum(lengths) * operations_per_token(shape, method, profile, sum(lengths) / len(lengths))
        seconds = operations / (rate * SHARE[hardware.device])
    return Plan(method, hardware.name, profile.batch_size, max(lengths), parts, seconds)


def _activations(profile: Profile, shape: Shape, method: str, width: int, longest: int, own_kernels: bool) -> int:
    """Bytes that the largest batch keeps for the backward pass."""
    tokens = profile.batch_size * -(-longest // PAD_TO) * PAD_TO
    layer = _bytes_per_token_and_layer(shape, width, 0 if method == "full" else profile.rank)
    if own_kernels and longest <= kernels.LONGEST:
        layer += width * shape.heads * longest  # the kit's attention keeps its weights
    if profile.gradient_checkpointing:  # each layer's input, and one layer while it is computed again
        return tokens * (shape.hidden * width * shape.layers + layer)
    return tokens * layer * shape.layers


def _bytes_per_token_and_layer(shape: Shape, width: int, rank: int) -> int:
    norms = 2 * 4 * shape.hidden
    inputs = 2 * width * shape.hidden
    attention = 2 * width * (shape.heads + shape.kv_heads) * shape.head_size + 4 * shape.heads
    mlp = 4 * width * shape.intermediate
    return norms + inputs + attention + mlp + 7 * width * rank


def operations_per_token(shape: Shape, method: str, profile: Profile, length: float) -> float:
    """Floating-point operations of one training step for a token: 2 a weight forwards, 2 for the input's gradient, and 2
    for the weight's where it is trained (Kaplan et al. 2020, arXiv 2001.08361, section 2.1); attention added.
    """
    adapter = 0 if method == "full" else profile.rank * shape.sides
    base = (6 if method == "full" else 4) * shape.linear
    again = 2 * shape.linear if profile.gradient_checkpointing else 0
    head = (6 if method == "full" else 4) * shape.hidden * shape.vocabulary * min(1.0, COMPLETION / length)
    attention = 12 * shape.layers * shape.heads * shape.head_size * length
    return base + again + 6 * adapter + head + attention


def largest_batch(profile: Profile, lengths: Sequence[int], memory_gb: float, **settings: Any) -> tuple[int, int] | None:
    """(batch, accumulation) that fits into `memory_gb`; None if not even one example fits.

    Up to the profile's examples a step, accumulation keeps their number; beyond it come powers of two, 64 at most.
    """
    a_step = profile.examples_per_step
    powers = (2**n for n in range(MOST_EXAMPLES.bit_length()))
    sizes = {n for n in range(1, a_step + 1) if a_step % n == 0} | {n for n in powers if n > a_step}
    for batch in sorted(sizes, reverse=True):
        accumulation = max(1, a_step // batch)
        changed = profile.with_changes(batch_size=batch, gradient_accumulation=accumulation)
        if fits(plan_training(changed, lengths, **settings), memory_gb):
            return batch, accumulation
    return None


def longest_rows(profile: Profile, memory_gb: float, **settings: Any) -> int | None:
    """Tokens that rows may have, all of them, to fit into `memory_gb` with the profile's batch; None if none fit.

    A multiple of what batches are padded to, `MOST_TOKENS` at most.
    """

    def too_long(length: int) -> bool:  # up to kernels.LONGEST the kit's attention on a CPU keeps more than beyond it
        kinds = (length, min(length, kernels.LONGEST))
        return not all(fits(plan_training(profile, [n], **settings), memory_gb) for n in kinds)

    candidates = range(PAD_TO, MOST_TOKENS + 1, PAD_TO)
    fitting = bisect.bisect_left(candidates, True, key=too_long)
    return candidates[fitting - 1] if fitting else None


def fits(plan: Plan, memory_gb: float) -> bool:
    """Whether a training fits into the usable part of `memory_gb`."""
    return plan.peak_mb <= USABLE * 1000 * memory_gb


def describe_gap(planned: float, measured: float) -> str:
    """Tell the gap between a plan and what was measured, for people."""
    gap = measured / planned - 1
    if abs(gap) < 0.02:
        return "as planned"
    return f"{abs(gap):.0%} {'more' if gap > 0 else 'less'} than planned"


# --- for people ---


def example_lengths(task: Task, profile: Profile) -> tuple[list[int], str]:
    """Tokens of the task's training examples, and where they come from; without a tokenizer the profile's limit."""
    rows = task.rows("train")
    try:
        tokenizer = load_tokenizer(profile.model)
    except (KitError, OSError):
        limit = f"{len(rows):,} examples of {profile.max_length} tokens (the profile's limit: the tokenizer is not here)"
        return [profile.max_length] * len(rows), limit
    lengths = [len(example_ids(tokenizer, task, row)) for row in rows]
    return lengths, f"{len(rows):,} examples of {task.name}, {min(lengths)} to {max(lengths)} tokens"


def measure_matrix_rate(seconds: float = 1.0) -> float:
    """Measure the floating-point operations a second that this device does in a large 16-bit matrix product."""
    hardware = detect_hardware()
    dtype = getattr(torch, resolve_dtype("auto", hardware))
    a = torch.randn(1024, 1024, dtype=dtype, device=hardware.device)
    products, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        for _ in range(10):
            a @ a
        if hardware.device == "cuda":
            torch.cuda.synchronize()
        products += 10
    return 2 * 1024**3 * products / (time.monotonic() - began)


def tabulate_plan(profile: Profile, lengths: Sequence[int], source: str, rate: float) -> list[Any]:
    """Put the plan by all three methods into tables and lines for the terminal; `rate` as of `measure_matrix_rate`."""
    hardware, shape = detect_hardware(), model_shape(profile.model)
    plans = [plan_training(profile, lengths, method, shape, hardware, rate) for method in METHODS]
    title = f"{shape.name}: {shape.weights / 1e6:,.0f} million weights; batch {profile.batch_size}; {source}"
    grid = Table()
    grid.add_column(f"memory on {hardware.name}, MB")
    for heading in ("full fine-tuning", f"LoRA, rank {profile.rank}", f"QLoRA, rank {profile.rank}"):
        grid.add_column(heading, justify="right")
    for part in plans[0].parts:
        grid.add_row(part, *(f"{plan.parts[part]:,.0f}" for plan in plans))
    grid.add_section()
    grid.add_row("most at once", *(f"{plan.peak_mb:,.0f}" for plan in plans), style="bold")
    passes = profile.epochs if profile.max_steps < 0 else profile.max_steps * profile.examples_per_step / len(lengths)
    seconds = [plan.seconds_per_epoch or 0.0 for plan in plans]
    grid.add_row("time for an epoch", *map(clock, seconds))
    grid.add_row(f"time for its {passes:.3g} epochs", *(clock(passes * each) for each in seconds))
    batches, rows = _tabulate_devices(profile, lengths, shape, hardware)
    reached = f"{SHARE[hardware.device]:.0%} of the {rate / 1e9:,.0f} GFLOP/s that it does in matrix products now"
    note = f"The time is an estimate: training at {reached}."
    mind = (
        f"What fits is not yet what learns best: the profile takes {profile.examples_per_step} examples a step. "
        f"Rows over its max_length, {profile.max_length} tokens, are refused."
    )
    return [title, grid, note, batches, rows, mind]


def _tabulate_devices(profile: Profile, lengths: Sequence[int], shape: Shape, hardware: Hardware) -> tuple[Table, Table]:
    """The largest batch and the longest row that fit, on this machine and on some GPUs."""
    batches = Table(title="Largest batch that fits (x 2: two of them added up for a step)", title_justify="left")
    rows = Table(title=f"Longest row that fits, in tokens, at batch {profile.batch_size}", title_justify="left")
    batches.add_column("device")
    rows.add_column("device")
    for method in METHODS:
        batches.add_column(method, justify="right")
        rows.add_column(method, justify="right")
    here = Hardware(hardware.device, "this machine", hardware.memory, hardware.capability)
    cards = [Hardware("cuda", name, memory, (7, 5) if name == "T4" else (9, 0)) for name, (memory, _) in DEVICES.items()]
    for device in (here, *cards):
        on = {"shape": shape, "hardware": device}
        largest = [largest_batch(profile, lengths, device.memory, method=m, **on) for m in METHODS]
        longest = [longest_rows(profile, device.memory, method=m, **on) for m in METHODS]
        name = f"{device.name}, {device.memory:.0f} GB"
        batches.add_row(name, *("does not fit" if sizes is None else _batch(*sizes) for sizes in largest))
        rows.add_row(name, *("does not fit" if n is None else _tokens(n) for n in longest))
    return batches, rows


def _batch(batch: int, accumulation: int) -> str:
    return f"{batch}" if accumulation == 1 else f"{batch} x {accumulation}"


def _tokens(length: int) -> str:
    return f"{length:,}" + (" or more" if length == MOST_TOKENS else "")
