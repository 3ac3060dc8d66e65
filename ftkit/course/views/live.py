"""The loss of a training that runs in another process, drawn again and again while it falls (lesson 03)."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.figures import svg_of
from ftkit.course import plots
from ftkit.runs.documents import LOG
from ftkit.runs.run import Run, open_run

SHARE = 0.008  # of the time that drawing may take: a drawing of a quarter of a second every half minute
TICK = 1.0  # seconds between two looks at the loss log
RUN = re.compile(r"; run (\S+)$")  # in the line with which a training begins
SOON = "The loss curve will stand here, after the first steps."
NONE = "There is no loss curve: the training logged no step."


class LiveLoss:
    """A picture of training and validation loss in a notebook's output, redrawn while the training's lines are read.

    Drawing takes at most `share` of the time: after each, it waits for as long as that asks for. There is one output, whose
    last state stays in the notebook. Outside a notebook nothing is drawn.
    """

    def __init__(self, share: float = SHARE):
        self.share = share
        self.drawings, self.seconds = 0, 0.0  # how often it was drawn, and how long that took in all
        self.run: Run | None = None
        self._size, self._next = 0, 0.0  # of the log when it was last drawn, in bytes; when it may be drawn again
        self._output = _new_output(plots.Marked(f"<p>{SOON}</p>", SOON))

    def watch(self, lines: Iterable[str]) -> Iterator[str]:
        """The lines that `ftkit train` prints, as they come; between them the picture is kept up to date."""
        arriving: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_hand_over, args=(lines, arriving), daemon=True).start()
        line: str | None = ""
        while line is not None:
            try:
                line = arriving.get(timeout=TICK)
            except queue.Empty:
                line = ""
            if line:
                if self.run is None and (named := RUN.search(line.rstrip())):
                    self.run = _opened(named[1])
                yield line
            if time.monotonic() >= self._next:
                self.draw()
        self.draw(last=True)
        if self._output and not self.drawings:
            self._output.update(plots.Marked(f"<p>{NONE}</p>", NONE))

    def draw(self, last: bool = False) -> None:
        """Draw the loss log as it stands, if there are new points in it or it is the `last` time.

        Before that it is drawn as SVG only: the PNG that a saved notebook needs takes three times as long.
        """
        if self._output is None or self.run is None:
            return
        log = self.run.folder / LOG
        began, size = time.monotonic(), log.stat().st_size if log.is_file() else 0
        if size == self._size and not last:
            return
        try:
            curves = {"on training rows": self.run.loss_curve(), "on validation rows": self.run.validation_curve()}
        except KitError:  # the picture is no reason to stop; the training itself will say what is wrong
            return
        if len(curves["on training rows"]) < 2:
            return
        figure, text = plots.loss_figure({n: c for n, c in curves.items() if c}, "loss", log=True)
        self._output.update(plots._drawn(figure, text) if last else plots.Marked(svg_of(figure, text), text))
        spent = time.monotonic() - began
        self._size, self._next = size, time.monotonic() + spent / self.share
        self.drawings, self.seconds = self.drawings + 1, self.seconds + spent


def _new_output(first: plots.Marked) -> Any:
    """The output of a notebook's cell that can be replaced, showing `first`; None where no notebook listens."""
    from IPython import get_ipython
    from IPython.display import display

    if getattr(get_ipython(), "kernel", None) is None:
        return None
    return display(first, display_id=True)


def _opened(name: str) -> Run | None:
    try:
        return open_run(name, unfinished=True)
    except KitError:
        return None


def _hand_over(lines: Iterable[str], arriving: queue.Queue[str | None]) -> None:
    """Put lines into a queue, and None after the last, or when they can no longer be read."""
    with contextlib.suppress(ValueError):  # a cell that was stopped has closed the file
        for line in lines:
            arriving.put(line)
    arriving.put(None)
