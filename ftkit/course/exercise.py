"""Exercises that check themselves (every lesson)."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ftkit.course.progress import note, solved_now

RIGHT, WRONG, NOT_ATTEMPTED = "right", "not yet", "not attempted"
WIDTH = 100  # characters a line of text takes at most


class Wrong(Exception):
    """A wrong answer. The text is about this mistake, written to the learner."""


class NotAttempted(Exception):
    """The placeholder `...` is still in the answer."""


def wrong_if(mistake: Any, sentence: str) -> None:
    """For the checks in `lessons/` and `labs/`: raise `Wrong` with a sentence about the mistake if it was made."""
    if mistake:
        raise Wrong(sentence)


def wrong_choice(answer: Any, best: dict[str, tuple[str, str]]) -> None:
    """For exercises of judgement: `answer` must name the best choice for each case; `best` holds it with its reason."""
    names = {choice for choice, _ in best.values()}
    choices = ", ".join(sorted(names))
    wrong_if(not isinstance(answer, dict), f"Keep the dictionary; replace each ... by one of: {choices}.")
    for case, (choice, because) in best.items():
        wrong_if(case not in answer, f"{case!r} is missing from the dictionary.")
        wrong_if(answer[case] not in list(names), f"{case!r}: write one of {choices}; not {answer[case]!r}.")
        wrong_if(answer[case] != choice, f'{case!r}: not "{answer[case]}". {because}')


def wrong_set(answer: Any, table: dict[str, tuple[str, bool]], too_many: str, missing: str, what: str = "letters") -> None:
    """For exercises whose answer is a set of names: `table` holds a reason for each, and whether it belongs to the set.

    `too_many` is filled with a name and its reason, `missing` with how many are missing, the first of them and its reason.
    """
    first, second, *_ = table
    wrong_if(isinstance(answer, str), f'Write a set of {what}, such as {{"{first}", "{second}"}}.')
    chosen = {str(name) for name in answer}
    strange = sorted(chosen - set(table))
    wrong_if(strange, f"{strange[:1]} is none of the {what} {', '.join(table)}.")
    for name, (reason, belongs) in table.items():
        wrong_if(name in chosen and not belongs, too_many.format(name, reason))
    left = [(name, reason) for name, (reason, belongs) in table.items() if belongs and name not in chosen]
    if left:
        raise Wrong(missing.format(len(left), *left[0]))


@dataclass
class Exercise:
    """One exercise: what the learner is given (`start`, with `...` in it), how an answer is judged, hints, a solution.

    `check` gets the answer and calls `wrong_if`; functions are called on fresh inputs. `answer` is the name that the
    notebook's cell gives to the answer.
    """

    key: str  # lesson and name, as in "02.mask"
    answer: str
    start: str
    solved_by: str | tuple[str, ...]  # the whole solution, or what takes the place of each `...`
    judged_by: Callable[[Any], None]
    hints: tuple[str, ...]
    praise: str = ""
    function: bool = True  # whether the answer is a function (else a value)
    hinted: int = field(default=0, repr=False)

    @property
    def name(self) -> str:
        """Its name within the lesson."""
        return self.key.split(".")[1]

    @property
    def solution_code(self) -> str:
        """The source of one solution."""
        if isinstance(self.solved_by, str):
            return self.solved_by
        return "".join(code + fill for code, fill in zip(self.start.split("..."), (*self.solved_by, ""), strict=True))

    def cell(self, solved: bool = False) -> str:
        """The source of its notebook cell, as handed out or with the solution filled in."""
        code = (self.solution_code if solved else self.start).strip("\n")
        gap = "\n\n\n" if code.splitlines()[-1].startswith(" ") else "\n\n"
        return f"{code}{gap}q.{self.name}.check({self.answer})"

    def judge(self, answer: Any) -> tuple[str, str]:
        """(RIGHT, WRONG or NOT_ATTEMPTED; what to tell the learner). Never raises, whatever the answer is."""
        try:
            if _unfinished(answer):
                raise NotAttempted
            if callable(answer) != self.function:
                needs = f"the function itself: q.{self.name}.check({self.answer})" if self.function else "a value"
                raise Wrong(f"This check needs {needs}. It got {'a function' if callable(answer) else _short(answer)}.")
            self.judged_by(_guarded(answer) if self.function else copy.deepcopy(answer))
        except NotAttempted:
            return NOT_ATTEMPTED, "put your code or your answer in the place of the `...`, then run the cell again."
        except Wrong as wrong:
            return WRONG, str(wrong)
        except Exception as error:  # an answer of a form that the check did not foresee
            return WRONG, f"The check could not read this answer ({type(error).__name__}: {error}). Look at its form again."
        return RIGHT, self.praise

    def check(self, answer: Any) -> None:
        """Judge an answer, print the verdict, and note it in the progress file."""
        state, sentence = self.judge(answer)
        say(f"{state.capitalize()}: {sentence}" if sentence else f"{state.capitalize()}.")
        if state == WRONG and self.hinted < len(self.hints):
            print(f"A hint: q.{self.name}.hint()")
        if state != NOT_ATTEMPTED:
            note("exercises", self.key, lambda past: {"tries": past.get("tries", 0) + 1, **solved_now(past, state == RIGHT)})

    def hint(self) -> None:
        """Print the next hint; each says more than the one before."""
        number = min(self.hinted, len(self.hints) - 1)
        say(f"Hint {number + 1} of {len(self.hints)}: {self.hints[number]}")
        self.hinted = number + 1
        note("exercises", self.key, lambda past: {"hints": max(past.get("hints", 0), self.hinted)})

    def solution(self) -> None:
        """Print one solution; others may be as good."""
        print(self.solution_code.strip("\n"))
        note("exercises", self.key, lambda past: {"solution_seen": True})


class Exercises:
    """The exercises of a lesson by their names: `q = exercises("02")`, then `q.mask.check(mask)`."""

    def __init__(self, lesson: str, members: tuple[Exercise, ...]):
        self._lesson, self._all = lesson, {exercise.name: copy.copy(exercise) for exercise in members}

    def __getattr__(self, name: str) -> Exercise:
        if name.startswith("_") or name not in self._all:
            raise AttributeError(f"Lesson {self._lesson} has no exercise {name!r}. It has {', '.join(self._all)}.")
        return self._all[name]

    def __dir__(self) -> list[str]:
        return list(self._all)

    def __iter__(self) -> Iterator[Exercise]:
        return iter(self._all.values())

    def __repr__(self) -> str:
        return f"Lesson {self._lesson}, {len(self._all)} exercises: {', '.join(self._all)}"


# --- helpers ---


def _unfinished(value: Any) -> bool:
    """Whether a placeholder is in a value: `...` itself, or anywhere in a list, tuple, set or dict."""
    if isinstance(value, dict):
        return any(map(_unfinished, [*value, *value.values()]))
    return value is ... or (isinstance(value, list | tuple | set) and any(map(_unfinished, value)))


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The learner's function, called with copies; its error becomes `Wrong`, a `...` in it `NotAttempted`."""

    def call(*arguments: Any) -> Any:
        try:
            result = function(*copy.deepcopy(arguments))
        except Exception as error:
            if "ellipsis" in str(error).lower():
                raise NotAttempted from None
            inputs = ", ".join(map(_short, arguments))
            raise Wrong(f"Called with {inputs}, it stopped: {type(error).__name__}: {error}") from None
        if _unfinished(result):
            raise NotAttempted
        return result

    return call


def _short(value: Any, length: int = 60) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def say(text: str) -> None:
    """Print a text with its lines broken at `WIDTH`."""
    print("\n".join(textwrap.fill(line, WIDTH) for line in text.splitlines()))
