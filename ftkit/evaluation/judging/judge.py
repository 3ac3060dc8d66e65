"""A judge's verdicts: held against a reader's first, then on the tuned model's answers beside the base's (lesson 06)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ftkit.common.console import Say
from ftkit.common.errors import KitError
from ftkit.common.files import digest, dump, json_lines, read_text
from ftkit.common.paths import kit_root
from ftkit.data.conversation.rows import exchanges
from ftkit.data.conversation.told import has_sheet, read_sheet
from ftkit.data.prompt import chat_prompt
from ftkit.data.task import Task, load_task
from ftkit.evaluation.answer import BASE, TUNED
from ftkit.evaluation.intervals import compare_scores, wilson_interval
from ftkit.evaluation.judging.pairs import ASK, FIRST, RULES, SECOND, TIE, Outcome, Pair, count_places, outcome, question
from ftkit.evaluation.judging.server import NoJudge, Server
from ftkit.evaluation.judging.words import describe_agreement
from ftkit.evaluation.metrics import Statistic
from ftkit.evaluation.report import write_report
from ftkit.evaluation.saved_answers import predict, read_answers
from ftkit.evaluation.tables import TOLD
from ftkit.runs.card import write_card
from ftkit.runs.documents import Comparison, Evaluation, JudgeAgreement, Judged, JudgedAgainst
from ftkit.runs.run import Run

VERDICTS = "verdicts.jsonl"  # of a task: pairs of answers with a reader's verdict
KIT_VERDICTS = "host"  # the kit's task whose pairs are judged where a task has none of its own
OTHERS = (BASE, f"{BASE}{TOLD}")
AT_ONCE = 10  # replies that are saved together


def check_judge(task: Task, url: str | None, model: str | None) -> Server | None:
    """The server that two options name; None without them. Raises `KitError` where they do not fit together or the task."""
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise KitError("--judge URL and --judge-model NAME go together.")
    if task.kind not in ("chat", "text"):
        raise KitError(f"--judge is for conversations and texts, and {task.name} is a task of kind {task.kind}.")
    return Server(url, model)


def add_judge(run: Run, result: Evaluation, server: Server, say: Say = print) -> Evaluation:
    """Let a judge compare the answers of an evaluation, and save its verdicts in it; without a judge it stays as it is.

    The judge's agreement with a reader is said before anything else is asked. A server that is down, too slow or speaks
    another protocol is one line, and the judge is left out. Replies are kept in the run: the same command goes on.
    """
    if not server.is_here:
        say(f"  judge: conversations and answers are sent to {server.address}")
    try:
        judged = _judge(run, result, server, say)
    except NoJudge as error:
        say(f"{error} It is left out; what it said is kept, and the same command goes on.")
        return result
    result = result.model_copy(update={"judge": judged})
    result.save(run.folder)
    write_report(run, result)
    write_card(run)
    return result


def _judge(run: Run, result: Evaluation, server: Server, say: Say) -> Judged:
    agreement = _agreement(run, server, say)
    say(describe_agreement(server.model, agreement))
    known = read_sheet(run.task) if has_sheet(run.task, say) else ""
    against = {}
    for other in OTHERS:
        if other in result.models:
            pairs = answer_pairs(run, result, other)
            name = f"{result.split}-judge-{other.replace(', ', '-')}"
            outcomes = ask_judge(run, name, pairs, known, server, say)
            against[other] = summarize(pairs, outcomes)
    return Judged(server=server.address, model=server.model, agreement=agreement, against=against)


def answer_pairs(run: Run, result: Evaluation, other: str) -> list[Pair]:
    """Another model's answers (`first`) and the tuned model's (`second`) to the same rows, as the run keeps them."""
    task = run.task
    parts = exchanges(task, task.rows(result.split)[: result.n])
    keys = [dump(task.asked(part)) if task.kind == "chat" else task.asked(part) for part in parts]
    texts = [read_answers(run, result.split, name) for name in (other, TUNED)]
    if any(key not in kept for kept in texts for key in keys):
        raise KitError(f"{run.name} has lost answers. Measure again: ftkit evaluate {run.name}")
    right = [task.answered(part) if task.kind == "text" else "" for part in parts]  # a chat has no single right answer
    groups = [part.get("conversation", place) for place, part in enumerate(parts)]
    return [
        Pair(group, chat_prompt(task, task.asked(part)), texts[0][key], texts[1][key], shown)
        for group, part, key, shown in zip(groups, parts, keys, right, strict=True)
    ]


def ask_judge(run: Run, name: str, pairs: Sequence[Pair], known: str, server: Server, say: Say) -> list[Outcome]:
    """The judge's verdict on each pair, asked in both orders; its replies are kept in the run as `predictions/NAME.jsonl`.

    Two answers with the same text are a tie, without a question.
    """
    asked = [(n, pair) for n, pair in enumerate(pairs) if pair.first != pair.second]
    keys = {(n, swapped): _key(pair, swapped) for n, pair in asked for swapped in (False, True)}
    chats = {keys[n, swapped]: question(pair, known, swapped) for n, pair in asked for swapped in (False, True)}
    settings = {"server": server.address, "model": server.model, "rules": digest(f"{RULES}\n{ASK}\n{known}".encode())}
    wanted = list(dict.fromkeys(keys.values()))
    replies: dict[str, str] = {}
    if wanted:

        def ask(some: list[str]) -> list[str]:
            return [server.reply(chats[key]) for key in some]

        made = predict(run, name, settings, wanted, ask, AT_ONCE, say)
        replies = dict(zip(wanted, made.texts, strict=True))
    both = {n: outcome(replies[keys[n, False]], replies[keys[n, True]]) for n, _ in asked}
    return [both.get(n, Outcome(TIE)) for n in range(len(pairs))]


def _key(pair: Pair, swapped: bool) -> str:
    a, b = (pair.second, pair.first) if swapped else (pair.first, pair.second)
    return dump({"turns": pair.turns, "a": a, "b": b, "right": pair.right})


def summarize(pairs: Sequence[Pair], outcomes: Sequence[Outcome]) -> JudgedAgainst:
    """A judge's verdicts on pairs whose second answer is the tuned model's."""
    verdicts = Counter(one.verdict for one in outcomes)
    groups = sorted({pair.group for pair in pairs})
    sums = np.zeros((3, len(groups)))  # the other preferred, tuned preferred, all
    for pair, one in zip(pairs, outcomes, strict=True):
        place = groups.index(pair.group)
        sums[:, place] += (one.verdict == FIRST, one.verdict == SECOND, 1)

    def share(row: int) -> Statistic:
        return lambda index: sums[row][index].sum(axis=-1) / sums[2][index].sum(axis=-1)

    each = np.arange(len(groups))[:, None]
    theirs, ours = share(0), share(1)
    preferred: Comparison = compare_scores(theirs, ours, len(groups), (theirs(each).tolist(), ours(each).tolist()))
    return JudgedAgainst(
        n=len(pairs),
        same=sum(pair.first == pair.second for pair in pairs),
        better=verdicts[SECOND],
        worse=verdicts[FIRST],
        ties=verdicts[TIE],
        unreadable=verdicts[None],
        preferred=preferred,
        **count_places(outcomes),
    )


def _agreement(run: Run, server: Server, say: Say) -> JudgeAgreement | None:
    """The judge held against the reader's verdicts: the task's own, or else those of the kit's host."""
    task = run.task
    if not (task.folder / VERDICTS).is_file():
        try:
            task = load_task(kit_root() / "data" / KIT_VERDICTS)
        except KitError:
            return None
        if not (task.folder / VERDICTS).is_file():  # in a Space or the like
            return None
    rows = read_verdicts(task)
    known = read_sheet(task) if has_sheet(task, say) else ""
    pairs = [Pair(n, chat_prompt(task, row[_asked(task)]), row["first"], row["second"]) for n, row in enumerate(rows)]
    outcomes = ask_judge(run, f"judge-reader-{task.name}", pairs, known, server, say)
    return agreement(task.name, rows, outcomes)


def agreement(name: str, rows: Sequence[dict[str, Any]], outcomes: Sequence[Outcome]) -> JudgeAgreement:
    """How far verdicts agree with a reader's: share with Wilson's interval, and Cohen's kappa (scikit-learn)."""
    from sklearn.metrics import cohen_kappa_score

    read, given = [row["verdict"] for row in rows], [one.verdict or "unreadable" for one in outcomes]
    agree, n = sum(a == b for a, b in zip(read, given, strict=True)), len(rows)
    sides = Counter(row.get(f"{row['verdict']}_by", TIE) for row in rows)  # the model whose answer was better
    constant = max(*sides.values(), *Counter(read).values()) / n
    interval, labels = wilson_interval(agree, n), sorted({*read, *given})
    kappa = float(cohen_kappa_score(read, given, labels=labels)) if len(labels) > 1 else 0.0  # one label: nothing to tell
    return JudgeAgreement(
        task=name,
        n=n,
        agree=agree,
        interval=interval,
        kappa=kappa,
        constant=constant,
        unreadable=given.count("unreadable"),
        believed=interval[0] > constant,
        **count_places(outcomes),
    )


def _asked(task: Task) -> str:
    """Under which key a verdict has what was asked."""
    return "messages" if task.kind == "chat" else "message"


def read_verdicts(task: Task) -> list[dict[str, Any]]:
    """A reader's verdicts on pairs of answers, checked. Raises `KitError` naming file, line and what is wrong."""
    path, rows, asked = task.folder / VERDICTS, [], _asked(task)
    texts = ("first", "second", "first_by", "second_by", "reason")
    for number, _, row, fault in json_lines(read_text(path)):
        if not fault and not isinstance(row, dict):
            fault = "the line must be a JSON object"
        if not fault and not all(isinstance(row.get(key), str) for key in texts):
            fault = f"it should have {', '.join(texts)}, each a text"
        if not fault and row.get("verdict") not in (FIRST, SECOND, TIE):
            fault = f"verdict {json.dumps(row.get('verdict'))} is not one of {FIRST}, {SECOND}, {TIE}"
        if not fault and (reason := task.message_problem(row.get(asked))):
            fault = f"{asked}: {reason}"
        if fault:
            raise KitError(f"{path}, line {number}: {fault}.")
        rows.append(row)
    if not rows:
        raise KitError(f"{path} is empty: it needs one pair of answers a line.")
    return rows
