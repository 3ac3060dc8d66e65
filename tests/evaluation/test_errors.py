import json

import numpy as np
import pytest

from ftkit.data.prompt import completion_text
from ftkit.data.task import load_task
from ftkit.evaluation import errors as analysis
from ftkit.evaluation.metrics import row_scores

DESK = load_task("desk")
ROWS = DESK.rows("validation")[:60]


def texts(changed):
    """Right answers, but where `changed` gives a row's number other values."""
    return [completion_text(DESK, {**row["ticket"], **changed.get(i, {})}) for i, row in enumerate(ROWS)]


def test_a_confusion_matrix_counts_targets_by_answers():
    first = ROWS[0]["ticket"]["intent"]
    other = "book" if first != "book" else "menu"
    found = analysis.confusions(DESK, ROWS, texts({0: {"intent": other}, 1: {"intent": "chat"}}))
    values, matrix = found["intent"].values, np.array(found["intent"].matrix)
    assert matrix.shape == (12, 13) and matrix.sum() == 60
    assert matrix[values.index(first), values.index(other)] == 1
    assert matrix[values.index(ROWS[1]["ticket"]["intent"]), 12] == 1
    assert set(found) == {"intent", "urgency"}


def test_slices_are_parts_with_their_own_scores_and_small_ones_are_marked():
    found = analysis.slices(DESK, ROWS, row_scores(DESK, ROWS, texts({0: {"guests": 99}})))
    by = {(part.by, part.value): part for part in found}
    everyday = sum(row["difficulty"] == "everyday" for row in ROWS)
    assert by["difficulty", "everyday"].n == everyday
    assert sum(part.n for part in found if part.by == "length") == 60
    own = by["intent", ROWS[0]["ticket"]["intent"]]
    assert own.fields["guests"] == pytest.approx(1 - 1 / own.n) and own.fields["day"] == 1
    assert own.exact_match == pytest.approx(1 - 1 / own.n) and own.interval[0] < own.exact_match
    assert all(part.small == (part.n < analysis.SMALL) for part in found)


def test_the_worst_answers_come_first_and_right_ones_do_not_come():
    given = texts({3: {"guests": 99, "day": "monday", "time": "03:00"}, 5: {"guests": 98}})
    given[7] = "sorry?"
    found = analysis.worst(DESK, ROWS, given)
    assert [entry.id for entry in found] == [ROWS[i]["id"] for i in (7, 3, 5)]
    assert found[0].wrong == [f.name for f in DESK.fields] and found[2].wrong == ["guests"]
    assert json.loads(found[1].target) == ROWS[3]["ticket"] and found[1].prediction == given[3]
    assert len(analysis.worst(DESK, ROWS, ["no"] * 60)) == analysis.WORST


class Certain:
    """Stands for an answerer that is certain to a given degree."""

    def __init__(self, answerer, chances):
        self.task, self.tokenizer, self.prompt, self.chances = answerer.task, answerer.tokenizer, answerer.prompt, chances

    def next_token_probabilities(self, texts, tokens, which, progress=None):
        assert len(texts) == len(self.chances) and len(tokens) == 12
        return self.chances


def test_a_model_that_is_as_often_right_as_it_says_is_calibrated_and_a_boaster_is_not(answerer, monkeypatch):
    values = DESK.fields[0].values
    tokens = {value: 10 + i for i, value in enumerate(values)}
    monkeypatch.setattr(analysis, "_first_tokens", lambda answerer: ("intent", "", tokens))
    rng = np.random.default_rng(1)
    rows = DESK.rows("train")[:1000]
    gold = np.array([values.index(row["ticket"]["intent"]) for row in rows])
    certain = rng.uniform(0.5, 1, size=1000)
    guess = np.where(rng.random(1000) < certain, gold, (gold + 1) % 12)

    def chances(certainty):
        found = np.zeros((1000, 12))
        found[np.arange(1000), guess] = certainty
        return found

    honest = analysis.calibration(Certain(answerer, chances(certain)), rows)
    boaster = analysis.calibration(Certain(answerer, chances(np.maximum(certain, 0.99))), rows)
    assert honest.ece < 0.06 and boaster.ece == pytest.approx(0.99 - honest.accuracy, abs=0.02)
    assert sum(group.n for group in honest.bins) == 1000 and len(honest.bins) == analysis.BINS
    assert all(group.interval[0] <= group.right <= group.interval[1] for group in honest.bins)


def test_certainty_is_read_where_the_answer_writes_the_field():
    from ftkit.evaluation.answer import Answerer
    from ftkit.models.load import load_tokenizer

    class Model:
        def get_output_embeddings(self):
            import torch

            return torch.nn.Linear(1, 1)

    tokenizer = load_tokenizer("HuggingFaceTB/SmolLM2-135M-Instruct")
    name, beginning, tokens = analysis._first_tokens(Answerer(DESK, Model(), tokenizer))
    assert (name, beginning) == ("intent", '{"intent":"')
    assert list(tokens) == list(DESK.fields[0].values) and len(set(tokens.values())) == 12
    assert all(value.startswith(tokenizer.decode([token])) for value, token in tokens.items())
