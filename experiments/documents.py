"""The definitions of the results files of recipe, schedule and verdicts. That of the beliefs' stands in
`ftkit.course.beliefs`: labs read it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ftkit.course.beliefs import ExperimentResult, Scores
from ftkit.runs.documents import Count, Document, Part, Seconds, Share, Verdict


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
