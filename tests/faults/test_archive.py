"""Archives of models that are damaged, bombs, or lead out of themselves."""

from __future__ import annotations

import gzip
import os
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from file_tree import read_files
from gluonseg.errors import ModelError
from gluonseg.models.archive import MAX_RATIO, copy_members
from gluonseg.models.artifact import open_model, read_artifact
from gluonseg.models.manifest import BEST_FILE, MODEL_FILES
from gluonseg.report.source import write_source_report
from hostile_archive import (
    BLOCK,
    REFUSED_MEMBERS,
    build_bombs,
    build_header,
    build_repeated,
    build_sparse,
    pack,
    sign_header,
)
from local_server import serving
from measured import measure
from program import run_source

MAX_SECONDS, MAX_MB = 5.0, 64.0
BOMBS = (
    "10 MB that unpack to 10 GB",
    "10 GB in a member that nobody reads",
    "a name of 1 GB",
    "100 000 members",
    "100 000 links",
    "100 000 headers of one member",
    "headers that take the square of their length",
    "a million empty gzip files",
    "a sparse member of 1 TB",
    "a sparse member of 1 TB, pax",
    "a member of length -256",
    "a member of length -512",
    "a long name of length -1024",
    "a member of 8 GB",
    "zeros without end",
)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What reading each bomb takes, all in one process; nothing may be left of any."""
    folder, scratch = tmp_path_factory.mktemp("bombs"), tmp_path_factory.mktemp("scratch")
    paths = {}
    for number, (name, content) in enumerate(build_bombs().items()):
        paths[name] = folder / f"{number}.tar.gz"
        paths[name].write_bytes(content)
    setup = f"import tempfile; tempfile.tempdir = {str(scratch)!r}\nfrom gluonseg.models.artifact import read_artifact"
    found = measure(setup, "read_artifact(path)", paths)
    assert list(scratch.iterdir()) == []
    return found


@pytest.mark.fault(family=29, outcome="refused within 5 s and 64 MB, nothing left on the disk", inputs=len(BOMBS))
@pytest.mark.parametrize("name", BOMBS)
def test_bombs(taken: Mapping[str, Any], name: str) -> None:
    assert taken[name].outcome.startswith("ModelError: ")
    assert taken[name].seconds < MAX_SECONDS
    assert taken[name].peak_mb < MAX_MB


def test_all_bombs_are_tried() -> None:
    assert tuple(build_bombs()) == BOMBS


def _read(tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(content)
    read_artifact(archive)


def _mark_extended(header: bytes) -> bytes:
    return sign_header(header[:482] + b"\1" + header[483:])


DAMAGED = {
    "no bytes": b"",
    "one byte": b"\x1f",
    "header only": gzip.compress(b"")[:10],
    "nothing inside": gzip.compress(b""),
    "zeros inside": gzip.compress(bytes(20 * BLOCK)),
    "no tar inside": gzip.compress(b"no tar at all" * 999),
    "tar without gzip": gzip.decompress(pack((BEST_FILE, b"x", {}))),
    "cut inside a header": gzip.compress(build_header(BEST_FILE, 9)[:300]),
    "cut inside a member": gzip.compress(build_header(BEST_FILE, 10_000) + bytes(BLOCK)),
    # Found by fuzzing: byte 482 says that there is more of the header than there is.
    "cut inside the header of a sparse file": gzip.compress(_mark_extended(build_sparse(BEST_FILE, 10)) + b"0" * 161),
    "gzip cut": pack((BEST_FILE, os.urandom(20_000), {}))[:10_000],
    "rubbish behind": pack((BEST_FILE, b"x", {})) + b"rubbish",
    "bzip2": b"BZh91AY&SY" + bytes(99),
    "xz": b"\xfd7zXZ\0" + bytes(99),
    "zip": b"PK\3\4" + bytes(99),
    "pickle": b"\x80\x04cos\nsystem\n(S'false'\ntR.",
}


@pytest.mark.fault(family=29, outcome="refused: the archive is named", inputs=len(DAMAGED))
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_archives(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelError, match=r"/model\.tar\.gz|in .*/model\.tar\.gz") as caught:
        _read(tmp_path, content)
    assert len(str(caught.value)) < 400


@pytest.mark.fault(family=29, outcome="refused at every length but the whole", inputs=16)
def test_archives_that_end_early(tmp_path: Path, trained_archive: bytes) -> None:
    for step in range(16):
        with pytest.raises(ModelError):
            _read(tmp_path, trained_archive[: len(trained_archive) * step // 16])


@pytest.mark.fault(family=29, outcome="refused: cut at or inside a header, or damaged there", inputs=8)
def test_archives_that_end_between_members(tmp_path: Path) -> None:
    """To :mod:`tarfile` that is the end, with the rest of the members left out."""
    whole = gzip.decompress(pack((BEST_FILE, b"x" * 700, {}), ("model_card.json", b"{}", {})))
    second = 512 + 1024

    def copy(content: bytes) -> list[str]:
        archive, folder = tmp_path / "model.tar.gz", tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        archive.write_bytes(gzip.compress(content))
        folder.mkdir()
        return copy_members(archive, MODEL_FILES, folder)

    assert copy(whole) == [BEST_FILE, "model_card.json"]
    for cut in (second, second + 100, second + 511, second + 1024):
        with pytest.raises(ModelError, match="it ends too early"):
            copy(whole[:cut])
    for at in (0, 100, 150, 300):
        damaged = bytearray(whole)
        damaged[second + at] ^= 4
        with pytest.raises(ModelError, match="or a header is damaged"):
            copy(bytes(damaged))


@pytest.fixture(scope="module")
def trained_archive(trained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("packed") / "model.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=0) as archive:
        for name in (BEST_FILE, "model_card.json"):
            archive.add(trained_model / name, name)
    return path.read_bytes()


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
    others = ("code/inference.py", "sub/model_best.params", ".hidden", "a:b", "..a", "MODEL_BEST.PARAMS")
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


@pytest.mark.fault(family=29, outcome="accepted: an archive of several gzip files, zeros behind, zeros compressed well")
def test_unusual_archives_that_are_good(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    archive = tmp_path / "model.tar.gz"
    tar = gzip.decompress(pack((BEST_FILE, bytes(MAX_RATIO * 100_000), {}), ("hyperparams.json", b"{}", {})))
    half = len(tar) // 2
    archive.write_bytes(gzip.compress(tar[:half]) + gzip.compress(tar[half:]) + bytes(100))
    copy_members(archive, MODEL_FILES, tmp_path / "out")
    assert (tmp_path / "out" / BEST_FILE).stat().st_size == MAX_RATIO * 100_000


@pytest.mark.fault(family=45, outcome="refused (2), the message has path and bytes, and not the archive")
def test_no_room_to_unpack(tmp_path: Path, trained_archive: bytes) -> None:
    """A real refusal, in the middle of the largest member."""
    (tmp_path / "model.tar.gz").write_bytes(trained_archive)
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
    assert re.search(rf"{path} cannot be written: File too large; it needs \d+ bytes", words)
    assert "model.tar.gz" not in words
    assert [path.name for path in tmp_path.iterdir()] == ["model.tar.gz"]


@pytest.mark.fault(family=29, outcome="refused by the report, too", inputs=2)
def test_the_report_reads_archives_as_carefully(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    bomb = build_repeated(build_header("curves.json", 1 << 30), bytes(1 << 20), 1024)
    link = pack(("model_card.json", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}))
    for content, words in ((bomb, "that is no model archive"), (link, "links are not followed")):
        archive.write_bytes(content)
        with pytest.raises(ModelError, match=words):
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
