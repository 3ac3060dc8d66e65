import base64
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftkit.common.errors import KitError
from ftkit.deployment.roads.export import export
from ftkit.deployment.roads.hub import push
from ftkit.models.find import prepare_model, readable
from ftkit.runs.run import Run

TOKEN = "hf_secretsecretsecret"


def quiet(line):
    pass


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the tiny run, to export from or to break."""
    return Run(shutil.copytree(tiny_run.folder, tmp_path / tiny_run.name, ignore=shutil.ignore_patterns("exports")))


class StandIn(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a push needs: it notes what it is sent, and takes every file in the commit itself.

    The server's `refuses` is {part of a path: status}; status 0 hangs up without an answer.
    """

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        here = f"http://127.0.0.1:{self.server.server_port}"
        self.server.calls.append((self.command, self.path, self.headers.get("Authorization"), body))
        refused = [status for part, status in self.server.refuses.items() if part in self.path]
        if refused == [0]:
            self.close_connection = True
            return self.connection.close()
        if refused:
            return self.reply({"error": f"no, not with {TOKEN}"}, refused[0])
        if self.path.endswith("/repos/create"):
            return self.reply({"url": f"{here}/somebody/desk", "id": "1"})
        if "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            return self.reply({"files": files})
        if self.path.endswith("/validate-yaml"):
            return self.reply({"errors": [], "warnings": []})
        if self.path.endswith("/settings"):
            return self.reply({"private": False})
        if self.command in ("GET", "HEAD"):
            return self.reply({"id": "somebody/desk", "sha": "1" * 40, "siblings": [], "private": self.server.private})
        return self.reply({"commitUrl": f"{here}/somebody/desk/commit/{'1' * 40}", "commitOid": "1" * 40, "success": True})

    do_GET = do_PUT = do_HEAD = do_POST

    def reply(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import HfApi, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    impatient = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})  # it tries again after ever longer waits
    monkeypatch.setattr("huggingface_hub.utils._http.time", impatient)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.calls, server.refuses, server.private = [], {}, True
    server.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    addresses = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", addresses)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.api = HfApi(endpoint=server.address, token=TOKEN)
    yield server
    server.shutdown()


def sent_files(calls):
    """{path: content} of the commit."""
    (body,) = [body for _, path, _, body in calls if "/commit/" in path]
    lines = [json.loads(line) for line in body.splitlines()]
    return {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}


def sent(calls, ending):
    return [json.loads(body) for _, path, _, body in calls if path.endswith(ending)]


def test_a_push_sends_the_adapter_with_its_card_and_shows_no_token(run, hub, capsys):
    said = []
    push(run, "somebody/desk", api=hub.api, say=said.append)
    (created,) = sent(hub.calls, "/repos/create")
    assert created["name"] == "desk" and created["organization"] == "somebody"
    assert created.get("private") or created.get("visibility") == "private"
    files = sent_files(hub.calls)
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= set(files)
    assert "export.json" not in files and not sent(hub.calls, "/settings")
    assert files["adapter_model.safetensors"] == (run.adapter / "adapter_model.safetensors").read_bytes()
    assert {(command, path) for command, path, token, _ in hub.calls if token != f"Bearer {TOKEN}"} == set()
    assert "hf_secret" not in "".join(said) + "".join(capsys.readouterr())
    kept = [p for p in run.folder.rglob("*") if p.is_file() and b"hf_secret" in p.read_bytes()]
    assert not kept


@pytest.mark.parametrize(
    ("part", "status", "words"),
    [
        ("/whoami", 401, r"does not let you in: it does not know your token.*\(401\)\. Log in: hf auth login"),
        ("/repos/create", 402, r"did not take somebody/desk: it asks for a paid account \(402\).*It says: \"no, not with"),
        ("/repos/create", 403, r"did not take somebody/desk: your token may not do this \(403\)"),
        ("/commit/", 403, r"upload to somebody/desk failed: your token may not do this \(403\).*adapter is ready"),
        ("/commit/", 0, r"upload to somebody/desk failed: there is no connection, or it broke off.*adapter is ready"),
        ("/api/models/somebody/desk", 404, r"did not take somebody/desk: there is nothing of that name.*\(404\)"),
    ],
)
def test_a_hub_that_refuses_is_told_in_one_line_without_the_token(run, hub, part, status, words):
    hub.refuses = {part: status, "/api/models/somebody/desk": 404} if part == "/repos/create" else {part: status}
    with pytest.raises(KitError, match=words) as refused:
        push(run, "somebody/desk", api=hub.api, say=quiet)
    assert "hf_secret" not in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert refused.value.__suppress_context__
    if part == "/whoami":
        assert not (run.folder / "exports").exists()  # told before the work


@pytest.mark.parametrize("token", ["hf_sécretsecret", "hf_secret\nsecret"])
def test_a_token_that_no_request_can_carry_is_not_shown(run, hub, token):
    from huggingface_hub import HfApi

    with pytest.raises(KitError, match="The hub does not let you in") as refused:
        push(run, "somebody/desk", api=HfApi(endpoint=hub.address, token=token), say=quiet)
    assert "cret" not in str(refused.value)


def test_the_command_ends_in_one_sentence_when_the_token_is_wrong(run, hub):
    hub.refuses = {"/whoami": 401}
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "ftkit.cli", "export", str(run.folder), "--to", "hub", "--repo", "somebody/desk"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "HF_TOKEN is set and comes before a login" in done.stderr and "hf_secret" not in done.stdout + done.stderr


def test_what_should_be_private_does_not_land_in_a_public_repository(run, hub):
    hub.private = False
    with pytest.raises(KitError, match="open to everybody: nothing was sent"):
        push(run, "somebody/desk", api=hub.api, say=quiet)
    assert not [path for _, path, _, _ in hub.calls if "/commit/" in path]


def test_a_private_repository_is_opened_when_public_is_asked_for(run, hub):
    said = []
    push(run, "somebody/desk", private=False, api=hub.api, say=said.append)
    (settings,) = sent(hub.calls, "/settings")
    assert settings.get("visibility") == "public" or settings.get("private") is False
    assert "so is all that was put there earlier" in said[-1]
    hub.refuses = {"/settings": 403}
    with pytest.raises(KitError, match=r"has it, but was private before and stays so: your token may not"):
        push(run, "somebody/desk", private=False, api=hub.api, say=quiet)


def test_a_new_public_repository_is_public_from_the_start(run, hub):
    hub.private = False
    push(run, "somebody/desk", private=False, api=hub.api, say=quiet)
    (created,) = sent(hub.calls, "/repos/create")
    assert created.get("visibility") == "public" or created.get("private") is False
    assert not sent(hub.calls, "/settings")


def test_a_space_is_pushed_as_a_space(run):
    calls = []

    class Api:
        def whoami(self):
            return {"name": "somebody"}

        def create_repo(self, **arguments):
            calls.append(("create", arguments))
            return "https://hub/spaces/somebody/desk"

        def repo_info(self, repo_id, repo_type):
            assert repo_type == "space"
            return SimpleNamespace(private=False)

        def upload_folder(self, **arguments):
            calls.append(("upload", arguments))

    push(run, "somebody/desk", "space", private=False, api=Api(), say=quiet)
    (_, created), (_, uploaded) = calls
    assert created | {"private": False, "repo_type": "space", "space_sdk": "gradio", "exist_ok": True} == created
    assert uploaded["repo_type"] == "space" and Path(uploaded["folder_path"]).name == "space"


def test_without_token_or_network_or_name_nothing_is_pushed(run, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(KitError, match="no token for the hub"):
        push(run, "somebody/desk")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with pytest.raises(KitError, match="HF_HUB_OFFLINE is set"):
        push(run, "somebody/desk")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(KitError, match="The hub does not answer"):
        push(run, "somebody/desk")
    for name in ("desk", "some body/desk", "a/b/c", "somebody/..", "-a/b", ""):
        with pytest.raises(KitError, match=f"{re.escape(repr(name))} is not the name of a repository.*OWNER/NAME"):
            push(run, name)
    with pytest.raises(KitError, match="cannot be pushed"):
        push(run, "somebody/desk", "gguf")
    assert not (run.folder / "exports").exists()


def test_a_network_that_goes_during_the_push_is_told(run, hub):
    hub.refuses = {"/whoami": 0}
    with pytest.raises(KitError, match="does not let you in: there is no connection, or it broke off"):
        push(run, "somebody/desk", api=hub.api, say=quiet)


def test_an_export_of_an_older_adapter_is_not_pushed(run, hub):
    export(run, "adapter", verify=False, say=quiet)
    weights = run.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(KitError, match="of an older adapter"):
        push(run, "somebody/desk", api=hub.api)


# --- models from the hub ---


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, r"does not know your token, or shows this to nobody without one \(401\)"),
        (403, r"your token may not do this \(403\)"),
        (404, r"could not be had from the hub"),
        (0, r"does not answer"),
    ],
)
def test_a_model_that_the_hub_does_not_give_is_told_in_one_line(hub, monkeypatch, tmp_path, status, words):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.refuses = {"": status}
    with pytest.raises(KitError, match=words) as refused:
        prepare_model("somebody/something")
    assert "hf_secret" not in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["a b", "x/y/z", "somebody/.."])
def test_a_name_that_no_model_can_have_is_refused(name):
    with pytest.raises(KitError, match="neither a model's folder nor a name on the hub"):
        prepare_model(name)


def test_a_network_that_goes_while_weights_are_fetched_is_told():
    from huggingface_hub.utils import httpx

    with (
        pytest.raises(KitError, match="somebody/x could not be had from the hub: there is no connection"),
        readable("somebody/x"),
    ):
        raise httpx.ConnectError("Bearer hf_secret")
