"""Runs: one folder under `runs/` for each training. Every stage reads a run and adds its part to it."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ftkit.common.errors import KitError
from ftkit.common.files import digest, new_folder, read_text
from ftkit.common.machine import describe_machine, versions
from ftkit.common.paths import expanded, folder_name_problem, kit_root, runs_dir
from ftkit.common.profiles import Profile, settle_replay
from ftkit.data.task import Task, load_task
from ftkit.models.find import find_model
from ftkit.runs.documents import (
    GLIMPSES,
    LOG,
    Evaluation,
    Glimpse,
    LogEntry,
    Machine,
    Part,
    RunRecord,
    TaskOfRun,
    TrainingRecord,
    first_fault,
)

REFERENCE = "reference"  # the name of the kit's own run; of its other tasks' runs it is "reference-TASK"
SPARE = 4  # tokens that an answer may be longer than the longest in training
Line = TypeVar("Line", bound=Part)


@dataclass(frozen=True)
class Run:
    """A run folder. `run.json` holds what it was made from and what it measured; `adapter/` the trained weights."""

    folder: Path

    @property
    def record(self) -> RunRecord:
        """The content of `run.json`, read anew. Raises `KitError` if it is missing, broken or of another version."""
        return RunRecord.load(self.folder)

    @property
    def training(self) -> TrainingRecord:
        """What the finished training did and took. Raises `KitError` if it has not come to its end."""
        if (training := self.record.training) is None:
            raise KitError(f"{self.name} is not finished. Go on with it: ftkit train {self.record.task.folder}")
        return training

    @property
    def adapter(self) -> Path:
        """Folder of the trained adapter."""
        return self.folder / "adapter"

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def is_reference(self) -> bool:
        """Whether it is one of the kit's own runs and not one of yours."""
        return _shipped(self.name) is not None and self.folder.parent == runs_dir()

    @property
    def profile(self) -> Profile:
        """The profile that the run was trained with."""
        return self.record.profile

    @property
    def answer_tokens(self) -> int:
        """Tokens that the tuned model may write: the profile's, and never fewer than its longest training answer took."""
        record = self.record
        learned = record.training.longest_completion if record.training else 0
        return max(record.profile.max_new_tokens, learned + SPARE)

    @property
    def task(self) -> Task:
        """The task that the run was trained on, with the system prompt of the training: an edited one was never learned.

        Raises `KitError` if it was moved or broken since.
        """
        recorded = self.record.task
        try:
            task = load_task(recorded.folder)
        except KitError as error:
            place = RunRecord.path(self.folder)
            moved = f"If it was moved, write its new place into {place}, at task, folder."
            raise KitError(f"The task that {self.name} was trained on cannot be opened. {error} {moved}") from None
        return task if recorded.system_prompt is None else replace(task, system_prompt=recorded.system_prompt)

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return self.record.status == "finished"

    @property
    def is_evaluated(self) -> bool:
        """Whether it has been evaluated."""
        return Evaluation.exists(self.folder)

    def describe_replay(self) -> str:
        """Which share of general talk the run's training had, in a sentence."""
        training = self.training
        if not training.replay:
            return "Its training had no general talk: ftkit train --replay 0.1 mixes some in, against forgetting."
        beside = f"{training.replay:,} rows of general talk beside {training.examples:,} of the task"
        return f"Its training had {beside} (replay {self.profile.replay:g})."

    def update(self, **parts: Any) -> None:
        """Set parts of `run.json`, the file replaced as a whole."""
        self.record.model_copy(update=parts).save(self.folder)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the run for one process; the system lets go of it when the process ends, however it ends."""
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.folder / ".lock", timeout=0):
                yield
        except Timeout:
            raise KitError(f"{self.name} is being trained by another process; wait, or start anew with --fresh.") from None

    @property
    def is_claimed(self) -> bool:
        """Whether another process is training this run now."""
        try:
            with self.claimed():
                return False
        except KitError:
            return True

    def log(self) -> list[LogEntry]:
        """The loss log, an entry a line; half a line, which a killed process may leave, is passed over."""
        return self._lines(LOG, LogEntry)

    def glimpses(self) -> list[Glimpse]:
        """What the model answered to held-out messages while it learned, by step; empty where nobody looked."""
        return self._lines(GLIMPSES, Glimpse)

    def _lines(self, file: str, kind: type[Line]) -> list[Line]:
        path = self.folder / file
        lines = read_text(path).splitlines() if path.is_file() else []
        try:
            return [kind.model_validate_json(line) for line in lines if line.endswith("}")]
        except ValidationError as error:
            raise KitError(f"{path}: a line is broken ({first_fault(error)}). {RunRecord.CURE}") from None

    def loss_curve(self) -> list[tuple[int, float]]:
        """The (step, loss) pairs of the loss log."""
        return [(entry.step, entry.loss) for entry in self.log()]

    def validation_curve(self) -> list[tuple[int, float]]:
        """The (step, loss) pairs of the looks at held-out rows; empty where nobody looked."""
        return [(entry.step, entry.validation_loss) for entry in self.log() if entry.validation_loss is not None]


def new_run(task: Task, profile: Profile, reason: str) -> Run:
    """Make the folder of a new run, its `run.json` with everything that decides the result."""
    if problem := folder_name_problem(task.name):
        raise KitError(f"The task's name {task.name!r} {problem}.")
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    stem = f"{task.name}-{profile.name}-{stamp}"
    folder, n = runs_dir() / stem, 1
    while folder.exists():
        n += 1
        folder = runs_dir() / f"{stem}-{n}"
    machine = describe_machine()
    record = RunRecord(
        status="training",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=TaskOfRun(
            name=task.name,
            folder=_portable(task.folder),
            fingerprint=task.fingerprint(),
            system_prompt=task.system_prompt,
        ),
        profile=profile,
        base_source={"hub": "hub", "folder": "folder"}.get(find_model(profile.model).kind, "PyPI package"),
        reason=reason,
        seed=profile.seed,
        versions=versions(),
        machine=Machine(system=machine["system"], processor=machine["cpu"]),
    )
    try:
        record.save(folder)
    except BaseException:  # an empty folder would be left
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Run(folder)


def _portable(folder: Path) -> str:
    """A kit's own task by its name (the run then works on every machine), another by its absolute path."""
    return folder.name if folder.parent == kit_root() / "data" else str(folder.resolve())


def all_runs() -> list[Run]:
    """Every run under `runs/`, the newest first."""
    readable = []
    for path in runs_dir().glob(f"*/{RunRecord.FILE}"):
        try:
            readable.append((Run(path.parent).record.created, path.parent.name, Run(path.parent)))
        except KitError:
            continue
    return [run for *_, run in sorted(readable, key=lambda entry: entry[:2], reverse=True)]


def passed_over(run: Run) -> list[str]:
    """Runs newer than `run` that cannot be taken: a sentence each, why not, and what to do."""
    since = RunRecord.path(run.folder).stat().st_mtime if not run.is_reference else 0
    sentences = []
    for path in sorted(runs_dir().glob(f"*/{RunRecord.FILE}")):
        other = Run(path.parent)
        if path.stat().st_mtime <= since or other.is_reference:
            continue
        try:
            if not other.finished:
                sentences.append(f"{other.name} is not finished. Go on with it: ftkit train {other.record.task.folder}")
        except KitError as error:
            sentences.append(str(error))
    return sentences


def _shipped(name: str) -> Run | None:
    """The run that the kit ships under a name: "reference" lies in `data/reference_run`, others in `data/reference_TASK`."""
    if not re.fullmatch(rf"{REFERENCE}(-\w+)?", name):
        return None
    run = Run(kit_root() / "data" / ("reference_run" if name == REFERENCE else name.replace("-", "_")))
    return run if name == REFERENCE or RunRecord.exists(run.folder) else None


def reference_run(name: str = REFERENCE) -> Run | None:
    """A run that the kit ships, for those who have none yet; None where there is none of that name.

    It is copied to `runs/NAME` at first use, and again where the kit brings a newer one; what is added, is added there.
    """
    shipped, copy = _shipped(name), Run(runs_dir() / name)
    if shipped is None or not RunRecord.exists(shipped.folder):
        return None
    if RunRecord.exists(copy.folder) and copy.record.created != shipped.record.created:
        shutil.rmtree(copy.folder)
    if not copy.folder.exists():
        with new_folder(copy.folder) as temporary:
            shutil.copytree(shipped.folder, temporary, dirs_exist_ok=True)
    return copy


def open_run(name: str | Path | None = None, unfinished: bool = False) -> Run:
    """Open a run: a folder, a name under `runs/`, or (left out) the newest finished one, and without one the kit's own.

    The kit's own are also had by their names, "reference" and, of its other tasks, "reference-TASK". `KitError` if there is
    no such run, or it is not finished (unless `unfinished` ones are wanted too).
    """
    if name is None:
        finished = [run for run in all_runs() if run.finished and not run.is_reference]
        own = finished[0] if finished else reference_run()
        if own is None:
            raise KitError(f"There is no finished run in {runs_dir()} yet. Make one: ftkit train")
        return own
    if str(name).startswith(REFERENCE) and (reference := reference_run(str(name))):
        return reference
    folder = next((p for p in (expanded(name), runs_dir() / str(name)) if RunRecord.exists(p)), None)
    if folder is None:
        known = ", ".join(run.name for run in all_runs()[:5]) or "none yet"
        raise KitError(f"{name} is not a run: a run is a folder with {RunRecord.FILE}. Here are: {known}.")
    run = Run(folder)
    if not run.finished and not unfinished:
        raise KitError(f"{folder} is not finished. Go on with it: ftkit train {run.record.task.folder}")
    return run


def finished_run(task: Task, profile: Profile) -> Run | None:
    """The newest finished run with the same data and profile (model, recipe and seed); None if there is none."""
    return next((run for run in _runs_of(task, settle_replay(profile, task.replay)) if run.finished), None)


def unfinished_run(task: Task, profile: Profile) -> Run | None:
    """The newest run with the same data and profile that was stopped midway and that no process is training; or None."""
    return next((run for run in _runs_of(task, profile) if not run.finished and not run.is_claimed), None)


def claimed_run(task: Task) -> Run | None:
    """The newest run of a task's data that a process is training now; None if there is none."""
    same = (run for run in all_runs() if run.record.task.fingerprint == task.fingerprint())
    return next((run for run in same if not run.finished and run.is_claimed), None)


def _runs_of(task: Task, profile: Profile) -> Iterator[Run]:
    for run in all_runs():
        record = run.record
        same = record.task.fingerprint == task.fingerprint() and record.profile == profile
        if same and not run.is_reference:
            yield run


def adapter_digest(run: Run) -> str:
    """SHA-256 of the adapter's weights (first 16 hexadecimal digits): whose answers predictions are.

    Raises `KitError` if there are none.
    """
    path = run.adapter / "adapter_model.safetensors"
    if not path.is_file():
        raise KitError(f"{path} is missing: the adapter was not saved. Train again: ftkit train --fresh")
    return digest(path.read_bytes())
