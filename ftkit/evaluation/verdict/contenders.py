"""The contenders: each answers the same test rows, is weighed and timed, and is kept in a file of its own (lesson 04)."""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ftkit import __version__
from ftkit.common.console import Say, clock
from ftkit.common.errors import KitError
from ftkit.common.files import size_mb
from ftkit.data.task import Row, Task
from ftkit.data.values import labels_of
from ftkit.evaluation.answer import TUNED
from ftkit.evaluation.baselines import Baseline, frozen_encoder, majority, nearest, tfidf
from ftkit.evaluation.measure import Measured
from ftkit.evaluation.saved_answers import answers_file
from ftkit.evaluation.verdict.classifier import steps_of, tuned_encoder
from ftkit.evaluation.verdict.rule import BASE, ENCODER, FEW_SHOT, FROZEN, MAJORITY, NEAREST, QLORA, TFIDF
from ftkit.models.catalog import INSTALL_ENCODER
from ftkit.models.encoder import Encoder
from ftkit.models.find import prepare_model
from ftkit.runs.documents import Contender, Draw
from ftkit.runs.run import Run, adapter_digest

PARTS = (0.25, 0.5)  # of the training rows, for the learning curve
LEAST = 20  # rows; from fewer a curve says nothing
DRAWS = {NEAREST: 3, TFIDF: 3, FROZEN: 3, ENCODER: 1}  # times that each part is drawn
TRAINING = "QLoRA's training"
# What is announced, in seconds on two cores: in any case, a training row, a test row; all draws together (estimates)
EXPECTED = {
    MAJORITY: (0, 0.0, 0.0),
    NEAREST: (0, 0.003, 0.003),
    TFIDF: (0, 0.008, 0.002),
    FROZEN: (0, 0.01, 0.005),
    ENCODER: (10, 0.0, 0.01),  # and its steps
    TRAINING: (0, 0.34, 0.0),  # the cpu profile
    QLORA: (0, 0.0, 0.11),
    BASE: (0, 0.0, 0.16),
    FEW_SHOT: (20, 0.0, 0.13),
}
A_STEP = 0.25  # seconds that a step of the encoder's training is expected to take, until the first ones are timed
SETTLED = 60  # seconds that count as if they had been as expected: the first steps are short, and say little of the pace


@dataclass(frozen=True)
class Job:
    """What all contenders work on: the task, its training rows, the test rows that count, and where results are kept."""

    task: Task
    train: Sequence[Row]
    rows: Sequence[Row]
    folder: Path
    encoder: Encoder | None
    say: Say

    @property
    def closed(self) -> list[str]:
        """The closed fields: those that a classifier can answer."""
        return list(labels_of(self.task, self.train))

    def parts(self, name: str) -> list[tuple[int, int]]:
        """The parts of the training rows that a contender's learning curve takes: (rows, seed of the draw)."""
        sizes = [n for n in (round(share * len(self.train)) for share in PARTS) if n >= LEAST]
        return [(n, seed) for seed in range(DRAWS.get(name, 0)) for n in sizes]

    def key(self, name: str, **more: Any) -> dict[str, Any]:
        """Everything that decides a contender's answers."""
        return {"contender": name, "data": self.task.fingerprint(), "rows": len(self.rows), "kit": __version__, **more}


def cheap(job: Job) -> tuple[dict[str, Callable[..., Baseline | None]], dict[str, str]]:
    """The contenders without a language model that can take part, and those that cannot with the reason."""
    makers: dict[str, Callable[..., Baseline | None]] = {MAJORITY: majority}
    if job.task.kind != "label":
        makers[NEAREST] = partial(nearest, encoder=job.encoder)
    if not job.closed:
        reason = "they choose between the values of a closed field, and this task has none"
        return makers, dict.fromkeys((TFIDF, FROZEN, ENCODER), reason)
    makers[TFIDF] = tfidf
    if not job.encoder:
        return makers, dict.fromkeys((FROZEN, ENCODER), f"they need the encoder, which is not installed: {INSTALL_ENCODER}")
    makers[FROZEN] = partial(frozen_encoder, encoder=job.encoder)
    makers[ENCODER] = partial(tuned_encoder, encoder=job.encoder)
    return makers, {}


def run_cheap(job: Job, name: str, make: Callable[..., Baseline | None], pace: Pace) -> Contender:
    """Let one contender learn from all rows, and from parts of them for its curve; what is kept is not computed again."""
    reads = {"encoder": job.encoder.name} if job.encoder and name in (NEAREST, FROZEN, ENCODER) else {}
    folder, key = _folder(job, name), job.key(name, **reads)
    contender = kept(job, folder, key)
    done = {(draw.rows, draw.seed) for draw in contender.draws} if contender else set()
    missing = [part for part in job.parts(name) if part not in done]
    if name == ENCODER:
        steps = sum(map(steps_of, ([] if contender else [len(job.train)]) + [n for n, _ in missing]))
        make = partial(make, told=lambda each: pace.measured(name, each * steps))
    if not contender:
        saved = {"folder": folder / "model"} if name == ENCODER else {}
        if job.encoder:
            job.encoder.seen.clear()  # another contender's vectors would make this one look faster than it is
        made = make(job.task, job.train, job.rows, **saved)
        assert made  # `cheap` left out those that cannot take part
        contender = _contender(
            key,
            about=made.about,
            texts=made.texts,
            training_seconds=round(made.training_seconds, 2),
            seconds_per_message=made.seconds / len(job.rows),
            memory_mb=round(made.memory_mb, 3),
            disk_mb=round(made.disk_mb, 3),
            threads=torch.get_num_threads(),
        )
        contender.save(folder)
    for n, seed in missing:
        part = random.Random(seed).sample(list(job.train), len(job.train))[:n]  # a smaller one begins a larger one
        again = make(job.task, part, job.rows, **({"seed": seed} if name == ENCODER else {}))
        assert again
        draws = [*contender.draws, Draw(rows=n, seed=seed, texts=again.texts)]
        contender = contender.model_copy(update={"draws": draws})
        contender.save(folder)
    return contender


def run_language(job: Job, run: Run, trained_now: bool, names: Sequence[str]) -> Iterator[tuple[str, Contender]]:
    """The contenders of these names with a run's language model: (name, result), one at a time.

    They are the tuned model, the base told the task, and the base shown examples.
    """
    measured: Measured | None = None
    profile = run.profile
    shared = {"model": profile.model, "dtype": profile.dtype, "seed": profile.seed, "most": run.answer_tokens}
    for name in names:
        key = job.key(name, **shared, **({"adapter": adapter_digest(run)} if name == QLORA else {}))
        folder, own = _folder(job, name), TUNED if name == QLORA else name
        if contender := kept(job, folder, key):
            yield name, contender
            continue
        earlier = (run.folder / answers_file("test", own)).is_file()
        measured = measured or Measured(run, "test", job.rows, job.say)
        measured.few_shot() if name == FEW_SHOT else measured.side(own)
        result = measured.models[own]
        base_mb = size_mb(_files_of(profile.model))
        contender = _contender(
            key,
            about=result.about + (_about_run(run, trained_now) if name == QLORA else ""),
            texts=measured.texts[own],
            training_seconds=result.training_seconds,
            seconds_per_message=result.seconds_per_message,
            memory_mb=result.memory_mb,
            disk_mb=round(base_mb + (size_mb(run.adapter) if name == QLORA else 0), 3),
            threads=None if earlier else torch.get_num_threads(),
        )
        contender.save(folder)
        yield name, contender


def _about_run(run: Run, trained_now: bool) -> str:
    training, when = run.training, "trained now" if trained_now else "an earlier run was taken"
    return f"; {run.name}, {when}; its training held {training.peak_memory_mb:,.0f} MB at most"


def _files_of(model: str) -> Path:
    """The folder with a base model's files, of this machine's copy."""
    from huggingface_hub import snapshot_download

    place = prepare_model(model)
    return Path(place) if Path(place).is_dir() else Path(snapshot_download(model, local_files_only=True))


def _contender(key: dict[str, Any], **values: Any) -> Contender:
    return Contender(key=key, measured=datetime.date.today().isoformat(), **values)


def kept(job: Job, folder: Path, key: dict[str, Any]) -> Contender | None:
    """The contender's result from an earlier call, if it was made from the same data in the same way."""
    if not Contender.exists(folder):
        return None
    try:
        contender = Contender.load(folder)
    except KitError as error:
        job.say(f"  measured again: {error}")
        return None
    if contender.key != key:
        job.say(f"  {key['contender']}: measured again, its data or settings have changed")
        return None
    job.say(f"  {key['contender']}: taken from {contender.measured}")
    return contender


def _folder(job: Job, name: str) -> Path:
    return job.folder / name.lower().replace(" ", "-")


class Pace:
    """Says after each contender how long it took, and how long the others will take at this pace."""

    def __init__(self, names: Sequence[str], job: Job):
        parts = {name: EXPECTED[name] for name in names}
        self.expected = {name: fixed + a * len(job.train) + b * len(job.rows) for name, (fixed, a, b) in parts.items()}
        if ENCODER in names:
            self.expected[ENCODER] += A_STEP * sum(map(steps_of, (len(job.train), *(n for n, _ in job.parts(ENCODER)))))
        self.say, self.last = job.say, time.monotonic()
        self.took, self.known = dict[str, float](), dict[str, float]()  # seconds, of what is done and of what was timed

    def announce(self) -> None:
        """Say what will be done, and in about how long."""
        total = clock(sum(self.expected.values()))
        self.say(f"{len(self.expected)} steps, about {total} on two quiet cores: {', '.join(self.expected)}")

    def measured(self, name: str, seconds: float) -> None:
        """The contender's own first steps tell that it takes so many seconds from now on; said once."""
        if name in self.known:
            return
        self.known[name] = time.monotonic() - self.last + seconds
        self.say(f"  {name}: about {clock(seconds)} by its first steps; about {clock(self._left())} left in all")

    def __call__(self, name: str) -> None:
        """One more step is done."""
        self.took[name], self.last = time.monotonic() - self.last, time.monotonic()
        ahead = f"; about {clock(left)} left" if (left := self._left()) else ""
        self.say(f"[{len(self.took)}/{len(self.expected)}] {name}: {clock(self.took[name])}{ahead}")

    def _left(self) -> float:
        """Seconds for all that is not done: as timed, else as expected and as much slower as it went so far."""
        timed = self.known | self.took
        slower = (sum(timed.values()) + SETTLED) / (sum(self.expected[name] for name in timed) + SETTLED)
        left = {name: self.known.get(name, own * max(1.0, slower)) for name, own in self.expected.items()}
        left = {name: seconds for name, seconds in left.items() if name not in self.took}
        return max(0.0, sum(left.values()) - (time.monotonic() - self.last)) if left else 0.0
