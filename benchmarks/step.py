"""Where the time of a training step goes, by torch's profiler: what is left to be won, and where it is not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

BASE, ADAPTER, HEAD = "products with the base's weights", "products with the adapter's", "the head and the loss"
UNPACKED, ATTENTION, OPTIMIZER = "4-bit weights unpacked", "attention", "optimizer and clipping"
ELEMENTS, PYTHON = "norms, gates, casts and copies", "Python between them"
KINDS = {  # what is in an operator's name, the first that fits
    "bitsandbytes": UNPACKED,
    "dequantize": UNPACKED,
    "bmm": ATTENTION,
    "softmax": ATTENTION,
    "scaled_dot": ATTENTION,
    "adam": OPTIMIZER,
    "foreach": OPTIMIZER,
    "nll_loss": HEAD,
    "cross_entropy": HEAD,
}
PRODUCTS = ("aten::mm", "aten::addmm", "aten::linear", "aten::matmul", "mkldnn")


class Where(TrainerCallback):
    """Profiles `steps` steps after `warm` ones."""

    def __init__(self, model: Any, steps: int, warm: int = 8) -> None:
        config = model.config.get_text_config()
        self.rank, self.vocabulary = next(iter(model.peft_config.values())).r, config.vocab_size
        self.steps, self.warm = steps, warm

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to look."""
        if state.global_step == self.warm:
            self.profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
            self.profiler.__enter__()
            self.began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look no longer."""
        if state.global_step == self.warm + self.steps:
            self.whole = time.monotonic() - self.began
            self.profiler.__exit__(None, None, None)

    def figures(self) -> dict[str, Any]:
        """Seconds of a profiled step, and the shares of its time by kind of work, which add up to 1: after the training."""
        taken: Counter[str] = Counter()
        for event in self.profiler.key_averages(group_by_input_shape=True):
            taken[self.kind(event.key, event.input_shapes)] += event.self_cpu_time_total / 1e6
        taken[PYTHON] += self.whole - sum(taken.values())
        shares = {name: round(seconds / self.whole, 4) for name, seconds in taken.most_common()}
        return {"where": shares, "profiled_seconds": round(self.whole / self.steps, 3)}

    def kind(self, name: str, shapes: Sequence[Sequence[int]]) -> str:
        """What an operator's call was for, by its name and the shapes of what it was given."""
        lower = name.lower()
        sizes = {size for shape in shapes for size in shape if isinstance(size, int)}
        if self.vocabulary in sizes:
            return HEAD
        for part, own in KINDS.items():
            if part in lower:
                return own
        if lower.startswith(PRODUCTS):
            return ADAPTER if self.rank in sizes else BASE
        return ELEMENTS if "::" in name else PYTHON
