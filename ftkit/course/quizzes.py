"""Quizzes: a question, its choices, and the explanation of each (every lesson)."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from html import escape
from typing import Any

from pydantic import BaseModel, Field, field_validator

from ftkit.common.errors import KitError
from ftkit.course.exercise import WIDTH, say
from ftkit.course.progress import note, solved_now


class Option(BaseModel, frozen=True, extra="forbid"):
    """One choice of a question, with an explanation for those who take it."""

    text: str
    because: str
    right: bool = False


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
        return "\n".join([*lines, f'Without buttons: quiz("{self.lesson}").answer(1, "a") explains that choice.'])

    def explain(self, number: int, letter: str) -> str:
        """The explanation of a choice; the choice is noted. Raises `KitError` for an unknown question or letter."""
        if not (isinstance(number, int) and 1 <= number <= len(self.questions)):
            raise KitError(f"The quiz of lesson {self.lesson} has the questions 1 to {len(self.questions)}, not {number!r}.")
        options = self.questions[number - 1].letters()
        if letter not in options:
            raise KitError(f"Question {number} has the choices {', '.join(options)}, not {letter!r}.")
        option = options[letter]
        note("quiz", f"{self.lesson}.{number}", lambda past: solved_now(past, option.right) | {"last": letter})
        return f"{'Right' if option.right else 'Not so'}: {option.because}"

    def answer(self, number: int, letter: str) -> None:
        """Print the explanation of a choice."""
        say(self.explain(number, letter))

    def widget(self) -> Any:
        """The quiz as a widget: a row of letters below each question; the explanation appears when one is pressed."""
        import ipywidgets as widgets

        parts = []
        for number, question in enumerate(self.questions, start=1):
            items = "".join(f"<li>{escape(option.text)}</li>" for option in question.options)
            buttons = widgets.ToggleButtons(options=list(question.letters()), value=None, style={"button_width": "3em"})
            explanation = widgets.HTML()

            def show(change: dict, number: int = number, explanation: Any = explanation) -> None:
                explanation.value = f'<p role="status">{escape(self.explain(number, change["new"]))}</p>'

            buttons.observe(show, "value")
            text = widgets.HTML(f'<p><b>{number}. {escape(question.asks)}</b></p><ol type="a">{items}</ol>')
            parts += [text, buttons, explanation]
        return widgets.VBox(parts)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        try:
            bundle = dict(self.widget()._repr_mimebundle_() or {})
        except ImportError:
            bundle = {}
        return bundle | {"text/plain": repr(self)}
