"""What a judge said, in sentences: first how far it agrees with a reader, then what it prefers."""

from __future__ import annotations

from ftkit.runs.documents import JudgeAgreement, Judged, JudgedAgainst, show_interval

PLACES = 0.25  # a judge that goes by the place in more pairs than this is said to do so


def describe_judge(judged: Judged | None) -> list[str]:
    """The sentences of a judge; none without one."""
    if judged is None:
        return []
    sentences = [describe_agreement(judged.model, judged.agreement)]
    for other, said in judged.against.items():
        compared = said.preferred
        told = f", 95 % interval {show_interval(compared.interval, '+.1f')}" if compared.interval else ""
        unreadable = f", {said.unreadable} without a readable verdict" if said.unreadable else ""
        sentences.append(
            f"By the judge, against {other}: tuned preferred in {said.better} of {said.n}, the other in {said.worse}, "
            f"ties {said.ties}{unreadable} (difference {100 * compared.difference:+.1f} points{told}).{_places(said)}"
        )
    return sentences


def describe_agreement(model: str, agreement: JudgeAgreement | None) -> str:
    """Whether a judge agrees with the reader whose verdicts the kit brings, and so whether it can be believed."""
    if agreement is None:
        return f"Judge {model}: there are no verdicts of a reader here, so nobody knows how far it can be believed."
    a, share = agreement, f"{100 * agreement.agree / agreement.n:.0f} %"
    believe = (
        "It can be believed as far as that goes."
        if a.believed
        else "That is not clearly more than chance choices would reach: do not believe its figures."
    )
    unreadable = f" {a.unreadable} of its replies were no verdict." if a.unreadable else ""
    return (
        f"Judge {model}: it agrees with a reader's verdict in {a.agree} of {a.n} pairs of {a.task} ({share}, 95 % interval "
        f"{show_interval(a.interval, '.0f')} %; kappa {a.kappa:.2f}); always taking the same side would agree in "
        f"{100 * a.constant:.0f} %. {believe}{unreadable}{_places(a)}"
    )


def _places(said: JudgeAgreement | JudgedAgainst) -> str:
    """A sentence where it went by an answer's place, in both orders, in more pairs than a few."""
    place, times = max((("first", said.took_first), ("second", said.took_second)), key=lambda pair: pair[1])
    if not said.n or times / said.n <= PLACES:
        return ""
    return f" In {times} of {said.n} pairs it took the {place} answer in both orders: it goes by the place."
