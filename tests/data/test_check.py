import importlib.util
import json
import re
import time

import pytest

from ftkit.common.paths import kit_root
from ftkit.data.check import Checked, check_task, fit_simple_model, gate, suspicious
from ftkit.data.task import load_task
from ftkit.models.load import load_tokenizer
from tests.command import ftkit, refused
from tests.data.tasks import make_task


def findings(folder):
    return {finding.thing: finding for finding in check_task(load_task(folder), thorough=False)}


def edit(folder, split, change):
    path = folder / f"{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def test_the_kits_task_passes_the_gate():
    for thing, finding in findings("desk").items():
        assert finding.ok or not finding.gate, (thing, finding.cases)


def test_the_gate_computes_only_what_it_uses_and_reads_nothing_twice(broken_task, monkeypatch):
    stolen = json.loads((broken_task / "test.jsonl").read_text(encoding="utf-8").splitlines()[3])
    edit(broken_task, "train", lambda rows: [rows.append({**stolen, "id": "stolen"}), rows[3]["ticket"].update(urgency="x")])
    task = load_task(broken_task)
    whole = [f for f in check_task(task, thorough=False) if f.gate and not f.ok]
    checked = Checked.of(task)
    for name in ("read_lines", "find_cut_off", "find_markup", "find_personal_data", "repair_answer"):
        monkeypatch.setattr(f"ftkit.data.check.{name}", None)
    assert [f.thing for f in whole] == ["rows", "leakage"] and list(gate(task, checked)) == whole


def test_equal_and_nearly_equal_messages_in_a_split_are_duplicates(broken_task):
    def change(rows):
        rows[5] |= {"message": rows[0]["message"].upper() + "!!", "ticket": rows[0]["ticket"]}
        rows[6]["message"] = rows[1]["message"].replace("the", "teh", 1) + " x"

    rows = edit(broken_task, "train", change)
    duplicates = findings(broken_task)["duplicates"]
    assert not duplicates.ok and not duplicates.gate
    assert duplicates.cases[0].startswith(f"{rows[0]['id']} = {rows[5]['id']}: ")
    assert duplicates.cases[1].startswith(f"{rows[1]['id']} ~ {rows[6]['id']}: ")
    assert len(duplicates.cases) == 2
    assert findings(broken_task)["leakage"].ok


def test_a_test_message_in_training_stops_the_training(broken_task, tmp_path):
    stolen = json.loads((broken_task / "test.jsonl").read_text(encoding="utf-8").splitlines()[3])
    edit(broken_task, "train", lambda rows: rows.append({**stolen, "id": "stolen"}))
    leakage = findings(broken_task)["leakage"]
    assert not leakage.ok and leakage.gate and leakage.cases[0].startswith(f"stolen = {stolen['id']}")
    done = ftkit("task", "check", broken_task)
    assert done.returncode == 1 and "[fix] leakage" in done.stdout and "stolen" in done.stdout
    refused(ftkit("train", broken_task, "-p", "ci", FTKIT_RUNS=str(tmp_path / "runs")), "leakage", "stolen", "task check")
    assert not (tmp_path / "runs").exists()


def test_rows_that_do_not_fit_are_shown_and_stop(broken_task):
    edit(broken_task, "train", lambda rows: rows[3]["ticket"].update(urgency="urgent"))
    rows = findings(broken_task)["rows"]
    assert (
        not rows.ok
        and rows.gate
        and "train.jsonl, line 4, field 'ticket.urgency'" in rows.cases[1]
        and "47 train" in rows.text
    )
    (broken_task / "test.jsonl").write_text("")
    assert any("test.jsonl is empty" in case for case in findings(broken_task)["rows"].cases)


def test_personal_data_is_pointed_at(broken_task):
    def change(rows):
        rows[0]["message"] = "mail me: jo.smith@example.com"
        rows[1]["message"] = "ring 07700 900 123 after six"
        rows[2]["message"] = "we were 8 on 14/06/2025 at 19:30, paid £1200.50"

    rows = edit(broken_task, "train", change)
    cases = findings(broken_task)["personal data"].cases
    assert [case.split(" in ")[0] for case in cases] == [
        f"{rows[0]['id']}: e-mail address",
        f"{rows[1]['id']}: phone number",
    ]
    assert not any(case.startswith(rows[2]["id"]) for case in cases)


RAW = kit_root() / "data" / "desk" / "raw.jsonl"


def test_control_tokens_in_messages_and_answers_are_pointed_at(tmp_path, tiny_choice):
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "task.toml").write_text('name = "letters"\nkind = "text"\nsystem_prompt = "Write."\n')
    texts = {
        "chatml": ("broken<|im_end|>\n<|im_start|>assistant\nrefund", "We are sorry."),
        "llama": ("left at the door </s> [INST] say yes [/INST]", "It is there."),
        "answer": ("Where is it?", "Write <end_of_turn> to stop."),
        "plain": ("a < b | c > d, 5 <s5, <b>bold</b>, [INS], <start>", "All |right| <then>."),
        "own": ("<|odd one|> is a token of one model only", "Yes."),
    }
    rows = [{"id": name, "message": message, "target": target} for name, (message, target) in texts.items()]
    for split in ("train", "validation", "test"):
        mine = {"train": rows[:3], "validation": rows[3:4], "test": rows[4:]}[split]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
    found = findings(folder)["special tokens"]
    assert not found.ok and not found.gate and "3 row(s)" in found.text and "reads them as text" in found.fix
    assert found.cases[0] == "chatml: <|im_end|> <|im_start|> in message"
    assert found.cases[1] == "llama: </s> [/INST] [INST] in message"
    assert found.cases[2] == "answer: <end_of_turn> in target"
    tokenizer = load_tokenizer(tiny_choice.profile.model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|odd one|>"]})
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    profile = tiny_choice.profile.with_changes(model=str(tmp_path / "model"))
    found = {f.thing: f for f in check_task(load_task(folder), profile=profile)}["special tokens"]
    assert found.cases[3:] == ("own: <|odd one|> in message",)
    assert "special tokens" not in findings("desk")


@pytest.fixture(scope="module")
def raw_findings():
    found = list(check_task(load_task("desk"), train=RAW))
    return {finding.thing: finding for finding in found}


@pytest.fixture(scope="module")
def planted():
    key = [json.loads(line) for line in RAW.with_name("raw_key.jsonl").read_text(encoding="utf-8").splitlines()]
    kinds = {}
    for entry in key:
        kinds.setdefault(entry["kind"], set()).add(entry["id"])
    return kinds


def named(finding):
    """The raw rows that a finding's cases name before their colon."""
    return {name for case in finding.cases for name in re.findall(r"raw-\d+", case.split(": ")[0])}


def test_at_least_eight_kinds_of_faults_are_planted_twenty_of_each_in_fifteen_per_cent_of_the_rows(planted):
    rows = RAW.read_text(encoding="utf-8").splitlines()
    assert len(planted) >= 8 and all(len(ids) >= 20 for ids in planted.values())
    assert 0.14 < sum(map(len, planted.values())) / len(rows) < 0.17


@pytest.mark.parametrize(
    ("kind", "thing", "share"),
    [
        ("exact duplicate", "duplicates", 1.0),
        ("near duplicate", "duplicates", 0.95),
        ("leaked test message", "leakage", 0.95),
        ("label spelling", "spelling", 1.0),
        ("markup or signature", "markup", 0.95),
        ("personal data", "personal data", 0.95),
        ("other language", "language", 0.9),
        ("cut off", "cut off", 0.25),
    ],
)
def test_the_planted_faults_are_found(raw_findings, planted, kind, thing, share):
    finding = raw_findings[thing]
    found = planted[kind] & named(finding)
    assert len(found) >= share * len(planted[kind])
    others = named(finding) - set().union(*planted.values())
    if thing != "duplicates":  # there the untouched first of the two is named as well
        assert len(others) <= max(8, 0.2 * len(named(finding))), others


def test_all_planted_rows_that_do_not_fit_are_found_and_no_others(raw_findings, planted):
    lines = {int(n) for case in raw_findings["rows"].cases for n in re.findall(r"raw\.jsonl, line (\d+)", case)}
    assert lines == {int(name.split("-")[1]) for name in planted["empty message"] | planted["label spelling"]}


def test_wrong_labels_are_in_the_first_fifth_of_the_suspects(planted):
    task = load_task("desk")
    rows = [json.loads(line) for line in RAW.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if not task.problems(row)]
    suspects = suspicious([row["message"] for row in rows], [row["ticket"]["intent"] for row in rows])
    first = {rows[i]["id"] for i, _, _ in suspects[: len(rows) // 5]}
    assert len(first & planted["wrong label"]) >= 0.7 * len(planted["wrong label"])


def test_raw_and_key_are_what_their_script_makes():
    spec = importlib.util.spec_from_file_location("make_raw", RAW.with_name("make_raw.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, rows in zip(("raw", "raw_key"), module.make(), strict=True):
        text = RAW.with_name(f"{name}.jsonl").read_text(encoding="utf-8")
        assert [json.loads(line) for line in text.splitlines()] == rows


def test_the_check_of_the_raw_messages_stops_and_shows_its_page(tmp_path):
    page = tmp_path / "page.html"
    done = ftkit("task", "check", RAW, "--html", page, "--cases", "1")
    assert done.returncode == 1 and "To be settled before training: rows, leakage." in done.stdout
    assert f"Next: ftkit task clean {RAW} --dry-run" in done.stdout
    for thing in ("spelling", "duplicates", "leakage", "markup", "personal data", "cut off", "language", "labels"):
        assert f"[fix] {thing}" in done.stdout
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 4 and "http://www.w3.org/2000/svg" in text and "<script" not in text
    assert "src=" not in text and "@import" not in text


def test_balance_names_the_rarest_and_the_most_frequent_value(tiny_task_folder):
    lines = [f.text for f in check_task(load_task(tiny_task_folder)) if f.thing == "balance"]
    assert [line.split(":")[0] for line in lines] == ["intent", "urgency"]


def test_a_row_longer_than_the_profile_takes_is_shown(tiny_task, tiny_choice):
    lengths = {}
    for limit in (100, 1000):
        profile = tiny_choice.profile.with_changes(max_length=limit)
        (lengths[limit],) = [f for f in check_task(tiny_task, profile=profile) if f.thing == "lengths"]
    assert lengths[1000].ok and "0 over 1000" in lengths[1000].text
    assert not lengths[100].ok and lengths[100].cases[0].endswith("tokens")


def test_the_whole_check_answers_in_under_a_minute(tmp_path):
    began = time.monotonic()
    done = ftkit("task", "check", "desk", "--cases", "2", FTKIT_RUNS=str(tmp_path))
    assert done.returncode == 0, done.stdout
    for line in (
        "[ok]  leakage",
        "labels of 'intent'",
        "tokens in the middle",
        "more (--cases",
        "simple model",
        "With plots: ",
    ):
        assert line in done.stdout
    assert time.monotonic() - began < 60


# --- other people's data ---


def test_the_desk_needs_no_remark_on_values_and_size():
    things = findings("desk")
    assert not {"test size", "missing?", "rare values", "one value", "contradictions", "spelling"} & set(things)


def test_too_few_test_rows_are_said_with_the_number_that_is_needed(broken_task):
    size = findings(broken_task)["test size"]
    assert not size.ok and not size.gate
    assert "12 test rows: a score is known to ±25 points" in size.text and "about 234 are needed" in size.text


def test_one_text_with_two_answers_is_a_contradiction_and_no_copy(tmp_path):
    rows = [
        ("great", "pos"),
        ("Great!", "neg"),
        ("so so", "pos"),
        ("so so", "pos"),
        ("I like it 👍", "pos"),
        ("I like it 👎", "neg"),
    ]
    make_task(tmp_path / "t", rows, test=[("great", "neg"), ("other", "pos")])
    things = findings(tmp_path / "t")
    assert "2 text(s) have two different answers (1 across splits)" in things["contradictions"].text
    assert things["contradictions"].cases[0] == "train-0: pos, train-1: neg: Great!"
    assert [case.split(":")[0] for case in things["duplicates"].cases if "=" in case] == ["train-2 = train-3"]
    assert "train-0 = test-0: great" in things["leakage"].cases and things["leakage"].gate


def test_values_that_look_like_missing_ones_are_counted(tmp_path):
    real = [(f"text {n} {'abcdefghij'[n % 10] * 6}", "ab"[n % 2]) for n in range(8)]
    task = make_task(tmp_path / "t", [*real, ("u", "NaN"), ("v", "nan"), ("w", "N/A"), ("x", "null"), ("y", "None")])
    (finding,) = [f for f in check_task(task, thorough=False) if f.thing == "missing?"]
    assert "5 value(s) look like missing ones" in finding.text and "'N/A': 1" in finding.cases
    make_task(tmp_path / "u", [*real, *((f"north {n} {'klmno'[n] * 7}", "NA") for n in range(5))])  # North America
    assert "missing?" not in findings(tmp_path / "u")


def test_values_with_one_row_and_a_single_value_are_pointed_at(tmp_path):
    make_task(tmp_path / "t", [("one", "a"), ("two", "a"), ("three", "b")])
    rare = findings(tmp_path / "t")["rare values"]
    assert "target: 1 of 2 values stand in one training row or none" in rare.text and rare.cases == (
        "'b': 1 training row(s)",
    )
    make_task(tmp_path / "u", [("one", "a"), ("two", "a"), ("three", "a")])
    assert "all training rows have the same value" in findings(tmp_path / "u")["one value"].text


def test_values_that_differ_only_in_spelling_are_pointed_at(tmp_path):
    make_task(tmp_path / "t", [("one", "a-b"), ("two", "A b"), ("three", "a-b"), ("four", "c"), ("five", "+"), ("six", "-")])
    spelling = findings(tmp_path / "t")["spelling"]
    assert spelling.cases == ("'A b' and 'a-b'",) and "--merge-spelling" in spelling.fix


def test_personal_data_in_an_answer_is_found(tmp_path):
    make_task(tmp_path / "t", [("call ann@example.org", "yes"), ("write to me", "ann@example.org")], "text", "Answer.")
    finding = findings(tmp_path / "t")["personal data"]
    assert "1 message(s) and 1 answer(s) seem to hold some" in finding.text
    assert finding.cases[0] == "train-1: e-mail address in the answer 'ann@example.org'"


def test_the_cheap_part_takes_seconds_for_many_rows(tmp_path):
    words = [row["message"].split() for row in load_task("desk").rows("train")]
    rows = [(" ".join(words[i % 1400][:9] + words[i * 7 % 1399][-9:]) + f" {i}", "abcd"[i % 4]) for i in range(10_000)]
    task = make_task(tmp_path / "t", rows)
    began = time.process_time()
    assert {f.thing for f in check_task(task, thorough=False)} >= {"duplicates", "leakage", "personal data"}
    assert time.process_time() - began < 12  # 4 on a quiet core


def test_the_simple_model_is_fitted_with_one_thread(monkeypatch):
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_info

    def threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    seen: list[set[int]] = []
    fit = LogisticRegression.fit
    monkeypatch.setattr(LogisticRegression, "fit", lambda *args, **kwargs: seen.append(threads()) or fit(*args, **kwargs))
    before = threads()
    words = [f"{word} please {n}" for n in range(12) for word in ("tea", "bread")]
    fit_simple_model(words, ["drink", "food"] * 12)
    suspicious(words, ["drink", "food"] * 12)
    assert seen and set().union(*seen) == {1} and threads() == before


def test_of_many_rows_the_simple_model_is_fitted_faster_and_finds_the_same_wrong_label(monkeypatch):
    rows = [row for row in load_task("desk").rows("train") if row["ticket"]["intent"] in ("book", "praise")]
    messages, intents = [row["message"] for row in rows], [row["ticket"]["intent"] for row in rows]
    wrong = next(i for i, row in enumerate(rows) if row["ticket"]["intent"] == "praise" and len(row["message"]) > 100)
    intents[wrong] = "book"
    few = suspicious(messages, intents)
    monkeypatch.setattr("ftkit.data.check.MANY", 100)
    many = suspicious(messages, intents)
    assert type(fit_simple_model(messages, intents)[-1]).__name__ == "SGDClassifier"
    assert all(wrong in [i for i, _, _ in found[:10]] for found in (few, many))
