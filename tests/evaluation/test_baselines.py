import pytest

from ftkit.common.errors import KitError
from ftkit.data.prompt import completion_text
from ftkit.data.task import Task, load_task
from ftkit.evaluation.baselines import choose_shots, frozen_encoder, majority, nearest, shots, tfidf
from ftkit.evaluation.metrics import row_scores
from ftkit.models.encoder import Encoder

DESK = load_task("desk")
LABELS = Task(folder=DESK.folder, name="l", kind="label", system_prompt="", target="label", labels=("good", "bad"))


def labelled(*pairs):
    return [{"message": message, "label": label} for message, label in pairs]


def test_majority_answers_field_by_field_with_what_is_most_frequent():
    train = DESK.rows("train")
    found = majority(DESK, train, DESK.rows("validation"))
    scores = row_scores(DESK, DESK.rows("validation"), found.texts)
    assert all(scores["fits the task"]) and len(set(found.texts)) == 1
    commonest = max(sum(row["ticket"]["time"] == t for row in train) for t in (None, "19:00", "20:00"))
    assert sum(row["ticket"]["time"] is None for row in train) == commonest
    assert '"time":null' in found.texts[0]
    assert majority(LABELS, labelled(("a", "bad"), ("b", "good"), ("c", "bad")), labelled(("x", "good"))).texts == ["bad"]


def test_tfidf_learns_closed_fields_and_is_judged_by_them_alone():
    found = tfidf(DESK, DESK.rows("train")[:600], DESK.rows("validation"))
    scores = row_scores(DESK, DESK.rows("validation"), found.texts)
    assert sum(scores["intent"]) / 156 > 0.5
    assert set(found.metrics) == {"intent", "intent macro-F1", "urgency", "urgency macro-F1"}
    assert found.memory_mb > 0.1 and found.training_seconds > 0
    rows = labelled(*[("lovely", "good"), ("awful", "bad")] * 8)
    assert tfidf(LABELS, rows, rows).texts == [row["label"] for row in rows]
    assert tfidf(Task(folder=DESK.folder, name="t", kind="text", system_prompt=""), rows, rows) is None


@pytest.mark.parametrize(
    ("train", "answer"),
    [
        (labelled(("lovely food", "good"), ("nice food", "good")), "good"),  # one class
        (labelled(("lovely", "good")), "good"),  # one row
        (labelled(("👍", "good"), ("👎", "bad"), ("👎👎", "bad")), "bad"),  # no word in any message
        (labelled(("a", "good"), ("b", "bad"), ("b", "bad")), "bad"),  # no word of two letters
    ],
)
def test_where_there_is_nothing_to_learn_tfidf_answers_what_is_most_frequent_and_says_so(train, answer):
    found = tfidf(LABELS, train, labelled(("awful", "bad"), ("👍", "good")))
    assert found.texts == [answer, answer] and "nothing to learn for label" in found.about
    rows = labelled(*[("lovely", "good"), ("awful", "bad")] * 8)
    assert "nothing" not in tfidf(LABELS, rows, rows).about


def test_one_field_with_a_single_value_leaves_the_others_their_model():
    train = [{**row, "ticket": {**row["ticket"], "urgency": "normal"}} for row in DESK.rows("train")[:200]]
    found = tfidf(DESK, train, DESK.rows("validation")[:5])
    assert "nothing to learn for urgency:" in found.about and all('"urgency":"normal"' in text for text in found.texts)


def test_the_frozen_encoder_learns_closed_fields_and_weighs_encoder_and_classifier(tiny_encoder, monkeypatch):
    encoder, rows = Encoder.load(tiny_encoder), labelled(*[("table for two", "good"), ("where is my order", "bad")] * 8)
    found = frozen_encoder(LABELS, rows, rows, encoder)
    assert found.texts == [row["label"] for row in rows] and found.metrics == ("exact match", "macro-F1")
    assert found.memory_mb > encoder.memory_mb and found.disk_mb * 1e6 > (tiny_encoder / "model.safetensors").stat().st_size
    found = frozen_encoder(DESK, DESK.rows("train")[:60], DESK.rows("validation")[:20], encoder)
    assert set(found.metrics) == {"intent", "intent macro-F1", "urgency", "urgency macro-F1"}
    assert frozen_encoder(LABELS, rows, rows) is None  # none on this machine
    assert frozen_encoder(Task(folder=DESK.folder, name="t", kind="text", system_prompt=""), rows, rows, encoder) is None


@pytest.mark.parametrize("by_encoder", [False, True])
def test_the_nearest_rows_answer_is_a_whole_answer(tiny_encoder, by_encoder):
    encoder = Encoder.load(tiny_encoder) if by_encoder else None
    train = DESK.rows("train")[:40]
    found = nearest(DESK, train, [train[7], {**train[3], "message": train[3]["message"].upper()}], encoder)
    assert found.texts == [completion_text(DESK, train[i]["ticket"]) for i in (7, 3)] and found.metrics is None
    assert ("encoder" in found.about) == by_encoder and found.memory_mb > 0


def test_shots_are_of_the_seed_differ_in_label_and_grow():
    train = DESK.rows("train")
    four, eight = (shots(DESK, train, k, 17) for k in (4, 8))
    assert eight[:4] == four and shots(DESK, train, 4, 3) != four
    assert len({row["ticket"]["intent"] for row in eight}) == 8


def test_the_number_of_shots_is_the_one_that_helps_most_and_of_equals_the_smaller():
    rows = DESK.rows("validation")
    right = {row["message"]: completion_text(DESK, row["ticket"]) for row in rows}

    def ask(k, messages):
        return [right[m] if i % 4 < {2: 1, 4: 3, 8: 3}[k] else "no" for i, m in enumerate(messages)]

    k, scores = choose_shots(DESK, rows, ask)
    assert k == 4 and scores[4] == scores[8] == pytest.approx(0.75) and scores[2] == pytest.approx(0.25)
    with pytest.raises(KitError):
        choose_shots(DESK, rows, ask, ks=())


def test_for_texts_the_number_of_examples_is_chosen_by_chrf():
    task = Task(folder=DESK.folder, name="t", kind="text", system_prompt="")
    rows = [{"message": "a", "target": "Mesa 4, sin huevo."}] * 3
    k, scores = choose_shots(task, rows, lambda k, messages: [{2: "", 4: "Mesa 4, sin nada.", 8: "Mesa"}[k]] * len(messages))
    assert k == 4 and scores[2] == 0 < scores[8] < scores[4] < 1
