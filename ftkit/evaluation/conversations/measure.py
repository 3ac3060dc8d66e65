"""Base and tuned on the same conversations: every answer after the history that stands in the data (lesson 04).

Each answer of a conversation is asked for once. Before it stand the turns as they were written, not as the model would have
answered them: so the models are compared turn by turn on the same questions. `own_history` adds both models with their own
answers as history, as in a real conversation, where one mistake leads to others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from ftkit.common.console import Say
from ftkit.common.files import dump
from ftkit.common.machine import versions
from ftkit.data.conversation.rows import exchanges
from ftkit.data.conversation.turns import marked_turns
from ftkit.data.prompt import chat_prompt, training_example
from ftkit.data.task import Row
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.conversations.scores import ChatScores, slices, worst_turns
from ftkit.evaluation.intervals import compare_scores
from ftkit.evaluation.metrics import perplexity
from ftkit.evaluation.report import write_report
from ftkit.evaluation.saved_answers import Predictions, predict
from ftkit.models.four_bit import weight_bytes
from ftkit.runs.card import write_card
from ftkit.runs.documents import Comparison, Evaluation, Forgetting, ModelResult, RunsCompared
from ftkit.runs.run import Run, adapter_digest

ABOUT = {BASE: "the untouched model, with the same system prompt", TUNED: "the model after fine-tuning"}
OWN = ", own history"
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
        self._add(which, ABOUT[which], self._answers(which, which, [self.task.asked(part) for part in self.parts]), which)

    def own_history(self, which: str) -> None:
        """Base or tuned after its own answers to the earlier turns: all first answers, then all second ones, and so on."""
        given: dict[tuple[int, int], str] = {}
        seconds = 0.0
        for number in range(1, 1 + max(part["answer"] for part in self.parts)):
            some = [part for part in self.parts if part["answer"] == number]
            chats = [_retold(self.task.asked(part), given, part["conversation"]) for part in some]
            answers = self._answers(which, which + OWN, chats)
            seconds += answers.seconds
            given |= {(part["conversation"], number): text for part, text in zip(some, answers.texts, strict=True)}
        texts = [given[part["conversation"], part["answer"]] for part in self.parts]
        self._add(which + OWN, f"{ABOUT[which]}, its own answers as history", Predictions(texts, seconds), which)

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

    def _predict(self, which: str, name: str, keys: list[str], ask: Asks, batch: int) -> Predictions:
        """Answers to conversations, or what else a side says of them, kept in the run by the JSON of each."""
        settings: dict[str, Any] = {"model": self.run.profile.model, "most": self.answerer.max_new_tokens}
        settings["adapter"] = adapter_digest(self.run) if which == TUNED else None
        settings["prompt"] = chat_prompt(self.task, "", told=which == BASE)
        file = f"{self.split}-{name.replace(', ', '-').replace(' ', '-')}"
        return predict(self.run, file, settings, keys, ask, batch, self.say)

    def _add(self, name: str, about: str, answers: Predictions, which: str) -> None:
        self.texts[name] = answers.texts
        self.models[name] = ModelResult(
            about=about,
            judged_by=None,
            scores=ChatScores(self.task, self.parts, answers.texts).with_intervals(),
            seconds=round(answers.seconds, 1),
            seconds_per_message=answers.seconds / len(self.parts),
            messages_per_second=round(len(self.parts) / max(answers.seconds, 1e-9), 2),
            training_seconds=self.run.training.seconds if which == TUNED else 0.0,
            memory_mb=round(self.memory),
        )


def _retold(turns: Sequence[dict[str, str]], given: dict[tuple[int, int], str], conversation: int) -> list[dict[str, str]]:
    """The turns with a model's own answers in the place of those that were written; an empty answer is a single dash."""
    number, retold = 0, []
    for turn in turns:
        number += turn["role"] == "assistant"
        own = turn["role"] == "assistant"
        retold.append({**turn, "content": given[conversation, number] or "-"} if own else turn)
    return retold


def evaluate_conversations(
    run: Run, split: str, say: Say, limit: int | None, own_history: bool, general: Callable[..., Forgetting] | None
) -> Evaluation:
    """What `measure.evaluate` does, for a `chat` task; `general` asks what was forgotten, None leaves that out."""
    began = time.monotonic()
    measured = MeasuredChats(run, split, limit, say)
    for which in (BASE, TUNED):
        measured.side(which)
        if own_history:
            measured.own_history(which)
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
