"""Speed and memory on a GPU with random weights of real shapes: `python -m benchmarks.gpu`. No hub is needed.

Random weights are right for speed and memory, not for quality. The figures go to results/gpu.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.__main__ import run
from benchmarks.documents import FOLDER, GpuResults
from benchmarks.measure import PLAIN_BATCH
from ftkit.common.errors import KitError
from ftkit.common.machine import describe_machine, detect_hardware
from ftkit.models.find import prepare_model

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 49152, "tie_word_embeddings": True},
    "1.5B": {"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
             "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "8B": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
}  # fmt: skip
METHODS = ("plain", "qlora", "lora", "full")


def build(shape: str, folder: Path) -> None:
    """Write a model of random weights with the packaged model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(prepare_model("HuggingFaceTB/SmolLM2-135M-Instruct"))
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    with torch.device(detect_hardware().device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES[shape], **ids), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> GpuResults:
    """Train a few steps by every method, and save the figures after each.

    Every method learns from as many examples a step as the plain recipe, in one batch: the code is compared, not the recipe.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["1.5B", "8B"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--profile", default="big")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the figures go")
    options = parser.parse_args(arguments)
    shapes = GpuResults.load(options.folder).as_data()["shapes"] if GpuResults.exists(options.folder) else {}
    machine = describe_machine() | {"device": detect_hardware().name}
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            build(shape, Path(folder))
            for method in options.methods:
                settings = {"steps": options.steps, "profile": options.profile, "model": folder, "roofline": False}
                settings |= {"batch_size": PLAIN_BATCH, "gradient_accumulation": 1}
                try:
                    if method == "plain":
                        result = run("plain_training", **settings)
                    else:
                        result = run("kit_training", **settings, method=method)
                    del result["given"]["model"]
                except KitError as error:  # too large for the card, for example: that is a result too
                    result = {"failed": str(error)[:300]}
                    print(f"  {shape} {method}: {error}", flush=True)
                shapes.setdefault(shape, {})[method] = result
                results = GpuResults.model_validate_json(json.dumps({"machine": machine, "shapes": shapes}))
                results.save(options.folder)
    return results


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(f"gpu: {error}")
