"""The demo's page: which run it shows, answers as cards, where it is wrong, the evaluation, the card (lesson 05)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Generator, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup, escape

from ftkit.common.errors import KitError
from ftkit.common.memory import free_memory
from ftkit.common.templates import ENVIRONMENT, render
from ftkit.data.kept import check_answer
from ftkit.data.prompt import parse_answer
from ftkit.data.task import Task
from ftkit.deployment.beside import Beside
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.metrics import same
from ftkit.evaluation.report import render_report
from ftkit.evaluation.saved_answers import load_evaluation, read_answers
from ftkit.evaluation.stream import Answer
from ftkit.runs.card import CARD
from ftkit.runs.documents import Evaluation
from ftkit.runs.run import Run
from ftkit.training.give_way import go_first

SECONDS = 30  # for an answer; then it is cut off
BUSY = "Too many people ask at once. Please try again in a minute."
FAILED = "The model failed at this message. Try another one."
SIDES = {BASE: "Before: the base model", TUNED: "After: fine-tuned"}
# what gradio is told: an element whose changes a screen reader says, and events that belong to the page alone
ANNOUNCED = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"
HIDDEN: dict[str, Any] = {"api_visibility": "private"}  # programs call `answer` and `feedback`
QUIET: dict[str, Any] = {"show_progress": "hidden", **HIDDEN}
Item = TypeVar("Item")
CARDS_CSS = Path(__file__).parent / "templates" / "cards.css"
GRADIO = str.maketrans({character: f"&#{ord(character)};" for character in "${}`\\"})


def escape_html(value: Any) -> Markup:
    """Text for HTML; also what Gradio's templates would take for one of theirs."""
    return value if hasattr(value, "__html__") else Markup(str(escape(value)).translate(GRADIO))


PAGES = ENVIRONMENT.overlay(finalize=escape_html)  # Gradio fills in templates of its own in the HTML that it is given


def render_html(template: str, /, **values: Any) -> str:
    """Fill in one of the page's templates, named without folder and ending; all that is filled in becomes text."""
    return PAGES.get_template(f"deployment/templates/{template}.html").render(values)


class Shown:
    """The run that the page shows, and its models. Both change when the learner's own model takes the place of the kit's."""

    def __init__(self, run: Run, answerer: Answerer, beside: Beside | None = None):
        self.run, self.answerer, self.beside = run, answerer, beside

    @property
    def task(self) -> Task:
        """The task of the run, the same for both: it decides what the page is made of."""
        return self.answerer.task

    @property
    def is_own(self) -> bool:
        """Whether the page shows the run that was trained beside it."""
        return self.beside is None or self.run == self.beside.run

    def open_own(self, run: Run) -> None:
        """Show `run` from now on. Its models are loaded in the old ones' thread; an answer under way keeps those it has."""
        if self.run == run:
            return
        answerer = Answerer.of_run(run, self.answerer.worker)
        answerer.prepare_stream()
        self.run, self.answerer = run, answerer
        free_memory()

    def heading(self) -> str:
        """What the page says of itself at its top."""
        whose = ""
        if not self.is_own and self.beside:
            yours = {
                "done": "Yours is ready: a button under *Training* shows it instead.",
                "stopped": "The training of yours has stopped: *Training* says why, and goes on with it.",
            }
            learns = "Yours is trained beside this page: *Training* shows it; once it is ready, a button there shows yours."
            whose = f"\n\n**This is the kit's own model.** {yours.get(self.beside.phase, learns)}"
        elif self.beside:
            whose = f"\n\n**This is your model**, `{self.run.name}`."
        model = f"**{self.run.profile.model.split('/')[-1]}** before and after fine-tuning"
        about = (
            f"Talk to {model}, both at once. Each side goes on from its own answers: it reads your messages and what it "
            "said itself, and nothing of what the other one said."
            if self.task.kind == "chat"
            else f"The same message, answered by {model}. Before: the model is told what to answer with in its prompt. "
            "After: it learned that from examples."
        )
        title = self.task.title or self.task.name
        return f"# {title}\n{about} Do not enter personal data; answers can be wrong.{whose}"

    def about(self) -> str:
        """The tab *About*."""
        return render_about(self.run, self.task)


def in_words(stream: Iterator[Item], beside: Beside | None = None) -> Generator[Item, None, None]:
    """A stream of answers for visitors: every error is a `KitError`, and nothing of a message comes into a log.

    What runs beside the page gives way until the answer is there.
    """
    try:
        with go_first(beside.folder if beside else None):
            yield from stream
    except KitError:
        raise
    except Exception as error:
        print(f"An answer failed: {type(error).__name__}", file=sys.stderr, flush=True)
        raise KitError(FAILED) from None


def measures(answer: Answer, state: str) -> str:
    """How an answer stands and how fast it came; `state` says how it stands with one that is not finished."""
    state = "finished" if answer.finished else f"stopped after {answer.seconds:.0f} s" if answer.timed_out else state
    speed = f" · {answer.tokens / answer.seconds:.0f} tokens/s" if answer.seconds and answer.tokens else ""
    return f"{state} · {answer.seconds:.1f} s · {answer.tokens} tokens{speed}" if answer.seconds else state


def answer_card(task: Task, answer: Answer, target: Any = None, message: str | None = None) -> str:
    """An answer as HTML for people, by the task's kind, with what does not fit marked, and the difference from `target`.

    `json`: a row a field. `label`: the label with the model's own probability. `text`: the text and, once it is whole, marks
    for what it should have kept of the `message`. Everything that the model or a guest wrote is escaped.
    """
    if not answer.text:
        empty = answer.finished or answer.timed_out
        return render_html("card", form="waiting", text="The answer is empty." if empty else "…")
    value = parse_answer(task, answer.text)
    if task.kind == "label":
        return _label_card(task, answer, value, target)
    if task.kind in ("text", "chat"):
        checks = check_answer(task, value, target, message) if answer.finished else []
        return render_html("card", form="text", text=value, target=target, checks=checks)
    if value is None:
        return no_card("No ticket: the answer holds no JSON object." if answer.finished else "No ticket yet …")
    wrong = task.field_problems(value)
    rows = []
    for f in task.fields:
        row = {"name": _spaced(f.name), "text": "missing", "note": "", "wrong": f.name in wrong or f.name not in value}
        if f.name in value:
            row |= {"text": _show(value[f.name]), "note": "not allowed here" if row["wrong"] else ""}
        if isinstance(target, dict) and not row["wrong"] and value[f.name] != target.get(f.name):
            row |= {"note": f"should be {_show(target.get(f.name))}", "wrong": True}
        rows.append(row)
    if extra := [name for name in value if name not in {f.name for f in task.fields}]:
        rows.append({"name": "other keys", "text": ", ".join(extra), "note": "", "wrong": True})
    return render_html("card", form="json", rows=rows)


def no_card(why: str) -> str:
    """A card that says why there is no answer in it."""
    return render_html("card", form="broken", text=why)


def _label_card(task: Task, answer: Answer, label: str, target: Any) -> str:
    note = "" if label in task.labels else "no label of this task"
    if not note and target is not None and label != target:
        note = f"should be {target}"
    share = f"{answer.probability:.0%}" if answer.finished else ""
    return render_html("card", form="label", text=label, note=note, share=share)


def describe_answer(task: Task, answer: Answer, target: Any = None, message: str | None = None) -> str:
    """An answer as one sentence, for a screen reader: said once, when the answer is there. A text's checks come after it."""
    value = parse_answer(task, answer.text)
    if not answer.text:
        return "no answer"
    if task.kind != "json":
        return "; ".join([str(value), *(check.in_words() for check in check_answer(task, str(value), target, message))])
    if value is None:
        return "no ticket, text only"
    return ", ".join(
        f"{_spaced(str(name))} {_show(part) if part not in (None, []) else 'none'}" for name, part in value.items()
    )


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _show(value: Any) -> str:
    """A field's value for people: a dash for nothing, a list with commas."""
    if value is None or value == []:
        return "–"
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- where it is wrong ---


def list_wrong_answers(run: Run, task: Task) -> tuple[list[dict[str, Any]], int]:
    """The saved test answers in which the tuned model's answer is not the target's, and how many answers there are.

    Each has message, target, tuned (text) and `fields`: what is wrong. Without readable answers: ([], 0).
    """
    try:
        answers = read_answers(run, "test", TUNED)
    except KitError:
        return [], 0
    rows = [row for row in task.rows("test") if row[task.message] in answers] if answers else []
    wrong = []
    for row in rows:
        message, target = row[task.message], row[task.target]
        if fields := _list_wrong_fields(task, answers[message], target):
            wrong.append({"message": message, "target": target, TUNED: answers[message], "fields": fields})
    return wrong, len(rows)


def _list_wrong_fields(task: Task, text: str, target: Any) -> list[str]:
    value = parse_answer(task, text)
    if task.kind != "json":
        lost = [check.name for check in check_answer(task, value, target) if not check.kept]
        return [] if same(value, target) else [str(target)] if task.kind == "label" else lost or ["wording"]
    if value is None or not isinstance(target, dict):
        return ["no object"]
    wrong = [name for name in target if name not in value or not same(value[name], target[name])]
    return wrong or ([] if same(value, target) else ["other keys"])


def render_gallery(task: Task, wrong: Sequence[dict[str, Any]], most: int = 20) -> str:
    """Wrong answers as HTML, each to unfold: the message, and the card with the differences marked."""
    rows = []
    for row in wrong:
        text = " ".join(row["message"].split())
        rows.append(
            {
                "start": text if len(text) <= 90 else text[:89] + "…",
                "fields": map(_spaced, row["fields"]),
                "message": row["message"],
                "card": answer_card(task, Answer(TUNED, row[TUNED], finished=True), row["target"]),
            }
        )
    return render_html("gallery", rows=rows, most=most)


# --- the other tabs ---


def render_evaluation(run: Run) -> str:
    """The report of the run's evaluation in a frame that may run nothing; or why there is none, and how to get one."""
    try:
        changed = Evaluation.path(run.folder).stat().st_mtime_ns if run.is_evaluated else 0
        return render_html("evaluation", report=_make_report(run, changed))
    except KitError as error:
        return render_html("evaluation", report="", problem=error)


@lru_cache(maxsize=1)
def _make_report(run: Run, changed: int) -> str:
    """The report, kept until the evaluation is `changed`: it takes a second, and anybody may look at it again."""
    return render_report(run, load_evaluation(run))


def render_about(run: Run, task: Task) -> str:
    """The model card and the data's sheet as Markdown, with what the model must not be used for."""
    parts = []
    for heading, path in (("Model card", run.folder / CARD), ("Data", task.folder / "DATASHEET.md")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # front matter is for the hub
        text = re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)  # links to files that are not served
        parts.append((heading, re.sub(r"^#", "###", text.strip(), flags=re.MULTILINE)))
    return render("deployment/templates/about.md", parts=parts, chat=task.kind == "chat").rstrip("\n")
