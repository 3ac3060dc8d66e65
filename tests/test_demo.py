import json
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from ftkit.base import kit_root
from ftkit.deployment import free_port
from ftkit.feedback import FeedbackFile
from ftkit.generation import BASE, TUNED, Answerer

from .conftest import TICKET

FTKIT = [sys.executable, "-m", "ftkit.cli"]


@pytest.fixture(scope="module")
def client(ticket_page):
    return Client(ticket_page.local_url, verbose=False)


@pytest.fixture(scope="module")
def messages(ticket_run):
    return [row["message"] for row in ticket_run.task.rows("test")]


def test_both_sides_stream_and_end_as_the_models_answer(client, ticket_run, messages):
    *_, last = Answerer.of_run(ticket_run).stream(messages[0])
    job = client.submit(messages[0], api_name="/answer")
    answers = job.result(timeout=120)
    assert len(job.outputs()) > 3  # it came in pieces
    assert {side: answers[side]["text"] for side in (BASE, TUNED)} == {side: last[side].text for side in (BASE, TUNED)}
    assert answers[TUNED]["text"].startswith('{"intent":"book"')
    assert answers[TUNED]["tokens"] > 10 and answers[TUNED]["seconds"] > 0


def test_many_at_once_get_each_their_own_answer_or_are_told_that_it_is_busy(client, messages):
    wanted = {message: client.predict(message, api_name="/answer")[BASE]["text"] for message in messages[:4]}
    assert len(set(wanted.values())) == 4

    def ask(message):
        try:
            return client.predict(message, api_name="/answer")[BASE]["text"] == wanted[message]
        except Exception as error:
            return str(error)

    with ThreadPoolExecutor(30) as pool:
        got = list(pool.map(ask, list(wanted) * 8))
    busy = [answer for answer in got if isinstance(answer, str)]
    assert all("full" in answer for answer in busy)
    assert False not in got and got.count(True) >= 16


def test_a_message_that_may_not_be_read_is_answered_in_one_sentence(client):
    with pytest.raises(AppError, match="at most 2,000 are taken"):
        client.predict("x" * 20_000, api_name="/answer")
    with pytest.raises(AppError, match="not empty"):
        client.predict(" ", api_name="/answer")
    with pytest.raises(AppError, match="must be text"):
        client.predict({"a": 1}, api_name="/answer")


def test_feedback_by_a_program_is_checked_and_kept(client, ticket_run, messages):
    file = FeedbackFile.of(ticket_run)
    before = file.path.read_text(encoding="utf-8") if file.path.exists() else ""
    right = {**TICKET, "guests": 3}
    for bad, words in (
        ((messages[0], "{}", "corrected", {**right, "guests": 0}, True), "from 1 or null"),
        ((messages[0], "{}", "corrected", right, False), "Without consent"),
        ((messages[0], "{}", "maybe", right, True), "verdict"),
        (("x" * 9000, "{}", "corrected", right, True), "at most 2,000"),
        ((messages[0], "x" * 9000, "corrected", right, True), "not longer"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict(*bad, api_name="/feedback")
    assert (file.path.read_text(encoding="utf-8") if file.path.exists() else "") == before
    name = client.predict(messages[0], "{}", "corrected", right, True, api_name="/feedback")
    entry = json.loads(file.path.read_text(encoding="utf-8").splitlines()[-1])
    assert (entry["id"], entry["message"], entry["target"]) == (name, messages[0], right)


def test_the_endpoints_are_described_and_nothing_else_is_offered(client, ticket_page):
    described = httpx.get(f"{ticket_page.local_url}gradio_api/openapi.json").json()
    ours = {path: what for path, what in described["paths"].items() if "upload" not in path}
    assert {re.search(r"/(\w+)(/{event_id})?$", path)[1] for path in ours} == {"answer", "feedback"}
    text = json.dumps(ours)
    for word in ("answer", "feedback", "message", "consent", "base and by the tuned model"):
        assert word in text
    assert set(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == {"/answer", "/feedback"}


def test_no_file_is_given_out_and_none_taken(ticket_page, ticket_run):
    url = f"{ticket_page.local_url}gradio_api/"
    for path in (ticket_run.folder / "run.json", kit_root() / "README.md", "/etc/hostname", "../../README.md"):
        assert httpx.get(f"{url}file={path}").status_code in (403, 404)
    sent = httpx.post(f"{url}upload", files={"files": ("a.txt", b"some text")})
    assert sent.status_code == 413


def test_the_examples_come_from_the_test_split_by_difficulty(ticket_page, ticket_run):
    config = json.dumps(ticket_page.get_config_file(), default=str)
    shown = [row for row in ticket_run.task.rows("test") if json.dumps(row["message"])[1:-1] in config]
    assert {row["difficulty"] for row in shown} == {"everyday", "hard"}
    assert "Hard messages that the model was not trained on" in config


@pytest.fixture
def served(ticket_run):
    """Serve the demo by the command line, with more arguments and variables: gives process, address and all it said."""
    running = []

    def serve(*arguments, **environment):
        process = subprocess.Popen(
            [*FTKIT, "demo", str(ticket_run.folder), "--port", str(free_port(7900)), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | environment,
        )
        running.append(process)
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"The demo is at (http://\S+)", line):
                return process, found[1], said
        return process, None, said

    yield serve
    for process in running:
        process.kill()


def test_with_a_password_only_who_knows_it_gets_in_and_nothing_private_is_logged(served):
    process, address, said = served(FTKIT_DEMO_AUTH="cook:salt-and-pepper")
    assert "salt-and-pepper" not in subprocess.run(["ps", "-ef"], capture_output=True, text=True).stdout
    assert httpx.post(f"{address}gradio_api/call/answer", json={"data": ["hello"]}).status_code == 401
    assert httpx.post(f"{address}login", data={"username": "cook", "password": "no"}).status_code == 400
    client = Client(address, auth=("cook", "salt-and-pepper"), verbose=False)
    assert client.predict("a table for zebedee please", api_name="/answer")[TUNED]["text"]
    with pytest.raises(AppError):
        client.predict("zebedee " * 9000, api_name="/answer")
    process.terminate()
    said += [process.communicate(timeout=60)[0]]
    assert process.returncode == 0
    log = "".join(said)
    assert "zebedee" not in log and "Traceback" not in log and "salt-and-pepper" not in log


def test_a_password_that_is_half_is_refused():
    done = subprocess.run([*FTKIT, "demo", "--auth", "cook:"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("ftkit: --auth takes USER:PASSWORD")


def test_a_broken_run_is_refused_in_one_line(ticket_run, tmp_path):
    import shutil

    def cut(path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    for name, words in (("adapter/adapter_model.safetensors", "is broken"), ("run.json", "not readable as JSON")):
        run = shutil.copytree(ticket_run.folder, tmp_path / name.replace("/", "-"))
        cut(run / name)
        done = subprocess.run([*FTKIT, "demo", str(run)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("ftkit: ") and words in last and "Traceback" not in done.stderr


def test_a_run_whose_adapter_belongs_to_another_base_is_refused_with_the_cause(ticket_run, tiny_model, tmp_path):
    """Told by the names where they differ; by the weights' shapes where somebody changed both names."""
    import shutil

    from transformers import AutoModelForCausalLM, AutoTokenizer

    other = tmp_path / "other-base"
    config = AutoModelForCausalLM.from_pretrained(tiny_model).config
    config.hidden_size, config.intermediate_size, config.head_dim = 32, 64, 8
    AutoModelForCausalLM.from_config(config).save_pretrained(other)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(other)

    def changed(path, change):
        record = json.loads(path.read_text(encoding="utf-8"))
        change(record)
        path.write_text(json.dumps(record), encoding="utf-8")

    for name, adapter_too, words in (
        ("another-name", False, f"this adapter was trained on {tiny_model}, but the run on {other}"),
        ("another-shape", True, "does not fit this base model"),
    ):
        run = shutil.copytree(ticket_run.folder, tmp_path / name)
        changed(run / "run.json", lambda record: record["profile"].update(model=str(other)))
        if adapter_too:
            named = {"base_model_name_or_path": str(other)}
            changed(run / "adapter" / "adapter_config.json", lambda record, named=named: record.update(named))
        done = subprocess.run([*FTKIT, "demo", str(run)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("ftkit: ") and words in last, last
        assert "The demo is at" not in done.stdout


def test_without_a_network_a_public_link_is_said_to_have_failed_and_the_demo_serves_on(served, messages):
    """Every way out leads to a port where nobody listens, as a proxy: refused at once instead of after half a minute."""
    nobody, here = f"http://127.0.0.1:{free_port(39000)}", "127.0.0.1,localhost"
    ways = {"HTTP_PROXY": nobody, "HTTPS_PROXY": nobody, "ALL_PROXY": nobody, "NO_PROXY": here}
    process, address, said = served("--share", **ways, **{name.lower(): value for name, value in ways.items()})
    assert address and httpx.get(address).status_code == 200
    said.append(process.stdout.readline())
    assert said[-1].startswith("No public link could be made (no network") and "local only" in said[-1]
    assert not any("Public link:" in line or "Traceback" in line for line in said)
    assert Client(address, verbose=False).predict(messages[0], api_name="/answer")[TUNED]["text"]


def test_nothing_is_sent_to_anybody_about_the_use_of_the_demo(ticket_page):
    assert ticket_page.analytics_enabled is False
    path = kit_root() / "apps" / "demo.py"
    code = f"import runpy; runpy.run_path({str(path)!r}); from gradio import analytics; print(analytics.analytics_enabled())"
    unset = {name: value for name, value in os.environ.items() if name != "GRADIO_ANALYTICS_ENABLED"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=unset)
    assert done.stdout.strip() == "False", done.stderr


def test_a_port_that_is_taken_at_the_last_moment_is_no_error(demo, ticket_run):
    with socket.create_server(("127.0.0.1", free_port(8300))) as other:
        taken = other.getsockname()[1]
        page = demo.launch(ticket_run, taken, block=False)
        page.close()
    assert taken < page.server_port < taken + 10


def test_in_a_notebook_it_leaves_no_frame_of_its_own(demo, ticket_run, monkeypatch, capsys):
    """The lesson shows it by `plots.frame`, which has a text and a name for screen readers."""
    from gradio import utils

    shown = []
    monkeypatch.setattr(utils, "ipython_check", lambda: True)  # what gradio asks to know whether it is in a notebook
    monkeypatch.setattr("IPython.display.display", shown.append)
    page = demo.launch(ticket_run, block=False)
    page.close()
    assert not shown and "The demo is at http://127.0.0.1:" in capsys.readouterr().out


def test_it_is_up_within_seconds(served):
    process, address, _ = served()
    used = psutil.Process(process.pid).cpu_times()
    assert address and used.user + used.system < 20  # of a core; the clock would count what others do on the machine


def test_an_error_of_the_model_is_one_sentence(demo, ticket_run, messages, capsys):
    class Failing(Answerer):
        def stream(self, *given, **more):
            raise RuntimeError(f"out of memory at {messages[0]}")
            yield

    whole = Answerer.of_run(ticket_run)
    failing = Failing(whole.task, whole.model, whole.tokenizer)
    with pytest.raises(Exception, match="The model failed at this message"):
        list(demo._answers(failing, messages[0]))
    assert messages[0] not in "".join(capsys.readouterr())


def test_each_kind_of_task_has_its_form(demo, ticket_run):
    from dataclasses import replace

    task = ticket_run.task
    import gradio as gr

    with gr.Blocks():
        assert [type(x).__name__ for x in demo._form(task)] == [
            "Dropdown",
            "Dropdown",
            "Number",
            "Textbox",
            "Textbox",
            "CheckboxGroup",
        ]
        assert len(demo._form(replace(task, kind="label", labels=("a", "b")))) == 1
        assert len(demo._form(replace(task, kind="text"))) == 1
