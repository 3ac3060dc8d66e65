"""However a command ends, it ends in a sentence and with an exit code that says which kind of end it was."""

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest
from safetensors import SafetensorError

from ftkit.cli import ends
from ftkit.cli.ends import ending_in_words
from ftkit.common.errors import KitError, explain_refusal
from ftkit.data.task import load_task
from tests.command import FTKIT

UNIX = pytest.mark.skipif(os.name == "nt", reason="a shell as Unix knows it")


def end_of(error, capsys):
    """The exit code and what is said on standard error when a command raises `error`."""
    with pytest.raises(SystemExit) as ended, ending_in_words():
        raise error
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KitError("The bowl is empty."), "ftkit: The bowl is empty.\n"),
        (OSError(errno.ENOSPC, "No space left", "/a/b"), "ftkit: /a/b: the disk is full. Free some room"),
        (OSError(errno.ENOSPC, "No space left"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: you have no right to it"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), "/a/b: nothing can be written there"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/a/b"), "/a/b: it is not there"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 128 vs 22"), "the disk is full"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "the disk is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("Could not determine home directory."), "no such home folder"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(error, words, capsys):
    code, said = end_of(error, capsys)
    assert code == 2 and words in said and said.count("\n") == 1


def test_an_unexpected_error_keeps_its_traceback_and_says_how_to_report_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(ends.tempfile, "tempdir", str(tmp_path))
    code, said = end_of(ValueError("odd\nvery odd"), capsys)
    assert code == 2 and said.count("\n") == 1 and "ValueError: odd (test_ends.py, line " in said and "report it" in said
    (kept,) = tmp_path.iterdir()
    assert str(kept) in said and "very odd" in kept.read_text() and "Traceback" in kept.read_text()
    monkeypatch.setattr(ends.tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert "Traceback" in end_of(ValueError("odd"), capsys)[1]  # nowhere to write it to


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_the_traceback_is_shown_when_asked_for(capsys, monkeypatch, value, shown):
    monkeypatch.setenv(ends.DEBUG, value)
    code, said = end_of(KitError("The bowl is empty."), capsys)
    assert code == 2 and ("Traceback" in said) == shown and said.endswith("ftkit: The bowl is empty.\n")


def test_an_error_without_a_file_or_a_known_reason_is_not_explained_away():
    for error in (ValueError("disk full?"), RuntimeError("a"), OSError("a"), ConnectionResetError(errno.ECONNRESET, "a")):
        assert explain_refusal(error) is None and explain_refusal(error, "/a") is None
    assert explain_refusal(OSError(errno.ENOTTY, "Not a terminal", "/a")).startswith("/a: ")


def shell(command, **environment):
    words = " ".join(map(str, FTKIT))
    return subprocess.run(
        ["bash", "-c", command.replace("FTKIT", words)],
        capture_output=True,
        env={key: value for key, value in (os.environ | environment).items() if value is not None},
        timeout=120,
    )


@pytest.fixture(scope="module")
def signs(tmp_path_factory):
    """A CSV file whose labels no old encoding has."""
    path = tmp_path_factory.mktemp("signs") / "signs.csv"
    rows = [f"{word} 第{n}号,{'甲乙'[n % 2]}" for n, word in enumerate(["包裹", "茶碗", "天气", "火车", "图书"] * 8)]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    return path


@UNIX
@pytest.mark.parametrize(("encoding", "home"), [("cp1252", None), ("ascii", "/nowhere/at/all")])
def test_what_an_encoding_lacks_is_escaped_and_a_user_without_a_home_can_work(signs, tmp_path, encoding, home):
    done = shell(f"cd {tmp_path} && FTKIT task new new --from {signs} && FTKIT task check new --html page.html",
                 PYTHONIOENCODING=encoding, HOME=home, FTKIT_RUNS=str(tmp_path / "runs"), PYTHONPATH=str(Path.cwd()),
                 )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rb"\u7532" in done.stdout  # the label, in the table of counts
    assert load_task(tmp_path / "new").labels == ("乙", "甲")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "page.html"}  # no folder "~"
    refused = shell("FTKIT task check '~nobody-of-this-name/task'", HOME=home)
    assert refused.returncode == 2 and b"is no home folder here" in refused.stderr


@UNIX
def test_standard_input_and_output_may_be_closed(signs, tmp_path):
    done = shell(f"FTKIT task new {tmp_path / 'new'} --from {signs} <&-")
    assert done.returncode == 0 and load_task(tmp_path / "new").labels, done.stderr
    path = tmp_path / "odd.csv"
    path.write_text("one,two\n" + "\n".join(f"{n},{n + 1}" for n in range(20)), encoding="utf-8")
    asked = shell(f"FTKIT task new {tmp_path / 'odd'} --from {path} <&-")  # nobody can be asked for the columns
    assert asked.returncode == 2 and b"say which is the message" in asked.stderr and b"Traceback" not in asked.stderr
    silent = shell("FTKIT --version <&- >&- 2>&-")
    assert silent.returncode == 0


@UNIX
def test_a_closed_pipe_and_a_full_disk_behind_standard_output(signs, tmp_path):
    done = shell("FTKIT task check desk --html /dev/null | head -1; echo ${PIPESTATUS[0]}", FTKIT_RUNS=str(tmp_path))
    line, code = done.stdout.splitlines()
    assert line.startswith(b"[ok]") and code == b"141" and not done.stderr
    if Path("/dev/full").exists():
        full = shell("FTKIT --version > /dev/full")
        assert full.returncode == 2 and b"the disk is full" in full.stderr and full.stderr.count(b"\n") == 1


def test_the_cache_is_never_a_folder_called_tilde(monkeypatch):
    import platformdirs

    from ftkit.common.paths import cache_dir

    monkeypatch.delenv("FTKIT_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: "~/.cache/ftkit")  # as it is without any home
    assert cache_dir().is_absolute() and "~" not in str(cache_dir())


def test_debug_is_an_option_too():
    done = subprocess.run([*FTKIT, "--debug", "task", "check", "nowhere"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" in done.stderr and re.search(r"^ftkit: nowhere is not", done.stderr, re.M)
