"""The verdict: every contender on the same rows, compared with the best, and what the rule makes of it (lesson 04)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ftkit.common.console import Say
from ftkit.common.errors import KitError
from ftkit.common.machine import describe_machine, versions
from ftkit.common.paths import kit_root, runs_dir
from ftkit.common.profiles import Asked, Choice
from ftkit.data.task import Row, Task
from ftkit.evaluation.intervals import rows_to_tell_apart, seeds_interval
from ftkit.evaluation.scores import Scores
from ftkit.evaluation.verdict.contenders import TRAINING, Job, Pace, cheap, run_cheap, run_language
from ftkit.evaluation.verdict.page import write_page
from ftkit.evaluation.verdict.rule import BASE, FEW_SHOT, MAJORITY, NEAREST, QLORA, SIMPLEST_FIRST, decide
from ftkit.models.encoder import Encoder
from ftkit.runs.documents import Contender, Cost, CurvePoint, Doubling, Machine, Question, Standing, Verdict
from ftkit.runs.run import REFERENCE, Run, all_runs, reference_run

WRITERS = (MAJORITY, NEAREST, BASE, FEW_SHOT, QLORA)  # who can give a whole answer
ALL_CLOSED = "all closed fields"


def verdict(
    task: Task, choice: Choice, run: Run | None = None, limit: int | None = None, quick: bool = False, say: Say = print,
    without: Collection[str] = (),
) -> tuple[Verdict, Path]:  # fmt: skip
    """Measure all contenders on the test rows, and save the verdict and its page; both are returned, the page as its path.

    `run` left out is the newest finished run of this task and data, else one is trained with `choice`. `limit` takes only
    the first so many test rows. `quick` leaves out what needs the language model, `without` those that it names. Each
    contender's result is kept in `verdict_folder(task)`: an interrupted verdict goes on, a second one takes seconds.
    """
    train, rows = task.rows("train"), task.rows("test")[:limit]
    if run and run.record.task.fingerprint != task.fingerprint():
        raise KitError(
            f"{run.name} was trained on other data than {task.folder} holds now. Leave --run out, or train again."
        )
    if len(rows) < 2:
        raise KitError("A verdict needs at least 2 test rows, and says something from about 100 on.")
    if unknown := [name for name in without if name not in SIMPLEST_FIRST]:
        raise KitError(f"There is no contender {', '.join(map(repr, unknown))}; there are {', '.join(SIMPLEST_FIRST)}.")
    job = Job(task, train, rows, verdict_folder(task), Encoder.load(), say)
    makers, left_out = cheap(job)
    left_out |= dict.fromkeys(without, "as told")
    makers = {name: make for name, make in makers.items() if name not in without}
    spoken = () if quick else tuple(name for name in (QLORA, BASE, FEW_SHOT) if name not in without)
    results: dict[str, Contender] = {}
    if quick:
        left_out |= dict.fromkeys((BASE, FEW_SHOT, QLORA), "they need the language model, which --quick leaves out")
    run = None if quick else run or run_of(task, choice)
    pace = Pace([*makers, *(() if run or quick else (TRAINING,)), *spoken], job)
    for why in dict.fromkeys(left_out.values()):
        say(f"Left out: {' and '.join(name for name, own in left_out.items() if own == why)}: {why}.")
    pace.announce()
    for name, make in makers.items():
        results[name] = run_cheap(job, name, make, pace)
        pace(name)
    for name, contender in _language(job, choice, run, pace, spoken) if spoken else ():
        results[name] = contender
        pace(name)
    result = judge(job, results, left_out)
    result.save(job.folder)
    return result, write_page(job.folder, result)


def verdict_folder(task: Task) -> Path:
    """Where a task's verdict and its contenders' results lie; other data have another folder."""
    return runs_dir() / "verdicts" / f"{task.folder.resolve().name}-{task.fingerprint()[:8]}"


def run_of(task: Task, choice: Choice) -> Run | None:
    """The newest finished run on the same data, the kit's own last; None if there is none.

    Runs of the profile `ci` learn next to nothing: they count only where `choice` is that profile.
    """
    wanted = task.fingerprint()
    runs = [run for run in all_runs() if run.finished and not run.is_reference]
    if task.folder.parent == kit_root() / "data":
        runs += filter(None, map(reference_run, (REFERENCE, f"{REFERENCE}-{task.folder.name}")))
    fitting = (run for run in runs if run.record.task.fingerprint == wanted)
    return next((run for run in fitting if choice.profile.name == "ci" or run.profile.name != "ci"), None)


def _language(
    job: Job, choice: Choice, run: Run | None, pace: Pace, names: Sequence[str]
) -> Iterator[tuple[str, Contender]]:
    """The contenders with the language model; without a finished run one is trained first."""
    from ftkit.training.finetune import train

    if run:
        job.say(f"QLoRA: taking the finished run {run.name}, profile {run.profile.name}")
        yield from run_language(job, run, False, names)
        return
    job.say("There is no finished run of this task: QLoRA is trained now.")
    run = train(job.task, choice, say=job.say, asked=Asked())
    pace(TRAINING)
    yield from run_language(job, run, True, names)


def judge(job: Job, results: Mapping[str, Contender], left_out: dict[str, str]) -> Verdict:
    """All contenders' answers and costs as a verdict."""
    ordered = {name: results[name] for name in SIMPLEST_FIRST if name in results}
    questions = [_ask(job, ordered, *each) for each in questions_of(job.task, job.closed)]
    machine = describe_machine()
    return Verdict(
        task=job.task.name,
        kind=job.task.kind,
        fingerprint=job.task.fingerprint(),
        n=len(job.rows),
        of=len(job.task.rows("test")),
        train_rows=len(job.train),
        versions=versions(),
        machine=Machine(system=machine["system"], processor=f"{machine['cpu']}, {machine['cores']} cores"),
        costs={name: Cost(**{key: getattr(own, key) for key in Cost.model_fields}) for name, own in ordered.items()},
        left_out=left_out,
        questions=questions,
        advice=" ".join(
            question.advice.text if len(questions) == 1 else f"For {question.name}: {question.advice.text}"
            for question in questions
        ),
    )


def questions_of(task: Task, closed: Sequence[str]) -> list[tuple[str, str, Sequence[str]]]:
    """What is judged: (name, metric, who takes part). Closed fields by all, whole answers by those who can write them."""
    if task.kind == "label":
        return [("the label", "exact match", SIMPLEST_FIRST)]
    if task.kind == "text":
        return [("the text", "chrF", WRITERS)]
    asked: list[tuple[str, str, Sequence[str]]] = []
    if len(closed) < len(task.fields):
        asked.append(("the whole answer", "exact match", WRITERS))
    if closed:
        asked.append((f"{' and '.join(closed)} alone", ALL_CLOSED, SIMPLEST_FIRST))
    return asked


def _ask(job: Job, results: Mapping[str, Contender], name: str, metric: str, who: Sequence[str]) -> Question:
    """One question: each contender's score, its distance from the best, and its learning curve."""
    taking_part = {one: own for one, own in results.items() if one in who}
    scores = {one: score(job.task, job.rows, own.texts, job.closed) for one, own in taking_part.items()}
    best = max(scores, key=lambda one: float(np.mean(scores[one].rows[metric])))  # of equals the first, the simplest
    curves = {one: _curve(job, own, metric) for one, own in taking_part.items() if own.draws}
    standings = {one: _standing(own, scores[best] if one != best else None, metric) for one, own in scores.items()}
    doublings = {one: doubling for one, (_, doubling) in curves.items()}
    return Question(
        name=name,
        metric=metric,
        standings=standings,
        best=best,
        curves={one: points for one, (points, _) in curves.items()},
        doublings=doublings,
        advice=decide(standings, best, doublings, len(job.rows)),
    )


def score(task: Task, rows: Sequence[Row], texts: Sequence[str], closed: Sequence[str]) -> Scores:
    """A contender's scores; for a `json` task also whether a row has all closed fields right."""
    scores = Scores(task, rows, texts)
    if task.kind == "json" and closed:
        scores.rows[ALL_CLOSED] = [all(values) for values in zip(*(scores.rows[f] for f in closed), strict=True)]
    return scores


def _standing(own: Scores, best: Scores | None, metric: str) -> Standing:
    others = [other for other in own.metrics() if other not in (metric, "valid JSON", "fits the task", ALL_CLOSED)]
    behind = best.against(own, [metric])[metric] if best else None
    return Standing(
        score=own.with_intervals([metric])[metric],
        fields={other: float(own.statistic(other)(np.arange(own.n))) for other in others},
        behind=behind,
        rows_needed=rows_to_tell_apart(own.rows[metric], best.rows[metric]) if best else None,
    )


def _curve(job: Job, own: Contender, metric: str) -> tuple[list[CurvePoint], Doubling]:
    """A contender's scores after parts of the rows, and what the last doubling gave, paired over rows and draws."""

    def right(texts: Sequence[str]) -> Any:
        return np.asarray(score(job.task, job.rows, texts, job.closed).rows[metric], dtype=float)

    everything = right(own.texts)
    by_rows: dict[int, list[Any]] = {}
    for draw in own.draws:
        by_rows.setdefault(draw.rows, []).append(right(draw.texts))
    points = [CurvePoint(rows=n, draws=len(own), score=float(np.mean(own))) for n, own in sorted(by_rows.items())]
    half = max(by_rows)
    gain, interval = seeds_interval(everything - np.array(by_rows[half]))
    points.append(CurvePoint(rows=len(job.train), draws=1, score=float(everything.mean())))
    return points, Doubling(rows=(half, len(job.train)), gain=gain, interval=interval)
