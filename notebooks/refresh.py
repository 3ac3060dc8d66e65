"""Put into every notebook what is written in one place: its Colab badge, its first cell, its exercise cells.

    python notebooks/refresh.py            # all notebooks
    python notebooks/refresh.py --check    # change nothing; exit code 1 if something would change
    python notebooks/refresh.py --run      # and run them all, top to bottom, with the cpu profile
    python notebooks/refresh.py --pictures # and add a PNG to each SVG that has none, drawn by Chromium

Owner, repository, branch and tag: `[tool.ftkit]` in pyproject.toml. Exercises: `ftkit/course/`. `--run` keeps
outputs that read well without a kernel: the widgets' own form, which needs one, is dropped for their text, and so are the
times of the cells. The time that all cells took is written into the line "Machine time" of the first cell. What runs now
leaves each picture as SVG and as PNG; `--pictures` is for outputs from before.
"""

import argparse
import base64
import os
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import nbformat

from ftkit.common.figures import DENSE, shown_size, small_png
from ftkit.common.profiles import choose_profile
from ftkit.course.colab import badge, first_cell
from ftkit.course.notebooks import refreshed

HERE = Path(__file__).resolve().parent
ALL = [*sorted(HERE.glob("[0-9]*.ipynb")), *sorted((HERE / "labs").glob("*.ipynb"))]
WIDGET, SVG, PNG = "application/vnd.jupyter.widget-view+json", "image/svg+xml", "image/png"


def refresh(notebook, name):
    """The notebook with badge, first cell and exercise cells as they should be."""
    notebook = refreshed(notebook)
    head = re.sub(r"\A\[!\[Open in Colab\].*?\n\n", "", notebook.cells[0].source)
    notebook.cells[0].source = f"{badge(name)}\n\n{head}"
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    if "COLAB_RELEASE_TAG" in first.source:
        first.source = first_cell()
    else:
        first = nbformat.v4.new_code_cell(first_cell(), id="first-cell")
        notebook.cells.insert(1, first)
    # ten lines that do nothing here would greet every reader: JupyterLab folds them, and Colab, which shows their title
    first.metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}
    return notebook


def pictures(notebook):
    """The outputs that are a picture; as SVG only, or in another size, where they come from before both were displayed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output for output in outputs if SVG in output.get("data", {})]


def stale_picture(output):
    """Whether JupyterLab, where it trusts nobody, would not show it, or smaller than where it does."""
    data = output.data.get(PNG)
    return data is None or output.metadata.get(PNG) != shown_size(base64.b64decode(data))


def mend_pictures(notebook):
    """Draw each SVG that has no PNG in a browser, and add what it shows; and have each PNG shown in the size of its SVG."""
    stale = [output for output in pictures(notebook) if stale_picture(output)]
    if lacking := [output for output in stale if PNG not in output.data]:
        sys.path.insert(0, str(HERE.parent))  # `tests` is no part of the installed package
        from tests.browser import open_browser

        with open_browser() as browser:
            page = browser.new_page(viewport={"width": 1080, "height": 800}, device_scale_factor=DENSE / 96)
            for output in lacking:
                page.set_content(f'<body style="margin:0">{output.data[SVG]}')
                png, _ = small_png(page.locator("svg").first.screenshot())
                output.data[PNG] = base64.b64encode(png).decode()
    for output in stale:
        output.metadata[PNG] = shown_size(base64.b64decode(output.data[PNG]))


def run(notebook, folder):
    """Run a notebook in place and tidy what it leaves."""
    from nbclient import NotebookClient

    began = time.monotonic()
    NotebookClient(notebook, timeout=3600, store_widget_state=False, resources={"metadata": {"path": str(folder)}}).execute()
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    line = f"Machine time: {took} for all cells, profile `cpu`, {os.cpu_count()} CPU cores, "
    line += f"{datetime.now(UTC):%Y-%m-%d}. On a GPU (`t4`, `big`) it has not been measured yet."
    notebook.cells[0].source = re.sub(r"^Machine time: .*$", line, notebook.cells[0].source, flags=re.MULTILINE)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    merge_streams(notebook)
    notebook.metadata.pop("widgets", None)


def merge_streams(notebook):
    """Join neighbouring pieces of printed text: how they were cut depends on the moment."""
    for cell in notebook.cells:
        outputs = []
        for output in cell.get("outputs", []):
            last = outputs[-1] if outputs else None
            if last and output.output_type == last.output_type == "stream" and output.name == last.name:
                last.text += output.text
            else:
                outputs.append(output)
        if outputs:
            cell.outputs = outputs


def main():
    """Refresh, check or run the notebooks that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=ALL)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--pictures", action="store_true")
    arguments = parser.parse_args()
    stale = []
    for path in arguments.notebooks:
        before = nbformat.read(path, as_version=4)
        after = refresh(before, path.resolve().relative_to(HERE).as_posix())
        if arguments.check:
            stale += [path.name] if after != before or any(map(stale_picture, pictures(after))) else []
            continue
        if arguments.run:
            if choose_profile().profile.name != "cpu":  # else the lessons show the reason of the kit's own choice
                os.environ["FTKIT_PROFILE"] = "cpu"
            print(f"Running {path.name} ...", flush=True)
            run(after, path.parent)
        if arguments.pictures:
            mend_pictures(after)
        if after != before:
            nbformat.write(after, path)
            print(f"{path.name} written")
    if stale:
        print(f"Not as they should be: {', '.join(stale)}. Run: python notebooks/refresh.py --pictures (or make notebooks)")
    sys.exit(bool(stale))


if __name__ == "__main__":
    main()
