"""Base and tuned on the same conversations: every answer after the history that stands in the data (lesson 04).

Each answer of a conversation is asked for once. Before it stand the turns as they were written, not as the model would have
answered them: so the models are compared turn by turn on the same questions. `own_history` adds both models with their own
answers as history, as in a real conversation, where one mistake leads to others. `told` adds models that read the task's
whole fact sheet in their prompt: what belongs into the prompt, and what into the weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from ftkit.common.console import Say, clock
from ftkit.common.files import dump
from ftkit.common.machine import versions
from ftkit.data.conversation.rows import exchanges
from ftkit.data.conversation.told import Sheet, fit_sheet, has_sheet, read_sheet, told_prompt
from ftkit.data.conversation.turns import marked_turns
from ftkit.data.prompt import Messages, chat_prompt, prompt_ids, training_example
from ftkit.data.task import Row
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.conversations.scores import ChatScores, slices, worst_turns
from ftkit.evaluation.conversations.talk import in_order, own_answers
from ftkit.evaluation.intervals import compare_scores
from ftkit.evaluation.metrics import perplexity
from ftkit.evaluation.report import write_report
from ftkit.evaluation.saved_answers import Predictions, predict
from ftkit.evaluation.tables import TOLD
from ftkit.models.families import context_length
from ftkit.models.four_bit import weight_bytes
from ftkit.runs.card import write_card
from ftkit.runs.documents import Comparison, Evaluation, Forgetting, ModelResult, RunsCompared, Told
from ftkit.runs.run import Run, adapter_digest

ABOUT = {BASE: "the untouched model, with the same system prompt", TUNED: "the model after fine-tuning"}
OWN = ", own history"
TOLD_TAKES = 6.0  # times the seconds without a sheet, for each 1,000 tokens of it (96 answers of the host, one core: 6.3)
TOLD_BATCH = 16  # answers at once after a sheet: its keys and values are kept for each of them
Asks = Callable[[list[str]], list[str]]


class MeasuredChats:
    """The models of one evaluation of conversations: their answers, and what these were worth and cost."""

    def __init__(self, run: Run, split: str, limit: int | None, say: Say):
        self.run, self.task, self.split, self.say = run, run.task, split, say
        self.rows = self.task.rows(split)[:limit]
        self.parts = exchanges(self.task, self.rows)
        self.answerer = Answerer.of_run(run)
        self.texts: dict[str, list[str]] = {}
        self.models: dict[str, ModelResult] = {}
        self.memory = weight_bytes(self.answerer.model) / 1e6

    def side(self, which: str) -> None:
        """Base or tuned, after the history that stands in the data."""
        asked = [self.task.asked(part) for part in self.parts]
        prompts = [chat_prompt(self.task, chat) for chat in asked]
        self._add(which, ABOUT[which], self._answers(which, which, asked), which, prompts)

    def own_history(self, which: str) -> None:
        """Base or tuned after its own answers to the earlier turns: all first answers, then all second ones, and so on."""
        seconds = 0.0

        def ask(chats: list[Any]) -> list[str]:
            nonlocal seconds
            answers = self._answers(which, which + OWN, chats)
            seconds += answers.seconds
            return answers.texts

        texts = in_order(self.parts, own_answers(self.task, self.parts, ask))
        self._add(which + OWN, f"{ABOUT[which]}, its own answers as history", Predictions(texts, seconds), which)

    def tell(self, sides: Sequence[str]) -> Told:
        """Base or tuned or both, told the task's whole sheet in the prompt, after the history that stands in the data.

        What all prompts begin with is computed once for each batch of answers.
        """
        task, window = self.task, context_length(self.answerer.model.config)
        asked = [task.asked(part) for part in self.parts]
        sheet = fit_sheet(self.answerer.tokenizer, task, asked, self.answerer.max_new_tokens, window)
        limit = f"the model reads at most {window:,}" if window else "the model knows no limit"
        cut = f"{sheet.cut:,} more had no room and are left out" if sheet.cut else "all of it"
        self.say(f"  told: {sheet.file}, {sheet.tokens:,} tokens in each prompt, {cut} ({limit})")
        for which in sides:
            self._tell(which, sheet, asked)
        return Told(file=sheet.file, tokens=sheet.tokens, cut=sheet.cut, window=window)

    def _tell(self, which: str, sheet: Sheet, asked: list[Any]) -> None:
        task, plain = self.task, self.models[which].seconds_per_message
        expected = clock(TOLD_TAKES * sheet.tokens / 1000 * plain * len(asked))
        self.say(f"  {which}{TOLD}: {len(asked):,} answers, about {expected} if none is kept yet, by what {which} took")

        def ask(some: list[str]) -> list[str]:
            return self.answerer.complete([told_prompt(task, json.loads(chat), sheet.text) for chat in some], which)

        told = told_prompt(task, "", sheet.text)
        answers = self._predict(which, which + TOLD, [dump(chat) for chat in asked], ask, TOLD_BATCH, told)
        prompts = [told_prompt(task, chat, sheet.text) for chat in asked]
        self._add(which + TOLD, f"{ABOUT[which]}, told {sheet.file} in its prompt", answers, which, prompts)

    def perplexity(self) -> Comparison:
        """How likely base and tuned find the answers that stand in the data: perplexity, conversation by conversation."""
        sums = {which: self._log_probabilities(which) for which in (BASE, TUNED)}
        tokens = [n for _, n in sums[BASE]]
        statistics = [perplexity([total for total, _ in sums[which]], tokens) for which in (BASE, TUNED)]
        return compare_scores(statistics[0], statistics[1], len(tokens))

    def _log_probabilities(self, which: str) -> list[tuple[float, int]]:
        """(sum of ln p, tokens) of each conversation's answers with their ends, by one side; kept like answers."""
        answerer, task = self.answerer, self.task

        def judge(rows: list[str]) -> list[str]:
            judged = []
            for row in map(json.loads, rows):
                example = training_example(task, {task.message: row})
                marked = marked_turns(answerer.tokenizer, example["prompt"] + example["completion"])
                pairs = answerer.log_probabilities([one.ids for one in marked], which, masks=[one.mask for one in marked])
                judged.append(json.dumps([sum(total for total, _ in pairs), sum(n for _, n in pairs)]))
            return judged

        keys = [dump(row[task.message]) for row in self.rows]
        made = self._predict(which, f"{which}-likelihood", keys, judge, 8)
        return [(float(total), int(n)) for total, n in map(json.loads, made.texts)]

    def _answers(self, which: str, name: str, chats: Sequence[Any]) -> Predictions:
        def ask(some: list[str]) -> list[str]:
            return self.answerer.answer([json.loads(chat) for chat in some], which)

        return self._predict(which, name, [dump(chat) for chat in chats], ask, self.answerer.batch_size)

    def _predict(
        self, which: str, name: str, keys: list[str], ask: Asks, batch: int, prompt: Messages | None = None
    ) -> Predictions:
        """Answers to conversations, or what else a side says of them, kept in the run by the JSON of each."""
        settings: dict[str, Any] = {"model": self.run.profile.model, "most": self.answerer.max_new_tokens}
        settings["adapter"] = adapter_digest(self.run) if which == TUNED else None
        settings["prompt"] = prompt or chat_prompt(self.task, "", told=which == BASE)
        file = f"{self.split}-{name.replace(', ', '-').replace(' ', '-')}"
        return predict(self.run, file, settings, keys, ask, batch, self.say)

    def _add(self, name: str, about: str, answers: Predictions, which: str, prompts: Sequence[Messages] = ()) -> None:
        self.texts[name] = answers.texts
        tokens = [len(prompt_ids(self.answerer.tokenizer, prompt)) for prompt in prompts]
        self.models[name] = ModelResult(
            about=about,
            judged_by=None,
            scores=ChatScores(self.task, self.parts, answers.texts).with_intervals(),
            seconds=round(answers.seconds, 1),
            seconds_per_message=answers.seconds / len(self.parts),
            messages_per_second=round(len(self.parts) / max(answers.seconds, 1e-9), 2),
            training_seconds=self.run.training.seconds if which == TUNED else 0.0,
            memory_mb=round(self.memory),
            prompt_tokens=round(sum(tokens) / len(tokens)) if tokens else None,
        )


def evaluate_conversations(
    run: Run,
    split: str,
    say: Say,
    limit: int | None,
    own_history: bool,
    told: bool | None,
    general: Callable[..., Forgetting] | None,
) -> Evaluation:
    """What `measure.evaluate` does, for a `chat` task; `general` asks what was forgotten, None leaves that out.

    `told` adds base and tuned that read the task's sheet; None adds the base alone, where there is a sheet and `general` is
    asked for too.
    """
    if told:
        read_sheet(run.task)  # a missing one is named before minutes of answers
    began = time.monotonic()
    measured = MeasuredChats(run, split, limit, say)
    for which in (BASE, TUNED):
        measured.side(which)
        if own_history:
            measured.own_history(which)
    sides = (BASE, TUNED) if told else (BASE,) if told is None and general and has_sheet(run.task, say) else ()
    sheet = measured.tell(sides) if sides else None
    scores = {name: ChatScores(measured.task, measured.parts, texts) for name, texts in measured.texts.items()}
    likely = measured.perplexity()
    result = Evaluation(
        run=run.name,
        task=measured.task.name,
        kind=measured.task.kind,
        split=split,
        n=len(measured.rows),
        of=len(measured.task.rows(split)),
        seed=run.profile.seed,
        versions=versions(),
        models=measured.models,
        comparisons={name: scores[TUNED].against(other) for name, other in scores.items() if name != TUNED},
        perplexity=likely,
        told=sheet,
        general=general(run, measured.answerer, say) if general else None,
        confusions={},
        slices=slices(measured.task, measured.parts, measured.texts[TUNED]),
        worst=worst_turns(measured.task, measured.parts, measured.texts[TUNED]),
        seconds=round(time.monotonic() - began, 1),
    )
    result.save(run.folder)
    write_report(run, result)
    write_card(run)
    return result


def compare_chat_runs(first: Run, second: Run, split: str, say: Say, limit: int | None) -> RunsCompared:
    """What `measure.compare_runs` does, for a `chat` task."""
    scores: list[ChatScores] = []
    rows: list[Row] = []
    for run in (first, second):
        measured = MeasuredChats(run, split, limit, say)
        measured.side(TUNED)
        rows = measured.rows
        scores.append(ChatScores(measured.task, measured.parts, measured.texts[TUNED]))
        del measured
    metrics = scores[1].against(scores[0])
    return RunsCompared(task=second.task.name, split=split, n=len(rows), runs=(first.name, second.name), metrics=metrics)
