"""The demo: one message, answered before and after fine-tuning, side by side. Thin: the work is done in ftkit."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before it is imported: nothing is sent to anybody

import gradio as gr

from ftkit.common.errors import KitError
from ftkit.common.paths import kit_root
from ftkit.data.prompt import parse_answer
from ftkit.data.task import Field, Task
from ftkit.deployment.demo_page import (
    CARDS_CSS,
    answer_card,
    describe_answer,
    escape_html,
    list_wrong_answers,
    no_card,
    render_about,
    render_evaluation,
    render_gallery,
)
from ftkit.deployment.feedback import CORRECTED, RIGHT, FeedbackFile, feedback_entry
from ftkit.deployment.form import NO, NOTHING, YES, fill_form, read_form
from ftkit.deployment.gatekeeper import DEFAULT_PORT, free_port, guard_application
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.stream import Answer
from ftkit.runs.run import Run

EXAMPLES = 6  # of each difficulty
WAITING = 6  # requests that may wait; one more is told that the demo is busy
SECONDS = 30  # for an answer; then it is cut off
BUSY = "Too many people ask at once. Please try again in a minute."
SIDES = {BASE: "Before: the base model", TUNED: "After: fine-tuned"}
CONSENT = (
    "I agree that this message and the right answer are kept in a file on the computer that serves this page, and may be "
    "used to train and to test models. They hold no personal data. Nothing about me is kept with them."
)
CSS = [CARDS_CSS, Path(__file__).with_name("demo.css")]
# fonts of the reader's own system: the page loads nothing from elsewhere
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
# colours that are read easily: at least 4.5 to 1 against what lies behind them (WCAG 2.2, 1.4.3)
THEME = gr.themes.Soft(primary_hue="orange", neutral_hue="stone", **FONTS).set(
    block_title_background_fill="transparent",
    block_title_background_fill_dark="transparent",
    block_title_padding="0",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
    checkbox_label_background_fill_selected="*primary_700",
    checkbox_label_background_fill_selected_dark="*primary_700",
    input_border_width="1px",
    input_border_color="*neutral_400",
    input_border_color_dark="*neutral_500",
    checkbox_border_color="*neutral_500",
    checkbox_border_color_dark="*neutral_400",
)
ANNOUNCED = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"
HIDDEN: dict[str, Any] = {"api_visibility": "private"}  # the page's own wiring; programs call `answer` and `feedback`
QUIET: dict[str, Any] = {"show_progress": "hidden", **HIDDEN}


def build(run: Run, answerer: Answerer | None = None) -> gr.Blocks:
    """The page for a finished run. The models are loaded here, once for all visitors."""
    answerer = answerer or Answerer.of_run(run)
    answerer.prepare_stream()
    task = answerer.task
    with gr.Blocks(title=task.title or task.name, analytics_enabled=False) as page:
        answered = gr.State(None)  # the last message and the tuned answer to it
        gr.Markdown(
            f"# {task.title or task.name}\n"
            f"The same message, answered by **{run.profile.model.split('/')[-1]}** before and after fine-tuning. "
            "Before: the model is told what to answer with in its prompt. After: it learned that from examples. "
            "Do not enter personal data; answers can be wrong."
        )
        with gr.Tabs():
            with gr.Tab("Compare", id="compare"):
                events = _compare(run, answerer, answered)
            with gr.Tab("Evaluation", id="evaluation") as evaluation:
                shown = gr.HTML(apply_default_css=False)
                evaluation.select(lambda: render_evaluation(run), None, shown, queue=False, **HIDDEN)
            with gr.Tab("Feedback", id="feedback"):
                _feedback(Feedback(run, task), answered, events)
            with gr.Tab("About", id="about"):
                gr.Markdown(render_about(run, task))
    return page


class Exchange:
    """What the page shows from a message to the answers: for each side card, text and measures; words; what to keep."""

    def __init__(self, answerer: Answerer, rows: list[dict[str, Any]]):
        self.answerer, self.task = answerer, answerer.task
        self.targets = {row[self.task.message]: row[self.task.target] for row in rows}

    def begin(self, state: str = "waiting for its turn") -> list[Any]:
        """What stood there belongs to another message; this one may have to wait, or be refused."""
        return [*_columns(self.task, dict.fromkeys(SIDES, Answer("")), None, state), "", None]

    def refuse(self, why: str = BUSY) -> list[Any]:
        """No answer, and why."""
        return [*[no_card(f"No answer. {why}"), "", "no answer"] * len(SIDES), escape_html(f"No answer. {why}"), None]

    def respond(self, message: str) -> Iterator[list[Any]]:
        """Both answers while they are written, then in words, with the differences where the right answer is known."""
        message, task = message or "", self.task
        yield self.begin("reading")
        try:
            for answers in _answers(self.answerer, message):
                yield [*_columns(task, answers, None, "writing"), gr.skip(), gr.skip()]
        except gr.Error as error:  # told in the page; what gradio makes of an error leaves the page as it stood
            yield self.refuse(error.message)
            return
        target = self.targets.get(message)
        words = ". ".join(f"{SIDES[s]}: {describe_answer(task, answers[s], target, message)}" for s in (TUNED, BASE))
        kept = {"message": message, "answer": answers[TUNED]}
        shown = _columns(task, answers, target, "cut off at the length limit", True, message)
        yield [*shown, escape_html(words), kept]

    def answer(self, message: str) -> Iterator[dict[str, dict]]:
        """Answer one message by the base and by the tuned model. Streams: each item holds all that is written so far.

        Gives {"base": ..., "tuned": ...}, each with text, tokens, seconds, finished, timed_out and probability.
        """
        for answers in _answers(self.answerer, message):
            yield {side: vars(answer) for side, answer in answers.items()}


def _compare(run: Run, answerer: Answerer, answered: gr.State) -> list[Any]:
    """The tab with both answers. Returns the events after which there is no answer yet, and another one."""
    task = answerer.task
    rows = task.rows("test")
    exchange = Exchange(answerer, rows)
    with gr.Row() if task.kind == "text" else nullcontext():  # a text stands beside its answers
        message, button = _question(task)
        outputs = _answer_columns(task)
    words = gr.HTML(js_on_load=ANNOUNCED, elem_id="said", elem_classes="announcer")
    changed = [*outputs, words, answered]
    begun = gr.on([button.click, message.submit], lambda: exchange.begin(), None, changed, queue=False, **QUIET)
    asked = begun.success(
        exchange.respond,
        message,
        changed,
        concurrency_limit=1,
        concurrency_id="model",
        show_progress="minimal",
        show_progress_on=outputs[2::3],
        **HIDDEN,
    )
    asked.failure(lambda: exchange.refuse(), None, changed, queue=False, **QUIET)  # the queue was full
    for label, some in _examples(run, task, rows).items():
        gr.Examples(some, message, label=label, examples_per_page=EXAMPLES, api_visibility="private")
    _wrong(run, task)
    gr.api(exchange.answer, api_name="answer", concurrency_limit=1, concurrency_id="model")
    return [begun, asked]


def _question(task: Task) -> tuple[gr.Textbox, gr.Button]:
    """Where a message is written, and the button that sends it."""
    with gr.Column(min_width=300, elem_id="question"):
        message = gr.Textbox(
            label="Message",
            lines=3,
            max_lines=8,
            max_length=task.max_message_characters,
            placeholder="Write a message, or take an example below",
            elem_id="message",
        )
        return message, gr.Button("Answer", variant="primary", elem_id="answer")


def _answer_columns(task: Task) -> list[Any]:
    """Card, text and measures for each side: side by side, or one below the other where both stand beside the message."""
    outputs, is_text = [], task.kind == "text"
    with gr.Column(min_width=300, elem_id="texts") if is_text else gr.Row():
        for side, heading in SIDES.items():
            with gr.Column(min_width=300, elem_id=side):
                gr.Markdown(f"### {heading}")
                card = gr.HTML(answer_card(task, Answer("")), apply_default_css=False, elem_id=f"{side}-card")
                measures = gr.Markdown(elem_id=f"{side}-measures", min_height=24)
                label = f"{heading.split(':')[0]}, as written"
                text = gr.Textbox(label=label, lines=3, interactive=False, elem_id=f"{side}-text", visible=not is_text)
                outputs += [card, text, measures]
    return outputs


def _answers(answerer: Answerer, message: str) -> Iterator[dict[str, Answer]]:
    """The stream for visitors: an error is one sentence, and nothing of a message comes into a log."""
    try:
        yield from answerer.stream(message, time_limit=SECONDS)
    except KitError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except Exception as error:
        print(f"An answer failed: {type(error).__name__}", file=sys.stderr, flush=True)
        raise gr.Error("The model failed at this message. Try another one.", print_exception=False) from None


def _columns(
    task: Task, answers: dict[str, Answer], target: Any, state: str, ended: bool = False, message: str | None = None
) -> list[str]:
    """Card, raw text and measures for each side; `state` says how it stands with an answer that is not finished."""
    shown = []
    for side in SIDES:
        answer = answers[side]
        state_ = "finished" if answer.finished else f"stopped after {SECONDS} s" if answer.timed_out else state
        speed = f" · {answer.tokens / answer.seconds:.0f} tokens/s" if answer.seconds and answer.tokens else ""
        measures = f"{state_} · {answer.seconds:.1f} s · {answer.tokens} tokens{speed}" if answer.seconds else state_
        card = answer_card(task, replace(answer, finished=answer.finished or ended), target, message)
        shown += [card, answer.text, measures]
    return shown


def _examples(run: Run, task: Task, rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Some messages of the test split under a heading for each difficulty that the rows tell."""
    chance = random.Random(run.profile.seed)
    kinds = [kind for kind in ("everyday", "hard") if any(row.get("difficulty") == kind for row in rows)]
    groups = {kind: [row for row in rows if row.get("difficulty") == kind] for kind in kinds} or {"": rows}
    return {
        f"{kind} messages that the model was not trained on".strip().capitalize(): [
            row[task.message] for row in chance.sample(some, min(EXAMPLES, len(some)))
        ]
        for kind, some in groups.items()
    }


def _wrong(run: Run, task: Task) -> None:
    """The gallery of wrong answers, to be narrowed down to a field."""
    wrong, n = list_wrong_answers(run, task)
    if not n:
        return
    names = list(dict.fromkeys(name for row in wrong for name in row["fields"]))
    counts = {name: sum(name in row["fields"] for row in wrong) for name in names}
    with gr.Accordion(f"Where it is wrong: {len(wrong)} of {n} test messages", open=False, elem_id="wrong"):
        choices = [(f"all {len(wrong)}", ""), *((f"{name.replace('_', ' ')}: {counts[name]}", name) for name in names)]
        which = gr.Dropdown(choices, value="", label="What is wrong", filterable=False)
        shown = gr.HTML(render_gallery(task, wrong), apply_default_css=False)

        def narrowed(name: str) -> str:
            return render_gallery(task, [row for row in wrong if not name or name in row["fields"]])

        which.change(narrowed, which, shown, queue=False, **HIDDEN)


class Feedback:
    """Where feedback is taken: what the form is filled with, and what is kept of it, or why nothing is."""

    def __init__(self, run: Run, task: Task):
        self.run, self.task, self.file = run, task, FeedbackFile.of(run)

    def filled(self, last: dict[str, Any] | None) -> list[Any]:
        """The form for the last answer: message, card, verdict, consent, result, and a value for each input."""
        answer = last["answer"] if last else Answer(TUNED)
        card = answer_card(self.task, replace(answer, finished=True), message=last["message"]) if last else ""
        return [last["message"] if last else "", card, None, False, "", *fill_form(self.task, answer.text)]

    def keep(
        self, last: dict[str, Any] | None, shown: str | None, verdict: str | None, agreed: bool, *values: Any
    ) -> tuple[str, Any]:
        """Keep what the form says of the last answer; gives a sentence for the page, and the answer if it stays open."""
        if not last:
            return _note("Let a message be answered under Compare first."), last
        if (shown or "").split() != last["message"].split():  # the last answer came while this was on its way
            return _note("There is another answer now. Look at it first."), last
        if verdict is None:
            return _note("Say first whether the answer is right."), last
        if not agreed:
            return _note("Without your consent nothing is kept. Tick the box if you agree."), last
        text = last["answer"].text
        right = parse_answer(self.task, text) if verdict == RIGHT else read_form(self.task, values)
        try:
            self.file.keep(feedback_entry(self.run, self.task, last["message"], text, right, verdict))
        except KitError as error:
            return _note(str(error)), last
        return _note("Thank you, it is kept."), None

    def feedback(self, message: str, answer: str, verdict: str, target: dict | str, consent: bool) -> str:
        """Say whether an answer of the tuned model is right: verdict is "right" or "corrected".

        `answer` is the text that the model wrote, `target` the right answer: an object for a task with fields, otherwise a
        text. Kept only with `consent`: message and answers may then be used to train and to test models. Returns its id.
        """
        try:
            if consent is not True:
                raise KitError("Without consent nothing is kept.")
            if not isinstance(answer, str) or len(answer) > self.task.max_message_characters:
                raise KitError("The answer must be text, and not longer than a message may be.")
            entry = feedback_entry(self.run, self.task, message, answer, target, verdict)
            self.file.keep(entry)
        except KitError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return entry["id"]


def _feedback(feedback: Feedback, answered: gr.State, events: list[Any]) -> None:
    """The tab in which a visitor says that the tuned answer is right, or what it should be."""
    verdicts = [("It is right", RIGHT), ("It is wrong: I fill in the right one", CORRECTED)]
    gr.Markdown("Was the fine-tuned model's last answer right? What you say can make the next model better.")
    label = "The message (first let it be answered under Compare)"
    message = gr.Textbox(label=label, lines=3, interactive=False, elem_id="given")
    card = gr.HTML(apply_default_css=False, elem_id="given-card")
    verdict = gr.Radio(verdicts, label="The fine-tuned answer", elem_id="verdict")
    with gr.Group(visible=False, elem_id="form") as form:
        inputs = _form(feedback.task)
    consent = gr.Checkbox(label=CONSENT, elem_id="consent")
    send = gr.Button("Send", variant="primary", elem_id="send")
    result = gr.HTML(js_on_load=ANNOUNCED, elem_id="sent")
    for event in events:
        outputs = [message, card, verdict, consent, result, *inputs]
        event.success(feedback.filled, answered, outputs, queue=False, **QUIET)
    verdict.change(lambda value: gr.Group(visible=value == CORRECTED), verdict, form, queue=False, **HIDDEN)
    form_values = [answered, message, verdict, consent, *inputs]
    send.click(feedback.keep, form_values, [result, answered], queue=False, trigger_mode="once", **HIDDEN)
    gr.api(feedback.feedback, api_name="feedback", queue=False)


def _note(text: str) -> str:
    return f"<p>{escape_html(text)}</p>"


def _form(task: Task) -> list[Any]:
    """The inputs for a right answer, by the task's kind; a field each for `json`."""
    if task.kind == "label":
        return [gr.Dropdown(list(task.labels), label="The right label")]
    if task.kind == "text":
        return [gr.Textbox(label="The right answer", lines=5, max_length=task.max_message_characters)]
    return [_input(f) for f in task.fields]


def _input(f: Field) -> Any:
    about = {"label": f.name.replace("_", " "), "info": f.about or None, "elem_id": f"field-{f.name}"}
    empty = [NOTHING] if f.nullable else []
    if f.type == "choice":
        return gr.Dropdown([*f.values, *empty], **about)
    if f.type == "set":
        return gr.CheckboxGroup(list(f.values), **about)
    if f.type == "boolean":
        return gr.Radio([YES, NO, *empty], **about)
    if f.type in ("integer", "number"):
        return gr.Number(precision=0 if f.type == "integer" else None, minimum=f.minimum, **about)
    form = f"{f.about}: {f.form}" if f.form else f.about
    return gr.Textbox(max_length=500, **{**about, "info": form or None})


def launch(
    run: Run,
    port: int = DEFAULT_PORT,
    share: bool = False,
    block: bool = True,
    answerer: Answerer | None = None,
    auth: tuple[str, str] | None = None,
    host: str = "127.0.0.1",
) -> gr.Blocks:
    """Serve the demo at `port`, or the next free one; with `share` also under a public link, if there is one.

    `host` is the address to listen at: this machine only, unless it is "0.0.0.0". `auth` is a user and a password that a
    visitor must give.
    """
    page = build(run, answerer)
    page.queue(max_size=WAITING, api_open=False)  # who calls a function past the queue is sent away
    settings = {
        "server_name": host,
        "share": share,
        "auth": auth,
        "prevent_thread_lock": True,
        "quiet": True,
        "inline": False,  # a notebook shows it by `plots.frame`
        "theme": THEME,
        "css_paths": CSS,
        "footer_links": ["api"],
        "enable_monitoring": False,
        "allowed_paths": [],
        "blocked_paths": [str(path) for path in {kit_root(), run.folder.resolve(), Path.cwd()}],
        "max_file_size": 1,  # nothing is to be uploaded
        "state_session_capacity": 500,
        "ssr_mode": False,
        "mcp_server": False,
        "run_history": False,  # gradio would keep messages and answers in the visitor's browser
    }
    for tries_left in reversed(range(10)):
        try:
            page.launch(server_port=port, app_kwargs=guard_application(), **settings)
            break
        except OSError:  # somebody took the port between the look at it and now
            if not tries_left:
                raise
            port = free_port(port + 1)
    print(f"The demo is at {page.local_url}{'  (Ctrl+C stops it)' if block else ''}", flush=True)
    if share:
        failed = "No public link could be made (no network, or the tunnel's program could not be fetched); local only."
        print(f"Public link: {page.share_url}" if page.share_url else failed, flush=True)
    if block:
        page.block_thread()
    return page
