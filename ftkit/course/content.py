"""What the course holds: its lessons and labs, what each asks, and how much of it is solved."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ftkit.common.errors import KitError
from ftkit.common.files import read_text
from ftkit.course.exercise import Exercises
from ftkit.course.progress import read_progress
from ftkit.course.quizzes import Question, Quiz

HERE = Path(__file__).parent


class WrongAnswer(BaseModel, frozen=True, extra="forbid"):
    """What a learner may write, and words of the message that it must get.

    For an exercise on a function, `code` is the function's body or its whole definition; for a value it is the value.
    """

    code: str
    message: str


class LessonFile(BaseModel, frozen=True, extra="forbid"):
    """The TOML file beside a lesson's exercises: its quiz, and answers by the exercise's name.

    `right_answers`: code, written as in `WrongAnswer`, that is right in another way than the solution.
    """

    questions: tuple[Question, ...] = Field(min_length=1)
    right_answers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    wrong_answers: dict[str, tuple[WrongAnswer, ...]]


def lessons() -> list[str]:
    """Numbers of the lessons that have exercises."""
    return sorted(path.stem.removeprefix("lesson") for path in (HERE / "lessons").glob("lesson*.py"))


def labs() -> list[str]:
    """Names of the labs that have exercises."""
    return sorted(path.stem for path in (HERE / "labs").glob("*.py") if path.stem != "__init__")


def exercises(lesson: str) -> Exercises:
    """The exercises of a lesson ("02") or lab ("break_it"). Raises `KitError` if it has none."""
    return Exercises(lesson, importlib.import_module(f"ftkit.course.{_module(lesson)}").EXERCISES)


def quiz(lesson: str) -> Quiz:
    """The quiz of a lesson ("02") or lab ("break_it"). Raises `KitError` if it has none, or if its file is broken."""
    return Quiz(lesson, read_lesson_file(_toml(lesson)).questions)


def wrong_answers(lesson: str) -> dict[str, tuple[WrongAnswer, ...]]:
    """Typical wrong answers to the exercises of a lesson or lab, by exercise. Raises `KitError` as `quiz` does."""
    return read_lesson_file(_toml(lesson)).wrong_answers


def right_answers(lesson: str) -> dict[str, tuple[str, ...]]:
    """Answers that are right in another way than the solution, by exercise. Raises `KitError` as `quiz` does."""
    return read_lesson_file(_toml(lesson)).right_answers


def read_lesson_file(path: Path) -> LessonFile:
    """The content of a lesson's TOML file. Raises `KitError` that names the place if it is missing or broken."""
    try:
        return LessonFile.model_validate(tomllib.loads(read_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise KitError(f"{path} is not valid TOML: {error}. Correct that line.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ", ".join(f"number {part + 1}" if isinstance(part, int) else str(part) for part in first["loc"])
        raise KitError(f"{path}, {place}: {first['msg']}. Correct that entry.") from None


def _module(lesson: str) -> str:
    if lesson in lessons():
        return f"lessons.lesson{lesson}"
    if lesson in labs():
        return f"labs.{lesson}"
    known = f"Lessons: {', '.join(lessons())}. Labs: {', '.join(labs())}."
    raise KitError(f"There are no exercises for lesson {lesson!r}. {known}")


def _toml(lesson: str) -> Path:
    return HERE / f"{_module(lesson).replace('.', '/')}.toml"


def progress_rows() -> list[dict[str, Any]]:
    """One row a lesson or lab: exercises solved, tried and all; quiz questions right at the first or a later go, and all."""
    progress = read_progress()
    rows = []
    for lesson in [*lessons(), *labs()]:
        tries = [progress["exercises"].get(exercise.key, {}) for exercise in exercises(lesson)]
        choices = [progress["quiz"].get(f"{lesson}.{n}", {}) for n in range(1, len(quiz(lesson).questions) + 1)]
        rows.append(
            {
                "lesson": lesson,
                "exercises": len(tries),
                "solved": sum("solved" in entry for entry in tries),
                "tried": sum("tries" in entry for entry in tries),
                "hints": sum(entry.get("hints", 0) for entry in tries),
                "solutions seen": sum(entry.get("solution_seen", False) for entry in tries),
                "questions": len(choices),
                "right": sum("solved" in entry for entry in choices),
            }
        )
    return rows
