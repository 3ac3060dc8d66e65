import io
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ftkit.common.errors import KitError
from ftkit.data.prompt import prompt_ids
from ftkit.data.task import load_task
from ftkit.evaluation.baselines import majority, tfidf
from ftkit.evaluation.intervals import compare_shares, share_interval
from ftkit.evaluation.measure import answers_of, compare_runs, evaluate
from ftkit.evaluation.metrics import same, score
from ftkit.evaluation.saved_answers import load_evaluation
from ftkit.evaluation.tables import comparison_table, describe_evaluation, evaluation_table
from ftkit.runs.run import Run

DESK = load_task("desk")
TICKET = {"intent": "book", "urgency": "normal", "guests": 4, "day": "friday", "time": None, "allergens": []}


def scores_of(text):
    return {metric: values[0] for metric, values in score(DESK, [{"message": "m", "ticket": TICKET}], [text]).items()}


def test_a_perfect_answer_scores_everywhere():
    assert all(scores_of(json.dumps(TICKET)).values())
    assert all(scores_of("Here it is: " + json.dumps(TICKET) + " Bye").values())


def test_each_field_is_scored_by_itself():
    scores = scores_of(json.dumps({**TICKET, "guests": 5, "intent": "chat"}))
    assert scores["valid JSON"] and not scores["fits the task"] and not scores["exact match"]
    assert not scores["guests"] and not scores["intent"]
    assert scores["urgency"] and scores["day"] and scores["time"] and scores["allergens"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no idea",
        '{"intent": "book"',
        '{"guests": ' + "9" * 6000 + "}",
        "null",
        '"book"',
        "[" * 3000,
        '{"a": NaN}',
        '{"intent": {}}',
    ],
)
def test_nonsense_is_wrong_and_no_crash(text):
    scores = scores_of(text)
    assert not scores["exact match"] and not scores["intent"] and not scores["fits the task"]


def test_a_missing_field_is_not_null():
    without_time = {k: v for k, v in TICKET.items() if k != "time"}
    assert not scores_of(json.dumps(without_time))["time"]


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [(1, True, False), ("4", 4, False), (4.0, 4, False), (None, None, True), ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True)],
)
def test_equal_means_value_and_type(a, b, equal):
    assert same(a, b) is equal


@given(st.text())
def test_any_text_can_be_scored(text):
    assert set(scores_of(text).values()) <= {True, False}


@pytest.fixture(scope="module")
def evaluated(tiny_run, tmp_path_factory):
    """A copy of the tiny run with a whole evaluation, and the lines that it said."""
    run = Run(shutil.copytree(tiny_run.folder, tmp_path_factory.mktemp("runs") / "evaluated"))
    lines = []
    return run, evaluate(run, say=lines.append, constrained=True), lines


def texts_of(run, name):
    """A model's answers to the test messages: as they were kept, or made again by the cheap baselines."""

    rows = run.task.rows("test")
    if name in ("majority", "TF-IDF"):
        return {"majority": majority, "TF-IDF": tfidf}[name](run.task, run.task.rows("train"), rows).texts
    path = run.folder / "predictions" / f"test-{name.replace(', ', '-')}.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    kept = {line["message"]: line["prediction"] for line in lines}
    return [kept[row["message"]] for row in rows]


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_messages_are_measured_and_what_has_no_interval_is_said(evaluated, tmp_path, n):
    run = Run(shutil.copytree(evaluated[0].folder, tmp_path / "run"))  # its answers are kept: nothing is asked again
    result = evaluate(run, say=lambda line: None, limit=n, constrained=True)
    assert load_evaluation(run) == result and result.calibration.n == n
    macro, exact = (result.models["tuned"].scores[metric] for metric in ("intent macro-F1", "exact match"))
    assert (macro.interval is None) == (n == 1) and exact.interval is not None
    said = "\n".join(describe_evaluation(result))
    assert ("without an interval" in said) == ("One message says nothing" in said) == (n == 1)
    console = Console(width=200, file=io.StringIO())
    console.print(evaluation_table(result))
    for text in (
        console.file.getvalue(),
        (run.folder / "report.html").read_text(encoding="utf-8"),
        (run.folder / "model_card.md").read_text(encoding="utf-8"),
    ):
        assert ("no interval" in text) == (n == 1) and "None" not in text


def test_an_evaluation_is_saved_and_its_figures_are_those_of_the_predictions(evaluated, tiny_task):
    run, result, lines = evaluated
    assert load_evaluation(run) == result
    assert result.n == 12 and result.split == "test"
    rows = tiny_task.rows("test")
    assert set(result.models) == {
        "base", "tuned", "few-shot", "majority", "TF-IDF", "base, constrained", "tuned, constrained"
    }  # fmt: skip
    for name, model in result.models.items():
        for metric, values in score(tiny_task, rows, texts_of(run, name)).items():
            if model.judged_by is None or metric in model.judged_by:
                assert model.scores[metric].value == pytest.approx(sum(values) / 12)
                assert model.scores[metric].interval == pytest.approx(share_interval(values))
    assert any("base: 12 of 12" in line for line in lines) and any("tuned: 12 of 12" in line for line in lines)


def test_tuned_is_compared_with_every_other_model_on_the_same_rows(evaluated, tiny_task):
    run, result, _ = evaluated
    rows = tiny_task.rows("test")
    tuned = score(tiny_task, rows, texts_of(run, "tuned"))
    assert set(result.comparisons) == set(result.models) - {"tuned"}
    for name, compared in result.comparisons.items():
        other = score(tiny_task, rows, texts_of(run, name))
        assert compared["intent"] == compare_shares(other["intent"], tuned["intent"])
    assert set(result.comparisons["TF-IDF"]) == {"intent", "urgency", "intent macro-F1", "urgency macro-F1"}
    assert "allergens set F1" in result.comparisons["base"]


def test_the_evaluation_is_told_in_a_table_in_words_on_the_card_and_on_a_page(evaluated):
    run, result, _ = evaluated
    shown = io.StringIO()
    Console(file=shown, width=160).print(evaluation_table(result))
    text = shown.getvalue()
    assert "n = 12" in text and "few-shot" in text and "intent macro-F1" in text
    said = describe_evaluation(result)
    assert any(line.startswith("Against few-shot, exact match: ") for line in said)
    (asked,) = (line for line in said if line.startswith("General questions: "))
    assert asked.endswith(" The training had no general talk (--replay).")
    with_talk = result.model_copy(update={"general": result.general.model_copy(update={"replay": 1234})})
    assert any(line.endswith(" The training had 1,234 rows of general talk.") for line in describe_evaluation(with_talk))
    held, base = (result.models[name].scores["intent"].value for name in ("base, constrained", "base"))
    assert any(f"points in intent, {100 * (held - base):+.1f} are format alone" in line for line in said)
    card = (run.folder / "model_card.md").read_text(encoding="utf-8")
    urgency = result.models["tuned"].scores["urgency"]
    assert "n = 12" in card and f"{100 * urgency.value:.1f} %" in card
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for heading in ("In words", "All figures", "Was it worth it?", "What it cost elsewhere", "The worst answers"):
        assert f"<h2>{heading}</h2>" in page
    assert "src=" not in page and "<script" not in page and page.count("aria-label=") >= 3


def test_a_second_evaluation_asks_no_model_and_finds_the_same(evaluated, monkeypatch):
    from ftkit.evaluation.answer import Answerer

    run, result, _ = evaluated
    monkeypatch.setattr(Answerer, "_generate", None)
    again = evaluate(run, say=lambda line: None, constrained=True)
    for name, model in result.models.items():
        assert again.models[name].scores == model.scores
    for part in ("comparisons", "worst", "slices", "few_shot", "general"):
        assert getattr(again, part) == getattr(result, part)


def test_a_quick_evaluation_has_base_and_tuned_only(tiny_run, tmp_path):
    run = Run(shutil.copytree(tiny_run.folder, tmp_path / "quick"))
    result = evaluate(run, say=lambda line: None, limit=4, quick=True)
    assert set(result.models) == {"base", "tuned"} and result.general is None and result.n == 4
    assert "the first 4 of 12" in evaluation_table(result).title


def test_an_encoder_joins_the_baselines_where_there_is_one_and_changes_no_other_score(
    evaluated, tiny_encoder, tmp_path, monkeypatch
):
    run, result, _ = evaluated
    run = Run(shutil.copytree(run.folder, tmp_path / "with"))
    monkeypatch.setenv("FTKIT_ENCODER", str(tiny_encoder))
    joined = evaluate(run, say=lambda line: None, constrained=True)
    assert set(joined.models) == {*result.models, "frozen encoder"}
    own = joined.models["frozen encoder"]
    assert set(own.scores) == set(own.judged_by) == {"intent", "urgency", "intent macro-F1", "urgency macro-F1"}
    assert set(joined.comparisons["frozen encoder"]) == set(own.scores)
    assert {name: model.scores for name, model in joined.models.items() if name in result.models} == {
        name: model.scores for name, model in result.models.items()
    }
    assert answers_of(run, joined)["frozen encoder"] and "frozen encoder" in (run.folder / "report.html").read_text("utf-8")
    assert any("Against frozen encoder, intent macro-F1" in line for line in describe_evaluation(joined))


def test_two_runs_are_compared_on_the_same_rows_and_a_run_with_itself_does_not_differ(evaluated, tiny_run, tmp_path):
    run, _, _ = evaluated
    found = compare_runs(run, run, say=lambda line: None)
    assert found.n == 12 and not any(metric.detected for metric in found.metrics.values())
    shown = io.StringIO()
    Console(file=shown, width=120).print(comparison_table(found))
    assert shown.getvalue().count("no detectable difference") == len(found.metrics)
    other = Run(shutil.copytree(tiny_run.folder, tmp_path / "other"))
    other.update(task=other.record.task.model_copy(update={"folder": "desk"}))
    with pytest.raises(KitError, match="nothing to compare"):
        compare_runs(run, other)


def test_an_adapter_that_was_never_trained_is_no_detectable_difference(tiny_run, tmp_path):
    """The null control: base and tuned are one model; drawn answers differ by chance alone, at most as often as promised."""
    import torch
    from safetensors.torch import load_file, save_file

    from ftkit.evaluation.answer import BASE, TUNED, Answerer

    run = Run(shutil.copytree(tiny_run.folder, tmp_path / "untrained"))
    path = run.adapter / "adapter_model.safetensors"
    weights = load_file(path)  # next to nothing: an adapter that is all zeros is refused
    weights = {name: torch.full_like(w, 1e-30) if "lora_B" in name else w for name, w in weights.items()}
    save_file(weights, path, metadata={"format": "pt"})
    answerer = Answerer.of_run(run)
    messages = [row["message"] for row in load_task("desk").rows("test")[:120]]
    prompts = [prompt_ids(answerer.tokenizer, answerer.prompt(message, TUNED)) for message in messages]
    likely = answerer.next_token_probabilities(prompts, list(range(len(answerer.tokenizer))), BASE)
    right = np.argsort(likely.mean(axis=0))[-40:]  # the answers that count as right
    sides = [answerer.next_token_probabilities(prompts, right.tolist(), which).sum(axis=1) for which in (BASE, TUNED)]
    assert np.allclose(*sides, atol=0.02) and 0.1 < sides[0].mean() < 0.99
    chats = [answerer.prompt(message, TUNED) for message in messages[:12]]
    greedy = [answerer.complete(chats, which) for which in (BASE, TUNED)]
    assert not compare_shares(*[[text > "M" for text in texts] for texts in greedy]).detected
    rng = np.random.default_rng(2)
    draws = rng.random((1500, 2, len(messages))) < np.array(sides)
    alarms = sum(compare_shares(base, tuned).detected for base, tuned in draws) / len(draws)
    assert 0 < alarms <= 0.05 + 2 * (0.05 * 0.95 / len(draws)) ** 0.5


def test_a_run_without_evaluation_says_how_to_get_one(tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("evaluation.json"))
    with pytest.raises(KitError, match="ftkit evaluate copy"):
        load_evaluation(Run(tmp_path / "copy"))


@pytest.mark.parametrize("kind", ["label", "text"])
def test_tasks_of_other_kinds_are_evaluated_by_their_own_metrics(kind, tiny_choice, tmp_path, monkeypatch):
    from dataclasses import replace

    from ftkit.training.finetune import train

    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    folder = tmp_path / kind
    folder.mkdir()
    labels = ["book", "cancel", "menu"]
    head = f'name = "{kind}"\nkind = "{kind}"\nsystem_prompt = "What is it?"\ntarget = "answer"\n'
    (folder / "task.toml").write_text(head + (f"labels = {json.dumps(labels)}\n" if kind == "label" else ""))
    for split, n in {"train": 24, "validation": 6, "test": 9}.items():
        rows = [row for row in load_task("desk").rows(split) if row["ticket"]["intent"] in labels][:n]
        answers = [
            row["ticket"]["intent"] if kind == "label" else f"Thank you, noted: {row['ticket']['day']}" for row in rows
        ]
        lines = [json.dumps({"message": row["message"], "answer": a}) for row, a in zip(rows, answers, strict=True)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    choice = replace(tiny_choice, profile=tiny_choice.profile.with_changes(max_steps=4))
    run = train(load_task(folder), choice, fresh=True, say=lambda line: None)
    result = evaluate(run, say=lambda line: None)
    own = {"label": {"exact match", "macro-F1"}, "text": {"exact match", "chrF", "ROUGE-L"}}[kind]
    assert set(result.models["tuned"].scores) == own
    assert set(result.models) == {"base", "tuned", "few-shot", "majority"} | ({"TF-IDF"} if kind == "label" else set())
    assert set(result.confusions) == ({"answer"} if kind == "label" else set())
    assert result.worst and describe_evaluation(result)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "Where it is good and where not" in page and evaluation_table(result).row_count == len(own) + 2
