"""Writes `docs/models.md` from what the families' tests measure: `python docs/models.py` (about two minutes)."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # `tests` is no part of the installed package

from ftkit.common.files import write_text
from ftkit.common.machine import describe_machine
from tests.conftest import desk_tokenizer
from tests.training.families import CANNOT, FAMILIES, Road, take_road

PAGE = Path(__file__).with_name("models.md")
SAME = 1e-4  # gap of logits, as a share of the largest, that rounding of 32 bits explains
HEAD = """# Which models the kit can train

Written by `python docs/models.py` from [tests/training/families.py](../tests/training/families.py): a tiny random model of each family
of decoder-only text models goes the whole road, with the kit's own functions, in float32. What is special about a family is switched
on: soft caps, scales, sliding windows, experts. The tests hold every line; `ftkit doctor --model NAME` takes a real model the same road.

{count} families, {date}: {versions}.

- **loss**: *fast* is the model's own forward with logits at the completion's tokens alone. It gives the loss and the gradients of
  `model(input_ids, attention_mask, labels)`, with padding on either side. Before each training the kit holds the two against each
  other on a small batch. If they differ it takes trl's own loss, or that of all logits, and says so.
- **4-bit**: the share of the weights in 4 bits, embeddings left out. The others keep their dtype: `bitsandbytes` quantizes ordinary linear
  layers, not the experts' stacked weights, nor layers of a family's own kind.
- **adapter**: the layers that get one. It has a gradient in each, and one step lowers the loss.
- **reload, merge**: the adapter loaded again, and the merged model saved and loaded as an ordinary one, give the same logits.
- **answers**: base and tuned are told apart *by row* (peft's `adapter_names`), or *by switch* where a family puts the rows of a batch on one
  heap. Streamed text is that of a batch; *no cache* means that the demo computes the whole text again for each token.

| family | class | attention | loss | 4-bit | adapter | reload | merge | answers | remarks |
|---|---|---|---|---:|---:|---|---|---|---|
"""


def line(road: Road) -> str:
    """A row of the table."""
    remarks = []
    if road.unfit:
        remarks.append(f"no adapter on {road.unfit} of its layers, whose forward is not used or not a linear layer's")
    if road.packed == 0:
        remarks.append("stays in 16 bits: its linear layers are of its own kind")
    elif road.share < 0.9 and not road.unfit:
        remarks.append("experts or other matrices stay in 16 bits")
    if not road.streamed:
        remarks.append("padding changes the answers of a batch")
    if road.attention == "eager":
        remarks.append("the kit's fast attention does not fit")
    cells = [
        f"`{road.family}`",
        road.model,
        road.attention,
        "fast" if road.loss == "completion" else road.loss,
        f"{road.share:.0%}",
        str(road.adapted),
        "yes" if road.reloaded < SAME else f"gap {road.reloaded:.1e}",
        "yes" if road.merged < SAME else f"gap {road.merged:.1e}",
        ("by row" if road.by_names else "by switch") + ("" if road.cached else ", no cache"),
        "; ".join(remarks),
    ]
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """The whole page, from a road taken now with every family."""
    warnings.simplefilter("ignore")
    tokenizer = desk_tokenizer()
    tokenizer.padding_side = "left"
    lines = []
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            if family in CANNOT:
                lines.append(f"| `{family}` | - | - | fast | - | - | - | - | - | {CANNOT[family][1]} |")
                continue
            lines.append(line(take_road(family, Path(folder), tokenizer)))
    machine = describe_machine()
    shown = ("torch", "transformers", "trl", "peft", "bitsandbytes")
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in shown)
    return HEAD.format(count=len(FAMILIES), date=machine["date"], versions=versions) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_text(PAGE, page())
