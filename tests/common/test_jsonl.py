import hashlib
import json

import pytest

from ftkit.common.console import Progress
from ftkit.common.errors import KitError
from ftkit.common.files import digest, dump, json_lines, read_jsonl, write_jsonl
from ftkit.common.machine import describe_machine, versions


def test_each_line_has_its_number_and_its_value_or_its_fault():
    lines = list(json_lines('{"a": 1}\n\n  \nnull\n{"a": \n' + "9" * 5000 + "\n" + "[" * 100_000))
    assert [(line.number, line.value) for line in lines] == [(1, {"a": 1}), (4, None), (5, None), (6, None), (7, None)]
    assert [bool(line.fault) for line in lines] == [False, False, True, True, True]
    assert all(line.fault.startswith("not JSON (") for line in lines[2:]) and lines[2].text == '{"a": '


def test_what_was_written_is_read_again(tmp_path):
    path, rows = tmp_path / "new" / "a.jsonl", [{"text": "café\u2028\n"}, {"text": "half \ud83d"}, [1], None]
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows and len(path.read_bytes().split(b"\n")) == 5
    assert "café" in path.read_text(encoding="utf-8")
    assert json.loads(dump(rows[1])) == rows[1]


def test_a_write_that_fails_leaves_the_old_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [1])
    with pytest.raises(ZeroDivisionError):
        write_jsonl(path, (1 // n for n in (1, 0)))
    assert read_jsonl(path) == [1] and [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n\n{oops\n', r"a\.jsonl, line 3: not JSON"),
        (b"\xff\xfe", r"a\.jsonl is not UTF-8"),
        (None, r"a\.jsonl is missing"),
        ("folder", r"a\.jsonl cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.mkdir() if content == "folder" else content is None or path.write_bytes(content)
    with pytest.raises(KitError, match=message):
        read_jsonl(path)


def test_a_digest_is_of_the_parts_in_their_order():
    assert digest(b"a", b"b") == digest(b"ab") == hashlib.sha256(b"ab").hexdigest()[:16] != digest(b"b", b"a")


def test_progress_tells_the_time_left_until_all_is_done():
    lines = []
    progress = Progress("test-base", say=lines.append)
    progress.began -= 10
    progress(1, 3), progress(3, 3)
    assert lines == ["  test-base: 1 of 3 answered, 20 s left", "  test-base: 3 of 3 answered"]
    Progress(verb="done", say=lines.append)(2, 2)
    assert lines[-1] == "  2 of 2 done"


def test_the_machine_is_described_with_what_decides_a_result():
    machine = describe_machine()
    assert set(machine) == {"date", "system", "cpu", "cores", "memory_gb", "python", "versions"}
    assert machine["cores"] > 0 and machine["memory_gb"] > 0 and machine["cpu"]
    assert {"python": machine["python"], **machine["versions"]} == versions()
