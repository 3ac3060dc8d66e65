"""Profiles: how a run fits its hardware. Data in `profiles.toml`, one dial, chosen with its reason (lesson 00)."""

from __future__ import annotations

import os
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.machine import Hardware, detect_hardware

PROFILES_FILE = Path(__file__).with_name("profiles.toml")

# Batches are padded to a multiple of so many tokens: blocks of fewer sizes fit into each other's place in memory, and a
# GPU's matrix units like multiples of eight.
PAD_TO = 8
MOST_REPLAY = 0.5  # rows of general talk, as a share of the task's: with more the task would be the lesser part


@dataclass(frozen=True)
class Profile:
    """Everything about a run that depends on the machine: base model, dtype, batch, length, LoRA, steps.

    Lengths are in tokens, `warmup` is a share of the steps, `max_steps` -1 means that `epochs` decides. `demo_test_rows` is
    how many test messages `make demo` measures before it serves (-1: all). `replay` is how many rows of general talk are
    mixed into the training, as a share of its rows.
    """

    name: str
    about: str
    model: str
    dtype: str
    seed: int
    epochs: float
    max_steps: int
    batch_size: int
    gradient_accumulation: int
    max_length: int
    learning_rate: float
    warmup: float
    rank: int
    alpha: int
    dropout: float
    gradient_checkpointing: bool
    optimizer: str
    checkpoint_steps: int
    generation_batch: int
    max_new_tokens: int
    demo_test_rows: int = -1
    replay: float = 0.0

    @property
    def examples_per_step(self) -> int:
        """Examples that one step learns from: `gradient_accumulation` batches of `batch_size`."""
        return self.batch_size * self.gradient_accumulation

    def with_changes(self, **changes: Any) -> Profile:
        """Copy with some values changed, for example `profile.with_changes(rank=16)`."""
        unknown = set(changes) - {f.name for f in fields(self)}
        if unknown:
            raise KitError(f"A profile has no {', '.join(sorted(unknown))}; it has {', '.join(asdict(self))}.")
        return replace(self, **changes)


@dataclass(frozen=True)
class Asked:
    """What was asked of a training by option; it always wins. `batch` is in rows a step, `minutes` the time allowed.

    `keep_best` takes the adapter of the checkpoint with the lowest validation loss, and not the last.
    """

    epochs: float | None = None
    steps: int | None = None
    batch: int | None = None
    rate: float | None = None
    minutes: float | None = None
    keep_best: bool = False
    replay: float | None = None


@dataclass(frozen=True)
class Choice:
    """A profile together with the reason why it was taken."""

    profile: Profile
    reason: str


def settle_replay(profile: Profile, by_task: float | None, asked: float | None = None) -> Profile:
    """The profile with the share of general talk that a training gets: as asked for, else the task's, else its own.

    Raises `KitError` for a share outside of 0 to `MOST_REPLAY`.
    """
    share = next(each for each in (asked, by_task, profile.replay) if each is not None)
    if not 0 <= share <= MOST_REPLAY:
        raise KitError(f"replay is {share:g}: it is a share of the training rows, from 0 to {MOST_REPLAY:g}.")
    return profile.with_changes(replay=float(share))


def read_profiles(path: Path = PROFILES_FILE) -> dict[str, Profile]:
    """Read all profiles; `inherits` is resolved. Raises `KitError` for a value that is missing or unknown."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))

    def resolve(name: str) -> dict[str, Any]:
        own = dict(table[name])
        parent = own.pop("inherits", None)
        return {**(resolve(parent) if parent else {}), **own}

    profiles = {}
    for name in table:
        try:
            profiles[name] = Profile(name=name, **resolve(name))
        except TypeError as error:
            raise KitError(f"{path}, profile [{name}]: {str(error).split('() ')[-1]}.") from None
    return profiles


def choose_profile(name: str | None = None, hardware: Hardware | None = None) -> Choice:
    """Take the named profile, else `$FTKIT_PROFILE`, else the one that fits the hardware; always with the reason.

    The GPU's generation is read from its compute capability: `torch.cuda.is_bf16_supported()` also says yes to
    emulation, which a T4 does slowly. Raises `KitError` for an unknown name, listing the known ones.
    """
    profiles = read_profiles()

    def named(wanted: str, origin: str) -> Choice:
        if wanted not in profiles:
            raise KitError(f"There is no profile {wanted!r} ({origin}). Known: {', '.join(profiles)}.")
        return Choice(profiles[wanted], f"asked for by {origin}")

    if name:
        return named(name, "argument")
    if from_environment := os.environ.get("FTKIT_PROFILE"):
        return named(from_environment, "FTKIT_PROFILE")
    hardware = hardware or detect_hardware()
    if hardware.device != "cuda":
        return Choice(profiles["cpu"], f"no CUDA GPU here, {hardware.name}, {hardware.memory:.0f} GB of memory")
    gpu = f"{hardware.name}, {hardware.memory:.0f} GB, compute capability {'.'.join(map(str, hardware.capability))}"
    if hardware.capability >= (8, 0) and hardware.memory >= 22:
        return Choice(profiles["big"], f"{gpu}: Ampere or later with room for a 7B model in 4-bit")
    if hardware.memory >= 11:
        return Choice(profiles["t4"], f"{gpu}: room for a model of 1 to 2 billion parameters")
    return Choice(profiles["cpu"], f"{gpu}: too small for the larger models, the small one trains on it well")
