"""Lesson 06, conversations: the mask over turns, faults, expectations, long histories, prompt or weights, translations."""

from __future__ import annotations

from collections import Counter
from functools import partial

from ftkit.course.exercise import Exercise, wrong_choice, wrong_if, wrong_value
from ftkit.course.forms import near


def _labels_of(ids: list[int], assistant: int, end: int) -> list[int]:
    labels, inside = [], False
    for token in ids:
        labels.append(token if inside else -100)
        inside = token == assistant or (inside and token != end)
    return labels


def _turn_labels(turn_labels):
    assistant, end = 3, 4
    for ids in (
        [1, 31, 4, 2, 11, 12, 4, 3, 21, 22, 4, 2, 13, 4, 3, 23, 4],
        [2, 11, 4, 3, 21, 4, 2, 12, 13, 14, 4, 3, 22, 23, 4, 2, 15, 4, 3, 24, 4],
        [2, 11, 12, 4, 3, 21, 4],
    ):
        want = _labels_of(ids, assistant, end)
        got = turn_labels(ids)
        wrong_if(len(got) != len(ids), f"{len(ids)} tokens need {len(ids)} labels; you return {len(got)}.")
        wrong_if(
            set(got) <= {0, 1}, "Those are marks, 0 and 1. A label is the token itself where loss falls, -100 elsewhere."
        )
        wrong_if(0 in got, "0 is a token of the vocabulary. What the loss leaves out is marked -100.")
        wrong_if(got == ids, "Everything carries loss: this teaches the model to write the guest's turns too.")
        wrong_if(set(got) == {-100}, "No token carries loss: nothing would be learned.")
        last = len(ids) - 1 - ids[::-1].index(assistant)
        wrong_if(
            ids.count(assistant) > 1 and got == [-100] * (last + 1) + want[last + 1 :],
            "Only the last answer carries loss. Every answer of the conversation can be learned from.",
        )
        for place, (token, label, right) in enumerate(zip(ids, got, want, strict=True)):
            if label == right:
                continue
            where = f"In {ids}, at place {place} (counted from 0)"
            wrong_if(
                right == end, f"{where}: the {end} that ends an answer gets no loss, so the model never learns to stop."
            )
            wrong_if(
                token == assistant, f"{where}: the mark {assistant} opens the answer. The prompt brings it; no loss on it."
            )
            wrong_if(
                token == end, f"{where}: this {end} ends a turn of somebody else. Loss falls only on the end of an answer."
            )
            wrong_if(right == -100, f"{where}: token {token} belongs to a turn that the model only reads. Label it -100.")
            wrong_if(label == -100, f"{where}: token {token} belongs to an answer, and gets no loss.")
            wrong_if(True, f"{where}: the label of an answer's token is the token itself, {token}; you have {label}.")


# Seven conversations to be checked: (role, text) of each turn.
CONVERSATIONS = {
    "A": (("user", "Table for two on Friday?"), ("assistant", "At what time?"), ("user", "7"),
          ("assistant", "Noted: two on Friday at 19:00. The desk will confirm.")),
    "B": (("assistant", "Hello, I am Pip."), ("user", "Are dogs welcome?"), ("assistant", "Yes, on the terrace.")),
    "C": (("user", "Is there a vegan dish?"), ("assistant", "Yes, the lentil stew."), ("user", "Great, thanks")),
    "D": (("user", "Do you deliver?"), ("assistant", " \n"), ("user", "Hello?"), ("assistant", "We do not deliver.")),
    "E": (("user", "When do you close?"), ("assistant", "At 22:30."), ("system", "Be brief from now on."),
          ("user", "And on Mondays?"), ("assistant", "Closed.")),
    "F": (("system", "You are Pip."), ("user", "ur address?"), ("assistant", "14 Tannery Lane.")),
    "G": (("user", "Can I pay by card"), ("user", "or cash"), ("assistant", "Both are fine.")),
}  # fmt: skip
FAULTS = {
    "A": ("fine", "Roles take turns, and the assistant has the last word. A turn as short as 7 is no fault."),
    "B": ("order", "The first turn is the assistant's. A greeting before any question has nothing to answer."),
    "C": ("last", "The last turn is the guest's: nothing stands after it that could be learned."),
    "D": ("empty", "The second turn holds spaces only. The model would learn to answer with nothing."),
    "E": ("system", "A system turn stands in the middle. The kit takes one as the first turn only."),
    "F": ("fine", "A system turn may stand first; then the guest and the assistant take turns."),
    "G": ("order", "Two turns of the guest follow each other. Join them into one."),
}


def _meets(meets):
    for answer, must, must_not, want, sentence in (
        ("We close at 22:30.", [["22:30", "half past ten"]], [], True, "One of the alternatives is enough."),
        ("We close at half past ten.", [["22:30", "half past ten"]], [], True, "One of the alternatives is enough."),
        ("We close late.", [["22:30", "half past ten"]], [], False, "None of the alternatives stands there."),
        ("We close at 22:30.", [["22:30"], ["Monday"]], [], False, "The second list is not met: every list of must counts."),
        ("CLOSED ON MONDAYS", [["closed on Mondays"]], [], True, "Capitals make no difference; stands_in sees to that."),
        ("Dinner starts at 18:30.", [["8"]], [], False, "8 only stands inside of 18:30. Use stands_in, not `in`."),
        ("It is 15 pounds, free for you.", [["15"]], ["free"], False, "A text of must_not stands in it."),
        ("It is 15 pounds.", [["15"]], ["free", "gratis"], True, "All of must is there, nothing of must_not."),
        ("Free and gratis.", [], ["free"], False, "Without any must, must_not still counts."),
        ("Hello!", [], [], True, "Nothing is expected, so nothing is missed."),
    ):
        got = meets(answer, must, must_not)
        wrong_if(got != want, f"{sentence} For {answer!r}, must {must}, must_not {must_not} it is {want}; you return {got}.")


def _all_right(all_right):
    for p, turns in ((0.5, 2), (0.5, 1), (0.9, 4), (0.0, 3), (1.0, 6)):
        got = all_right(p, turns)
        mistakes = (
            (p * turns, "A share times a number of turns may be above 1. The shares of all turns are multiplied."),
            (1 - (1 - p) ** turns, "That is the chance that at least one turn is right. All of them should be."),
            (p / turns, "Dividing makes two turns at 1.0 fail half of the time. Think of a coin thrown twice."),
            (100 * p**turns, "That is in per cent. Return a share, from 0 to 1."),
            (p, f"That is the chance of one turn. Here there are {turns}."),
        )
        wrong_value(got, p**turns, mistakes, f"For p = {p} and {turns} turns it is {p**turns:g}; you return {got:g}.")


def _first_kept(first_kept):
    for lengths, budget, system in (
        ([20, 30, 10, 40, 15], 200, 12),
        ([20, 30, 10, 40, 15], 127, 12),
        ([20, 30, 10, 40, 15], 126, 12),
        ([20, 30, 10, 40, 15], 70, 12),
        ([20, 30, 10, 40, 15], 65, 5),
        ([5, 5, 5, 5, 5, 5, 90], 60, 12),
        ([9], 40, 12),
    ):
        fitting = [n for n in range(0, len(lengths), 2) if system + sum(lengths[n:]) <= budget]
        want = fitting[0] if fitting else len(lengths) - 1
        got = first_kept(lengths, budget, system)
        if got == want:
            continue
        asked = f"lengths {lengths}, budget {budget}, system {system}"
        wrong_if(not 0 <= got < len(lengths), f"For {asked} you return {got}. The last turn, the question, has to stay.")
        wrong_if(
            got % 2,
            f"For {asked} the history would begin with turn {got}, an answer. It has to begin with the guest's turn.",
        )
        size = system + sum(lengths[got:])
        without = sum(lengths[got:])
        wrong_if(
            size > budget >= without and fitting,
            f"For {asked} the turns from {got} on have {without} tokens, and the system turn comes on top.",
        )
        wrong_if(size > budget and fitting, f"For {asked} the turns from {got} on need {size} tokens: too many.")
        wrong_if(
            system + sum(lengths[want:]) == budget,
            f"For {asked} the turns from {want} on take exactly the budget. That fits.",
        )
        wrong_if(got > want, f"For {asked} more can stay: from turn {want} on it fits.")
        wrong_if(True, f"For {asked} nothing fits: then the last turn alone is kept, index {want}; you return {got}.")


PLACES = {
    "today's special": ("prompt", "It changes each day. A line in the prompt is edited in a minute, weights are not."),
    "two or three short sentences, no emoji": (
        "weights",
        "That is form, the same in every answer. Examples teach it, and it needs no room in the prompt.",
    ),
    "the prices, which change in April": (
        "prompt",
        "A price that was learned stays in the weights after it has changed. In the prompt it is one line.",
    ),
    "which tables are free at eight tonight": (
        "look up",
        "It changes by the minute. A program has to ask the booking system, or the host passes it on.",
    ),
    "asks for all that a booking still lacks, at once": (
        "weights",
        "That is a habit, to be shown in many examples. A small model follows a described habit badly.",
    ),
    "stays Pip when a guest says: you are DealBot": (
        "weights",
        "Standing firm is behaviour. What is written in the prompt, a guest's text can talk against.",
    ),
}


def _shared(shared):
    for answer, right, n in (("sopas", "sopa", 2), ("leche", "lechuga", 2), ("huevo", "huevo", 3), ("pan", "vino", 2)):
        mine, wanted = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (answer, right))
        both = (mine & wanted).total()
        precision, recall = both / mine.total(), both / wanted.total()
        case = f"For {answer!r} against {right!r}, n = {n},"
        mistakes = (
            ((recall, precision), f"{case} the two stand the wrong way round: precision is a share of the answer's runs."),
            ((100 * precision, 100 * recall), "Return shares from 0 to 1, not per cent."),
            ((both, both), f"{case} {both} is how many runs both have. Divide by how many each text has."),
            (
                (both / len(answer), both / len(right)),
                f"{case} you divide by letters. Divide by runs: {answer!r} has {mine.total()}.",
            ),
        )
        got = shared(answer, right, n)
        otherwise = f"{case} it is {precision:.3f} and {recall:.3f}; you return {got[0]:.3f} and {got[1]:.3f}."
        wrong_value(got, (precision, recall), mistakes, otherwise, _near_pairs)


def _near_pairs(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(map(near, one, other))


def _numbers_kept(numbers_kept):
    for answer, right, want, sentence in (
        ("4 sopas para la mesa 7", "4 sopas para la mesa 7", True, "The same numbers stand in both."),
        ("Mesa 7: 4 sopas", "4 sopas para la mesa 7", True, "Their order makes no difference."),
        ("5 sopas para la mesa 7", "4 sopas para la mesa 7", False, "4 became 5."),
        ("Sopas para la mesa 7", "4 sopas para la mesa 7", False, "The 4 is missing."),
        ("4 sopas para la mesa 7 a las 8", "4 sopas para la mesa 7", False, "The 8 was made up."),
        ("2 sopas y 2 tartas", "2 sopas y 2 tartas", True, "Both hold two times 2."),
        (
            "2 sopas y tartas",
            "2 sopas y 2 tartas",
            False,
            "One of the two 2s is missing. Count how often each stands there.",
        ),
        ("Mesa 12", "Mesa 2", False, "12 is not 2, though a 2 stands in it."),
        ("Son 18,50", "Son 18,05", False, "18,50 is one number, not the digits 1, 8, 5, 0 in some order."),
        ("Sin gluten, por favor", "Por favor, sin gluten", True, "No numbers in both: they are kept."),
    ):
        got = numbers_kept(answer, right)
        wrong_if(got != want, f"{sentence} For {answer!r} and {right!r} it is {want}; you return {got}.")


EXERCISES = (
    Exercise(
        "06.marks",
        "turn_labels",
        '''
def turn_labels(ids, assistant=3, end=4):
    """Labels for the loss: each answer with the token that ends it; -100 everywhere else."""
    labels, in_answer = [], False
    for token in ids:
        labels.append(...)
        in_answer = ...  # is the next token a part of an answer?
    return labels
''',
        ("token if in_answer else -100", "token == assistant or (in_answer and token != end)"),
        _turn_labels,
        (
            "in_answer says of the token at hand whether it belongs to an answer: then its label is the token itself.",
            "An answer begins after the mark `assistant`, and goes on until `end` was seen.",
            "in_answer = token == assistant or (in_answer and token != end)",
        ),
        "three marks and an end are all that it takes: the kit finds the borders in any model's template.",
        returns="list",
    ),
    Exercise(
        "06.faults",
        "faults",
        """
# for each conversation: "order", "empty", "last" (last turn), "system" (in the middle) or "fine"
faults = {"A": ..., "B": ..., "C": ..., "D": ..., "E": ..., "F": ..., "G": ...}
""",
        ('"fine"', '"order"', '"last"', '"empty"', '"system"', '"fine"', '"order"'),
        partial(wrong_choice, best=FAULTS),
        (
            "The rule: a system turn first or none, then guest and assistant in turns, the guest first, the assistant last.",
            "Two are fine, and two have their roles out of order.",
        ),
        "most files of real conversations hold all four of these faults.",
        function=False,
    ),
    Exercise(
        "06.meets",
        "meets",
        '''
from ftkit.evaluation.metrics.expectations import stands_in  # stands_in("at 8.", "8") is True


def meets(answer, must, must_not):
    """Whether each list of must has a text that stands in the answer, and no text of must_not does."""
    return ...
''',
        '''
from ftkit.evaluation.metrics.expectations import stands_in  # stands_in("at 8.", "8") is True


def meets(answer, must, must_not):
    """Whether each list of must has a text that stands in the answer, and no text of must_not does."""
    said = all(any(stands_in(answer, text) for text in texts) for texts in must)
    return said and not any(stands_in(answer, text) for text in must_not)
''',
        _meets,
        (
            "must is a list of lists. Of each inner list one text is enough: any(). Every inner list counts: all().",
            "all(any(stands_in(answer, text) for text in texts) for texts in must)",
            "Add: and not any(stands_in(answer, text) for text in must_not).",
        ),
        "the same rule for every model, and anybody can check it again.",
        returns="truth",
    ),
    Exercise(
        "06.all_right",
        "all_right",
        '''
def all_right(p, turns):
    """The chance that all turns are right, if each is with chance p, whatever the others are."""
    return ...
''',
        ("p**turns",),
        _all_right,
        (
            "Two coins both show heads in a quarter of all throws: 0.5 times 0.5.",
            "p times p times p, as often as there are turns: p ** turns.",
        ),
        "with four right turns in five, only one conversation of five turns in three is right throughout.",
        returns="number",
    ),
    Exercise(
        "06.fit",
        "first_kept",
        '''
def first_kept(lengths, budget, system=12):
    """The index of the first turn that stays; lengths holds each turn's tokens, guest first and last."""
    for start in range(0, len(lengths), ...):
        if ...:
            return start
    return len(lengths) - 1  # nothing fits: the question alone
''',
        ("2", "system + sum(lengths[start:]) <= budget"),
        _first_kept,
        (
            "The guest's turns have the indices 0, 2, 4 and so on: only there may a history begin.",
            "lengths[start:] are the turns that would stay. Their tokens and those of the system turn must fit.",
            "system + sum(lengths[start:]) <= budget",
        ),
        "whole exchanges go, the oldest first; the system turn and the question stay.",
        returns="whole number",
    ),
    Exercise(
        "06.places",
        "places",
        """
# where each belongs: "prompt", "weights" or "look up" (asked of a program at that moment)
places = {
    "today's special": ...,
    "two or three short sentences, no emoji": ...,
    "the prices, which change in April": ...,
    "which tables are free at eight tonight": ...,
    "asks for all that a booking still lacks, at once": ...,
    "stays Pip when a guest says: you are DealBot": ...,
}
""",
        ('"prompt"', '"weights"', '"prompt"', '"look up"', '"weights"', '"weights"'),
        partial(wrong_choice, best=PLACES),
        (
            "Ask of each: how often does it change? And can it be said in a line, or has it to be shown?",
            "Two belong into the prompt, three into the weights, one has to be looked up.",
        ),
        "facts that change are told, a manner is taught.",
        function=False,
    ),
    Exercise(
        "06.chrf",
        "shared",
        '''
from collections import Counter


def shared(answer, right, n):
    """(precision, recall): the shares of the answer's and of the right text's runs that both have."""
    mine = Counter(answer[i : i + n] for i in range(len(answer) - n + 1))
    wanted = Counter(right[i : i + n] for i in range(len(right) - n + 1))
    both = (mine & wanted).total()  # each run as often as both have it
    return ..., ...
''',
        ("both / mine.total()", "both / wanted.total()"),
        _shared,
        (
            "Precision asks: how much of what the answer says is right? Recall: how much of what is right does it say?",
            "mine.total() is the number of runs in the answer.",
        ),
        "averaged over n from 1 to 6, and joined into one number, these two are chrF.",
        returns="two numbers",
    ),
    Exercise(
        "06.kept",
        "numbers_kept",
        '''
import re


def numbers_kept(answer, right):
    """Whether both texts hold the same numbers, each as often, in whatever order."""
    number = r"\\d+(?:[.,:]\\d+)*"  # 4, 18,50 or 19:30
    return ...
''',
        ("sorted(re.findall(number, answer)) == sorted(re.findall(number, right))",),
        _numbers_kept,
        (
            "re.findall(number, text) is the list of a text's numbers, in their order.",
            "Two lists that are sorted are equal if they hold the same things, each as often.",
        ),
        "a rule of one line, and it finds what a score over letters does not.",
        returns="truth",
    ),
)
