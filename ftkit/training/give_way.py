"""Giving way: what works beside the demo waits while a visitor's message is answered, and ends when the demo does.

The page starts the work in a process of its own, with the variable `FTKIT_BESIDE`: a folder. Two things pass between them.
The page holds a lock in that folder while it answers (`go_first`), and the work looks at it between steps (`give_way`). And
the page holds the other end of the work's standard input: when the page is gone, however it ended, the input ends, and the
work saves what it has and stops. So no training is left behind that takes a laptop's cores for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from transformers import TrainerCallback

from ftkit.runs.run import Run

BESIDE = "FTKIT_BESIDE"  # the folder of the page that this process works beside
LOCK, RUN = "visitor.lock", "run"  # files in it: held while a message is answered; the folder of the run that is trained
PATIENCE = 60.0  # seconds: the longest wait in a row
GRACE = 60.0  # seconds that a step and its checkpoint may take before the work is ended without one
LOOK = 0.05  # seconds from one look at the lock to the next


@dataclass
class Courtesy:
    """How it stands between this process and the page: its folder, the seconds waited so far, whether the page is gone.

    `patience` is in seconds. Waiting uses it up and working gives it back, so that visitors without a pause slow a training
    down to half its speed and no further.
    """

    folder: Path | None = None
    patience: float = PATIENCE
    waited: float = 0.0
    since: float = field(default_factory=time.monotonic)
    gone: threading.Event = field(default_factory=threading.Event)
    steps_under_way: bool = False

    @classmethod
    def of_this_process(cls) -> Courtesy:
        """As the environment tells it."""
        return cls(Path(os.environ[BESIDE]) if os.environ.get(BESIDE) else None)

    def wait(self) -> None:
        """Wait while a visitor's message is answered, for as long as the patience lasts, or until the page is gone."""
        if self.folder is None:
            return
        now = time.monotonic()
        self.patience = min(PATIENCE, self.patience + now - self.since)
        end = now + self.patience
        while not self.gone.is_set() and time.monotonic() < end and self._answers():
            time.sleep(LOOK)
        self.since = time.monotonic()
        self.patience -= self.since - now
        self.waited += self.since - now

    def _answers(self) -> bool:
        """Whether the page is answering a message now."""
        assert self.folder
        try:
            with FileLock(self.folder / LOCK, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # the folder was removed
            return False


COURTESY = Courtesy.of_this_process()
Works = TypeVar("Works", bound=Any)


def give_way() -> None:
    """Wait while a visitor's message is answered. Raises `KeyboardInterrupt` when the page is gone."""
    COURTESY.wait()
    if COURTESY.gone.is_set():
        raise KeyboardInterrupt


def give_way_at_each_pass(worker: Works) -> Works:
    """Let the `model` of what works beside the page give way in each forward pass, so within a token's time."""
    if COURTESY.folder:
        head = worker.model.get_output_embeddings()  # every pass goes through it, `generate`'s too
        head.register_forward_pre_hook(lambda *_: give_way())
    return worker


def working_seconds() -> float:
    """Seconds on a clock that stands still while this process gives way: what work takes is measured by it."""
    return time.monotonic() - COURTESY.waited


@contextlib.contextmanager
def go_first(folder: Path | None) -> Iterator[None]:
    """Let the work beside wait until this is done. `folder` is the page's; None where nothing works beside it."""
    with contextlib.ExitStack() as stack:
        if folder:
            # an answer is read by several threads; another page that has the lock makes the work wait just as well
            with contextlib.suppress(Timeout, OSError):
                stack.enter_context(FileLock(folder / LOCK, timeout=1, thread_local=False))
        yield


class GiveWay(TrainerCallback):
    """Gives way before each step; when the page is gone, saves a checkpoint, and ends as Ctrl+C does."""

    def __init__(self, run: Run):
        if COURTESY.folder:
            (COURTESY.folder / RUN).write_text(str(run.folder.resolve()), encoding="utf-8")

    def on_train_begin(self, args, state, control, **kwargs):
        """From here on there is something to save."""
        COURTESY.steps_under_way = True

    def on_step_begin(self, args, state, control, **kwargs):
        """Give way."""
        COURTESY.wait()

    def on_step_end(self, args, state, control, **kwargs):
        """Save and stop, once the page is gone."""
        if COURTESY.gone.is_set():
            control.should_log = control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        """End the process too, if it was stopped."""
        if COURTESY.gone.is_set() and state.global_step < state.max_steps:
            raise KeyboardInterrupt
        COURTESY.steps_under_way = False


def end_with_page() -> None:
    """Watch for the page's end, in a process that works beside one: call it once, in the main thread."""
    if COURTESY.folder:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's child inherits "ignored"
        threading.Thread(target=_watch, name="ftkit-page", daemon=True).start()


def _watch() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1024):  # the page writes nothing: this ends when the page does
            pass
    COURTESY.gone.set()
    patience = time.monotonic() + GRACE
    while COURTESY.steps_under_way and time.monotonic() < patience:
        time.sleep(LOOK)
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # also ends a wait, as raise_signal does not
    else:
        signal.raise_signal(signal.SIGINT)
    time.sleep(GRACE)
    os._exit(130)
