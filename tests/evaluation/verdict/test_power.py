import numpy as np
import pytest

from ftkit.evaluation.intervals import compare_shares
from ftkit.evaluation.verdict.power import mcnemar_power, mcnemar_rows, rows_to_tell_apart


@pytest.mark.parametrize(("rows", "better", "worse"), [(40, 0.3, 0.1), (150, 0.12, 0.04), (400, 0.05, 0.05), (10, 0.6, 0.0)])
def test_the_power_is_how_often_the_kits_own_test_detects_such_a_difference(rows, better, worse):
    rng = np.random.default_rng(3)
    detected = 0
    for only_second, only_first, same in rng.multinomial(rows, [better, worse, 1 - better - worse], size=1500):
        first = [False] * only_second + [True] * only_first + [True] * same
        second = [True] * only_second + [False] * only_first + [True] * same
        detected += compare_shares(first, second).detected
    assert mcnemar_power(rows, better, worse) == pytest.approx(detected / 1500, abs=0.04)


def test_the_power_of_the_sign_test_with_all_rows_apart_is_the_binomials():
    """Of 20 coins the test rejects from 15 on (tables of the sign test)."""
    from scipy.stats import binom

    assert mcnemar_power(20, 0.75, 0.25) == pytest.approx(binom.sf(14, 20, 0.75) + binom.cdf(5, 20, 0.75))
    assert mcnemar_power(5, 0.9, 0.1) == 0  # the exact test of 5 coins cannot reach 5 %
    assert mcnemar_rows(1.0, 0.0) == 6


@pytest.mark.parametrize(("better", "worse"), [(0.1, 0.05), (0.2, 0.1), (0.08, 0.06), (0.05, 0.0)])
def test_the_rows_needed_have_the_power_and_lie_near_the_textbooks_approximation(better, worse):
    rows = mcnemar_rows(better, worse)
    assert mcnemar_power(rows, better, worse) >= 0.8 > mcnemar_power(int(0.95 * rows), better, worse)
    apart, gap = better + worse, better - worse  # Connor 1987, Biometrics 43, 207-211
    textbook = ((1.96 * apart**0.5 + 0.8416 * (apart - gap**2) ** 0.5) / gap) ** 2
    assert textbook <= rows <= 1.1 * textbook
    assert mcnemar_rows(worse, better) == rows


def test_rows_to_tell_apart_for_right_and_wrong_and_for_scores():
    first, second = [True] * 60 + [False] * 40, [True] * 55 + [False] * 30 + [True] * 15
    assert rows_to_tell_apart(first, second) == mcnemar_rows(0.15, 0.05)
    assert rows_to_tell_apart(first, first) is None
    assert mcnemar_rows(0.1001, 0.1) is None  # millions
    rng = np.random.default_rng(0)
    lower = rng.random(400)
    higher = lower + rng.normal(0.05, 0.2, 400)
    gaps = higher - lower
    assert rows_to_tell_apart(lower.tolist(), higher.tolist()) == pytest.approx(7.849 * gaps.var() / gaps.mean() ** 2, abs=1)
