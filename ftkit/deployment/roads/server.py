"""The road out as a server with the OpenAI protocol."""

from __future__ import annotations

import json
from pathlib import Path

from ftkit.common.files import write_text
from ftkit.data.prompt import chat_prompt
from ftkit.deployment.roads.merged import _write_merged
from ftkit.runs.run import Run

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
