import errno
import os
from pathlib import Path

import pytest

from ftkit.common.errors import KitError
from ftkit.common.files import growing, new_folder, read_json, read_jsonl, replacing, write_json, write_jsonl


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_cannot_be_written_as_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    assert read_json(path) == {"n": 1}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(KitError, match=r"a\.json is not readable as JSON"):
        read_json(path)


@pytest.mark.parametrize("write", [lambda path: write_json(path, 1), lambda path: write_jsonl(path, [1])])
def test_what_cannot_be_written_is_one_sentence_with_the_path(tmp_path, write):
    (tmp_path / "file").write_text("a")
    for path, words in (
        (tmp_path / "file" / "a.json", "is there already"),  # a file in the place of a folder
        (tmp_path / "file" / "b" / "a.json", "a file stands where a folder is needed"),
        (tmp_path / ("n" * 300), "the name is too long"),
        (tmp_path, "it is a folder"),
    ):
        with pytest.raises(KitError, match=words) as refused:
            write(path)
        assert str(tmp_path) in str(refused.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_refuses_leaves_the_old_file_and_names_the_new_one(tmp_path, monkeypatch, number):
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    monkeypatch.setattr(Path, "write_text", lambda self, *_, **__: raise_(OSError(number, "refused", str(self))))
    with pytest.raises(KitError) as refused:
        write_json(path, {"n": 2})
    assert str(refused.value).startswith(f"{path}: ")  # and not the temporary name
    with pytest.raises(KitError), new_folder(tmp_path / "b") as folder:
        (folder / "c").write_text("d")
    monkeypatch.undo()
    assert read_json(path) == {"n": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def raise_(error):
    raise error


@pytest.mark.skipif(os.name == "nt", reason="devices as Unix has them")
def test_a_device_is_written_to_and_stays_a_device(tmp_path):
    for path in (Path("/dev/null"), tmp_path / "pipe"):
        if path.parent == tmp_path:
            os.mkfifo(path)
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        write_json(path, {"n": 1})
        with growing(path) as add:
            add({"n": 2})
        assert not path.is_file() and path.exists()
    assert os.read(reader, 100).decode().split() == ["{", '"n":', "1", "}", '{"n":', "2}"]
    os.close(reader)
    if Path("/dev/full").exists():
        with pytest.raises(KitError, match="/dev/full: the disk is full"):
            write_json(Path("/dev/full"), {"n": 1})


def test_lines_are_written_as_they_come_and_kept_if_the_rest_fails(tmp_path):
    path = tmp_path / "out" / "a.jsonl"
    with growing(path) as add:
        add({"n": 1})
        assert (tmp_path / "out" / "a.jsonl.part").read_text() == '{"n": 1}\n' and not path.exists()
    assert read_jsonl(path) == [{"n": 1}]
    with pytest.raises(KeyboardInterrupt), growing(path) as add:
        add({"n": 2})
        raise KeyboardInterrupt
    assert read_jsonl(path) == [{"n": 1}] and read_jsonl(tmp_path / "out" / "a.jsonl.part") == [{"n": 2}]
    with pytest.raises(RuntimeError), growing(tmp_path / "b.jsonl"):
        raise RuntimeError
    assert not list(tmp_path.glob("b*"))
    for bad in (tmp_path, path / "x", Path()):
        with pytest.raises(KitError), growing(bad):
            raise AssertionError("it should have been refused before")


@pytest.mark.parametrize("content", [b"9" * 5000, b"[" * 100_000])
def test_numbers_and_depths_beyond_reading_are_broken_json_too(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(KitError, match=r"a\.json is not readable as JSON"):
        read_json(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(KitError, match=r"a\.json cannot be read"):
        read_json(path)


def test_a_copy_onto_a_full_disk_names_the_new_folder_and_not_what_is_copied(tmp_path):
    refused = pytest.raises(KitError, match="the disk is full")
    with refused as said, new_folder(tmp_path / "new") as folder:
        raise OSError(errno.ENOSPC, "No space left", "/kit/source.txt", None, str(folder / "source.txt"))
    assert str(said.value).startswith(f"{tmp_path / 'new'}: ") and not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="devices as Unix has them")
def test_a_device_without_an_end_is_not_read():
    with pytest.raises(KitError, match="/dev/zero is a device"):
        read_jsonl(Path("/dev/zero"))
