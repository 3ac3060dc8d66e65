"""The road out to Ollama: a Modelfile over the merged model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from ftkit.common.errors import KitError
from ftkit.common.files import write_text
from ftkit.common.templates import render
from ftkit.deployment.roads.go_template import conversation_template
from ftkit.deployment.roads.merged import _write_merged
from ftkit.models.chat_template import adds_begin, end_tokens
from ftkit.models.families import context_length
from ftkit.models.tokenizer import load_tokenizer
from ftkit.runs.run import Run

MOST_TOKENS = 8192  # of a conversation in Ollama: memory for more is taken at once, whether it is needed or not


def modelfile(
    run: Run, tokenizer: Any, ends: Sequence[int] | None = None, model: str = "./merged", window: int | None = None
) -> str:
    """Ollama's Modelfile: the model's own chat template, the task's system prompt, and answers as the kit measures them.

    The template is what the tokenizer makes of a chat whose texts are Ollama's own placeholders, so both give the same
    prompt; for conversations see `conversation_template`. `window` is how many tokens a conversation may have (left out,
    Ollama decides); Ollama leaves out the oldest turns of a longer one. Greedy: temperature 0, and no penalty on repetition
    (Ollama's default has one, which a JSON object suffers from). `ends` are the ids of the tokens that end an answer; left
    out, those of the tokenizer. Where the tokenizer puts BOS before a text by itself, Ollama does too, and the template's
    own is left out. Source: Ollama's documentation of the Modelfile.
    """
    holders = [{"role": "system", "content": "{{ .System }}"}, {"role": "user", "content": "{{ .Prompt }}"}]
    template = tokenizer.apply_chat_template(holders, add_generation_prompt=True, tokenize=False)
    if adds_begin(tokenizer):
        template = template.removeprefix(tokenizer.bos_token)
    system, task = run.task.system_prompt, run.task
    opening = template.rpartition(holders[1]["content"])[2]
    if task.kind == "chat":
        template = conversation_template(tokenizer, system)
    for text, name in ((template, "chat template"), (system, "system prompt")):
        if '"""' in text:
            raise KitError(f'The {name} holds """, which a Modelfile cannot hold: write it differently, then train again.')
    return render(
        "deployment/templates/Modelfile",
        model=model,
        template=template,
        system=system,
        stops=stop_tokens(tokenizer, end_tokens(None, tokenizer) if ends is None else ends, opening),
        seed=run.profile.seed,
        answer_tokens=run.answer_tokens,
        window=window,
    )


def stop_tokens(tokenizer: Any, ends: Sequence[int], opening: str) -> list[str]:
    """The texts that end an answer: those of the end tokens, and the marks in an answer's `opening`."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    turns = [i for i in tokenizer(opening, add_special_tokens=False)["input_ids"] if i in special]
    return tokenizer.convert_ids_to_tokens(list(dict.fromkeys([*ends, *turns])))


def _write_ollama(run: Run, folder: Path) -> None:
    chat = run.task.kind == "chat"
    (folder / "merged").mkdir()
    _write_merged(run, folder / "merged")
    ends = GenerationConfig.from_pretrained(folder / "merged").eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    longest = context_length(AutoConfig.from_pretrained(folder / "merged")) or MOST_TOKENS
    window = min(longest, MOST_TOKENS) if chat else None
    tokenizer = load_tokenizer(run.profile.model, run.adapter)
    write_text(folder / "Modelfile", modelfile(run, tokenizer, ends, window=window))
    readme = render("deployment/templates/ollama.md", task=run.task.name, chat=chat, window=window)
    write_text(folder / "README.md", readme)
