"""A chat template as Ollama takes it: Go's text/template over a conversation's turns, proven against the tokenizer's own.

Ollama fills in `.Messages`, each with `.Role` and `.Content`, a system turn among them, and `.System`, its text. Source: its
documentation of the Modelfile, and `template/template.go` in its repository. The pieces of text between the contents are
found by showing the tokenizer's template conversations of marks. What was written is then filled in here for conversations
of one to three turns (`fill_template`): every byte has to be the tokenizer's. The filling is not Go: it knows the few
actions that are written here and no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ftkit.common.errors import KitError
from ftkit.models.chat_template import adds_begin

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = Sequence[dict[str, str]]
MARKED = [  # a conversation of marks; with the system turn and without
    {"role": role, "content": f"ftkit-turn-{n}"}
    for n, role in enumerate(("system", "user", "assistant", "user", "assistant", "user"))
]
ACTION = re.compile(r"\{\{ (.*?) \}\}")
ROLE = re.compile(r'eq \.Role "(\w+)"')
EACH, COUNTED = "range .Messages", "range $i, $_ := .Messages"
WITH_SYSTEM = "and $.System (le $i 1)"  # at the first user's turn, where there is a system prompt


def conversation_template(tokenizer: PreTrainedTokenizerBase, system_prompt: str) -> str:
    """The tokenizer's chat template in Go's language, for a conversation that ends on the user's turn.

    A BOS that the tokenizer puts before a text by itself is left out: Ollama puts it there too. Without a `system_prompt` a
    conversation has no system turn; with one it always has. Raises `KitError` where a template writes a turn differently by
    its place in the conversation, so that a loop over the turns cannot say the same.
    """
    try:
        template = _written(tokenizer)
        wrong = [
            turns for turns in _conversations(system_prompt) if fill_template(template, turns) != _text(tokenizer, turns)
        ]
    except (TemplateError, ValueError) as error:
        raise _refused(str(error)) from None
    if wrong:
        raise _refused("it writes a turn differently by its place in the conversation")
    return template


def _refused(reason: str) -> KitError:
    return KitError(
        f"The model's chat template cannot be written as Ollama's for several turns: {reason}. Export merged or gguf "
        "instead: they carry the template itself."
    )


def _conversations(system_prompt: str) -> Iterator[Turns]:
    """Conversations of one, two and three turns, as they will come."""
    told = [{"role": "system", "content": system_prompt}] if system_prompt else []
    for stop in (2, 4, 6):
        yield [*told, *MARKED[1:stop]]


def _text(tokenizer: PreTrainedTokenizerBase, turns: Turns, opens: bool = True) -> str:
    text: Any = tokenizer.apply_chat_template(list(turns), add_generation_prompt=opens, tokenize=False)
    return text.removeprefix(tokenizer.bos_token) if adds_begin(tokenizer) else text


def _written(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template of the pieces that stand around the contents."""
    asked = MARKED[:4]
    before, to_user, to_answer, to_next, opened = _between(_text(tokenizer, asked), asked)
    user_end = _end(tokenizer, asked, opened)
    answer_end = _end(tokenizer, asked[:3], to_next)
    plain = _between(_text(tokenizer, asked[1:2]), asked[1:2])[0]  # what stands before the first turn without a system one
    if not (opened.startswith(user_end) and to_answer.startswith(user_end) and to_next.startswith(answer_end)):
        raise ValueError("what ends a turn is not the same everywhere")
    user, answer = to_next.removeprefix(answer_end), to_answer.removeprefix(user_end)
    opening = opened.removeprefix(user_end)
    if to_user.endswith(user) and plain.endswith(user):
        system = f"{before}{{{{ .Content }}}}{to_user.removesuffix(user)}"
        none = plain.removesuffix(user)
        start, asking, each = (f"{{{{ if not .System }}}}{none}{{{{ end }}}}" if none else ""), user, EACH
        roles = f'{{{{ if eq .Role "system" }}}}{system}{{{{ else if eq .Role "user" }}}}'
    elif before.endswith(user) and plain == before:  # the system prompt stands within the user's first turn
        start, roles, each = before.removesuffix(user), '{{ if eq .Role "user" }}', COUNTED
        asking = f"{user}{{{{ if {WITH_SYSTEM} }}}}{{{{ $.System }}}}{to_user}{{{{ end }}}}"
    else:
        raise ValueError("its system turn has no place of its own")
    pieces = (before, to_user, user_end, answer_end, plain, user, answer, opening)
    if any("{{" in piece or "}}" in piece for piece in pieces):
        raise ValueError("it holds {{ or }}")
    loop = (
        f"{roles}{asking}{{{{ .Content }}}}{user_end}"
        f'{{{{ else if eq .Role "assistant" }}}}{answer}{{{{ .Content }}}}{answer_end}{{{{ end }}}}'
    )
    return f"{start}{{{{ {each} }}}}{loop}{{{{ end }}}}{opening}"


def _end(tokenizer: PreTrainedTokenizerBase, turns: Turns, goes_on: str) -> str:
    """What ends the last turn; some templates write the end token after a whole chat, but not where it `goes_on`."""
    end = _between(_text(tokenizer, turns, opens=False), turns)[-1]
    return end if goes_on.startswith(end) else end.removesuffix(tokenizer.eos_token or "")


def _between(text: str, turns: Turns) -> list[str]:
    """What stands before, between and after the contents of turns."""
    pieces = []
    for turn in turns:
        piece, found, text = text.partition(turn["content"])
        if not found:
            raise ValueError("it leaves out a turn")
        pieces.append(piece)
    return [*pieces, text]


# --- filling in, by Go's rules, what is written above ---


def fill_template(template: str, turns: Turns) -> str:
    """What Go's text/template makes of a template that was written here. Raises `ValueError` for any other action."""
    parts = iter(enumerate(ACTION.split(template)))  # every second one is an action
    nodes, _ = _read(parts)
    system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
    return _fill(nodes, turns, system, 0)


def _read(parts: Iterator[tuple[int, str]]) -> tuple[list[Any], str]:
    """Nodes (a text, ("put", name), ("range", nodes), ("if", branches)) up to the action that ends their block; and that."""
    nodes: list[Any] = []
    for place, part in parts:
        if place % 2 == 0:
            nodes.append(part)
        elif part == "end" or part.startswith("else"):
            return nodes, part
        elif part in (EACH, COUNTED):
            nodes.append(("range", _read(parts)[0]))
        elif part.startswith("if "):
            branches, closing = [], part
            while closing != "end":
                condition = closing.removeprefix("else ").removeprefix("if ")
                body, closing = _read(parts)
                branches.append((condition, body))
            nodes.append(("if", branches))
        else:
            nodes.append(("put", part))
    return nodes, ""


def _fill(nodes: Sequence[Any], turns: Turns, system: str, place: int) -> str:
    text = ""
    for node in nodes:
        if isinstance(node, str):
            text += node
        elif node[0] == "range":
            text += "".join(_fill(node[1], turns, system, place) for place in range(len(turns)))
        elif node[0] == "if":
            body: list[Any] = next((own for condition, own in node[1] if _holds(condition, turns, system, place)), [])
            text += _fill(body, turns, system, place)
        else:
            values = {".Content": turns[place]["content"], "$.System": system}
            if node[1] not in values:
                raise ValueError(f"no such action: {node[1]}")
            text += values[node[1]]
    return text


def _holds(condition: str, turns: Turns, system: str, place: int) -> bool:
    if role := ROLE.fullmatch(condition):
        return turns[place]["role"] == role[1]
    known = {"not .System": not system, WITH_SYSTEM: bool(system) and place <= 1}
    if condition not in known:
        raise ValueError(f"no such condition: {condition}")
    return known[condition]
