"""Lab "Always better?": the luck of training, too little data, and what a fine-tuning costs elsewhere."""

from __future__ import annotations

import math
import operator
import statistics
from functools import partial

from ftkit.course.exercise import Exercise, wrong_choice, wrong_value


def _luck(luck):
    for scores in ((0.5, 0.52, 0.55, 0.47, 0.51), (0.8, 0.8, 0.8), (0.1, 0.3)):
        deviation, root = statistics.stdev(scores), math.sqrt(2)
        got, want = luck(list(scores)), 2 * root * deviation
        mistakes = (
            (deviation, "That is the spread of one training. The gap is between two, both with luck."),
            (
                2 * root * statistics.pstdev(scores),
                "Nearly: from a few seeds the spread is estimated with n - 1, as statistics.stdev does it.",
            ),
            (2 * deviation, "Twice the spread of one training. For two of them, times the root of 2."),
            (
                4 * deviation,
                "Spreads of two trainings add up like the sides of a right angle: times the root of 2, not times 2.",
            ),
            (root * deviation, "That is the spread of a gap. Luck goes up to twice that: keep the last line as it was."),
            (
                2 * root * statistics.variance(scores),
                "That is the variance. Its root is the standard deviation: statistics.stdev.",
            ),
            (
                max(scores) - min(scores),
                "From the best to the worst, that grows with the number of seeds. Take statistics.stdev.",
            ),
        )
        wrong_value(got, want, mistakes, f"For {list(scores)} the gap is {want:.4f}; you return {got:.4f}.")


def _net(net):
    for before, after, want in (
        ([1, 1, 1, 0, 0], [1, 0, 0, 1, 0], (2, 1)),
        ([1, 1, 0, 0], [1, 0, 1, 0], (1, 1)),
        ([1, 1, 1, 1], [0, 0, 1, 1], (2, 0)),
        ([0, 0, 1], [1, 1, 1], (0, 2)),
    ):
        mistakes = (
            ((want[1], want[0]), "The two are swapped: forgotten is what was right before and is wrong now."),
            (
                (sum(before) - sum(after), 0),
                "The difference of the sums hides what went both ways. Count the questions one by one.",
            ),
            (
                (len(before) - sum(before), len(after) - sum(after)),
                "Those are how many were wrong before and after. Count what changed, question by question.",
            ),
            (
                (sum(before), sum(after)),
                "Those are how many were right before and after. Count what changed, question by question.",
            ),
        )
        got = net(before, after)
        wrong_value(got, want, mistakes, f"For {before} and then {after} it is {want}; you return {got}.", operator.eq)


TUNE = ("fine-tune", "Many good examples, a fixed form, and a base that does not get there when it is asked.")
PROMPT = (
    "ask the base better",
    "Try the cheap thing first: instructions and a few examples in the prompt need no training.",
)
CLASSIFIER = (
    "a plain classifier",
    "For a label out of a few, try TF-IDF with logistic regression first: it takes a second.",
)
LOOK_UP = ("look it up", "What changes every day belongs in a search whose result is put into the prompt.")
NEEDS = {
    "2,000 checked examples; whole tickets wanted; few-shot prompting gets almost none right": TUNE,
    "15 examples; the base gets most of them right if it is told the format": PROMPT,
    "800 messages with one of three labels, nothing else wanted": CLASSIFIER,
    "answers about today's menu and today's free tables": LOOK_UP,
}


EXERCISES = (
    Exercise(
        "better_results.luck",
        "luck",
        '''
def luck(scores):
    """A gap of two single trainings that luck seldom exceeds; `scores`: one training, several seeds."""
    import statistics

    spread_of_one = ...
    spread_of_a_gap = ...
    return 2 * spread_of_a_gap
''',
        ("statistics.stdev(scores)", "2**0.5 * spread_of_one"),
        _luck,
        (
            "The spread of one training is the standard deviation of its scores: statistics.stdev.",
            "A gap is the difference of two scores, each with its own luck: variances add up, so the spread grows by the root of 2.",
        ),
        "a smaller gap between two single trainings says next to nothing.",
        returns="number",
    ),
    Exercise(
        "better_results.net",
        "net",
        '''
def net(before, after):
    """How many questions were forgotten and how many learned; lists of 0 and 1, question by question."""
    forgotten = ...
    learned = ...
    return forgotten, learned
''',
        (
            "sum(old > new for old, new in zip(before, after, strict=True))",
            "sum(new > old for old, new in zip(before, after, strict=True))",
        ),
        _net,
        (
            "Go through both lists at once: zip(before, after).",
            "A question was forgotten if it was right (1) before and is wrong (0) after.",
        ),
        "two models with the same score may know different things.",
        returns="two numbers",
    ),
    Exercise(
        "better_results.decide",
        "decide",
        """
# what would you do: "fine-tune", "ask the base better", "a plain classifier" or "look it up"?
decide = {
    "2,000 checked examples; whole tickets wanted; few-shot prompting gets almost none right": ...,
    "15 examples; the base gets most of them right if it is told the format": ...,
    "800 messages with one of three labels, nothing else wanted": ...,
    "answers about today's menu and today's free tables": ...,
}
""",
        ('"fine-tune"', '"ask the base better"', '"a plain classifier"', '"look it up"'),
        partial(wrong_choice, best=NEEDS),
        (
            "Ask for each: are there enough examples? Is the answer a label or a text? Does it change?",
            "The cheapest thing that does it is the right one.",
        ),
        "not fine-tuning is often the better engineering.",
        function=False,
    ),
)
