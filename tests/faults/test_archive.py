"""Archives of models that are damaged, claim too much, or lead out of themselves."""

from __future__ import annotations

import gzip
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from file_tree import read_files
from gluonseg.errors import ModelError
from gluonseg.models.archive import copy_members
from gluonseg.models.artifact import open_model, read_artifact
from gluonseg.models.manifest import BEST_FILE, MODEL_FILES
from gluonseg.report.source import write_source_report
from hostile_archive import BLOCK, LENGTHS, REFUSED_MEMBERS, build_cut_sparse, build_header, pack
from local_server import serving
from program import run_source


def _read(tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(content)
    read_artifact(archive)


@pytest.mark.fault(family=29, outcome="refused, nothing is written", inputs=len(LENGTHS))
@pytest.mark.parametrize("content", LENGTHS.values(), ids=LENGTHS.keys())
def test_lengths_that_are_none(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ModelError, match=r"/model\.tar\.gz"):
        _read(tmp_path, content)
    assert read_files(tmp_path).keys() == {"model.tar.gz"}


DAMAGED = {
    "no bytes": b"",
    "header only": gzip.compress(b"")[:10],
    "nothing inside": gzip.compress(b""),
    "no tar inside": gzip.compress(b"no tar at all" * 999),
    "tar without gzip": gzip.decompress(pack((BEST_FILE, b"x", {}))),
    "cut inside a header": gzip.compress(build_header(BEST_FILE, 9)[:300]),
    "cut inside a member": gzip.compress(build_header(BEST_FILE, 10_000) + bytes(BLOCK)),
    "cut inside the header of a sparse file": gzip.compress(build_cut_sparse()),
    "gzip cut": pack((BEST_FILE, os.urandom(20_000), {}))[:10_000],
    "rubbish behind": pack((BEST_FILE, b"x", {})) + b"rubbish",
    "no gzip behind its first bytes": b"\x1f\x8b" + b"x" * 999,
    "zip": b"PK\3\4" + bytes(99),
}


@pytest.mark.fault(family=29, outcome="refused: the archive is named", inputs=len(DAMAGED))
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_archives(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelError, match=r"/model\.tar\.gz|in .*/model\.tar\.gz") as caught:
        _read(tmp_path, content)
    assert len(str(caught.value)) < 400


@pytest.mark.fault(family=29, outcome="refused: cut in front of a header, or damaged there", inputs=2)
def test_archives_that_end_between_members(tmp_path: Path) -> None:
    """To :mod:`tarfile` that is the end, with the rest of the members left out."""
    whole = gzip.decompress(pack((BEST_FILE, b"x" * 700, {}), ("model_card.json", b"{}", {})))
    second = 512 + 1024
    damaged = bytearray(whole)
    damaged[second] ^= 4
    for content in (whole[:second], damaged):
        with pytest.raises(ModelError, match="it ends too early, or a header is damaged"):
            _read(tmp_path, gzip.compress(content))


@pytest.mark.fault(family=30, outcome="refused: the member is named, nothing is written", inputs=len(REFUSED_MEMBERS))
@pytest.mark.parametrize("members", REFUSED_MEMBERS.values(), ids=REFUSED_MEMBERS.keys())
@pytest.mark.parametrize("file_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_members_that_lead_out_or_are_no_files(
    tmp_path: Path,
    members: tuple[tuple[str, bytes, dict[str, Any]], ...],
    file_format: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    with pytest.raises(ModelError, match=r"leads out of it|is not a regular file|twice"):
        _read(tmp_path, pack(*members, file_format=file_format))
    assert read_files(tmp_path).keys() == {"model.tar.gz"}


@pytest.mark.fault(family=30, outcome="accepted: what is not a file of a model is passed over", inputs=6)
def test_other_members_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    archive = tmp_path / "model.tar.gz"
    others = ("code/inference.py", "sub/model_best.params", ".hidden", "C:\\x", "..a", "MODEL_BEST.PARAMS")
    members = [(name, b"passed over", {"mode": 0o6777}) for name in others]
    archive.write_bytes(pack(*members, (f"./{BEST_FILE}", b"kept", {"mode": 0o6777, "uid": 12345})))
    names = copy_members(archive, MODEL_FILES, tmp_path / "out")
    assert names == [*others, BEST_FILE]
    assert read_files(tmp_path / "out") == {BEST_FILE: b"kept"}
    mode = (tmp_path / "out" / BEST_FILE).stat().st_mode
    assert mode & 0o7111 == 0


@pytest.mark.fault(family=30, outcome="refused: links in place of an archive or of a file of a model folder", inputs=8)
def test_links_in_a_model_folder(tmp_path: Path, trained_model: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((trained_model / BEST_FILE).read_bytes())
    for name in (*MODEL_FILES, "model_manifest.json", "model.tar.gz"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).symlink_to(secret)
        with pytest.raises(ModelError, match="symbolic link"), open_model(folder):
            pytest.fail("it was opened")


@pytest.mark.fault(family=29, outcome="accepted: an archive of several gzip files, zeros behind")
def test_unusual_archives_that_are_good(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    tar = gzip.decompress(pack((BEST_FILE, bytes(5000), {}), ("hyperparams.json", b"{}", {})))
    archive.write_bytes(gzip.compress(tar[:999]) + gzip.compress(tar[999:]) + bytes(100))
    copy_members(archive, MODEL_FILES, tmp_path)
    assert (tmp_path / BEST_FILE).read_bytes() == bytes(5000)


@pytest.mark.fault(family=45, outcome="refused (2), the message has path and bytes, and not the archive")
def test_no_room_to_unpack(tmp_path: Path) -> None:
    """A real refusal, in the middle of the member."""
    (tmp_path / "model.tar.gz").write_bytes(pack((BEST_FILE, bytes(2_000_000), {})))
    source = f"""
import resource
from gluonseg.errors import StorageError
from gluonseg.models.artifact import read_artifact
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


@pytest.mark.fault(family=29, outcome="refused by the report, too")
def test_the_report_reads_archives_as_carefully(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(pack(("model_card.json", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})))
    with pytest.raises(ModelError, match="links are not followed"):
        write_source_report(archive, out=tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.fault(family=29, outcome="refused: exit code 2, and no line of the server's log can be forged by a name")
def test_the_name_of_an_archive_in_the_servers_log(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    name = "a\n2030-01-01 00:00:00,000 INFO the model is loaded and warm after 0.1 s\x1b[31m.tar.gz"
    (tmp_path / "model" / name).write_bytes(b"no archive")
    with serving(tmp_path, tmp_path / "log") as server:
        assert server.process.wait(timeout=60) == 2
    lines = server.read_log().split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("2030") for line in lines)
    assert any(line.startswith("    2030-01-01") for line in lines)
