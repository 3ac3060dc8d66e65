"""The definition of the recipe's results file. That of the beliefs' stands in `ftkit.course.beliefs`: labs read it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ftkit.course.beliefs import ExperimentResult, Scores
from ftkit.runs.documents import Document, Seconds, Share


class SplitScores(Scores):
    """Scores on the test split, of what is settled."""

    seconds: Seconds | None = None


class CutScores(Scores):
    """Scores of what is left of a full fine-tuning that was cut to a rank."""

    kept: Share = Field(description="of the change's squared size")


class RecipeResult(ExperimentResult):
    """An experiment of the search."""

    test: SplitScores | None = None
    cut: dict[str, CutScores] | None = Field(None, description="by rank")


class RecipeResults(Document):
    """The experiments of the search for the recipe."""

    FILE: ClassVar[str] = "recipe.json"
    CURE: ClassVar[str] = "Get it again, or run python -m experiments.recipe."

    results: dict[str, RecipeResult] = Field(description="by key of the experiment")
