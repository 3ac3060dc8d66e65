"""Beside the demo: the learner's training and its evaluation, each in a process of its own that gives way (lesson 05)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ftkit.common.console import Say, clock
from ftkit.common.errors import KitError
from ftkit.common.paths import runs_dir
from ftkit.data.task import Task
from ftkit.evaluation.answer import BASE, TUNED
from ftkit.evaluation.saved_answers import answers_file
from ftkit.runs.documents import Live
from ftkit.runs.run import Run, claimed_run
from ftkit.training.give_way import BESIDE, GRACE, RUN

Phase = Literal["begin", "elsewhere", "training", "measuring", "done", "stopped"]
EVERY = 120  # seconds between two lines in the terminal
STOPPED = 130  # the exit code of a command that was stopped


class _NoEnd(Exception):
    """A process did not come to its end; the text says why."""


@dataclass
class Beside:
    """A training and its evaluation, beside a page that serves another run meanwhile.

    `phase` says how far it is: it begins, another process trains the same data, training, measuring, done, or stopped, for
    `why`. `run` is the run that is trained, once it is known. `arguments` are those of `ftkit train`; `rows` is how many
    test messages are measured, -1 for all. With a finished `run` only the evaluation is left to do.
    """

    task: Task
    arguments: Sequence[str] = ()
    rows: int = -1
    run: Run | None = None
    say: Say = print
    after: Callable[[Run], None] | None = None  # gets the run once it is trained and measured
    phase: Phase = "begin"
    why: str = ""
    folder: Path = field(default_factory=lambda: runs_dir() / ".beside")
    _process: subprocess.Popen | None = None
    _thread: threading.Thread | None = None
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._trains = self.run is None

    @property
    def log(self) -> Path:
        """What the training and the evaluation print."""
        return self.folder / "log.txt"

    @property
    def about(self) -> str:
        """What is about to run, in words."""
        if self.run and self.run.finished:
            return f"{self.run.name} is measured beside the page"
        return "Your own training runs beside the page; its tab Training shows it"

    @property
    def messages(self) -> int:
        """How many answers the evaluation asks for: base and tuned each answer so many test messages."""
        rows = len(self.task.rows("test"))
        return 2 * (min(rows, self.rows) if self.rows > 0 else rows)

    @property
    def answered(self) -> int:
        """How many of them are there."""
        files = [self.run.folder / answers_file("test", side) for side in (BASE, TUNED)] if self.run else []
        return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in files if path.is_file())

    def start(self) -> None:
        """Begin, or go on where it was stopped; returns at once."""
        if not self._closed and (self._thread is None or not self._thread.is_alive()):
            if self._thread:  # going on
                self.arguments = [argument for argument in self.arguments if argument != "--fresh"]
            self.phase, self.why = "begin", ""
            self._thread = threading.Thread(target=self._work, name="ftkit-beside", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop in order: a training saves a checkpoint first. Returns when the process has ended; Ctrl+C ends it at once."""
        with self._lock:
            self._closed, process = True, self._process
        if process is None or process.poll() is not None:
            return
        assert process.stdin
        process.stdin.close()  # before anything is said: who reads that may be gone
        self.say("Stopping what runs beside the page, in order (Ctrl+C again: at once) ...")
        try:
            process.wait(2 * GRACE + 10)  # it ends itself after that time
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        self.say(f"Stopped{self._at()}. The same command goes on from there.")

    def _work(self) -> None:
        try:
            self._train()
            self._measure()
        except (_NoEnd, KitError, OSError) as end:
            self.why, self.phase = str(end), "stopped"
            if not self._closed:
                self.say(f"The {self._thing()} beside the page has stopped{self._at()}: {self.why} Its log: {self.log}")
        else:
            self.phase = "done"
            if self.after and self.run:
                self.after(self.run)
            button = "Your model is trained and measured: the Training tab of the page has a button that shows it."
            self.say(button if self._trains else "Your model is measured: the page's tab Evaluation shows how well it does.")

    def _train(self) -> None:
        self.log.write_bytes(b"")
        if not self.run and "--fresh" not in self.arguments and (other := claimed_run(self.task)):
            self.run, self.phase = other, "elsewhere"
            self.say(f"{other.name} is being trained by another process: the page follows it.")
            while other.is_claimed:
                self._check()
                time.sleep(0.5)
        if self.run and self.run.finished:
            return
        self.phase = "begin"
        (self.folder / RUN).unlink(missing_ok=True)
        self._run_command("train", *self.arguments)
        self._find_run()
        for line in self._lines("Finished: "):
            self.say(line)

    def _measure(self) -> None:
        assert self.run
        self.phase = "measuring"
        if not self.run.is_evaluated:
            limit = ["--limit", str(self.rows)] if self.rows > 0 else []
            self.say(f"Measuring {self.run.name} on held-out messages.")
            self._run_command("evaluate", str(self.run.folder), "--quick", *limit)

    def _run_command(self, *arguments: str) -> None:
        """Run a command of the kit to its end, in a process that a Ctrl+C for the page does not reach."""
        with self._lock, self.log.open("ab") as log:
            self._check()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ftkit.cli", *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {BESIDE: str(self.folder.resolve()), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        told = time.monotonic()
        while (code := self._process.poll()) is None:
            time.sleep(0.2)
            self._find_run()
            if time.monotonic() - told > EVERY and (how_far := self._how_far()):
                told = time.monotonic()
                self.say(f"  {self._thing()} beside the page: {how_far}")
        if code:
            raise _NoEnd(self._explain(code))

    def _explain(self, code: int) -> str:
        """Why a process did not come to its end, in a sentence; its own where it had one."""
        if code < 0:
            return f"The process was ended from outside (signal {-code})."
        if code == STOPPED:
            return "It was stopped."
        said = self._lines("ftkit: ")
        return said[-1].removeprefix("ftkit: ") if said else f"It ended with exit code {code}."

    def _lines(self, begin: str) -> list[str]:
        """The lines of the log that begin so."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if line.startswith(begin)]

    def _check(self) -> None:
        if self._closed:
            raise _NoEnd("It was stopped.")

    def _find_run(self) -> None:
        """The training names its run once the model is loaded."""
        place = self.folder / RUN
        if self.phase == "begin" and place.is_file() and (text := place.read_text(encoding="utf-8")):
            self.run, self.phase = Run(Path(text)), "training"

    def _thing(self) -> str:
        return "evaluation" if self.run and self.run.finished else "training"

    def _at(self) -> str:
        return f" at {how_far}" if (how_far := self._how_far()) else ""

    def _how_far(self) -> str:
        """How far it is, in words; empty where nothing is known yet."""
        if self.run is None:
            return ""
        if self.run.finished:
            return f"{self.answered} of {self.messages} answers"
        try:
            entries = self.run.log()
            live = Live.load(self.run.folder) if Live.exists(self.run.folder) else None
        except KitError:
            return ""
        if not entries:
            return ""
        of = f" of {live.steps}" if live else ""
        goes_on = live and live.seconds_left is not None and not self._closed
        left = f", {clock(live.seconds_left or 0)} left" if live and goes_on else ""
        return f"step {entries[-1].step}{of}, loss {entries[-1].loss:.3f}{left}"
