"""The files of a run: one definition each, with its version, and every field with its unit and range.

Whoever reads or writes one goes through `load` and `save` here; no other module spells a file's name or a key of it.
`docs/files.md` is written from these definitions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from ftkit.common.errors import KitError
from ftkit.common.files import read_json, write_json
from ftkit.common.profiles import Profile
from ftkit.data.task import Kind

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Megabytes = Annotated[int | float, Field(ge=0, description="in MB (10^6 bytes)")]
Interval = Annotated[tuple[float, float], Field(description="the 95 % interval: low, high")]
NoInterval = Annotated[tuple[float, float] | None, Field(description="the same; null for a single row")]
Digest = Annotated[str, Field(description="the first 16 hexadecimal digits of a SHA-256")]
DETECTED = 0.05  # the rate of false alarms that a comparison allows itself


class Part(BaseModel):
    """Something inside a document: nothing can be changed in it, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, strict=True)


class Document(Part):
    """A JSON file of a run with its version, under the key `format`."""

    FILE: ClassVar[str]
    CURE: ClassVar[str] = "Restore it from a copy."

    format: int = Field(1, description="the version of this file's form")

    @classmethod
    def version(cls) -> int:
        """The version that this kit reads and writes."""
        return cls.model_fields["format"].default

    @classmethod
    def path(cls, folder: Path) -> Path:
        """Where the document lies in a run's or an export's folder."""
        return Path(folder) / cls.FILE

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether the folder holds one."""
        return cls.path(folder).is_file()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read it. Raises `KitError` for a file that is missing or broken, of another version, or with a wrong field."""
        path = cls.path(folder)
        data = read_json(path)
        version = data.get("format") if isinstance(data, dict) else None
        if version != cls.version():
            words = f"of version {version}" if isinstance(version, int) else "of no known version"
            raise KitError(f"{path} is {words}; this kit reads version {cls.version()}. {cls.CURE}")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise KitError(f"{path}, {first_fault(error)}. {cls.CURE}") from None

    def save(self, folder: Path) -> None:
        """Write it into a folder, whole or not at all."""
        write_json(self.path(folder), self.as_data())

    def as_data(self) -> dict[str, Any]:
        """What the file holds, as JSON values."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"format": self.format}


class MeasuredDocument(Document):
    """A document on `n` rows `of` a split."""

    @property
    def rows_measured(self) -> str:
        """How many rows were measured, in words."""
        n, every = getattr(self, "n"), getattr(self, "of")  # noqa: B009 - each document describes them at their place
        return f"the first {n} of {every}" if n < every else f"n = {n}"


def show_interval(interval: Interval | None, form: str = ".1f") -> str:
    """Both ends of an interval in per cent, "78.1 to 90.3"; "no interval" where there is none."""
    return " to ".join(f"{100 * bound:{form}}" for bound in interval) if interval else "no interval"


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong, in words: the field, and what should be there."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    shown = "" if fault["type"] in ("missing", "extra_forbidden") else f", not {fault['input']!r}"
    return f"field {place!r}: {fault['msg'].lower()}{shown[:80]}"


# --- run.json ---


class TaskOfRun(Part):
    """Which data a run was trained on."""

    name: str
    folder: str = Field(description="the name of one of the kit's tasks, or a path")
    fingerprint: Digest
    system_prompt: str | None = Field(None, description="as it was in training; every prompt of the run begins with it")


class Machine(Part):
    """Where a training ran."""

    system: str
    processor: str


class Budget(Part):
    """The time that a training was allowed (`--minutes`), and what was settled once its speed was known."""

    minutes: Annotated[float, Field(gt=0, description="allowed for the training's steps")]
    whole: Count = Field(description="steps of the whole recipe")
    steps: Count | None = Field(None, description="that are made; null: not settled yet")
    seconds_per_step: Seconds | None = Field(None, description="as measured in the first steps")


class LooksPlan(Part):
    """At which steps a training is looked at, and on how many held-out rows."""

    rows: Count = Field(description="validation rows whose loss is measured, the same at each look")
    loss_at: list[Count] = Field(description="steps, each with a checkpoint")
    answers_at: list[Count] = Field(description="steps at which held-out messages are answered, besides step 0")


class Facts(Part):
    """What the guards saw before the first step, token by token in the first examples."""

    chat_template: Digest | None = None
    template_changes: list[str] | None = Field(None, description="what the kit changed in the model's chat template")
    end_tokens: list[int] | None = Field(None, description="ids of the tokens at which an answer ends")
    rows: Count | None = Field(None, description="examples that were looked at token by token")
    rows_cut: Count | None = Field(None, description="examples that the maximum length cut, of all")
    longest: Count | None = Field(None, description="tokens of the longest example")
    loss_tokens: Count | None = Field(None, description="tokens that carry loss")
    prompt_loss_tokens: Count | None = Field(None, description="of these, tokens of prompts: should be 0")
    padding_loss_tokens: Count | None = Field(None, description="of these, tokens of padding: should be 0")
    rows_without_end: Count | None = Field(None, description="whole examples whose end token carries no loss")
    prompts_otherwise: Count | None = Field(None, description="prompts that are not what the model will be asked with")
    answers: Count | None = Field(None, description="answers in the examples looked at; of conversations only")
    answers_in_part: Count | None = Field(None, description="of these, answers that carry no loss somewhere: should be 0")
    base: Digest | None = Field(None, description="digest of the base's weights")
    loss: Literal["completion", "trl", "whole"] | None = Field(
        None,
        description="by logits at the completion's tokens, in trl's way, or by all logits: equal to the model's own",
    )


class TrainingRecord(Part):
    """What a finished training did and took."""

    steps: Count
    examples: Count = Field(description="training rows")
    replay: Count = Field(0, description="rows of general talk beside them, answered by the base")
    loss: float = Field(description="the last entry of the loss log")
    tokens: Count = Field(description="real tokens seen, padding not counted")
    seconds: Seconds
    tokens_per_second: Annotated[float, Field(ge=0)]
    peak_memory_mb: Megabytes
    planned_memory_mb: Megabytes
    memory_against_plan: str = Field(description="the gap between the two, in words")
    processes: Annotated[int, Field(ge=1)] = 1
    trainable_parameters: Count = 0
    dtype: str = Field(description="bfloat16, float16 or float32: what products were computed in")
    longest_completion: Count = Field(0, description="tokens of the longest training answer, with its end")
    validation_loss: float | None = Field(None, description="of the adapter that was kept, on held-out rows")
    kept_step: Count | None = Field(None, description="the step whose adapter was kept (`--keep-best`); null: the last")
    validation_seconds: Seconds = Field(0.0, description="of the seconds, those for the loss on held-out rows")
    glimpse_seconds: Seconds = Field(0.0, description="of the seconds, those for answers to held-out messages")
    threads: list[Count] = Field(
        [],
        description="in the loss log, where a CPU computed; they change nothing in bfloat16, last digits in float32",
    )


class RunRecord(Document):
    """What a run was made from, and what its training took."""

    FILE: ClassVar[str] = "run.json"
    CURE: ClassVar[str] = "Restore it from a copy, or train again."

    status: Literal["training", "finished"]
    created: str = Field(description="UTC, ISO 8601")
    task: TaskOfRun
    profile: Profile = Field(description="the profile as it was used (`ftkit/common/profiles.toml`)")
    base_source: str | None = Field(None, description="hub, folder or PyPI package: where the base came from")
    reason: str = Field("", description="why this profile was taken")
    seed: int
    versions: dict[str, str] = Field(description="Python and the packages that decide a result")
    machine: Machine
    guards: Facts | None = None
    budget: Budget | None = Field(None, description="null: no time was set")
    looks: LooksPlan | None = Field(None, description="null: not settled yet")
    training: TrainingRecord | None = None


LOG, REPLAY = "log.jsonl", "replay.jsonl"


class LogEntry(Part):
    """A line of `log.jsonl`, the loss log."""

    step: Count
    loss: float
    learning_rate: float
    tokens: Count = Field(description="real tokens seen so far")
    seconds: Seconds = Field(description="since the training began, over all its parts")
    validation_loss: float | None = Field(None, description="on held-out rows, at some checkpoints; not there: not looked")
    threads: Count | None = Field(None, description="that computed this step; null on a GPU")


GLIMPSES = "glimpses.jsonl"


class Glimpse(Part):
    """A line of `glimpses.jsonl`: what the model answered to a held-out message while it learned."""

    step: Count = Field(description="0: the base, before the first step")
    seconds: Seconds = Field(description="since the training began, over all its parts")
    row: str = Field(description="the id of the validation row; empty where rows have none")
    message: str
    target: str = Field(description="as the model should write it")
    answer: str = Field(description="as it wrote it; … at the end: cut off here")


class Talk(Part):
    """A line of `replay.jsonl`: a row of general talk that was mixed into the training."""

    id: str
    prompt: str
    answer: str = Field(description="the base's own, before it was trained")


class Mark(Document):
    """Written last into a checkpoint: without it the checkpoint was cut off."""

    FILE: ClassVar[str] = "complete"

    seconds: Seconds
    tokens: Count
    validation_seconds: Seconds = 0.0
    glimpse_seconds: Seconds = 0.0


class Live(Document):
    """How a training stands, written again with every line of the loss log, and removed when the run is finished."""

    FILE: ClassVar[str] = "live.json"
    CURE: ClassVar[str] = "Delete it; a training writes it again."

    phase: Literal["training", "evaluating", "finished"]
    step: Count
    steps: Count = Field(description="that will be made, as far as known")
    loss: float | None = Field(None, description="null: before the first line of the log")
    validation_loss: float | None = Field(None, description="the last that was measured")
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    seconds_left: Seconds | None = None
    memory_mb: Megabytes = Field(description="the most so far, in MB (10^6 bytes)")
    planned_mb: Megabytes = Field(description="the most as planned, in MB (10^6 bytes)")
    threads: Count | None = Field(None, description="that compute on a CPU; null on a GPU")


# --- evaluation.json ---


class Comparison(Part):
    """Two models on the same examples: `difference` is the second's share minus the first's, `interval` around it.

    `better` and `worse` count examples, `p` is of the test that there is no difference (None for bootstrapped metrics). A
    bootstrapped metric of a single example has no interval.
    """

    model_config = ConfigDict(extra="ignore")  # `detected` is computed again

    n: Count
    first: float
    second: float
    difference: float
    interval: NoInterval
    p: Share | None = None
    better: Count = 0
    worse: Count = 0

    @computed_field(  # type: ignore[prop-decorator]
        description="by the test if there is one, else by an interval without zero"
    )
    @property
    def detected(self) -> bool:
        """Whether a difference was detected: by the test if there is one, else by an interval without zero."""
        if self.p is not None:
            return self.p < DETECTED
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


class Score(Part):
    """A metric's value and how sure it is; a metric that is no yes or no has no interval on a single row."""

    value: Share
    interval: NoInterval


class ModelResult(Part):
    """One model's scores on the held-out rows, and what they cost."""

    about: str
    judged_by: list[str] | None = Field(None, alias="judged by", description="the only metrics that fit it; null: all")
    scores: dict[str, Score] = Field(description="by metric")
    seconds: Seconds = Field(description="for all answers")
    seconds_per_message: Seconds
    messages_per_second: Annotated[float, Field(ge=0)] | None = None
    training_seconds: Seconds
    memory_mb: Megabytes = Field(description="of the loaded weights, or of the fitted model, in MB (10^6 bytes)")
    prompt_tokens: Count | None = Field(None, description="of a prompt, the mean; of conversations only")


class Told(Part):
    """The sheet that a model was told in its prompt, to compare it with one that was trained."""

    file: str = Field(description="in the task's folder")
    tokens: Count = Field(description="that it adds to each prompt")
    cut: Count = Field(description="tokens of it that were left out, for which the model has no room")
    window: Count | None = Field(description="tokens that the model reads at once; null: it knows no limit")


class JudgeAgreement(Part):
    """How far a judge agrees with a reader who judged the same pairs of answers."""

    task: str = Field(description="whose pairs they are")
    n: Count = Field(description="pairs")
    agree: Count = Field(description="pairs with the same verdict: the first, the second, or a tie")
    interval: Interval
    kappa: float = Field(description="Cohen's kappa over the three verdicts: 0 is chance, 1 is every time")
    constant: Share = Field(description="what always taking the same side would agree")
    unreadable: Count
    took_first: Count = Field(description="pairs in which it took whichever stood first, in both orders")
    took_second: Count
    believed: bool = Field(description="whether the interval lies above `constant`")


class JudgedAgainst(Part):
    """What a judge says of the tuned model's answers beside another model's; every pair is shown in both orders."""

    n: Count = Field(description="pairs")
    same: Count = Field(description="of these, pairs with the same text: a tie that nobody was asked about")
    better: Count = Field(description="pairs in which tuned was preferred in both orders")
    worse: Count
    ties: Count = Field(description="neither in both orders, the same texts among them")
    unreadable: Count = Field(description="pairs with a reply that is no verdict; they count as ties in `preferred`")
    took_first: Count = Field(description="pairs in which it took whichever stood first, in both orders")
    took_second: Count
    preferred: Comparison = Field(description="share of answers preferred, by row (of chats, by conversation)")


class Judged(Part):
    """What a judge, another model, says of answers that have no single right form."""

    server: str
    model: str
    agreement: JudgeAgreement | None = Field(None, description="null: the kit's verdicts were not at hand")
    against: dict[str, JudgedAgainst] = Field(description="by the other model")


class FewShot(Part):
    """How many examples the base was shown, and how that was chosen."""

    k: Count
    tried: dict[str, Share] = Field(description="each number's score on validation rows")
    on: Count = Field(description="validation rows that it was chosen on")


class KindOfQuestion(Part):
    """Right answers to the general questions of one kind."""

    base: Count
    tuned: Count
    of: Count


class Forgetting(Part):
    """What the training cost elsewhere."""

    questions: Comparison
    by_kind: dict[str, KindOfQuestion] = Field(alias="by kind")
    perplexity: Comparison = Field(description="of plain English, lower is better; `n` counts pieces of text")
    replay: Count | None = Field(None, description="rows of general talk in the training; null: not recorded")


class Confusion(Part):
    """A row a right value, a column an answer; the last column counts answers that are none of the values."""

    values: list[str | None]
    matrix: list[list[Count]]


class Slice(Part):
    """The scores of a part of the rows."""

    by: str
    value: Any
    n: Count
    small: bool = Field(description="fewer rows than say much")
    exact_match: Share = Field(alias="exact match", description="of conversations: turns that meet all that is expected")
    interval: Interval
    fields: dict[str, Share]


class WrongAnswer(Part):
    """A row that the tuned model got wrong."""

    id: str
    message: str
    wrong: list[str] = Field(description="fields")
    target: str = Field(description="as text")
    prediction: str = Field(description="as the model wrote it")


class CertaintyGroup(Part):
    """Answers of like certainty."""

    n: Count
    certainty: Share
    right: Share
    interval: Interval


class Calibration(Part):
    """Whether the model's certainty about its first closed field can be believed."""

    field: str
    n: Count
    accuracy: Share
    certainty: Share
    ece: Share = Field(description="expected calibration error")
    bins: list[CertaintyGroup]


class Evaluation(MeasuredDocument):
    """Base, baselines and tuned on the same held-out rows."""

    FILE: ClassVar[str] = "evaluation.json"
    CURE: ClassVar[str] = "Measure again: ftkit evaluate"

    format: int = Field(3, description="the version of this file's form")
    run: str
    task: str
    kind: Kind
    split: str
    n: Count = Field(description="rows that were measured")
    of: Count = Field(description="rows of the split")
    seed: int
    versions: dict[str, str]
    models: dict[str, ModelResult]
    comparisons: dict[str, dict[str, Comparison]] = Field(description="tuned minus each other model, by metric")
    few_shot: FewShot | None = None
    perplexity: Comparison | None = Field(
        None, description="of the assistant's turns that stand in the data, lower is better; `n` counts conversations"
    )
    told: Told | None = Field(None, description="null: no model was told a sheet")
    judge: Judged | None = Field(None, description="null: no judge was asked, or it did not answer")
    general: Forgetting | None = None
    confusions: dict[str, Confusion] = Field(description="of the tuned model, by closed field")
    slices: list[Slice]
    worst: list[WrongAnswer] = Field(description="the worst first")
    calibration: Calibration | None = None
    seconds: Seconds = Field(0.0, description="for the whole evaluation")


class RunsCompared(Part):
    """Two runs' tuned models on the same rows; not saved."""

    task: str
    split: str
    n: Count
    runs: tuple[str, str]
    metrics: dict[str, Comparison]


# --- general.json ---


class GeneralQuestion(Part):
    """A question that was asked."""

    id: str
    kind: str


class GeneralAnswers(Part):
    """One side's answers to the general questions, and how likely plain English is to it."""

    right: list[bool]
    answers: list[str]
    log_probabilities: list[float] = Field(description="natural logarithms, a sum for each piece of text")
    seconds: Seconds


class GeneralCheck(Part):
    """What base and tuned make of questions and text that have nothing to do with the task."""

    fingerprint: Digest
    questions: list[GeneralQuestion]
    tokens: list[Count] = Field(description="judged in each piece of text")
    models: dict[str, GeneralAnswers]


class GeneralKey(Part):
    """What a general check is of."""

    questions: Digest
    adapter: Digest


class General(Document):
    """The general check of a run, kept so that it is asked once."""

    FILE: ClassVar[str] = "general.json"
    CURE: ClassVar[str] = "Delete it; `ftkit evaluate` asks again."

    key: GeneralKey
    check: GeneralCheck


# --- merge_fidelity.json ---


class TurnsAgree(Part):
    """How far another model goes on with test conversations as the tuned one does, each after its own answers."""

    conversations: Count
    prompts: Count = Field(description="that the tuned model's conversations made")
    same_prompts: Count = Field(description="of these, prompts with the same bytes and token ids by the other's tokenizer")
    same_ends: bool = Field(description="whether both end an answer at the same tokens")
    identical: list[Share] = Field(description="the same text as the first answer, as the second, as the third")


class Variant(Part):
    """One way to merge, on the test split; the last five beside the adapter on its 4-bit base."""

    name: str
    scores: dict[str, Share]
    seconds: Seconds
    messages_per_second: Annotated[float, Field(ge=0)]
    n: Count | None = None
    identical: Share | None = Field(None, description="the same text")
    same_answer: Share | None = Field(None, description="the same answer, once read")
    against_adapter: dict[str, Comparison] | None = None
    turns: TurnsAgree | None = Field(None, description="of conversations only")


class Fidelity(MeasuredDocument):
    """What each way of merging keeps of the tuned model."""

    FILE: ClassVar[str] = "merge_fidelity.json"
    CURE: ClassVar[str] = "Measure again: ftkit export --fidelity"

    task: str
    split: str
    n: Count
    of: Count
    variants: dict[str, Variant]


# --- export.json ---


class Agreement(Part):
    """How far an exported model answers as the tuned one does."""

    n: Count = Field(description="test messages that both answered")
    identical: Share = Field(description="the same text")
    same_answer: Share = Field(description="the same answer, once read")
    messages_per_second: dict[str, float] = Field({}, description="of `tuned` and of `export`")
    turns: TurnsAgree | None = Field(None, description="of conversations only")


class ExportRecord(Document):
    """What an export was made of, and whether it was proved."""

    FILE: ClassVar[str] = "export.json"
    CURE: ClassVar[str] = "Export again: ftkit export"

    to: str = Field(description="the road")
    run: str
    adapter: Digest
    created: str = Field(description="UTC, ISO 8601")
    size_mb: Megabytes
    verification: Agreement | None = None


# --- verdicts/TASK/: contender.json of each contender, and verdict.json ---


class Draw(Part):
    """What a contender answers after training on a part of the rows, drawn by a seed."""

    rows: Count
    seed: int
    texts: list[str] = Field(description="an answer to each test row")


class Contender(Document):
    """What one contender answered and cost, kept so that a verdict goes on where it was stopped."""

    FILE: ClassVar[str] = "contender.json"
    CURE: ClassVar[str] = "Delete it; `ftkit verdict` measures again."

    key: dict[str, Any] = Field(description="everything that decides the answers; where it differs they are made again")
    measured: str = Field(description="the day, ISO 8601")
    about: str
    texts: list[str] = Field(description="an answer to each test row, after training on all rows")
    training_seconds: Seconds
    seconds_per_message: Seconds = Field(description="answered in batches")
    memory_mb: Megabytes = Field(description="of the loaded weights, or of the fitted model, in MB (10^6 bytes)")
    disk_mb: Megabytes = Field(description="of the files that serve it, in MB (10^6 bytes)")
    threads: Count | None = Field(None, description="that computed; null where an earlier run was taken")
    draws: list[Draw] = Field([], description="for the learning curve")


class Standing(Part):
    """A contender's score in a question, and how far the best contender is ahead of it on the same rows."""

    score: Score
    fields: dict[str, Share] = Field({}, description="by closed field, or by further metric")
    behind: Comparison | None = Field(None, description="the best minus this one; null for the best itself")
    rows_needed: Count | None = Field(
        None, description="test rows that would tell the two apart four times in five, were the gap as measured; null: none"
    )


class CurvePoint(Part):
    """A contender's score after training on so many rows."""

    rows: Count
    draws: Count = Field(description="times that such rows were drawn and trained on")
    score: Share = Field(description="the mean over these")


class Doubling(Part):
    """What the last doubling of the training rows gave: the next gives about as much, or less."""

    rows: tuple[int, int] = Field(description="training rows: half and all")
    gain: float
    interval: Interval


class Advice(Part):
    """What to do, by the rule of `ftkit.evaluation.verdict.rule`."""

    kind: Literal["do not fine-tune", "the encoder is enough", "fine-tune", "label more first", "too few test rows to tell"]
    choice: str = Field(description="the contender that is meant")
    text: str


class Question(Part):
    """One thing that is judged, such as the closed fields of a task or its whole answers."""

    name: str
    metric: str
    standings: dict[str, Standing] = Field(description="by contender, the simplest first")
    best: str
    curves: dict[str, list[CurvePoint]] = {}
    doublings: dict[str, Doubling] = {}
    advice: Advice


class Cost(Part):
    """What a contender takes."""

    about: str
    measured: str = Field(description="the day, ISO 8601")
    training_seconds: Seconds
    seconds_per_message: Seconds
    memory_mb: Megabytes
    disk_mb: Megabytes
    threads: Count | None


class Verdict(MeasuredDocument):
    """Whether to fine-tune on a task and with what, measured on the same rows."""

    FILE: ClassVar[str] = "verdict.json"
    CURE: ClassVar[str] = "Measure again: ftkit verdict"

    task: str
    kind: Kind
    fingerprint: Digest
    n: Count = Field(description="test rows that were measured")
    of: Count = Field(description="rows of the test split")
    train_rows: Count
    versions: dict[str, str]
    machine: Machine
    costs: dict[str, Cost] = Field(description="by contender, the simplest first")
    left_out: dict[str, str] = Field(description="contenders that did not take part, and why")
    questions: list[Question]
    advice: str = Field(description="the questions' advice in one sentence")


DOCUMENTS: tuple[type[Document], ...] = (
    *(RunRecord, Evaluation, General, Fidelity, ExportRecord, Mark, Live, Contender, Verdict),
)
