"""Quizzes: a question, its choices, and the explanation of each (every lesson)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

from pydantic import BaseModel, Field, field_validator

from ftkit.common.errors import KitError
from ftkit.course.exercise import WIDTH, say
from ftkit.course.progress import note, read_progress, solved_now

SIGN = {True: "✓", False: "✗"}
WORD = {True: "Right", False: "Not so"}
# background, letters and edge: dark letters on a light ground, so that they can be read in a dark theme too
COLOURS = {True: ("#dafbe1", "#0b3d17", "#1a7f37"), False: ("#ffebe9", "#6e1111", "#cf222e")}
STYLE = """<style>
.jupyter-button.ftkit-choice, .jupyter-button.ftkit-choice:disabled {
  height: auto; min-height: 2.2em; width: auto; max-width: 50em; padding: 0.4em 0.8em;
  white-space: normal; text-align: left; line-height: 1.4; opacity: 1;
}
</style>"""


class Option(BaseModel, frozen=True, extra="forbid"):
    """One choice of a question, with its explanation."""

    text: str
    because: str
    right: bool = False

    def reason(self) -> str:
        """Its explanation, as a sentence."""
        return self.because[:1].upper() + self.because[1:]


class Question(BaseModel, frozen=True, extra="forbid"):
    """A question with two to five options, one of them right."""

    asks: str
    options: tuple[Option, ...] = Field(min_length=2, max_length=5)

    @field_validator("options")
    @classmethod
    def _one_is_right(cls, options: tuple[Option, ...]) -> tuple[Option, ...]:
        if sum(option.right for option in options) != 1:
            raise ValueError("exactly one of the options needs right = true")
        return options

    def letters(self) -> dict[str, Option]:
        """The options by their letters."""
        return dict(zip("abcde", self.options, strict=False))

    def explained(self, letter: str) -> list[tuple[str, str, Option]]:
        """What is shown after a choice: (letter, heading, option) of each option, the chosen one first."""
        options = self.letters()
        order = sorted(options, key=lambda one: (one != letter, not options[one].right))
        headings = {one: f"{SIGN[option.right]} {WORD[option.right]}" for one, option in options.items()}
        return [(one, headings[one] + (", your choice" if one == letter else ""), options[one]) for one in order]


@dataclass(frozen=True, repr=False)
class Quiz:
    """The questions of a lesson: buttons where Jupyter can show them, text everywhere else."""

    lesson: str
    questions: tuple[Question, ...]

    def __repr__(self) -> str:
        """All questions as text, without the answers."""
        lines = []
        for number, question in enumerate(self.questions, start=1):
            lines.append(textwrap.fill(f"{number}. {question.asks}", WIDTH, subsequent_indent="   "))
            for letter, option in question.letters().items():
                lines.append(textwrap.fill(f"   {letter}) {option.text}", WIDTH, subsequent_indent="      "))
            lines.append("")
        return "\n".join([*lines, f'Without buttons: quiz("{self.lesson}").answer(1, "a") judges and explains that choice.'])

    def choose(self, number: int, letter: str) -> Question:
        """Note a choice, and return its question. Raises `KitError` for an unknown question or letter."""
        if not (isinstance(number, int) and 1 <= number <= len(self.questions)):
            raise KitError(f"The quiz of lesson {self.lesson} has the questions 1 to {len(self.questions)}, not {number!r}.")
        question = self.questions[number - 1]
        options = question.letters()
        if letter not in options:
            raise KitError(f"Question {number} has the choices {', '.join(options)}, not {letter!r}.")
        right = options[letter].right
        note(
            "quiz",
            f"{self.lesson}.{number}",
            lambda past: {"first": letter} | past | solved_now(past, right) | {"last": letter},
        )
        return question

    def answer(self, number: int, letter: str) -> None:
        """Judge a choice, explain all choices of that question, and print the score so far. Raises as `choose` does."""
        question = self.choose(number, letter)
        for one, heading, option in question.explained(letter):
            say(f"{heading}: {one}) {option.text}")
            print(textwrap.fill(option.reason(), WIDTH, initial_indent="    ", subsequent_indent="    "))
        say(self.score(self.last_choices() | {number: letter}))

    def last_choices(self) -> dict[int, str]:
        """The last choice at each question that has one, from the progress file; none if that cannot be read."""
        try:
            kept = read_progress()["quiz"]
        except KitError:
            return {}
        numbers = range(1, len(self.questions) + 1)
        return {number: entry["last"] for number in numbers if (entry := kept.get(f"{self.lesson}.{number}"))}

    def score(self, choices: Mapping[int, str]) -> str:
        """How many of these choices (number of the question: letter) are right, in a sentence."""
        letters = [question.letters() for question in self.questions]
        right = sum(letter in letters[n - 1] and letters[n - 1][letter].right for n, letter in choices.items())
        left = len(self.questions) - len(choices)
        return f"Score: {right} of {len(self.questions)} right." + (f" Still open: {left}." if left else "")

    def widget(self) -> Any:
        """The quiz as a widget: the answers are buttons; a press judges, explains all choices and counts."""
        import ipywidgets as widgets

        choices: dict[int, str] = {}
        score, again = widgets.HTML(), widgets.Button(description="Start again", layout={"width": "auto"})

        def chosen(number: int, letter: str) -> None:
            choices[number] = letter
            score.value = f'<p role="status"><b>{escape(self.score(choices))}</b></p>'

        cards = [_Card(self, number, partial(chosen, number)) for number in range(1, len(self.questions) + 1)]

        def start_again(_: Any) -> None:
            choices.clear()
            score.value = ""
            for card in cards:
                card.reset()

        again.on_click(start_again)
        return widgets.VBox([widgets.HTML(STYLE), *(card.box for card in cards), score, again])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        try:
            bundle = dict(self.widget()._repr_mimebundle_() or {})
        except ImportError:
            bundle = {}
        return bundle | {"text/plain": repr(self)}


class _Card:
    """One question of a quiz's widget: its text, a button for each answer, and what is said after a press."""

    def __init__(self, quiz: Quiz, number: int, chosen: Callable[[str], None]):
        import ipywidgets as widgets

        self.quiz, self.number, self.chosen = quiz, number, chosen
        question = quiz.questions[number - 1]
        self.buttons = {letter: widgets.Button(layout={"width": "auto", "height": "auto"}) for letter in question.letters()}
        for letter, button in self.buttons.items():
            button.add_class("ftkit-choice")
            button.on_click(lambda _, letter=letter: self.press(letter))
        self.said = widgets.HTML()
        asked = widgets.HTML(f"<p><b>{number}. {escape(question.asks)}</b></p>")
        self.box = widgets.VBox([asked, *self.buttons.values(), self.said])
        self.reset()

    def reset(self) -> None:
        """The question as before any answer."""
        for letter, option in self.quiz.questions[self.number - 1].letters().items():
            button = self.buttons[letter]
            button.description, button.disabled = option.text, False
            button.style.button_color = button.style.text_color = None
        self.said.value = ""

    def press(self, letter: str) -> None:
        """Judge a choice: the first one counts, until the quiz is started again."""
        if self.said.value:
            return
        shown = []
        for one, heading, option in self.quiz.choose(self.number, letter).explained(letter):
            ground, ink, edge = COLOURS[option.right]
            button = self.buttons[one]
            button.description, button.disabled = f"{SIGN[option.right]} {option.text}", True
            if one == letter or option.right:
                button.style.button_color, button.style.text_color = ground, ink
            look = f"background:{ground};color:{ink};border-left:4px solid {edge};padding:0.3em 0.8em;margin:0.2em 0"
            text = f"<b>{escape(heading)}:</b> {escape(option.text)}<br>{escape(option.reason())}"
            shown.append(f'<div style="{look};max-width:50em;line-height:1.4">{text}</div>')
        self.said.value = f'<div role="status">{"".join(shown)}</div>'
        self.chosen(letter)
