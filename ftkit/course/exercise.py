"""Exercises that check themselves (every lesson)."""

from __future__ import annotations

import copy
import io
import sys
import textwrap
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from ftkit.course.forms import OR_NONE, OtherForm, near, plain, read, short
from ftkit.course.progress import note, solved_now

RIGHT, WRONG, NOT_ATTEMPTED = "right", "not yet", "not attempted"
WIDTH = 100  # characters a line of text takes at most
COUNTS = ("None", "One", "Two", "Three", "Four", "Five", "Six")
IN_WORDS = {  # what an error says, for those who have not met it yet
    NameError: "nothing has that name here: run the cells above, or import it in this cell",
    KeyError: "the dictionary has no such key",
    IndexError: "there is no such place in the list",
    ZeroDivisionError: "it divides by 0",
}


class Wrong(Exception):
    """A wrong answer. The text is about this mistake, written to the learner."""


class NotAttempted(Exception):
    """The placeholder `...` is still in the answer."""


def wrong_if(mistake: Any, sentence: str) -> None:
    """For the checks in `lessons/` and `labs/`: raise `Wrong` with a sentence about the mistake if it was made."""
    if mistake:
        raise Wrong(sentence)


def wrong_value(
    got: Any,
    want: Any,
    mistakes: Iterable[tuple[Any, str]],
    otherwise: str,
    same: Callable[[Any, Any], bool] = near,
) -> None:
    """Raise `Wrong` unless `got` is `want`. `mistakes`: what a typical mistake would give, and the sentence about it."""
    if same(got, want):
        return
    for value, sentence in mistakes:
        wrong_if(same(got, value), sentence)
    raise Wrong(otherwise)


def wrong_choice(answer: Any, best: dict[str, tuple[str, str]]) -> None:
    """For exercises of judgement: `answer` must name the best choice for each case; `best` holds it with its reason."""
    names = {choice for choice, _ in best.values()}
    choices = ", ".join(sorted(names))
    wrong_if(not isinstance(answer, Mapping), f"Keep the dictionary; replace each ... by one of: {choices}.")
    answer = plain(answer)
    for case, (choice, because) in best.items():
        wrong_if(case not in answer, f"{case!r} is missing from the dictionary.")
        wrong_if(answer[case] not in list(names), f"{case!r}: write one of {choices}; not {answer[case]!r}.")
        wrong_if(answer[case] != choice, f'{case!r}: not "{answer[case]}". {because}')


def wrong_set(answer: Any, table: dict[str, tuple[str, bool]], too_many: str, missing: str, what: str = "letters") -> None:
    """For exercises whose answer is a set of names: `table` holds a reason for each, and whether it belongs to the set.

    `too_many` is filled with a name and its reason, `missing` with how many are missing ("One is", "Two are"), the first
    of them and its reason. A list or an array of names is as good as a set.
    """
    first, second, *_ = table
    answer = plain(answer)
    form = f'Write a set of {what}, such as {{"{first}", "{second}"}}.'
    wrong_if(isinstance(answer, str) or not isinstance(answer, Collection) or (isinstance(answer, dict) and answer), form)
    chosen = {str(name) for name in answer}
    strange = sorted(chosen - set(table))
    wrong_if(strange, f"{strange[:1]} is none of the {what} {', '.join(table)}.")
    for name, (reason, belongs) in table.items():
        wrong_if(name in chosen and not belongs, too_many.format(name, reason))
    left = [(name, reason) for name, (reason, belongs) in table.items() if belongs and name not in chosen]
    if left:
        raise Wrong(missing.format("One is" if len(left) == 1 else f"{COUNTS[len(left)]} are", *left[0]))


@dataclass
class Exercise:
    """One exercise: what the learner is given (`start`, with `...` in it), how an answer is judged, hints, a solution.

    `judged_by` gets the answer and calls `wrong_if` or its like. Functions are called on fresh inputs; what they return,
    or a value, is read in the form `returns` first. `answer` is the name that the notebook's cell gives to the answer.
    """

    key: str  # lesson and name, as in "02.mask"
    answer: str
    start: str
    solved_by: str | tuple[str, ...]  # the whole solution, or what takes the place of each `...`
    judged_by: Callable[[Any], None]
    hints: tuple[str, ...]
    praise: str = ""
    function: bool = True  # whether the answer is a function (else a value)
    returns: str = "anything"  # the form of the value, or of what the function returns: a name in `forms.FORMS`
    needs: tuple[Exercise, ...] = ()  # earlier exercises whose functions this answer may call
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
        guarded = Guarded(answer, self.returns)
        try:
            if _unfinished(answer):
                raise NotAttempted
            if callable(answer) != self.function:
                needs = f"the function itself: q.{self.name}.check({self.answer})" if self.function else "a value"
                raise Wrong(f"This check needs {needs}. It got {'a function' if callable(answer) else short(answer)}.")
            self.judged_by(guarded if self.function else read(copy.deepcopy(answer), self.returns))
        except NotAttempted:
            return NOT_ATTEMPTED, "put your code or your answer in the place of the `...`, then run the cell again."
        except Wrong as wrong:
            return WRONG, self._unsolved(answer) or ("" if guarded.answered else guarded.only_prints) or str(wrong)
        except OtherForm as other:
            return WRONG, f"The answer should be {other}"
        except Exception:  # a form that the check did not foresee
            return WRONG, self._unsolved(answer) or "This is not of the form that is asked for. Read the first lines again."
        return RIGHT, self.praise

    def _unsolved(self, answer: Any) -> str:
        """A sentence if the answer calls the function of an earlier exercise that is not right yet; else nothing."""
        for earlier in self.needs:
            uses = earlier.answer in _names(getattr(answer, "__code__", None))
            if uses and earlier.judge(answer.__globals__.get(earlier.answer))[0] != RIGHT:
                again = f"q.{earlier.name}.check({earlier.answer})"
                return f"It calls {earlier.answer}(), which is not right yet. Solve {earlier.answer} first: {again}"
        return ""

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


def _names(code: CodeType | None) -> set[str]:
    """The names that a piece of code uses, those in its inner functions and comprehensions too."""
    inner = [part for part in code.co_consts if isinstance(part, CodeType)] if code else []
    return set(code.co_names if code else ()).union(*map(_names, inner))


def _shown(argument: Any) -> str:
    """An argument in a sentence: functions and other objects by what they are, not by where they lie in memory."""
    if callable(argument):
        return getattr(argument, "__name__", f"a {type(argument).__name__}")
    text = short(argument)
    return f"a {type(argument).__name__}" if " at 0x" in text else text


class Guarded:
    """A learner's function for the checks: called with copies, and its result read in the form that is asked for.

    An error in it, a result of another form and a result that is printed become `Wrong`, a `...` in it `NotAttempted`.
    """

    def __init__(self, function: Any, form: str):
        self.function, self.form = function, form
        self.only_prints = ""  # what to say of a function that prints its answer and returns None, whatever it is given
        self.answered = False

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns for these arguments."""
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):
                result = self.function(*copy.deepcopy(arguments))
        except Exception as error:
            raise stopped(error, self.function, arguments) from None
        finally:
            sys.stdout.write(printed.getvalue())
        if _unfinished(result):
            raise NotAttempted
        called = f"Called with {', '.join(map(_shown, arguments))}, it"
        shown = textwrap.shorten(printed.getvalue(), 60, placeholder=" …")
        self.answered |= result is not None or not shown
        if not self.answered:
            self.only_prints = f"{called} prints {shown} and returns nothing (None). Return it, don't print it."
        if result is None and not self.form.endswith(OR_NONE):
            raise Wrong(self.only_prints or f"{called} returns nothing (None). Write `return` before the answer.")
        try:
            return read(result, self.form)
        except OtherForm as other:
            raise Wrong(f"{called} should return {other}") from None


def stopped(error: Exception, function: Any, arguments: Iterable[Any]) -> Wrong | NotAttempted:
    """What to tell about an error in a learner's function: what was raised, in which line, and for which input."""
    if "ellipsis" in str(error).lower():
        return NotAttempted()
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    inputs = ", ".join(map(_shown, arguments))
    if file and not frames:
        return Wrong(f"It could not be called with {inputs} ({said}). Leave the line with `def` as it was handed out.")
    words = "something is None there" if "NoneType" in said else ""
    words = words or next((words for kind, words in IN_WORDS.items() if isinstance(error, kind)), "")
    place = f" in line {frames[-1].lineno}" if frames else ""
    source = f", `{frames[-1].line}`" if frames and frames[-1].line else ""
    return Wrong(f"Called with {inputs}, it stopped{place}{source}. {said}{f' ({words})' if words else ''}.")


def say(text: str) -> None:
    """Print a text with its lines broken at `WIDTH`."""
    print("\n".join(textwrap.fill(line, WIDTH) for line in text.splitlines()))
