"""Lesson 02b, which tool: the nearest row, labels from logits, what electricity costs, the choice, what to settle first."""

from __future__ import annotations

from functools import partial

import numpy as np

from ftkit.course.exercise import Exercise, wrong_choice, wrong_set, wrong_value


def _same(got, want):
    return got == want


def _answer_of_nearest(answer_of_nearest):
    for likeness, answers in (
        ([0.1, 0.7, 0.3], ["book", "cancel", "menu"]),
        ([0.9, 0.2], ["order", "visit"]),
        ([0.0, 0.4, 0.4, 0.1], ["praise", "event", "billing", "other"]),
    ):
        got = answer_of_nearest(list(likeness), list(answers))
        asked = f"With the likenesses {likeness} and the answers {answers} you return {got!r}"
        best = answers[int(np.argmax(likeness))]
        mistakes = (
            (answers[int(np.argmin(likeness))], f"{asked}. That row is the least like the message."),
            (max(answers), f"{asked}, the last by the alphabet. The likeness decides."),
            (
                answers[len(likeness) - 1 - int(np.argmax(likeness[::-1]))],
                f"{asked}. Two are equally like it: the first counts.",
            ),
        )
        wrong_value(got, best, mistakes, f"{asked}; the likeness is largest at {best!r}.", same=_same)


def _likeliest(likeliest):
    cases = (
        ([[5.0, -1.0, 0.5], [0.1, 0.2, 3.0]], ["book", "cancel", "menu"]),
        ([[-5.0, -2.0], [-1.0, -3.0], [-4.0, -0.5]], ["order", "visit"]),
    )
    for rows, names in cases:
        logits = np.array(rows)
        got = likeliest(logits.copy(), list(names))
        places = logits.argmax(axis=1)
        down = [names[place] for place in logits.argmax(axis=0) if place < len(names)]
        mistakes = (
            (places.tolist(), f"{got} are places. The names stand at these places: names[place]."),
            (down, f"{got}: you looked down the columns. Each row is a message, so look along it: axis=1."),
            (
                logits.argmax(axis=0).tolist(),
                "You looked down the columns. Each row is a message, so look along it: axis=1.",
            ),
            ([names[place] for place in logits.argmin(axis=1)], f"{got} have the smallest logits."),
            (logits.max(axis=1).tolist(), "Those are the largest logits themselves. Their places are wanted first: argmax."),
            ([names[places[0]]], "That is one name. Every message needs its own."),
        )
        want = [names[place] for place in places]
        wrong_value(got, want, mistakes, f"For the logits {rows} it is {want}; you return {got}.", same=_same)


def _euros(euros):
    for seconds, watts, price in ((3600, 1000, 0.3), (90_000, 40, 0.25), (488, 300, 0.4)):
        got = euros(seconds, watts, price)
        asked = f"{watts} watts for {seconds:,} seconds at {price} euros a kilowatt-hour"
        watt_hours = seconds / 3600 * watts
        mistakes = (
            (watt_hours * price, f"{asked}: your answer is a thousand times too high. The price is for 1,000 watt-hours."),
            (seconds * watts / 1000 * price, f"{asked}: the price is for an hour, and an hour has 3,600 seconds."),
            (
                seconds / 60 * watts / 1000 * price,
                f"{asked}: you divide by 60, which gives minutes. An hour has 3,600 seconds.",
            ),
            (watt_hours / 1000, f"{asked}: that is the energy in kilowatt-hours. Times the price, it is euros."),
            (watt_hours / 1000 / price, f"{asked}: the price is multiplied with, not divided by."),
        )
        want = watt_hours / 1000 * price
        wrong_value(got, want, mistakes, f"{asked} cost {want:.4f} euros; you return {got}.")


TOOLS = {
    "an order number, always CP and six digits": (
        "rules",
        "The form is fixed. One regular expression is exact, free and can be read.",
    ),
    "a rented large model answers well when told, 20 messages a day": (
        "prompt",
        "It works as it is, and 20 answers a day cost little. There is nothing to train.",
    ),
    "questions on a handbook that changes every week": (
        "retrieval",
        "What changes weekly must be looked up. Training would teach last week's text.",
    ),
    "one of 12 labels, 1,500 labelled rows, 50,000 messages a day": (
        "encoder",
        "Only a label is asked for. The encoder gives one, many times faster than a model that writes.",
    ),
    "a ticket with six fields, 1,500 rows, one small GPU, a large base": (
        "QLoRA",
        "A ticket has to be written, there are rows to learn from, and a large base fits a small GPU in 4 bits alone.",
    ),
    "the same ticket, a small base, room for all of it, each point counts": (
        "full fine-tuning",
        "Where the memory is there, training all weights writes more right tickets.",
    ),
}

FACTS = {
    "a": ("The base's licence says research only, and the desk is a business.", True),
    "b": ("Allergies tell of health. A ground in law for using them has to be written down first.", True),
    "c": ("Apache-2.0 allows business use as long as licence and notices are kept, and they are.", False),
    "d": ("The service's terms decide whether a model may be trained on its answers, and they forbid it.", True),
    "e": ("Invented messages given out under CC0 are nobody's data.", False),
    "f": ("Who asks for deletion must be found. Without ids nobody can find her rows in the copy.", True),
    "g": ("A person between model and guest is a protection that the project has, not one that it lacks.", False),
}


EXERCISES = (
    Exercise(
        "02b.nearest",
        "answer_of_nearest",
        '''
def answer_of_nearest(likeness, answers):
    """The answer of the known message that is most like the new one; of equals the first counts."""
    return ...
''',
        ("answers[int(np.argmax(likeness))]",),
        _answer_of_nearest,
        (
            "Two steps: at which place is the likeness largest, and which answer stands there?",
            "np.argmax(likeness) is that place; of equals it takes the first.",
        ),
        "that is all of it: nothing was trained, and the answer is somebody else's.",
        returns="text",
    ),
    Exercise(
        "02b.likeliest",
        "likeliest",
        '''
def likeliest(logits, names):
    """For each message the name with the largest logit. `logits`: an array [messages, names]."""
    return ...
''',
        ("[names[place] for place in np.argmax(logits, axis=1)]",),
        _likeliest,
        (
            "One row of logits belongs to one message: look along the row for the largest.",
            "np.argmax(logits, axis=1) gives a place for each message; names[place] is what stands there.",
        ),
        "a softmax would not change the order, so it is not needed for this.",
        returns="list",
    ),
    Exercise(
        "02b.euros",
        "euros",
        '''
def euros(seconds, watts, price):
    """What the electricity for some seconds costs; `price` is in euros a kilowatt-hour."""
    return ...
''',
        ("seconds / 3600 * watts / 1000 * price",),
        _euros,
        (
            "Seconds to hours, watts to kilowatts, then times the price.",
            "A kilowatt-hour is 1,000 watts for 3,600 seconds.",
        ),
        "energy is time times power; everything else is units.",
        returns="number",
    ),
    Exercise(
        "02b.tool",
        "tool",
        """
# "rules", "prompt", "retrieval", "encoder", "QLoRA" or "full fine-tuning": each once
tool = {
    "an order number, always CP and six digits": ...,
    "a rented large model answers well when told, 20 messages a day": ...,
    "questions on a handbook that changes every week": ...,
    "one of 12 labels, 1,500 labelled rows, 50,000 messages a day": ...,
    "a ticket with six fields, 1,500 rows, one small GPU, a large base": ...,
    "the same ticket, a small base, room for all of it, each point counts": ...,
}
""",
        ('"rules"', '"prompt"', '"retrieval"', '"encoder"', '"QLoRA"', '"full fine-tuning"'),
        partial(wrong_choice, best=TOOLS),
        (
            "Ask in this order: is the form fixed? Does it work untrained? Does the content change? Is a label enough?",
            "Three of the six train something. Only two of those write.",
        ),
        "the simplest tool that is enough; the table says what enough is.",
        function=False,
    ),
    Exercise(
        "02b.settle",
        "settle_first",
        """
# the letters of what has to be settled before a single row is trained on
settle_first = ...
""",
        ('{"a", "b", "d", "f"}',),
        partial(
            wrong_set,
            table=FACTS,
            too_many="({0}) is settled. {1}",
            missing="{0} missing. Ask of each: whose is it, did they agree, and could it be undone?",
        ),
        (
            "A licence can allow the use, forbid it, or ask for a condition. Which facts are of which kind?",
            "Four have to be settled: one is about the base, one about the labels, two about the guests.",
        ),
        "none of these four shows in any score.",
        function=False,
    ),
)
