import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from ftkit.evaluation.intervals import (
    bootstrap_interval,
    compare_scores,
    compare_shares,
    describe_comparison,
    rows_to_tell_apart,
    seeds_interval,
    share_interval,
    tango_interval,
)
from ftkit.runs.documents import DETECTED


def answers(both, better, worse, neither):
    """Rights of two models as rows: both, only the second, only the first, none."""
    first = [True] * both + [False] * better + [True] * worse + [False] * neither
    second = [True] * both + [True] * better + [False] * worse + [False] * neither
    return first, second


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (340, 400)])
def test_a_shares_interval_is_wilsons(k, n):
    centre = (k + 1.959963985**2 / 2) / (n + 1.959963985**2)
    half = 1.959963985 / (n + 1.959963985**2) * math.sqrt(k * (n - k) / n + 1.959963985**2 / 4)
    assert share_interval([True] * k + [False] * (n - k)) == pytest.approx((centre - half, centre + half))


def test_mcnemars_exact_p_is_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar

    for both, better, worse, neither in [(100, 20, 5, 30), (3, 0, 0, 2), (10, 1, 7, 4), (0, 251, 9, 140)]:
        theirs = mcnemar([[both, worse], [better, neither]], exact=True).pvalue
        found = compare_shares(*answers(both, better, worse, neither))
        assert found.p == pytest.approx(min(1.0, float(theirs)))
        assert (found.better, found.worse) == (better, worse)
        assert found.difference == pytest.approx((better - worse) / found.n) == pytest.approx(found.second - found.first)


@pytest.mark.parametrize(("better", "worse", "n"), [(20, 5, 100), (3, 9, 40), (251, 9, 400), (5, 0, 30)])
def test_the_paired_interval_ends_where_the_score_test_rejects(better, worse, n):
    """At both ends the score statistic, its nuisance share maximised numerically, is 1.96."""
    table = [better, worse, n - better - worse]
    for gap in tango_interval(better, worse, n):

        def unlikely(share, gap=gap):
            """Minus the log-likelihood of the table when only-first has this share and only-second share + gap."""
            return -(stats.multinomial.logpmf(table, n, [share + gap, share, 1 - gap - 2 * share]))

        low, high = max(0.0, -gap) + 1e-12, (1 - gap) / 2 - 1e-12
        share = optimize.minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
        score = (better - worse - n * gap) / math.sqrt(n * (2 * share + gap - gap**2))
        assert abs(score) == pytest.approx(1.96, abs=2e-3)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_the_paired_interval_holds_the_difference_and_turns_with_the_sides(better, worse, rest):
    n = max(1, better + worse + rest)
    low, high = tango_interval(better, worse, n)
    assert -1 <= low <= (better - worse) / n <= high <= 1
    assert high > low
    assert tango_interval(worse, better, n) == pytest.approx((-high, -low), abs=1e-6)


SHARES = {"alike": (0.5, 0.1, 0.1), "much better": (0.2, 0.6, 0.02), "few differ": (0.85, 0.05, 0.02)}


@pytest.mark.parametrize("name", SHARES)
def test_the_paired_interval_covers_the_truth_as_promised(name):
    both, better, worse = SHARES[name]
    rng = np.random.default_rng(3)
    draws = rng.multinomial(400, [both, better, worse, 1 - both - better - worse], size=4000)
    found = {(b, w): tango_interval(b, w, 400) for b, w in {(int(b), int(w)) for _, b, w, _ in draws}}
    covered = np.mean([found[b, w][0] <= better - worse <= found[b, w][1] for _, b, w, _ in draws.tolist()])
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_wilsons_interval_covers_the_truth_as_promised(share):
    draws = np.random.default_rng(4).binomial(400, share, size=4000)
    found = {k: share_interval([True] * k + [False] * (400 - k)) for k in set(draws.tolist())}
    assert 0.93 <= np.mean([found[k][0] <= share <= found[k][1] for k in draws.tolist()]) <= 0.97


def test_the_bootstraps_interval_covers_the_truth_as_promised(monkeypatch):
    monkeypatch.setattr("ftkit.evaluation.intervals.RESAMPLES", 600)
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(500):
        values = rng.beta(4, 1.5, size=150)
        low, high = bootstrap_interval(lambda index, v=values: v[index].mean(axis=-1), 150)
        covered += low <= 4 / 5.5 <= high
    assert 0.93 <= covered / 500 <= 0.97


def test_the_bootstraps_interval_is_scipys():
    values = np.random.default_rng(6).beta(2, 2, size=80)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(17))
    mine = bootstrap_interval(lambda index: values[index].mean(axis=-1), 80)
    assert mine == pytest.approx(tuple(theirs.confidence_interval), abs=1e-9)


def test_where_all_examples_agree_the_interval_is_not_empty():
    low, high = bootstrap_interval(lambda index: np.ones(index.shape[:-1]), 50)
    assert (low, high) == pytest.approx(share_interval([True] * 50)) and low < 0.95
    same = compare_scores(*[lambda index: np.ones(index.shape[:-1])] * 2, 50)
    assert same.interval[0] < 0 < same.interval[1] and not same.detected


def test_models_without_a_difference_raise_no_more_alarms_than_promised():
    """Two answers of one model to the same examples: any difference is chance."""
    rng = np.random.default_rng(8)
    alarms = 0
    for _ in range(1000):
        easy = rng.beta(2, 1, size=200)  # how easy an example is; both sides answer it with this chance
        first, second = (rng.random(200) < easy for _ in range(2))
        alarms += compare_shares(first, second).detected
    assert alarms / 1000 <= DETECTED + 0.01
    assert alarms > 5  # it is a test, not a shrug


def test_scores_are_compared_on_the_same_resamples():
    rng = np.random.default_rng(9)
    first = rng.random(200)
    second = np.clip(first + 0.02 + rng.normal(0, 0.01, 200), 0, 1)  # a small gain on almost every example
    sides = [lambda index, v=v: v[index].mean(axis=-1) for v in (first, second)]
    found = compare_scores(*sides, 200, (first, second))
    assert found.detected and found.better > 180
    assert found.interval[1] - found.interval[0] < 0.01  # unpaired it would be ten times as wide
    assert found.model_dump()["detected"] is True


def test_the_words_say_better_worse_or_that_nothing_was_detected():
    better = describe_comparison(compare_shares(*answers(100, 251, 9, 40)))
    assert better == "The tuned model is better on 251, worse on 9 of 400: +60.5 points, 95 % interval +55.0 to +65.5."
    assert describe_comparison(compare_shares(*answers(100, 9, 251, 40)), ("a", "b")).startswith(
        "The b model is worse on 251, better on 9"
    )
    nothing = describe_comparison(compare_shares(*answers(100, 6, 5, 40)))
    assert nothing.startswith("No detectable difference between base and tuned (+0.7 points")


def test_comparing_other_examples_is_refused():
    with pytest.raises(ValueError, match="the same examples"):
        compare_shares([True], [True, False])


def test_with_one_seed_it_is_the_t_interval_over_examples():
    scores = np.random.default_rng(1).random(40)
    value, interval = seeds_interval([scores])
    theirs = stats.ttest_1samp(scores, 0).confidence_interval()
    assert value == pytest.approx(scores.mean()) and interval == pytest.approx((theirs.low, theirs.high))


def test_where_seeds_alone_differ_it_is_the_t_interval_over_seeds():
    levels = np.array([0.2, 0.5, 0.7])
    value, interval = seeds_interval(np.repeat(levels[:, None], 50, axis=1))
    theirs = stats.ttest_1samp(levels, 0).confidence_interval()
    assert value == pytest.approx(levels.mean()) and interval == pytest.approx((theirs.low, theirs.high))


def test_scores_that_are_all_the_same_have_an_interval_without_width():
    assert seeds_interval(np.full((3, 9), 0.25)) == (0.25, (0.25, 0.25))


@pytest.mark.parametrize("luck", [0.0, 0.03])
def test_the_interval_over_seeds_holds_the_truth_at_least_as_often_as_it_says(luck):
    rng, held, times = np.random.default_rng(2), 0, 300
    for _ in range(times):
        chances = np.clip(rng.beta(2, 2, 120) + rng.normal(0, luck, 3)[:, None], 0, 1)
        low, high = seeds_interval(rng.random((3, 120)) < chances)[1]
        held += low <= 0.5 <= high
    assert held / times >= 0.93


def mean_of(values):
    return lambda index: np.asarray(values, dtype=float)[index].mean(axis=-1)


def test_one_example_has_no_bootstrap_and_says_nothing():
    assert bootstrap_interval(mean_of([1.0]), 1) is None
    compared = compare_scores(mean_of([0.0]), mean_of([1.0]), 1, ([0.0], [1.0]))
    assert (compared.difference, compared.interval, compared.better) == (1.0, None, 1) and not compared.detected
    assert describe_comparison(compared) == "One message says nothing about base and tuned (+100.0 points; n = 1)."
    of_shares = compare_shares([False], [True])  # a yes or no has an interval: a wide one
    assert of_shares.interval[0] < 0 < of_shares.interval[1] and not of_shares.detected
    assert share_interval([True])[0] < 0.25
    with pytest.raises(ValueError, match="two examples or two seeds"):
        seeds_interval([[1.0]])
    value, (low, high) = seeds_interval([[1.0], [0.5]])  # one example, two seeds: the seeds' spread alone
    assert low < value == 0.75 < high


@pytest.mark.parametrize(("first", "second"), [([1, 1], [1, 1]), ([0, 0], [1, 1]), ([0, 1], [1, 1]), ([0, 0.5], [1, 0.25])])
def test_two_examples_have_an_interval_however_they_agree(first, second):
    for values in (first, second):
        low, high = bootstrap_interval(mean_of(values), 2)
        assert 0 <= low <= np.mean(values) <= high <= 1
    compared = compare_scores(mean_of(first), mean_of(second), 2, (first, second))
    assert compared.interval[0] <= compared.difference <= compared.interval[1]
    assert not compared.detected and "n = 2" in describe_comparison(compared)  # two messages show nothing


def test_the_same_gap_on_every_example_is_as_sure_as_their_number_allows():
    for n, detected in ((2, False), (50, True)):
        up = compare_scores(mean_of([0.25] * n), mean_of([0.75] * n), n)
        down = compare_scores(mean_of([0.75] * n), mean_of([0.25] * n), n)
        low, high = up.interval
        assert high == pytest.approx(0.5) and low < 0.5 and down.interval == pytest.approx((-high, -low))
        assert up.detected == down.detected == detected


def test_rows_to_tell_apart_for_right_and_wrong_and_for_scores():
    """The first by Connor 1987, Biometrics 43, 207-211."""
    first, second = answers(both=55, better=15, worse=5, neither=25)
    textbook = ((1.96 * 0.2**0.5 + 0.8416 * (0.2 - 0.1**2) ** 0.5) / 0.1) ** 2
    assert rows_to_tell_apart(first, second) == rows_to_tell_apart(second, first) == math.ceil(textbook)
    assert rows_to_tell_apart(first, first) is None
    rng = np.random.default_rng(0)
    lower = rng.random(400)
    gaps = rng.normal(0.05, 0.2, 400)
    needed = rows_to_tell_apart(lower.tolist(), (lower + gaps).tolist())
    assert needed == pytest.approx(7.849 * gaps.var() / gaps.mean() ** 2, abs=1)
    assert rows_to_tell_apart([0.0, 1.0], [1.0, 1e-4]) is None  # millions
