"""Lesson 00, start here: how exercises and quizzes work."""

from __future__ import annotations

from ftkit.course.exercise import Exercise, wrong_if

STAGES = ["pre-trained model", "training data", "fine-tuning", "evaluation", "deployment"]


def _chairs(chairs):
    for guests in (4, 1, 12):
        got = chairs({"intent": "book", "guests": guests, "day": "friday"})
        wrong_if(got is None, f"For a ticket for {guests} nothing comes back (None). Write `return` before the answer.")
        wrong_if(got == 3, 'You counted the ticket\'s keys. The number of guests stands under the key "guests".')
        wrong_if(got != guests, f"A ticket for {guests} needs {guests} chairs; you return {got!r}.")
    got = chairs({"intent": "menu", "guests": None, "day": None})
    wrong_if(got is None, "For a ticket without a party (guests is None) you return None. No chairs is 0.")
    wrong_if(got != 0, f"For a ticket without a party (guests is None) no chair is needed: 0, not {got!r}.")


def _road(road):
    strange = [name for name in road if name not in STAGES]
    wrong_if(strange, f"{strange[:1]} is not one of the five names. Copy them from the cell as they stand.")
    wrong_if(len(road) != 5 or len(set(road)) != 5, f"There are five stages, each once; your list has {len(road)} entries.")
    place = {name: road.index(name) for name in STAGES}
    wrong_if(
        place["evaluation"] < place["fine-tuning"],
        "You taste before you cook: evaluation measures the tuned model, so it comes after fine-tuning.",
    )
    wrong_if(
        place["deployment"] < place["evaluation"],
        "You serve before you taste: a model is measured before others use it.",
    )
    wrong_if(
        place["training data"] > place["fine-tuning"],
        "Fine-tuning learns from examples, so the training data must be ready before it.",
    )
    wrong_if(road != STAGES, "Not in the order of this course. Look at the picture again: which box stands first?")


EXERCISES = (
    Exercise(
        "00.chairs",
        "chairs",
        '''
def chairs(ticket):
    """Chairs to set for a ticket: the party's size, 0 where the message names none."""
    return ...
''',
        ('ticket["guests"] or 0',),
        _chairs,
        (
            'A ticket is a Python dictionary: ticket["day"] gives its day.',
            'ticket["guests"] may be None: `a or b` gives b where a is None.',
        ),
        "it works for parties of any size, and for messages that name none.",
        returns="whole number or None",
    ),
    Exercise(
        "00.road",
        "road",
        """
# the five stages, out of order: evaluation, pre-trained model, deployment, fine-tuning, training data
road = ...
""",
        ('["pre-trained model", "training data", "fine-tuning", "evaluation", "deployment"]',),
        _road,
        (
            "Think of the chef: skill, ingredients, adapting the recipe, tasting, serving.",
            'The list begins with "pre-trained model" and ends with "deployment".',
        ),
        "that is the road of the course, a lesson for each stage.",
        function=False,
        returns="list",
    ),
)
