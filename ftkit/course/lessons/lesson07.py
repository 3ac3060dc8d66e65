"""Lesson 07, your own data: two readers and their agreement, rows for a test, what to do next."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

from ftkit.course.exercise import Exercise, wrong_choice, wrong_value

# letter: a message of the kind that the school's office gets, made up for this exercise
CASES = {
    "A": "Isaac has the dentist at 2, I'll come and get him from class at half one",
    "B": "The swimming bag was found, thank you! Do I still owe you for the towel you lent her?",
    "C": "Nora was kicked by a boy in her class and has a bruise. Nothing was done about it.",
    "D": "Hugo is hot and sleepy but he wanted to come. Could someone look at him before lunch?",
    "E": "Dentist first thing, so Amir comes in at ten",
    "F": "Is there a place in the drama club, and how much is it?",
    "G": "Whose is the scooter with the bell? It was left at our gate, and it is too good to rust.",
}
LABELS = {
    "A": ("collection", "Somebody hands him over during the day: ruling 1, whatever the reason is."),
    "B": ("money", "The bag is settled. What is open is a sum that may be owed: ruling 2."),
    "C": ("teacher", "What one child did to another is the class teacher's, even if it left a mark: ruling 6."),
    "D": ("health", "He is ill and he is at school: ruling 5. Ill at home would be absence."),
    "E": ("absence", "He begins late, and nobody has to hand him over: the end of ruling 1."),
    "F": ("enquiry", "To join a club is an enquiry, even if its price is asked in passing: ruling 3."),
    "G": ("lost", "A thing was found, and somebody misses it. Nothing else is asked."),
}


def _agreed(first: list[str], second: list[str]) -> tuple[float, float]:
    """(share of equal labels, share that two readers who draw by their own habits would have)."""
    one, two, n = Counter(first), Counter(second), len(first)
    seen = sum(a == b for a, b in zip(first, second, strict=True)) / n
    return seen, sum(one[label] * two[label] for label in one) / n**2


def _kappa(kappa):
    for first, second, sentence in (
        (["a", "a", "b", "b"], ["a", "a", "b", "a"], "Three of four agree, and half would by chance."),
        (["a", "b", "c", "a"], ["a", "b", "c", "a"], "All agree: kappa is 1."),
        (["a", "a", "b", "b"], ["b", "b", "a", "a"], "None agree: kappa is below 0."),
        (["a", "a", "a", "b"], ["a", "b", "b", "b"], "The two use their labels differently: that lowers chance."),
        (["a"] * 9 + ["b"], ["a"] * 8 + ["b", "a"], "Eight of ten agree, and that is less than chance gives here."),
        (["a", "b", "c", "c", "b"], ["a", "c", "c", "c", "b"], "Labels may be many; each has its own share."),
    ):
        seen, chance = _agreed(first, second)
        want, labels = (seen - chance) / (1 - chance), set(first) | set(second)
        case = f"For {first} and {second}"
        mistakes = (
            (seen, f"{case} that is the share that agrees. Take off what chance gives, and divide by 1 - chance."),
            (seen - chance, f"{case} you take chance off and do not divide. The most that is left is 1 - chance."),
            (
                (seen - 1 / len(labels)) / (1 - 1 / len(labels)),
                f"{case} chance is not one in {len(labels)}: a reader who writes one label often meets the other's more often.",
            ),
            (
                (seen - sum((n / len(first)) ** 2 for n in Counter(first).values()))
                / (1 - sum((n / len(first)) ** 2 for n in Counter(first).values())),
                f"{case} you take both shares from the first reader. Multiply the first's share by the second's.",
            ),
        )
        got = kappa(first, second)
        wrong_value(got, want, mistakes, f"{sentence} {case} it is {want:.3f}; you return {got:.3f}.")


def _rows_for(rows_for):
    for share, half in ((0.5, 0.1), (0.8, 0.05), (0.8, 0.1), (0.9, 0.02), (0.35, 0.07)):
        spread = share * (1 - share)
        exact = 1.96**2 * spread / half**2
        case = f"For a score near {100 * share:.0f} % known to ±{100 * half:.0f} points"
        mistakes = (
            (math.floor(exact), f"{case} round up, math.ceil(): with {math.floor(exact)} rows it is not quite as narrow."),
            (math.ceil(1.96 * spread / half**2), f"{case} 1.96 is squared as well: (1.96 / half) ** 2."),
            (math.ceil(spread / half**2), f"{case} 1.96 is missing: that is one standard error, not 95 %."),
            (math.ceil(1.96**2 * math.sqrt(spread) / half**2), f"{case} no root is left: share * (1 - share) as it is."),
            (math.ceil(1.96**2 * spread / half), f"{case} half is squared: twice as narrow takes four times the rows."),
            (math.ceil(1.96**2 * share / half**2), f"{case} share * (1 - share), not the share alone."),
            (math.ceil(1.96**2 * 0.25 / half**2), f"{case} you take 0.25 for any share; share * (1 - share) is less."),
            (math.ceil(4 * exact), f"{case} half is half the interval's width already: do not halve it again."),
        )
        got = rows_for(share, half)
        wrong_value(got, math.ceil(exact), mistakes, f"{case} it takes {math.ceil(exact)} rows; you return {got}.")


ENOUGH_GAIN = 0.05  # of the last doubling of the labels, to go on labelling
NEXT = {  # (lowest, highest, goal, agreement, gain): (what the rule says, why)
    (0.84, 0.93, 0.80, 0.97, 0.02): ("stop", "The whole interval, from 0.84 on, lies above the goal of 0.80."),
    (0.60, 0.72, 0.80, 0.95, 0.09): ("label", "The whole interval is below the goal, and the last doubling gave 9 points."),
    (0.60, 0.72, 0.80, 0.95, 0.01): ("change", "Below the goal, and the last doubling gave next to nothing."),
    (0.74, 0.90, 0.80, 0.95, 0.09): ("test rows", "The goal of 0.80 lies within the interval: nobody knows yet."),
    (0.60, 0.72, 0.90, 0.85, 0.09): ("guide", "Two readers agree on 0.85 only; a goal of 0.90 cannot even be measured."),
    (0.91, 0.99, 0.90, 0.85, 0.09): (
        "guide",
        "A score above what readers agree on is not to be believed: the guide comes first.",
    ),
    (0.60, 0.72, 0.80, 0.95, 0.05): ("label", "5 points are enough to go on labelling: gain >= 0.05."),
    (0.80, 0.90, 0.80, 0.95, 0.09): ("stop", "The lowest value is the goal itself: that is reached."),
    (0.60, 0.80, 0.80, 0.95, 0.01): ("test rows", "The highest value is the goal itself: it may be reached."),
    (0.86, 0.95, 0.85, 0.85, 0.00): ("stop", "Readers agree as often as the goal asks for: that is enough."),
}


def by_the_rule(low: float, high: float, goal: float, agreement: float, gain: float) -> str:
    """What to do next by the rule of lesson 07; all numbers are shares from 0 to 1.

    `low` and `high` are the ends of the best score's interval, `agreement` how often two readings agree, `gain` what the
    last doubling of the labels brought.
    """
    if agreement < goal:
        return "guide"
    if low >= goal:
        return "stop"
    if high >= goal:
        return "test rows"
    return "label" if gain >= ENOUGH_GAIN else "change"


def _next_step(next_step):
    names = "guide, stop, test rows, label, change"
    for (low, high, goal, agreement, gain), (want, because) in NEXT.items():
        got = next_step(low, high, goal, agreement, gain)
        case = f"low {low}, high {high}, goal {goal}, agreement {agreement}, gain {gain}"
        known = f"{got!r} is none of the five words: {names}." if got not in names.split(", ") else ""
        wrong_value(got, want, (), f"{known or because} For {case} it is {want!r}; you return {got!r}.", str.__eq__)


EXERCISES = (
    Exercise(
        "07.settle",
        "labels",
        """
# for each message its label: absence, collection, health, money, lost, teacher or enquiry
labels = {"A": ..., "B": ..., "C": ..., "D": ..., "E": ..., "F": ..., "G": ...}
""",
        ('"collection"', '"money"', '"teacher"', '"health"', '"absence"', '"enquiry"', '"lost"'),
        partial(wrong_choice, best=LABELS),
        (
            "Read the rulings of GUIDE.md once more, and ask: what must be done first, and by whom?",
            "A and E both name a dentist, and have different labels. Each of the seven labels stands once.",
        ),
        "and if you had doubts, you know why a guide has rulings.",
        function=False,
    ),
    Exercise(
        "07.kappa",
        "kappa",
        '''
def kappa(first, second):
    """Cohen's kappa of two lists of labels: how far two readers agree beyond chance."""
    n = len(first)
    seen = sum(a == b for a, b in zip(first, second, strict=True)) / n
    chance = sum((first.count(label) / n) * ... for label in set(first))
    return ...
''',
        ("(second.count(label) / n)", "(seen - chance) / (1 - chance)"),
        _kappa,
        (
            "The chance that both write `money` by habit: the first one's share of money times the second one's.",
            "seen - chance is what is better than habit. The best that could be is 1 - chance.",
            "return (seen - chance) / (1 - chance)",
        ),
        "1 is perfect, 0 is what habit alone gives, and below 0 is worse than that.",
        returns="number",
    ),
    Exercise(
        "07.rows",
        "rows_for",
        '''
import math


def rows_for(share, half):
    """Test rows until a score of about `share` is known to plus or minus `half`, 95 times in 100."""
    return math.ceil(...)
''',
        ("1.96**2 * share * (1 - share) / half**2",),
        _rows_for,
        (
            "Half the width is 1.96 standard errors, and the standard error of a share is sqrt(share * (1 - share) / n).",
            "Put half = 1.96 * sqrt(share * (1 - share) / n), square both sides, and solve it for n.",
        ),
        "twice as sure costs four times the rows: that is why test rows are worth as much as training rows.",
        returns="whole number",
    ),
    Exercise(
        "07.stop",
        "next_step",
        '''
def next_step(low, high, goal, agreement, gain):
    """One of "guide", "stop", "test rows", "label" and "change"; all numbers are from 0 to 1."""
    if agreement < goal:
        return "guide"
    if goal <= ...:
        return "stop"
    if goal <= ...:
        return "test rows"
    return "label" if gain >= ... else "change"
''',
        ("low", "high", "0.05"),
        _next_step,
        (
            "low and high are the ends of the interval. To be sure that the goal is reached, even low must reach it.",
            "After `stop`, the goal lies above low. It lies within the interval if high still reaches it.",
            "The third is the least gain for which the rule goes on labelling: 5 points, as a share.",
        ),
        "five words and four comparisons, and no evening is lost on one more training.",
        returns="text",
    ),
)
