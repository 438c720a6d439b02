"""Files that are there whole or not at all, and what is said when a disk does not take them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from gluonseg.errors import StorageError
from gluonseg.files import find_fix, find_storage_error, write_bytes, write_pieces, write_text


def test_a_file_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"", b"three" * 1_000_000):
        write_bytes(path, content)
        assert path.read_bytes() == content
    pieces: list[bytes | memoryview] = [b"a", memoryview(b"bc"), b""]
    write_pieces(path, iter(pieces), 3)
    assert path.read_bytes() == b"abc"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "Straße \udcff")
    assert (tmp_path / "file").read_text(encoding="utf-8") == r"Straße \udcff"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_refusal_of_the_disk_leaves_the_earlier_file(
    tmp_path: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"earlier")

    def refuse(*_arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"gluonseg.files.os.{call}", refuse)
    reason = os.strerror(number).replace(".", r"\.")
    words = rf"{path} cannot be written: {reason}; it needs 1234 bytes and \d+ are free; "
    with pytest.raises(StorageError, match=words):
        write_bytes(path, bytes(1234))
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_pieces_that_fail_leave_nothing(tmp_path: Path) -> None:
    def build() -> Any:
        yield b"one"
        raise ValueError("the second piece")

    with pytest.raises(ValueError, match="the second piece"):
        write_pieces(tmp_path / "file", build(), 6)
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(file: int) -> None:
        calls.append(("fsync", os.fstat(file).st_size))
        fsync(file)

    def note_replace(one: Path, other: Path) -> None:
        calls.append(("replace", one.stat().st_size))
        replace(one, other)

    monkeypatch.setattr("gluonseg.files.os.fsync", note_fsync)
    monkeypatch.setattr("gluonseg.files.os.replace", note_replace)
    write_bytes(tmp_path / "file", bytes(3_000_000))
    assert calls == [("fsync", 3_000_000), ("replace", 3_000_000)]


def test_errors_of_the_disk_are_told_from_others() -> None:
    found = find_storage_error(OSError(errno.EROFS, os.strerror(errno.EROFS), "/opt/ml/model/x"))
    assert str(found) == (
        "/opt/ml/model/x cannot be used: Read-only file system; mount a folder there that can be written to"
    )
    assert find_storage_error(OSError(errno.ENOENT, "No such file or directory", "x")) is None
    assert find_storage_error(ValueError("x")) is None


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.EACCES, f"give the folder to uid {os.geteuid()}"),
        (errno.EPERM, "use another folder"),
        (errno.ENOTDIR, "a file is in its place, remove it"),
        (errno.EDQUOT, "make room there, or raise the quota"),
    ],
)
def test_a_fix_for_each_error(number: int, fix: str) -> None:
    assert find_fix(OSError(number, os.strerror(number))) == fix
