"""Faults that a rule can see in a single row, and safe repairs for some of them (lesson 02)."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from ftkit.data.task import Field, Task

TAG = re.compile(
    r"<!--.*?-->|</?(?:a|b|blockquote|body|br|center|div|em|font|h[1-6]|head|hr|html|i|img|li|meta|ol|p|pre|script|small|span|"
    r"strong|style|sub|sup|table|tbody|td|th|title|tr|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE | re.DOTALL,
)
ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|pound|euro|ndash|mdash|hellip|[lr][sd]quo|#\d{2,6}|#x[0-9a-f]{2,5});", re.IGNORECASE
)
# what a mail program adds: from here to the end nothing was written by the guest
SIGNATURE = re.compile(
    r"(?:^|\s)(?:"
    r"--\s*\n|_{5,}|-{5,}|"
    r"sent from (?:my|the|yahoo|outlook|mail)\b|get outlook for\b|sent via\b|sent with \w+ mail|"
    r"-----\s*original message|on [^\n]{6,80} wrote:|"
    r"this (?:e-?mail|message) (?:and any|is confidential|is intended|may contain)|"
    r"please consider the environment before"
    r")",
    re.IGNORECASE,
)
PERSONAL = {
    "e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w"),
    "card number": re.compile(r"(?<!\d)(?:\d[ -]?){12,18}\d(?!\d)"),
    "phone number": re.compile(r"(?<![\d£$€.])(?:\+\d{1,3}[ -]?)?(?:\(0?\d{1,4}\)[ -]?)?(?:\d[ -]?){9,12}\d(?!\d)"),
}
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
STOP = re.compile(r"\W*(?:[.!?;:)…\n]|$)")
MASKS = {"e-mail address": "[e-mail]", "card number": "[card]", "phone number": "[phone]"}


def find_markup(text: str) -> list[str]:
    """Name what a message holds that nobody wrote for its reader: HTML (tags or entities), a mail program's signature."""
    match = SIGNATURE.search(text)
    return ["HTML"] * bool(TAG.search(text) or ENTITY.search(text)) + ["signature or quoted mail"] * bool(
        match and match.start() > 0
    )


def remove_markup(text: str) -> str:
    """Remove HTML: tags become spaces, entities the characters they stand for."""
    return _tidy(html.unescape(TAG.sub(" ", text))) if TAG.search(text) or ENTITY.search(text) else text


def remove_signature(text: str) -> str:
    """Cut a text off at the signature; it stays as it is if nothing would be left."""
    match = SIGNATURE.search(text)
    return _tidy(text[: match.start()]) if match and text[: match.start()].strip() else text


def find_personal_data(text: str) -> list[str]:
    """Name the kinds of personal data that a text seems to hold: e-mail address, card number, phone number."""
    return [kind for kind, mask in MASKS.items() if mask in mask_personal_data(text) and mask not in text]


def mask_personal_data(text: str) -> str:
    """Replace personal data in a text with a mask such as `[phone]`.

    A card number is 13 to 19 digits that pass the check sum on cards (Luhn, ISO/IEC 7812-1).
    """
    for kind, form in PERSONAL.items():

        def mask(match: re.Match[str], kind: str = kind) -> str:
            return match[0] if kind == "card number" and not _luhn(match[0]) else MASKS[kind]

        text = form.sub(mask, text)
    return text


def _luhn(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()][::-1]
    return sum(digits[::2]) % 10 == -sum(sum(divmod(2 * d, 10)) for d in digits[1::2]) % 10


def _tidy(text: str) -> str:
    return re.sub(r"\s+([,.;!?])", r"\1", re.sub(r"[ \t\xa0]+", " ", text)).strip()


def normalize_text(text: str) -> str:
    """Bring a text into Unicode's composed form (NFC); control and zero-width characters go, and spaces at the ends."""
    text = unicodedata.normalize("NFC", text)
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf") or c == "\u200d").strip()


def repair_text(text: str) -> tuple[str, list[str]]:
    """Mend a message as far as that is safe: (the text, what was done)."""
    done: list[str] = []
    for what, repair in (
        ("removed markup", remove_markup),
        ("cut off a signature or quoted mail", remove_signature),
        ("masked personal data", mask_personal_data),
        ("normalised characters and spaces", normalize_text),
    ):
        mended = repair(text)
        if mended != text:
            text, done = mended, [*done, what]
    return text, done


# --- answers ---


def _key(value: Any) -> str:
    return re.sub(r"[\W_]+", "", str(value).casefold())


def match_spelling(value: Any, allowed: Iterable[str]) -> str | None:
    """The one allowed value that differs from `value` only in case, spaces, hyphens or underscores, or None."""
    if not isinstance(value, str) or value in (allowed := tuple(allowed)):
        return None
    alike = [name for name in allowed if _key(name) == _key(value)]
    return alike[0] if len(alike) == 1 else None


def repair_answer(task: Task, answer: Any) -> tuple[Any, list[str]]:
    """Mend an answer where only its form is wrong: (the answer, what was done). What it says is never changed."""
    if task.kind == "label":
        meant = match_spelling(answer, task.labels)
        return (answer, []) if meant is None else (meant, [f"spelled {answer!r} as {meant!r}"])
    if task.kind == "text":
        mended = normalize_text(answer) if isinstance(answer, str) else answer
        return mended, [] if mended == answer else ["normalised characters and spaces of the answer"]
    steps = []
    if isinstance(answer, str):
        try:
            answer, steps = json.loads(answer), ["read the answer from a text holding JSON"]
        except (ValueError, RecursionError):
            return answer, []
    return _repair_object(task, answer, steps) if isinstance(answer, dict) else (answer, [])


def _repair_object(task: Task, answer: dict[str, Any], steps: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Mend the spelling of keys and values and the order of the keys; `steps` tells what was done before."""
    names, mended = [f.name for f in task.fields], {}
    for key, value in answer.items():
        name = key if key in names else match_spelling(key, names) or key
        if name != key:
            steps.append(f"spelled the key {key!r} as {name!r}")
        mended[name] = value
    for f in task.fields:
        if f.name in mended and (value := _repair_value(f, mended[f.name])) != mended[f.name]:
            steps.append(f"{f.name}: {json.dumps(mended[f.name], ensure_ascii=False)} as {json.dumps(value)}")
            mended[f.name] = value
    if set(mended) == set(names) and list(mended) != names:
        mended = {name: mended[name] for name in names}
        steps.append("put the keys in order")
    return mended, steps


def _repair_value(f: Field, value: Any) -> Any:
    if f.type == "choice":
        return match_spelling(value, f.values) or value
    if f.type == "set" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return sorted({match_spelling(v, f.values) or v for v in value})
    if f.type == "integer" and isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,9}\s*", value):
        return int(value)
    if f.type == "pattern" and isinstance(value, str):
        return next((form for form in (value.strip(), value.strip().lower()) if re.search(f.pattern, form)), value)
    return value


# --- faults that a person must judge ---


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, apostrophes kept."""
    return WORD.findall(text.casefold())


def find_cut_off(messages: list[str]) -> list[int]:
    """Indices of messages that seem to end in the middle: without a stop, and

    - on a comma, a bracket or the like, or
    - on a word that in the other messages hardly ever ends a sentence, or
    - on the beginning of a word: letters that stand alone in no other message, while longer words begin so.

    What is usual is counted in the messages themselves; few messages give few findings.
    """
    messages_with: Counter[str] = Counter()
    times: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for text in messages:
        messages_with.update(set(split_words(text)))
        for match in WORD.finditer(text.casefold()):
            times[match[0]] += 1
            ended[match[0]] += bool(STOP.match(text, match.end()))
    beginnings = Counter(word[:n] for word in messages_with for n in range(1, len(word)))
    indices = []
    for i, text in enumerate(messages):
        last = next(iter(split_words(text)[-1:]), None)
        if last is None or not re.search(r"[\w,'’(£&-]\s*$", text):
            continue
        bare = not text.rstrip()[-1].isalnum()
        never_last = times[last] >= 12 and ended[last] - 1 <= 0.01 * times[last]
        stump = messages_with[last] == 1 and last.isalpha() and beginnings[last] > 1 and last in text  # not a name's capital
        if bare or never_last or stump:
            indices.append(i)
    return indices


def find_foreign(messages: list[str], sure: float = 0.6) -> list[tuple[int, str]]:
    """Messages in another language than most: (index, ISO 639 code), where the other is likelier than `sure`.

    Uses py3langid (Lui and Baldwin 2012, langid.py); very short texts are rarely sure enough.
    """
    identify = _identifier()
    languages = [identify(text) for text in messages]
    if not languages:
        return []
    most = Counter(language for language, _ in languages).most_common(1)[0][0]
    return [(i, language) for i, (language, share) in enumerate(languages) if language != most and share > sure]


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).classify
