"""What the course holds: its lessons and labs, what each asks, and how much of it is solved."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.course.exercise import Exercises
from ftkit.course.progress import read_progress
from ftkit.course.quizzes import Quiz


def lessons() -> list[str]:
    """Numbers of the lessons that have exercises."""
    return sorted(path.stem.removeprefix("lesson") for path in (Path(__file__).parent / "lessons").glob("lesson*.py"))


def labs() -> list[str]:
    """Names of the labs that have exercises."""
    return sorted(path.stem for path in (Path(__file__).parent / "labs").glob("*.py") if path.stem != "__init__")


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
    return importlib.import_module(f"ftkit.course.{f'lessons.lesson{lesson}' if lesson in lessons() else f'labs.{lesson}'}")


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
