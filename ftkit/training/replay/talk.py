"""General talk: prompts that have nothing to do with a task, answered by the base itself before it is trained.

The prompts lie in `data/general/replay.jsonl`. They are asked in their order and always the same ones together, so that an
answer depends on the model alone, and not on how many are wanted or what was asked before.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from ftkit.common.console import Say
from ftkit.common.errors import KitError
from ftkit.common.files import digest, read_jsonl, read_text, write_jsonl
from ftkit.common.machine import detect_hardware, resolve_dtype
from ftkit.common.paths import cache_dir, kit_root
from ftkit.common.processes import is_sharded
from ftkit.common.profiles import Profile
from ftkit.data.prompt import prompt_ids
from ftkit.models.chat_template import end_tokens
from ftkit.models.families import spare_the_head
from ftkit.models.find import weights_digest
from ftkit.models.four_bit import dequantize
from ftkit.models.load import load_model
from ftkit.runs.documents import Talk

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPTS = kit_root() / "data" / "general" / "replay.jsonl"
LONGEST = 64  # tokens of an answer with its end: a longer one is not taken
TOGETHER = 32  # prompts that are answered at once


def prompts() -> list[dict[str, Any]]:
    """The prompts: dicts with `id`, `kind` and `prompt`, the kinds mixed."""
    return read_jsonl(PROMPTS)


def kept_answers(profile: Profile, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The file in the kit's cache with this base's answers, in this dtype, to these prompts, whether or not it is there."""
    template = tokenizer.chat_template
    hardware = detect_hardware()
    settings = [resolve_dtype(profile.dtype, hardware), hardware.device, LONGEST, TOGETHER, template, read_text(PROMPTS)]
    key = digest(weights_digest(profile.model).encode(), json.dumps(settings, sort_keys=True).encode())
    return cache_dir() / "replay" / f"{key}.jsonl"


def read_answers(path: Path, say: Say) -> dict[str, Talk]:
    """The answers in such a file, by the prompt's id. A broken file is said and counts as empty: the base is asked again."""
    if not path.is_file():
        return {}
    try:
        return {talk.id: talk for talk in map(Talk.model_validate, read_jsonl(path))}
    except (KitError, ValidationError):
        say(f"Replay: {path} is broken. The base is asked again.")
        return {}


def answer_prompts(profile: Profile, tokenizer: PreTrainedTokenizerBase, say: Say) -> Iterator[list[Talk]]:
    """The prompts with the base's answers, block by block; the base is loaded when the first answer is not kept yet.

    An answer that did not come to its end within `LONGEST` tokens is empty. Whoever has enough stops asking. Raises
    `KitError` where the base cannot answer.
    """
    path = kept_answers(profile, tokenizer)
    every, known, model = prompts(), read_answers(path, say), None
    try:
        for start in range(0, len(every), TOGETHER):
            block = every[start : start + TOGETHER]
            if any(each["id"] not in known for each in block):
                if model is None:
                    say(f"Replay: the base answers general questions before it is trained; kept for the next time in {path}")
                    model = _load_base(profile)
                texts = _answer(model, tokenizer, [each["prompt"] for each in block])
                pairs = zip(block, texts, strict=True)
                known |= {each["id"]: Talk(id=each["id"], prompt=each["prompt"], answer=text) for each, text in pairs}
                write_jsonl(path, (talk.model_dump() for talk in known.values()))
            yield [known[each["id"]] for each in block]
    except Exception as error:
        if isinstance(error, KitError | OSError):
            raise
        reason = (str(error).strip() or "no reason given").splitlines()[0][:300]
        what = f"{profile.model} cannot answer here ({type(error).__name__}: {reason})"
        raise KitError(f"Replay: {what}. Train with --replay 0, or look: ftkit doctor --model {profile.model}") from error
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _load_base(profile: Profile) -> PreTrainedModel:
    """The 4-bit base that the adapter will stand beside, on a CPU with the values of its 4 bits as ordinary weights."""
    if is_sharded():
        raise KitError(
            "Replay: a base that is spread over several cards cannot answer here. Train in one process with the same "
            "--replay and --steps 1 first: its answers are kept. Or train with --replay 0."
        )
    model = load_model(profile.model, profile.dtype).eval()
    return spare_the_head(dequantize(model) if model.device.type == "cpu" else model)


def _answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[str]) -> list[str]:
    """Greedy answers to a block of prompts, each a chat of its own without a system prompt; "" for one without an end."""
    ids = [prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in asked]
    batch = tokenizer.pad({"input_ids": ids}, padding=True, padding_side="left", return_tensors="pt").to(model.device)
    ends = end_tokens(model, tokenizer)
    more: Any = {"max_new_tokens": LONGEST, "do_sample": False, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
    with torch.inference_mode():
        output = model.generate(**batch, **more)
    texts = []
    for new in output[:, batch["input_ids"].shape[1] :].tolist():
        stop = next((place for place, token in enumerate(new) if token in ends), None)
        texts.append("" if stop is None else tokenizer.decode(new[:stop], skip_special_tokens=True).strip())
    return texts
