"""The demo: one message, answered before and after fine-tuning, side by side. Thin: the work is done in ftkit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import gradio as gr

from ftkit.base import KitError
from ftkit.deployment import CARD_STYLE, answer_card
from ftkit.generation import BASE, TUNED, Answer, Answerer
from ftkit.runs import Run

EXAMPLES = 8
CSS = CARD_STYLE + ".gradio-container { max-width: 1100px !important; margin: auto; }"
# fonts of the reader's own system: the page loads nothing from elsewhere
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
THEME = gr.themes.Soft(primary_hue="orange", neutral_hue="stone", **FONTS)


def build(run: Run, answerer: Answerer | None = None) -> gr.Blocks:
    """The page for a finished run. The models are loaded here, once for all visitors."""
    answerer = answerer or Answerer.of_run(run)
    task = answerer.task
    rows = task.rows("test")
    targets = {row[task.message]: row[task.target] for row in rows}
    examples = random.Random(run.profile.seed).sample(rows, min(EXAMPLES, len(rows)))

    def outputs(answers: dict[str, Answer], message: str, ended: bool = False) -> list[str]:
        shown = []
        for side in (BASE, TUNED):
            answer = answers[side]
            speed = f"{answer.tokens / answer.seconds:.0f} tokens/s" if answer.seconds else ""
            state = "finished" if answer.finished else "cut off at the length limit" if ended else "writing"
            measures = f"{state} · {answer.seconds:.1f} s · {answer.tokens} tokens · {speed}"
            over = ended or answer.finished
            card = answer_card(task, replace(answer, finished=over), targets.get(message) if over else None)
            shown += [card, answer.text, measures]
        return shown

    def respond(message: str) -> Iterator[list[str]]:
        """Answer a message by the base and by the tuned model, streamed: card, text and measures for each side."""
        empty = {side: Answer(side) for side in (BASE, TUNED)}
        try:
            task.check_message(message)
            answers = empty
            for answers in answerer.stream(message):
                yield outputs(answers, message)
            yield outputs(answers, message, ended=True)
        except KitError as error:
            raise gr.Error(str(error), print_exception=False) from None

    with gr.Blocks(title=task.title or task.name, analytics_enabled=False) as page:
        gr.Markdown(
            f"# {task.title or task.name}\n"
            f"The same message, answered by **{run.profile.model.split('/')[-1]}** before and after fine-tuning. "
            "Before: the model is told the fields and their values. After: it learned them from examples. "
            "Do not enter personal data; answers can be wrong."
        )
        message = gr.Textbox(
            label="Message",
            lines=3,
            max_lines=8,
            max_length=task.max_message_characters,
            placeholder="Write a message, or take an example below",
        )
        button = gr.Button("Answer", variant="primary")
        gr.Examples(
            [row[task.message] for row in examples],
            message,
            label="Messages that the model was not trained on",
        )
        columns = []
        with gr.Row():
            for heading in ("Before: the base model", "After: fine-tuned"):
                with gr.Column(min_width=300):
                    gr.Markdown(f"### {heading}")
                    card = gr.HTML(answer_card(task, Answer("")), label=heading)
                    text = gr.Textbox(label=f"{heading}: the raw answer", lines=4, interactive=False)
                    measures = gr.Markdown()
                    columns += [card, text, measures]
        gr.on([button.click, message.submit], respond, message, columns, api_name="answer", concurrency_limit=1)
    return page


def launch(run: Run, port: int, share: bool = False, block: bool = True, answerer: Answerer | None = None) -> gr.Blocks:
    """Serve the demo on this machine at `port`; with `share` also under a public link, if a tunnel can be had."""
    page = build(run, answerer)
    page.queue(max_size=20)
    page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=share,
        prevent_thread_lock=True,
        quiet=True,
        theme=THEME,
        css=CSS,
        enable_monitoring=False,
    )
    print(f"The demo is at {page.local_url}  (Ctrl+C stops it)", flush=True)
    if share:
        failed = "No public link could be made (no network, or the tunnel's program could not be fetched); local only."
        print(f"Public link: {page.share_url}" if page.share_url else failed, flush=True)
    if block:
        page.block_thread()
    return page
