"""Spaces: a folder that Hugging Face Spaces runs as it is, with the demo, the kit, the run and its base (lesson 05)."""

from __future__ import annotations

import ast
import html
import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

from ftkit.common.files import place, read_json, write_json, write_text
from ftkit.common.paths import kit_root
from ftkit.data.task import Task
from ftkit.evaluation.answer import Loaded, load_tuned
from ftkit.models.catalog import licence_of
from ftkit.models.find import find_model, prepare_model, public_name
from ftkit.runs.run import Run

# What of a run may be public: no lock, no feedback of visitors, no other exports
PUBLIC = (
    "run.json",
    "evaluation.json",
    "report.html",  # the tab Evaluation
    "predictions.json",  # where it is wrong
    "merge_fidelity.json",
    "log.jsonl",
    "model_card.md",
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
    for name in ("task.toml", "test.jsonl", "DATASHEET.md"):  # what it was trained on stays at home
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
    write_text(folder / "requirements.txt", "\n".join(requirements(root)) + "\n")
    write_text(folder / "README.md", space_readme(run, task, model))


def carried_base(model: str) -> Path:
    """Where a Space keeps the base that it carries: as the kit's cache has it, so that `find_model` comes upon it."""
    return Path("cache") / "models" / re.sub(r"[^\w.-]+", "--", model)


def _write_public_run(run: Run, folder: Path, model: str) -> None:
    """The run without what belongs to this machine: paths become names."""
    shutil.copytree(run.adapter, folder / "adapter")
    for name in PUBLIC:
        if (run.folder / name).is_file():
            text = (run.folder / name).read_text(encoding="utf-8")
            write_text(folder / name, text.replace(html.escape(run.profile.model), model))
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


def requirements(root: Path) -> list[str]:
    """The packages that the app imports, read from its code, each with the version that the tests ran on.

    Only what is imported is pinned: Spaces installs packages of its own beside these, which must find their versions.
    """
    names = set(imported_packages(root / "apps" / "demo.py", Path(__file__).parents[1])) | {"accelerate", "gradio"}
    pins = {}
    if (root / "constraints.txt").is_file():
        text = (root / "constraints.txt").read_text(encoding="utf-8")
        pins = {_normal(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}
    installed = {name: pins.get(name) or importlib.metadata.version(name) for name in map(_normal, sorted(names))}
    return [f"{name}=={version.split('+')[0]}" for name, version in installed.items()]


def _normal(name: str) -> str:
    """A package's name as PyPI compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_packages(app: Path, package: Path) -> list[str]:
    """Distributions that a file imports, directly and through the modules of ftkit that it reaches, wherever it does."""
    known, found = importlib.metadata.packages_distributions(), set()
    seen, waiting = set(), [app]
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for name in _imports(path, package):
            first, *rest = name.split(".")
            if first == "ftkit":
                module = package.joinpath(*rest)
                waiting += [module.with_suffix(".py"), module / "__init__.py"]
            elif first not in sys.stdlib_module_names:
                found.update(known.get(first, [])[:1])
    return sorted(found)


def _imports(path: Path, package: Path) -> list[str]:
    """Full names of what a file imports, and of the names in it, which may be modules as well."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # one dot: the file's own package, each further one a package above
                own = path.relative_to(package.parent).parent.parts
                base = ".".join([*own[: len(own) - node.level + 1], *filter(None, [node.module])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def space_readme(run: Run, task: Task, model: str) -> str:
    """The Space's README: front matter as Spaces reads it (huggingface_hub, SpaceCardData), and what a visitor gets."""
    from huggingface_hub import SpaceCardData

    title = task.title or task.name
    licence = licence_of(model)
    head = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=importlib.metadata.version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        license=licence or "other",
        short_description=f"{title}: before and after fine-tuning"[:60],
        models=[model] if find_model(run.profile.model).kind == "hub" else None,
        pinned=False,
    )
    where = (
        f"`{carried_base(model)}` holds the base model as it was in training"
        if find_model(run.profile.model).kind != "hub"
        else f"the base model {model} is fetched from the hub when the Space starts"
    )
    return f"""---
{head.to_yaml()}
---

# {title}

One message, answered by {model} before and after fine-tuning. Do not enter personal data; answers can be wrong. Figures,
limits and licences stand in the [model card](runs/{run.name}/model_card.md).

Base and tuned share one model in memory: {where}, the adapter lies in `runs/{run.name}/adapter`. No GPU is needed.

What visitors send as feedback is kept in `runs/{run.name}/feedback` of the running Space and is **gone
at its next restart**, unless the Space has persistent storage mounted there. To learn from feedback, serve the demo where
files stay: at home.

At home: `pip install -r requirements.txt`, then `python app.py`.
"""
