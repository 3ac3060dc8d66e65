"""Lesson 02, training data: faults, labels, leakage, splits, prompt and completion, the loss mask, lengths."""

from __future__ import annotations

import json
import math
from functools import partial

from ftkit.course.exercise import Exercise, wrong_choice, wrong_if, wrong_set


def _unusable(unusable):
    for message, sentence in (
        (None, "A message may be None (null in the file): that cannot be read either."),
        ("", 'An empty text, "", cannot be used.'),
        ("  \n", "A text of spaces and line ends only is empty for a reader. Look at text.strip()."),
    ):
        wrong_if(not unusable({"message": message}), sentence)
    for message in ("Table for 2 at 7", "?", " hello "):
        wrong_if(unusable({"message": message}), f"{message!r} is a message; you throw it away.")


def _plain(plain):
    same = (
        ("Table for TWO at 8", "table for two at 8", "Capital letters"),
        ("Table  for two\nat 8", "table for two at 8", "Double spaces and line ends"),
        ("Hello, table for two at 8.", "hello table for two at 8", "Punctuation"),
    )
    for first, second, what in same:
        wrong_if(
            plain(first) != plain(second), f"{what} should make no difference: {first!r} and {second!r} are one message."
        )
    for first, second, what in (
        ("Table for 4", "Table for 5", "the numbers"),
        ("No nuts, please", "No eggs, please", "the words"),
        ("Table at 4 for 7", "Table at 7 for 4", "the order of the words"),
        ("I do not like it", "I do not not like it", "how often a word stands there"),
        ("Nowhere to park", "Now here to park", "the spaces between words"),
    ):
        wrong_if(plain(first) == plain(second), f"Too much thrown away: {first!r} and {second!r} differ in {what}.")


LABELS = {  # what the guide says on six rows of raw.jsonl: (sentence, whether the label is wrong)
    "raw-1101": ("The guest calls places off, nothing is moved: that is a cancellation.", True),
    "raw-1138": ("More than 12 people make an event, by the guide. The label is right.", False),
    "raw-0880": ("Only the money is wrong here; a deposit is billing.", True),
    "raw-1505": ("It is rude, and about nothing but bad service: a complaint, as labelled.", False),
    "raw-0968": ("An idle question about children in the evening; nothing is called off.", True),
    "raw-0923": ("13 people are more than 12: an event, though it says table. The label is right.", False),
}


_mislabelled = partial(
    wrong_set,
    table=LABELS,
    too_many="{0} is labelled well. {1}",
    missing="{0} still hidden. Look at {1} again. {2}",
    what="ids",
)


REPAIRS = {
    "HTML around the text": (
        "mend",
        "Tags can be taken off without touching what the guest wrote, so a rule can do it safely.",
    ),
    'guests written as "4"': (
        "mend",
        'What is meant is beyond doubt: the form alone is wrong, so a rule can turn "4" into 4.',
    ),
    "an empty message": ("drop", "There is nothing to read in it, and nobody can know what the guest wanted."),
    "copied from the test split": ("drop", "Whatever its quality, it must not be trained on, or the test measures memory."),
    "an unlikely label": ("ask", "A simple model only suspects it. Many suspects are right; a person has to read them."),
}


def _without_leaks(without_leaks):
    test = [{"id": "t1", "message": "Table for 2 at 7"}, {"id": "t2", "message": "Is there parking?"}]
    train = [
        {"id": "a", "message": "Table for 2 at 7"},
        {"id": "b", "message": "table for 2 at 7 "},
        {"id": "c", "message": "Table for 3 at 7"},
        {"id": "t2", "message": "My scarf is lost"},
    ]
    rows = without_leaks(train, test)
    ids = [row.get("id") for row in rows]
    wrong_if(
        any(row in test for row in rows),
        "You returned test rows. Those stay as they are: remove the copies from the training rows.",
    )
    wrong_if("a" in ids, "A training row whose message stands in the test split was kept.")
    wrong_if("b" in ids, "'table for 2 at 7 ' was kept: compare messages with plain(), not letter by letter.")
    wrong_if("t2" not in ids, "A row with another message was removed. Compare the messages, not the ids.")
    wrong_if("c" not in ids, "'Table for 3 at 7' was removed, but no test message equals it.")
    wrong_if(without_leaks(train, []) != train, "With an empty test split every training row stays, in its order.")


def _split(split):
    rows = [{"id": n, "message": f"message {n}"} for n in range(40)]
    groups = [n // 4 for n in range(40)]
    for share in (0.25, 0.5):
        got = split(rows, groups, share)
        train, held = ([row.get("id") for row in part] for part in got)
        wrong_if(set(train + held) - set(range(40)), "Return rows as they were given: those of the list `rows`.")
        wrong_if(set(train) & set(held), "Some rows stand in both parts.")
        wrong_if(len(train) + len(held) < len(rows), f"{len(rows)} rows went in, {len(train) + len(held)} came out.")
        across = {groups[n] for n in train} & {groups[n] for n in held}
        wrong_if(across, "A group stands on both sides: its rows are near copies, so the held-out part is no longer new.")
        wrong_if(not held, "The held-out part is empty.")
        wrong_if(
            abs(len(held) / len(rows) - share) > 0.11,
            f"{share:.0%} of the rows should be held out; you hold out {len(held) / len(rows):.0%}.",
        )


def _completion(completion):
    for ticket in (
        {"intent": "menu", "urgency": "normal", "guests": None, "allergens": ["milk", "nuts"]},
        {"intent": "lost_item", "day": "friday", "note": "crème brûlée"},
    ):
        want, got = json.dumps(ticket, ensure_ascii=False, separators=(",", ":")), completion(ticket)
        wrong_if(got == str(ticket), "That is Python's way of writing, with ' and None. JSON has \" and null: json.dumps.")
        wrong_if("\n" in got, "One line, please: no indent.")
        wrong_if("\\u" in got, "crème became cr\\u00e8me: more tokens, and hard to read. Pass ensure_ascii=False.")
        wrong_if(
            got == json.dumps(ticket, ensure_ascii=False),
            'Spaces stand after , and : and each may cost a token. Pass separators=(",", ":").',
        )
        wrong_if(
            got == json.dumps(ticket, ensure_ascii=False, separators=(",", ":"), sort_keys=True) and got != want,
            "The keys are sorted. Keep their order: it is the order in which the model will write.",
        )
        wrong_if(got != want, f"It should be\n{want}\nand you return\n{got}")


def _mask(mask):
    for prompt, completion in (([11, 12, 13], [21, 22, 2]), ([5], [7, 2]), (list(range(30, 38)), [40, 41, 42, 2])):
        want, got = [-100] * len(prompt) + completion, mask(prompt, completion)
        wrong_if(
            got == completion,
            "The labels must be as long as prompt and completion together: one for each token that the model reads.",
        )
        wrong_if(
            got == prompt + completion,
            "Nothing is masked: the model would also be trained to write the guest's message. Put -100 over the prompt.",
        )
        wrong_if(
            got == prompt + [-100] * len(completion),
            "The wrong way round: the loss should fall on the completion, so the prompt gets -100.",
        )
        wrong_if(
            got[: len(prompt)] == [0] * len(prompt),
            "0 is a token of the vocabulary. What the loss leaves out is marked -100.",
        )
        wrong_if(
            got[-1:] == [-100],
            "The last token ends the answer. Without loss on it the model never learns to stop: leave it in.",
        )
        wrong_if(len(got) != len(want), f"{len(want)} tokens need {len(want)} labels; you return {len(got)}.")
        wrong_if(got != want, f"For {prompt} and {completion} the labels are {want}; you return {got}.")


def _room(room):
    for lengths in ([100, 61, 93], [64, 64], [9], [121, 80, 119, 3]):
        want, got = math.ceil(max(lengths) / 8) * 8, room(lengths)
        wrong_if(
            got < max(lengths),
            f"An example of {max(lengths)} tokens would not fit in {got}: its end, the answer, would be cut off.",
        )
        wrong_if(got % 8, f"{got} is no multiple of 8; round up to the next one.")
        wrong_if(
            got == want + 8, f"{max(lengths)} needs {want}; you round up once too often. Try math.ceil(longest / 8) * 8."
        )
        wrong_if(got > want, f"{got} is more than needed: {want} is the smallest multiple of 8 that holds {max(lengths)}.")


PLAIN = Exercise(
    "02.plain",
    "plain",
    '''
def plain(message):
    """A message as it is compared: case, punctuation and the number of spaces make no difference."""
    words = re.findall(r"\\w+", message)
    return ...
''',
    ('" ".join(words).lower()',),
    _plain,
    ("words holds the words without spaces and punctuation.", 'Join them by one space, " ".join(words), and use lower().'),
    "copies are found even where somebody typed them a little differently.",
    returns="text",
)


EXERCISES = (
    Exercise(
        "02.unusable",
        "unusable",
        '''
def unusable(row):
    """Whether a row has no message that could be read."""
    return ...
''',
        '''
def unusable(row):
    """Whether a row has no message that could be read."""
    message = row["message"]
    return message is None or not message.strip()
''',
        _unusable,
        ("Three kinds: None, the empty text, and a text of spaces.", "`not message` is true for None and for an empty text.",
         "text.strip() takes spaces off both ends; what is left of a text of spaces?"),
        "all three kinds are found, and no real message is lost.",
        returns="truth",
    ),
    PLAIN,
    Exercise(
        "02.labels",
        "mislabelled",
        """
# the ids of those of the six rows whose intent is wrong, by the guide
mislabelled = ...
""",
        ('{"raw-1101", "raw-0880", "raw-0968"}',),
        _mislabelled,
        (
            "Two rules of the guide decide three of them: more than 12 people is an event; only the money is wrong is billing.",
            "Three of the six labels are wrong.",
        ),
        "a person with the guide decides; the simple model only said where to look.",
        function=False,
    ),
    Exercise(
        "02.repairs",
        "repairs",
        """
# for each fault: "mend" by a rule, "drop" the row, or "ask" a person
repairs = {
    "HTML around the text": ...,
    'guests written as "4"': ...,
    "an empty message": ...,
    "copied from the test split": ...,
    "an unlikely label": ...,
}
""",
        ('"mend"', '"mend"', '"drop"', '"drop"', '"ask"'),
        partial(wrong_choice, best=REPAIRS),
        (
            "A rule may change the form of a row, never what it says.",
            "Two can be mended, two must go, one needs a reader.",
        ),
        "the same line that the kit's cleaning draws.",
        function=False,
    ),
    Exercise(
        "02.leaks",
        "without_leaks",
        '''
def without_leaks(train, test):
    """The training rows whose message, plainly written, is not in the test split."""
    known = {plain(row["message"]) for row in test}
    return ...
''',
        ('[row for row in train if plain(row["message"]) not in known]',),
        _without_leaks,
        ("Go through train, and keep a row if its message is not known.",
         'The comparison needs plain() on both sides: plain(row["message"]) not in known.'),
        "the test split stays whole, and stays new to the model.",
        returns="rows",
        needs=(PLAIN,),
    ),
    Exercise(
        "02.split",
        "split",
        '''
def split(rows, groups, share):
    """(train, held_out): about `share` of the rows held out, rows of one group never on both sides."""
    names = sorted(set(groups))
    held = set(names[: round(share * len(names))])
    return ..., ...
''',
        '''
def split(rows, groups, share):
    """(train, held_out): about `share` of the rows held out, rows of one group never on both sides."""
    names = sorted(set(groups))
    held = set(names[: round(share * len(names))])
    train = [row for row, group in zip(rows, groups, strict=True) if group not in held]
    return train, [row for row, group in zip(rows, groups, strict=True) if group in held]
''',
        _split,
        (
            "held is the set of groups that go to the held-out part, whole.",
            "zip(rows, groups) gives each row with its group: keep it for training if its group is not in held.",
        ),
        "near copies stay together, so no held-out message is half known.",
        returns="two lists of rows",
    ),
    Exercise(
        "02.completion",
        "completion",
        '''
def completion(ticket):
    """The ticket as the model should write it: JSON on one line, no spaces, letters as they are."""
    return ...
''',
        ('json.dumps(ticket, ensure_ascii=False, separators=(",", ":"))',),
        _completion,
        ("json.dumps(ticket) is nearly it.", "Its argument separators sets what stands between the parts; ensure_ascii=False keeps é."),
        "short, and always written the same way.",
        returns="text",
    ),
    Exercise(
        "02.mask",
        "mask",
        '''
def mask(prompt_ids, completion_ids):
    """Labels for the loss: -100 (left out) over the prompt, the token itself over the completion."""
    return ...
''',
        ("[-100] * len(prompt_ids) + completion_ids",),
        _mask,
        (
            "One label for each token: as many as prompt and completion have together.",
            "[-100] * 3 is [-100, -100, -100]; lists are joined with +.",
        ),
        "the model is trained to write tickets, not guests' messages.",
        returns="list",
    ),
    Exercise(
        "02.room",
        "room",
        '''
def room(lengths):
    """Tokens to allow for each example: the smallest multiple of 8 that cuts none off."""
    return ...
''',
        ("math.ceil(max(lengths) / 8) * 8",),
        _room,
        ("The longest example decides: max(lengths).", "math.ceil(x) is the next whole number: math.ceil(longest / 8) * 8."),
        "nothing is cut, and little is wasted.",
        returns="whole number",
    ),
)  # fmt: skip
