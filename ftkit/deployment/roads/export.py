"""Exporting: every road out of a run, each proved against the tuned model before its folder appears (lesson 05)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from ftkit.common.console import Say
from ftkit.common.errors import KitError
from ftkit.common.files import new_folder, size_mb
from ftkit.common.memory import free_memory
from ftkit.common.paths import expanded
from ftkit.deployment.merge import load_folder
from ftkit.deployment.proof import Talk, agreement, answering, longest_talks, talk_on, timed, turns_agree
from ftkit.deployment.roads.adapter import _load_adapter_folder, _write_adapter
from ftkit.deployment.roads.gguf import _load_gguf, _write_gguf
from ftkit.deployment.roads.merged import _write_merged, export_folder
from ftkit.deployment.roads.ollama import _write_ollama
from ftkit.deployment.roads.server import _write_server
from ftkit.deployment.space import load_space, write_space
from ftkit.evaluation.answer import Loaded, load_tuned
from ftkit.models.adapter import check_adapter
from ftkit.runs import guards
from ftkit.runs.documents import Agreement, ExportRecord, TurnsAgree
from ftkit.runs.run import Run, adapter_digest

MESSAGES = 20  # of the test split, to compare an export with the tuned model
DOUBTFUL = 0.9  # share of same answers below which the reader is asked to look


@dataclass(frozen=True)
class Road:
    """One way out: what it gives, how its folder is filled, and how the model in that folder is loaded again."""

    about: str
    write: Callable[[Run, Path], None]
    load: Callable[[Run, Path], Loaded]


def export(run: Run, to: str, folder: Path | None = None, verify: bool = True, say: Say = print) -> ExportRecord:
    """Write one export of a finished run and prove it; returns the record that is saved in its folder.

    `folder` is where (left out: `exports/NAME` in the run) and must not be there yet; it appears complete or not at all.
    With `verify` the model in it is loaded afresh and answers some test messages, which the tuned model answers too.
    Raises `KitError` for an unknown road, a folder that is there, or a run that is broken.
    """
    if to not in ROADS:
        raise KitError(f"There is no export {to!r}. There are: {', '.join([*ROADS, 'hub'])}.")
    folder = expanded(folder) if folder else export_folder(run, to)
    if folder.exists():  # told before the work, not after it
        raise KitError(f"{folder} is there already. Remove it, or name another: --output FOLDER")
    run.training, run.task.rows("test")
    check_adapter(run.adapter, run.profile.model)
    guards.require([guards.adapter(run.adapter), guards.system_prompt(run)], say)
    digest = adapter_digest(run)
    with new_folder(folder) as temporary:
        say(f"Writing {ROADS[to].about} ...")
        ROADS[to].write(run, temporary)
        for path in temporary.rglob("*"):  # safetensors writes files that only their owner may read
            path.chmod(0o755 if path.is_dir() else 0o644)
        free_memory()
        record = ExportRecord(
            to=to,
            run=run.name,
            adapter=digest,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            size_mb=round(size_mb(temporary), 1),
            verification=compare_answers(run, to, temporary, say) if verify else None,
        )
        record.save(temporary)
    return record


def compare_answers(run: Run, to: str, folder: Path, say: Say) -> Agreement:
    """Let the tuned model and the exported one answer the same test messages: shares that agree, and the speed of both."""
    task, talks = run.task, dict[str, Talk]()
    messages = [task.asked(row) for row in task.rows("test")[:MESSAGES]]
    parts = longest_talks(task, task.rows("test")) if task.kind == "chat" else []
    texts: dict[str, list[str]] = {}
    speed: dict[str, float] = {}
    more: dict[str, Any] = {}
    sides = {"tuned": lambda: load_tuned(run), "export": lambda: ROADS[to].load(run, folder)}
    for side, load in sides.items():
        with answering(run, load) as answerer:
            texts[side], seconds = timed(answerer, messages)
            if parts:
                talk = talk_on(answerer, parts)
                talks[side] = talk.with_prompts_of(talks["tuned"].chats, answerer) if talks else talk
        speed[side] = round(len(messages) / seconds, 2)
        say(f"  {side}: {len(messages):,} messages answered in {seconds:.0f} s")
    if parts:
        more["turns"] = turns_agree(talks["tuned"], talks["export"])
        say(f"  {describe_turns(more['turns'])}")
    return agreement(run, texts["tuned"], texts["export"]).model_copy(update={"messages_per_second": speed, **more})


def describe_turns(turns: TurnsAgree) -> str:
    """How an export goes on with conversations, in a sentence."""
    same = ", ".join(f"{100 * share:.0f} %" for share in turns.identical)
    prompts = f"{turns.same_prompts} of {turns.prompts} prompts with the same bytes and token ids"
    ends = "the same" if turns.same_ends else "other"
    return (
        f"{turns.conversations} conversations gone on with after its own answers: the same text in {same} (first answers, "
        f"second, third); {prompts}, {ends} end tokens"
    )


def export_table(records: Sequence[ExportRecord]) -> Table:
    """Exports side by side for the terminal: agreement with the tuned model, size, speed."""
    grid = Table(title="compared with the tuned model on the same test messages", title_justify="left")
    for heading in ("export", "messages", "same text", "same answer", "MB on disk", "answers a second", "tuned, a second"):
        grid.add_column(heading, justify="left" if heading == "export" else "right")
    for record in records:
        if proof := record.verification:
            speed = (f"{proof.messages_per_second[side]:.1f}" for side in ("export", "tuned"))
            shares = (f"{100 * share:.0f} %" for share in (proof.identical, proof.same_answer))
            cells = [str(proof.n), *shares, f"{record.size_mb:.0f}", *speed]
        else:
            cells = ["not verified", "", "", f"{record.size_mb:.0f}", "", ""]
        grid.add_row(record.to, *cells)
    return grid


def doubt(record: ExportRecord) -> str:
    """A sentence if an export too often answers differently from the tuned model; else nothing."""
    proof = record.verification
    if proof and (turns := proof.turns) and (turns.same_prompts < turns.prompts or not turns.same_ends):
        what = "it reads or ends a conversation differently from the tuned model"
        return f"Look before you use it: {what}. {describe_turns(turns)}."
    if not proof or proof.same_answer >= DOUBTFUL:
        return ""
    return (
        f"Look before you use it: only {100 * proof.same_answer:.0f} % of {proof.n} answers are those of the tuned "
        "model. After a few steps of training the answers hang by a thread; after a whole one something is wrong."
    )


ROADS = {
    "adapter": Road("the adapter, safetensors with its card", _write_adapter, _load_adapter_folder),
    "merged": Road("one ordinary model", _write_merged, lambda run, folder: load_folder(folder)),
    "space": Road("a Gradio Space with the demo", write_space, load_space),
    "ollama": Road("a Modelfile over the merged model", _write_ollama, lambda run, folder: load_folder(folder / "merged")),
    "gguf": Road("a GGUF file for llama.cpp", _write_gguf, _load_gguf),
    "server": Road("a server's folder", _write_server, lambda run, folder: load_folder(folder / "merged")),
}
