"""The command line's `ftkit task`: make, check and clean the data of a task."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.common.console import say_next
from ftkit.common.errors import KitError
from ftkit.common.files import write_text
from ftkit.common.paths import expanded, folder_name_problem, runs_dir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftkit.common.errors import Finding
    from ftkit.data.clean import Cleaned
    from ftkit.data.formats.table import Table
    from ftkit.data.new_task import NewTask
    from ftkit.data.task import Kind, Task


MENDABLE = ("rows", "spelling", "contradictions", "duplicates", "leakage", "markup", "personal data")  # of them, some rows
app = typer.Typer(help="Make, check and clean the data of a task.", no_args_is_help=True)
ProfileOption = Annotated[
    str | None, typer.Option("--profile", "-p", help="cpu, ci, t4 or big; left out, chosen by hardware")
]
HeldOutOption = Annotated[
    float | None,
    typer.Option(
        min=0.01, max=0.4, help="share of validation and of test, each; left out, 0.1, but 20 rows at least, 1,000 at most"
    ),
]
HeaderOption = Annotated[bool | None, typer.Option(help="whether the first line names the columns; left out, looked for")]
PartOption = Annotated[
    str | None, typer.Option(help="a workbook's sheet, the key of a list in JSON, or a hub dataset's configuration")
]
TaskArgument = Annotated[
    str,
    typer.Argument(
        help="a task's folder, the name of one of the kit's, or a .jsonl file in one (checked as its training rows)"
    ),
]


def _opened(name: str) -> tuple[Task, Path | None]:
    """The task, and the file to take in the place of its training split."""
    from ftkit.data.task import load_task

    path = expanded(name)
    if path.suffix == ".jsonl":
        if not path.is_file():
            raise KitError(f"{path} is missing.")
        return load_task(path.parent, to_clean=True), path
    return load_task(name, to_clean=True), None


@app.command()
def check(
    task: TaskArgument = "desk",
    cases: Annotated[int, typer.Option(min=0, help="how many single cases to show for each finding")] = 5,
    page: Annotated[Path | None, typer.Option("--html", help="where to write the page with the plots")] = None,
    profile: ProfileOption = None,
) -> None:
    """Check a task's rows, a line for each kind of fault; exit code 1 for invalid rows or leakage between splits."""
    from ftkit.common.profiles import choose_profile
    from ftkit.data.check import check_task
    from ftkit.data.clean import CLEANING

    opened, train = _opened(task)
    findings, named = [], choose_profile(profile).profile if profile else lambda: choose_profile().profile
    for finding in check_task(opened, profile=named, train=train):
        print(finding, flush=True)
        _print_cases(finding, cases)
        findings.append(finding)
    _print_counts(findings)
    from ftkit.data.report import render_data_report

    name = opened.name if train is None else f"{opened.name}, {train.name}"
    page = page or runs_dir() / "checks" / f"{opened.folder.resolve().name}{'-' + train.stem if train else ''}.html"
    write_text(page, render_data_report(name, findings))
    print(f"With plots: {page}")
    stops = [finding.thing for finding in findings if finding.gate and not finding.ok]
    if stops:
        print(f"To be settled before training: {', '.join(stops)}.")
    mendable = [finding.thing for finding in findings if not finding.ok and finding.thing in MENDABLE]
    if not any(" = " in case for finding in findings if finding.thing == "duplicates" for case in finding.cases):
        mendable = [thing for thing in mendable if thing != "duplicates"]  # near copies are left for people
    if mendable and not (opened.folder / CLEANING).is_file():
        print(f"A rule can mend some of {', '.join(mendable)}: see first what it would change.")
        say_next("ftkit", "task", "clean", task, "--dry-run")
    elif not stops and train is None:
        say_next("ftkit", "train", task)
    raise typer.Exit(1 if stops else 0)


def _print_cases(finding: Finding, cases: int) -> None:
    for case in finding.cases[:cases]:
        print(f"         {case}")
    if len(finding.cases) > cases > 0:
        print(f"         ... and {len(finding.cases) - cases} more (--cases {len(finding.cases)})")


def _print_counts(findings: list[Finding]) -> None:
    """How often each value of the closed fields stands in each split, as a table."""
    from rich.console import Console
    from rich.table import Table

    for finding in findings:
        if finding.thing != "balance":
            continue
        counts = finding.numbers["counts"]
        grid = Table(title=f"rows by {finding.numbers['field']}", title_justify="left")
        grid.add_column("value")
        for split in counts:
            grid.add_column(split, justify="right")
        for value in list(dict.fromkeys(value for values in counts.values() for value in values))[:20]:
            grid.add_row(value, *(str(counts[split].get(value, 0)) for split in counts))
        Console().print(grid)


@app.command()
def clean(
    task: TaskArgument,
    to: Annotated[Path | None, typer.Option(help="the new folder")] = None,
    cases: Annotated[int, typer.Option(min=0, help="how many single repairs to show")] = 10,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STEP",
            help="leave a step out (repeat for more): markup, signature, personal-data, characters, spelling, copies, "
            "contradictions or leaks",
        ),
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="make one value another, in rows, task.toml and prompt"),
    ] = None,
    merge_spelling: Annotated[bool, typer.Option(help="merge all closed values that differ only in spelling")] = False,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="set rows aside with more tokens than this profile takes")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show every change, before and after; write nothing")] = False,
) -> None:
    """Apply the safe repairs and write the result to a new folder; the original stays as it is."""
    from ftkit.common.profiles import choose_profile
    from ftkit.data.clean import clean_task, token_limit, write_cleaned

    if (to is None) != dry_run:
        raise KitError("Say where the result goes, --to FOLDER, or look first: --dry-run.")
    if wrong := [pair for pair in merge or [] if "=" not in pair]:
        raise KitError(f"--merge {wrong[0]}: write OLD=NEW, the value and the one that it becomes.")
    opened, train = _opened(task)
    too_long = token_limit(choose_profile(profile).profile) if profile else None
    pairs = dict(pair.split("=", 1) for pair in merge or [])
    cleaned = clean_task(opened, train, without or (), pairs, merge_spelling, too_long)
    if to is not None:
        write_cleaned(opened, cleaned, to)
    _print_cleaned(cleaned, to, cases)
    if to is None:
        print("Nothing was written. With --to FOLDER in the place of --dry-run the changes are made.")
        say_next(
            "ftkit", "task", "clean", task, "--to", f"{opened.folder.name}-clean", *_as_told(without, merge, merge_spelling)
        )
    else:
        say_next("ftkit", "task", "check", to)


def _as_told(without: list[str] | None, merge: list[str] | None, merge_spelling: bool) -> list[str]:
    """The options of a dry run, as they are given again."""
    told = [part for step in without or [] for part in ("--without", step)]
    told += [part for pair in merge or [] for part in ("--merge", pair)]
    return told + ["--merge-spelling"] * merge_spelling


def _print_cleaned(cleaned: Cleaned, to: Path | None, cases: int) -> None:
    """What was changed and set aside: all of it, before and after, where nothing is written; else the first cases."""
    from ftkit.data.clean import short_diff

    print(*(f"task.toml: {remark}" for remark in cleaned.remarks), sep="\n", end="\n" if cleaned.remarks else "")
    for contact, n in cleaned.kept.items():
        print(f"{contact} stands in the answers of {n} conversations: taken as the house's own, and not masked")
    done = [(split, entry) for split, part in cleaned.items() for entry in part.log]
    for split, entry in done if to is None else done[:cases]:
        print(f"  {split}, line {entry['line']} ({entry['id']}): {'; '.join(entry['done'])}")
        if to is None:
            for key in entry["before"]:
                print(*(f"    {line}" for line in short_diff(entry["before"][key], entry["after"][key])), sep="\n")
    if to is not None and len(done) > cases:
        print(f"  ... and {len(done) - cases} more, each with before and after: {to / 'cleaning.jsonl'}")
    _count("", (re.split(r"[:'(]", what)[0] for _, entry in done for what in entry["done"]))
    rejected = [(split, entry) for split, part in cleaned.items() for entry in part.rejected]
    for split, entry in rejected if to is None else ():
        print(f"  {split}, line {entry['line']} ({entry['id']}) set aside: {entry['reason']}")
    _count(
        f"{len(rejected):,} row(s) set aside{f' in {to}/rejected.jsonl' if to else ''}",
        (re.sub(r"(equals) .*?( of the|,|$)", r"\1 another row\2", entry["reason"]) for _, entry in rejected),
    )
    for split, part in cleaned.items():
        print(f"{split}: {part.lines:,} rows in = {len(part.rows):,} out + {len(part.rejected):,} set aside")


def _count(head: str, reasons: Iterable[str]) -> None:
    """A line for each kind of reason with its number, the most frequent first; the rest as one number."""
    from collections import Counter

    if head:
        print(head)
    counts = Counter(" ".join(reason.split())[:150] for reason in reasons).most_common()
    for reason, count in counts[:8]:
        print(f"{count:6,} x {reason}")
    if len(counts) > 8:
        print(f"{sum(count for _, count in counts[8:]):6,} x for other reasons")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="the folder to make; its name becomes the task's")],
    source: Annotated[
        str,
        typer.Option("--from", help="a CSV, JSON, Parquet or Excel file, a folder of datasets, or a hub dataset's id"),
    ],
    message: Annotated[str | None, typer.Option(help="the column that the model reads")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="the column that it should answer; several make a JSON object")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="label, json, text or chat; left out, guessed")] = None,
    prompt: Annotated[str | None, typer.Option(help="the system prompt; left out, the file's or a plain one")] = None,
    shape: Annotated[str, typer.Option(help="what the rows are: auto, columns, messages or instructions")] = "auto",
    held_out: HeldOutOption = None,
    max_message_characters: Annotated[int, typer.Option(min=1, help="longer messages are set aside")] = 4000,
    max_turns: Annotated[int, typer.Option(min=2, help="longer conversations are set aside")] = 20,
    encoding: Annotated[str | None, typer.Option(help="of a text file; left out, looked for")] = None,
    delimiter: Annotated[str | None, typer.Option(help="of a CSV file; left out, looked for")] = None,
    header: HeaderOption = None,
    quotes: Annotated[bool, typer.Option(help="whether quotes in a CSV file hold a field together")] = True,
    part: PartOption = None,
    split: Annotated[str, typer.Option(help="of a hub dataset or a folder of datasets")] = "train",
    seed: Annotated[int, typer.Option(help="of the split")] = 17,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be made, and write nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask before writing")] = False,
) -> None:
    """Make a task folder of a file: what is guessed is said, bad rows are set aside with the reason, splits are made."""
    from ftkit.data.conversation.make import make_chat_task
    from ftkit.data.formats.read import read_table
    from ftkit.data.formats.table import Reading
    from ftkit.data.new_task import make_task, write_task

    folder, began = expanded(name), time.monotonic()
    told = _require_makeable(folder, kind, dry_run)
    table = read_table(source, Reading(encoding, delimiter, header, quotes, part, split))
    print(f"Read {len(table.rows):,} rows with the columns {', '.join(table.columns)}", flush=True)
    table, column, targets, own_prompt = _what_is_what(table, message, target or [], shape, kind)
    prompt = prompt or own_prompt
    if targets:
        print(f"message: {column}; target: {', '.join(targets)}. Checking the rows and splitting them ...", flush=True)
        made = make_task(name, table, column, targets, told, prompt, held_out, seed, max_message_characters)
    else:
        print("Checking the conversations and splitting them ...", flush=True)
        made = make_chat_task(name, table, prompt, held_out, seed, max_message_characters, max_turns)
    _print_new_task(made, table)
    if dry_run:
        print("Nothing was written (--dry-run).")
        return
    if sys.stdin and sys.stdin.isatty() and not yes and not typer.confirm("Write it?", default=True):
        print("Nothing was written.")
        raise typer.Exit(1)
    write_task(made, Path(source).name if Path(source).exists() else source, folder)
    _print_written(made, folder, time.monotonic() - began)


def _require_makeable(folder: Path, kind: str | None, dry_run: bool) -> Kind | None:
    """The kind, as one of those that there are. Raises `KitError` where no task of this name and kind can be made."""
    from ftkit.data.task import KINDS

    if folder.exists() and not dry_run:
        raise KitError(f"{folder} is there already. Choose another name, or remove it first.")
    if problem := folder_name_problem(folder.name):
        raise KitError(f"The task's name {folder.name!r} {problem}.")
    if kind is not None and kind not in KINDS:
        raise KitError(f"The kind {kind!r} is not one of {', '.join(KINDS)}.")
    return kind


def _print_written(made: NewTask, folder: Path, seconds: float) -> None:
    """Where the rows went, and what comes next."""
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in made.splits.items())
    if made.rejected:
        print(f"{len(made.rejected):,} row(s) set aside: {folder / 'rejected.jsonl'}")
    print(f"{folder}: {counts} ({seconds:.0f} s). Look at its task.toml.")
    say_next("ftkit", "task", "check", folder)


def _what_is_what(
    table: Table, message: str | None, targets: list[str], shape: str, kind: str | None
) -> tuple[Table, str, tuple[str, ...], str | None]:
    """(the table, its message column, its target columns, a system prompt of its own): as told, recognized, or guessed.

    Conversations of several turns have the column `messages` and no target.
    """
    from ftkit.data.columns import choose_columns
    from ftkit.data.formats.shapes import recognize

    prompt, chosen, said = None, tuple(targets), len(table.remarks)
    for remark in table.remarks:
        print(f"  {remark}", flush=True)
    if not (message or targets) and (recognized := recognize(table, shape, kind)):
        table, prompt = recognized
        message, *rest = table.columns
        chosen = tuple(rest)
    else:
        message, chosen = choose_columns(table, message, targets, _ask if sys.stdin and sys.stdin.isatty() else None)
    for remark in table.remarks[said:]:
        print(f"  {remark}")
    return table, message, chosen, prompt


def _print_new_task(made: NewTask, table: Table) -> None:
    from ftkit.data.new_task import preview

    for remark in made.remarks:
        print(f"  {remark}")
    for entry in made.rejected[:5]:
        print(f"  {table.unit} {entry['line']} set aside: {entry['reason'][:200]}")
    taken = sum(map(len, made.splits.values()))
    print(f"  {taken + len(made.rejected):,} rows = {taken:,} taken + {len(made.rejected):,} set aside")
    print(preview(made, _tokenizer()))


def _tokenizer() -> PreTrainedTokenizerBase | None:
    """The tokenizer of this machine's base model, if it is at hand; else the preview shows who says what, and no marks."""
    from ftkit.common.profiles import choose_profile
    from ftkit.models.find import find_model

    model = choose_profile(None).profile.model
    if find_model(model).kind not in ("folder", "cache"):
        return None
    from ftkit.models.tokenizer import load_tokenizer

    return load_tokenizer(model)


@app.command("export")
def export_rows(
    task: Annotated[str, typer.Argument(help="a task's folder, or the name of one of the kit's")],
    to: Annotated[Path, typer.Option(help="the new folder")],
    form: Annotated[str, typer.Option("--as", help="messages (OpenAI, JSONL), alpaca (JSON) or csv")] = "messages",
) -> None:
    """Write a task's rows for other tools: a file for each split."""
    from ftkit.data.formats.export import export_task
    from ftkit.data.task import load_task

    for path in export_task(load_task(task), form, to):
        print(path)


@app.command("add-feedback")
def add_feedback(
    task: Annotated[str, typer.Argument(help="a task's folder, or the name of one of the kit's")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="files of feedback, or runs that hold some")],
    to: Annotated[Path | None, typer.Option(help="the new folder to write")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="replace the task's own train.jsonl instead")] = False,
) -> None:
    """Make training rows of the demo's feedback, through the data gate; what is refused is listed with its reason."""
    from ftkit.data.task import load_task
    from ftkit.deployment.feedback import add_feedback as write
    from ftkit.deployment.feedback import feedback_files, rows_of_feedback

    if (to is None) != in_place:
        raise KitError("Say where the result goes: --to FOLDER for a new task folder, or --in-place.")
    opened = load_task(task)
    sources = [file for path in files for file in feedback_files(path)]
    added = rows_of_feedback(opened, sources)
    for entry in added.refused:
        print(f"  {entry['where']} refused: {entry['reason'][:300]}")
    print(f"{len(added.rows):,} row(s) to add, {len(added.refused):,} refused, from {len(sources)} file(s)", flush=True)
    path = write(opened, added, to)
    print(f"{path} has {len(added.rows):,} row(s) more.")
    if opened.kind == "chat":
        print("The answers before the corrected one stand in these rows as the model gave them, and are learned: read them.")


def _ask(what: str, columns: list[str]) -> str:
    import click

    return click.prompt(f"Which column is the {what}?", type=click.Choice(columns), err=True)
