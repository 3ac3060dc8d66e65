"""The files of `benchmarks/results/`: one definition each, with its version, and every field with its unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from ftkit.runs.documents import Count, Document, Megabytes, Part, Seconds, Share

FOLDER = Path(__file__).resolve().parent / "results"
MEASURE_AGAIN = "Measure again: make bench"


class MeasuredOn(Part):
    """When and on what a part was measured."""

    date: str = Field(description="ISO 8601")
    system: str = ""
    cpu: str
    cores: Count
    memory_gb: Count = Field(description="in GB (2^30 bytes)")
    python: str
    versions: dict[str, str]
    busy: Count | None = Field(None, description="processes that took a core each meanwhile; 0: quiet; null: not noted")
    device: str | None = Field(None, description="the GPU")
    load_average_before: float | None = None
    note: str = Field("", description="what else the machine did")


class LossAt(Part):
    """The loss on the validation split after some steps."""

    step: Count
    seconds: Seconds
    loss: float


class OfTheKit(Part):
    """What the kit did in the same round as one of its levers."""

    tokens_per_second: float
    peak_memory_mb: Megabytes


class Training(Part):
    """One training in a process of its own. Tokens are real ones, without padding."""

    settings: dict[str, Any] = Field({}, alias="given", description="the changes to the profile, and what was measured")
    device: str
    steps: Count
    tokens: Count
    seconds: Seconds
    tokens_per_second: float
    step_seconds: list[Seconds]
    peak_memory_mb: Megabytes
    memory_before_mb: Megabytes
    trainable_parameters: Count
    matrix_gflops: float | None = Field(None, description="rate of bf16 matrix products in the same minute, in GFLOP/s")
    losses: list[LossAt] = Field([])
    validation_loss: float | None = Field(None, description="the last of `losses`")
    where: dict[str, Share] = Field({}, description="shares of a profiled step's time by kind of work")
    profiled_seconds: Seconds | None = Field(None, description="of a step while it is profiled")
    planned_memory_mb: Megabytes | None = None
    kit: OfTheKit | None = None


class Failure(Part):
    """A measurement that broke: its last words."""

    failed: str


class Section(Part):
    """A part of `make bench`."""

    machine: MeasuredOn
    earlier: str = Field("", description="what was different from today's kit and profile, where something was")


class Compared(Section):
    """Pairs of the plain way and the kit's; the ratios are the kit's speed in the plain one's."""

    ratios: list[float]
    median_ratio: float
    equal_answers: Share | None = Field(None, description="share of answers that are the same to the letter")


class TrainingPairs(Compared):
    """The plain recipe against the kit's training."""

    plain: list[Training]
    kit: list[Training]
    both: dict[str, int] = Field(alias="with", description="the settings of both: rank, batch")


class Lever(Part):
    """Something that was taken out of the kit's training ("without") or put in ("extra")."""

    how: Literal["without", "extra"]
    what: str
    expected: str = Field(description="the gain, written down before the measurement")


class Levers(Section):
    """Each lever, round by round."""

    rounds: dict[str, list[Training | Failure]]
    steps: Count
    levers: dict[str, Lever]


class Answers(Part):
    """Answers to the test messages, in a process of its own."""

    settings: dict[str, Any] = Field(alias="given")
    n: Count
    seconds: Seconds
    messages_per_second: float
    tokens_per_second: float | None = None
    peak_memory_mb: Megabytes


class Generation(Compared):
    """One message at a time against batches."""

    plain: list[Answers]
    kit: list[Answers]


class StreamedAnswer(Part):
    """An answer as it came."""

    first_token_seconds: Seconds
    tokens_per_second: float
    tokens: Count


class Stream(Compared):
    """The demo's stream."""

    plain: list[StreamedAnswer]
    kit: list[StreamedAnswer]
    both_sides: list[StreamedAnswer] = Field(alias="both sides")


class Growth(Section):
    """One setting changed at a time."""

    examples: list[Training]
    length: list[Training]
    rank: list[Training]
    batch: list[Training]
    method: list[Training]


class Processors(Section):
    """The recipe as other processors compute it, by this one: round by round."""

    steps: Count
    ways: dict[str, list[Training]]


class Step(Section):
    """Where the time of a training step goes: a few steps of the recipe under torch's profiler."""

    runs: list[Training]


class CpuResults(Document):
    """What `make bench` measured: a part each, with its machine."""

    FILE: ClassVar[str] = "cpu.json"
    CURE: ClassVar[str] = MEASURE_AGAIN

    training: TrainingPairs | None = None
    levers: Levers | None = None
    generation: Generation | None = None
    stream: Stream | None = None
    growth: Growth | None = None
    processors: Processors | None = None
    step: Step | None = None


class LeverRounds(Part):
    """Rounds of the kit's training with all its levers, and without some of them."""

    machine: MeasuredOn
    steps: Count
    kit: list[Training]
    allocator: list[Training]
    trim: list[Training]
    round_lengths: list[Training] = Field(alias="round lengths")
    small_layers: list[Training] = Field(alias="small layers")
    all_four: list[Training] = Field(alias="all four")


class OnceMore(Document):
    """Four levers measured once more, before three of them were dropped: it cannot be measured again."""

    FILE: ClassVar[str] = "dropped.json"

    quiet: LeverRounds
    busy: LeverRounds | None = Field(None, alias="beside 1", description="beside a process that took a core")


class GpuResults(Document):
    """Speed and memory with random weights: {shape: {method: a training}}."""

    FILE: ClassVar[str] = "gpu.json"
    CURE: ClassVar[str] = "Measure again: python -m benchmarks.gpu"

    machine: MeasuredOn
    shapes: dict[str, dict[str, Training | Failure]] = Field({})


class UnderLoad(Part):
    """What was computed beside so many programs that take a core each."""

    busy: Count
    follows: bool = Field(description="whether the number of threads followed the load; else all, all the time")
    seconds: Seconds
    tokens: Count
    tokens_per_second: float
    threads: Count = Field(description="at the end")


class Followed(Part):
    """A load that changed, and the number of threads that followed it."""

    before: Count = Field(description="busy programs")
    after: Count
    threads: Count = Field(description="at the end")
    seconds: Seconds | None = Field(description="until the number of threads had changed; null: it had not")


class ComesAndGoes(Part):
    """A load that came and went."""

    part: Literal["training", "stream"]
    changes: list[Followed]


class InterferenceResults(Document):
    """Training and stream beside other programs, round by round: each has every state once."""

    FILE: ClassVar[str] = "interference.json"
    CURE: ClassVar[str] = "Measure again: python -m benchmarks.interference --fresh"

    machine: MeasuredOn
    training: list[list[UnderLoad]] = Field([])
    stream: list[list[UnderLoad]] = Field([])
    comes_and_goes: list[ComesAndGoes] = Field([], alias="comes and goes")


class Waits(Part):
    """Seconds from a question to the end of its answer."""

    median: Seconds | None
    slowest: Seconds | None


class ServerMemory(Part):
    """The server's resident memory, medians of the first and the last quarter of the time."""

    first_quarter: Megabytes
    last_quarter: Megabytes
    change: float


class LoadResults(Document):
    """The demo under load."""

    FILE: ClassVar[str] = "load.json"
    CURE: ClassVar[str] = "Measure again: python -m benchmarks.load"

    machine: MeasuredOn
    run: str
    model: str
    seconds_to_start: Seconds
    users: Count
    seconds: Seconds
    answered: Count
    busy: Count = Field(description="questions that were told to come back later")
    other_errors: dict[str, Count]
    crossed_answers: Count = Field(description="answers that belong to another message")
    unfinished_at_the_end: Count
    seconds_to_the_answer: Waits
    seconds_alone: Seconds = Field(description="median of the base's answers while nobody else asked")
    memory_mb: ServerMemory


class ChatLoadResults(LoadResults):
    """The demo of conversations under load: each visitor holds them as the page does, in a session of its own."""

    FILE: ClassVar[str] = "load_chat.json"
