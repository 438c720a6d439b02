"""Archives of models that are damaged, claim too much or hold links; good ones are in test_artifact."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import pytest

from file_tree import read_files
from gluonseg.errors import ModelError
from gluonseg.models.folder.archive import copy_members
from gluonseg.models.folder.artifact import read_artifact
from gluonseg.models.folder.manifest import BEST_FILE, MODEL_FILES
from hostile_archive import LENGTHS, REFUSED_MEMBERS, build_cut_sparse, build_header, pack
from program import run_source

DAMAGED = {
    "cut inside a member": gzip.compress(build_header(BEST_FILE, 10_000) + bytes(512)),
    "cut between members": gzip.compress(gzip.decompress(pack((BEST_FILE, b"x" * 700, {})))[: 512 + 1024]),
    "cut inside the header of a sparse file": gzip.compress(build_cut_sparse()),
    **LENGTHS,
}


REFUSED = {
    **{name: (content, r"/model\.tar\.gz") for name, content in DAMAGED.items()},
    "no bytes": (b"", "is not a usable model.tar.gz: it is empty"),
    "zip": (
        b"PK\x03\x04" + bytes(600),
        "is not a usable model.tar.gz: it is no tar, with or without gzip: it is a zip archive",
    ),
    **{name: (pack(*members), "is not a regular file") for name, members in REFUSED_MEMBERS.items()},
}


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_damaged_archives_and_members_that_are_no_files(
    tmp_path: Path, content: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "model.tar.gz").write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        read_artifact(tmp_path / "model.tar.gz")
    assert len(str(caught.value)) < 400
    assert read_files(tmp_path).keys() == {"model.tar.gz"}


def test_other_members_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    archive = tmp_path / "model.tar.gz"
    others = ("code/inference.py", "sub/model_best.params", "/tmp/model_best.params", f"../{BEST_FILE}", "a/../../x")
    members = [(name, b"passed over", {"mode": 0o6777}) for name in others]
    archive.write_bytes(pack(*members, (f"./{BEST_FILE}", b"kept", {"mode": 0o6777, "uid": 12345})))
    assert copy_members(archive, MODEL_FILES, tmp_path / "out") == [*others, BEST_FILE]
    assert read_files(tmp_path / "out") == {BEST_FILE: b"kept"}
    assert (tmp_path / "out" / BEST_FILE).stat().st_mode & 0o7111 == 0


def test_a_tar_that_a_browser_has_unpacked(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    plain = gzip.decompress(pack((BEST_FILE, b"kept", {})))
    (tmp_path / "model.tar").write_bytes(plain)
    copy_members(tmp_path / "model.tar", MODEL_FILES, tmp_path / "out")
    assert read_files(tmp_path / "out") == {BEST_FILE: b"kept"}
    (tmp_path / "model.tar").write_bytes(plain[:1024])
    with pytest.raises(ModelError, match="it ends too early"):
        copy_members(tmp_path / "model.tar", MODEL_FILES, tmp_path / "out")


def test_no_room_to_unpack(tmp_path: Path) -> None:
    """A real refusal, in the middle of the member."""
    (tmp_path / "model.tar.gz").write_bytes(pack((BEST_FILE, bytes(2_000_000), {})))
    source = f"""
import resource
from gluonseg.errors import StorageError
from gluonseg.models.folder.artifact import read_artifact
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    read_artifact(Path({str(tmp_path)!r}) / "model.tar.gz")
except StorageError as error:
    print(error)
"""
    words = run_source(source, {**os.environ, "TMPDIR": str(tmp_path)})
    path = rf"{tmp_path}/gluonseg-model-\w+/model_best.params"
    assert re.search(rf"{path} cannot be written: File too large; it needs 2000000 bytes", words)
    assert "model.tar.gz" not in words
    assert [path.name for path in tmp_path.iterdir()] == ["model.tar.gz"]
