import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace

import httpx
import psutil
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError

from ftkit.common.paths import kit_root
from ftkit.data.task import load_task
from ftkit.deployment.feedback import FeedbackFile
from ftkit.deployment.gatekeeper import free_port
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.measure import evaluate
from ftkit.evaluation.stream import Answer
from ftkit.evaluation.tables import describe_evaluation
from tests.command import FTKIT, ftkit
from tests.conftest import TICKET, trained_apart


@pytest.fixture(scope="module")
def client(ticket_page):
    return Client(ticket_page.local_url, verbose=False)


@pytest.fixture(scope="module")
def messages(ticket_run):
    return [row["message"] for row in ticket_run.task.rows("test")]


def as_page(page, message):
    """Ask as the page does, not as a program: gives what it shows at the end, {side: [card, text, measures]}, and says."""
    url = f"{page.local_url}gradio_api/"
    wired = httpx.get(f"{page.local_url}config").json()["dependencies"]
    (respond,) = (each["id"] for each in wired if each["api_name"] == "respond")
    asked = {"fn_index": respond, "data": [message], "session_hash": uuid.uuid4().hex}
    assert httpx.post(f"{url}queue/join", json=asked).status_code == 200
    with httpx.stream("GET", f"{url}queue/data", params={"session_hash": asked["session_hash"]}, timeout=120) as stream:
        for line in stream.iter_lines():
            event = json.loads(line[6:]) if line.startswith("data: ") else {}
            if event.get("msg") == "process_completed":
                shown = event["output"]["data"]
                return {BASE: shown[:3], TUNED: shown[3:6]}, shown[6]


def test_both_sides_stream_and_end_as_the_models_answer(client, ticket_run, messages):
    *_, last = Answerer.of_run(ticket_run).stream(messages[0])
    job = client.submit(messages[0], api_name="/answer")
    answers = job.result(timeout=120)
    assert len(job.outputs()) > 3  # it came in pieces
    assert {side: answers[side]["text"] for side in (BASE, TUNED)} == {side: last[side].text for side in (BASE, TUNED)}
    assert answers[TUNED]["text"].startswith('{"intent":"book"')
    assert answers[TUNED]["tokens"] > 10 and answers[TUNED]["seconds"] > 0


def test_many_at_once_get_each_their_own_answer_or_are_told_that_it_is_busy(client, demo, messages):
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
    assert all("Queue is full! Please try again." in answer for answer in busy)
    assert False not in got and got.count(True) >= demo.WAITING


def test_one_message_at_a_time_and_a_few_wait_and_no_more(full, demo):
    """The queue's end is told at once, to gradio_client too; nobody gets by it, and those who wait are answered."""
    assert 4 <= demo.WAITING <= 8  # at half a minute an answer at most, nobody waits for longer than a few minutes
    url, moody = f"{full.local_url}gradio_api/", full.answerer
    assert httpx.post(f"{url}call/answer", json={"data": ["hello"]}).status_code == 503
    with pytest.raises(QueueError, match="full"):
        Client(full.local_url, verbose=False).predict("hello", api_name="/answer")
    wired = {each["api_name"]: each["id"] for each in httpx.get(f"{full.local_url}config").json()["dependencies"]}
    for path in ("run/answer", "api/answer", "run/predict/"):
        for name in ("answer", "respond"):
            sent = {"data": ["hello"], **({"fn_index": wired[name]} if path.endswith("/") else {})}
            assert httpx.post(f"{url}{path}", json=sent).status_code == 404, path
    assert moody.most == 1 and "hello" not in moody.begun
    moody.go.set()
    deadline = time.monotonic() + 60
    waited = {f"wait {number}" for number in range(demo.WAITING + 1)}
    while not waited <= set(moody.begun) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert waited <= set(moody.begun) and moody.most == 1


def test_who_leaves_while_waiting_takes_no_ones_time(moody_page):
    moody, url = moody_page.answerer, f"{moody_page.local_url}gradio_api/call/answer"
    moody.go.clear()
    try:
        with ExitStack() as readers:
            for name in ("wait for me", "wait, left 1", "wait, left 2"):
                event = httpx.post(url, json={"data": [name]}).json()["event_id"]
                readers.enter_context(httpx.stream("GET", f"{url}/{event}", timeout=60))
                deadline = time.monotonic() + 30
                while not moody.open and time.monotonic() < deadline:
                    time.sleep(0.01)
            assert len(moody_page._queue) == 2
        deadline = time.monotonic() + 30
        while len(moody_page._queue) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(moody_page._queue) == 0
    finally:
        moody.go.set()
    assert Client(moody_page.local_url, verbose=False).predict("hello", api_name="/answer")[TUNED]["text"]
    assert "wait for me" in moody.begun and not any("left" in message for message in moody.begun)


def test_an_error_leaves_no_answer_in_the_page_and_says_why(moody_page):
    for message, why in (
        ("please fail", "The model failed at this message."),
        ("x" * 5000, "at most 2,000 are taken"),
        ("  ", "must be text and not empty"),
    ):
        shown, said = as_page(moody_page, message)
        assert said.startswith("No answer. ") and why in said
        for card, text, measures in shown.values():
            assert why in card and (text, measures) == ("", "no answer")


def test_an_answer_that_takes_too_long_is_cut_off_and_says_so(demo, moody_page, monkeypatch):
    monkeypatch.setattr(demo, "SECONDS", 0)
    shown, _ = as_page(moody_page, "hello")
    for _, _, measures in shown.values():
        assert measures.startswith("stopped after 0 s · ")


def test_differences_from_gold_are_marked_where_the_message_is_of_the_test_split(ticket_page, ticket_run):
    rows = ticket_run.task.rows("test")
    row = next(row for row in rows if row["ticket"]["guests"] not in (None, TICKET["guests"]))
    shown, _ = as_page(ticket_page, row["message"])
    assert f"should be {row['ticket']['guests']}" in shown[TUNED][0] and 'class="wrong"' in shown[TUNED][0]
    shown, _ = as_page(ticket_page, row["message"] + " Thanks.")
    assert "guests" in shown[TUNED][0]
    assert "should be" not in shown[TUNED][0] and "wrong" not in shown[TUNED][0]


# --- tasks of other kinds ---


@pytest.fixture(scope="module")
def other_page(request, demo, tiny_task_folder, tiny_choice, ending_model, tmp_path_factory):
    """Serve the demo of a tiny run on a task of kind `label` or `text`, which has learned one answer: gives page and run."""
    kind, learned = request.param
    task = tmp_path_factory.mktemp(kind) / f"{kind}s"
    task.mkdir()
    labels = 'labels = ["book", "cancel", "question"]\n' if kind == "label" else ""
    settings = f'name = "{task.name}"\nkind = "{kind}"\nsystem_prompt = "You are the desk."\n{labels}'
    settings += 'message = "message"\ntarget = "answer"\n'
    settings += (
        "[kept]\nnumbers = ['\\d+']\nnames = ['full']\n[kept_in_message]\nnumbers = ['\\d+']\n" if kind == "text" else ""
    )
    (task / "task.toml").write_text(settings, encoding="utf-8")
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (tiny_task_folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        answer = learned if split == "train" else OTHER[kind]
        gold = [{"id": row["id"], "message": row["message"], "answer": answer} for row in rows]
        (task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold), encoding="utf-8")
    more = {"max_steps": 40, "checkpoint_steps": 40, "learning_rate": 1e-2, "rank": 32, "alpha": 32, "max_new_tokens": 24}
    more["model"] = str(ending_model)
    choice = replace(tiny_choice, profile=tiny_choice.profile.with_changes(**more))
    run = trained_apart(load_task(task), choice, tmp_path_factory.mktemp(f"{kind}-runs"))
    page = demo.launch(run, block=False)
    yield page, run
    page.close()


OTHER = {"label": "cancel", "text": "We are closed."}


@pytest.mark.parametrize("other_page", [("label", "book")], indirect=True)
def test_a_label_is_shown_with_its_confidence_and_corrected_by_choosing_another(other_page):
    page, run = other_page
    message = run.task.rows("test")[0]["message"]
    shown, said = as_page(page, message + " Thanks.")
    card, text, measures = shown[TUNED]
    assert measures.startswith("finished")
    assert text == "book" and "book" in said
    assert '<strong class="label">book</strong>' in card and re.search(r"\d+% by the model", card) and "wrong" not in card
    assert "should be cancel" in as_page(page, message)[0][TUNED][0]
    filled = next(each.fn for each in page.fns.values() if each.name == "filled")  # the same figure stands beside the form
    given = filled({"message": message, "answer": Answer(TUNED, "book", finished=True, probability=0.62)})
    assert given[0] == message and "62% by the model" in given[1]
    parts = [each["props"] for each in page.get_config_file()["components"]]
    (form,) = (props for props in parts if props.get("label") == "The right label")
    assert [value for _, value in form["choices"]] == ["book", "cancel", "question"]
    client = Client(page.local_url, verbose=False)
    with pytest.raises(AppError, match="look again"):
        client.predict(message, "book", "corrected", "dinner", True, api_name="/feedback")
    client.predict(message, "book", "corrected", "cancel", True, api_name="/feedback")
    assert json.loads(FeedbackFile.of(run).path.read_text(encoding="utf-8"))["target"] == "cancel"


@pytest.mark.parametrize("other_page", [("text", "We are <b>full</b>, sorry.")], indirect=True)
def test_a_text_is_shown_as_it_is_and_corrected_by_writing_another(other_page):
    page, run = other_page
    message = run.task.rows("test")[0]["message"]
    shown, said = as_page(page, message + " Thanks.")
    card, text, measures = shown[TUNED]
    assert measures.startswith("finished")
    assert text == "We are <b>full</b>, sorry."
    assert "We are &lt;b&gt;full&lt;/b&gt;, sorry." in card and "&lt;b&gt;full" in said and "The data say" not in card
    assert "against the message" in card and "numbers kept" in card and "names: cannot be checked here" in card
    assert "numbers: “12” missing" in as_page(page, message + " For 12.")[1]  # said aloud as well
    marked = as_page(page, message)[0][TUNED][0]
    assert "The data say" in marked and "We are closed." in marked
    assert "against the right answer" in marked and "names: “full” not wanted" in marked
    filled = next(each.fn for each in page.fns.values() if each.name == "filled")  # the same marks stand beside the form
    assert "numbers: “7” missing" in filled({"message": "7?", "answer": Answer(TUNED, text, finished=True)})[1]
    form = [each for each in page.get_config_file()["components"] if each["props"].get("label") == "The right answer"]
    assert [each["type"] for each in form] == ["textbox"]
    client = Client(page.local_url, verbose=False)
    with pytest.raises(AppError, match="look again"):
        client.predict(message, text, "corrected", " ", True, api_name="/feedback")
    client.predict(message, text, "corrected", "Until nine.", True, api_name="/feedback")
    assert json.loads(FeedbackFile.of(run).path.read_text(encoding="utf-8"))["target"] == "Until nine."
    measured = evaluate(run, quick=True, say=lambda line: None)
    scores = measured.models[TUNED].scores
    assert scores["numbers kept"].value == 1 and scores["names kept"].value < 0.2  # nearly all answers say "full"
    assert measured.comparisons[BASE]["names kept"].n == 12
    for file in ("report.html", "model_card.md"):
        assert "names kept" in (run.folder / file).read_text(encoding="utf-8")
    assert any("names kept: " in sentence for sentence in describe_evaluation(measured))


# --- what strangers may do ---


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
    for text in (b"some text", b"1", b""):
        assert httpx.post(f"{url}upload", files={"files": ("a.txt", text)}).status_code == 404


def test_a_request_that_is_too_large_goes_no_further(ticket_page):
    whole = json.dumps({"data": ["x" * 3_000_000]}).encode()
    url, kind = f"{ticket_page.local_url}gradio_api/call/answer", {"Content-Type": "application/json"}
    assert httpx.post(url, content=whole, headers=kind).status_code == 413
    in_pieces = (whole[i : i + 100_000] for i in range(0, len(whole), 100_000))  # its length is not told before
    assert httpx.post(url, content=in_pieces, headers=kind).status_code == 413


def test_a_visitors_browser_keeps_no_messages(ticket_page):
    assert httpx.get(f"{ticket_page.local_url}config").json()["run_history"] is False


def test_whose_feedback_belongs_to_another_answer_is_told_so(ticket_page, ticket_run, messages):
    """Two answers in one session: what was filled in below the first must not be kept as said of the second."""
    (keep,) = (fn for fn in ticket_page.fns.values() if fn.api_name == "keep")
    file = FeedbackFile.of(ticket_run)
    before = file.path.read_text(encoding="utf-8") if file.path.exists() else ""
    last = {"message": messages[1], "answer": Answer(TUNED, json.dumps(TICKET), finished=True), "run": ticket_run}
    form = ["right", True, "book", "normal", 4, "friday", "20:00", ["nuts"]]
    said, kept = keep.fn(last, messages[0], *form)
    assert "another answer" in said and kept == last
    assert (file.path.read_text(encoding="utf-8") if file.path.exists() else "") == before
    assert "Thank you" in keep.fn(last, messages[1], *form)[0]


def test_the_examples_come_from_the_test_split_by_difficulty(ticket_page, ticket_run):
    config = json.dumps(ticket_page.get_config_file(), default=str)
    shown = [row for row in ticket_run.task.rows("test") if json.dumps(row["message"])[1:-1] in config]
    assert {row["difficulty"] for row in shown} == {"everyday", "hard"}
    assert "Hard messages that the model was not trained on" in config


@pytest.fixture
def served(ticket_run):
    """Serve the demo by the command line, with more arguments and variables: gives process, address and all it said."""
    running = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a background job would inherit "ignored"

    def serve(*arguments, port=None, **environment):
        process = subprocess.Popen(
            [*FTKIT, "demo", str(ticket_run.folder), "--port", str(port or free_port(7900)), *arguments],
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
    signal.signal(signal.SIGINT, before)
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
    with httpx.Client(base_url=address, timeout=30) as visitor:
        for path in ("config", "gradio_api/info", "gradio_api/openapi.json", "gradio_api/queue/status"):
            assert visitor.get(path).status_code == 401, path
        for path in ("run/feedback", "queue/join", "call/feedback", "call/v2/answer"):
            assert visitor.post(f"gradio_api/{path}", json={"data": ["hello"]}).status_code == 401, path
        assert "model card" not in visitor.get("/").text.lower()  # what the page holds
        assert visitor.post("login", data={"username": "cook", "password": "salt-and-pepper"}).status_code == 200
        for path, sent in (  # errors in whose text gradio quotes what was sent
            ("run/feedback", {"data": ["zebedee's table", "zebedee"]}),
            ("call/feedback", {"data": ["zebedee's table", "zebedee"]}),
            ("call/v2/answer", {"message": "zebedee", "zebedee": 1}),
            ("call/zebedee", {"data": ["zebedee"]}),
            *(("run/predict", {"fn_index": i, "data": ["zebedee"] * n}) for i in range(20) for n in (1, 12)),
        ):
            visitor.post(f"gradio_api/{path}", json=sent)
        visitor.get("gradio_api/custom_component/zebedee/client/zebedee/zebedee")
        with suppress(httpx.RemoteProtocolError):  # an answer that nobody asked for: the connection is closed
            visitor.get("gradio_api/call/answer/zebedee")
    process.terminate()
    said += [process.communicate(timeout=60)[0]]
    assert process.returncode == 0
    log = "".join(said)
    assert "A request failed: ValueError" in log
    assert "zebedee" not in log and "Traceback" not in log and "salt-and-pepper" not in log


def test_it_is_up_within_seconds_beside_a_busy_port_and_ctrl_c_stops_it_in_the_middle_of_an_answer(served):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        process, address, said = served(port=port)
    used = psutil.Process(process.pid).cpu_times()
    assert used.user + used.system < 20  # of a core; the clock would count what others do on the machine
    assert f"Port {port} is busy" in "".join(said) and address and not address.endswith(f":{port}/")
    assert "guest desk" in httpx.get(address).text
    assert "(Ctrl+C stops it)" in said[-1]
    httpx.post(f"{address}gradio_api/call/answer", json={"data": ["a table for four"]})
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=90)[0]
    assert process.returncode == 0 and "Traceback" not in rest, rest


def test_a_password_that_is_half_is_refused():
    done = ftkit("demo", "--auth", "cook:")
    assert done.returncode == 2 and done.stderr.startswith("ftkit: --auth takes USER:PASSWORD")


def test_a_broken_run_is_refused_in_one_line(ticket_run, tmp_path):
    import shutil

    def cut(path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    for name, words in (("adapter/adapter_model.safetensors", "is broken"), ("run.json", "not readable as JSON")):
        run = shutil.copytree(ticket_run.folder, tmp_path / name.replace("/", "-"))
        cut(run / name)
        done = ftkit("demo", run)
        assert done.returncode == 2
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("ftkit: ") and words in last and "Traceback" not in done.stderr


def test_a_run_whose_adapter_belongs_to_another_base_is_refused_with_the_cause(ticket_run, ending_model, tmp_path):
    """Told by the names where they differ; by the weights' shapes where somebody changed both names."""
    import shutil

    from transformers import AutoModelForCausalLM, AutoTokenizer

    other = tmp_path / "other-base"
    config = AutoModelForCausalLM.from_pretrained(ending_model).config
    config.hidden_size, config.intermediate_size, config.head_dim = 32, 64, 8
    AutoModelForCausalLM.from_config(config).save_pretrained(other)
    AutoTokenizer.from_pretrained(ending_model).save_pretrained(other)

    def changed(path, change):
        record = json.loads(path.read_text(encoding="utf-8"))
        change(record)
        path.write_text(json.dumps(record), encoding="utf-8")

    for name, adapter_too, words in (
        ("another-name", False, f"this adapter was trained on {ending_model}, but the run on {other}"),
        ("another-shape", True, "does not fit this base model"),
    ):
        run = shutil.copytree(ticket_run.folder, tmp_path / name)
        changed(run / "run.json", lambda record: record["profile"].update(model=str(other)))
        if adapter_too:
            named = {"base_model_name_or_path": str(other)}
            changed(run / "adapter" / "adapter_config.json", lambda record, named=named: record.update(named))
        done = ftkit("demo", run)
        assert done.returncode == 2 and "Traceback" not in done.stderr
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
    said = capsys.readouterr().out
    assert not shown and "The demo is at http://127.0.0.1:" in said and "Ctrl+C" not in said


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
