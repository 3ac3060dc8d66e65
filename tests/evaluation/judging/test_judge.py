"""A judge behind a server: a small real one that answers by a rule, and what is made of its replies and of its absence."""

import contextlib
import json
import re
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from ftkit.cli.main import app
from ftkit.common.errors import KitError
from ftkit.common.files import dump
from ftkit.common.paths import kit_root
from ftkit.data.conversation.told import read_sheet
from ftkit.data.prompt import chat_prompt
from ftkit.data.task import load_task
from ftkit.evaluation.answer import BASE, TUNED
from ftkit.evaluation.judging.judge import (
    VERDICTS,
    add_judge,
    agreement,
    answer_pairs,
    ask_judge,
    check_judge,
    read_verdicts,
)
from ftkit.evaluation.judging.pairs import FIRST, SECOND, TIE, Pair, outcome, question, read_reply
from ftkit.evaluation.judging.server import KEY, NoJudge, Server
from ftkit.evaluation.judging.words import describe_judge
from ftkit.evaluation.measure import evaluate
from ftkit.runs.documents import Evaluation
from ftkit.runs.run import Run
from tests.data.conversation.chats import SHEET

ANSWERS = re.compile(r"ANSWER A\n(.*?)\n\nANSWER B\n(.*?)\n\nWhich answer", re.DOTALL)


def shown(chat):
    """The two answers in a judge's question."""
    return ANSWERS.search(chat[-1]["content"]).groups()


def prefers_longer(chat):
    a, b = (len(text) for text in shown(chat))
    return "A" if a > b else "B" if b > a else "TIE"


class Judge:
    """A server in a thread of its own: `rule` gives the reply to a chat; it keeps what it was asked."""

    def __init__(self, rule):
        self.asked, self.headers, self.rule, self.status, self.body, self.pause, self.most = [], [], rule, 200, None, 0, None
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.headers.append(dict(self.headers))
                time.sleep(judge.pause)
                full = judge.most is not None and len(judge.asked) >= judge.most
                if full or self.path != "/v1/chat/completions":
                    return self.answer(503 if full else 404, b"{}")
                judge.asked.append(asked)
                reply = {"choices": [{"message": {"role": "assistant", "content": judge.rule(asked["messages"])}}]}
                self.answer(judge.status, judge.body or json.dumps(reply).encode())

            def answer(self, status, body):
                with contextlib.suppress(OSError):  # who asked may have gone
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *given):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def judge():
    made = Judge(prefers_longer)
    yield made
    made.close()


def pair_row(first, second, verdict):
    messages = [{"role": "user", "content": "Are you open?"}]
    by = {"first": first, "second": second, "first_by": "base", "second_by": "tuned"}
    return {"messages": messages, **by, "verdict": verdict, "reason": "a test"}


@pytest.fixture(scope="module")
def judged_run(chat_run, tmp_path_factory):
    """A measured copy of the run over a copy of its task, which has a reader's verdicts: the longer answer is the better."""
    folder = tmp_path_factory.mktemp("judged")
    task = shutil.copytree(chat_run.task.folder, folder / "host")
    rows = [pair_row("yes" + "!" * n, "no", FIRST) for n in range(5)] + [pair_row("ab", f"ba{n}", SECOND) for n in range(5)]
    rows += [pair_row(f"a{n}", f"b{n}", TIE) for n in range(2)]
    (task / VERDICTS).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = Run(shutil.copytree(chat_run.folder, folder / "run", ignore=shutil.ignore_patterns("exports")))
    run.update(task=run.record.task.model_copy(update={"folder": str(task)}))
    evaluate(run, say=lambda line: None, quick=True)
    return run


@pytest.fixture
def run(judged_run, tmp_path):
    return Run(shutil.copytree(judged_run.folder, tmp_path / "run"))


# --- what is asked, and what is read ---


def test_a_question_shows_what_the_assistant_knows_and_both_answers_in_either_order():
    turns = [{"role": "system", "content": "You are Pip."}, {"role": "user", "content": "Open?"}]
    pair = Pair(0, turns, "one", "two", right="three")
    (straight,), (swapped,) = question(pair, "It is closed.", False), question(pair, "", True)
    assert shown([straight]) == ("one", "two") and shown([swapped]) == ("two", "one")
    for words in ("WHAT THE ASSISTANT KNOWS\nIt is closed.", "INSTRUCTIONS: You are Pip.\nUSER: Open?", "RIGHT\nthree"):
        assert words in straight["content"]
    assert "WHAT THE ASSISTANT KNOWS" not in swapped["content"]


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("A", "A"),
        (" **B**. ", "B"),
        ("tie", "TIE"),
        ("Answer A", "A"),
        ("<think>A is nice.\nB</think>\n\nB", "B"),
        ("The first one repeats itself.\n\nB", "B"),
        ("A tie would be unfair to the second.", None),
        ("A or B", None),
        ("<think>A", None),
        ("", None),
        ("42", None),
    ],
)
def test_a_reply_is_a_verdict_only_if_it_is_one_word(reply, word):
    assert read_reply(reply) == word


def test_who_is_not_preferred_in_both_orders_is_not_better():
    verdicts = {("A", "B"): FIRST, ("B", "A"): SECOND, ("A", "A"): TIE, ("A", "TIE"): TIE, ("TIE", "TIE"): TIE}
    assert all(outcome(*replies).verdict == verdict for replies, verdict in verdicts.items())
    assert (outcome("A", "A").took, outcome("B", "B").took, outcome("A", "B").took) == (FIRST, SECOND, "")
    assert outcome("A", "well").verdict is None


# --- the reader's verdicts ---


def test_the_kits_verdicts_are_of_real_answers_with_a_reason_each():
    host, run = load_task("host"), Run(kit_root() / "data" / "reference_host")
    rows = read_verdicts(host)
    assert len(rows) == 60 == len({row["id"] for row in rows})
    kept = {}
    for side in (BASE, TUNED):
        lines = (run.folder / "predictions" / f"test-{side}.jsonl").read_text(encoding="utf-8").splitlines()[1:]
        kept[side] = {entry["message"]: entry["prediction"] for entry in map(json.loads, lines)}
    for row in rows:
        for place in (FIRST, SECOND):
            assert kept[row[f"{place}_by"]][dump(row["messages"])] == row[place]
        assert len(row["reason"].split()) >= 3
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in (FIRST, SECOND, TIE)}
    assert min(counts.values()) >= 15  # who always says the same agrees with few
    assert 20 <= sum(row["first_by"] == BASE for row in rows) <= 40


def test_verdicts_that_are_broken_are_named_with_file_and_line(tmp_path, chat_task):
    task = load_task(shutil.copytree(chat_task.folder, tmp_path / "host"))
    good = pair_row("a", "b", TIE)
    for bad, words in (
        ({**good, "verdict": "left"}, 'verdict "left" is not one of first, second, tie'),
        ({**good, "first": 3}, "it should have first, second, first_by"),
        ({**good, "messages": []}, "messages: the conversation is empty"),
        ([], "the line must be a JSON object"),
    ):
        (task.folder / VERDICTS).write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n", encoding="utf-8")
        with pytest.raises(KitError, match=rf"verdicts\.jsonl, line 2: {words}"):
            read_verdicts(task)
    (task.folder / VERDICTS).write_text("\n", encoding="utf-8")
    with pytest.raises(KitError, match="is empty"):
        read_verdicts(task)


def test_a_judge_of_the_same_mind_as_the_reader_agrees_on_the_kits_pairs(judge, run):
    host = load_task("host")
    rows = read_verdicts(host)
    better = {frozenset((row[FIRST], row[SECOND])): row.get(row["verdict"]) for row in rows}

    def same_mind(chat):
        a, b = shown(chat)
        return {a: "A", b: "B"}.get(better[frozenset((a, b))], "TIE")

    judge.rule = same_mind
    pairs = [Pair(n, chat_prompt(host, row["messages"]), row["first"], row["second"]) for n, row in enumerate(rows)]
    server = Server(judge.url, "oracle")
    outcomes = ask_judge(run, "judge-test", pairs, read_sheet(host), server, lambda line: None)
    result = agreement("host", rows, outcomes)
    assert (result.agree, result.n, result.kappa, result.believed) == (60, 60, 1.0, True)
    assert result.constant == pytest.approx(31 / 60) and result.took_first == result.unreadable == 0
    assert len(judge.asked) == 120 and read_sheet(host) in judge.asked[0]["messages"][0]["content"]


# --- an evaluation ---


def test_tuned_is_judged_against_base_after_the_reader_was_agreed_with(judge, run):
    said = []
    result = add_judge(run, Evaluation.load(run.folder), Server(judge.url, "long"), said.append)
    assert Evaluation.load(run.folder) == result and result.judge.model == "long"
    agreed = result.judge.agreement
    assert (agreed.task, agreed.n, agreed.agree, agreed.believed, agreed.constant) == ("host", 12, 12, True, 5 / 12)
    judged = result.judge.against[BASE]
    pairs = answer_pairs(run, result, BASE)
    assert judged.n == len(pairs) == 15 and judged.same == sum(pair.first == pair.second for pair in pairs)
    assert judged.better == sum(len(pair.second) > len(pair.first) for pair in pairs)
    assert judged.worse == sum(len(pair.second) < len(pair.first) for pair in pairs)
    assert judged.better + judged.worse + judged.ties == 15 and judged.took_first == judged.took_second == 0
    assert judged.preferred.n == 8 and judged.preferred.interval and SHEET in judge.asked[-1]["messages"][0]["content"]
    assert len(judge.asked) == 2 * (12 + 15 - judged.same)
    reader = next(n for n, line in enumerate(said) if "agrees with a reader" in line)
    assert reader < next(n for n, line in enumerate(said) if "test-judge-base" in line)  # before anything else is asked
    first, second = describe_judge(result.judge)
    assert "12 of 12 pairs of host (100 %" in first and f"tuned preferred in {judged.better} of 15" in second
    assert "goes by the place" not in first + second
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "By the judge, against base" in page and "it agrees with a reader" in page


def test_a_judge_that_goes_by_the_place_is_found_out(judge, run):
    judge.rule = lambda chat: "A"
    result = add_judge(run, Evaluation.load(run.folder), Server(judge.url, "first"), lambda line: None)
    agreed, judged = result.judge.agreement, result.judge.against[BASE]
    assert agreed.took_first == 12 and agreed.agree == 2 and not agreed.believed
    assert judged.better == judged.worse == 0 and judged.took_first == 15 - judged.same
    first, second = describe_judge(result.judge)
    assert "do not believe its figures" in first and "In 12 of 12 pairs it took the first answer in both orders" in first
    assert "it goes by the place" in second


def test_rubbish_is_counted_and_not_believed(judge, run):
    judge.rule = lambda chat: "Both answers have their merits."
    result = add_judge(run, Evaluation.load(run.folder), Server(judge.url, "vague"), lambda line: None)
    assert result.judge.agreement.unreadable == 12 and not result.judge.agreement.believed
    judged = result.judge.against[BASE]
    assert judged.unreadable == 15 - judged.same and judged.preferred.difference == 0
    first, second = describe_judge(result.judge)
    assert "12 of its replies were no verdict" in first and "without a readable verdict" in second


def left_out(run, server):
    said, before = [], Evaluation.load(run.folder)
    assert add_judge(run, before, server, said.append) == before == Evaluation.load(run.folder)
    (line,) = [line for line in said if "does not judge" in line]
    assert "It is left out" in line and "\n" not in line
    return line


def test_a_judge_that_is_away_slow_or_no_judge_is_left_out_in_one_line(judge, run, monkeypatch):
    server = Server(judge.url + "/v1/", "m")
    judge.status = 401
    assert "status 401" in (line := left_out(run, server)) and f"set {KEY}" in line
    judge.status, judge.body = 200, b"<html>"
    assert "not that of an OpenAI-compatible server" in left_out(run, server)
    judge.body = b'{"choices": []}'
    assert "not that of an OpenAI-compatible server" in left_out(run, server)
    judge.body, judge.status = None, 500
    assert "status 500" in left_out(run, server)
    assert "status 404" in left_out(run, Server(judge.url + "/elsewhere", "m"))
    judge.status, judge.pause = 200, 0.6
    assert "no reply within 0.2 seconds, twice" in left_out(run, Server(judge.url, "m", timeout=0.2))
    judge.pause = 0
    judge.close()
    assert "cannot be reached (ConnectError)" in left_out(run, Server(judge.url, "m"))
    judge.server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # for the fixture to close
    threading.Thread(target=judge.server.serve_forever, daemon=True).start()


def test_a_judge_that_was_cut_off_goes_on_where_it_was(judge, run):
    judge.most = 30
    server = Server(judge.url, "long")
    assert "status 503" in left_out(run, server)
    judge.most = None
    result = add_judge(run, Evaluation.load(run.folder), server, lambda line: None)
    needed = 2 * (12 + 15 - result.judge.against[BASE].same)
    assert needed <= len(judge.asked) <= needed + 9  # replies are saved ten at a time
    asked = len(judge.asked)
    assert add_judge(run, Evaluation.load(run.folder), server, lambda line: None) == result and len(judge.asked) == asked
    add_judge(run, Evaluation.load(run.folder), Server(judge.url, "other"), lambda line: None)
    assert len(judge.asked) == asked + needed


def test_the_key_comes_from_the_environment_and_a_server_elsewhere_is_named(judge, run, monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    server = Server(judge.url, "m")
    assert server.reply([{"role": "user", "content": "ANSWER A\na\n\nANSWER B\nbb\n\nWhich answer"}]) == "B"
    assert judge.headers[-1]["Authorization"] == "Bearer secret" and "secret" not in repr(server)
    assert judge.asked[-1]["temperature"] == 0 and judge.asked[-1]["model"] == "m"
    assert server.is_here and not Server("https://example.org/api", "m").is_here
    assert Server("https://example.org/api", "m").address == "https://example.org/api/v1/chat/completions"
    monkeypatch.setattr(Server, "reply", lambda *given: (_ for _ in ()).throw(NoJudge("away.")))
    said = []
    add_judge(run, Evaluation.load(run.folder), Server("https://example.org", "m"), said.append)
    assert "are sent to https://example.org/v1/chat/completions" in said[0]


def test_a_task_without_verdicts_borrows_those_of_the_host(judge, run, chat_task):
    run.update(task=run.record.task.model_copy(update={"folder": str(chat_task.folder)}))
    result = add_judge(run, Evaluation.load(run.folder), Server(judge.url, "long"), lambda line: None)
    assert result.judge.agreement.n == 60 and result.judge.agreement.task == "host"
    assert not result.judge.agreement.believed  # the longer answer is seldom the better


def test_the_command_takes_a_judge_for_conversations_and_texts(judge, run, tiny_task):
    options = ["--quick", "--judge", judge.url, "--judge-model", "long"]
    done = CliRunner().invoke(app, ["evaluate", str(run.folder), *options])
    assert done.exit_code == 0, done.output
    assert "- Judge long: it agrees with a reader's verdict in 12 of 12 pairs" in done.output
    assert "- By the judge, against base: tuned preferred in" in done.output
    with pytest.raises(KitError, match="--judge is for conversations and texts, and desk is a task of kind json"):
        check_judge(tiny_task, judge.url, "m")
    with pytest.raises(KitError, match="go together"):
        check_judge(run.task, None, "m")
    for url, name, words in (("localhost:8000", "m", "is no address of a server"), (judge.url, " ", "has no name")):
        with pytest.raises(KitError, match=words):
            check_judge(run.task, url, name)


def test_texts_are_judged_beside_the_right_answer(judge, run, tmp_path):
    """A run of kind `text` with the answers of two models as an evaluation keeps them."""
    folder = tmp_path / "kitchen"
    folder.mkdir()
    rows = [{"id": str(n), "message": f"Table {n}, no nuts", "target": f"Mesa {n}, sin frutos secos"} for n in range(4)]
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "task.toml").write_text('name = "kitchen"\nkind = "text"\nsystem_prompt = "Translate."\n', encoding="utf-8")
    (folder / VERDICTS).write_text(json.dumps(pair_row("long", "no", FIRST)), encoding="utf-8")
    run.update(task=run.record.task.model_copy(update={"folder": str(folder), "system_prompt": "Translate."}))
    for side, text in ((BASE, "Mesa"), (TUNED, "Mesa con sal")):
        lines = [{"settings": {}}, *({"message": row["message"], "prediction": text, "seconds": 0.1} for row in rows)]
        path = run.folder / "predictions" / f"test-{side}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    kept = Evaluation.load(run.folder).model_copy(update={"kind": "text", "task": "kitchen", "n": 4, "of": 4})
    with pytest.raises(KitError, match="message: it must be text and not empty"):
        add_judge(run, kept, Server(judge.url, "long"), lambda line: None)
    (folder / VERDICTS).write_text(json.dumps(pair_row("long", "no", FIRST) | {"message": "Hello"}), encoding="utf-8")
    result = add_judge(run, kept, Server(judge.url, "long"), lambda line: None)
    judged = result.judge.against[BASE]
    assert (judged.n, judged.better, judged.worse) == (4, 4, 0) and judged.preferred.difference == 1
    assert "AN ANSWER THAT IS RIGHT\nMesa " in judge.asked[-1]["messages"][0]["content"]
