"""A model behind an OpenAI-compatible server: one chat in, one text out, and one sentence where that fails."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import httpx

from ftkit.common.errors import KitError
from ftkit.data.prompt import Messages

KEY = "FTKIT_JUDGE_KEY"  # a variable of the environment: a key given as an option would show in the list of processes
TIMEOUT = 120.0  # seconds for one reply
TRIES = 2  # for a reply that comes late, or a server that fails or is busy
REPLY_TOKENS = 512  # a verdict is one word; models that think first need more


class NoJudge(KitError):
    """The server gives no replies: it is down, too slow, refuses, or speaks another protocol."""


@dataclass(frozen=True)
class Server:
    """A model of an OpenAI-compatible server. `url` is its address, with `/v1` or without."""

    url: str
    model: str
    timeout: float = TIMEOUT
    key: str = field(default_factory=lambda: os.environ.get(KEY, ""), repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise KitError(f"{self.url!r} is no address of a server: give one such as http://localhost:8000/v1")
        if not self.model.strip():
            raise KitError("The judge's model has no name: --judge-model NAME, as the server calls it.")

    @property
    def address(self) -> str:
        """Where chats are sent."""
        root = self.url.rstrip("/").removesuffix("/chat/completions")
        return (root if urlsplit(root).path.rstrip("/").endswith("/v1") else f"{root}/v1") + "/chat/completions"

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine: what it reads then stays here."""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")

    @cached_property
    def _client(self) -> httpx.Client:
        return httpx.Client(timeout=self.timeout)

    def reply(self, chat: Messages) -> str:
        """The model's likeliest reply. Raises `NoJudge` with the reason where there is none."""
        asked = {"model": self.model, "messages": chat, "temperature": 0, "max_tokens": REPLY_TOKENS}
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        said = ""
        for _ in range(TRIES):
            try:
                answer = self._client.post(self.address, json=asked, headers=headers)
            except httpx.TimeoutException:
                said = f"it gave no reply within {self.timeout:g} seconds, twice"
                continue
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise NoJudge(self._away(f"it cannot be reached ({type(error).__name__})")) from None
            if answer.status_code == 429 or answer.status_code >= 500:
                said = f"it answers with the status {answer.status_code}"
                continue
            return self._text(answer)
        raise NoJudge(self._away(said))

    def _text(self, answer: httpx.Response) -> str:
        if answer.status_code != 200:
            hint = f" It asks for a key: set {KEY}." if answer.status_code in (401, 403) else ""
            raise NoJudge(self._away(f"it answers with the status {answer.status_code}") + hint)
        try:
            content: Any = answer.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise NoJudge(self._away("its reply is not that of an OpenAI-compatible server")) from None
        return content if isinstance(content, str) else ""

    def _away(self, reason: str) -> str:
        return f"The judge {self.model} at {self.address} does not judge: {reason}."
