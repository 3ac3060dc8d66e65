"""The definitions of the experiments' results files. The beliefs' stands in `ftkit.course.beliefs` and the recipe's in
`ftkit.course.search`: lessons and labs read them.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ftkit.course.beliefs import ExperimentResult
from ftkit.course.search import CutScores, RecipeResult, RecipeResults, SplitScores
from ftkit.runs.documents import Count, Document, Part, Seconds, Verdict

__all__ = ["CutScores", "RecipeResult", "RecipeResults", "SplitScores"]  # defined where lessons read them


class Seen(Part):
    """The model at one moment of a training."""

    step: Count
    validation_loss: float = Field(description="on some of the validation rows, the same ones each time")


class Earlier(SplitScores):
    """The adapter of the lowest validation loss, where that was not the last."""

    step: Count


class ScheduleResult(ExperimentResult):
    """An experiment on epochs, rate and batch. The validation split is scored to choose by, the test split to confirm."""

    train_rows: Count | None = Field(None, description="different rows that were trained on")
    row_tokens: float | None = Field(None, description="tokens of a row, prompt and answer, on average")
    watched_seconds: Seconds | None = Field(None, description="of `seconds`, for the validation losses")
    seen: list[Seen] = Field([], description="from early to late; the last is the trained adapter")
    earlier: Earlier | None = None
    test: SplitScores | None = None


class ScheduleResults(Document):
    """The experiments behind the rule for epochs, rate and batch."""

    FILE: ClassVar[str] = "schedule.json"
    CURE: ClassVar[str] = "Get it again, or run python -m experiments.schedule."

    results: dict[str, ScheduleResult] = Field(description="by key of the experiment")


class ReplayResult(ExperimentResult):
    """A training with a share of general talk, scored on the validation split and on the general questions."""

    replay: Count | None = Field(None, description="rows of general talk that were mixed in")
    train_rows: Count | None = Field(None, description="rows of the task")


class ReplayResults(Document):
    """The experiments on the share of general talk."""

    FILE: ClassVar[str] = "replay.json"
    CURE: ClassVar[str] = "Get it again, or run python -m experiments.replay."

    results: dict[str, ReplayResult] = Field(description="by key of the experiment")


class VerdictResults(Document):
    """What `ftkit verdict` said of several tasks."""

    FILE: ClassVar[str] = "verdicts.json"
    CURE: ClassVar[str] = "Get it again, or run python -m experiments.verdicts."

    verdicts: list[Verdict]
