"""Lab "Training from scratch?": what pre-trained weights bring, and what they cost."""

from __future__ import annotations

import math
from functools import partial

from ftkit.course.exercise import Exercise, wrong_choice, wrong_value


def _blind_loss(blind_loss):
    for vocabulary in (2, 10, 49152):
        got, want = blind_loss(vocabulary), math.log(vocabulary)
        other = "Another logarithm: the loss of these libraries is in natural logarithms, math.log."
        mistakes = (
            (
                1 / vocabulary,
                f"{got:.3g} is the chance of the right token. The loss is minus the logarithm of that chance.",
            ),
            (-want, "A loss is never below 0: the logarithm of a chance is negative, and the loss is minus that."),
            (math.log2(vocabulary), other),
            (math.log10(vocabulary), other),
            (
                vocabulary,
                "That is the number of tokens. Each has the chance 1 / vocabulary; the loss is minus its logarithm.",
            ),
        )
        otherwise = f"With {vocabulary:,} tokens, all equally likely, it is {want:.3f}; you return {got:.3f}."
        wrong_value(got, want, mistakes, otherwise)


NOTHING = ("nothing yet", "Before and after, it is as surprised as somebody who guesses.")
HEART = ("rows by heart", "What it knows of its own rows does not help with new ones: compare the two losses.")
FORM = ("the form alone", "The answers fit the task, and what stands in them is what is most frequent, not what was asked.")
TASK = ("the task", "New messages surprise it as little as its own rows do.")
KINDS = {
    "loss 10.8 on its rows, 10.8 on new messages": NOTHING,
    "loss 0.02 on its rows, 2.9 on new messages": HEART,
    "JSON always valid, the same ticket for nearly every message": FORM,
    "loss 0.10 on its rows, 0.11 on new messages": TASK,
}


def _years(years):
    def about(one, other):
        return math.isclose(one, other, rel_tol=0.01)

    year = 365 * 24 * 3600
    for tokens, speed in ((year * 100, 40.0), (2e12, 1000.0), (1e9, 250.0)):
        got, want = years(tokens, speed), tokens / speed / year
        mistakes = (
            *(
                (want * factor, f"That is in {unit}. How many of them does a year have?")
                for factor, unit in ((year, "seconds"), (365 * 24 * 60, "minutes"), (365 * 24, "hours"), (365, "days"))
            ),
            (1 / want, "Upside down: tokens divided by tokens a second are seconds."),
            (tokens * speed / year, "Tokens divided by tokens a second are seconds; you multiplied."),
            (int(want), "You cut it down to whole years: divide with /."),
        )
        otherwise = f"{tokens:,.0f} tokens at {speed:g} a second are {want:.3g} years; you return {got:.3g}."
        wrong_value(got, want, mistakes, otherwise, about)


EXERCISES = (
    Exercise(
        "from_scratch.blind",
        "blind_loss",
        '''
def blind_loss(vocabulary):
    """The loss of a model that finds every one of `vocabulary` tokens equally likely."""
    import math

    return ...
''',
        ("math.log(vocabulary)",),
        _blind_loss,
        (
            "What chance does such a model give to the right token?",
            "The loss at a token is minus the natural logarithm of the chance that the right token got.",
            "-math.log(1 / vocabulary) is the same as math.log(vocabulary).",
        ),
        "whoever finds all tokens equally likely has this loss, whatever the text.",
        returns="number",
    ),
    Exercise(
        "from_scratch.learned",
        "learned",
        """
# what has each model learned: "nothing yet", "rows by heart", "the form alone" or "the task"?
learned = {
    "loss 10.8 on its rows, 10.8 on new messages": ...,
    "loss 0.02 on its rows, 2.9 on new messages": ...,
    "JSON always valid, the same ticket for nearly every message": ...,
    "loss 0.10 on its rows, 0.11 on new messages": ...,
}
""",
        ('"nothing yet"', '"rows by heart"', '"the form alone"', '"the task"'),
        partial(wrong_choice, best=KINDS),
        (
            "Compare the loss on rows that it was trained on with that on messages that it never saw.",
            "A form can be learned without what it should hold.",
        ),
        "a small loss on its own rows is not enough; the loss on new messages must be small, too.",
        function=False,
    ),
    Exercise(
        "from_scratch.years",
        "years",
        '''
def years(tokens, per_second):
    """The years that `tokens` tokens take at `per_second` tokens a second, day and night."""
    return ...
''',
        ("tokens / per_second / (365 * 24 * 3600)",),
        _years,
        ("Tokens divided by tokens a second are seconds.", "A year has 365 * 24 * 3600 seconds."),
        "and that is for the smallest model of its family.",
        returns="number",
    ),
)
