"""The schedule: how epochs, batch and learning rate follow the rows, their length, the model and the time allowed.

The rule was looked for by experiment: `experiments/SCHEDULE.md` has the figures, and says what was not tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ftkit.common.console import clock
from ftkit.common.machine import Hardware, detect_hardware
from ftkit.common.profiles import Asked, Profile, read_profiles
from ftkit.training.plan import DEVICES, SHARE, Shape, model_shape, operations_per_token

ENOUGH = 800  # rows from which on the profile's own epochs are kept; fewer are repeated until 2 x ENOUGH have been seen
EPOCHS, MOST_EPOCHS, VERY_FEW = 4, 6, 600  # no more than 4 times, or 6 where they are so few that 600 are not seen by then
FEW_A_STEP = 2  # rows a step where there are few: many small steps teach more than few large ones (experiments/RECIPE.md)
MINUTES_FOR_FEW = 10.0  # what repeating may take
MINUTES = 30.0  # no training takes longer unasked; what is asked for is kept to by this machine's own speed (budget.py)
# FLOP/s that a training reaches: 500 tokens/s of the `cpu` profile on the two cores of the README. Not measured anew for
# each training: the same command must choose the same schedule, or a training that was stopped could not be taken up.
CPU_FLOPS = 2.6e11
SIZE_POWER = 0.4  # rate ~ weights^-0.4: the line through the profiles' own rates, from 135 million to 7 billion weights


@dataclass(frozen=True)
class Schedule:
    """A profile with its epochs, batch and rate settled, and the sentences that say what was chosen and why.

    `seconds` is what the training should take on the machine that `CPU_FLOPS` was taken on; on a GPU by its data sheet.
    """

    profile: Profile
    reasons: tuple[str, ...]
    seconds: float


def follow_data(
    profile: Profile,
    lengths: Sequence[int],
    asked: Asked | None = None,
    shape: Shape | None = None,
    hardware: Hardware | None = None,
) -> Schedule:
    """Settle epochs, batch and learning rate for rows of these `lengths` (in tokens, one for each training row).

    A profile that counts its steps (`max_steps`) is left as it is. Where minutes are asked for, nothing is cut here: the
    training's first steps tell how much can be made in that time (`budget.Pace`).
    """
    asked, hardware = asked or Asked(), hardware or detect_hardware()
    shape = shape or model_shape(profile.model)
    settled, why = _as_asked(profile, asked)
    if not asked.rate:
        settled = _fit_rate(settled, shape, why)
    if settled.max_steps < 0 and not asked.epochs:
        few = len(lengths) < ENOUGH
        if few and not asked.batch and settled.examples_per_step > FEW_A_STEP:
            settled = settled.with_changes(batch_size=FEW_A_STEP, gradient_accumulation=1)
        an_epoch = seconds_per_epoch(settled, lengths, shape, hardware)
        settled = _repeat_few(settled, len(lengths), an_epoch, asked, why) if few else _keep(settled, why)
        settled = settled if asked.minutes else _keep_to_time(settled, len(lengths), an_epoch, why)
    steps = steps_of(settled, len(lengths))
    share = steps * settled.examples_per_step / len(lengths)
    seconds = share * seconds_per_epoch(settled, lengths, shape, hardware)
    return Schedule(settled, (_in_words(settled, len(lengths), steps, seconds, hardware), *why), seconds)


def steps_of(profile: Profile, rows: int) -> int:
    """Updates that a training makes: an epoch has a step for every `examples_per_step` rows, the last one smaller."""
    if profile.max_steps > 0:
        return profile.max_steps
    return max(1, math.ceil(profile.epochs * math.ceil(rows / profile.examples_per_step)))


def seconds_per_epoch(profile: Profile, lengths: Sequence[int], shape: Shape, hardware: Hardware) -> float:
    """How long an epoch of QLoRA takes on two quiet cores like the README's, or by a GPU's data sheet (else a T4's)."""
    tokens = sum(lengths)
    operations = tokens * operations_per_token(shape, "qlora", profile, tokens / len(lengths))
    if hardware.device == "cpu":
        return operations / CPU_FLOPS
    tera = next((tera for name, (_, tera) in DEVICES.items() if name in hardware.name), DEVICES["T4"][1])
    return operations / (tera * 1e12 * SHARE["cuda"])


def _as_asked(profile: Profile, asked: Asked) -> tuple[Profile, list[str]]:
    """The profile with the options laid over it, and the sentence that says so."""
    changes: dict[str, float | int] = {}
    if asked.epochs:
        changes |= {"epochs": float(asked.epochs), "max_steps": -1}
    if asked.steps:
        changes["max_steps"] = asked.steps
    if asked.batch:
        changes |= {"batch_size": asked.batch, "gradient_accumulation": 1}
    if asked.rate:
        changes["learning_rate"] = asked.rate
    named = [f"{name} {getattr(asked, name):g}" for name in ("epochs", "steps", "batch", "rate") if getattr(asked, name)]
    return profile.with_changes(**changes), [f"As asked: {', '.join(named)}."] if named else []


def _fit_rate(profile: Profile, shape: Shape, why: list[str]) -> Profile:
    """A model larger than the profile's own takes smaller steps."""
    own = read_profiles().get(profile.name)
    if own is None or own.model == profile.model:
        return profile
    larger = shape.weights / model_shape(own.model).weights
    rate = float(f"{profile.learning_rate * larger**-SIZE_POWER:.1g}")
    if rate >= profile.learning_rate:
        return profile
    why.append(
        f"Learning rate {rate:g}, not {profile.learning_rate:g}: the model has {larger:.1f} times the weights of the "
        "profile's own. By the rates of the profiles; nobody has searched it. --rate decides otherwise."
    )
    return profile.with_changes(learning_rate=rate)


def _keep(profile: Profile, why: list[str]) -> Profile:
    why.append(f"Why: from {ENOUGH} rows on, the profile's {profile.epochs:g} epochs are kept (experiments/SCHEDULE.md).")
    return profile


def _repeat_few(profile: Profile, rows: int, an_epoch: float, asked: Asked, why: list[str]) -> Profile:
    """Few rows are seen more often; `an_epoch` in seconds."""
    most = max(EPOCHS, min(MOST_EPOCHS, round(VERY_FEW / rows, 1)))
    wanted = round(2 * ENOUGH / rows, 1)
    in_time = MOST_EPOCHS if asked.minutes else _two_digits(60 * MINUTES_FOR_FEW / an_epoch)
    epochs = max(profile.epochs, min(wanted, most, in_time))
    limit = f", but {most:g} times at most" if epochs == most < wanted else ""
    limit = ", as far as time allows" if epochs < min(wanted, most) else limit
    why.append(
        f"Why: {rows} rows are few, and updates decide. They are repeated until {2 * ENOUGH:,} have been seen{limit} "
        "(experiments/SCHEDULE.md). --epochs decides otherwise."
    )
    return profile.with_changes(epochs=float(epochs))


def _keep_to_time(profile: Profile, rows: int, an_epoch: float, why: list[str]) -> Profile:
    """No more epochs than `MINUTES` allow; below one epoch, a part of the rows drawn at random."""
    if profile.epochs * an_epoch <= 60 * MINUTES:
        return profile
    epochs = _two_digits(60 * MINUTES / an_epoch)
    part = f"all rows {epochs:g} times" if epochs >= 1 else f"{epochs * rows:,.0f} of the rows, drawn at random, once"
    whole = profile.epochs * an_epoch
    why.append(
        f"Time: {profile.epochs:g} epochs would take some {clock(whole)}; unasked no training takes longer than {MINUTES:g} "
        f"minutes. The model sees {part}. --minutes {math.ceil(whole / 60)} allows all, where the machine is as fast."
    )
    return profile.with_changes(epochs=epochs)


def _two_digits(number: float) -> float:
    """Rounded down to two digits, so that what was allowed is kept to."""
    scale = 10 ** (1 - math.floor(math.log10(number)))
    return math.floor(number * scale) / scale


def _in_words(profile: Profile, rows: int, steps: int, seconds: float, hardware: Hardware) -> str:
    where = "on two quiet cores" if hardware.device == "cpu" else f"on {hardware.name}"
    length = f"{profile.epochs:g} epochs, " if profile.max_steps < 0 else ""
    return (
        f"Schedule for {rows:,} rows: {length}{steps:,} steps of {profile.examples_per_step}, learning rate "
        f"{profile.learning_rate:g}; some {clock(seconds)} {where}."
    )
