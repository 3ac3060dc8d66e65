"""The road out to Ollama: a Modelfile over the merged model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from ftkit.common.errors import KitError
from ftkit.common.files import write_text
from ftkit.common.templates import render
from ftkit.deployment.roads.merged import _write_merged
from ftkit.models.chat_template import adds_begin, end_tokens
from ftkit.models.tokenizer import load_tokenizer
from ftkit.runs.run import Run


def modelfile(run: Run, tokenizer: Any, ends: Sequence[int] | None = None, model: str = "./merged") -> str:
    """Ollama's Modelfile: the model's own chat template, the task's system prompt, and answers as the kit measures them.

    The template is what the tokenizer makes of a chat whose texts are Ollama's own placeholders, so both give the same
    prompt. Greedy: temperature 0, and no penalty on repetition (Ollama's default has one, which a JSON object suffers
    from). `ends` are the ids of the tokens that end an answer; left out, those of the tokenizer. Where the tokenizer puts
    BOS before a text by itself, Ollama does too, and the template's own is left out. Source: Ollama's documentation of the
    Modelfile.
    """
    holders = [{"role": "system", "content": "{{ .System }}"}, {"role": "user", "content": "{{ .Prompt }}"}]
    template = tokenizer.apply_chat_template(holders, add_generation_prompt=True, tokenize=False)
    if adds_begin(tokenizer):
        template = template.removeprefix(tokenizer.bos_token)
    system = run.task.system_prompt
    for text, name in ((template, "chat template"), (system, "system prompt")):
        if '"""' in text:
            raise KitError(f'The {name} holds """, which a Modelfile cannot hold: write it differently, then train again.')
    return render(
        "deployment/templates/Modelfile",
        model=model,
        template=template,
        system=system,
        stops=stop_tokens(
            tokenizer, end_tokens(None, tokenizer) if ends is None else ends, template.rpartition(holders[1]["content"])[2]
        ),
        seed=run.profile.seed,
        answer_tokens=run.answer_tokens,
    )


def stop_tokens(tokenizer: Any, ends: Sequence[int], opening: str) -> list[str]:
    """The texts that end an answer: those of the end tokens, and the marks in an answer's `opening`."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    turns = [i for i in tokenizer(opening, add_special_tokens=False)["input_ids"] if i in special]
    return tokenizer.convert_ids_to_tokens(list(dict.fromkeys([*ends, *turns])))


def _write_ollama(run: Run, folder: Path) -> None:
    (folder / "merged").mkdir()
    _write_merged(run, folder / "merged")
    ends = GenerationConfig.from_pretrained(folder / "merged").eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    write_text(folder / "Modelfile", modelfile(run, load_tokenizer(run.profile.model, run.adapter), ends))
    write_text(folder / "README.md", render("deployment/templates/ollama.md", task=run.task.name))
