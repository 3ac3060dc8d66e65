import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.sign import NotebookNotary

from ftkit import __version__
from ftkit.common.paths import kit_root
from ftkit.course import plots

ROOT = kit_root()
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))


@pytest.mark.parametrize("command", ["ruff check .", "ruff format --check .", "mypy", "lint-imports"])
def test_what_make_check_runs_finds_nothing(command):
    program, *arguments = command.split()
    done = subprocess.run([Path(sys.executable).with_name(program), *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert command.replace(program, f"$(VENV)/bin/{program}", 1) in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_no_folder_of_the_package_holds_more_than_a_dozen_modules():
    for folder in {path.parent for path in (ROOT / "ftkit").rglob("*.py")}:
        modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= 12, folder


def test_the_constraints_are_those_of_this_environment():
    """`make lock` was run after the last change of a dependency."""
    from tests import lock

    locked = sys.platform == "linux" and sys.version_info[:2] == (3, 11) and torch.version.cuda is None
    if not locked:
        pytest.skip("constraints.txt was made on Linux with Python 3.11 and PyTorch without CUDA")

    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pinned == dict(re.findall(r"^([\w.-]+)==(\S+)$", lock.text(), re.MULTILINE))


def test_colab_installs_the_version_that_the_notebooks_are_written_for():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ftkit"]["tag"] == f"v{__version__}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_holds_one_clean_run(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert len(cell.source.splitlines()) <= 20
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")
    prose = sum(len(cell.source) for cell in notebook.cells if cell.cell_type == "markdown")
    assert prose > sum(len(cell.source) for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_and_its_pictures_are_small_and_its_colab_cell_is_folded(path):
    assert path.stat().st_size < 1_000_000
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first.metadata.jupyter.source_hidden and first.metadata.cellView == "form"
    assert first.source.startswith("# @title Google Colab: ")
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        assert len(data.get("image/svg+xml", "")) < 150_000 and len(data.get("image/png", "")) < 150_000


def test_pictures_of_pages_are_small_and_described():
    named = set()
    for path in (ROOT / "README.md", *NOTEBOOKS):
        text = path.read_text(encoding="utf-8")
        for described, target in re.findall(r"!\[([^\]]*)\]\(((?!https?:)[^)]+)\)", text):
            assert len(described) > 40, f"{path.name}: {target}"
            named.add((path.parent / target).resolve())
    assert named >= set((ROOT / "notebooks" / "images").glob("*.png")) and len(named) >= 3
    assert all(path.stat().st_size < 150_000 for path in named)


def tracked_files():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines()]


def test_no_file_holds_a_path_of_somebodys_machine():
    found = []
    for path in tracked_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        for pattern in ("/" + "root/", "/" + "home/", "/" + "work/", "C:" + "\\\\Users"):
            if pattern in text:
                found.append(f"{path.name}: {pattern}")
    assert not found


def test_the_installed_versions_are_the_pinned_ones():
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pins["torch"] == "2.13.0"
    for name in ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "gradio", "nbmake", "pytest"):
        assert importlib.metadata.version(name).split("+")[0] == pins[name]


def test_the_readmes_commands_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)(?:\w+=\w+ )?make ([a-z]+)", readme, re.MULTILINE))
    assert {"demo", "test", "lab", "help"} <= named <= targets
    script = Path(ROOT / ".ci" / "run").read_text()
    assert "make test" in script


def test_make_lab_serves_the_first_lesson_and_all_that_the_notebooks_link_to():
    commands = {name: (ROOT / name).read_text(encoding="utf-8").replace("\\", "/") for name in ("Makefile", "README.md")}
    for name, text in commands.items():
        folder, opened = re.search(r"jupyter lab --notebook-dir (\S+) ([\w/.]+)", text).groups()
        assert (ROOT / opened).is_file(), name
        for path in NOTEBOOKS:
            cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
            for target in re.findall(r"\]\((?!https?:)([^)#]+)", "\n".join(cells)):
                assert (path.parent / target).resolve().is_relative_to((ROOT / folder).resolve()), f"{name}: {target}"


def test_make_lab_trusts_the_notebooks_of_the_kit(tmp_path):
    """Its own line is run, on a copy: JupyterLab trusts what was signed, and nothing else."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    command = re.search(r"^\t@?(\$\(VENV\)/bin/jupyter trust \S+ \S+)", makefile, re.MULTILINE)[1]
    assert makefile.index(command) < makefile.index("bin/jupyter lab")
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    foreign = tmp_path / "foreign.ipynb"
    foreign.write_text(NOTEBOOKS[0].read_text(encoding="utf-8").replace("ticket", "receipt"), encoding="utf-8")
    command = command.replace("$(VENV)/bin", str(Path(sys.executable).parent))
    environment = {**os.environ, "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    subprocess.run(command, cwd=tmp_path, shell=True, check=True, capture_output=True, env=environment)
    notary = NotebookNotary(data_dir=str(tmp_path / "data"))
    trusted = {path.name for path in tmp_path.rglob("*.ipynb") if notary.check_signature(nbformat.read(path, as_version=4))}
    assert trusted == {path.name for path in NOTEBOOKS}


def test_links_of_the_markdown_files_lead_somewhere():
    for path in tracked_files():
        if path.suffix == ".md" and path.parent.name != "templates":  # those are filled in first
            for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_road_map_says_in_text_what_it_draws():
    picture = plots.road_map()
    for name, what, _, lesson in plots.STAGES:
        assert name in str(picture) and lesson in str(picture) and what in str(picture)


def test_the_architecture_page_names_what_is_there():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    path = re.findall(r"^\| \[.+?\]\(\.\./(ftkit/[\w/.]+)\) \| (\d+) \|", page, re.MULTILINE)
    lines = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file, _ in path}
    assert path and all(abs(lines[file] - int(number)) <= 20 for file, number in path), lines
    assert sum(lines.values()) < 2000  # what one evening holds
    named = re.findall(r"`((?:ftkit|apps)/[\w/.]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", page)
    assert len(named) > 20
    for file, names in named:
        code = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"[\w.]+", names):
            made = rf"\b(def|class) {name.split('.')[-1]}\b|^([A-Z_]+, )*{name}\b"
            assert re.search(made, code, re.MULTILINE), f"{file}: {name}"
