"""Deployment: what the demo needs to be served and to be read (lesson 05)."""

from __future__ import annotations

import html
import json
import socket
from typing import Any

from .base import KitError
from .generation import Answer
from .tasks import Task, parse_answer

DEFAULT_PORT = 7860


def free_port(wanted: int = DEFAULT_PORT, tries: int = 50) -> int:
    """The wanted port if nobody listens there, else the next free one. Raises `KitError` if none of `tries` is free."""
    for port in range(wanted, min(wanted + tries, 65536)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise KitError(f"No free port from {wanted} to {wanted + tries - 1}. Name another: --port 8800")


def answer_card(task: Task, answer: Answer, target: Any = None) -> str:
    """An answer as HTML for people: a row a field, what does not fit marked, and the difference from `target` if given.

    Everything the model or a guest wrote is escaped.
    """
    if not answer.text:
        return '<div class="card waiting" aria-live="polite">…</div>'
    value = parse_answer(task, answer.text)
    if task.kind != "json":
        return f'<div class="card"><p>{html.escape(str(value))}</p></div>'
    if value is None:
        note = "No ticket: the answer holds no JSON object." if answer.finished else "No ticket yet …"
        return f'<div class="card broken"><p>{note}</p></div>'
    rows = []
    for f in task.fields:
        shown = _shown(value[f.name]) if f.name in value else "missing"
        wrong = f.name not in value or any(f"'{task.target}.{f.name}'" in p for p in task.answer_problems(value))
        mark = ' class="wrong"' if wrong else ""
        note = " <small>not allowed here</small>" if wrong and f.name in value else ""
        if isinstance(target, dict) and not wrong and value[f.name] != target.get(f.name):
            mark = ' class="wrong"'
            note = f" <small>should be {html.escape(_shown(target.get(f.name)))}</small>"
        rows.append(f"<tr{mark}><th scope='row'>{html.escape(f.name)}</th><td>{html.escape(shown)}{note}</td></tr>")
    extra = [name for name in value if name not in {f.name for f in task.fields}]
    if extra:
        rows.append(f"<tr class='wrong'><th scope='row'>other keys</th><td>{html.escape(', '.join(extra))}</td></tr>")
    return f'<div class="card"><table>{"".join(rows)}</table></div>'


def _shown(value: Any) -> str:
    """A field's value for people: a dash for nothing, a list with commas."""
    if value is None or value == []:
        return "–"
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


CARD_STYLE = """
.card { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: .6rem .9rem; min-height: 13rem;
        background: var(--background-fill-primary); color: var(--body-text-color); }
.card table, .card tr { width: 100%; border-collapse: collapse; border: none !important; }
.card th, .card td { text-align: left; padding: .28rem .5rem .28rem 0 !important; vertical-align: top;
        border: none !important; border-bottom: 1px solid var(--border-color-primary) !important; overflow-wrap: anywhere; }
.card th { width: 7rem; font-weight: 600; color: var(--body-text-color-subdued); }
.card .wrong td { text-decoration: underline wavy #c2410c; text-underline-offset: 3px; }
.card .wrong small { text-decoration: none; display: inline-block; }
.card.broken, .card.waiting { color: var(--body-text-color-subdued); }
"""
