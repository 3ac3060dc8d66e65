"""Walk the whole road with the files of this folder, by the commands that the kit itself prints and nothing else.

    python -m tests.brought.walk FOLDER [NAME ...]

Each file becomes a task, and is checked, cleaned, tuned, judged, measured and exported in FOLDER. What came of it goes into
FOLDER/walk.jsonl, a line a file; files that are there already are left out, so that it can be stopped and taken up. With the
`cpu` profile this takes a few minutes a file.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from tests.brought import make, readings

ROOT = Path(__file__).resolve().parents[2]
TOLD = {"rathaus.csv": ["--message", "Beschwerde", "--target", "Amt", "--target", "Dringlichkeit"]}  # as the kit proposes
SHOWN = ("Next: ", "To take it elsewhere: ")


def run(command: list[str], folder: Path) -> tuple[int, list[str], float]:
    """(exit code, the lines of the output, seconds) of a command of the kit, run in `folder`."""
    began = time.monotonic()
    environment = {**os.environ, "FTKIT_RUNS": str(folder / "runs"), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "ftkit.cli", *command[1:]]
    pipes = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    done = subprocess.run(words, cwd=folder, env=environment, **pipes)
    with (folder / "walk.log").open("a", encoding="utf-8") as log:
        log.write(f"$ {shlex.join(command)}\n{done.stdout}{done.stderr}\n")
    return done.returncode, (done.stdout + done.stderr).splitlines(), round(time.monotonic() - began, 1)


def walk(path: Path, folder: Path) -> dict:
    """Follow the printed commands from a file to an export: each with its seconds, and what the last ones said."""
    command = ["ftkit", "task", "new", path.stem, "--from", str(path), *TOLD.get(path.name, [])]
    steps, said = [], []
    while command and len(steps) < 12:
        code, lines, seconds = run(command, folder)
        steps.append({"command": shlex.join(command), "code": code, "seconds": seconds})
        shown = {mark: line.removeprefix(mark) for line in lines for mark in SHOWN if line.startswith(mark)}
        said += [line for line in lines if line.startswith(("Advice.", "- Against", "Schedule", "Finished"))]
        print(f"  {seconds:7.1f} s  exit {code}  {steps[-1]['command']}", flush=True)
        if command[1] == "export" or code not in (0, 1) or not shown:
            break
        following = shlex.split(shown.get("Next: ", ""))
        command = shlex.split(shown[SHOWN[1]]) if following[1:2] == ["demo"] else following
    return {
        "file": path.name,
        "steps": steps,
        "said": said,
        "exported": steps[-1]["command"].startswith("ftkit export") and code == 0,
    }


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "made"
    if not made.is_dir():
        made.mkdir()
        make.make(made)
    results = folder / "walk.jsonl"
    done = {json.loads(line)["file"] for line in results.read_text().splitlines()} if results.exists() else set()
    for name in sys.argv[2:] or readings.EXPECTED:
        if name in done:
            continue
        print(name, flush=True)
        result = walk((made if readings.EXPECTED[name]["made"] else make.HERE) / name, folder)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
