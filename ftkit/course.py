"""The course's own side: exercises that check themselves, quizzes, and the progress that is kept (every lesson).

What a lesson asks stands in `ftkit/exercises/lessonNN.py` as data, what a lab asks in `lab_NAME.py`: `EXERCISES` and `QUIZ`.
This module runs it.
"""

from __future__ import annotations

import copy
import importlib
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import read_json, write_json
from ftkit.common.paths import runs_dir

FORMAT = 1
RIGHT, WRONG, NOT_ATTEMPTED = "right", "not yet", "not attempted"
WIDTH = 100  # characters a line of text takes at most
CHECK = re.compile(r"^q\.(\w+)\.check\((\w+)\)$", re.MULTILINE)


class Wrong(Exception):
    """A wrong answer. The text is about this mistake, written to the learner."""


class NotAttempted(Exception):
    """The placeholder `...` is still in the answer."""


def wrong_if(mistake: Any, said: str) -> None:
    """For the checks of `ftkit/exercises`: raise `Wrong` with a sentence about the mistake if it was made."""
    if mistake:
        raise Wrong(said)


def wrong_choice(given: Any, best: dict[str, tuple[str, str]]) -> None:
    """For exercises of judgement: `given` must name the best choice for each case; `best` holds it and the reason for it."""
    choices = ", ".join(sorted({choice for choice, _ in best.values()}))
    wrong_if(not isinstance(given, dict), f"Keep the dictionary; replace each ... by one of: {choices}.")
    for case, (choice, because) in best.items():
        wrong_if(case not in given, f"{case!r} is missing from the dictionary.")
        wrong_if(given[case] not in [c for c, _ in best.values()], f"{case!r}: write one of {choices}; not {given[case]!r}.")
        wrong_if(given[case] != choice, f'{case!r}: not "{given[case]}". {because}')


@dataclass
class Exercise:
    """One exercise: what the learner is given (`start`, with `...` in it), how an answer is judged, hints, a solution.

    `check` gets the answer and calls `wrong_if`; functions are called on fresh inputs. `answer` is the name that the
    notebook's cell gives to the answer.
    """

    key: str  # lesson and name, as in "02.mask"
    answer: str
    start: str
    solution_code: str
    judged_by: Callable[[Any], None]
    hints: tuple[str, ...]
    praise: str = ""
    function: bool = True  # whether the answer is a function (else a value)
    hinted: int = field(default=0, repr=False)

    @property
    def name(self) -> str:
        """Its name within the lesson."""
        return self.key.split(".")[1]

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
                wanted = f"the function itself: q.{self.name}.check({self.answer})" if self.function else "a value"
                raise Wrong(f"This check wants {wanted}. It got {'a function' if callable(answer) else _short(answer)}.")
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
        state, said = self.judge(answer)
        _say(f"{state.capitalize()}: {said}" if said else f"{state.capitalize()}.")
        if state == WRONG and self.hinted < len(self.hints):
            print(f"A hint: q.{self.name}.hint()")
        if state != NOT_ATTEMPTED:
            _note("exercises", self.key, lambda past: {"tries": past.get("tries", 0) + 1, **_dated(past, state == RIGHT)})

    def hint(self) -> None:
        """Print the next hint; each says more than the one before."""
        number = min(self.hinted, len(self.hints) - 1)
        _say(f"Hint {number + 1} of {len(self.hints)}: {self.hints[number]}")
        self.hinted = number + 1
        _note("exercises", self.key, lambda past: {"hints": max(past.get("hints", 0), self.hinted)})

    def solution(self) -> None:
        """Print one solution; others may be as good."""
        print(self.solution_code.strip("\n"))
        _note("exercises", self.key, lambda past: {"solution_seen": True})


class Exercises:
    """The exercises of a lesson by their names: `q = exercises("02")`, then `q.mask.check(mask)`."""

    def __init__(self, lesson: str, found: tuple[Exercise, ...]):
        self._lesson, self._all = lesson, {exercise.name: copy.copy(exercise) for exercise in found}

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


@dataclass(frozen=True)
class Option:
    """One choice of a question, with an explanation for those who take it."""

    text: str
    because: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A question with two to five options, one of them right."""

    asks: str
    options: tuple[Option, ...]

    def letters(self) -> dict[str, Option]:
        """The options by their letters."""
        return dict(zip("abcde", self.options, strict=False))


@dataclass(frozen=True, repr=False)
class Quiz:
    """The questions of a lesson: buttons where Jupyter can show them, text everywhere else."""

    lesson: str
    questions: tuple[Question, ...]

    def __repr__(self) -> str:
        """All questions as text, without the answers."""
        lines = []
        for number, question in enumerate(self.questions, start=1):
            lines.append(textwrap.fill(f"{number}. {question.asks}", WIDTH, subsequent_indent="   "))
            for letter, option in question.letters().items():
                lines.append(textwrap.fill(f"   {letter}) {option.text}", WIDTH, subsequent_indent="      "))
            lines.append("")
        return "\n".join([*lines, f'Without buttons: quiz("{self.lesson}").answer(1, "a") explains that choice.'])

    def said(self, number: int, letter: str) -> str:
        """The explanation for a choice; it is noted. Raises `KitError` for a question or letter that is not there."""
        if not (isinstance(number, int) and 1 <= number <= len(self.questions)):
            raise KitError(f"The quiz of lesson {self.lesson} has the questions 1 to {len(self.questions)}, not {number!r}.")
        options = self.questions[number - 1].letters()
        if letter not in options:
            raise KitError(f"Question {number} has the choices {', '.join(options)}, not {letter!r}.")
        option = options[letter]
        _note("quiz", f"{self.lesson}.{number}", lambda past: _dated(past, option.right) | {"last": letter})
        return f"{'Right' if option.right else 'Not so'}: {option.because}"

    def answer(self, number: int, letter: str) -> None:
        """Print the explanation for a choice."""
        _say(self.said(number, letter))

    def widget(self) -> Any:
        """The quiz as a widget: a row of letters below each question; the explanation appears when one is pressed."""
        import ipywidgets as widgets

        parts = []
        for number, question in enumerate(self.questions, start=1):
            listed = "".join(f"<li>{escape(option.text)}</li>" for option in question.options)
            buttons = widgets.ToggleButtons(options=list(question.letters()), value=None, style={"button_width": "3em"})
            said = widgets.HTML()

            def show(change: dict, number: int = number, said: Any = said) -> None:
                said.value = f'<p role="status">{escape(self.said(number, change["new"]))}</p>'

            buttons.observe(show, "value")
            asked = widgets.HTML(f'<p><b>{number}. {escape(question.asks)}</b></p><ol type="a">{listed}</ol>')
            parts += [asked, buttons, said]
        return widgets.VBox(parts)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        try:
            bundle = dict(self.widget()._repr_mimebundle_() or {})
        except ImportError:
            bundle = {}
        return bundle | {"text/plain": repr(self)}


def lessons() -> list[str]:
    """Numbers of the lessons that have exercises."""
    return sorted(path.stem.removeprefix("lesson") for path in Path(__file__).with_name("exercises").glob("lesson*.py"))


def labs() -> list[str]:
    """Names of the labs that have exercises."""
    return sorted(path.stem.removeprefix("lab_") for path in Path(__file__).with_name("exercises").glob("lab_*.py"))


def exercises(lesson: str) -> Exercises:
    """The exercises of a lesson ("02") or lab ("break_it"). Raises `KitError` for one that has none."""
    return Exercises(lesson, _data(lesson).EXERCISES)


def quiz(lesson: str) -> Quiz:
    """The quiz of a lesson ("02") or lab ("break_it"). Raises `KitError` for one that has none."""
    return Quiz(lesson, _data(lesson).QUIZ)


def _data(lesson: str) -> Any:
    if lesson not in [*lessons(), *labs()]:
        known = f"Lessons: {', '.join(lessons())}. Labs: {', '.join(labs())}."
        raise KitError(f"There are no exercises for lesson {lesson!r}. {known}")
    return importlib.import_module(f".exercises.{'lesson' if lesson in lessons() else 'lab_'}{lesson}", __package__)


def refreshed(notebook: Any, solved: bool = False) -> Any:
    """A copy of a notebook (as nbformat reads it) whose exercise cells are as handed out, or solved.

    An exercise's cell is one that ends with `q.NAME.check(ANSWER)`. Outputs stay as they are.
    """
    notebook = copy.deepcopy(notebook)
    lesson = re.search(r'exercises\("(\w+)"\)', "\n".join(cell.source for cell in notebook.cells))
    if lesson is None:
        return notebook
    q = exercises(lesson[1])
    for cell in notebook.cells:
        if cell.cell_type == "code" and (found := CHECK.search(cell.source)):
            cell.source = getattr(q, found[1]).cell(solved)
    return notebook


def solved(notebook: Any) -> Any:
    """A copy of a notebook with the solutions in its exercise cells."""
    return refreshed(notebook, solved=True)


# --- progress ---


def progress_file() -> Path:
    """Where the progress is kept: beside the runs."""
    return runs_dir() / "progress.json"


def read_progress() -> dict[str, dict[str, Any]]:
    """{"exercises": {"02.mask": {...}}, "quiz": {"02.1": {...}}}. Raises `KitError` if the file is broken."""
    path = progress_file()
    kept = read_json(path) if path.is_file() else {"format": FORMAT}
    if not isinstance(kept, dict) or kept.get("format") != FORMAT:
        raise KitError(f"{path} is not a progress file of format {FORMAT}. Move it away to start anew.")
    return {part: kept.get(part, {}) for part in ("exercises", "quiz")}


def progress_rows() -> list[dict[str, Any]]:
    """One row a lesson or lab: exercises solved, tried and all; quiz questions right at the first or a later go, and all."""
    kept = read_progress()
    rows = []
    for lesson in [*lessons(), *labs()]:
        mine = [kept["exercises"].get(exercise.key, {}) for exercise in exercises(lesson)]
        asked = [kept["quiz"].get(f"{lesson}.{n}", {}) for n in range(1, len(quiz(lesson).questions) + 1)]
        rows.append(
            {
                "lesson": lesson,
                "exercises": len(mine),
                "solved": sum("solved" in entry for entry in mine),
                "tried": sum("tries" in entry for entry in mine),
                "hints": sum(entry.get("hints", 0) for entry in mine),
                "solutions seen": sum(entry.get("solution_seen", False) for entry in mine),
                "questions": len(asked),
                "right": sum("solved" in entry for entry in asked),
            }
        )
    return rows


def _dated(past: dict[str, Any], right: bool) -> dict[str, Any]:
    """When it was first solved; once solved, it stays so."""
    return {"solved": datetime.now(UTC).isoformat(timespec="seconds")} if right and "solved" not in past else {}


def _note(part: str, key: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change one entry of the progress file, whole or not at all; a notebook goes on if that fails."""
    from filelock import FileLock, Timeout

    try:
        progress_file().parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{progress_file()}.lock", timeout=5):
            kept = read_progress()
            past = kept[part].get(key, {})
            kept[part][key] = past | change(past)
            write_json(progress_file(), {"format": FORMAT, **kept})
    except (KitError, OSError, Timeout) as error:
        print(f"(Your progress was not saved: {error})")


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
            called = ", ".join(map(_short, arguments))
            raise Wrong(f"Called with {called}, it stopped: {type(error).__name__}: {error}") from None
        if _unfinished(result):
            raise NotAttempted
        return result

    return call


def _short(value: Any, length: int = 60) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _say(text: str) -> None:
    print("\n".join(textwrap.fill(line, WIDTH) for line in text.splitlines()))
