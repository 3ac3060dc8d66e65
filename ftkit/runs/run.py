"""Runs: one folder under `runs/` for each training. Every stage reads a run and adds its part to it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import digest, json_lines, new_folder, read_json, read_text, write_json
from ftkit.common.machine import describe_machine, versions
from ftkit.common.paths import kit_root, runs_dir
from ftkit.common.profiles import Profile
from ftkit.data.task import Task, load_task
from ftkit.models.find import find_model

FORMAT = 1
REFERENCE = "reference"  # the name of the kit's own run
PARTS = ("task", "profile", "training", "versions", "machine")  # objects in `run.json`
TYPES = {"str": str, "int": int, "float": (int, float), "bool": bool}  # of the profile's values
RESTORE = "Restore it from a copy, or train again."
SPARE = 4  # tokens that an answer may be longer than the longest in training


@dataclass(frozen=True)
class Run:
    """A run folder. `run.json` holds what it was made from and what it measured; `adapter/` the trained weights."""

    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        """The content of `run.json`. Raises `KitError` if it is missing or broken."""
        record = read_json(self.folder / "run.json")
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise KitError(f"{self.folder / 'run.json'} is not the record of a run (format {FORMAT}). {RESTORE}")
        if wrong := [part for part in PARTS if not isinstance(record.get(part, {}), dict)]:
            raise KitError(f"{self.folder / 'run.json'} is broken: {wrong[0]!r} is no object. {RESTORE}")
        return record

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
        """Whether it is the kit's own run and not one of yours."""
        return self.name == REFERENCE and self.folder.parent == runs_dir()

    @property
    def profile(self) -> Profile:
        """The profile that the run was trained with. Raises `KitError` if a value is missing or of another type."""
        try:
            profile = Profile(**self.record["profile"])
        except (KeyError, TypeError):
            raise KitError(f"{self.folder / 'run.json'} has no usable profile. {RESTORE}") from None
        for name, value in asdict(profile).items():
            if not isinstance(value, TYPES[Profile.__annotations__[name]]):
                raise KitError(f"{self.folder / 'run.json'}: the profile's {name} is {value!r}. {RESTORE}")
        return profile

    @property
    def answer_tokens(self) -> int:
        """Tokens that the tuned model may write: the profile's, and never fewer than its longest training answer took."""
        learned = self.record.get("training", {}).get("longest_completion", 0)
        return max(self.profile.max_new_tokens, learned + SPARE)

    @property
    def task(self) -> Task:
        """The task that the run was trained on."""
        try:
            folder = self.record["task"]["folder"]
        except (KeyError, TypeError):
            raise KitError(f"{self.folder / 'run.json'} does not name its task. {RESTORE}") from None
        return load_task(folder)

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return self.record.get("status") == "finished"

    def update(self, **parts: Any) -> None:
        """Set parts of `run.json`, the file replaced as a whole."""
        write_json(self.folder / "run.json", {**self.record, **parts})

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

    def log(self) -> list[dict[str, float]]:
        """The loss log: a dict a line with step, loss, learning rate, tokens seen and seconds."""
        path = self.folder / "log.jsonl"
        if not path.is_file():
            return []
        lines = json_lines(read_text(path))
        return [line.value for line in lines if not line.fault]  # a killed process may leave half a line


def new_run(task: Task, profile: Profile, reason: str) -> Run:
    """Make the folder of a new run, its `run.json` with everything that decides the result."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    stem = f"{task.name}-{profile.name}-{stamp}"
    folder, n = runs_dir() / stem, 1
    while folder.exists():
        n += 1
        folder = runs_dir() / f"{stem}-{n}"
    machine = describe_machine()
    write_json(
        folder / "run.json",
        {
            "format": FORMAT,
            "status": "training",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": {"name": task.name, "folder": _portable(task.folder), "fingerprint": task.fingerprint()},
            "profile": asdict(profile),
            "base_source": {"hub": "hub", "folder": "folder"}.get(find_model(profile.model).kind, "PyPI package"),
            "reason": reason,
            "seed": profile.seed,
            "versions": versions(),
            "machine": {"system": machine["system"], "processor": machine["cpu"]},
        },
    )
    return Run(folder)


def _portable(folder: Path) -> str:
    """A kit's own task by its name (the run then works on every machine), another by its absolute path."""
    return folder.name if folder.parent == kit_root() / "data" else str(folder.resolve())


def all_runs() -> list[Run]:
    """Every run under `runs/`, the newest first."""
    folders = [p.parent for p in runs_dir().glob("*/run.json")]
    readable = []
    for folder in folders:
        try:
            readable.append((Run(folder).record["created"], folder.name, Run(folder)))
        except (KitError, KeyError):
            continue
    return [run for *_, run in sorted(readable, key=lambda entry: entry[:2], reverse=True)]


def reference_run() -> Run | None:
    """The run that the kit ships, for those who have none yet; None where it was left out.

    It is copied to `runs/reference` at first use, and again where the kit brings a newer one; what is added, is added there.
    """
    shipped, copy = Run(kit_root() / "data" / "reference_run"), Run(runs_dir() / REFERENCE)
    if not (shipped.folder / "run.json").is_file():
        return None
    if (copy.folder / "run.json").is_file() and copy.record["created"] != shipped.record["created"]:
        shutil.rmtree(copy.folder)
    if not copy.folder.exists():
        with new_folder(copy.folder) as temporary:
            shutil.copytree(shipped.folder, temporary, dirs_exist_ok=True)
    return copy


def open_run(name: str | Path | None = None, unfinished: bool = False) -> Run:
    """Open a run: a folder, a name under `runs/`, or (left out) the newest finished one, and without one the kit's own.

    The kit's own is also had by its name, "reference". `KitError` if there is no such run, or it is not finished (unless
    `unfinished` ones are wanted too).
    """
    if name is None:
        finished = [run for run in all_runs() if run.finished and not run.is_reference]
        own = finished[0] if finished else reference_run()
        if own is None:
            raise KitError(f"There is no finished run in {runs_dir()} yet. Make one: ftkit train")
        return own
    if name == REFERENCE and (reference := reference_run()):
        return reference
    folder = next((p for p in (Path(name).expanduser(), runs_dir() / str(name)) if (p / "run.json").is_file()), None)
    if folder is None:
        known = ", ".join(run.name for run in all_runs()[:5]) or "none yet"
        raise KitError(f"{name} is not a run: a run is a folder with run.json. Here are: {known}.")
    run = Run(folder)
    if not run.finished and not unfinished:
        raise KitError(f"{folder} is not finished. Go on with it: ftkit train {run.record['task']['folder']}")
    return run


def finished_run(task: Task, profile: Profile) -> Run | None:
    """The newest finished run with the same data and profile (model, recipe and seed); None if there is none."""
    return next((run for run in _runs_of(task, profile) if run.finished), None)


def unfinished_run(task: Task, profile: Profile) -> Run | None:
    """The newest run with the same data and profile that was stopped midway and that no process is training; or None."""
    return next((run for run in _runs_of(task, profile) if not run.finished and not run.is_claimed), None)


def _runs_of(task: Task, profile: Profile) -> Iterator[Run]:
    for run in all_runs():
        record = run.record
        if (
            not run.is_reference
            and record["task"]["fingerprint"] == task.fingerprint()
            and record["profile"] == asdict(profile)
        ):
            yield run


def adapter_digest(run: Run) -> str:
    """SHA-256 of the adapter's weights (first 16 hexadecimal digits): whose answers predictions are.

    Raises `KitError` if there are none.
    """
    path = run.adapter / "adapter_model.safetensors"
    if not path.is_file():
        raise KitError(f"{path} is missing: the adapter was not saved. Train again: ftkit train --fresh")
    return digest(path.read_bytes())
