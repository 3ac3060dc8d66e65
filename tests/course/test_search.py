import json

import pytest

from ftkit.common.errors import KitError
from ftkit.course import search


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Some results of the search in a folder of their own; returns what writes them."""
    monkeypatch.setattr(search, "FOLDER", tmp_path)

    def write(*trials):
        on = {"date": "2026-11-25", "threads": 1, "versions": {}}
        results = {str(i): on | trial for i, trial in enumerate(trials)}
        (tmp_path / "recipe.json").write_text(json.dumps({"format": 1, "results": results}), encoding="utf-8")

    search.results.cache_clear()
    yield write
    search.results.cache_clear()


def trial(seed=17, method="qlora", rows=None, right="1100", **more):
    profile = {"rank": 16, "alpha": 64, "learning_rate": 1e-3, "dropout": 0.0, **search.WHOLE_LENGTH}
    tried = {"method": method, "seed": seed, "rows": rows, "profile": profile, "lora": {}, "sft": {}, "special": ""}
    tried["task"] = {"system_prompt": "Write the desk ticket."}
    scores = {"rows": {"intent": right, "day": "1111", search.WHOLE: right}}
    parts = {key: more.pop(key) for key in ("failed", "test") if key in more}
    return {"experiment": tried | more, **scores, **parts}


def test_only_the_trainings_with_these_settings_and_nothing_unusual_are_found(saved):
    saved(
        trial(),
        trial(seed=3),
        trial(seed=29, failed="MemoryError"),
        trial(special="loftq"),
        trial(lora={"use_dora": True}),
        trial(rows=50),
        trial(task={"system_prompt": "Desk ticket:"}),
        trial(task={"system_prompt": "Write the desk ticket.", "order": ["intent"]}),
        trial(task={"system_prompt": "Write the desk ticket.", "form": "spaced"}, seed=5),
    )
    assert [result.seed for result in search.find(rank=16)] == [17, 3]
    assert [result.seed for result in search.find(form="spaced")] == [5]
    assert not list(search.find(rank=64)) and [result.seed for result in search.find(special="loftq")] == [17]


def test_a_training_that_was_scored_on_the_test_split_later_counts_once_and_with_those_scores(saved):
    tested = {"rows": {search.WHOLE: "10"}}
    saved(trial(), trial(test=tested), trial(seed=3, test=tested))
    assert [bool(result.test) for result in search.find()] == [True, True]
    full = trial(method="full", special="mixed", test={"rows": {search.WHOLE: "11"}})
    full["experiment"]["profile"]["learning_rate"] = 2e-4
    saved(trial(test=tested), trial(seed=3, test=tested), full)
    search.results.cache_clear()
    ((order, (gap, _)),) = search.against_qlora("full").items()
    assert order == "rows of like length one after the other" and gap == -0.5  # of the one seed that both have


def test_a_message_scores_the_share_of_its_fields_or_one_metric(saved):
    saved(trial(right="1100"))
    (result,) = search.find()
    assert search.right(result).tolist() == [1, 1, 0.5, 0.5] and search.right(result, "intent").tolist() == [1, 1, 0, 0]
    score, low, high = search.share(result)
    assert score == 0.75 and low < 0.75 < high


def test_without_the_file_it_says_where_it_belongs_and_how_to_get_it(saved):
    with pytest.raises(KitError, match=r"recipe\.json is missing\. Get it again, or run python -m experiments\.recipe"):
        search.results()
