"""Training and the demo's stream beside programs that come and go: `python -m benchmarks.interference`.

Each round measures every state once, in an order of its own, in one process: on a quiet machine, and beside one and two
programs that take a core each; with threads that follow the load (`ftkit.common.threads`), and with all threads all the
time. At the end the load comes and goes, and it is timed how soon the number of threads has followed. A round is saved as
soon as it is measured; `--rounds 5` goes on until there are five.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.documents import FOLDER, ComesAndGoes, Followed, InterferenceResults, MeasuredOn, UnderLoad
from ftkit.common.machine import describe_machine
from ftkit.common.threads import Threads, shared

STATES = [(busy, follows) for busy in (0, 1, 2) for follows in (True, False)]
SECONDS = {"training": 12.0, "stream": 8.0}  # of a state; it ends with the step, or the answer, that is under way then
COMES_AND_GOES = [0, 1, 0, 2, 0]  # busy programs, one state after the other
BUSY = """import os
parent = os.getppid()
while os.getppid() == parent:  # it ends by itself where the benchmark was killed
    for _ in range(10**6): pass"""
PATIENCE = 12.0  # seconds of each state while the load comes and goes


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that take a core each, until the block ends."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


class Course:
    """Goes through states while something else computes and calls `after` with the tokens that it has done in all.

    States that stand `apart` begin with all threads each; else with as many as the state before had.
    """

    def __init__(self, states: Sequence[tuple[int, bool]], seconds: float, apart: bool):
        self.waiting, self.seconds, self.apart = list(states), seconds, apart
        self.done: list[UnderLoad] = []
        self.followed: list[Followed] = []
        self.others = contextlib.ExitStack()
        self.state: tuple[int, bool] | None = None  # busy programs, and whether the threads follow
        self.threads_before = self.tokens = 0
        self.began = 0.0

    def watch(self) -> None:
        """See whether the number of threads has followed the last change."""
        if self.followed and self.followed[-1].seconds is None and shared().now != self.threads_before:
            seconds = round(time.monotonic() - self.began, 2)
            self.followed[-1] = self.followed[-1].model_copy(update={"seconds": seconds, "threads": shared().now})

    def after(self, tokens: int) -> bool:
        """Whether there is more to do; moves on to the next state where the time of this one is over."""
        now, threads = time.monotonic(), shared()
        self.watch()
        if self.state and now - self.began < self.seconds:
            return True
        if self.state:
            self._keep(now - self.began, tokens - self.tokens, threads)
        self.others.close()
        if not self.waiting:
            return False
        before, self.state = self.state, self.waiting.pop(0)
        processes, follows = self.state
        threads.fixed = None if follows else "the benchmark"
        if self.apart:
            threads.all_again()
        self.others.enter_context(busy(processes))
        self.threads_before, self.tokens, self.began = threads.now, tokens, time.monotonic()
        if before:
            self.followed.append(Followed(before=before[0], after=processes, seconds=None, threads=threads.now))
        return True

    def _keep(self, seconds: float, tokens: int, threads: Threads) -> None:
        processes, follows = self.state or (0, True)
        speed = round(tokens / seconds, 1)
        self.done.append(
            UnderLoad(
                busy=processes, follows=follows, seconds=round(seconds, 2), tokens=tokens, tokens_per_second=speed,
                threads=threads.now if follows else threads.most,
            )
        )  # fmt: skip
        print(f"  beside {processes}, {'following' if follows else 'all threads'}: {speed} tokens/s", flush=True)


@contextlib.contextmanager
def trainings() -> Iterator[Callable[[Course], None]]:
    """The `cpu` recipe on the desk's rows, for as long as a course takes; the model goes on learning in the next."""
    from transformers import TrainerCallback

    from ftkit.common.profiles import read_profiles
    from ftkit.data.task import load_task
    from ftkit.models.load import load_tokenizer
    from ftkit.training.trainer import make_trainer, training_data

    profile = read_profiles()["cpu"].with_changes(max_steps=100_000)
    tokenizer = load_tokenizer(profile.model)
    data = training_data(load_task("desk"), tokenizer, profile)

    class Measured(TrainerCallback):
        def __init__(self, course: Course):
            self.course = course

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = not self.course.after(int(trainer._total_train_tokens))

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder), data, profile, tokenizer)
        trainer.args.save_strategy, trainer.args.logging_strategy = "no", "no"

        def run(course: Course) -> None:
            callback = Measured(course)
            trainer.add_callback(callback)
            try:
                trainer.train()
            finally:
                trainer.remove_callback(callback)

        yield run


@contextlib.contextmanager
def streams() -> Iterator[Callable[[Course], None]]:
    """The demo's stream, base and tuned at once, of one test message after the other."""
    from ftkit.evaluation.answer import Answerer
    from ftkit.runs.run import open_run

    run_of_kit = open_run("reference")
    answerer = Answerer.of_run(run_of_kit)
    answerer.prepare_stream()
    messages = [row["message"] for row in run_of_kit.task.rows("test")]

    def run(course: Course) -> None:
        tokens = 0
        for number in range(10**6):
            seen = 0
            for answers in answerer.stream(messages[number % len(messages)]):
                seen = sum(answer.tokens for answer in answers.values())
                course.watch()
            tokens += seen
            if not course.after(tokens):
                return

    yield run


PARTS: dict[str, Callable[..., contextlib.AbstractContextManager[Callable[[Course], None]]]] = {
    "training": trainings,
    "stream": streams,
}


def measure(part: str, rounds: int, follow: int) -> None:
    """Measure one part until there are so many rounds of it, and `follow` courses of a load that comes and goes."""
    with PARTS[part]() as run:
        while (number := len(getattr(_saved(), part))) < rounds:
            print(f"{part}, round {number + 1} of {rounds}", flush=True)
            states = random.Random(number).sample(STATES, len(STATES))
            course = _pass(run, Course(states, SECONDS[part], apart=True))
            _add(part, course.done)
        while sum(each.part == part for each in _saved().comes_and_goes) < follow:
            print(f"{part}, beside a load that comes and goes", flush=True)
            course = _pass(run, Course([(processes, True) for processes in COMES_AND_GOES], PATIENCE, apart=False))
            _add("comes_and_goes", ComesAndGoes(part=part, changes=course.followed))


def _pass(run: Callable[[Course], None], course: Course) -> Course:
    shared().fixed = None
    shared().all_again()
    try:
        run(course)
    finally:
        course.others.close()
    return course


def _saved() -> InterferenceResults:
    machine = MeasuredOn.model_validate(describe_machine())
    return InterferenceResults.load(FOLDER) if InterferenceResults.exists(FOLDER) else InterferenceResults(machine=machine)


def _add(name: str, result: Any) -> None:
    saved, machine = _saved(), MeasuredOn.model_validate(describe_machine())
    saved.model_copy(update={"machine": machine, name: [*getattr(saved, name), result]}).save(FOLDER)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is still missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interference", description=__doc__)
    parser.add_argument("--part", nargs="*", choices=PARTS, default=list(PARTS), help="both if left out")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each part, those in the file included")
    parser.add_argument(
        "--follow", type=int, default=2, help="times that the load comes and goes, those in the file included"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the rounds in the file")
    options = parser.parse_args(arguments)
    if options.fresh:
        InterferenceResults.path(FOLDER).unlink(missing_ok=True)
    if shared().fixed or shared().most == 1:
        sys.exit(f"The threads cannot follow the load here: {shared().most}, {shared().fixed or 'the only core'}.")
    for part in options.part:
        measure(part, options.rounds, options.follow)


if __name__ == "__main__":
    main()
