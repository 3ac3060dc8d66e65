"""The demo: one message, answered before and after fine-tuning, side by side. Thin: the work is done in ftkit.

What the page is made of follows from the task: for conversations its first tab is that of `chat.py`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before it is imported: nothing is sent to anybody

import gradio as gr

from ftkit.common.errors import KitError
from ftkit.common.paths import kit_root, load_app
from ftkit.data.prompt import parse_answer
from ftkit.data.task import Field, Task
from ftkit.deployment.beside import Beside
from ftkit.deployment.chat_page import written
from ftkit.deployment.demo_page import (
    ANNOUNCED,
    BUSY,
    CARDS_CSS,
    HIDDEN,
    QUIET,
    SECONDS,
    SIDES,
    Shown,
    answer_card,
    describe_answer,
    escape_html,
    in_words,
    list_wrong_answers,
    measures,
    no_card,
    render_evaluation,
    render_gallery,
)
from ftkit.deployment.feedback import CORRECTED, RIGHT, FeedbackFile, feedback_entry
from ftkit.deployment.form import NO, NOTHING, YES, fill_form, read_form
from ftkit.deployment.gatekeeper import DEFAULT_PORT, free_port, guard_application
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.stream import Answer
from ftkit.runs.documents import LOG
from ftkit.runs.run import Run

EXAMPLES = 6  # of each difficulty
WAITING = 6  # requests that may wait; one more is told that the demo is busy
CONSENT = (
    "I agree that this {} and the right answer are kept in a file on the computer that serves this page, and may be "
    "used to train and to test models. They hold no personal data. Nothing about me is kept with them."
)
CSS = [*(CARDS_CSS.with_name(f"{name}.css") for name in ("cards", "training", "chat")), Path(__file__).with_name("demo.css")]
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


def build(run: Run, answerer: Answerer | None = None, beside: Beside | None = None) -> gr.Blocks:
    """The page for a finished run. The models are loaded here, once for all visitors.

    With something `beside` it, the page shows how that stands, and turns to its run when the visitor asks for it.
    """
    shown = Shown(run, answerer or Answerer.of_run(run), beside)
    shown.answerer.prepare_stream()
    task = shown.task
    with gr.Blocks(title=task.title or task.name, analytics_enabled=False) as page:
        answered = gr.State(None)  # the last message and the tuned answer to it
        heading = gr.Markdown(shown.heading(), elem_id="heading")
        with gr.Tabs():
            with gr.Tab("Chat" if task.kind == "chat" else "Compare", id="compare"):
                first = load_app("chat").ChatTab(shown, answered) if task.kind == "chat" else CompareTab(shown, answered)
            if beside or (run.folder / LOG).is_file():
                with gr.Tab("Training", id="training"):
                    training = load_app("training").TrainingTab(task, run, beside, lambda: shown.is_own)
            with gr.Tab("Evaluation", id="evaluation") as evaluation:
                report = gr.HTML(apply_default_css=False)
                evaluation.select(lambda: render_evaluation(shown.run), None, report, queue=False, **HIDDEN)
            with gr.Tab("Feedback", id="feedback"):
                _feedback(Feedback(shown), answered, first)
            with gr.Tab("About", id="about"):
                about = gr.Markdown(shown.about())
        if beside:
            _follow(page, shown, training, [heading, about, *first.parts], first.values)
    return page


def _follow(page: gr.Blocks, shown: Shown, training: Any, parts: list[Any], values: Callable[[], list[Any]]) -> None:
    """Keep the page with what runs beside it: each tick looks, the button turns to the trained model.

    `parts` are heading, tab *About* and what `values` fills.
    """
    assert shown.beside
    name = gr.State(None)  # of what this visitor's page says of the run

    def tick(known: str | None, seen: Any, place: float | None) -> list[Any]:
        standing = training.values(seen, place)
        now = f"{shown.run.name}, {shown.run.is_evaluated}, {shown.heading()}"
        if known == now:
            return [gr.skip(), *standing, *[gr.skip()] * len(parts)]
        return [now, *standing, shown.heading(), shown.about(), *values()]

    given, changed = [name, training.seen, training.place], [name, *training.parts, *parts]
    gr.on([page.load, training.timer.tick], tick, given, changed, queue=False, **QUIET)
    turn = load_app("training").turn_to(shown.open_own, shown.beside)
    told = [training.ask, training.said]
    turned = training.show.click(turn, None, told, concurrency_limit=1, concurrency_id="model", **HIDDEN)
    turned.success(tick, given, changed, queue=False, **QUIET)
    turned.failure(lambda: [BUSY, BUSY], None, told, queue=False, **QUIET)


class Exchange:
    """What the page shows from a message to the answers: for each side card, text and measures; words; what to keep."""

    def __init__(self, shown: Shown, rows: list[dict[str, Any]]):
        self.shown, self.task = shown, shown.task
        self.targets = {row[self.task.message]: row[self.task.target] for row in rows}

    def begin(self, state: str = "waiting for its turn") -> list[Any]:
        """What stood there belongs to another message; this one may have to wait, or be refused."""
        return [*_columns(self.task, dict.fromkeys(SIDES, Answer("")), None, state), "", None]

    def refuse(self, why: str = BUSY) -> list[Any]:
        """No answer, and why."""
        return [*[no_card(f"No answer. {why}"), "", "no answer"] * len(SIDES), escape_html(f"No answer. {why}"), None]

    def respond(self, message: str) -> Iterator[list[Any]]:
        """Both answers while they are written, then in words, with the differences where the right answer is known."""
        message, task, run = message or "", self.task, self.shown.run
        yield self.begin("reading")
        try:
            for answers in _answers(self.shown.answerer, message, self.shown.beside):
                yield [*_columns(task, answers, None, "writing"), gr.skip(), gr.skip()]
        except gr.Error as error:  # told in the page; what gradio makes of an error leaves the page as it stood
            yield self.refuse(error.message)
            return
        target = self.targets.get(message)
        words = ". ".join(f"{SIDES[s]}: {describe_answer(task, answers[s], target, message)}" for s in (TUNED, BASE))
        kept = {"message": message, "answer": answers[TUNED], "run": run}
        shown = _columns(task, answers, target, "cut off at the length limit", True, message)
        yield [*shown, escape_html(words), kept]

    def answer(self, message: str) -> Iterator[dict[str, dict]]:
        """Answer one message by the base and by the tuned model. Streams: each item holds all that is written so far.

        Gives {"base": ..., "tuned": ...}, each with text, tokens, seconds, finished, timed_out and probability.
        """
        for answers in _answers(self.shown.answerer, message, self.shown.beside):
            yield {side: vars(answer) for side, answer in answers.items()}


class CompareTab:
    """The tab with both answers to one message. `events` are those after which there is no answer yet, and another one."""

    def __init__(self, shown: Shown, answered: gr.State):
        task = shown.task
        rows = task.rows("test")
        exchange = Exchange(shown, rows)
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
        for label, some in _examples(shown.run, task, rows).items():
            gr.Examples(some, message, label=label, examples_per_page=EXAMPLES, api_visibility="private")
        gallery = Gallery(shown)
        gr.api(exchange.answer, api_name="answer", concurrency_limit=1, concurrency_id="model")
        self.events, self.parts, self.values, self.which = [begun, asked], gallery.parts, gallery.values, None


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


def _answers(answerer: Answerer, message: str, beside: Beside | None = None) -> Iterator[dict[str, Answer]]:
    """The stream for visitors, its errors as gradio wants them."""
    try:
        yield from in_words(answerer.stream(message, time_limit=SECONDS), beside)
    except KitError as error:
        raise gr.Error(str(error), print_exception=False) from None


def _columns(
    task: Task, answers: dict[str, Answer], target: Any, state: str, ended: bool = False, message: str | None = None
) -> list[str]:
    """Card, raw text and measures for each side; `state` says how it stands with an answer that is not finished."""
    shown = []
    for side in SIDES:
        answer = answers[side]
        card = answer_card(task, replace(answer, finished=answer.finished or ended), target, message)
        shown += [card, answer.text, measures(answer, state)]
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


class Gallery:
    """The wrong answers of the run that is shown, to be narrowed down to a field."""

    def __init__(self, shown: Shown):
        self.shown = shown
        choices, label = self._choices()
        with gr.Accordion(label, open=False, elem_id="wrong", visible=bool(label)) as self.box:
            self.which = gr.Dropdown(choices, value="", label="What is wrong", filterable=False)
            self.cards = gr.HTML(self._narrow(""), apply_default_css=False)
            self.which.change(self._narrow, self.which, self.cards, queue=False, **HIDDEN)

    @property
    def parts(self) -> list[Any]:
        """What `values` fills, in its order."""
        return [self.box, self.which, self.cards]

    def values(self) -> list[Any]:
        """Each part as it should be now."""
        choices, label = self._choices()
        return [gr.Accordion(label=label, visible=bool(label)), gr.Dropdown(choices=choices, value=""), self._narrow("")]

    def _choices(self) -> tuple[list[tuple[str, str]], str]:
        """What it can be narrowed down to, and its heading; no heading where no answers are kept."""
        wrong, n = list_wrong_answers(self.shown.run, self.shown.task)
        names = list(dict.fromkeys(name for row in wrong for name in row["fields"]))
        counts = {name: sum(name in row["fields"] for row in wrong) for name in names}
        choices = [(f"all {len(wrong)}", ""), *((f"{name.replace('_', ' ')}: {counts[name]}", name) for name in names)]
        return choices, f"Where it is wrong: {len(wrong)} of {n} test messages" if n else ""

    def _narrow(self, name: str) -> str:
        wrong, _ = list_wrong_answers(self.shown.run, self.shown.task)
        return render_gallery(self.shown.task, [row for row in wrong if not name or name in row["fields"]])


class Feedback:
    """Where feedback is taken: what the form is filled with, and what is kept of it, or why nothing is."""

    def __init__(self, shown: Shown):
        self.shown, self.task = shown, shown.task
        self.first = "Chat" if self.task.kind == "chat" else "Compare"  # the tab where a message is answered

    def filled(self, last: dict[str, Any] | None) -> list[Any]:
        """The form for the last answer: message, card, verdict, consent, result, and a value for each input."""
        answer = last["answer"] if last else Answer(TUNED)
        card = answer_card(self.task, replace(answer, finished=True), message=written(last["message"])) if last else ""
        return [written(last["message"]) if last else "", card, None, False, "", *fill_form(self.task, answer.text)]

    def keep(
        self, last: dict[str, Any] | None, shown: str | None, verdict: str | None, agreed: bool, *values: Any
    ) -> tuple[str, Any]:
        """Keep what the form says of the last answer; gives a sentence for the page, and the answer if it stays open."""
        if not last:
            return _note(f"Let a message be answered under {self.first} first."), last
        if (shown or "").split() != written(last["message"]).split():  # the last answer came while this was on its way
            return _note("There is another answer now. Look at it first."), last
        if verdict is None:
            return _note("Say first whether the answer is right."), last
        if not agreed:
            return _note("Without your consent nothing is kept. Tick the box if you agree."), last
        text = last["answer"].text
        right = parse_answer(self.task, text) if verdict == RIGHT else read_form(self.task, values)
        run = last["run"]  # that gave the answer: the page may show another one by now
        try:
            FeedbackFile.of(run).keep(feedback_entry(run, self.task, last["message"], text, right, verdict))
        except KitError as error:
            return _note(str(error)), last
        return _note("Thank you, it is kept."), None

    def feedback(self, message: str | list, answer: str, verdict: str, target: dict | str, consent: bool) -> str:
        """Say whether an answer of the tuned model is right: verdict is "right" or "corrected".

        `answer` is the text that the model wrote, `target` the right answer: an object for a task with fields, otherwise a
        text. Of a conversation `message` has the turns before the answer, each with role and content. Kept only with
        `consent`: message and answers may then be used to train and to test models. Returns its id.
        """
        try:
            if consent is not True:
                raise KitError("Without consent nothing is kept.")
            if not isinstance(answer, str) or len(answer) > self.task.max_message_characters:
                raise KitError("The answer must be text, and not longer than a message may be.")
            run = self.shown.run
            entry = feedback_entry(run, self.task, message, answer, target, verdict)
            FeedbackFile.of(run).keep(entry)
        except KitError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return entry["id"]


def _feedback(feedback: Feedback, answered: gr.State, first: Any) -> None:
    """The tab in which a visitor says that the tuned answer is right, or what it should be. `first` is the page's first."""
    verdicts = [("It is right", RIGHT), ("It is wrong: I fill in the right one", CORRECTED)]
    what = "conversation" if feedback.task.kind == "chat" else "message"
    which = "answer in your conversation" if first.which else "last answer"
    gr.Markdown(f"Was the fine-tuned model's {which} right? What you say can make the next model better.")
    if first.which:  # of the answers in a conversation
        first.which.render()
    label = f"The {what} (first let {'a message' if first.which else 'it'} be answered under {feedback.first})"
    message = gr.Textbox(label=label, lines=3, max_lines=12, interactive=False, elem_id="given")
    card = gr.HTML(apply_default_css=False, elem_id="given-card")
    verdict = gr.Radio(verdicts, label="The fine-tuned answer", elem_id="verdict")
    with gr.Group(visible=False, elem_id="form") as form:
        inputs = _form(feedback.task)
    consent = gr.Checkbox(label=CONSENT.format(what), elem_id="consent")
    send = gr.Button("Send", variant="primary", elem_id="send")
    result = gr.HTML(js_on_load=ANNOUNCED, elem_id="sent")
    for event in first.events:
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
    if task.kind in ("text", "chat"):
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
    beside: Beside | None = None,
) -> gr.Blocks:
    """Serve the demo at `port`, or the next free one; with `share` also under a public link, if there is one.

    `host` is the address to listen at: this machine only, unless it is "0.0.0.0". `auth` is a user and a password that a
    visitor must give. What is `beside` the page begins once it is served, and stops in order when it ends.
    """
    page = build(run, answerer, beside)
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
    if beside:
        print(f"{beside.about}. It gives way while a message is answered; its log: {beside.log}", flush=True)
        beside.start()
    if block:
        try:
            page.block_thread()
        finally:
            if beside:
                beside.stop()
    return page
