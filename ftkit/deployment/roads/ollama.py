"""The road out to Ollama: a Modelfile over the merged model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import write_text
from ftkit.common.templates import render
from ftkit.deployment.roads.merged import _write_merged
from ftkit.models.load import load_tokenizer
from ftkit.runs.run import Run


def modelfile(run: Run, tokenizer: Any, model: str = "./merged") -> str:
    """Ollama's Modelfile: the model's own chat template, the task's system prompt, and answers as the kit measures them.

    The template is what the tokenizer makes of a chat whose texts are Ollama's own placeholders, so both give the same
    prompt. Greedy: temperature 0, and no penalty on repetition (Ollama's default has one, which a JSON object suffers
    from). Source: Ollama's documentation of the Modelfile.
    """
    holders = [{"role": "system", "content": "{{ .System }}"}, {"role": "user", "content": "{{ .Prompt }}"}]
    template = tokenizer.apply_chat_template(holders, add_generation_prompt=True, tokenize=False)
    system = run.task.system_prompt
    for text, name in ((template, "chat template"), (system, "system prompt")):
        if '"""' in text:
            raise KitError(f'The {name} holds """, which a Modelfile cannot hold: write it differently, then train again.')
    return render(
        "deployment/templates/Modelfile",
        model=model,
        template=template,
        system=system,
        stops=stop_tokens(tokenizer),
        seed=run.profile.seed,
        answer_tokens=run.answer_tokens,
    )


def stop_tokens(tokenizer: Any) -> list[str]:
    """The texts that end an answer: the end token, and the template's mark of a new turn if it has one."""
    marks = [tokenizer.eos_token, *(mark for mark in ("<|im_start|>", "<|im_end|>") if mark in tokenizer.get_vocab())]
    return list(dict.fromkeys(mark for mark in marks if mark))


def _write_ollama(run: Run, folder: Path) -> None:
    (folder / "merged").mkdir()
    _write_merged(run, folder / "merged")
    write_text(folder / "Modelfile", modelfile(run, load_tokenizer(run.profile.model)))
    write_text(folder / "README.md", render("deployment/templates/ollama.md", task=run.task.name))
