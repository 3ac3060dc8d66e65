"""How many test rows it takes to tell two contenders apart (lesson 04)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np

from ftkit.evaluation.intervals import Z
from ftkit.runs.documents import DETECTED

POWER, Z_POWER = 0.8, 0.8416212335729143  # a true difference is detected four times in five; the normal's 80 % point
MOST = 1_000_000  # test rows; who needs more need not ask


def rows_to_tell_apart(first: Sequence[bool] | Sequence[float], second: Sequence[bool] | Sequence[float]) -> int | None:
    """Test rows at which two contenders would be told apart four times in five, were they as on these rows.

    Both give each row's yes or no, or its score. None where they do not differ on average, or if it takes over `MOST`.
    """
    gaps = np.subtract(np.asarray(second, dtype=float), np.asarray(first, dtype=float))
    if not gaps.mean():
        return None
    if isinstance(first[0], bool) and isinstance(second[0], bool):
        return mcnemar_rows(float((gaps > 0).mean()), float((gaps < 0).mean()))
    rows = math.ceil(((Z + Z_POWER) * float(gaps.std()) / abs(float(gaps.mean()))) ** 2)  # the normal approximation
    return rows if rows <= MOST else None


def mcnemar_rows(better: float, worse: float) -> int | None:
    """Rows at which the exact McNemar test has the power `POWER`; `better`, `worse`: shares that only one gets right.

    None where the two are equal, or if it takes over `MOST`. Found by bisection: the power grows in small steps up and down.
    """
    if better == worse:
        return None
    high = 4
    while mcnemar_power(high, better, worse) < POWER:
        high *= 2
        if high > MOST:
            return None
    return bisect.bisect_left(
        range(high), True, lo=high // 2 + 1, key=lambda rows: mcnemar_power(rows, better, worse) >= POWER
    )


def mcnemar_power(rows: int, better: float, worse: float) -> float:
    """How often the exact McNemar test detects a difference on so many rows.

    The number of rows that only one gets right is binomial; given it, the number that is better is binomial too, and the
    test rejects in both tails of a fair coin (Duffy 1984, Biometrics 40, 1005-1015).
    """
    from scipy.stats import binom

    apart = better + worse
    middle, spread = rows * apart, 8 * math.sqrt(rows * apart * (1 - apart)) + 8
    m = np.arange(max(0, math.floor(middle - spread)), min(rows, math.ceil(middle + spread)) + 1)
    tail = binom.ppf(DETECTED / 2, m, 0.5)
    tail -= 2 * binom.cdf(tail, m, 0.5) >= DETECTED  # the largest count of the rarer side that is still detected
    share = better / apart
    detected = binom.cdf(tail, m, share) + binom.sf(m - tail - 1, m, share)
    return float((binom.pmf(m, rows, apart) * np.where(tail < 0, 0.0, detected)).sum())
