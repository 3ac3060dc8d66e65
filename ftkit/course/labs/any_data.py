"""Lab "Will any data do?": wrong labels, other tasks' examples, less data, leaked tests."""

from __future__ import annotations

from functools import partial

from ftkit.course.exercise import Exercise, wrong_choice, wrong_if, wrong_value


def _made_up(n):
    intents = ("book", "cancel", "praise")
    return [{"message": f"message {i}", "ticket": {"intent": intents[i % 3], "guests": i}} for i in range(n)]


def _spoil(spoil):
    for n, share in ((40, 0.5), (40, 0.25), (30, 0.1), (12, 0.0)):
        rows = _made_up(n)
        got = spoil(rows, share, 3)
        wrong_if(len(got) != n, f"Return a list of {n} rows, as many as were given; yours has {len(got)}.")
        wrong_if(
            any(not isinstance(row.get("ticket"), dict) for row in got),
            'Each row keeps a message and a ticket, and the ticket is a dictionary: {**rows[i], "ticket": another ticket}.',
        )
        wrong_if(
            any("message" in row["ticket"] for row in got),
            'Some got a whole row as their ticket. Collect row["ticket"], not row.',
        )
        wrong_if(
            [row.get("message") for row in got] != [row["message"] for row in rows],
            "The messages, and their order, should stay; only tickets change.",
        )
        wrong = [i for i in range(n) if got[i]["ticket"] != rows[i]["ticket"]]
        same = [i for i in wrong if got[i]["ticket"].get("intent") == rows[i]["ticket"]["intent"]]
        wrong_if(same, "Some got a ticket of the same intent, which may be nearly right. Take one of another intent.")
        want = round(share * n)
        wrong_if(
            len(wrong) != want,
            f"With share {share:g} of {n} rows, {want} tickets should be wrong; with yours {len(wrong)} are.",
        )
        wrong_if(
            any(row["ticket"] not in [other["ticket"] for other in rows] for row in got),
            "A ticket was made up. Take another row's: then every ticket by itself is a good one.",
        )
        wrong_if(spoil(rows, share, 3) != got, "Twice with the same seed should give twice the same: random.Random(seed).")
    wrong_if(
        spoil(_made_up(40), 0.5, 4) == spoil(_made_up(40), 0.5, 3),
        "Another seed should spoil other rows.",
    )


def _worth(worth):
    for clean, noisy, equal, want in ((80, 80, 100, 0.25), (80, 80, 80, 0.0), (120, 40, 100, -0.5), (80, 80, 160, 1.0)):
        got = worth(clean, noisy, equal)
        mistakes = (
            (
                equal / (clean + noisy),
                "That shares the worth out over all rows. The clean ones are worth one each; the rest is the noisy ones' doing.",
            ),
            (equal - clean, "That is what all noisy rows are worth together. Divide it by how many there are."),
            ((clean - equal) / noisy, "Upside down: the noisy rows help where `equal` is more than `clean`."),
            ((equal - clean) / clean, "You divided by the clean rows; the noisy ones did that work."),
        )
        otherwise = f"{clean} clean and {noisy} noisy rows that do what {equal} clean ones do: a noisy one is worth {want:g}"
        wrong_value(got, want, mistakes, f"{otherwise} clean ones; you return {got:g}.")


LABELS = (
    "wrong labels",
    "What is learned from one row is denied by the next, so the loss stays high; reading rows shows it.",
)
OTHER = ("another task's rows", "It learned its lesson well; it was another lesson.")
LEAK = ("a leak", "Good where the answers were seen, and not where they were not.")
FEW = ("too few rows", "It knows its rows, and there were not enough of them to tell what they have in common.")
SUSPECTS = {
    "loss low, and every answer is a well-formed label for a parcel": OTHER,
    "excellent on the validation split, middling on last week's messages": LEAK,
    "the training loss stays well above a clean set's, and rows read by hand contradict each other": LABELS,
    "perfect on the training rows, poor on new ones, and more rows help at once": FEW,
}


EXERCISES = (
    Exercise(
        "any_data.spoil",
        "spoil",
        '''
def spoil(rows, share, seed):
    """The rows (message, ticket); a share of them gets the ticket of a row of another intent."""
    import random

    rng = random.Random(seed)
    chosen = rng.sample(range(len(rows)), round(share * len(rows)))
    spoiled = list(rows)
    for i in chosen:
        others = ...
        spoiled[i] = {**rows[i], "ticket": rng.choice(others)}
    return spoiled
''',
        ('[row["ticket"] for row in rows if row["ticket"]["intent"] != rows[i]["ticket"]["intent"]]',),
        _spoil,
        (
            "`others` is a list of tickets: those of the rows whose intent differs from that of row i.",
            '[row["ticket"] for row in rows if row["ticket"]["intent"] != ...]',
        ),
        "every message is real and every ticket is a good one; only that they belong together is no longer true.",
        returns="rows",
    ),
    Exercise(
        "any_data.worth",
        "worth",
        '''
def worth(clean, noisy, equal):
    """What a noisy row is worth if `clean` and `noisy` rows together do what `equal` clean ones do."""
    return ...
''',
        ("(equal - clean) / noisy",),
        _worth,
        (
            "The clean rows among them are worth one each.",
            "What is left of `equal` after that is the work of all noisy rows together.",
            "(equal - clean) / noisy",
        ),
        "below 0 means that you would do better without them.",
        returns="number",
    ),
    Exercise(
        "any_data.suspect",
        "suspect",
        """
# which is it: "wrong labels", "another task's rows", "a leak" or "too few rows"?
suspect = {
    "loss low, and every answer is a well-formed label for a parcel": ...,
    "excellent on the validation split, middling on last week's messages": ...,
    "the training loss stays well above a clean set's, and rows read by hand contradict each other": ...,
    "perfect on the training rows, poor on new ones, and more rows help at once": ...,
}
""",
        ('"another task\'s rows"', '"a leak"', '"wrong labels"', '"too few rows"'),
        partial(wrong_choice, best=SUSPECTS),
        (
            "Which of them would a falling loss hide, and which would it show?",
            "A leak can be seen only where the answers were not seen.",
        ),
        "each kind of bad data has a face of its own.",
        function=False,
    ),
)
