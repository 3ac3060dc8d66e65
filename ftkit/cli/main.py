"""The command line: `ftkit --help`. Heavy modules are imported inside the commands."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit import __version__
from ftkit.cli.ends import DEBUG, Commands, ending_in_words, stoppable
from ftkit.cli.export import export
from ftkit.cli.named import open_named
from ftkit.cli.task import ProfileOption
from ftkit.cli.task import app as tasks_app
from ftkit.cli.verdict import trainable, verdict
from ftkit.common.console import Progress, say_next
from ftkit.common.errors import KitError
from ftkit.common.files import growing, json_lines, read_text
from ftkit.common.paths import load_app
from ftkit.common.profiles import MOST_REPLAY, Asked

if TYPE_CHECKING:
    from ftkit.deployment.beside import Beside
    from ftkit.evaluation.answer import Answerer
    from ftkit.evaluation.decoding.checked import Checked
    from ftkit.runs.documents import Evaluation
    from ftkit.runs.run import Run


app = typer.Typer(
    cls=Commands,
    help="Fine-tune a language model in 4-bit, measure it against its base, and show it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="base model: a folder or a hub name")]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="train from the start, even if a run could be continued or reused")
]
EpochsOption = Annotated[
    float | None, typer.Option(min=0.001, help="how often all rows are seen; left out, it follows the rows")
]
BatchOption = Annotated[
    int | None, typer.Option(min=1, help="examples a step; left out, the profile's, or fewer for few rows")
]
MinutesOption = Annotated[
    float | None, typer.Option(min=0.1, help="the time allowed on this machine; what it is enough for is said early on")
]
ReplayOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=MOST_REPLAY,
        help="rows of general talk mixed in, answered by the base, as a share of the task's; against forgetting",
    ),
]
RunArgument = Annotated[str | None, typer.Argument(help="a run's folder or name; left out, the newest finished one")]


def main() -> None:
    """Run the command line. It ends with 0 if all is well, 1 for findings, 2 for what cannot be done, 130 when stopped."""
    with ending_in_words():
        app(standalone_mode=True)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error (as FTKIT_DEBUG=1 does)")] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"  # the commands that this one starts get it as well
    if os.environ.get("FTKIT_BESIDE"):
        from ftkit.training.give_way import end_with_page

        end_with_page()
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def doctor(
    run: Annotated[str | None, typer.Argument(help="a run's folder or name; left out, this machine is checked")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="check a base model instead, a folder or a name: about a minute")
    ] = None,
) -> None:
    """Check this machine, a run, or a base model: one line for each thing that may be wrong, with its fix."""
    from ftkit.cli.doctor import examine, examine_run
    from ftkit.cli.model import examine_model

    if run and model:
        raise KitError("Give a run or --model, not both.")
    findings = []
    for finding in examine_model(model) if model else examine_run(run) if run else examine():
        print(finding, flush=True)
        findings.append(finding)
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="a task's folder, or the name of one of the kit's")] = "desk",
    profile: ProfileOption = None,
    model: ModelOption = None,
    fresh: FreshOption = False,
    epochs: EpochsOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="updates of the adapter, instead of epochs")] = None,
    batch: BatchOption = None,
    rate: Annotated[float | None, typer.Option(min=1e-9, help="learning rate at its highest")] = None,
    minutes: MinutesOption = None,
    length: Annotated[int | None, typer.Option(min=16, help="tokens of the longest row that is taken")] = None,
    keep_best: Annotated[
        bool, typer.Option("--keep-best", help="keep the adapter with the lowest validation loss, not the last")
    ] = False,
    replay: ReplayOption = None,
) -> None:
    """Fine-tune a model on a task. A training that was stopped is taken up where it was.

    Epochs, batch and learning rate follow the number of rows, their length, the model and the time allowed, unless they are
    asked for; what was chosen is said, and why.
    """
    changes = {key: value for key, value in (("model", model), ("max_length", length)) if value}
    run = _train(task, profile, changes, fresh, Asked(epochs, steps, batch, rate, minutes, keep_best, replay))
    if run.task.kind == "chat":
        say_next("ftkit", "evaluate", run.name)
    else:
        say_next("ftkit", "verdict", task)


def _train(task: str, profile: str | None, changes: dict[str, Any], fresh: bool, asked: Asked | None = None) -> Run:
    from dataclasses import replace

    from ftkit.common.profiles import choose_profile

    loaded, rows = trainable(task)
    choice = choose_profile(profile)
    choice = replace(choice, profile=choice.profile.with_changes(**changes))
    with stoppable("The same command, without --fresh (FRESH=1), continues from the last checkpoint."):
        from ftkit.training.finetune import train as run_training  # heavy: bad rows are named before

        return run_training(loaded, choice, fresh=fresh, rows=rows, asked=asked or Asked())


app.add_typer(tasks_app, name="task")
app.command()(export)
app.command()(verdict)


@app.command()
def plan(
    task: Annotated[str, typer.Argument(help="a task's folder, or the name of one of the kit's")] = "desk",
    profile: ProfileOption = None,
    model: ModelOption = None,
    batch: BatchOption = None,
    length: Annotated[
        int | None, typer.Option(min=8, help="tokens an example; left out, those of the task's rows, or the profile's limit")
    ] = None,
    epochs: EpochsOption = None,
    minutes: MinutesOption = None,
    replay: ReplayOption = None,
) -> None:
    """Predict memory and time of a training by full fine-tuning, LoRA and QLoRA; no weights are loaded."""
    from rich.console import Console

    from ftkit.common.profiles import choose_profile, settle_replay
    from ftkit.data.task import load_task
    from ftkit.training.budget import forecast
    from ftkit.training.plan import example_lengths, measure_matrix_rate, tabulate_plan
    from ftkit.training.replay.mix import planned_lengths
    from ftkit.training.schedule import follow_data

    if length and (epochs or minutes or replay):
        raise KitError("--epochs, --minutes and --replay need the number of a task's rows: leave out --length.")
    chosen = choose_profile(profile)
    wanted = chosen.profile.with_changes(**({"model": model} if model else {}))
    print(f"Profile {wanted.name}: {chosen.reason}.")
    if length:
        lengths, source = [length], f"examples of {length} tokens"
    else:
        loaded = load_task(task)
        wanted = settle_replay(wanted, loaded.replay, replay)
        lengths, source = planned_lengths(wanted, *example_lengths(loaded, wanted))
    settled = wanted.with_changes(**({"batch_size": batch} if batch else {}))
    if not length:
        schedule = follow_data(wanted, lengths, Asked(epochs=epochs, batch=batch, minutes=minutes))
        settled = schedule.profile
        print("\n".join(schedule.reasons))
    rate = measure_matrix_rate()
    if minutes:
        print(forecast(minutes, settled, lengths, rate))
    for part in tabulate_plan(settled, lengths, source, rate):
        Console().print(part)


SAVED_BATCHES = 4  # of answers, to messages of like length, that `generate` writes at once
CheckedOption = Annotated[
    bool, typer.Option("--checked", help="ask again where an answer lost something of its message, by the task's rules")
]
SplitOption = Annotated[str, typer.Option(help="test or validation")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="measure only the first N messages")]


@app.command()
def evaluate(
    run: RunArgument = None,
    split: SplitOption = "test",
    limit: LimitOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="base and tuned only: no baselines, no general check")] = False,
    constrained: Annotated[bool, typer.Option(help="also both under constrained decoding: what fits the schema")] = False,
    own_history: Annotated[
        bool, typer.Option("--own-history", help="of conversations: also both after their own answers to earlier turns")
    ] = False,
    checked: Annotated[bool, typer.Option("--checked", help="of texts: also tuned as `generate --checked` answers")] = False,
    told: Annotated[
        bool | None,
        typer.Option(
            "--told/--no-told",
            help="of conversations: both with the task's sheet in the prompt too; left out, base alone, unless --quick",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="of conversations and texts: an OpenAI-compatible server whose model compares tuned with base"),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="with --judge: the model, as the server calls it")] = None,
) -> None:
    """Measure base, baselines and tuned on the same held-out messages; a table, and a page with plots."""
    opened = open_named(run)
    kind = opened.task.kind
    if kind == "chat" and constrained:
        raise KitError(f"--constrained is for tasks of kind json, and {opened.task.name} holds conversations.")
    if kind != "chat" and (own_history or told):
        option = "--own-history" if own_history else "--told"
        raise KitError(f"{option} is for conversations, and {opened.task.name} is a task of kind {kind}.")
    ways = {"quick": quick, "constrained": constrained, "own_history": own_history, "told": told, "checked": checked}
    _evaluate(opened, split, limit, ways, judge, judge_model)


def _evaluate(
    run: Run, split: str, limit: int | None, ways: dict[str, Any], judge: str | None = None, model: str | None = None
) -> None:
    from rich.console import Console

    from ftkit.evaluation.judging.judge import add_judge, check_judge
    from ftkit.evaluation.measure import evaluate as run_evaluation
    from ftkit.evaluation.report import REPORT

    server = check_judge(run.task, judge, model)
    print(f"Evaluating {run.name}: every model on the same messages", flush=True)
    with stoppable("The answers so far are kept: the same command goes on with the others."):
        result = run_evaluation(run, split, limit=limit, **ways)
        result = add_judge(run, result, server) if server else result
    _show_evaluation(result)
    Console().print(f"With plots and the worst errors: {run.folder / REPORT}", soft_wrap=True)
    print(f"To take it elsewhere: {shlex.join(['ftkit', 'export', run.name, '--to', 'merged'])}")
    say_next("ftkit", "demo", run.name)


def _show_evaluation(result: Evaluation) -> None:
    from rich.console import Console

    from ftkit.evaluation.tables import describe_evaluation, evaluation_table, told_table

    for table in filter(None, (evaluation_table(result), told_table(result))):
        Console().print(table)
    for line in describe_evaluation(result):
        print(f"- {line}")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="a run's folder or name")],
    second: Annotated[str, typer.Argument(help="the other run")],
    split: SplitOption = "test",
    limit: LimitOption = None,
) -> None:
    """Compare two runs' tuned models on the same messages, with intervals."""
    from rich.console import Console

    from ftkit.evaluation.measure import compare_runs
    from ftkit.evaluation.tables import comparison_table
    from ftkit.runs.run import open_run

    compared = compare_runs(open_run(first), open_run(second), split, limit=limit)
    Console().print(comparison_table(compared))


@app.command()
def general(
    run: RunArgument = None,
    lm_eval: Annotated[
        str | None,
        typer.Option(
            "--lm-eval",
            help="experimental: public benchmarks by lm-eval instead, names with commas between",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="with --lm-eval: only the first N examples of each task")] = None,
) -> None:
    """Ask base and tuned general questions: what the training cost elsewhere."""
    from ftkit.common.files import write_json
    from ftkit.evaluation import forgetting as elsewhere

    opened = open_named(run)
    if not lm_eval:
        if limit:
            raise KitError("--limit goes with --lm-eval.")
        check = elsewhere.general_check(_answerer(opened), Progress(verb="done", say=_say_aside))
        print("\n".join([*elsewhere.describe_check(check), opened.describe_replay()]))
        return
    elsewhere.need_lm_eval()
    scores = elsewhere.lm_eval(_answerer(opened), [name.strip() for name in lm_eval.split(",")], limit)
    write_json(opened.folder / "lm_eval.json", scores)
    print(json.dumps(scores, indent=2))


@app.command()
def generate(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN] [MESSAGE]", help="one message, if you like after a run; with --input only a run"),
    ] = None,
    input: Annotated[
        Path | None, typer.Option(help="JSONL file with a `message` in each row, or `messages` that end on the user's turn")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSONL file to write: the rows with a `prediction` added")] = None,
    base: Annotated[bool, typer.Option("--base", help="let the untouched model answer")] = False,
    checked: CheckedOption = False,
) -> None:
    """Answer one message, or every message of a file."""
    from ftkit.evaluation.answer import BASE, TUNED
    from ftkit.evaluation.decoding.checked import Checked, describe_checked, need_rules

    words = list(what or [])
    if (input is None) != (output is None):
        raise KitError("--input and --output go together.")
    message = words.pop() if words and input is None else None
    if len(words) > 1 or (message is None and input is None):
        raise KitError(
            'Give one message in quotes ("..."), if you like after a run; or --input FILE.jsonl --output FILE.jsonl.'
        )
    opened = open_named(words[0] if words else None)
    which, answers = BASE if base else TUNED, list[Checked]()
    if checked:
        need_rules(opened.task)
    if message is not None or input is None or output is None:
        opened.task.check_message(message)
        (answer,) = _ask(_answerer(opened), [message], which, checked)
        print(answer.text)
        if checked:
            _say_aside(answer.in_words())
        return
    rows, key = _read_messages(input, opened)
    with stoppable(f"What was answered so far, if anything, is in {output}.part."), growing(output) as add:
        answerer, progress = _answerer(opened), Progress(say=_say_aside)
        for start in range(0, len(rows), some := SAVED_BATCHES * answerer.batch_size):
            these = rows[start : start + some]
            answers += _ask(answerer, [row[key] for row in these], which, checked)
            for row, answer in zip(these, answers[start:], strict=True):
                more = {"asked_again": answer.again, "not_kept": answer.lost} if checked else {}
                add({**row, "prediction": answer.text, **more})
            progress(start + len(these), len(rows))
    print(f"{len(rows):,} predictions in {output}")
    if checked:
        print(f"{describe_checked(answers)}: see asked_again and not_kept in each row.")


def _ask(answerer: Answerer, messages: list, which: str, checked: bool) -> list[Checked]:
    """Answers to messages; without `checked` nothing is asked again, and no rule has looked at them."""
    from ftkit.evaluation.decoding.checked import Checked, answer_checked

    if checked:
        return answer_checked(answerer, messages, which)
    return [Checked(text, False, ()) for text in answerer.answer(messages, which)]


def _say_aside(line: str) -> None:
    """What is not the command's result goes to standard error."""
    print(line, file=sys.stderr, flush=True)


def _answerer(run: Run) -> Answerer:
    from ftkit.evaluation.answer import Answerer

    return Answerer.of_run(run)


def _read_messages(path: Path, run: Run) -> tuple[list[dict], str]:
    """Rows of a file of messages, or of conversations, each checked before the model is loaded; and the key of these."""
    rows, task = [], run.task
    key = task.message if task.kind == "chat" else "message"
    for number, _, row, fault in json_lines(read_text(path)):
        where = f"{path}, line {number}"
        if fault:
            raise KitError(f"{where}: {fault}.")
        if not isinstance(row, dict) or key not in row:
            raise KitError(f"{where}, field {key!r}: it is missing.")
        task.check_message(row[key], f"{where}, field {key!r}")
        rows.append(row)
    if not rows:
        raise KitError(f"{path} is empty: it needs one JSON object a line with {key!r}.")
    return rows, key


@app.command()
def demo(
    run: RunArgument = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="where there is no finished run, train and evaluate one beside the page")
    ] = False,
    fresh: FreshOption = False,
    share: Annotated[bool, typer.Option("--share", help="also make a public link (needs a network)")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="the port to serve on, or the next free one")] = 7860,
    profile: ProfileOption = None,
    minutes: MinutesOption = None,
    auth: Annotated[
        str | None,
        typer.Option(
            envvar="FTKIT_DEMO_AUTH",
            help="USER:PASSWORD that visitors must give; as the variable it does not show in the list of processes",
        ),
    ] = None,
) -> None:
    """Show a run in the browser: the same message, or conversation, before and after fine-tuning."""
    user, _, password = (auth or "").partition(":")
    if auth and not (user and password):
        raise KitError("--auth takes USER:PASSWORD, neither part empty.")
    prepared = run is None and (prepare or fresh)
    opened, beside = _open_or_train(profile, fresh, minutes) if prepared else (open_named(run), None)
    if beside:
        beside.after = _show_measured
    elif prepare and not opened.is_evaluated:
        rows = opened.profile.demo_test_rows
        if code := _in_own_process(
            ["evaluate", str(opened.folder), "--quick", *(["--limit", str(rows)] if rows > 0 else [])]
        ):
            raise typer.Exit(code)
    elif opened.is_evaluated:
        _show_measured(opened)
    _serve(opened, port, share, (user, password) if auth else None, beside)


def _show_measured(run: Run) -> None:
    from ftkit.evaluation.saved_answers import load_evaluation

    _show_evaluation(load_evaluation(run))


def _open_or_train(profile: str | None, fresh: bool, minutes: float | None = None) -> tuple[Run, Beside | None]:
    """The run of the desk that the demo opens with, and what runs beside it.

    That is the newest finished run with this profile, measured beside the page if it is not yet. If there is none, or if it
    should be `fresh`, one is trained and measured beside the page, which opens with the kit's own meanwhile.
    """
    from ftkit.common.profiles import choose_profile
    from ftkit.data.task import load_task
    from ftkit.deployment.beside import Beside
    from ftkit.runs.run import finished_run, reference_run

    task, wanted = load_task("desk"), choose_profile(profile).profile
    ready = None if fresh else finished_run(task, wanted)
    if ready and ready.is_evaluated:
        return ready, None
    if ready:
        return ready, Beside(task, rows=wanted.demo_test_rows, run=ready)
    arguments = ["desk", *(["--profile", profile] if profile else []), *(["--fresh"] if fresh else [])]
    arguments += ["--minutes", str(minutes)] if minutes else []
    if reference := reference_run():
        print("The page opens with the kit's own model. Yours is trained beside it.", flush=True)
        return reference, Beside(task, arguments, wanted.demo_test_rows)
    # in a process of its own: its memory and threads are gone before the demo starts
    if code := _in_own_process(["train", *arguments]):
        raise typer.Exit(code)
    return finished_run(task, wanted) or open_named(None), None  # one taken up again may be older than others


@app.command()
def progress() -> None:
    """Show which exercises and quiz questions of the course are solved."""
    from rich.console import Console
    from rich.table import Table

    from ftkit.course.content import progress_rows
    from ftkit.course.progress import progress_file

    grid = Table(title="Your progress", title_justify="left")
    for heading in ("lesson", "exercises solved", "tried", "hints", "solutions seen", "quiz right"):
        grid.add_column(heading, justify="left" if heading == "lesson" else "right")
    for row in progress_rows():
        done, right = f"{row['solved']} of {row['exercises']}", f"{row['right']} of {row['questions']}"
        grid.add_row(row["lesson"], done, str(row["tried"]), str(row["hints"]), str(row["solutions seen"]), right)
    Console().print(grid)
    print(f"Kept in {progress_file()}")


def _in_own_process(arguments: list[str]) -> int:
    """Run another command of the kit and return its exit code; at Ctrl+C, which both get, it may still say why it stops."""
    process = subprocess.Popen([sys.executable, "-m", "ftkit.cli", *arguments])
    try:
        return process.wait()
    except KeyboardInterrupt:
        return process.wait()


def _serve(run: Run, port: int, share: bool, auth: tuple[str, str] | None = None, beside: Beside | None = None) -> None:
    from ftkit.deployment.gatekeeper import free_port

    free = free_port(port)
    if free != port:
        print(f"Port {port} is busy; taking {free}.", flush=True)
    print(f"Loading {run.name} ...", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    load_app("demo").launch(run, free, share, auth=auth, beside=beside)


if __name__ == "__main__":
    main()
