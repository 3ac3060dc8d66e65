import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from ftkit.common.errors import KitError
from ftkit.data.task import Task, load_task
from ftkit.evaluation import metrics
from ftkit.evaluation.intervals import bootstrap_interval, compare_scores
from ftkit.evaluation.metrics import corpus_scores, macro_f1, perplexity, row_scores, score, set_f1

DESK = load_task("desk")
LABELS = Task(folder=Path(), name="l", kind="label", system_prompt="", labels=("a", "b", "c"))
TEXT = Task(folder=Path(), name="t", kind="text", system_prompt="")
TICKET = {"intent": "book", "urgency": "normal", "guests": 4, "day": "friday", "time": None, "allergens": ["milk", "nuts"]}
FLOATS = ("allergens set F1", "chrF", "ROUGE-L")


def written(**changes):
    return json.dumps({**TICKET, **changes})


def desk_rows(*changes):
    return [{"message": "m", "ticket": {**TICKET, **change}} for change in changes]


def of_one(text, task=DESK, target=TICKET):
    return {name: values[0] for name, values in row_scores(task, [{task.target: target}], [text]).items()}


# --- by hand ---


def test_set_f1_by_hand():
    assert set_f1([], []) == 1
    assert set_f1(["milk"], []) == set_f1([], ["milk"]) == set_f1(None, []) == set_f1("milk", ["milk"]) == 0
    assert set_f1(["milk", "nuts", "fish"], ["nuts", "milk"]) == pytest.approx(4 / 5)  # 2 of 3 right, 2 of 2 found
    assert set_f1(["nuts", "nuts", "nuts"], ["nuts"]) == 1
    assert set_f1([["nuts"], {}, None], ["nuts"]) == 0


def test_desk_metrics_by_hand():
    rows = desk_rows({}, {}, {"intent": "menu"}, {"intent": "menu", "allergens": []})
    texts = [written(), written(allergens=["nuts"]), written(intent="book"), "no idea"]
    found = row_scores(DESK, rows, texts)
    assert found["valid JSON"] == found["fits the task"] == [True, True, True, False]
    assert found["intent"] == [True, True, False, False] and found["exact match"] == [True, False, False, False]
    assert found["allergens"] == [True, False, True, False]
    assert found["allergens set F1"] == pytest.approx([1, 2 / 3, 1, 0])
    everything = np.arange(4)
    # book: 2 hits, 1 false alarm, no miss: 4 / 5; menu: no hit, 2 misses: 0; no other value occurs
    assert corpus_scores(DESK, rows, texts)["intent macro-F1"](everything) == pytest.approx((4 / 5 + 0) / 2)
    assert corpus_scores(DESK, rows, texts)["urgency macro-F1"](everything) == pytest.approx(6 / 7)
    assert set(corpus_scores(DESK, rows, texts)) == {"intent macro-F1", "urgency macro-F1"}


def test_the_desks_module_gives_the_same_numbers():
    rows = desk_rows({}, {}, {"intent": "menu"}, {"intent": "menu", "allergens": []})
    texts = [written(), written(allergens=["nuts"]), written(intent="book"), "no idea"]
    references = [json.dumps(row["ticket"]) for row in rows]
    found = metrics.load("json_fields").compute(predictions=texts, references=references, fields=metrics.fields_text(DESK))
    expected = {name: np.mean(values) for name, values in row_scores(DESK, rows, texts).items()}
    expected |= {name: float(at(np.arange(4))) for name, at in corpus_scores(DESK, rows, texts).items()}
    assert found == pytest.approx(expected)
    assert found["intent macro-F1"] == pytest.approx(0.4) and found["allergens set F1"] == pytest.approx((1 + 2 / 3 + 1) / 4)


def test_label_metrics_by_hand():
    gold, said = ["a", "a", "b", "c"], ["a", " b\n", "b", "nothing"]
    found = metrics.load("label_scores").compute(predictions=said, references=gold, labels=["a", "b", "c"])
    assert found["accuracy"] == 0.5
    assert found["macro-F1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert found["confusion matrix"] == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    rows = [{"target": label} for label in gold]
    assert row_scores(LABELS, rows, said) == {"exact match": [True, False, True, False]}
    assert corpus_scores(LABELS, rows, said)["macro-F1"](np.arange(4)) == pytest.approx(4 / 9)


def test_text_metrics_by_hand():
    scores = of_one("the cat", TEXT, "the cat sat")
    assert scores["ROUGE-L"] == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3)) and scores["exact match"] is False
    assert of_one("sat cat the", TEXT, "the cat sat")["ROUGE-L"] == pytest.approx(1 / 3)  # one word in order
    assert of_one("größe straße", TEXT, "Größe, Straße!")["ROUGE-L"] == 1  # letters beyond a to z are kept
    # chrF of "ab" for "abc", by hand: letters 2 of 2 and 2 of 3, pairs 1 of 1 and 1 of 2, no triples in the answer;
    # precision 1, recall (2/3 + 1/2) / 2 = 7/12; 5 P R / (4 P + R)
    assert of_one("ab", TEXT, "abc")["chrF"] == pytest.approx(5 * (7 / 12) / (4 + 7 / 12))
    assert of_one(" the cat sat ", TEXT, "the cat sat") == {"exact match": True, "chrF": 1, "ROUGE-L": 1}
    both = metrics.load("text_scores").compute(predictions=["ab", "xyz"], references=["abc", "xyz"])
    assert both["chrF"] == pytest.approx((5 * (7 / 12) / (4 + 7 / 12) + 1) / 2) and both["exact match"] == 0.5
    assert 0 < both["corpus chrF"] < 1 and both["ROUGE-L"] == 0.5


def test_perplexity_by_hand():
    """Two tokens of probability 1/2 and 1/8, one of 1/4: the geometric mean is 1/4."""
    sums, numbers = [np.log(1 / 2) + np.log(1 / 8), np.log(1 / 4)], [2, 1]
    found = metrics.load("reference_perplexity").compute(log_probabilities=sums, tokens=numbers)
    assert found["perplexity"] == pytest.approx(4)
    at = perplexity(sums, numbers)
    assert at(np.array([[0, 1], [1, 1]])) == pytest.approx([4, 4]) and at(np.array([1])) == pytest.approx(4)
    assert np.isinf(perplexity([-np.inf], [3])(np.array([0]))) and np.isnan(perplexity([0.0], [0])(np.array([0])))


# --- against scikit-learn, and with the intervals ---


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_macro_f1_is_scikit_learns_on_every_resample(classes, n, seed):
    rng = np.random.default_rng(seed)
    gold, guessed = rng.integers(0, classes, n), rng.integers(0, classes + 1, n)
    index = rng.integers(0, n, (2, 3, n + 1))
    found = macro_f1(gold, guessed, classes)(index)
    assert found.shape == (2, 3)
    for i in np.ndindex(2, 3):
        labels = {"labels": range(classes), "average": "macro", "zero_division": np.nan}
        assert found[i] == pytest.approx(f1_score(gold[index[i]], guessed[index[i]], **labels))


def test_macro_f1_has_an_interval_and_a_comparison_within_a_second():
    import time

    rng = np.random.default_rng(3)
    gold = rng.integers(0, 12, 400)
    good, bad = (np.where(rng.random(400) < share, gold, rng.integers(0, 13, 400)) for share in (0.8, 0.4))
    first, second = macro_f1(gold, bad, 12), macro_f1(gold, good, 12)
    began = time.monotonic()
    low, high = bootstrap_interval(second, 400)
    found = compare_scores(first, second, 400)
    assert time.monotonic() - began < 5  # far less; other work may hold the machine
    assert low < second(np.arange(400)) < high and found.detected and found.difference > 0.3
    assert not compare_scores(second, second, 400).detected


# --- whatever a model writes ---


HARD = [
    "",
    "no idea",
    written()[:-9],
    written()[:-1] + ', "intent": "menu"}',  # the last of repeated keys counts
    written(guests=0).replace("0", "9" * 6000),
    written(guests=0).replace("0", "1e999"),
    written(guests=0).replace("0", "NaN"),
    written(guests=0).replace("0", "9" * 400),
    "[" * 3000,
    '{"intent": ' + "[" * 900 + "]" * 900 + "}",
    '{"allergens": ' + "[" * 400 + "]" * 400 + "}",
    '{"allergens": [' + ",".join(["[" * 300 + "]" * 300] * 3) + "]}",
    '{"allergens": [["milk"], {"a": 1}, null, 1e400]}',
    '{"a":' * 400,
    '{"intent": "\\ud800", "allergens": ["\ud800"]}',
    "\ud83d half a smile",
    '{"intent": {}, "urgency": [], "allergens": {}}',
    "\x00",
]


@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_what_is_hard_to_read_is_scored(text):
    assert of_one(text)["exact match"] is False
    assert all(at(np.arange(1)).shape == () for at in corpus_scores(DESK, desk_rows({}), [text]).values())
    assert of_one(text, TEXT, "the cat sat")["ROUGE-L"] == 0
    assert of_one(text, LABELS, "a") == {"exact match": False}


def test_the_modules_score_what_is_hard_to_read():
    references = [written()] * len(HARD)
    found = metrics.load("json_fields").compute(predictions=HARD, references=references, fields=metrics.fields_text(DESK))
    assert found["exact match"] == 0 and 0 < found["valid JSON"] < 1
    assert metrics.load("text_scores").compute(predictions=HARD, references=["the cat sat"] * len(HARD))["exact match"] == 0
    assert metrics.load("label_scores").compute(predictions=HARD, references=["a"] * len(HARD))["accuracy"] == 0
    one = metrics.load("label_scores")
    one.add(prediction="\ud800", reference="a")
    assert one.compute()["accuracy"] == 0


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["book", "milk", "friday"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*TICKET, "x"]), inner, max_size=6),
    max_leaves=12,
)
ANY = st.text(st.characters(), max_size=60) | VALUES.map(json.dumps)
ANSWERS = ANY | st.builds(lambda text, end: text[:end], VALUES.map(json.dumps), st.integers(0, 40))


@settings(max_examples=150, deadline=None)
@given(ANSWERS)
def test_every_text_gets_a_score_of_the_promised_kind(text):
    for task, target in ((DESK, TICKET), (LABELS, "a"), (TEXT, "the cat sat")):
        rows = [{task.target: target}]
        found = row_scores(task, rows, [text])
        for name, values in found.items():
            assert type(values[0]) is (float if name in FLOATS else bool)
            assert 0 <= values[0] <= 1
        yes_no = score(task, rows, [text])
        assert {name: found[name] for name in yes_no} == yes_no
        for at in corpus_scores(task, rows, [text]).values():
            assert 0 <= at(np.zeros((2, 1), int)).min() <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(HARD) | ANSWERS, st.booleans()), min_size=1, max_size=8))
def test_all_metrics_take_any_mixture_of_texts(texts):
    given_texts = [written() if right else text for text, right in texts]
    found = row_scores(DESK, desk_rows(*[{}] * len(texts)), given_texts)
    assert all(len(values) == len(texts) for values in found.values())
    assert sum(found["exact match"]) >= sum(right for _, right in texts)


# --- as modules of evaluate ---


def test_modules_combine():
    import evaluate

    several = evaluate.combine(
        [metrics.load("label_scores"), metrics.load("text_scores"), metrics.load("reference_perplexity")]
    )
    found = several.compute(
        predictions=["a", "b"], references=["a", "a"], labels=["a", "b"], log_probabilities=[-1.0, -3.0], tokens=[1, 1]
    )
    assert found["accuracy"] == found["exact match"] == 0.5 and found["perplexity"] == pytest.approx(np.exp(2))
    with_fields = evaluate.combine([metrics.load("json_fields"), metrics.load("text_scores")])
    found = with_fields.compute(predictions=[written()], references=[written()], fields=metrics.fields_text(DESK))
    assert found["json_fields_exact match"] == found["text_scores_exact match"] == found["intent macro-F1"] == 1


def test_modules_load_by_path_without_a_network(tmp_path):
    """A fresh cache, every connection refused, and nobody told that there is no network."""
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('asked the network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import evaluate, sys\n"
        "folder = sys.argv[1]\n"
        "found = evaluate.load(folder + '/label_scores').compute(predictions=['a'], references=['a'])\n"
        "assert found['accuracy'] == 1, found\n"
        "print(evaluate.load(folder + '/json_fields').description)\n"
    )
    folder = Path(metrics.__file__).parent
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(folder.parent.parent)}
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "2 TP / (2 TP + FP + FN)" in done.stdout


@pytest.mark.parametrize("name", metrics.NAMES)
def test_a_module_says_its_formula_and_source(name):
    module = metrics.load(name)
    assert any(year in module.description for year in ("1977", "1979", "2004")) and "=" in module.description
    assert module.inputs_description.strip()


def test_a_wrong_use_is_a_sentence():
    with pytest.raises(KitError, match="no metric 'bleu'"):
        metrics.load("bleu")
    module = metrics.load("json_fields")
    with pytest.raises(KitError, match="needs the task's fields"):
        module.compute(predictions=["{}"], references=["{}"])
    with pytest.raises(KitError, match="Reference 1"):
        module.compute(predictions=["{}"], references=["{}"], fields=metrics.fields_text(DESK))
    with pytest.raises(KitError, match="fields must be"):
        module.compute(predictions=["{}"], references=["{}"], fields="{not json")
