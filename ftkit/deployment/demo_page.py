"""The demo's page: answers as cards, where it is wrong, the evaluation, the card (lesson 05)."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import read_json
from ftkit.data.prompt import parse_answer
from ftkit.data.task import Task
from ftkit.evaluation.answer import TUNED
from ftkit.evaluation.measure import load_evaluation
from ftkit.evaluation.metrics import same
from ftkit.evaluation.stream import Answer
from ftkit.evaluation.tables import evaluation_table
from ftkit.runs.run import Run


def answer_card(task: Task, answer: Answer, target: Any = None) -> str:
    """An answer as HTML for people, by the task's kind, with what does not fit marked, and the difference from `target`.

    `json`: a row a field. `label`: the label with the model's own probability. `text`: the text. Everything that the model
    or a guest wrote is escaped.
    """
    if not answer.text:
        empty = answer.finished or answer.timed_out
        return f'<div class="card waiting">{"The answer is empty." if empty else "…"}</div>'
    value = parse_answer(task, answer.text)
    if task.kind == "label":
        return _label_card(task, answer, value, target)
    if task.kind == "text":
        gold = f"<p><small>The test split says:</small><br>{escape(str(target))}</p>" if target is not None else ""
        return f'<div class="card"><p class="text">{escape(value)}</p>{gold}</div>'
    if value is None:
        note = "No ticket: the answer holds no JSON object." if answer.finished else "No ticket yet …"
        return f'<div class="card broken"><p>{note}</p></div>'
    rows, problems = [], task.field_problems(value)
    for f in task.fields:
        shown = _shown(value[f.name]) if f.name in value else "missing"
        wrong = f.name in problems
        mark = ' class="wrong"' if wrong else ""
        note = " <small>not allowed here</small>" if wrong and f.name in value else ""
        if isinstance(target, dict) and not wrong and value[f.name] != target.get(f.name):
            mark = ' class="wrong"'
            note = f" <small>should be {escape(_shown(target.get(f.name)))}</small>"
        rows.append(f"<tr{mark}><th scope='row'>{escape(_named(f.name))}</th><td>{escape(shown)}{note}</td></tr>")
    extra = [name for name in value if name not in {f.name for f in task.fields}]
    if extra:
        rows.append(f"<tr class='wrong'><th scope='row'>other keys</th><td>{escape(', '.join(extra))}</td></tr>")
    return f'<div class="card"><table>{"".join(rows)}</table></div>'


def _label_card(task: Task, answer: Answer, label: str, target: Any) -> str:
    known = label in task.labels
    note = "" if known else " <small>no label of this task</small>"
    if known and target is not None and label != target:
        note = f" <small>should be {escape(str(target))}</small>"
    mark = ' class="wrong"' if note else ""
    share = f"{answer.probability:.0%}"
    meter = (
        f'<p class="share"><span role="img" aria-label="probability {share}" style="--share: {share}"></span>{share} '
        "by the model's own count</p>"
        if answer.finished
        else ""
    )
    return f'<div class="card"><p{mark}><strong class="label">{escape(label)}</strong>{note}</p>{meter}</div>'


def answer_in_words(task: Task, answer: Answer) -> str:
    """An answer as one sentence, for a screen reader: said once, when the answer is there."""
    value = parse_answer(task, answer.text)
    if not answer.text:
        return "no answer"
    if task.kind != "json":
        return str(value)
    if value is None:
        return "no ticket, text only"
    return ", ".join(
        f"{_named(str(name))} {_shown(part) if part not in (None, []) else 'none'}" for name, part in value.items()
    )


def escape(text: str) -> str:
    """Text for HTML; also what Gradio's templates would take for one of theirs."""
    text = html.escape(text)
    return text.translate({ord(c): f"&#{ord(c)};" for c in "${}`\\"})


def _named(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: Any) -> str:
    """A field's value for people: a dash for nothing, a list with commas."""
    if value is None or value == []:
        return "–"
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- where it is wrong ---


def wrong_answers(run: Run, task: Task) -> tuple[list[dict[str, Any]], int]:
    """The saved predictions in which the tuned model's answer is not the target's, and how many predictions there are.

    Each has message, target, tuned (text) and `fields`: what is wrong. Without readable predictions: ([], 0).
    """
    try:
        saved = read_json(run.folder / "predictions.json")
    except KitError:
        return [], 0
    saved = saved.get("rows") if isinstance(saved, dict) else saved
    saved = saved if isinstance(saved, list) else []
    rows = [row for row in saved if isinstance(row, dict) and {"message", "target", TUNED} <= set(row)]
    rows = [row for row in rows if isinstance(row["message"], str) and isinstance(row[TUNED], str)]
    found = []
    for row in rows:
        if fields := _wrong_fields(task, row[TUNED], row["target"]):
            found.append({"message": row["message"], "target": row["target"], TUNED: row[TUNED], "fields": fields})
    return found, len(rows)


def _wrong_fields(task: Task, text: str, target: Any) -> list[str]:
    value = parse_answer(task, text)
    if task.kind != "json":
        return [] if same(value, target) else [str(target)] if task.kind == "label" else ["text"]
    if value is None or not isinstance(target, dict):
        return ["no object"]
    wrong = [name for name in target if name not in value or not same(value[name], target[name])]
    return wrong or ([] if same(value, target) else ["other keys"])


def gallery(task: Task, wrong: Sequence[dict[str, Any]], most: int = 20) -> str:
    """Wrong answers as HTML, each to unfold: the message, and the card with the differences marked."""
    if not wrong:
        return '<p class="note">Nothing to show.</p>'
    parts = []
    for row in wrong[:most]:
        text = " ".join(row["message"].split())
        start = text if len(text) <= 90 else text[:89] + "…"
        card = answer_card(task, Answer(TUNED, row[TUNED], finished=True), row["target"])
        parts.append(
            f"<details><summary>{escape(start)} <small>{escape(', '.join(map(_named, row['fields'])))}</small></summary>"
            f"<blockquote>{escape(row['message'])}</blockquote>{card}</details>"
        )
    more = f'<p class="note">The first {most} of {len(wrong)}.</p>' if len(wrong) > most else ""
    return f'<div class="gallery">{"".join(parts)}</div>{more}'


# --- the other tabs ---


def evaluation_page(run: Run) -> str:
    """The run's report in a frame that may run nothing; without one the table of scores, or how to get either."""
    report = run.folder / "report.html"
    if report.is_file():
        page = escape(report.read_text(encoding="utf-8"))
        return f'<iframe class="report" title="The evaluation\'s report" sandbox="" srcdoc="{page}"></iframe>'
    try:
        return _scores(load_evaluation(run))
    except KitError as error:
        return f'<p class="note">{escape(str(error))}</p>'
    except (KeyError, TypeError, ValueError):
        return f'<p class="note">This evaluation cannot be shown. Measure again: ftkit evaluate {escape(run.name)}</p>'


def _scores(result: dict[str, Any]) -> str:
    """The evaluation's table, the one that the terminal shows, as HTML."""
    from rich.text import Text

    grid = evaluation_table(result)
    plain = [[Text.from_markup(str(cell)).plain for cell in column.cells] for column in grid.columns]
    heads = "".join(f"<th scope='col'>{escape(str(column.header))}</th>" for column in grid.columns)
    rows = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in zip(*plain, strict=True)
    )
    title = escape(str(grid.title or "Evaluation"))
    body = f"<caption>{title}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scores"><table>{body}</table></div>'


def about_page(run: Run, task: Task) -> str:
    """The model card and the data's sheet as Markdown, with what the model must not be used for."""
    parts = [
        "Answers can be wrong, also where they look right. **Do not use it** where health, money or rights depend "
        "on an answer that no person checks, nor for messages of another kind or language than those it was trained on. "
        "What you type is sent to the computer that serves this page, and kept there only if you give feedback."
    ]
    for heading, path in (("Model card", run.folder / "model_card.md"), ("Data", task.folder / "DATASHEET.md")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # front matter is for the hub
        text = re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)  # links to files that are not served
        parts.append(f"## {heading}\n\n" + re.sub(r"^#", "###", text.strip(), flags=re.MULTILINE))
    return "\n\n".join(parts)


STYLE = """
.card { border: 1px solid var(--border-color-primary); border-radius: 12px; padding: .7rem 1rem; min-height: 14rem;
        background: var(--background-fill-primary); color: var(--body-text-color); overflow-wrap: anywhere; }
.card table, .card tr { width: 100%; border-collapse: collapse; border: none !important; background: none !important; }
.card th, .card td { text-align: left; padding: .38rem .5rem .38rem 0 !important; vertical-align: top;
        border: none !important; border-bottom: 1px solid var(--border-color-primary) !important; overflow-wrap: anywhere; }
.card tr:last-child th, .card tr:last-child td { border-bottom: none !important; }
.card th { width: 7rem; font-weight: 500; color: var(--body-text-color-subdued); }
.card td { font-weight: 600; }
.card .wrong td, .card p.wrong strong { text-decoration: underline wavy #dc2626 1.5px; text-underline-offset: 4px; }
.card small { display: inline-block; font-weight: 500; color: #b42318; margin-left: .4rem; }
.dark .card small { color: #fda29b; }
.card.broken, .card.waiting { color: var(--body-text-color-subdued); }
.card .label { font-size: 1.4rem; }
.card p.text { white-space: pre-wrap; }
.card .share { display: flex; gap: .6rem; align-items: center; color: var(--body-text-color-subdued); }
.card .share span { flex: 1; max-width: 14rem; height: .6rem; border-radius: .3rem;
        background: linear-gradient(to right, var(--color-accent) var(--share), var(--border-color-primary) var(--share)); }
.gallery details { border-bottom: 1px solid var(--border-color-primary); padding: .55rem .2rem; }
.gallery summary { cursor: pointer; overflow-wrap: anywhere; color: var(--body-text-color); }
.gallery summary small { color: #b42318; white-space: nowrap; }
.dark .gallery summary small { color: #fda29b; }
.gallery blockquote { white-space: pre-wrap; overflow-wrap: anywhere; margin: .6rem 0; padding: .2rem 0 .2rem .8rem;
        border-left: 3px solid var(--color-accent); color: var(--body-text-color); }
.gallery .card { min-height: 0; margin-bottom: .5rem; }
.note { color: var(--body-text-color-subdued); }
.scores { overflow-x: auto; contain: inline-size; color: var(--body-text-color); }
.scores table { border-collapse: collapse; min-width: 20rem; }
.scores caption { text-align: left; padding-bottom: .5rem; color: var(--body-text-color-subdued); }
.scores th, .scores td { text-align: right; padding: .35rem .8rem .35rem 0;
        border-bottom: 1px solid var(--border-color-primary); }
.scores th:first-child { text-align: left; font-weight: 500; }
iframe.report { width: 100%; height: 80vh; border: 1px solid var(--border-color-primary); border-radius: 12px;
        background: #fff; }
@media (prefers-color-scheme: dark) { iframe.report { background: #1c1917; } }
.announcer { position: absolute !important; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
        white-space: nowrap; }
"""
