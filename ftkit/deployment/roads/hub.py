"""Pushing: an export with its card on the model hub; what goes wrong is one sentence without the token (lesson 05)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftkit.common.console import Say
from ftkit.common.errors import KitError
from ftkit.common.files import size_mb
from ftkit.deployment.roads.export import doubt, export
from ftkit.deployment.roads.merged import export_folder
from ftkit.models.hub import explain_hub_error, hub_answers
from ftkit.runs.documents import ExportRecord
from ftkit.runs.run import Run, adapter_digest

PUSHED = ("adapter", "merged", "space")


def push(run: Run, repo: str, what: str = "adapter", private: bool = True, api: Any = None, say: Say = print) -> str:
    """Upload an export (`adapter`, `merged` or `space`) with its card to the hub; returns the address.

    The token is the one that `hf auth login` stored or `HF_TOKEN` holds; huggingface_hub reads it, the kit neither shows
    nor keeps it. What should be private never lands in a public repository; with `private=False` a private one is opened
    after the upload. `api` stands in for `HfApi` in tests. Raises `KitError` without a token, a network, a right to write.
    """
    if what not in PUSHED:
        raise KitError(f"{what!r} cannot be pushed: take {', '.join(PUSHED[:-1])} or {PUSHED[-1]}.")
    _check_name(repo)
    if api is None:
        api = _connect()
    _ask(api.whoami, "The hub does not let you in")  # told before minutes of exporting
    folder = export_folder(run, what)
    if not folder.is_dir():
        say(doubt(export(run, what, say=say)) or "  it answers as the tuned model does")
    elif ExportRecord.load(folder).adapter != adapter_digest(run):
        raise KitError(f"{folder} is of an older adapter. Remove it, then push again.")
    kind = {"repo_type": "space", "space_sdk": "gradio"} if what == "space" else {"repo_type": "model"}
    place = {"repo_id": repo, "repo_type": kind["repo_type"]}
    failure = f"The hub did not take {repo}"
    address = _ask(lambda: api.create_repo(repo_id=repo, private=private, exist_ok=True, **kind), failure, folder)
    closed = _ask(lambda: api.repo_info(**place), failure, folder).private  # one that was there stays as it was
    if private and closed is False:
        raise KitError(f"{repo} is there already and open to everybody: nothing was sent. Push with --public, or elsewhere.")
    say(f"Uploading {size_mb(folder):.0f} MB to {repo} ({'private' if private else 'public'}) ...")
    sent = {"folder_path": str(folder), "commit_message": f"{what} of {run.name}", "ignore_patterns": [ExportRecord.FILE]}
    _ask(lambda: api.upload_folder(**place, **sent), f"The upload to {repo} failed", folder)
    if closed and not private:
        stays = f"{repo} has it, but was private before and stays so"
        _ask(lambda: api.update_repo_settings(**place, private=False), stays, folder)
        say(f"{repo} was private before; it is public now, and so is all that was put there earlier.")
    return str(address)


def _check_name(repo: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
        if re.fullmatch(r"[^/]+/[^/]+", repo):
            return
    except HFValidationError:
        pass
    raise KitError(f"{repo!r} is not the name of a repository: give --repo OWNER/NAME (letters, digits, '-', '_', '.').")


def _connect() -> Any:
    """The hub's client, if there is a token and the hub answers."""
    from huggingface_hub import HfApi, constants, get_token

    if not get_token():
        raise KitError("There is no token for the hub. Log in with `hf auth login`, or set HF_TOKEN, then run it again.")
    if constants.HF_HUB_OFFLINE:
        raise KitError("HF_HUB_OFFLINE is set, so nothing can be pushed. Unset it where there is a network.")
    if not hub_answers():
        raise KitError("The hub does not answer: there is no network here, or it is down. Try again later.")
    return HfApi()


def _ask(call: Callable[[], Any], failure: str, folder: Path | None = None) -> Any:
    """What a call of the hub's client gives. Its many kinds of errors may hold the token: none of their texts is shown."""
    try:
        return call()
    except Exception as error:
        ready = f" {folder} is ready: the same command goes on from there." if folder else ""
        raise KitError(f"{failure}: {explain_hub_error(error)}.{ready}") from None
