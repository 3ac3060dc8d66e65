"""How sure a score is: intervals, paired comparisons, and what they mean in words (lesson 04).

Everything here is 95 %, two-sided. A yes/no metric has one yes or no for each example; other metrics are bootstrapped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ftkit.data.check import rows_needed
from ftkit.runs.documents import Comparison, show_interval

SEED = 17
RESAMPLES = 2000
Z, Z_POWER = 1.959963984540054, 0.8416212335729143  # the normal distribution's 97.5 % and 80 % points
MOST = 1_000_000  # examples; who needs more need not ask
Interval = tuple[float, float]


def share_interval(right: Sequence[bool]) -> Interval:
    """Wilson's interval for the share of yes among `right`."""
    return wilson_interval(int(sum(right)), len(right))


def wilson_interval(k: int, n: int) -> Interval:
    """Wilson's interval for the share of yes, `k` of `n` (Wilson 1927; scipy.stats.binomtest)."""
    from scipy.stats import binomtest

    interval = binomtest(k, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def compare_shares(first: Sequence[bool], second: Sequence[bool]) -> Comparison:
    """Compare two models on a yes/no metric, example by example.

    The test is McNemar's, exact: under no difference, the examples that only one of them got right fall to either side like
    a coin (McNemar 1947; scipy.stats.binomtest). The interval is Tango's (1998), the score test's own.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    _same_rows(a, b)
    n, better, worse = len(a), int((b & ~a).sum()), int((a & ~b).sum())
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    gap = (better - worse) / n
    return Comparison(
        n=n,
        first=float(a.mean()),
        second=float(b.mean()),
        difference=gap,
        interval=tango_interval(better, worse, n),
        p=p,
        better=better,
        worse=worse,
    )


def rows_to_tell_apart(first: Sequence[bool] | Sequence[float], second: Sequence[bool] | Sequence[float]) -> int | None:
    """Examples at which two models would be told apart four times in five, were they as on these; None without a gap.

    Both give each example's yes or no, or its score. By the normal approximation: for yes and no `data.check.rows_needed`,
    for scores the paired z-test's. The exact test takes up to a tenth more. None also where it takes over `MOST`.
    """
    gaps = np.subtract(np.asarray(second, dtype=float), np.asarray(first, dtype=float))
    gap = abs(float(gaps.mean()))
    if not gap:
        return None
    if isinstance(first[0], bool) and isinstance(second[0], bool):
        rows = rows_needed(gap, float((gaps != 0).mean()))
    else:
        rows = math.ceil(((Z + Z_POWER) * float(gaps.std()) / gap) ** 2)
    return rows if rows <= MOST else None


def tango_interval(better: int, worse: int, n: int) -> Interval:
    """Interval for the difference of two paired shares: all differences that the score test does not reject.

    `better` and `worse` are the examples that only the second, only the first got right, of `n`.
    T. Tango, Statistics in Medicine 17 (1998), 891-908: equations 17 and 18.
    """
    from scipy.optimize import brentq

    def score(gap: float) -> float:
        linear = -better - worse + (2 * n - better + worse) * gap
        root = math.sqrt(max(0.0, linear**2 + 8 * n * worse * gap * (1 - gap)))
        share = (root - linear) / (4 * n)  # of examples that only the first got right, as likely as possible under this gap
        spread = n * (2 * share + gap * (1 - gap))
        return (better - worse - n * gap) / math.sqrt(max(spread, 1e-12))

    gap, edge = (better - worse) / n, 1 - 1e-9
    low = -1.0 if score(-edge) <= Z else brentq(lambda x: score(x) - Z, -edge, gap)
    high = 1.0 if score(edge) >= -Z else brentq(lambda x: score(x) + Z, gap, edge)
    return float(low), float(high)


def bootstrap_interval(statistic: Callable[[np.ndarray], np.ndarray], n: int, seed: int = SEED) -> Interval | None:
    """BCa bootstrap interval (Efron 1987; scipy.stats.bootstrap) of a score between 0 and 1 of `n` examples.

    `statistic` takes indices of examples [..., k] and gives the scores [...]. Where every resample gives the same score (all
    right, all wrong) a bootstrap sees no chance at all; then it is Wilson's interval of that share, which is the wider.
    One example cannot be resampled: None.
    """
    if n < 2:
        return None
    return _bca(statistic, n, seed) or wilson_interval(round(float(statistic(np.arange(n))) * n), n)


def compare_scores(
    first: Callable[[np.ndarray], np.ndarray],
    second: Callable[[np.ndarray], np.ndarray],
    n: int,
    rows: tuple[Sequence[float], Sequence[float]] | None = None,
    seed: int = SEED,
) -> Comparison:
    """Compare two models on a score that is no yes/no, both computed on the same resampled examples (BCa bootstrap).

    `first` and `second` are as in `bootstrap_interval`; `rows`, each example's own score, count better and worse. One
    example gives a comparison without an interval.
    """
    everything = np.arange(n)
    a, b = float(first(everything)), float(second(everything))
    interval = None
    if n > 1:
        interval = _bca(lambda index: second(index) - first(index), n, seed) or _without_spread(b - a, n)
    gaps = np.subtract(rows[1], rows[0]) if rows else np.zeros(0)
    better, worse = int((gaps > 0).sum()), int((gaps < 0).sum())
    return Comparison(n=n, first=a, second=b, difference=b - a, interval=interval, p=None, better=better, worse=worse)


def _without_spread(gap: float, n: int) -> Interval:
    """Where every resample has the same gap: Tango's interval of `n` examples that all agree, in units of the gap."""
    if not gap:
        return tango_interval(0, 0, n)
    low, high = sorted(gap * bound for bound in tango_interval(n, 0, n))
    return low, high


def seeds_interval(scores: Sequence[Sequence[float]] | np.ndarray) -> tuple[float, Interval]:
    """The mean of scores [seeds, examples] and its interval: the luck of which seed trained and which examples were asked.

    The variance of the mean is that over examples plus that over seeds; its degrees of freedom are Satterthwaite's (1946),
    so that a spread known from three seeds makes a wide interval (rather too wide than too narrow). One seed tells nothing
    of the luck of training: then it is the examples' alone. For a paired comparison give the differences, of the same seeds
    and examples. Scores that are all the same show no spread, and the interval has no width. Raises `ValueError` for a
    single score, which shows none either.
    """
    from scipy.stats import t

    table = np.asarray(scores, dtype=float)
    means = [each for each in (table.mean(axis=0), table.mean(axis=1)) if len(each) > 1]  # over seeds, over examples
    if not means:
        raise ValueError("an interval needs two examples or two seeds at least")
    parts = [(float(each.var(ddof=1)) / len(each), len(each) - 1) for each in means]
    value, variance = float(table.mean()), sum(part for part, _ in parts)
    if not variance:
        return value, (value, value)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    half = float(t.ppf(0.975, freedom)) * variance**0.5
    return value, (value - half, value + half)


def _bca(statistic: Callable[[np.ndarray], np.ndarray], n: int, seed: int) -> Interval | None:
    """The BCa interval, or None where all resamples agree."""
    import warnings

    from scipy.stats import DegenerateDataWarning, bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = bootstrap(
            (np.arange(n),),
            lambda index, axis: statistic(np.moveaxis(index.astype(int), axis, -1)),
            n_resamples=RESAMPLES,
            batch=max(1, 2_000_000 // n),
            method="BCa",
            vectorized=True,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return None if math.isnan(low) or math.isnan(high) else (low, high)


def _same_rows(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape or not len(first):
        raise ValueError(f"a paired comparison needs the same examples twice, not {first.shape} and {second.shape}")


def describe_comparison(compared: Comparison, names: tuple[str, str] = ("base", "tuned")) -> str:
    """What a comparison says, in one sentence."""
    if compared.interval is None:
        return f"One message says nothing about {names[0]} and {names[1]} ({100 * compared.difference:+.1f} points; n = 1)."
    gap = f"{100 * compared.difference:+.1f} points, 95 % interval {show_interval(compared.interval, '+.1f')}"
    if not compared.detected:
        return f"No detectable difference between {names[0]} and {names[1]} ({gap}; n = {compared.n})."
    if not compared.better + compared.worse:
        return f"The {names[1]} model is {'better' if compared.difference > 0 else 'worse'} ({gap}; n = {compared.n})."
    if compared.difference > 0:
        return f"The {names[1]} model is better on {compared.better}, worse on {compared.worse} of {compared.n}: {gap}."
    return f"The {names[1]} model is worse on {compared.worse}, better on {compared.better} of {compared.n}: {gap}."
