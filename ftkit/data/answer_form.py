"""How the answer of a `json` task is written as text, and read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AnswerForm:
    """A JSON object on one line: what stands between its parts, and between a field's name and its value."""

    comma: str = ","
    colon: str = ":"

    def write(self, answer: Any) -> str:
        """The answer as the model should write it."""
        return json.dumps(answer, ensure_ascii=False, separators=(self.comma, self.colon))

    def read(self, text: str) -> dict[str, Any] | None:
        """The first object in a text, None if there is none: a base model may wrap it in prose or a code fence."""
        decoder = json.JSONDecoder()
        start = text.find("{")
        while start >= 0:
            try:
                value, _ = decoder.raw_decode(text, start)
            except (ValueError, RecursionError):  # ValueError: also a number of thousands of digits
                value = None
            if isinstance(value, dict):
                return value
            start = text.find("{", start + 1)
        return None


COMPACT = AnswerForm()  # no spaces: a fifth fewer tokens to learn, and to wait for
ANSWER_FORMS = {"compact": COMPACT, "spaced": AnswerForm(", ", ": ")}  # what task.toml may name as `answer_form`
