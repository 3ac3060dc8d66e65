"""The time allowed: the first steps tell how fast this machine is, and then it is settled how many steps are made.

`--minutes` is a limit for this machine as it is now, and not for one that a table was made on. A shorter training is a whole
one: its learning rate falls to zero at its own last step, as in the trainings that the curve below was measured on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import TrainerCallback, get_scheduler

from ftkit.common.console import clock
from ftkit.common.processes import agree, is_first, world_size
from ftkit.common.profiles import Profile
from ftkit.runs.documents import Budget
from ftkit.training.plan import plan_training
from ftkit.training.progress import Progress
from ftkit.training.schedule import steps_of

if TYPE_CHECKING:
    from ftkit.training.trainer import CompletionTrainer

WARM, MEASURED = 2, 20  # steps: the first are slower and left out; after so many it is settled
MEASURING = 0.1  # of the time allowed that may go by before it is settled: of slow steps fewer are measured
KEPT_BACK = 0.1  # of the time left: for looks at held-out rows, and for steps that take longer than the first
# The desk by the recipe of the `cpu` profile in so many steps, each to the end of its own schedule: right fields and whole
# tickets of the validation split, in %, means over seeds, never less than in fewer steps (experiments/results/recipe.json)
CURVE = ((200, 70.5, 16.3), (400, 81.2, 35.3), (720, 86.8, 49.1), (840, 87.8, 49.1), (1140, 87.9, 51.3), (1460, 89.7, 56.7))


class Pace(TrainerCallback):
    """Measures the first steps: `seconds_per_step`, None until then. Where minutes are allowed, it then settles the steps.

    The learning rate follows: the schedule is made anew for the number of steps. Where it is settled during the warm-up, as
    for any training of 400 steps or more, the rate then rises faster than before, to the same height. What was settled is
    kept in `run.json`: a run that is taken up makes the same steps, whatever the machine does then. Where all steps can be
    made, and without minutes, nothing of the training is touched.
    """

    def __init__(self, trainer: CompletionTrainer, progress: Progress, minutes: float | None = None):
        self.trainer, self.progress, self.minutes = trainer, progress, minutes
        self.seconds_per_step: float | None = None
        self.settled = False

    def take_up(self, begun: bool) -> None:
        """Before the training: look what was settled for a run that is taken up; `begun` if steps of it are done."""
        run, say = self.progress.run, self.progress.say
        kept: Budget | None = agree(run.record.budget if is_first() else None)
        self.settled = kept is not None and kept.steps is not None
        if kept and kept.steps is not None:
            self.trainer.args.max_steps = kept.steps
            say(f"This run makes {kept.steps:,} of {kept.whole:,} steps, as was settled for {kept.minutes:g} minutes.")
        elif begun and self.minutes and not kept:
            say("This run began without a limit of time and goes on so: --minutes is for a training that begins (--fresh).")
            self.minutes = None
        else:
            self.minutes = self.minutes or (kept.minutes if kept else None)

    def on_train_begin(self, args, state, control, **kwargs):
        """Note what is to be measured; keep the limit in the run."""
        self.first, self.seconds_per_step = state.global_step, None
        self.enough = self.first + min(MEASURED, max(WARM + 1, (state.max_steps - self.first) // 3))
        sampler, a_step = self.trainer._get_train_sampler(), self.trainer.args.train_batch_size
        a_step *= args.gradient_accumulation_steps * world_size()
        lengths, order = self.progress.data.dataset["length"], list(sampler)
        self.tokens = [sum(lengths[row] for row in order[at : at + a_step]) for at in range(0, len(order), a_step)]
        if self.minutes and not self.settled and is_first():
            self.progress.run.update(budget=Budget(minutes=self.minutes, whole=state.max_steps))

    def on_step_end(self, args, state, control, **kwargs):
        """Read the clock, until enough is known."""
        step = state.global_step
        if step == self.first + WARM:
            self.began = self.progress.now()
        if self.seconds_per_step is not None or step <= self.first + WARM:
            return
        limit = math.inf if self.settled or not self.minutes else 60 * MEASURING * self.minutes
        late = self.progress.now() > limit
        if not agree(step >= self.enough or late):
            return
        seconds, steps = self.progress.now() - self.began, step - self.first - WARM
        seen = sum(self.tokens[at % len(self.tokens)] for at in range(step - steps, step))
        usual = steps * self.progress.tokens_per_step  # longer rows take longer: what the others will take
        self.seconds_per_step = agree(seconds / seen * usual / steps)
        if self.minutes and not self.settled:
            self.settle(state)

    def settle(self, state) -> None:
        """Decide how many steps are made, say it, and let the training follow."""
        assert self.minutes and self.seconds_per_step is not None
        whole, done = state.max_steps, state.global_step
        steps = agree(steps_in(self.minutes, self.progress.now(), self.seconds_per_step, done, whole))
        budget = Budget(minutes=self.minutes, whole=whole, steps=steps, seconds_per_step=round(self.seconds_per_step, 4))
        self.settled = True
        if is_first():
            self.progress.run.update(budget=budget)
        self.progress.say(describe_budget(budget, self.progress.data.profile, len(self.progress.data.dataset)))
        if steps < whole:
            state.max_steps = steps
            follow_steps(self.trainer, steps)


def steps_in(minutes: float, spent: float, seconds_per_step: float, done: int, whole: int) -> int:
    """How many of the `whole` steps are made in `minutes`, of which `spent` seconds and `done` steps are over."""
    left = max(0.0, 60 * minutes - spent)
    if (whole - done) * seconds_per_step <= left * (1 - KEPT_BACK):
        return whole
    return min(whole, done + max(1, int(left * (1 - KEPT_BACK) / seconds_per_step)))


def follow_steps(trainer: CompletionTrainer, steps: int) -> None:
    """Make a running trainer's schedule of the learning rate one for so many steps in all, from the next step on."""
    scheduler, optimizer, args = trainer.lr_scheduler, trainer.optimizer, trainer.args
    aside = torch.optim.SGD([torch.zeros(1)], lr=1.0)  # only the schedule's function is wanted
    made = get_scheduler(args.lr_scheduler_type, aside, args.get_warmup_steps(steps), steps).lr_lambdas[0]
    scheduler.lr_lambdas = [made] * len(scheduler.base_lrs)
    rates = [base * made(scheduler.last_epoch) for base in scheduler.base_lrs]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def price(share: float) -> tuple[float, float, bool]:
    """What a training loses that makes a `share` of its steps, by the desk's curve: points of fields, and of whole tickets.

    The last is whether so short a training was measured: below, it loses at least as much.
    """
    steps, fields, tickets = zip(*CURVE, strict=True)
    wanted = share * steps[-1]
    lost = [float(scores[-1] - np.interp(math.log(wanted), np.log(steps), scores)) for scores in (fields, tickets)]
    return lost[0], lost[1], wanted >= steps[0]


def describe_budget(budget: Budget, profile: Profile, rows: int) -> str:
    """What was settled for the time allowed, and what it costs, for people; `rows` are those of the training split."""
    steps = budget.whole if budget.steps is None else budget.steps
    each = budget.seconds_per_step or 0.0
    whole = f"Time: at {each:.3g} s a step the whole recipe, {budget.whole:,} steps, takes some {clock(each * budget.whole)}"
    if steps >= budget.whole:
        return f"{whole}. {clock(60 * budget.minutes)} are allowed: all of it is made."
    a_step = profile.examples_per_step * world_size()
    fields, tickets, measured = price(steps / budget.whole)
    return (
        f"{whole}. {clock(60 * budget.minutes)} are allowed: {steps:,} steps are made, so that all rows are seen "
        f"{steps * a_step / rows:.2g} times and not {budget.whole * a_step / rows:.2g}.\n"
        f"      What that costs: the desk with the cpu profile lost {'' if measured else 'at least '}{fields:.0f} points of "
        f"right fields and {tickets:.0f} of whole tickets in so short a training (experiments/RECIPE.md). "
        f"--minutes {math.ceil(each * budget.whole / 60 / (1 - KEPT_BACK))} allows all."
    )


def forecast(minutes: float, profile: Profile, lengths: Sequence[int], rate: float) -> str:
    """The same before a training on rows of these `lengths`, from the machine's rate of matrix products in FLOP/s."""
    whole, an_epoch = steps_of(profile, len(lengths)), plan_training(profile, lengths, rate=rate).seconds_per_epoch or 0.0
    each = an_epoch * profile.examples_per_step / len(lengths)
    steps = steps_in(minutes, 0.0, each, 0, whole)
    return describe_budget(Budget(minutes=minutes, whole=whole, steps=steps, seconds_per_step=each), profile, len(lengths))
