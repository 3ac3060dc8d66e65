"""What a fine-tuning cost elsewhere: general questions and plain English, by base and tuned (lesson 04).

The questions and the text lie in `data/general`. Both models get them as a plain user's message in the model's own chat
format, without the task's system prompt: what they knew before is asked as anybody would ask it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.common.errors import KitError
from ftkit.common.files import digest, read_jsonl, read_text
from ftkit.common.paths import kit_root
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.intervals import compare_shares, describe_comparison
from ftkit.evaluation.metrics import perplexity
from ftkit.runs.documents import GeneralAnswers, GeneralCheck, GeneralQuestion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


KINDS = ("knowledge", "arithmetic", "instruction")
CHUNK = 256  # tokens of plain English judged together
MAX_NEW_TOKENS = 48
FOLDER = kit_root() / "data" / "general"


def questions() -> list[dict[str, Any]]:
    """The questions: dicts with `id`, `kind` (one of `KINDS`), `prompt`, and the `check` that a right answer passes."""
    return read_jsonl(FOLDER / "questions.jsonl")


def english() -> str:
    """A few pages of plain English in different registers, for perplexity."""
    return read_text(FOLDER / "english.txt")


def questions_digest() -> str:
    """SHA-256 over questions and text (first 16 hexadecimal digits): which check a result is of."""
    return digest((read_text(FOLDER / "questions.jsonl") + "\0" + english()).encode())


def passes(check: dict[str, Any], text: str) -> bool:
    """Whether an answer fulfils every condition of a check; an empty answer never does.

    Words are compared whole and without regard to capitals. `number` stands somewhere in the answer (and must not in the
    question). Raises `KitError` for a condition that does not exist.
    """
    if not check or set(check) - set(CONDITIONS):
        raise KitError(f"A check holds conditions out of {', '.join(CONDITIONS)}; not {', '.join(check) or 'none'}.")
    text = text.strip()
    return bool(text) and all(CONDITIONS[name](text, wanted) for name, wanted in check.items())


def _times(text: str, phrase: str) -> int:
    """How often a word or phrase stands in a text, as whole words."""
    return len(re.findall(rf"(?<!\w){re.escape(phrase.casefold())}(?!\w)", text.casefold()))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _numbers(text: str) -> set[float]:
    """All numbers in a text, in digits, with or without commas between thousands."""
    numbers = re.findall(r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+(?:\.[0-9]+)?", text)
    return {float(number.replace(",", "")) for number in numbers}


def _in_order(text: str, words: Sequence[str]) -> bool:
    pattern = ".*".join(rf"(?<!\w){re.escape(word.casefold())}(?!\w)" for word in words)
    return re.search(pattern, text.casefold(), re.DOTALL) is not None


CONDITIONS: dict[str, Callable[[str, Any], bool]] = {
    "any_of": lambda text, phrases: any(_times(text, phrase) for phrase in phrases),
    "contains_all": lambda text, phrases: all(_times(text, phrase) for phrase in phrases),
    "none_of": lambda text, phrases: not any(_times(text, phrase) for phrase in phrases),
    "in_order": _in_order,
    "at_least": lambda text, wanted: sum(_times(text, word) for word in wanted["words"]) >= wanted["times"],
    "exactly": lambda text, wanted: sum(_times(text, word) for word in wanted["words"]) == wanted["times"],
    "number": lambda text, number: number in _numbers(text),
    "starts_with": lambda text, start: text.casefold().startswith(start.casefold()),
    "ends_with": lambda text, end: text.casefold().endswith(end.casefold()),
    "lines": lambda text, n: len(_lines(text)) == n,
    "each_line_starts": lambda text, start: all(line.startswith(start) for line in _lines(text)),
    "max_words": lambda text, n: len(text.split()) <= n,
    "uppercase": lambda text, wanted: text.isupper() == wanted,
}


def english_chunks(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The English text's token ids in pieces of `CHUNK` that do not overlap; the last may be shorter."""
    ids = tokenizer(english(), add_special_tokens=False)["input_ids"]
    return [ids[start : start + CHUNK] for start in range(0, len(ids) - 1, CHUNK)]


def general_check(answerer: Answerer, progress: Callable[[int, int], None] | None = None) -> GeneralCheck:
    """Ask base and tuned the questions, and how likely the English text is to them.

    A chunk's first token has nothing before it and is not judged. `progress` is called with (done, all) over both sides.
    """
    asked = questions()
    chats = [[{"role": "user", "content": question["prompt"]}] for question in asked]
    chunks = english_chunks(answerer.tokenizer)
    models = {}
    each = len(chats) + len(chunks)
    for number, which in enumerate((BASE, TUNED)):

        def tell(done: int, of: int, before: int = number * each) -> None:
            if progress:
                progress(before + done, 2 * each)

        began = time.monotonic()
        answers = answerer.complete(chats, which, MAX_NEW_TOKENS, tell)
        sums = [total for total, _ in answerer.log_probabilities(chunks, which)]
        tell(each, each)
        models[which] = GeneralAnswers(
            right=[passes(question["check"], answer) for question, answer in zip(asked, answers, strict=True)],
            answers=answers,
            log_probabilities=sums,
            seconds=round(time.monotonic() - began, 1),
        )
    return GeneralCheck(
        fingerprint=questions_digest(),
        questions=[GeneralQuestion(id=question["id"], kind=question["kind"]) for question in asked],
        tokens=[len(chunk) - 1 for chunk in chunks],
        models=models,
    )


def describe_check(check: GeneralCheck) -> list[str]:
    """A general check in lines for the terminal: right answers of each kind, what the difference means, the perplexities."""
    base, tuned = (check.models[which] for which in (BASE, TUNED))
    kinds = [question.kind for question in check.questions]
    lines = [f"{'general questions':<18}{BASE:>8}{TUNED:>8}"]
    for kind in KINDS:
        of = [i for i, k in enumerate(kinds) if k == kind]
        counts = (f"{sum(side.right[i] for i in of)}/{len(of)}" for side in (base, tuned))
        lines.append(f"{kind:<18}" + "".join(f"{count:>8}" for count in counts))
    everything = np.arange(len(check.tokens))
    values = (float(perplexity(side.log_probabilities, check.tokens)(everything)) for side in (base, tuned))
    lines.append(f"{'perplexity':<18}" + "".join(f"{value:>8.1f}" for value in values) + "   plain English; lower is better")
    return [*lines, describe_comparison(compare_shares(base.right, tuned.right))]


def need_lm_eval() -> None:
    """Raises `KitError` if lm-eval is not installed."""
    import importlib.util

    if importlib.util.find_spec("lm_eval") is None:
        raise KitError("Public benchmarks need the package lm-eval and a network: pip install lm-eval")


def lm_eval(answerer: Answerer, tasks: Sequence[str | dict[str, Any]], limit: int | None = None) -> dict[str, Any]:
    """Public benchmarks by base and tuned, with EleutherAI's lm-eval (optional; it fetches its data from the hub).

    `tasks` are lm-eval's names, such as "hellaswag", or its task descriptions as dicts; `limit` takes only the first so many
    examples of each. Gives {side: {task: {metric: value}}}. Both sides are the kit's own models in memory, so the base is
    the quantized one that the adapter was trained on. Raises `KitError` if the package is missing, a task unknown or its
    data out of reach.
    """
    need_lm_eval()

    def measure(which: str) -> dict[str, Any]:
        import contextlib

        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        # nobody else uses the model meanwhile: this is its only thread
        with answerer.model.disable_adapter() if which == BASE else contextlib.nullcontext():
            wrapped = HFLM(pretrained=answerer.model, tokenizer=answerer.tokenizer, batch_size=answerer.batch_size)
            return simple_evaluate(wrapped, tasks=list(tasks), limit=limit, log_samples=False)["results"]

    try:
        return {which: answerer.worker.submit(measure, which).result() for which in (BASE, TUNED)}
    except (OSError, ValueError, KeyError) as error:  # no network, no such task: lm-eval raises one or the other
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise KitError(f"lm-eval could not measure {', '.join(map(str, tasks))}: {reason}") from None
