"""The road out as a server with the OpenAI protocol."""

from __future__ import annotations

from pathlib import Path

from ftkit.common.files import write_text
from ftkit.common.templates import render
from ftkit.data.prompt import chat_prompt
from ftkit.deployment.roads.merged import _write_merged
from ftkit.runs.run import Run


def serve_command(folder: str = "merged", port: int = 8000) -> list[str]:
    """The command that serves a merged folder as an OpenAI-compatible server (transformers[serving])."""
    return ["transformers", "serve", folder, "--port", str(port)]


def _write_server(run: Run, folder: Path) -> None:
    (folder / "merged").mkdir()
    _write_merged(run, folder / "merged")
    begun, tokens = chat_prompt(run.task, "a message")[:-1], run.answer_tokens  # the system turn, if there is one
    chat = run.task.kind == "chat"
    if chat:
        script = render("deployment/templates/ask_chat.py.txt", chat=begun, answer_tokens=tokens)
    else:
        script = render("deployment/templates/ask.py.txt", system=begun[0]["content"], answer_tokens=tokens)
    write_text(folder / "ask.py", script)
    told = {"command": " ".join(serve_command()), "answer_tokens": tokens, "chat": chat, "system": bool(begun)}
    write_text(folder / "README.md", render("deployment/templates/server.md", task=run.task.name, **told))
