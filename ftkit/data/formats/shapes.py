"""Conversations and instructions: which part of a row is the prompt, which the answer (lesson 02).

Known are OpenAI's `messages`, ShareGPT's `conversations`, Alpaca's instruction, input and output, prompt and completion as
text or as messages, pairs of preferences, and one column of text with the marks of a chat.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from ftkit.common.errors import KitError
from ftkit.data.formats.table import Table, set_aside
from ftkit.data.task import Row

SHAPES = ("auto", "columns", "messages", "instructions")
CHATS = "messages conversations conversation dialog dialogue chat turns"
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
}  # fmt: skip
INSTRUCTIONS = "instruction"
INPUTS = "input context"
OUTPUTS = "output response completion answer"
SYSTEMS = "system system_prompt"
ANSWERS = "completion chosen response"


def _headed(names: str) -> re.Pattern[str]:
    """Texts under headings such as "### Human:": (heading, text) of each."""
    return re.compile(rf"###\s*({names})\s*:\s*(.*?)\s*(?=###\s*(?:{names})\s*:|\Z)", re.DOTALL)


def _begun(names: str) -> re.Pattern[str]:
    """Texts after the name of whoever speaks, at a line's beginning, such as "Human:": (name, text) of each."""
    return re.compile(rf"^({names}):[ \t]*(.*?)\s*(?=^(?:{names}):|\Z)", re.DOTALL | re.MULTILINE)


BARE = re.compile(
    r"</?s>|<\|(?:begin_of_text|end_of_text|endoftext|end|eot_id|im_end)\|>|<(?:bos|eos|pad)>"
)  # around the turns
MARKS = {  # how tools write a whole chat into one text: what finds its turns, by the mark that they begin with
    "<|im_start|>": re.compile(r"<\|im_start\|>(system|user|assistant)\n(.*?)(?:<\|im_end\|>\s*|\Z)", re.DOTALL),
    "<|start_header_id|>": re.compile(
        r"<\|start_header_id\|>(system|user|assistant)<\|end_header_id\|>\s*(.*?)\s*(?:<\|eot_id\|>|\Z)", re.DOTALL
    ),
    "<start_of_turn>": re.compile(r"<start_of_turn>(user|model)\n(.*?)\s*(?:<end_of_turn>|\Z)", re.DOTALL),
    "<|assistant|>": re.compile(
        r"<\|(system|user|prompter|assistant)\|>\s*(.*?)\s*(?=</s>|<\|end(?:oftext)?\|>|<\|(?:system|user|prompter|assistant)\|>|\Z)",
        re.DOTALL,
    ),
    "### Human:": _headed("Human|Assistant|System"),
    "### Instruction:": _headed("Instruction|Input|Response"),
    "Assistant:": _begun("System|Human|User|Assistant"),
    "Answer:": _begun("Question|Answer"),
    "A:": _begun("Q|A"),
    "[INST]": re.compile(r"()\[INST\]\s*(.*?)\s*\[/INST\]\s*(.*?)\s*(?=</s>|<s>|\[INST\]|\Z)", re.DOTALL),
}


@dataclass
class Chat:
    """What a conversation says: the system's words, and the turns of user and assistant in order."""

    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)

    @property
    def unanswered(self) -> bool:
        """Whether it ends with a question."""
        return bool(self.turns) and self.turns[-1][0] == "user"


class _NotTaken(Exception):
    """Why a row is set aside."""


# how a form is called, the columns that it reads, and what reads a row
Form = tuple[str, list[str], Callable[[Row], Chat]]


def recognize(table: Table, shape: str = "auto", kind: str | None = None) -> tuple[Table, str | None] | None:
    """Turn conversations or instructions into the columns `message` and `target`: (the table, a system prompt) or None.

    None means ordinary columns. The system prompt is what every row's system turn says; where they differ, a row's own
    stands before its message. Where one conversation in ten or more has several turns (or `kind` is "chat"), the only
    column is `messages`, for a task of kind `chat`; where fewer have, or another kind is told, these are set aside.
    Raises `KitError` if `shape` names a form that the columns do not have, or if no row is left.
    """
    if shape not in SHAPES:
        raise KitError(f"The shape {shape!r} is not one of {', '.join(SHAPES)}.")
    if (shape == "columns" and kind != "chat") or not table.rows:
        return None
    for own_shape, form_of in _FORMS:
        if shape in ("auto", own_shape) and (form := form_of(table)):
            return _convert(table, form, kind)
    if kind == "chat":
        raise KitError(f"{table.source} holds no conversations: a task of kind chat is made of `messages`.")
    if shape != "auto":
        raise KitError(f"{table.source} has no {shape}: its columns are {', '.join(map(repr, table.columns))}.")
    return None


SEVERAL = 0.1  # share of conversations with several turns from which a task of kind chat is made


def _convert(table: Table, form: Form, kind: str | None) -> tuple[Table, str | None]:
    how, columns, read = form
    whole: list[tuple[int, Row, Chat]] = []
    rejected, remarks = list(table.rejected), [*table.remarks, f"read as {how}"]
    for line, row in table.rows:
        try:
            chat = read(row)
            _check_turns(chat)
            whole.append((line, row, chat))
        except _NotTaken as reason:
            rejected.append(set_aside(line, str(reason), row))
    long = [entry for entry in whole if len(entry[2].turns) > 2]
    several = f"{len(long):,} of {len(whole):,} conversations have several turns"
    if kind == "chat" or (kind is None and whole and len(long) >= SEVERAL * len(whole)):
        others = "; --kind text makes a task of the others alone" if len(long) < len(whole) else ""
        as_told = "as told" if kind else several + others
        remarks.append(f"kind chat: {as_told}")
        chats, reader = [(line, chat) for line, _, chat in whole], _conversation
    else:
        if long:
            remarks.append(f"{several} and are set aside: --kind chat takes all")
        rejected += [set_aside(line, _several(chat), row) for line, row, chat in long]
        chats, reader = [(line, chat) for line, _, chat in whole if len(chat.turns) == 2], _question
    if not chats:
        first = f" The first: {table.unit} {rejected[0]['line']}: {rejected[0]['reason']}." if rejected else ""
        raise KitError(f"{table.source}, {how}: no row of one question and one answer.{first}")
    if left_out := [column for column in table.columns if column not in columns]:
        remarks.append(f"columns left out: {', '.join(left_out)}")
    if reader is _conversation and (open_ended := [line for line, chat in chats if chat.unanswered]):
        remarks.append(
            f"{len(open_ended):,} conversation(s) end with a turn that nobody answers ({table.unit} "
            f"{', '.join(map(str, open_ended[:5]))}{' ...' if len(open_ended) > 5 else ''}): that turn is left out"
        )
    prompt = _common_system(chats, remarks, reader)
    rows = [(line, reader(chat, prompt)) for line, chat in chats]
    return Table(table.source, list(rows[0][1]), rows, rejected, remarks, table.unit, table.typed), prompt or None


def _common_system(chats: list[tuple[int, Chat]], remarks: list[str], reader: Callable[[Chat, str], Row]) -> str:
    """What every chat's system turn says, or nothing where they differ, with a remark on it."""
    systems = Counter(chat.system for _, chat in chats)
    prompt = next(iter(systems)) if len(systems) == 1 else ""
    if len(systems) > 1:
        where = "stands before its message" if reader is _question else "stays its first turn"
        remarks.append(f"{len(systems):,} different system prompts: each row's own {where}")
    elif prompt:
        remarks.append("every row has one system prompt: it is the task's")
    return prompt


def _question(chat: Chat, prompt: str) -> Row:
    """A chat of one question and its answer as a row; its own system turn, where it is not the task's, stands before it."""
    (_, question), (_, answer) = chat.turns
    own = chat.system if chat.system and not prompt else ""
    return {"message": f"{own}\n\n{question}" if own else question, "target": answer}


def _conversation(chat: Chat, prompt: str) -> Row:
    """A chat as a row of a task of conversations, up to its last answer."""
    turns = chat.turns[:-1] if chat.unanswered else chat.turns
    own = [("system", chat.system)] if chat.system and not prompt else []
    return {"messages": [{"role": role, "content": text} for role, text in (*own, *turns)]}


def _check_turns(chat: Chat) -> None:
    """Raise `_NotTaken` unless a chat is a question with its answer, or several."""
    roles = [role for role, _ in chat.turns]
    if "assistant" not in roles:
        raise _NotTaken("it has no answer of an assistant" if roles else "it is empty")
    if roles[0] == "assistant":
        raise _NotTaken("it does not begin with a question of the user")


def _several(chat: Chat) -> str:
    roles = [role for role, _ in chat.turns]
    questions, answers = roles.count("user"), roles.count("assistant")
    return f"it has {questions} questions and {answers} answers: a conversation of several turns"


def _column(table: Table, names: str) -> str | None:
    return next((c for name in names.split() for c in table.columns if c.strip().casefold() == name), None)


def _usual(table: Table, column: str, kind: type) -> bool:
    """Whether most filled values of a column are of a kind."""
    values = [row[column] for _, row in table.rows if row.get(column) not in (None, "")]
    return bool(values) and sum(isinstance(value, kind) for value in values) > len(values) / 2


def _turns_of(value: Any) -> list[Any] | None:
    """The turns in a value: a list of objects with a role or a speaker, also where it is written as text."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    turns = isinstance(value, list) and value and all(isinstance(one, dict) and {"role", "from"} & set(one) for one in value)
    return value if turns else None


def _chat_of(turns: Any, system: Any = None) -> Chat:
    """A chat from its turns. Raises `_NotTaken` for pictures, tools, unknown roles, and texts that are missing."""
    chat = Chat(system=system.strip() if isinstance(system, str) else "")
    for number, turn in enumerate(_turns_of(turns) or (), 1):
        said = str(turn.get("role", turn.get("from")))
        role = ROLES.get(said.strip().casefold())
        if role is None or turn.get("tool_calls") or turn.get("function_call"):
            raise _NotTaken(f"turn {number}: {'a call of a tool' if role else f'the role {said!r} is not taken'}")
        text = _text_of(turn.get("content", turn.get("value")), number)
        if role == "system" and not chat.turns:
            chat.system = "\n\n".join(filter(None, (chat.system, text.strip())))
        elif role == "system":
            raise _NotTaken(f"turn {number}: a system turn in the middle")
        else:
            chat.turns.append((role, text))
    return chat


def _text_of(content: Any, number: int) -> str:
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "\n".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise _NotTaken(f"turn {number}: {'it has no text' if content is None else 'it is more than text'}")
    return content


def _filled(row: Row, column: str, kind: type | tuple[type, ...] = str) -> Any:
    """A row's value. Raises `_NotTaken` if it is empty or of another kind."""
    value = row.get(column)
    if isinstance(value, kind) and (value.strip() if isinstance(value, str) else value):
        return value
    raise _NotTaken(
        f"column {column!r}: it must be text and not empty" if kind is str else f"column {column!r}: it is empty"
    )


# --- the forms: each looks whether a table has it ---


def _messages(table: Table) -> Form | None:
    """OpenAI's `messages`, ShareGPT's `conversations`, or any column that holds turns."""
    named = [column for column in [_column(table, CHATS)] if column]
    for column in [*named, *(c for c in table.columns if c not in named and c.casefold() != "prompt")]:
        chats = [turns for _, row in table.rows if (turns := _turns_of(row.get(column)))]
        if len(chats) > len(table.rows) / 2:
            system = _column(table, SYSTEMS)
            how = f"conversations ({'ShareGPT' if 'from' in chats[0][0] else 'OpenAI'}: column {column!r})"
            return how, [c for c in (column, system) if c], partial(_read_messages, column=column, system=system)
    return None


def _read_messages(row: Row, *, column: str, system: str | None) -> Chat:
    if _turns_of(_filled(row, column, (str, list))) is None:
        raise _NotTaken(f"column {column!r}: it is no list of turns with role and content")
    return _chat_of(row[column], row.get(system) if system else None)


def _prompt_and_completion(table: Table) -> Form | None:
    """trl's forms as messages, and pairs of preferences: `prompt` with `completion` or `chosen`."""
    prompt, answer = _column(table, "prompt"), _column(table, ANSWERS)
    as_turns = [column for column in (prompt, answer) if column and _usual(table, column, list)]
    if answer is None or not (as_turns or answer.casefold() == "chosen"):
        return None
    how = "prompt and completion as messages"
    if answer.casefold() == "chosen":
        how = "preferences: the chosen answers are learned, the rejected ones left out"
    used = [column for column in (prompt, answer, _column(table, "rejected")) if column]
    return how, used, partial(_read_pair, prompt=prompt, answer=answer)


def _read_pair(row: Row, *, prompt: str | None, answer: str) -> Chat:
    before = _filled(row, prompt, (str, list)) if prompt else []
    after = _filled(row, answer, (str, list))
    turns = [{"role": "user", "content": before}] if isinstance(before, str) else list(before)
    more = [{"role": "assistant", "content": after}] if isinstance(after, str) else list(after)
    if more[: len(turns)] == turns:  # pairs of preferences often hold the prompt twice
        turns = []
    if _turns_of([*turns, *more]) is None:
        raise _NotTaken(f"column {answer!r}: it is no list of turns with role and content")
    return _chat_of([*turns, *more])


def _instructions(table: Table) -> Form | None:
    """Alpaca's and Dolly's form: an instruction, an input for it or none, and the output."""
    instruction, output, given = (_column(table, names) for names in (INSTRUCTIONS, OUTPUTS, INPUTS))
    if not instruction or not output or not given:
        return None
    system, history = _column(table, SYSTEMS), _column(table, "history")

    def read(row: Row) -> Chat:
        text, more, own = _filled(row, instruction), row.get(given), row.get(system) if system else None
        if isinstance(more, str) and more.strip():
            text = f"{text}\n\n{more}"
        turns = [("user", text), ("assistant", _filled(row, output))]
        return Chat(own.strip() if isinstance(own, str) else "", _turns_before(row, history) + turns)

    how = f"instructions (Alpaca: {instruction!r} and {given!r}, where it is filled, make the message, {output!r} the answer"
    how += f", {history!r} the turns before)" if history else ")"
    return how, [column for column in (instruction, given, output, system, history) if column], read


def _turns_before(row: Row, history: str | None) -> list[tuple[str, str]]:
    """The earlier turns of a row: pairs of a question and its answer, as LLaMA-Factory keeps them."""
    pairs = row.get(history) or [] if history else []
    if isinstance(pairs, list) and all(isinstance(two, list) and [*map(type, two)] == [str, str] for two in pairs):
        return [turn for two in pairs for turn in zip(("user", "assistant"), two, strict=True)]
    raise _NotTaken(f"column {history!r}: it must be a list of pairs, a question and its answer")


def _marked_text(table: Table) -> Form | None:
    """One column of text in which marks tell whose turn it is."""
    texts = [column for column in table.columns if _usual(table, column, str)]
    for column in texts if len(texts) == 1 else [c for c in texts if c.casefold() == "text"]:
        values = [row[column] for _, row in table.rows if isinstance(row.get(column), str)]
        for mark, pattern in MARKS.items():
            if sum(mark in value and bool(pattern.search(value)) for value in values) > 0.9 * len(values):
                how = f"chats in one text (column {column!r}, marks like {mark})"
                return how, [column], partial(_read_marked, column=column, pattern=pattern)
    return None


def _read_marked(row: Row, *, column: str, pattern: re.Pattern[str]) -> Chat:
    text = _filled(row, column)
    before, *outside = [BARE.sub("", part).strip() for part in _between(pattern, text)]
    if any(outside):
        raise _NotTaken(f"column {column!r}: text outside of the marks: {next(filter(None, outside))[:60]!r}")
    chat = Chat(system=before)
    for match in pattern.finditer(text):
        role, text = match[1].casefold(), match[2]
        if not role:  # [INST] holds a question, what follows it is the answer
            system = re.match(r"<<SYS>>\s*(.*?)\s*<</SYS>>\s*", text, re.DOTALL)
            chat.system = "\n\n".join(filter(None, (chat.system, system[1]))) if system else chat.system
            chat.turns += [("user", text[system.end() if system else 0 :]), ("assistant", match[3])]
        elif role == "system":
            chat.system = "\n\n".join(filter(None, (chat.system, text.strip())))
        elif role == "input" and chat.turns:
            chat.turns[-1] = ("user", f"{chat.turns[-1][1]}\n\n{text}" if text else chat.turns[-1][1])
        else:
            chat.turns.append(("assistant" if role in ("assistant", "response", "model", "answer", "a") else "user", text))
    return chat


def _between(pattern: re.Pattern[str], text: str) -> list[str]:
    """What stands before, between and after a pattern's matches."""
    ends = [(0, 0), *(match.span() for match in pattern.finditer(text)), (len(text), len(text))]
    return [text[end:start] for (_, end), (start, _) in pairwise(ends)]


_FORMS: tuple[tuple[str, Callable[[Table], Form | None]], ...] = (
    ("messages", _prompt_and_completion),
    ("messages", _messages),
    ("instructions", _instructions),
    ("messages", _marked_text),
)
