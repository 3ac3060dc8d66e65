import numpy as np
import pytest

from ftkit.data.check import rows_needed, widest_half
from ftkit.evaluation.intervals import compare_shares, wilson_interval


def share_of_detections(n, difference, disagree, tries=400):
    """How often the kit's own paired test finds a difference between two models on `n` examples."""
    rng = np.random.default_rng(17)
    better, worse = (disagree + difference) / 2, (disagree - difference) / 2
    found = 0
    for kinds in rng.choice(3, size=(tries, n), p=[better, worse, 1 - disagree]):
        found += compare_shares(kinds == 1, kinds == 0).p < 0.05
    return found / tries


@pytest.mark.parametrize(("difference", "disagree"), [(0.1, 0.3), (0.2, 0.3)])
def test_with_the_rows_that_are_needed_four_differences_in_five_are_found(difference, disagree):
    n = rows_needed(difference, disagree)
    assert 0.72 < share_of_detections(n, difference, disagree) < 0.88
    assert share_of_detections(n // 3, difference, disagree) < 0.5


def test_smaller_differences_and_more_disagreement_need_more_rows():
    assert rows_needed(0.1) == 234
    assert rows_needed(0.05) > 3 * rows_needed(0.1) and rows_needed(0.1, 0.4) > rows_needed(0.1, 0.2)


@pytest.mark.parametrize("n", [4, 12, 100, 408])
def test_the_widest_interval_is_wilsons_of_one_half(n):
    low, high = wilson_interval(n // 2, n)
    assert widest_half(n) == pytest.approx((high - low) / 2)
