"""Evaluation: base, baselines and tuned on the same held-out examples, each figure with its interval (lesson 04)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ftkit.common.console import Progress, Say
from ftkit.common.errors import KitError
from ftkit.common.machine import versions
from ftkit.data.prompt import chat_prompt
from ftkit.data.task import Row
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.baselines import CHOSEN_ON, Baseline, choose_shots, frozen_encoder, majority, shots, tfidf
from ftkit.evaluation.conversations.measure import compare_chat_runs, evaluate_conversations
from ftkit.evaluation.decoding.checked import answer_checked, deciding, describe_checked, look, need_rules
from ftkit.evaluation.decoding.constrained import ROOM, SchemaProcessor
from ftkit.evaluation.errors import calibration, confusions, slices, worst
from ftkit.evaluation.forgetting import general_check, questions_digest
from ftkit.evaluation.intervals import compare_scores, compare_shares
from ftkit.evaluation.metrics import perplexity
from ftkit.evaluation.report import write_report
from ftkit.evaluation.saved_answers import Predictions, predict, read_answers
from ftkit.evaluation.scores import Scores
from ftkit.evaluation.tables import in_order
from ftkit.models.four_bit import weight_bytes
from ftkit.runs.card import write_card
from ftkit.runs.documents import (
    Evaluation,
    FewShot,
    Forgetting,
    General,
    GeneralAnswers,
    GeneralCheck,
    GeneralKey,
    KindOfQuestion,
    ModelResult,
    RunsCompared,
)
from ftkit.runs.run import Run, adapter_digest
from ftkit.training.give_way import give_way_at_each_pass, working_seconds

FEW_SHOT, TFIDF, MAJORITY, FROZEN = "few-shot", "TF-IDF", "majority", "frozen encoder"
ABOUT = {
    BASE: "the untouched model, told the fields and their values",
    TUNED: "the model after fine-tuning, told nothing",
}
# made again rather than kept; the encoder where it is installed
CHEAP: dict[str, Callable[..., Baseline | None]] = {MAJORITY: majority, TFIDF: tfidf, FROZEN: frozen_encoder}


def evaluate(
    run: Run,
    split: str = "test",
    say: Say = print,
    limit: int | None = None,
    quick: bool = False,
    constrained: bool = False,
    own_history: bool = False,
    checked: bool = False,
    told: bool | None = None,
) -> Evaluation:
    """Let base and tuned answer a split, score them, and save the evaluation and its page, `report.html`, in the run.

    Unless `quick`, baselines, the general check and the calibration are added. `constrained` adds both models under
    constrained decoding (a `json` task), `own_history` both after their own answers and `told` both with the task's sheet in
    the prompt (a `chat` task; left out, the base's alone unless `quick`), `checked` tuned asked again where it lost
    something (a `text` task with rules). `limit` takes only the first so many rows of the split, recorded as `n`. All decode
    greedily. Answers are kept: a second call takes seconds, an interrupted one goes on.
    """
    task = run.task
    if checked:
        need_rules(task)
    if run.record.task.fingerprint != task.fingerprint():
        say(f"Note: {task.folder.name} has changed since {run.name} was trained.")
    if task.kind == "chat":
        return evaluate_conversations(run, split, say, limit, own_history, told, None if quick else _forgetting)
    began = working_seconds()
    measured = Measured(run, split, task.rows(split)[:limit], say)
    measured.side(BASE)
    measured.side(TUNED)
    if not quick:
        measured.few_shot()
        measured.cheap_baselines()
    if constrained:
        for side in (BASE, TUNED):
            measured.side(side, fits=True)
    if checked:
        measured.checked()
    result = _result(measured, None if quick else _forgetting(run, measured.answerer, say), quick, working_seconds() - began)
    result.save(run.folder)
    write_report(run, result)
    write_card(run)
    return result


def _result(measured: Measured, forgetting: Forgetting | None, quick: bool, seconds: float) -> Evaluation:
    """All that was measured, as it is saved."""
    run, task, rows, texts = measured.run, measured.task, measured.rows, measured.texts
    tuned = Scores(task, rows, texts[TUNED])
    comparisons = {
        name: tuned.against(Scores(task, rows, texts[name]), model.judged_by)
        for name, model in measured.models.items()
        if name != TUNED
    }
    return Evaluation(
        run=run.name,
        task=task.name,
        kind=task.kind,
        split=measured.split,
        n=len(rows),
        of=len(task.rows(measured.split)),
        seed=run.profile.seed,
        versions=versions(),
        models=measured.models,
        comparisons=comparisons,
        few_shot=measured.chosen,
        general=forgetting,
        confusions=confusions(task, rows, texts[TUNED]),
        slices=slices(task, rows, tuned.rows),
        worst=worst(task, rows, texts[TUNED]),
        calibration=None if quick else calibration(measured.answerer, rows),
        seconds=round(seconds, 1),
    )


class Measured:
    """The models of one evaluation: their answers, and what these were worth and cost."""

    def __init__(self, run: Run, split: str, rows: Sequence[Row], say: Say):
        self.run, self.split, self.rows, self.say = run, split, rows, say
        self.task, self.profile = run.task, run.profile
        self.messages = [row[self.task.message] for row in rows]
        self.answerer = give_way_at_each_pass(Answerer.of_run(run))
        self.texts: dict[str, list[str]] = {}
        self.models: dict[str, ModelResult] = {}
        self.chosen: FewShot | None = None
        self.memory = weight_bytes(self.answerer.model) / 1e6

    def side(self, which: str, fits: bool = False) -> None:
        """Base or tuned, as the demo shows them; with `fits` under constrained decoding."""
        answerer = self.answerer
        name = f"{which}, constrained" if fits else which
        most = answerer.max_new_tokens * (ROOM if fits else 1)
        settings = self._settings(which, answerer.prompt("", which)) | {"constrained": fits, "most": most}
        vocabulary = answerer.model.config.vocab_size
        fitting = partial(SchemaProcessor, self.task, answerer.tokenizer, vocabulary=vocabulary) if fits else None

        def ask(messages: list[str]) -> list[str]:
            chats = [answerer.prompt(message, which) for message in messages]
            return answerer.complete(chats, which, max_new_tokens=most, fitting=fitting)

        about = ABOUT[which] + ("; only tokens that fit the schema" if fits else "")
        self._add(name, about, self._predict(name, settings, self.messages, ask))

    def checked(self) -> None:
        """Tuned, asked again by beam search where its answer lost something of the message; says how often."""
        name, task, answerer, asked = f"{TUNED}, checked", self.task, self.answerer, self.messages
        settings = self._settings(TUNED, answerer.prompt("", TUNED)) | deciding(task)
        answers = self._predict(name, settings, asked, lambda some: [a.text for a in answer_checked(answerer, some)])
        again = [look(task, *pair).faults > 0 for pair in zip(asked, self.texts[TUNED], strict=True)]
        counted = describe_checked([look(task, *of) for of in zip(asked, answers.texts, again, strict=True)])
        self.say(f"  {name}: {counted}")
        self._add(name, f"tuned, asked again where a rule finds something lost: {counted}", answers)

    def few_shot(self) -> None:
        """The base model, told the fields and shown training examples; their number is chosen on validation rows."""
        train, validation = self.task.rows("train"), self.task.rows("validation")

        def ask(k: int, messages: list[str], name: str = "") -> list[str]:
            shown = shots(self.task, train, k, self.profile.seed)

            def answers(some: list[str]) -> list[str]:
                chats = [chat_prompt(self.task, message, told=True, shots=shown) for message in some]
                return self.answerer.complete(chats, BASE)

            settings = self._settings(BASE, chat_prompt(self.task, "", told=True, shots=shown))
            self.last = self._predict(name or f"validation-{k}-shot", settings, messages, answers, plain=not name)
            return self.last.texts

        k, scores = choose_shots(self.task, validation, ask)
        self.chosen = FewShot(k=k, tried={str(n): value for n, value in scores.items()}, on=CHOSEN_ON)
        ask(k, self.messages, FEW_SHOT)
        self._add(FEW_SHOT, f"the untouched model, told the fields and shown {k} training examples", self.last)

    def cheap_baselines(self) -> None:
        """The most frequent answer; TF-IDF, and an encoder if it is installed, for closed fields."""
        train = self.task.rows("train")
        for name, make in CHEAP.items():
            baseline = make(self.task, train, self.rows)
            if baseline:
                self.texts[name] = baseline.texts
                self.models[name] = ModelResult(
                    about=baseline.about,
                    judged_by=list(baseline.metrics) if baseline.metrics else None,
                    scores=Scores(self.task, self.rows, baseline.texts).with_intervals(baseline.metrics),
                    seconds=round(baseline.seconds, 2),
                    seconds_per_message=baseline.seconds / len(self.rows),
                    training_seconds=round(baseline.training_seconds, 1),
                    memory_mb=round(baseline.memory_mb, 1),
                )

    def _settings(self, which: str, prompt: Any) -> dict[str, Any]:
        adapter = adapter_digest(self.run) if which == TUNED else None
        return {"model": self.profile.model, "adapter": adapter, "prompt": prompt, "most": self.answerer.max_new_tokens}

    def _predict(self, name: str, settings: dict[str, Any], messages: Sequence[str], ask: Any, plain: bool = False) -> Any:
        file = name if plain else f"{self.split}-{name.replace(', ', '-')}"
        return predict(self.run, file, settings, messages, ask, self.answerer.batch_size, self.say)

    def _add(self, name: str, about: str, answers: Predictions) -> None:
        self.texts[name] = answers.texts
        self.models[name] = ModelResult(
            about=about,
            judged_by=None,
            scores=Scores(self.task, self.rows, answers.texts).with_intervals(),
            seconds=round(answers.seconds, 1),
            seconds_per_message=answers.seconds / len(self.rows),
            messages_per_second=round(len(self.rows) / max(answers.seconds, 1e-9), 2),
            training_seconds=self.run.training.seconds if name.startswith(TUNED) else 0.0,
            memory_mb=round(self.memory),
        )


def _forgetting(run: Run, answerer: Answerer, say: Say) -> Forgetting:
    """The general check, kept in the run so that it is asked once, with base and tuned compared."""
    check = _general_check(run, answerer, say)
    base, tuned = (check.models[side] for side in (BASE, TUNED))
    statistics = [perplexity(side.log_probabilities, check.tokens) for side in (base, tuned)]
    kinds = [question.kind for question in check.questions]

    def right(side: GeneralAnswers, kind: str) -> int:
        return sum(yes for yes, own in zip(side.right, kinds, strict=True) if own == kind)

    return Forgetting(
        questions=compare_shares(base.right, tuned.right),
        by_kind={
            kind: KindOfQuestion(base=right(base, kind), tuned=right(tuned, kind), of=kinds.count(kind))
            for kind in dict.fromkeys(kinds)
        },
        perplexity=compare_scores(statistics[0], statistics[1], len(check.tokens)),
        replay=run.training.replay,
    )


def _general_check(run: Run, answerer: Answerer, say: Say) -> GeneralCheck:
    key = GeneralKey(questions=questions_digest(), adapter=adapter_digest(run))
    if General.exists(run.folder):
        try:
            kept = General.load(run.folder)
            if kept.key == key:
                return kept.check
        except KitError as error:
            say(f"  general check: asked again. {error}")
    check = general_check(answerer, Progress("general check", "done", say))
    General(key=key, check=check).save(run.folder)
    return check


def compare_runs(first: Run, second: Run, split: str = "test", say: Say = print, limit: int | None = None) -> RunsCompared:
    """Two runs' tuned models on the same messages, paired: each metric's difference is the second's minus the first's.

    Raises `KitError` if the runs are of different tasks.
    """
    task = second.task
    if first.task.folder.resolve() != task.folder.resolve():
        raise KitError(f"{first.name} is of the task {first.task.name}, {second.name} of {task.name}: nothing to compare.")
    if task.kind == "chat":
        return compare_chat_runs(first, second, split, say, limit)
    rows = task.rows(split)[:limit]
    scores = []
    for run in (first, second):
        measured = Measured(run, split, rows, say)
        measured.side(TUNED)
        scores.append(Scores(task, rows, measured.texts[TUNED]))
        del measured
    metrics = scores[1].against(scores[0])
    return RunsCompared(task=task.name, split=split, n=len(rows), runs=(first.name, second.name), metrics=metrics)


def answers_of(run: Run, result: Evaluation) -> dict[str, list[str]]:
    """Each model's answers to the rows of an evaluation, in their order: as kept, or made again where that is cheap.

    The models come from the cheapest to the tuned one. Raises `KitError` where answers are not kept any more.
    """
    task, answers = run.task, dict[str, list[str]]()
    rows = task.rows(result.split)[: result.n]
    for name in in_order(result.models):
        if name in CHEAP and (baseline := CHEAP[name](task, task.rows("train"), rows)):
            answers[name] = baseline.texts
            continue
        kept = read_answers(run, result.split, name)
        if missing := [row for row in rows if row[task.message] not in kept]:
            raise KitError(f"{run.name} has lost {len(missing)} answers of {name}. Measure again: ftkit evaluate {run.name}")
        answers[name] = [kept[row[task.message]] for row in rows]
    return answers
