"""Where a model comes from: a folder, the cache, a package that carries it, the hub (lesson 01)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftkit.common.errors import KitError
from ftkit.common.files import digest, new_folder
from ftkit.common.paths import cache_dir, expanded
from ftkit.models.catalog import CATALOG, INSTALL_PACKAGED, PACKAGED, is_packaged
from ftkit.models.hub import explain_hub_error, hub_answers


@dataclass(frozen=True)
class Source:
    """Where a model is found: `kind` is "folder", "cache", "package" or "hub"; `path` is None for the hub."""

    name: str
    kind: str
    path: Path | None


def packaged_file(name: str) -> Path | None:
    """GGUF file of a model that an installed package carries, or None."""
    if not is_packaged(name):
        return None
    try:
        files = importlib.metadata.distribution(_distribution(name)).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(f.locate())) for f in files if f.name == CATALOG[name].gguf)
    return next((path for path in paths if path.is_file()), None)


def _distribution(name: str) -> str:
    """The name, without the pin, of the package that carries a model."""
    return (CATALOG[name].package or "").split("==")[0]


def cached_folder(name: str) -> Path:
    """Folder in the kit's cache where the prepared copy of a packaged model lies, whether or not it is there."""
    version = ""
    if packaged_file(name):
        version = "-" + importlib.metadata.version(_distribution(name))
    return cache_dir() / "models" / (re.sub(r"[^\w.-]+", "--", name) + version)


def find_model(name: str) -> Source:
    """Find a model: a folder, the kit's cache, a package that carries it, else the hub. Nothing is loaded.

    Raises `KitError` for a folder that is none, or a home that is not there.
    """
    folder = expanded(name)
    if (folder / "config.json").is_file():
        return Source(name, "folder", folder)
    if (cached := cached_folder(name)).is_dir():
        return Source(name, "cache", cached)
    if packaged := packaged_file(name):
        return Source(name, "package", packaged)
    if folder.is_dir() or name.startswith((".", "/", "~")):
        raise KitError(f"{name} is not a model folder: it has no config.json.")
    return Source(name, "hub", None)


def full_name(name: str) -> str:
    """A model's name as a run keeps it: of a folder the whole path, which is found from any other folder; else as it is."""
    folder = expanded(name)
    return str(folder.resolve()) if (folder / "config.json").is_file() else name


def prepare_model(name: str) -> str:
    """Make a model ready to load and return what `from_pretrained` takes: a folder, or a hub name.

    A packaged model is read from its GGUF file, dequantized to bfloat16 and saved once to the cache as safetensors
    (about half a minute). The folder appears under its name only when it is complete, so an interrupted preparation
    leaves nothing broken; two processes that prepare at once wait for each other. `KitError` when it is nowhere.
    """
    source = find_model(name)
    if source.path is None:
        return _from_hub(name)
    return str(_prepare_packaged(name, source.path) if source.kind == "package" else source.path)


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
        with new_folder(target) as temporary:
            where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name, "local_files_only": True}
            with contextlib.redirect_stderr(io.StringIO()):  # a bar of two seconds
                tokenizer = AutoTokenizer.from_pretrained(**where)
                unpacked = GgufConfig(dequantize=True)
                model = AutoModelForCausalLM.from_pretrained(**where, quantization_config=unpacked, dtype=torch.bfloat16)
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
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
    raise KitError(
        f"The model {name} is not on this machine and the model hub does not answer. Give a folder, connect to a network, "
        f"or use the packaged model: {INSTALL_PACKAGED}, then the profile cpu (its model is {PACKAGED})."
    )


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Say in one sentence why a model's files cannot be had: the hub's answer, or what is broken in a folder.

    The hub's client raises httpx's errors, which are no `OSError`s. Their texts are not shown, since they may hold what was
    sent; a folder's are.
    """
    from huggingface_hub.utils import httpx
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, httpx.HTTPError, SafetensorError, ValueError) as error:
        source = find_model(name)
        if source.kind == "hub":
            raise KitError(f"The model {name} could not be had from the hub: {explain_hub_error(error)}.") from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".:")
        cure = "Copy it again."
        if source.kind != "folder":
            cure = f"Delete {source.path}; it is made anew at the next start."
        raise KitError(f"The model in {source.path} cannot be read ({reason}). {cure}") from None


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
    return digest(*(pieces[key] for key in sorted(pieces)))


def public_name(model: str) -> str:
    """A model's name for others: the hub's, or of a folder its last part."""
    return Path(model).name if Path(model).is_absolute() or model.startswith((".", "~")) else model
