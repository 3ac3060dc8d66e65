"""How many examples a comparison needs, before it is made: plain arithmetic that every stage may use."""

from __future__ import annotations

import math
from statistics import NormalDist

DISAGREE = 0.3  # share of examples that only one of two models gets right; 33 % at 75 and 85 % right with unrelated mistakes


def rows_needed(difference: float, disagree: float = DISAGREE, power: float = 0.8, level: float = 0.05) -> int:
    """Examples from which a paired test finds a difference of two shares (0 to 1) with this probability, `power`.

    `disagree` is the share of the examples that only one of the two models gets right. Connor, Sample size for testing
    differences in proportions for the paired-sample design, Biometrics 43 (1987), for McNemar's test at `level`, two-sided.
    """
    disagree = max(disagree, difference)
    z_level, z_power = NormalDist().inv_cdf(1 - level / 2), NormalDist().inv_cdf(power)
    return math.ceil((z_level * math.sqrt(disagree) + z_power * math.sqrt(disagree - difference**2)) ** 2 / difference**2)


def widest_half(n: int, level: float = 0.05) -> float:
    """Half the width of Wilson's interval of a share of `n` examples where it is widest: half of them yes (Wilson 1927)."""
    z = NormalDist().inv_cdf(1 - level / 2)
    return z / (2 * math.sqrt(n + z**2))
