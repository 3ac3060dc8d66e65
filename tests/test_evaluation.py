import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftkit.base import KitError
from ftkit.evaluation import evaluate, load_evaluation, same, score, table
from ftkit.tasks import load_task

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


def test_evaluation_is_saved_and_shown_with_n(tiny_run, tiny_task):
    lines = []
    result = evaluate(tiny_run, say=lines.append)
    assert load_evaluation(tiny_run) == result
    assert result["n"] == 12 and result["split"] == "test"
    predictions = json.loads((tiny_run.folder / "predictions.json").read_text(encoding="utf-8"))
    rows = tiny_task.rows("test")
    assert [p["message"] for p in predictions] == [row["message"] for row in rows]
    for side in ("base", "tuned"):
        recomputed = score(tiny_task, rows, [p[side] for p in predictions])
        assert result["models"][side]["scores"] == {m: sum(v) / 12 for m, v in recomputed.items()}
    assert any("base: 12 of 12" in line for line in lines) and any("tuned: 12 of 12" in line for line in lines)
    assert "n = 12" in table(result).title
    card = (tiny_run.folder / "model_card.md").read_text(encoding="utf-8")
    tuned = result["models"]["tuned"]["scores"]["urgency"]
    assert (
        "test split, n = 12" in card
        and f"| urgency | {100 * result['models']['base']['scores']['urgency']:.1f} % | " in card
    )
    assert f"{100 * tuned:.1f} % |" in card


def test_a_run_without_evaluation_says_how_to_get_one(tiny_run, tmp_path):
    import shutil

    from ftkit.runs import Run

    shutil.copytree(tiny_run.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("evaluation.json"))
    with pytest.raises(KitError, match="ftkit evaluate copy"):
        load_evaluation(Run(tmp_path / "copy"))
