"""Lesson 05, deployment: merging, the model card, streaming, strangers' input, feedback, a request, the roads out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ftkit.course.exercise import Exercise, NotAttempted, stopped, wrong_choice, wrong_if, wrong_set


def _from_how_many(from_how_many):
    for base, adapter in ((273, 10), (100, 50), (100, 60), (100, 90), (15_000, 320)):
        got = from_how_many(base, adapter)
        right = next(tasks for tasks in range(1, 100) if base + tasks * adapter < tasks * base)
        answer = f"With a base of {base:,} MB and adapters of {adapter:,} MB you said {got}."
        wrong_if(
            got == 1 and right > 1,
            f"{answer} One task: base and adapter together are more than one merged model. At how many does that turn?",
        )
        one, other = base + got * adapter, got * base
        wrong_if(
            got < right,
            f"{answer} Base and adapters are then {one:,} MB, merged models {other:,} MB: that is not smaller yet.",
        )
        wrong_if(
            got > right, f"{answer} It is smaller from {got - 1} on already: {one - adapter:,} MB against {other - base:,}."
        )


NOT_FOR = {
    "a": ("A person reads every message, the ticket only helps: that is what it was made for.", False),
    "b": ("Health hangs on a ticket that nobody checks. This is the first thing a card must rule out.", True),
    "c": ("No Polish message was in the training data or in the test: nobody knows what it does there.", True),
    "d": ("Every message is still read within the hour; a wrong order costs some minutes.", False),
    "e": (
        "It learned to write tickets. What that cost elsewhere is measured in lesson 04: questions are not what it is for.",
        True,
    ),
    "f": ("Measuring is what the test split is for, as long as nobody chooses settings by it.", False),
}


_not_for = partial(
    wrong_set,
    table=NOT_FOR,
    too_many="({0}) should not be ruled out. {1}",
    # how many are missing, not which: three tries without a thought should not be enough
    missing="{0} missing, of those to be ruled out. Who looks at the answer, and was it measured for this?",
)


class Pieces:
    """Pieces of an answer as a model would send them, one after the other; `sent` counts how many were asked for."""

    def __init__(self, pieces):
        self.pieces, self.sent = pieces, 0

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        return repr(self.pieces)

    def __iter__(self):
        for piece in self.pieces:
            self.sent += 1
            yield piece


def _growing(growing):
    for pieces in (['{"guests"', ":", "4", "}"], ["Yes"], [], ["a", "", "b "]):
        want = ["".join(pieces[: n + 1]) for n in range(len(pieces))]
        source = Pieces(pieces)
        stream = growing(source)
        wrong_if(
            isinstance(stream, str | list) or not isinstance(stream, Iterator),
            "It comes back when all is over, with everything. A generator gives each text as soon as it has it: yield.",
        )
        got: list[str] = []
        for text in _read(stream, growing.function, pieces):
            if text is ...:
                raise NotAttempted
            wrong_if(
                len(got) == len(pieces), f"{len(pieces)} pieces arrive, and you yield more texts than that: one for each."
            )
            wrong_if(text is None, "You yield nothing (None). Yield the text so far; print() gives nothing back.")
            wrong_if(isinstance(text, list), 'You yield the list of pieces; Gradio shows a text. "".join(...) makes one.')
            got.append(text)
            wrong_if(
                len(got) == 1 and source.sent > 1,
                "You wait for the whole answer before the first text is shown: yield inside the loop.",
            )
        wrong_if(
            got == pieces and got != want, "Gradio shows the last text that you yield, and nothing else: yield all so far."
        )
        wrong_if(
            got == ["".join(pieces)] and len(pieces) > 1,
            "Only the whole answer is shown, at the end: yield inside the loop.",
        )
        wrong_if(got == want[:-1] and want, "The last piece is never shown: add the piece first, then yield.")
        wrong_if(got == ["", *want[:-1]] and want, "You are one piece late: add the piece first, then yield.")
        wrong_if(got != want, f"For the pieces {pieces} it should yield {want}; you yield {got}.")


def _read(stream, function, pieces):
    """Yield what a learner's generator yields; an error in it is told."""
    try:
        yield from stream
    except Exception as error:
        raise stopped(error, function, (pieces,)) from None


def _refusal(refusal):
    for message in ("Table for 2 at 7", "?", "x" * 50, "Is <b>bold</b> fish on? 3 > 2"):
        got = refusal(message, 50)
        wrong_if(
            got is not None and "<" in message,
            "Tags are only text until somebody puts them into a page. That is the page's business: let the message through.",
        )
        wrong_if(got is not None and len(message) == 50, "A message of exactly 50 characters is allowed where `most` is 50.")
        wrong_if(got is not None, f"{message!r} is a message like others; it must be answered, so return None.")
    nothing: tuple[tuple[str | None, str], ...] = (
        ("", "The empty message"),
        (" \n ", "A message of spaces"),
        (None, "None (no message at all)"),
    )
    for unreadable, what in nothing:
        got = refusal(unreadable, 50)
        wrong_if(not (got or "").strip(), f"{what} was let through. Return a sentence.")
    for most in (50, 700):
        long = "Could you squeeze us in? " * most
        got = refusal(long, most)
        wrong_if(got is None, f"A message of {len(long):,} characters was let through where {most} are the most.")
        wrong_if(not got.strip(), "Return a sentence for the visitor.")
        wrong_if(
            long[:most] in got,
            "Your sentence holds the visitor's message, or a part of it. Say what is wrong, do not repeat the text.",
        )
        wrong_if(str(most) not in got, f"Say how many characters are taken ({most}), so that the visitor can mend it.")


ROWS = {
    "a": ("It is new, it holds nobody's data, and the ticket is right by the guide.", True),
    "b": ("This very message stands in the test split. Trained on it, the next measurement is worth nothing.", False),
    "c": ("It holds a name with a telephone number. Mask the number, or leave it out.", False),
    "d": (
        "A guest is delighted, and the ticket says complaint. Whoever sent this made a mistake, or wanted to do harm.",
        False,
    ),
    "e": ("Capital letters and another end do not make it new: it is a copy of a message of the test split.", False),
    "f": ("It is new, it holds nobody's data, and the ticket is right by the guide.", True),
}


_train_on = partial(
    wrong_set,
    table=ROWS,
    too_many="({0}) must not be trained on. {1}",
    missing="{0} missing, of those that would do good: new, nobody's data, and a right ticket. Look again.",
)


def _request(request):
    for system, message, most in (("Write the desk ticket.", "Table for 2 at 7", 56), ("Be brief.", "Are you open?", 12)):
        got = request(system, message, most)
        missing = [name for name in ("model", "messages", "temperature", "max_tokens") if name not in got]
        wrong_if(missing, f"{missing} is missing from the request.")
        turns = got["messages"]
        turns = list(turns) if isinstance(turns, tuple) else turns
        wrong_if(
            not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns),
            'messages is a list of turns, each a dictionary: {"role": "user", "content": message}.',
        )
        want = [{"role": "system", "content": system}, {"role": "user", "content": message}]
        roles = [turn.get("role") for turn in turns]
        wrong_if(
            roles == ["user"],
            "The system prompt is missing. In training it stood before every message; without it the model reads another text.",
        )
        wrong_if(roles == ["user", "system"], "The order is turned round: first the system prompt, then the message.")
        wrong_if(
            "assistant" in roles,
            "The assistant's turn is what the server writes. Send what stands before it: system and user.",
        )
        wrong_if(roles != ["system", "user"], f"Two turns are needed, with the roles system and user; yours are {roles}.")
        wrong_if(turns != want, f"The turns should be {want}; yours are {turns}.")
        wrong_if(
            got["temperature"] != 0,
            "With a temperature above 0 the same message may get another ticket tomorrow, and was not measured so.",
        )
        wrong_if(got["max_tokens"] != most, f"max_tokens should be the run's limit, here {most}.")


ROADS = {
    "a colleague who has the base, and ten tasks": (
        "adapter",
        "ten adapters of a few megabytes share one base; ten merged models would each be a whole model.",
    ),
    "a program that knows transformers, not peft": (
        "merged",
        "it can load an ordinary model folder, nothing else, and lies on the same machine.",
    ),
    "friends who click on a link, next month too": (
        "space",
        "your own machine would have to run for a month; a Space is hosted.",
    ),
    "a laptop with Ollama, no Python": ("ollama", "Ollama needs its Modelfile: template, system prompt, stop tokens."),
    "a web shop that speaks HTTP": ("server", "a program in any language can send a request; it need not load a model."),
}


EXERCISES = (
    Exercise(
        "05.sizes",
        "from_how_many",
        '''
def from_how_many(base, adapter):
    """Number of tasks from which on a base with adapters is smaller than merged models (in MB)."""
    return ...
''',
        '''
def from_how_many(base, adapter):
    """Number of tasks from which on a base with adapters is smaller than merged models (in MB)."""
    tasks = 1
    while base + tasks * adapter >= tasks * base:
        tasks += 1
    return tasks
''',
        _from_how_many,
        (
            "A merged model is as large as the base. What do n tasks take on either road?",
            "One road takes base + n * adapter, the other n * base. Try n = 1, 2, 3 ... until the first is smaller.",
        ),
        "with small adapters the second task decides it; a merged model is for where only one is needed.",
        returns="whole number",
    ),
    Exercise(
        "05.card",
        "not_for",
        """
# which of a to f must the card rule out? Write a set of letters.
not_for = ...
""",
        ('{"b", "c", "e"}',),
        _not_for,
        (
            "Ask of each: does a person still look, and was it measured for this?",
            "Three of the six must be ruled out: one for safety, two because nobody measured it or the measurement was bad.",
        ),
        "a card that rules nothing out is an advertisement.",
        function=False,
    ),
    Exercise(
        "05.stream",
        "growing",
        '''
def growing(pieces):
    """Yield the answer so far, once for each piece that arrives."""
    so_far = []
    for piece in pieces:
        so_far.append(piece)
        yield ...
''',
        ('"".join(so_far)',),
        _growing,
        (
            "Gradio replaces what is shown by what you yield. What must the second text hold?",
            'so_far holds all pieces that have come: "".join(so_far) makes one text of them.',
        ),
        "each text replaces the one before it, and the visitor sees the answer grow.",
    ),
    Exercise(
        "05.limits",
        "refusal",
        '''
def refusal(message, most):
    """A sentence for the visitor where a message cannot be answered, else None. `most`: characters."""
    return ...
''',
        '''
def refusal(message, most):
    """A sentence for the visitor where a message cannot be answered, else None. `most`: characters."""
    if not isinstance(message, str) or not message.strip():
        return "Write a message first."
    if len(message) > most:
        return f"The message has {len(message)} characters, at most {most} are taken. Shorten it."
    return None
''',
        _refusal,
        (
            "Two cases: nothing to read (None, empty, spaces only), and more than `most` characters.",
            "`if not isinstance(message, str) or not message.strip(): return ...` is the first. len(message) gives the length.",
            "Name `most` in the second sentence, and do not repeat the message in it.",
        ),
        "what is refused is refused at once, with a reason, before the model has done any work.",
        returns="text or None",
    ),
    Exercise(
        "05.feedback",
        "train_on",
        """
# which of a to f may the next model be trained on? Write a set of letters.
train_on = ...
""",
        ('{"a", "f"}',),
        _train_on,
        (
            "Three questions for each: is it new, does it hold nobody's data, is the ticket right?",
            "Two of the six are copies of test messages, one holds personal data, one has a wrong label.",
        ),
        "two of six: most of what comes back cannot be used as it is.",
        function=False,
    ),
    Exercise(
        "05.request",
        "request",
        '''
def request(system, message, most):
    """The body of a chat request that asks the served model for a ticket of at most `most` tokens."""
    return {
        "model": "merged",
        "messages": ...,
        "temperature": ...,
        "max_tokens": ...,
    }
''',
        ('[{"role": "system", "content": system}, {"role": "user", "content": message}]', "0", "most"),
        _request,
        (
            'messages is a list of turns, as in lesson 01: {"role": ..., "content": ...}. Which two did training use?',
            "First the system prompt, then the message as the user. A desk wants the same ticket every time: which temperature?",
        ),
        "the server puts the template round it, and the model reads what it read in training.",
        returns="dictionary",
    ),
    Exercise(
        "05.roads",
        "roads",
        """
# for each: "adapter", "merged", "space", "ollama" or "server"
roads = {
    "a colleague who has the base, and ten tasks": ...,
    "a program that knows transformers, not peft": ...,
    "friends who click on a link, next month too": ...,
    "a laptop with Ollama, no Python": ...,
    "a web shop that speaks HTTP": ...,
}
""",
        ('"adapter"', '"merged"', '"space"', '"ollama"', '"server"'),
        partial(wrong_choice, best=ROADS),
        (
            "Each road is used once. Ask what the other side has already: the base, Python, only a browser?",
            "Ten tasks on one base: what is small? A link for a month: whose machine runs?",
        ),
        "all five start from the same run.",
        function=False,
    ),
)
