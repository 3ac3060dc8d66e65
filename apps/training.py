"""The demo's Training tab: a training watched live, its answers over time, and the button that shows the trained model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gradio as gr

from ftkit.common.errors import KitError
from ftkit.data.task import Task
from ftkit.deployment.beside import Beside
from ftkit.deployment.demo_page import escape_html
from ftkit.deployment.training_page import Standing, announce, describe_look, render_look, render_standing
from ftkit.runs.run import Run

EVERY = 2  # seconds between two looks at the training
ANNOUNCED = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"
ALONE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
WATCH = """### Watch it learn

The same messages, answered again at each checkpoint; none of them is trained on. Move the slider from first to last."""


class TrainingTab:
    """The tab's parts, and what each holds as the training goes on. Made inside of its `gr.Tab`.

    `own_is_shown` says whether the page shows the trained model already. What a visitor has seen is kept as `seen`: a
    tick at which nothing changed changes nothing in the page.
    """

    def __init__(self, task: Task, run: Run, beside: Beside | None, own_is_shown: Callable[[], bool]):
        self.task, self.run, self.beside, self.own_is_shown = task, run, beside, own_is_shown
        self.seen = gr.State(None)
        standing = self._standing()
        with gr.Row(visible=False, elem_id="turn") as self.turn:
            self.ask = gr.Markdown("**Your model is ready.** The page can show it from now on, instead of the kit's own.")
            self.show = gr.Button("Show my model", variant="primary", elem_id="show", scale=0, min_width=180)
        with gr.Row(visible=False) as self.stopped:
            gr.Markdown("It can be taken up where it was.")
            self.go_on = gr.Button("Go on", variant="primary", elem_id="go-on", scale=0, min_width=180)
        self.now = gr.HTML(render_standing(standing), apply_default_css=False, elem_id="now")
        with gr.Column(visible=bool(standing.looks), elem_id="watch") as self.watch:
            gr.Markdown(WATCH)
            last = max(1, len(standing.looks))
            self.place = gr.Slider(
                1, max(2, last), last, step=1, label="Look", buttons=[], elem_id="place", visible=last > 1
            )
            self.look = gr.HTML(self._look(standing, last), apply_default_css=False, elem_id="look")
        self.said = gr.HTML(js_on_load=ANNOUNCED, elem_id="training-said", elem_classes="announcer")
        self.place.input(self._moved, self.place, [self.look, self.said], trigger_mode="always_last", **ALONE)
        self.timer = gr.Timer(EVERY, active=beside is not None)
        if beside:
            self.go_on.click(self._go_on, None, self.stopped, **ALONE)

    @property
    def parts(self) -> list[Any]:
        """What `values` fills, in its order."""
        return [self.seen, self.now, self.said, self.watch, self.place, self.look, self.turn, self.stopped, self.timer]

    def values(self, seen: Any, place: float | None) -> list[Any]:
        """Each part as it should be now; nothing where nothing changed since `seen`. `place` is where the slider stands."""
        standing = self._standing()
        own = self.own_is_shown()
        version, looks = (*standing.version, own), len(standing.looks)
        if seen and seen["version"] == version:
            return [gr.skip()] * len(self.parts)
        known, said = (seen["looks"], seen["said"]) if seen else (0, None)
        new_look = looks != known
        newest = looks if not place or place >= known else int(place)
        words = announce(standing)
        return [
            {"version": version, "looks": looks, "said": words},
            render_standing(standing),
            words if words != said else gr.skip(),
            gr.Column(visible=looks > 0),
            gr.Slider(maximum=max(2, looks), value=newest, visible=looks > 1) if new_look else gr.skip(),
            self._look(standing, newest) if new_look else gr.skip(),
            gr.Row(visible=standing.phase == "done" and not own),
            gr.Row(visible=standing.phase == "stopped"),
            gr.Timer(active=not (standing.phase == "done" and own)),
        ]

    def _standing(self) -> Standing:
        return Standing.of(self.run, self.beside)

    def _look(self, standing: Standing, place: float) -> str:
        looks = standing.looks
        return render_look(self.task, looks, min(len(looks), max(1, int(place))) - 1) if looks else ""

    def _moved(self, place: float) -> list[Any]:
        """The visitor moved the slider: the answers there, and for a screen reader how many are right."""
        looks = self._standing().looks
        if not looks:
            return [gr.skip(), gr.skip()]
        at = min(len(looks), max(1, int(place))) - 1
        return [render_look(self.task, looks, at), f"Step {looks[at][0]}: {describe_look(self.task, looks, at)}."]

    def _go_on(self) -> Any:
        assert self.beside
        self.beside.start()
        return gr.Row(visible=False)


def turn_to(open_own: Callable[[Run], None], beside: Beside) -> Callable[[], list[str]]:
    """A function for the button: opens the trained model by `open_own`, and says how that went, to the eye and the ear."""

    def turn() -> list[str]:
        words = "The page shows your model now."
        try:
            assert beside.run
            open_own(beside.run)
        except KitError as error:
            words = f"Your model cannot be shown: {error}"
        except Exception as error:
            print(f"The trained model could not be opened: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            words = "Your model cannot be shown: it could not be loaded. The terminal says more."
        return [escape_html(words)] * 2

    return turn
