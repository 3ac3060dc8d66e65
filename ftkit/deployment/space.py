"""Spaces: a folder that Hugging Face Spaces runs as it is, with the demo, the kit, the run and its base (lesson 05)."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

from huggingface_hub import SpaceCardData
from packaging.requirements import Requirement

from ftkit.common.files import place, read_json, write_json, write_text
from ftkit.common.paths import kit_root
from ftkit.common.templates import render
from ftkit.evaluation.answer import TUNED, Loaded, load_tuned
from ftkit.evaluation.saved_answers import answers_file
from ftkit.models.catalog import licence_of
from ftkit.models.find import find_model, prepare_model, public_name
from ftkit.runs.card import CARD
from ftkit.runs.documents import LOG, Evaluation, Fidelity, RunRecord
from ftkit.runs.run import Run

# What of a run may be public: no lock, no feedback of visitors, no other exports
PUBLIC = (
    RunRecord.FILE,
    Evaluation.FILE,  # the tab Evaluation
    answers_file("test", TUNED),  # where it is wrong
    Fidelity.FILE,
    LOG,
    CARD,
)


def write_space(run: Run, folder: Path) -> None:
    """A folder that Hugging Face Spaces runs as it is, and `python app.py` at home: the demo with base and tuned.

    The adapter belongs to the base's weights as they were in training. A base that came from the hub is named and fetched
    from there; one from a package or a folder is carried along, because the hub's weights of that name may be others.
    """
    root, package, task = kit_root(), Path(__file__).parents[1], run.task
    skip = shutil.ignore_patterns("__pycache__", "_kit", "*.pyc")
    shutil.copytree(package, folder / "ftkit", ignore=skip)
    shutil.copytree(root / "apps", folder / "apps", ignore=skip)
    shutil.copyfile(root / "apps" / "space.py", folder / "app.py")
    (folder / "data" / task.name).mkdir(parents=True)
    openings = ("validation.jsonl",) if task.kind == "chat" else ()  # what the page offers to begin with
    for name in ("task.toml", "test.jsonl", *openings, "DATASHEET.md"):  # what it was trained on stays at home
        if (task.folder / name).is_file():
            shutil.copyfile(task.folder / name, folder / "data" / task.name / name)
    model = public_name(run.profile.model)
    _write_public_run(run, folder / "runs" / run.name, model)
    if find_model(run.profile.model).kind != "hub":
        carried = folder / carried_base(model)
        carried.mkdir(parents=True)
        for path in Path(prepare_model(run.profile.model)).iterdir():
            if path.suffix in (".json", ".jinja", ".safetensors", ".model", ".txt"):
                place(path, carried / path.name)
    write_text(folder / "requirements.txt", "\n".join(list_requirements(root)) + "\n")
    write_text(folder / "README.md", render_readme(run, model))


def carried_base(model: str) -> Path:
    """Where a Space keeps the base that it carries: as the kit's cache has it, so that `find_model` finds it."""
    return Path("cache") / "models" / re.sub(r"[^\w.-]+", "--", model)


def _write_public_run(run: Run, folder: Path, model: str) -> None:
    """The run without what belongs to this machine: paths become names."""
    shutil.copytree(run.adapter, folder / "adapter")
    for name in PUBLIC:
        if (run.folder / name).is_file():
            text = (run.folder / name).read_text(encoding="utf-8")
            for path in (run.profile.model, json.dumps(run.profile.model)[1:-1]):  # as it is, and as JSON has it
                text = text.replace(path, model)
            (folder / name).parent.mkdir(exist_ok=True)
            write_text(folder / name, text)
    record, named = run.record, run.record.task.model_copy(update={"folder": run.task.name})
    record.model_copy(update={"task": named, "profile": record.profile.with_changes(model=model)}).save(folder)
    config = folder / "adapter" / "adapter_config.json"
    write_json(config, read_json(config) | {"base_model_name_or_path": model})


def load_space(run: Run, folder: Path) -> Loaded:
    """The tuned model from a Space's own files: the base that it carries, or else the hub's, and its copy of the adapter."""
    model = public_name(run.profile.model)
    carried = folder / carried_base(model)
    adapter = folder / "runs" / run.name / "adapter"
    return load_tuned(run, adapter, str(carried) if carried.is_dir() else None)


def list_requirements(root: Path) -> list[str]:
    """What the demo needs, as `pyproject.toml` lists it in the extra `demo`, each with the version that the tests ran on.

    Only that is pinned: Spaces installs packages of its own beside these, which must find their versions.
    """
    project = root / "pyproject.toml"
    if project.is_file():
        listed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]["demo"]
    else:  # an installed wheel
        listed = [line for line in importlib.metadata.requires("ftkit") or [] if re.search(r"extra == .demo.", line)]
    names = sorted(_normalize(Requirement(line).name) for line in listed)
    text = (root / "constraints.txt").read_text(encoding="utf-8") if (root / "constraints.txt").is_file() else ""
    pins = {_normalize(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}
    return [f"{name}=={(pins.get(name) or importlib.metadata.version(name)).split('+')[0]}" for name in names]


def _normalize(name: str) -> str:
    """A package's name as PyPI compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def render_readme(run: Run, model: str) -> str:
    """The Space's README: front matter as Spaces reads it (huggingface_hub, SpaceCardData), and what a visitor gets."""
    title, hub = run.task.title or run.task.name, find_model(run.profile.model).kind == "hub"
    head = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=importlib.metadata.version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        license=licence_of(model) or "other",
        short_description=f"{title}: before and after fine-tuning"[:60],
        models=[model] if hub else None,
        pinned=False,
    )
    carried = None if hub else carried_base(model)
    return render("deployment/templates/space.md", head=head, model=model, run=run.name, carried=carried, task=run.task)
