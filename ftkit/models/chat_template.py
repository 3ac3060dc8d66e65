"""Chat templates that say the same in training, evaluation, demo and every export, for any tokenizer (lesson 01).

A chat template is a Jinja text that belongs to the tokenizer and turns a chat into the text that a model reads. Some leave
out what the kit needs: a place for the system prompt, the beginning of the answer, its end. `mend_template` writes what
is missing around the model's own template, once, when the tokenizer is loaded. So plain transformers, given the
tokenizer of a run or of an export, makes the same prompts. Each change is a comment in the template: `template_changes`.
"""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ftkit.common.errors import KitError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = list[dict[str, str]]
DAY = date(2024, 7, 26)  # what a template is told that writes the current date: prompts must not change from day to day
ANSWER = "ftkit-answer"  # stands for an answer, to see what a template writes before it and after it
ASKED = [{"role": "system", "content": "ftkit-system"}, {"role": "user", "content": "ftkit-user"}]
PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### Message\\n' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ '### Answer\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Answer\\n' }}{% endif %}"
)
SYSTEM_WITH_USER = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set ftkit_system = messages[0]['content'] %}{% set messages = messages[1:] %}"
    "{% if ftkit_system and messages and messages[0]['role'] == 'user' %}"
    "{% set messages = [{'role': 'user', 'content': ftkit_system + '\\n\\n' + messages[0]['content']}] + messages[1:] %}"
    "{% elif ftkit_system %}{% set messages = [{'role': 'user', 'content': ftkit_system}] + messages %}{% endif %}"
    "{% endif %}\n"
)
OPENING = (  # the text of the answered chat up to the answer is the text of the prompt
    "{% set ftkit_opens = add_generation_prompt %}{% set add_generation_prompt = false %}"
    f"{{% set ftkit_mark = '{ANSWER}' %}}{{% if ftkit_opens %}}"
    "{% set messages = messages + [{'role': 'assistant', 'content': ftkit_mark}] %}{% endif %}{% set ftkit_chat %}\n"
)
OPENED = (
    "{{ '' }}{% endset %}{% if ftkit_opens %}"
    "{{ (ftkit_chat.split(ftkit_mark)[:-1] | join(ftkit_mark)).rstrip(' ') }}{% else %}{{ ftkit_chat }}{% endif %}"
)
END = "{{ '' }}{% if messages[-1]['role'] == 'assistant' and not add_generation_prompt %}{{ eos_token }}{% endif %}"


def mend_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give the tokenizer a template with which every chat of the kit has one text, whoever renders it. In place.

    What is changed: no template at all, or one that refuses the kit's turns, gives way to a plain one of the kit; a
    template without a place for the system prompt gets it before the first message; a date of today becomes a fixed one; a
    prompt ends where the answer of an answered chat begins; an answer has an end. A template that does all this stays as it
    is. `name` is the model's, for errors. Raises `KitError` if the tokenizer has no end token.
    """
    template = tokenizer.get_chat_template() if tokenizer.chat_template else None
    mended, changes = _mended(tokenizer, template) if template else ("", [])
    if not _holds_all(tokenizer, mended):
        what = "it cannot write a system prompt, a message and an answer" if template else "the model has none"
        mended, changes = _plain(tokenizer), [f"{what}: a plain template of the kit takes its place"]
    if mended != template:
        mended = "".join(f"{{# ftkit: {change} #}}" for change in changes) + mended
        named = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else None
        tokenizer.chat_template = {**named, "default": mended} if named else mended
    end = _first_mark(tokenizer, _around(tokenizer, mended)[1])
    if end is None:
        raise KitError(f"The tokenizer of {name} has no end token: no answer of it could end. Take another model.")
    if tokenizer.eos_token is None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def template_changes(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the kit changed in the model's chat template, a phrase each; it stands in the template itself."""
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    return re.findall(r"\{# ftkit: (.*?) #\}", template)


def answer_borders(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What the template writes between prompt and answer (a space, as a rule nothing), and after the answer."""
    before, after = _around(tokenizer, tokenizer.get_chat_template())
    opened = _render(tokenizer, tokenizer.get_chat_template(), ASKED, add_generation_prompt=True) or ""
    return before[len(opened) :] if before.startswith(opened) else "", after


def answer_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token with which an answer ends in training; generation has to stop at it."""
    end = _first_mark(tokenizer, answer_borders(tokenizer)[1])
    return tokenizer.eos_token_id if end is None else end


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens at which generation stops: the one that ends an answer in training, the tokenizer's, and all of the
    model's generation settings. Sorted.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    more = getattr(getattr(base, "generation_config", None), "eos_token_id", None)
    ends = {answer_end(tokenizer), tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])}
    return sorted(ends - {None})


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: Chat, **more: Any) -> list[int]:
    """A chat's token ids; control tokens in its contents are text. `KitError` where a tokenizer cannot write one as text."""
    try:
        return tokenizer.apply_chat_template(messages, sanitize_control_tokens=True, return_dict=False, **more)
    except ValueError as error:
        raise KitError(f"A text holds a mark that this model's tokenizer cannot write as text: {error}.") from None
    except TemplateError as error:
        raise KitError(f"The model's chat template refuses a chat of {len(messages)} turns: {error}.") from None


def inner_ids(tokenizer: PreTrainedTokenizerBase, text: str, **more: Any) -> list[int]:
    """Token ids of a text as they are within a longer one: some tokenizers put a space before a text's beginning."""
    line_end, ids = (tokenizer(part, add_special_tokens=False, **more)["input_ids"] for part in ("\n", "\n" + text))
    inner = ids[: len(line_end)] == line_end
    return ids[len(line_end) :] if inner else tokenizer(text, add_special_tokens=False, **more)["input_ids"]


# --- what is looked at ---


def _render(tokenizer: PreTrainedTokenizerBase, template: str, chat: Chat, **more: Any) -> str | None:
    """The chat's text; None where the template refuses it."""
    try:
        return tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, **more)
    except (TemplateError, TypeError, ValueError, KeyError):
        return None


def _around(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[str, str]:
    """The text before an answer and the text after it, in an answered chat."""
    answered = _render(tokenizer, template, [*ASKED, {"role": "assistant", "content": ANSWER}]) or ""
    before, _, after = answered.partition(ANSWER)
    return before, after


def _holds_all(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Whether an answered chat, written in the template, shows its system prompt, its message and its answer."""
    answered = [*ASKED, {"role": "assistant", "content": ANSWER}]
    text = (_render(tokenizer, template, answered) or "") if template else ""
    return all(turn["content"] in text for turn in answered)


def _first_mark(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """Id of the first control token in a text; None if there is none. Some tokenizers have added tokens of white space."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if not token.content.isspace()}
    marks = {*tokenizer.all_special_ids, *added}
    return next((i for i in tokenizer(text, add_special_tokens=False)["input_ids"] if i in marks), None) if text else None


def adds_begin(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts its BOS before a text by itself."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


# --- what is changed: each gives the template, and what it changed in words ---

Change = tuple[str, str | None]


def _mended(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[str, list[str]]:
    """A model's template with what it lacks, and what that was."""
    changes = []
    for look in (_fix_the_date, _carry_the_system_prompt, _end_the_answer, _open_the_answer):
        template, change = look(tokenizer, template)
        changes += [change] if change else []
    return template, changes


def _plain(tokenizer: PreTrainedTokenizerBase) -> str:
    """The kit's own template, for a base model that has none; BOS stands before it where the tokenizer would put it."""
    return ("{{ bos_token }}" if adds_begin(tokenizer) else "") + PLAIN


def _as_part(template: str) -> str:
    """A template as it can stand inside another: Jinja drops one line end at a template's end, and no more."""
    return template.removesuffix("\n")


def _fix_the_date(_: PreTrainedTokenizerBase, template: str) -> Change:
    fixed = re.sub(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)", lambda found: repr(DAY.strftime(found[2])), template)
    return fixed, f"the date of the day is always {DAY}" if fixed != template else None


def _carry_the_system_prompt(tokenizer: PreTrainedTokenizerBase, template: str) -> Change:
    if ASKED[0]["content"] in (_render(tokenizer, template, ASKED) or ""):
        return template, None
    return SYSTEM_WITH_USER + template, "it has no place for a system prompt: that stands before the first message"


def _open_the_answer(tokenizer: PreTrainedTokenizerBase, template: str) -> Change:
    before, _ = _around(tokenizer, template)
    opened = _render(tokenizer, template, ASKED, add_generation_prompt=True)
    if opened in (before, before.rstrip(" ")):
        return template, None
    return OPENING + _as_part(template) + OPENED, "a prompt ends where the answer of an answered chat begins"


def _end_the_answer(tokenizer: PreTrainedTokenizerBase, template: str) -> Change:
    _, after = _around(tokenizer, template)
    if _first_mark(tokenizer, after) is not None or tokenizer.eos_token is None:
        return template, None
    return _as_part(template) + END, "it does not end an answer: the end token follows it"
