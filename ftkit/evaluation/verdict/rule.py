"""The rule that turns measured scores into advice: written down here, shown on the page, tested on made-up results."""

from __future__ import annotations

from collections.abc import Mapping

from ftkit.runs.documents import Advice, Comparison, Doubling, Standing, show_interval

SMALL = 0.03  # a gap below this is not worth a heavier model
UNSURE = 0.10  # a gap that may be as large as this is too much to be left open
FEWEST = 20  # test rows: intervals from fewer are not to be trusted, and neither is advice
STEEP = 0.05  # what twice the labels must give to be worth writing them

MAJORITY, NEAREST, TFIDF, FROZEN, ENCODER = "majority", "nearest row", "TF-IDF", "frozen encoder", "fine-tuned encoder"
BASE, FEW_SHOT, QLORA = "base", "few-shot", "QLoRA"
SIMPLEST_FIRST = (MAJORITY, NEAREST, TFIDF, FROZEN, ENCODER, BASE, FEW_SHOT, QLORA)  # by what it takes to run one

RULE = (
    f"Fewer than {FEWEST} test rows are too few for any advice.",
    "The best contender has the highest score on the test rows; of equals it is the simplest.",
    f"Label more first, if the last doubling of the labels gave a contender {100 * STEEP:.0f} points or more, and by the "
    "interval surely more than the best is ahead of it: as many again would bring it past the best of today.",
    f"Else take the simplest contender that is enough: at most {100 * SMALL:.0f} points behind the best, and by the "
    f"interval at most {100 * UNSURE:.0f}. Without training: do not fine-tune. An encoder: it is enough.",
    "Else, if a simpler contender cannot be told apart from the best, there are too few test rows to tell.",
    "Else take the best: it was told apart from everything simpler.",
)


def decide(standings: Mapping[str, Standing], best: str, doublings: Mapping[str, Doubling], n: int) -> Advice:
    """Advice on one question, by `RULE`: whether to fine-tune, and which contender to take.

    `standings` come in any order, `doublings` are those of contenders with a learning curve, `n` counts test rows. The gaps
    are the best's score minus each other's, paired. The best was chosen on the same rows, so its lead is rather too large
    than too small, which speaks for the simpler ones.
    """
    if n < FEWEST:
        text = f"Too few test rows to tell: there are {n}, and advice takes at least {FEWEST}."
        return Advice(kind="too few test rows to tell", choice=best, text=text)
    if steep := _steepest(standings, doublings):
        return _label_more(standings, best, steep, doublings[steep])
    simpler = [name for name in SIMPLEST_FIRST if name in standings and name != best]
    simpler = [name for name in simpler if SIMPLEST_FIRST.index(name) < SIMPLEST_FIRST.index(best)]
    enough = next((name for name in simpler if _is_enough(standings[name].behind)), best)
    unclear = [name for name in simpler if not _is_enough(standings[name].behind) and not _is_detected(standings[name])]
    if enough == best and unclear:
        return _too_few(standings, best, unclear[0], n)
    return _take(standings, best, enough)


def _steepest(standings: Mapping[str, Standing], doublings: Mapping[str, Doubling]) -> str | None:
    """The contender that twice the labels would bring furthest, if they would bring it past the best of today."""
    passing = [
        name
        for name, doubling in doublings.items()
        if doubling.gain >= STEEP and doubling.interval[0] > _gap(standings[name])
    ]
    return max(passing, key=lambda name: standings[name].score.value + doublings[name].gain, default=None)


def _gap(standing: Standing) -> float:
    return standing.behind.difference if standing.behind else 0.0


def _is_detected(standing: Standing) -> bool:
    return standing.behind is not None and standing.behind.detected


def _is_enough(behind: Comparison | None) -> bool:
    return behind is None or (behind.difference <= SMALL and behind.interval is not None and behind.interval[1] <= UNSURE)


def _label_more(standings: Mapping[str, Standing], best: str, steep: str, doubling: Doubling) -> Advice:
    low, high = doubling.interval
    gain = (
        f"the last doubling, from {doubling.rows[0]:,} to {doubling.rows[1]:,} rows, gave {steep} "
        f"{_points(doubling.gain)} (95 % interval {100 * low:+.1f} to {100 * high:+.1f})"
    )
    ahead = f"more than {best} is ahead today ({100 * _gap(standings[steep]):.1f} points)"
    ahead = "and it is the best already" if steep == best else ahead
    return Advice(kind="label more first", choice=steep, text=f"Label more first: {gain}, {ahead}.")


def _too_few(standings: Mapping[str, Standing], best: str, simpler: str, n: int) -> Advice:
    standing = standings[simpler]
    assert standing.behind  # it is not the best
    needed = f"; to tell such a gap takes about {standing.rows_needed:,}" if standing.rows_needed else ""
    text = (
        f"Too few test rows to tell: on {n} rows {best} is {_ahead(standing.behind)} ahead of {simpler} "
        f"(95 % interval {show_interval(standing.behind.interval, '+.1f')}){needed}."
    )
    return Advice(kind="too few test rows to tell", choice=best, text=text)


def _take(standings: Mapping[str, Standing], best: str, choice: str) -> Advice:
    right = f"{100 * standings[choice].score.value:.1f} %"
    behind = standings[choice].behind
    if behind is None:
        reason = f"{right}, told apart from everything simpler"
    elif behind.difference <= 0:
        reason = f"{right}, as much as {best}"
    else:
        reason = f"{right}; {best} is {_ahead(behind)} ahead, 95 % interval {show_interval(behind.interval, '+.1f')}"
    if choice == QLORA:
        return Advice(kind="fine-tune", choice=choice, text=f"Fine-tune with QLoRA: it has {reason}.")
    if choice in (FROZEN, ENCODER):
        return Advice(kind="the encoder is enough", choice=choice, text=f"The encoder is enough: the {choice} has {reason}.")
    if choice == MAJORITY:
        hint = "nothing here is clearly better than the most frequent answer, so look at the answers of the rows first"
        return Advice(kind="do not fine-tune", choice=choice, text=f"Do not fine-tune: {hint} ({reason}).")
    return Advice(kind="do not fine-tune", choice=choice, text=f"Do not fine-tune: {choice} is enough ({reason}).")


def _ahead(behind: Comparison) -> str:
    return f"{100 * behind.difference:.1f} points"


def _points(gap: float) -> str:
    return f"{100 * gap:+.1f} points"
