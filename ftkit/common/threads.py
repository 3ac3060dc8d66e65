"""How many threads torch computes with: all on a quiet machine, fewer while other programs need the cores (lesson 03).

The threads of one computation wait for each other several hundred times a training step. They wait by spinning, which is
the fastest way as long as each of them has a core to itself. As soon as another program takes a core, one thread must share
it, and the others spin until it has caught up: beside one busy program a training on two cores fell to a third of its
speed. One thread alone waits for nobody, and kept two thirds (`benchmarks/BENCHMARKS.md`). So the number follows the load:
`look` is called between two pieces of work, such as the layers of a model. It costs a microsecond, unless a second
has passed and the load is read.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError

WINDOW = 1.0  # seconds over which the load is taken: a browser that is busy for a moment is no reason to change
# Cores. Others that take less than the first cost less than a thread does; more threads are taken when they take less than
# the second: between the two the number stays as it is.
STAYS, RISES = 0.35, 0.2
CALM = 2.0  # seconds that there must be room before more threads are taken
HASTY, LONGEST = 3.0, 64.0  # a rise that lasted less than so many seconds doubles the wait for the next, up to so many
BREAK, WORKED = 1.0, 0.1  # a pause: so many seconds without a look, in which this process took less than so much of a core
ASKED = ("FTKIT_THREADS", "OMP_NUM_THREADS")  # variables that fix the number; the first that is set decides


def alone_in_blas() -> Any:
    """A context in which scikit-learn's and scipy's vector arithmetic (BLAS) uses one thread: for fitting a small model.

    Their threads spin as torch's do, and win nothing in sums this short: beside a busy neighbour `ftkit task check desk`
    took 37 s of computing, and with one thread 17 s. Import scikit-learn before it: what is loaded later keeps its threads.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1, user_api="blas")


@dataclass(frozen=True)
class Reading:
    """The clocks, in seconds: of the wall, of this process on all cores, and of all cores together while idle and in
    programs of low priority ("nice")."""

    wall: float
    own: float
    idle: float
    nice: float


class Threads:
    """A number of threads that follows the load: `now`, from 1 to `most`.

    `cores` are those that the threads share with other programs. `fixed` names the variable that fixes the number, if any.
    """

    def __init__(self, most: int, cores: int, fixed: str | None = None):
        self.most, self.cores, self.fixed = most, max(most, cores), fixed
        self.now = self._told = most
        self._calm, self._wait, self._since_rise = 0.0, CALM, LONGEST
        self._lock, self._cpus = threading.Lock(), _cpus()
        self._window = self._read()
        self._seen, self._due = self._window.wall, self._window.wall + WINDOW

    def look(self) -> int:
        """Read the load where it is due, and return the number of threads for what comes next."""
        if self.fixed or self.most == 1:
            return self.most
        now = time.monotonic()
        since, self._seen = now - self._seen, now
        if since < BREAK and now < self._due:
            return self.now
        with self._lock:
            before, self._window = self._window, self._read()
            self._due = self._window.wall + WINDOW
            if since > BREAK and self._window.own - before.own < WORKED * since:
                self._calm = self._wait  # what the load was in a pause says nothing; the first window after it decides
            else:
                self.follow(*_load(before, self._window, len(self._cpus)))
        return self.now

    def follow(self, seconds: float, others: float, polite: float = 0.0) -> int:
        """The number of threads after `seconds` in which others took `others` cores, `polite` of them at low priority.

        Fewer threads at once, more only after a calm. Programs of low priority take what nobody wants: they stop no rise.
        """
        self._since_rise += seconds
        if self.now > 1 and others - STAYS > self.cores - self.now:
            self._wait = min(2 * self._wait, LONGEST) if self._since_rise < HASTY else CALM
            self._calm = 0.0
            self.now = max(1, int(self.cores - others + STAYS))
        possible = min(self.most, int(self.cores - (others - polite) + RISES))
        self._calm = self._calm + seconds if possible > self.now else 0.0
        if self._calm >= self._wait:
            self.now, self._calm, self._since_rise = possible, 0.0, 0.0
        return self.now

    def in_words(self) -> str:
        """What a progress line adds on the threads: nothing while all are at work, and were when it was last asked."""
        told, self._told = self._told, self.now
        if self.now < self.most:
            return f"   {self.now} of {self.most} threads: other programs are busy"
        return f"   {self.most} threads again" if told < self.most else ""

    def all_again(self) -> None:
        """Begin anew with all threads."""
        with self._lock:
            self.now, self._calm, self._wait, self._since_rise = self.most, 0.0, CALM, LONGEST
            self._window = self._read()
            self._due = self._window.wall + WINDOW

    def _read(self) -> Reading:
        import psutil

        every = psutil.cpu_times(percpu=True)
        times = [every[n] for n in self._cpus if n < len(every)]
        # a hypervisor's share ("steal") would not come back to fewer threads
        idle = sum(t.idle + getattr(t, "iowait", 0.0) + getattr(t, "steal", 0.0) for t in times)
        itself_polite = bool(hasattr(os, "nice") and os.nice(0) > 0)  # then the others are its equals
        nice = 0.0 if itself_polite else sum(getattr(t, "nice", 0.0) for t in times)
        return Reading(time.monotonic(), time.process_time(), idle, nice)


def _load(before: Reading, after: Reading, cpus: int) -> tuple[float, float, float]:
    """Seconds between two readings, the cores that other programs took meanwhile, and of these at low priority."""
    seconds = after.wall - before.wall
    others = cpus - (after.idle - before.idle + after.own - before.own) / seconds
    return seconds, max(0.0, others), max(0.0, (after.nice - before.nice) / seconds)


def _cpus() -> list[int]:
    """The numbers of the processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def quota(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The cores that a container may use at once, rounded down; None where nothing limits it."""
    files = (folder / "cpu.max",), (folder / "cpu" / "cpu.cfs_quota_us", folder / "cpu" / "cpu.cfs_period_us")
    for some in files:  # the second and newer form of control groups, or the first
        try:
            limit, period = " ".join(path.read_text(encoding="ascii") for path in some).split()
            return max(1, int(limit) // int(period)) if int(limit) > 0 else None
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None


@cache
def shared() -> Threads:
    """The one of this process, made at the first `look`. Raises `KitError` for an `FTKIT_THREADS` that is no number."""
    import psutil
    import torch

    name = next((name for name in ASKED if os.environ.get(name)), None)
    most = torch.get_num_threads()
    if name == ASKED[0]:
        asked = os.environ[name]
        if not (asked.isascii() and asked.isdigit() and int(asked)):
            raise KitError(f"{name} is {asked!r}; it takes a number of threads. Without it, they follow the load.")
        most = int(asked)
    elif name is None:
        most = min(most, quota() or most)
    fixed = name or ("a GPU computes" if torch.cuda.is_available() else None)
    return Threads(most, min(psutil.cpu_count(logical=False) or most, len(_cpus())), fixed)


def in_words() -> str:
    """What a progress line adds on the threads; nothing before the first `look`."""
    return shared().in_words() if shared.cache_info().currsize else ""


def look(*_: Any) -> None:
    """Between two pieces of work, in the thread that does them: let torch take as many threads as others leave it.

    OpenMP keeps the number for each of Python's threads, so each that computes has to look for itself. It takes whatever a
    hook of torch or a callback is called with, and changes none of it.
    """
    _take(shared().look())


def take_all() -> None:
    """All threads again, whatever the load is: after a piece of work with `look` in it."""
    shared().all_again()
    _take(shared().most)


def _take(number: int) -> None:
    import torch

    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


@contextmanager
def following_load() -> Iterator[Threads]:
    """A piece of work in which `look` changes the number of threads: after it there are all again, however it ends."""
    try:
        look()
        yield shared()
    finally:
        take_all()


def describe_threads() -> str:
    """How many threads there are, and whether they follow the load, in words."""
    threads = shared()
    if threads.fixed in ASKED:
        return f"{threads.most}, as {threads.fixed} asks, beside busy programs too"
    follows = ", fewer while other programs are busy (FTKIT_THREADS=N fixes the number)"
    return f"{threads.most}{follows if threads.most > 1 and not threads.fixed else ''}"
