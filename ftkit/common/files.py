"""Files that are never half-written, and JSON and JSON lines read with errors that name the place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ftkit.common.errors import KitError, explain_refusal


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raise `KitError` in one sentence where the system refuses what is written at `place`: a full disk, no right to."""
    try:
        yield
    except KitError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            beside = Path(os.fsdecode(error.filename)).parent == place.parent  # a temporary name
            if beside or error.errno in (errno.ENOSPC, errno.EDQUOT):
                error = OSError(error.errno, error.strerror, str(place))
        if said := explain_refusal(error, place):
            raise KitError(said) from error
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success it takes the place of `path`, on failure it is removed.

    A device such as /dev/null is written to as it is. Raises `KitError` if the system refuses it.
    """
    path = Path(path)
    with writing(path):
        if is_device(path):
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def is_device(path: Path) -> bool:
    """Whether a path is a device, a pipe or the like: something to write to that no file may take the place of."""
    return str(path).startswith("/dev/") or (path.exists() and not path.is_file() and not path.is_dir())


@contextlib.contextmanager
def growing(path: Path) -> Iterator[Callable[[Any], None]]:
    """Give a function that adds a JSON value as a line. Lines are written as they come, into PATH.part.

    On success that file takes the place of `path`; on failure it stays, with the lines so far. Raises `KitError` at once if
    there can be no such file.
    """
    path = Path(path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "", str(path))
        part = path if is_device(path) else path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", newline="\n") as file:
            lines = 0

            def add(row: Any) -> None:
                nonlocal lines
                file.write(dump(row) + "\n")
                file.flush()
                lines += 1

            try:
                yield add
            except BaseException:
                if not lines and part != path:
                    part.unlink()
                raise
        if part != path:
            part.replace(path)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; on success it takes that name, on failure it is removed.

    Raises `KitError` if `folder` is there already, or the system refuses it.
    """
    folder = Path(folder)
    with writing(folder):
        if folder.exists():
            raise KitError(f"{folder} is there already. Choose another name, or remove it first.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name[:60]}.", dir=folder.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented UTF-8 JSON, whole or not at all."""
    write_text(path, json.dumps(data, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises `KitError` naming the file and the place when it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KitError(f"{path} is missing.") from None
    except OSError as error:
        raise KitError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise KitError(f"{path} is not readable as JSON ({error}). Delete it, or restore it from a copy.") from None


def read_text(path: Path) -> str:
    """A whole text file. Raises `KitError` if it is missing, a folder, not UTF-8, or a device, which may have no end."""
    if Path(path).is_char_device():
        raise KitError(f"{path} is a device and no file.")
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise KitError(f"{path} is missing.") from None
    except UnicodeDecodeError as error:
        raise KitError(f"{path} is not UTF-8 text (byte {error.start}). Save it again as UTF-8.") from None
    except OSError as error:
        raise KitError(f"{path} cannot be read: {error.strerror}.") from None


class JsonLine(NamedTuple):
    """A line of a JSONL file: its number from 1, its text, the value in it, and why there is none ("" if there is one)."""

    number: int
    text: str
    value: Any
    fault: str = ""


def json_lines(text: str) -> Iterator[JsonLine]:
    """The lines of a JSONL text, each with its value or its fault; empty lines are skipped."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield JsonLine(number, line, json.loads(line))
            except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
                yield JsonLine(number, line, None, f"not JSON ({error})")


def read_jsonl(path: Path) -> list[Any]:
    """The values of a JSONL file. Raises `KitError` if it cannot be read, naming the first line that is not JSON."""
    values = []
    for line in json_lines(read_text(path)):
        if line.fault:
            raise KitError(f"{path}, line {line.number}: {line.fault}.")
        values.append(line.value)
    return values


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write a JSON value on each line, all of them or none."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(dump(row) + "\n" for row in rows)


def dump(value: Any) -> str:
    """JSON on one line, readable as it is; escaped only where a text holds half a character (a lone surrogate)."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return json.dumps(value, default=str) if re.search("[\ud800-\udfff]", text) else text


def digest(*parts: bytes) -> str:
    """SHA-256 of the parts, one after the other: the first 16 hexadecimal digits."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def size_mb(folder: Path) -> float:
    """Size of a folder's files in MB (10^6 bytes)."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6


def place(source: Path, target: Path) -> None:
    """Copy a file. Weights get a second name for the same file (a hard link), which takes no room, where the disk can."""
    if source.suffix == ".safetensors":
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with the line ends of Unix, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
