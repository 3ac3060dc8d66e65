"""Lesson 04, evaluation: scores, intervals, paired comparison, reading errors, what to do next."""

from __future__ import annotations

from functools import partial

from ftkit.course.exercise import Exercise, wrong_choice, wrong_if, wrong_value
from ftkit.course.forms import near


def _same_ticket(same_ticket):
    target = {"intent": "book", "guests": None, "allergens": ["eggs"]}
    wrong_if(
        not same_ticket('{"intent": "book", "guests": null, "allergens": ["eggs"]}', target),
        "A ticket that was written as json.dumps writes it counts as wrong. json.loads(text) gives the ticket behind the text.",
    )
    wrong_if(
        not same_ticket('{"intent":"book","guests":null,"allergens":["eggs"]}', target),
        "The same ticket without spaces counts as wrong. Compare tickets, not texts: json.loads(text) == target.",
    )
    wrong_if(
        not same_ticket('{"guests":null,"allergens":["eggs"],"intent":"book"}', target),
        "The same ticket with its keys in another order counts as wrong. Two dictionaries are equal in whatever order.",
    )
    for text, sentence in (
        ('{"intent":"menu","guests":null,"allergens":["eggs"]}', "A ticket with another intent counts as right."),
        ('{"intent":"book","allergens":["eggs"]}', "A ticket without guests counts as right: a missing field is an error."),
        (
            '{"intent":"book","guests":null,"allergens":["eggs"],"note":""}',
            "A ticket with a field too many counts as right.",
        ),
        ('{"intent":"book","guests":null,"allergens":["fish"]}', "Only some of the values are compared: allergens differ."),
    ):
        wrong_if(same_ticket(text, target), sentence)
    four = {"intent": "book", "guests": 4, "allergens": []}
    wrong_if(same_ticket('{"intent":"book","guests":"4","allergens":[]}', four), 'The text "4" is not the number 4.')
    wrong_if(same_ticket("A table for four, gladly!", four), "A text that is no JSON counts as right.")


def _same_shares(one, other):
    return all(other[name] is not None and near(one[name], other[name]) for name in other)


def _field_shares(field_shares):
    targets = [{"intent": "book", "day": None}, {"intent": "menu", "day": "friday"}]
    cases = (
        ([{"intent": "book", "day": None}, {"intent": "menu", "day": "friday"}], (1.0, 1.0), "All fields are right here."),
        (
            [{"intent": "book", "day": "today"}, {"intent": "menu", "day": "friday"}],
            (1.0, 0.5),
            "One day of two is wrong here.",
        ),
        (
            [{"intent": "book"}, {"intent": "menu", "day": "friday"}],
            (1.0, 0.5),
            "A field that is missing counts as right where null is wanted: .get() gives None for both. Ask `name in answer` too.",
        ),
        (
            [None, {"intent": "menu", "day": "friday"}],
            (0.5, 0.5),
            "One of two answers could not be read: that is wrong in every field, and still one of two.",
        ),
        ([None, None], (0.0, 0.0), "Nothing could be read: every share is 0."),
    )
    for answers, (intent, day), sentence in cases:
        got = field_shares(answers, targets)
        wrong_if(
            set(got) != {"intent", "day"}, f"Every field of the targets needs its share; you give {sorted(map(str, got))}."
        )
        numbers = all(isinstance(value, int | float) for value in got.values())
        wrong_if(not numbers, f"Each share is a number from 0 to 1; you return {got}.")
        want = {"intent": intent, "day": day}
        counts = {name: len(targets) if answers == targets else None for name in want}
        percent = {name: 100 * share for name, share in want.items()}
        wrong_value(
            got,
            want,
            (
                (counts, "Those are counts; a share is a count divided by the number of targets."),
                (percent, "Those are per cent; a share goes from 0 to 1."),
            ),
            f"{sentence} For {answers} it should be {want}; you return {got}.",
            _same_shares,
        )


def _noting(seed):
    """A random generator of numpy that keeps in `drawn` how `choice` was called: (how many, with replacement)."""
    import numpy as np

    class Generator(np.random.Generator):
        def __init__(self, bits):
            super().__init__(bits)
            self.drawn: list[tuple] = []

        def __deepcopy__(self, memo):
            return self

        def choice(self, a, size=None, replace=True, *more, **others):
            self.drawn += [(size, replace)] if (size, replace) not in self.drawn else []
            return super().choice(a, size, replace, *more, **others)

    return Generator(np.random.PCG64(seed))


def _resamples(drawn, number):
    """Tell of resamples that were drawn without replacement, or that do not hold as many scores as there are."""
    for size, replace in drawn:
        wrong_if(
            not replace,
            "You draw without replacement, so a resample has each score once at most. Leave out replace=False.",
        )
        sizes = size if isinstance(size, tuple | list) else (size,)
        wrong_if(
            size is not None and number not in sizes and number * 1000 not in sizes,
            f"A resample should hold as many scores as there are: size=len(scores), here {number}. Yours has size={size}; "
            "1,000 is how many resamples are drawn.",
        )


def _bootstrap(bootstrap):
    import numpy as np

    ratios, left = [], []
    for seed in range(6):
        scores = np.random.default_rng(100 + seed).random(40).tolist()
        rng = _noting(seed)
        low, high = bootstrap(scores, rng)
        draws = np.random.default_rng(7).choice(scores, size=(4000, 40)).mean(axis=1)
        wrong_if(low > high, "The interval is upside down: low first, then high.")
        wrong_if(
            min(scores) > low or high > max(scores),
            f"The interval goes from {low:.3g} to {high:.3g}, where no mean of these scores can lie: "
            f"they go from {min(scores):.3g} to {max(scores):.3g}.",
        )
        _resamples(rng.drawn, len(scores))
        wrong_if(
            high - low < 1e-9, "All resamples have the same mean: draw each anew, with replacement, as rng.choice does it."
        )
        wrong_if(
            high < np.mean(scores),
            "Both bounds lie below the mean. np.percentile counts in per cent: 2.5 is 2.5 %, and 0.025 is next to nothing.",
        )
        wrong_if(not low < np.mean(scores) < high, "The interval does not hold the mean of the scores itself.")
        left.append((100 * float(np.mean(draws < low)), 100 * float(np.mean(draws > high))))
        ratios.append((high - low) / float(np.ptp(np.percentile(draws, [2.5, 97.5]))))
    wide, (below, above) = float(np.mean(ratios)), np.mean(left, axis=0)
    wrong_if(
        wide > 2, "That is where single scores lie. Take the mean of each resample; the percentiles are of those means."
    )
    wrong_if(
        abs(below - above) > 1.5,
        f"About {below:.0f} % of the means lie below your interval and {above:.0f} % above it. "
        "The middle 95 % leaves out 2.5 % at each end.",
    )
    wrong_if(
        0.78 < wide < 0.92,
        "That is an interval of 90 %: 5 % are left out at each end. For 95 % leave out 2.5 % at each end.",
    )
    wrong_if(
        abs(wide - 1) > 0.07,
        f"Your intervals are {wide:.2f} times as wide as they should be: about {below:.1f} % of the means lie below, "
        f"{above:.1f} % above. The middle 95 % leaves out 2.5 % at each end.",
    )


def _better_worse(better_worse):
    for first, second in (
        ([False, True, False, True, True], [True, True, False, False, True]),
        ([False, False, False, True], [True, True, False, True]),
        ([True, True, True, False], [False, False, True, False]),
        ([True, False], [True, False]),
    ):
        better = sum(b and not a for a, b in zip(first, second, strict=True))
        worse = sum(a and not b for a, b in zip(first, second, strict=True))
        got = better_worse(first, second)
        if got == (better, worse):
            continue
        wrong_if(got == (worse, better), "The wrong way round: better is where only the second is right.")
        wrong_if(
            got == (sum(second), sum(first)),
            "Those are how many each got right. Messages that both got right, or both wrong, tell nothing: leave them out.",
        )
        wrong_if(
            got == (sum(second), len(second) - sum(second)),
            "You looked at the second model alone. Better means: the second is right where the first is wrong.",
        )
        wrong_if(
            got == (max(0, better - worse), max(0, worse - better)),
            "That is the balance of the two. Count both: 10 better and 9 worse is another finding than 1 and 0.",
        )
        wrong_if(True, f"For {first} and {second} it is {(better, worse)}; you return {got}.")


CONCLUDE = {
    "A": ("better", "The whole interval lies above zero: a gain, of 2 points or more."),
    "B": ("open", "Zero lies in the interval, and so does a gain of 7 points: neither is shown. More messages would tell."),
    "C": ("equal", "Zero lies in it too, but here the interval is so narrow that no difference above 1 point is left."),
    "D": (
        "better",
        "That each model's own interval overlaps the other's says nothing here; the paired difference does, and it "
        "lies above zero.",
    ),
    "E": ("open", "Two messages more of ten: with no true difference at all such a result is common."),
}


# Six errors as a desk like this one makes them: message, field, what the label says, what the model answered.
ERRORS = {
    "a": ("Friday at 7, six of us. One can't have sesame, one can't have eggs. Dilys", "allergens", ["eggs", "sesame"],
          ["sesame", "eggs"]),
    "b": ("a table tonight at 8 for me, my two sisters and both their husbands pls", "guests", 5, 3),
    "c": ("Sunday lunch at 1, there'll be seventeen of us. Can you fit us in?", "intent", "book", "event"),
    "d": ("Would you move our eight o'clock to twenty to nine? Mosley", "time", "20:40", "20:00"),
    "e": ("You've charged my card twice for Thursday's dinner. Once was plenty.", "intent", "complaint", "billing"),
    "f": ("Can we still come on Saturday if it snows? Two of us", "day", "saturday", "Saturday"),
}  # fmt: skip
CURES = {
    "a": ("rule", "Both lists name the same two; only their order differs, and a rule can sort it."),
    "b": ("examples", "The family has to be counted: no rule can do that, and the label is right."),
    "c": ("label", "More than 12 people are an event, by the guide: the model is right and the label is wrong."),
    "d": ("examples", "Times in words have to be learned, and of two times the new one counts. The label is right."),
    "e": ("label", "Only the money is wrong, and that is billing, by the guide. The model is right."),
    "f": ("rule", "What is meant is beyond doubt, a capital apart: a rule can write it small."),
}


STEPS = {
    "validation loss has risen for three checkpoints, training loss still falls": (
        "earlier checkpoint",
        "From there on it learned its examples by heart. The checkpoint before the rise is the one to keep.",
    ),
    "both losses still fall at the last step": ("train longer", "Nothing says that it has learned what it can yet."),
    "each doubling of the examples gave 6 points more, the last one too": (
        "more examples",
        "The curve has not bent: the next doubling will most likely help as well.",
    ),
    "of 30 errors read, 18 had a wrong label": (
        "mend labels",
        "Most errors are not the model's. More of such labels would teach it the same mistakes.",
    ),
    "twice the examples: no detectable difference; the score is above what was asked for": (
        "stop",
        "It does what it was made for, and neither data nor steps move it any more.",
    ),
}


EXERCISES = (
    Exercise(
        "04.same",
        "same_ticket",
        '''
def same_ticket(text, target):
    """Whether a model's text is the right ticket; spaces and the order of keys make no difference."""
    try:
        ticket = ...
    except ValueError:  # the text is no JSON
        return False
    return ...
''',
        ("json.loads(text)", "ticket == target"),
        _same_ticket,
        (
            "json.loads(text) makes Python's dictionary of a text, and raises a ValueError where that fails.",
            "Two dictionaries are compared with ==, and the order of their keys does not count.",
        ),
        "form is forgiven, content is not.",
        returns="truth",
    ),
    Exercise(
        "04.fields",
        "field_shares",
        '''
def field_shares(answers, targets):
    """{field: share of the answers that are right in it}; an answer that could not be read is None."""
    shares = {}
    for name in targets[0]:
        right = [... for answer, target in zip(answers, targets, strict=True)]
        shares[name] = sum(right) / len(targets)
    return shares
''',
        '''
def field_shares(answers, targets):
    """{field: share of the answers that are right in it}; an answer that could not be read is None."""
    shares = {}
    for name in targets[0]:
        right = [
            answer is not None and name in answer and answer[name] == target[name]
            for answer, target in zip(answers, targets, strict=True)
        ]
        shares[name] = sum(right) / len(targets)
    return shares
''',
        _field_shares,
        (
            "For one pair: is answer[name] equal to target[name]? True counts as 1 in a sum.",
            "Two things come before that: the answer may be None, and the field may be missing from it.",
            "answer is not None and name in answer and answer[name] == target[name]",
        ),
        "what cannot be read, and what is missing, counts as wrong and still counts.",
        returns="dictionary",
    ),
    Exercise(
        "04.bootstrap",
        "bootstrap",
        '''
def bootstrap(scores, rng):
    """(low, high): the middle 95 % of 1,000 means, each of a resample drawn with replacement."""
    means = [... for _ in range(1000)]
    low, high = np.percentile(means, [..., ...])
    return low, high
''',
        ("rng.choice(scores, size=len(scores)).mean()", "2.5", "97.5"),
        _bootstrap,
        (
            "rng.choice(scores, size=len(scores)) draws one resample, with replacement; .mean() is its mean.",
            "The middle 95 % leaves out as much at the low end as at the high end: half of 5 % each.",
        ),
        "without a formula, for any score that can be computed.",
        returns="two numbers",
    ),
    Exercise(
        "04.paired",
        "better_worse",
        '''
def better_worse(first, second):
    """(better, worse): messages that only the second model, and that only the first model, got right."""
    pairs = list(zip(first, second, strict=True))
    better = ...
    worse = ...
    return better, worse
''',
        ("sum(b and not a for a, b in pairs)", "sum(a and not b for a, b in pairs)"),
        _better_worse,
        (
            "Each pair is (first, second), two values that are True or False. When does only the second get it right?",
            "sum(condition for a, b in pairs) counts the pairs for which the condition holds; `b and not a` is one.",
        ),
        "these two counts are all that the test needs.",
        returns="two numbers",
    ),
    Exercise(
        "04.conclude",
        "conclusions",
        """
# for each finding: "better", "equal" (within 1 point) or "open" (not shown either way)
conclusions = {"A": ..., "B": ..., "C": ..., "D": ..., "E": ...}
""",
        ('"better"', '"open"', '"equal"', '"better"', '"open"'),
        partial(wrong_choice, best=CONCLUDE),
        (
            "Ask of each interval of the difference: does it hold zero? Does it hold differences that would matter?",
            "Two are better, two are open, one is equal.",
            "C and B both hold zero. Which of them also holds a difference that you would care about?",
        ),
        "no detectable difference and no difference are two findings.",
        function=False,
    ),
    Exercise(
        "04.errors",
        "cures",
        """
# what would cure each error: a "rule" after the model, more "examples", or a mended "label"
cures = {"a": ..., "b": ..., "c": ..., "d": ..., "e": ..., "f": ...}
""",
        ('"rule"', '"examples"', '"label"', '"examples"', '"label"', '"rule"'),
        partial(wrong_choice, best=CURES),
        (
            "First ask who is wrong: read the message with the guide's rules above, then the label.",
            "Where the model is wrong: is only the form wrong (a rule), or what it says (examples)?",
            "There are two of each.",
        ),
        "only two of these six are a matter of more training data.",
        function=False,
    ),
    Exercise(
        "04.next_step",
        "next_steps",
        """
# "earlier checkpoint", "train longer", "more examples", "mend labels" or "stop": each once
next_steps = {
    "validation loss has risen for three checkpoints, training loss still falls": ...,
    "both losses still fall at the last step": ...,
    "each doubling of the examples gave 6 points more, the last one too": ...,
    "of 30 errors read, 18 had a wrong label": ...,
    "twice the examples: no detectable difference; the score is above what was asked for": ...,
}
""",
        ('"earlier checkpoint"', '"train longer"', '"more examples"', '"mend labels"', '"stop"'),
        partial(wrong_choice, best=STEPS),
        (
            "Each of the five is used once. Two of the findings are about steps, three about data.",
            "Where validation loss rises, the model has begun to learn its examples by heart.",
        ),
        "the finding decides, not the wish for one more run.",
        function=False,
    ),
)
