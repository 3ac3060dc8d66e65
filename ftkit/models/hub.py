"""The model hub: whether it answers, and why it refused something."""

from __future__ import annotations

import os
import re
from typing import Any


def hub_answers(timeout: float = 3.0) -> bool:
    """Whether the model hub answers at all within `timeout` seconds."""
    import httpx
    from huggingface_hub import constants

    try:
        httpx.head(constants.ENDPOINT, timeout=timeout)
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return False
    return True


def explain_hub_error(error: BaseException) -> str:
    """Why the hub refused something, in words for the reader, by the status of its answer; no token is in it."""
    cause: Any = error
    while cause and getattr(cause, "response", None) is None:
        cause = cause.__cause__ or cause.__context__
    if not cause:
        return f"there is no connection, or it broke off ({type(error).__name__}). Try again later"
    status = cause.response.status_code
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
    message = (getattr(cause, "server_message", None) or "").strip().splitlines()
    added = f'. It says: "{re.sub("hf_[A-Za-z0-9]+", "hf_...", message[0])[:200]}"' if message else ""
    return meaning.get(status, f"it answered with an error ({status}). Try again later") + added
