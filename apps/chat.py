"""The demo's tab for conversations: base and tuned side by side, each going on from its own answers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from ftkit.common.errors import KitError
from ftkit.deployment.chat_page import (
    Exchange,
    Talk,
    converse,
    describe_exchange,
    list_choices,
    list_openings,
    render_talk,
    turns_for,
)
from ftkit.deployment.demo_page import ANNOUNCED, BUSY, HIDDEN, QUIET, SECONDS, SIDES, Shown, escape_html, in_words, measures

OPENINGS = 6  # of the validation split, to begin with
WAITING = "waiting for its turn"
# a box that is scrolled by keyboard too, and stays at its end while somebody who reads there sees it grow; its changes are
# not said aloud, token by token: the page says both answers once they are there
BOX = """element.setAttribute('role', 'region'); element.setAttribute('aria-label', %r); element.tabIndex = 0;
let atEnd = true;
element.addEventListener('scroll', () => {
    atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 60; });
new MutationObserver(() => { if (atEnd) element.scrollTop = element.scrollHeight; })
    .observe(element, {childList: true, subtree: true, characterData: true});"""


class ChatTab:
    """The tab's parts, and what each holds as the conversation goes on. Made inside of its `gr.Tab`.

    `answered` is filled with the answer that feedback is about, which `which` chooses. After `events` it is another one.
    """

    def __init__(self, shown: Shown, answered: gr.State):
        self.shown, self.task = shown, shown.task
        self.parts: list[Any] = []  # nothing here changes when the page turns to another run
        talk = gr.State(Talk())
        boxes = self._sides()
        words = gr.HTML(js_on_load=ANNOUNCED, elem_id="said", elem_classes="announcer")
        with gr.Row(elem_id="say"):
            message = self._message()
            send = gr.Button("Send", variant="primary", elem_id="say-it", scale=0, min_width=120)
        with gr.Row(elem_id="talk-buttons"):
            names = ("Retry", "Undo", "Clear")
            retry, undo, clear = (gr.Button(name, size="sm", min_width=80, elem_id=name.lower()) for name in names)
        gr.Markdown(
            "Retry draws another answer to the last message at random; the first one is always the likeliest. "
            "Undo takes the last message back, to be written differently.",
            elem_classes="note",
        )
        label = "Openings of conversations that the model was not trained on"
        some = random.Random(shown.run.profile.seed).sample(found := list_openings(self.task), min(OPENINGS, len(found)))
        gr.Examples(some, message, label=label, examples_per_page=OPENINGS, api_visibility="private")
        about = "Take the first that is wrong: a new model learns the answers before it as they stand."
        self.which = gr.Dropdown([], label="Which answer", info=about, elem_id="which", render=False)
        changed = [message, *boxes, words, self.which, answered]
        many: dict[str, Any] = {"queue": False, "trigger_mode": "multiple", **QUIET}  # while one is answered, it is told
        begun = gr.on([send.click, message.submit], self.begin, [message, talk], changed, **many)
        again = retry.click(self.begin_again, talk, changed, **many)
        asked = []
        for event in (begun, again):
            asked.append(
                event.success(
                    self.respond,
                    talk,
                    changed,
                    concurrency_limit=1,
                    concurrency_id="model",
                    show_progress="minimal",
                    show_progress_on=boxes[1::2],
                    trigger_mode="multiple",
                    **HIDDEN,
                )
            )
            asked[-1].failure(self.refuse, talk, changed, queue=False, **QUIET)  # the queue was full
        undone = undo.click(self.undo, talk, changed, queue=False, **QUIET)
        cleared = clear.click(self.clear, talk, changed, queue=False, **QUIET)
        chosen = self.which.input(self.choose, [self.which, talk], answered, queue=False, **QUIET)
        self.events = [*asked, undone, cleared, chosen]
        gr.api(self.answer, api_name="answer", concurrency_limit=1, concurrency_id="model")

    def values(self) -> list[Any]:
        """What `parts` should hold now."""
        return []

    def _sides(self) -> list[Any]:
        """Conversation and measures for each side, side by side."""
        boxes = []
        with gr.Row():
            for side, heading in SIDES.items():
                with gr.Column(min_width=300, elem_id=side):
                    gr.Markdown(f"### {heading}")
                    script = BOX % f"Conversation with {heading.split(': ')[1]}"
                    plain: dict[str, Any] = {"apply_default_css": False, "padding": False}
                    boxes.append(gr.HTML(render_talk(side, []), js_on_load=script, elem_id=f"{side}-talk", **plain))
                    boxes.append(gr.Markdown(elem_id=f"{side}-measures", min_height=24))
        return boxes

    def _message(self) -> gr.Textbox:
        return gr.Textbox(
            label="Message",
            info="Enter sends it; Shift and Enter begin a new line.",
            lines=1,
            max_lines=6,
            max_length=self.task.max_message_characters,
            placeholder="Write a message, or take an opening below",
            elem_id="message",
            scale=1,
            min_width=280,
        )

    # each of these gives: the message box, for each side box and measures, words, which answer, and what feedback is about

    def begin(self, text: str, talk: Talk) -> list[Any]:
        """The message stands in the conversation, and waits for its answers."""
        return self._begun(talk, lambda: talk.ask(self.task, text or ""), "")

    def begin_again(self, talk: Talk) -> list[Any]:
        """The last message waits for other answers."""
        return self._begun(talk, talk.ask_again, gr.skip())

    def _begun(self, talk: Talk, ask: Any, box: Any) -> list[Any]:
        try:
            ask()
        except KitError as error:  # the message stays where it was written; the reason is seen and heard
            reason = escape_html(str(error))
            return [gr.skip(), *[gr.skip(), reason] * len(SIDES), reason, gr.skip(), gr.skip()]
        return [box, *self._view(talk), "", gr.skip(), gr.skip()]

    def respond(self, talk: Talk) -> Iterator[list[Any]]:
        """Both answers while they are written, then in words. What was taken back meanwhile is not answered."""
        asking, one = talk.asking, None
        if asking is None or asking.taken:  # nothing was asked, or that is being answered already
            yield [gr.skip()] * (4 + 2 * len(SIDES))
            return
        asking.taken = True
        before = talk.exchanges[: asking.keep]
        chats = {side: turns_for(before, side, asking.text) for side in SIDES}
        stream = converse(self.shown.run, self.shown.answerer, chats, SECONDS, asking.seed)
        try:
            with closing(in_words(stream, self.shown.beside)) as exchanges:
                for one in exchanges:
                    if talk.asking is not asking:
                        break
                    yield [gr.skip(), *self._columns([*before, one], "writing"), *[gr.skip()] * 3]
        except KitError as error:
            if talk.asking is asking:
                yield self.refuse(talk, str(error))
                return
        if one and talk.asking is asking:
            talk.answered(one)
            yield [gr.skip(), *self._view(talk), escape_html(describe_exchange(one)), *self._choice(talk)]
        else:
            yield [gr.skip(), *self._view(talk), gr.skip(), *self._choice(talk)]

    def refuse(self, talk: Talk, why: str = BUSY) -> list[Any]:
        """No answer, and why; the message goes back to where it was written."""
        asking, talk.asking = talk.asking, None
        text = asking.text if asking and asking.seed is None else gr.skip()
        said = f"No answer. {why}"
        return [text, *self._columns(talk.exchanges, "no answer", problem=said), escape_html(said), *self._choice(talk)]

    def undo(self, talk: Talk) -> list[Any]:
        """Without the last message, which is back where it was written."""
        try:
            text = talk.undo()
        except KitError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return [text, *self._view(talk), "The last message is taken back.", *self._choice(talk)]

    def clear(self, talk: Talk) -> list[Any]:
        """A new conversation."""
        talk.clear()
        return [gr.skip(), *self._view(talk), "The conversation is cleared.", *self._choice(talk)]

    def choose(self, place: int | None, talk: Talk) -> dict[str, Any] | None:
        """What feedback is about from now on."""
        return talk.exchanges[place].kept() if place is not None and place < len(talk.exchanges) else None

    def _view(self, talk: Talk) -> list[Any]:
        """Both columns of the conversation as it stands."""
        if talk.asking:
            return self._columns(talk.exchanges[: talk.asking.keep], WAITING, talk.asking.text)
        return self._columns(talk.exchanges, "cut off at the length limit")

    def _columns(self, exchanges: list[Exchange], state: str, asked: str | None = None, problem: str = "") -> list[Any]:
        """Conversation and measures for each side; `state` says how it stands with an answer that is not finished."""
        columns: list[Any] = []
        for side in SIDES:
            last = exchanges[-1].answers[side] if exchanges and asked is None and not problem else None
            shown = measures(last, state) if last else state if asked is not None or problem else ""
            columns += [render_talk(side, exchanges, asked, problem), shown]
        return columns

    def _choice(self, talk: Talk) -> list[Any]:
        """The answers to choose from for feedback, the last one chosen; and what it is about."""
        choices = list_choices(talk.exchanges)
        last = talk.exchanges[-1].kept() if choices else None
        return [gr.Dropdown(choices=choices, value=len(choices) - 1 if choices else None), last]

    def answer(self, messages: list) -> Iterator[dict[str, dict]]:
        """Let the base and the tuned model give the next answer in a conversation.

        `messages` are its turns, each with role ("user" or "assistant", the first perhaps "system") and content; the last is
        the user's. Streams: each item holds all that is written so far. Gives {"base": ..., "tuned": ...}, each with text,
        tokens, seconds, finished, timed_out, probability, and left_out: how many turns at the beginning found no room.
        """
        shown = self.shown
        try:
            self.task.check_message(messages, "The conversation")
            turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
            for one in in_words(converse(shown.run, shown.answerer, dict.fromkeys(SIDES, turns), SECONDS), shown.beside):
                yield {side: {**vars(answer), "left_out": one.left_out[side]} for side, answer in one.answers.items()}
        except KitError as error:
            raise gr.Error(str(error), print_exception=False) from None
