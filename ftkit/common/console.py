"""What is printed for people while they wait."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from ftkit.common.threads import in_words

Say = Callable[[str], None]  # where a line for people goes, such as `print`


def clock(seconds: float) -> str:
    """A duration for people: "45 s", "3 min 20 s", "2 h 05 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Progress:
    """Tells how far a long step is, each time it is called with (done, all): "  NAME: 3 of 12 answered, 45 s left"."""

    def __init__(self, name: str = "", verb: str = "answered", say: Say = print):
        self.head, self.verb, self.say = f"{name}: " if name else "", verb, say
        self.began = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        """Say that `done` of `of` are done, and how long the others will take at this pace."""
        left = (time.monotonic() - self.began) / done * (of - done)
        left_in_words = f", {clock(left)} left" if done < of else ""
        self.say(f"  {self.head}{done} of {of} {self.verb}{left_in_words}{in_words()}")


def say_next(*command: object) -> None:
    """Print the command that comes next on the road, so that it can be copied: its parts are quoted where they need it."""
    print(f"Next: {shlex.join(map(str, command))}", flush=True)
