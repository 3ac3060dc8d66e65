"""What a learner has solved, kept beside the runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import read_json, write_json
from ftkit.common.paths import runs_dir

FORMAT = 1


def progress_file() -> Path:
    """Where the progress is kept: beside the runs."""
    return runs_dir() / "progress.json"


def read_progress() -> dict[str, dict[str, Any]]:
    """{"exercises": {"02.mask": {...}}, "quiz": {"02.1": {...}}}. Raises `KitError` if the file is broken."""
    path = progress_file()
    content = read_json(path) if path.is_file() else {"format": FORMAT}
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise KitError(f"{path} is not a progress file of format {FORMAT}. Move it away to start anew.")
    return {part: content.get(part, {}) for part in ("exercises", "quiz")}


def solved_now(past: dict[str, Any], right: bool) -> dict[str, Any]:
    """The time, as an entry "solved", if this answer is the first right one; once solved, it stays so."""
    return {"solved": datetime.now(UTC).isoformat(timespec="seconds")} if right and "solved" not in past else {}


def note(part: str, key: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change one entry of the progress file, whole or not at all; a notebook goes on if that fails."""
    from filelock import FileLock, Timeout

    try:
        progress_file().parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{progress_file()}.lock", timeout=5):
            progress = read_progress()
            past = progress[part].get(key, {})
            progress[part][key] = past | change(past)
            write_json(progress_file(), {"format": FORMAT, **progress})
    except (KitError, OSError, Timeout) as error:
        print(f"(Your progress was not saved: {error})")
