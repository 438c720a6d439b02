"""The manifest of a model's files: written with each, compared before any is parsed."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gluonseg.digest import hash_file
from gluonseg.errors import ModelError
from gluonseg.export import export_model
from gluonseg.models.archive import copy_members
from gluonseg.models.artifact import read_artifact
from gluonseg.models.manifest import (
    BEST_FILE,
    HYPERPARAMETERS_FILE,
    LAST_FILE,
    MANIFEST_FILE,
    check_files,
    listing_files,
    parse_manifest,
)
from gluonseg.models.onnx_file import ONNX_FILE
from gluonseg.predict.predictor import load_predictor
from local_server import serving
from picture import draw_noise, encode_picture
from program import build_environment, run_program

WRITTEN = (BEST_FILE, LAST_FILE, HYPERPARAMETERS_FILE, "model_card.json", "model_symbol.json", ONNX_FILE)


@pytest.fixture
def model(trained_model: Path, tmp_path: Path) -> Path:
    """A copy that may be changed: files are replaced there, not written into."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in trained_model.iterdir():
        (folder / path.name).hardlink_to(path)
    return folder


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _flip(path: Path, share: float, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 1 << bit
    _replace(path, bytes(content))


def test_training_lists_every_file_that_is_read(trained_model: Path) -> None:
    found = json.loads((trained_model / MANIFEST_FILE).read_text(encoding="utf-8"))
    assert found == {"format_version": 1, "sha256": {name: hash_file(trained_model / name) for name in sorted(WRITTEN)}}


def test_export_lists_what_it_writes(model: Path, tmp_path: Path) -> None:
    alone = export_model(model, tmp_path / "alone").parent
    assert check_files(alone) == {name: hash_file(alone / name) for name in (ONNX_FILE, "model_card.json")}
    (model / MANIFEST_FILE).unlink()
    _replace(model / ONNX_FILE, b"to be written anew")
    export_model(model)
    assert check_files(model) == {ONNX_FILE: hash_file(model / ONNX_FILE)}
    load_predictor(model)


FLIPS = [(share, bit) for share in (0, 0.001, 0.3, 0.6, 0.999, 1) for bit in (0, 4, 7)]


@pytest.mark.fault(family=34, outcome="refused: the file and both digests", inputs=len(WRITTEN) * len(FLIPS))
@pytest.mark.parametrize("name", WRITTEN)
def test_one_bit_in_any_file_is_found(model: Path, name: str) -> None:
    good = (model / name).read_bytes()
    for share, bit in FLIPS:
        _flip(model / name, share, bit)
        with pytest.raises(ModelError, match=f"{name} is damaged or was changed: its sha256 is [0-9a-f]{{64}}, "):
            check_files(model)
        _replace(model / name, good)
    assert check_files(model).keys() == set(WRITTEN)


@pytest.mark.fault(family=34, outcome="refused: no bit of the manifest is without meaning", inputs=4000)
def test_one_bit_in_the_manifest_is_found(model: Path) -> None:
    content = bytearray((model / MANIFEST_FILE).read_bytes())
    good = parse_manifest(bytes(content), "the manifest")
    assert len(content) > 400
    for at in range(8 * len(content)):
        content[at // 8] ^= 1 << at % 8
        with suppress(ModelError):
            found = parse_manifest(bytes(content), "the manifest")
            assert found.keys() == good.keys()
            assert found != good
        content[at // 8] ^= 1 << at % 8
    for at in (0, 30, 200, 400, len(content) - 1):
        _flip(model / MANIFEST_FILE, at / (len(content) - 1), 0)
        with pytest.raises(ModelError):
            check_files(model)
        _replace(model / MANIFEST_FILE, bytes(content))


@pytest.mark.fault(family=34, outcome="refused before anything of the file is parsed", inputs=2)
@pytest.mark.parametrize("name", [ONNX_FILE, BEST_FILE])
def test_a_file_is_not_opened_before_it_is_compared(model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("it was parsed")

    monkeypatch.setattr("gluonseg.models.onnx_file.check_structure", fail)
    monkeypatch.setattr("gluonseg.models.artifact.read_arrays", fail)
    _flip(model / name, 0.5, 3)
    with pytest.raises(ModelError, match=f"{name} is damaged or was changed"):
        load_predictor(model)


DIGEST = "0" * 64
MANIFESTS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "is damaged"),
    "empty": (b"", "is damaged"),
    "a list": (b"[]", "is damaged"),
    "no version": (b'{"sha256": {}}', "format_version None, this gluonseg reads 1"),
    "a later version": (b'{"format_version": 2, "sha256": {}}', "format_version 2, this gluonseg reads 1"),
    "a version of a terminal": (b'{"format_version": "\\u001b[31m", "sha256": {}}', r"format_version '\\x1b\[31m'"),
    "no digests": (b'{"format_version": 1}', "no list of sha256"),
    "digests in a list": (b'{"format_version": 1, "sha256": []}', "no list of sha256"),
    "no digest": (b'{"format_version": 1, "sha256": {"model.onnx": "abc"}}', "no list of sha256"),
    "a digest in capitals": (
        json.dumps({"format_version": 1, "sha256": {"model.onnx": "A" * 64}}).encode(),
        "no list of sha256",
    ),
    "a number": (b'{"format_version": 1, "sha256": {"model.onnx": 5}}', "no list of sha256"),
    "a file twice": (
        f'{{"format_version": 1, "sha256": {{"model.onnx": "{DIGEST}", "model.onnx": "{DIGEST}"}}}}'.encode(),
        "appears twice",
    ),
    "another file": (
        json.dumps({"format_version": 1, "sha256": {"../../etc/passwd": DIGEST}}).encode(),
        r"lists '\.\./\.\./etc/passwd', which is no file of a model",
    ),
    "more than that": (b'{"format_version": 1, "sha256": {}, "more": 1}', "no list of sha256"),
    "nested": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "is damaged"),
    "not UTF-8": (b"\xff\xfe", "is damaged"),
}


@pytest.mark.fault(family=34, outcome="refused: what is wrong with the manifest, its version", inputs=len(MANIFESTS))
@pytest.mark.parametrize(("content", "words"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_that_is_none(content: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        parse_manifest(content, "the manifest")
    assert str(caught.value).isprintable()


@pytest.mark.fault(family=34, outcome="refused: a manifest that is too long, or a link", inputs=2)
def test_a_manifest_that_is_no_small_file(model: Path, tmp_path: Path) -> None:
    _replace(model / MANIFEST_FILE, b" " * (1 << 17))
    with pytest.raises(ModelError, match="it has 131072 bytes, the limit is 65536"):
        check_files(model)
    (model / MANIFEST_FILE).unlink()
    (model / MANIFEST_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=f"{MANIFEST_FILE} is a symbolic link, which is not followed"):
        check_files(model)


@pytest.mark.fault(family=34, outcome="accepted: a model without a manifest, as the built-in's are", inputs=3)
def test_a_model_without_a_manifest(model: Path) -> None:
    for name in (MANIFEST_FILE, "model_card.json", ONNX_FILE):
        (model / name).unlink()
        assert load_predictor(model).card.num_classes == 4


@pytest.mark.fault(family=34, outcome="accepted: damage in a file that is not read", inputs=1)
def test_damage_in_a_file_that_is_not_read(model: Path) -> None:
    _flip(model / LAST_FILE, 0.5, 0)
    assert load_predictor(model).card.num_classes == 4
    with pytest.raises(ModelError, match=f"{LAST_FILE} is damaged or was changed"):
        check_files(model, [LAST_FILE])


@pytest.mark.fault(family=34, outcome="refused: parameters other than those listed as the best", inputs=1)
def test_the_best_parameters_are_missing(model: Path) -> None:
    (model / BEST_FILE).unlink()
    with pytest.raises(ModelError, match=f"{BEST_FILE} is missing, which {MANIFEST_FILE} lists"):
        load_predictor(model)
    (model / MANIFEST_FILE).unlink()
    assert read_artifact(model).weights.name == LAST_FILE


@pytest.mark.fault(family=34, outcome="accepted: files that are listed and were left out", inputs=2)
def test_files_that_were_left_out(model: Path) -> None:
    (model / LAST_FILE).unlink()
    assert read_artifact(model).weights.name == BEST_FILE
    (model / BEST_FILE).unlink()
    assert load_predictor(model).engine.name == "ONNX Runtime"


def test_what_is_written_anew_is_not_listed_meanwhile(model: Path) -> None:
    """Whoever is killed in between leaves a model that loads."""
    def stop() -> None:
        with listing_files(model, BEST_FILE, LAST_FILE):
            listed = json.loads((model / MANIFEST_FILE).read_text(encoding="utf-8"))["sha256"]
            assert listed.keys() == set(WRITTEN) - {BEST_FILE, LAST_FILE}
            _replace(model / BEST_FILE, b"half a file")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert check_files(model).keys() == set(WRITTEN) - {BEST_FILE, LAST_FILE}
    with listing_files(model, BEST_FILE):
        _replace(model / BEST_FILE, b"the whole file")
    assert check_files(model)[BEST_FILE] == hash_file(model / BEST_FILE)


def test_a_manifest_travels_in_the_archive(trained_model: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "model"), "gztar", trained_model))
    assert MANIFEST_FILE in copy_members(archive, (), tmp_path)
    load_predictor(archive)
    changed = Path(shutil.copytree(trained_model, tmp_path / "changed"))
    _flip(changed / BEST_FILE, 0.5, 0)
    archive = Path(shutil.make_archive(str(tmp_path / "changed"), "gztar", changed))
    with pytest.raises(ModelError, match=rf"^{archive}: {BEST_FILE} is damaged or was changed"):
        load_predictor(archive)


def _check_ended(seconds: float, code: int, log: str, name: str) -> None:
    assert code == 2, log
    assert f"{name} is damaged or was changed" in log
    assert "Traceback" not in log
    assert seconds < 5


@pytest.mark.fault(family=34, outcome="exit code 2 within 5 s, the file named, never healthy", inputs=2)
@pytest.mark.parametrize("name", [ONNX_FILE, BEST_FILE])
def test_a_server_ends_at_once(model: Path, tmp_path: Path, name: str) -> None:
    _flip(model / name, 0.5, 0)
    start = time.monotonic()
    with serving(tmp_path, tmp_path / "log") as server:
        code = server.process.wait(timeout=60)
    _check_ended(time.monotonic() - start, code, server.read_log(), name)


COMMANDS: dict[str, Callable[[Path, Path], list[Any]]] = {
    "predict": lambda model, out: ["predict", out, "--model", model, "--output", out],
    "export": lambda model, out: ["export", model, "--output", out],
}


@pytest.mark.fault(family=34, outcome="exit code 2, the file named, nothing written", inputs=len(COMMANDS))
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_command_ends(model: Path, tmp_path: Path, command: Callable[[Path, Path], list[Any]]) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(encode_picture(draw_noise(9, 9)))
    _flip(model / BEST_FILE, 0.5, 0)
    words = [sys.executable, "-m", "gluonseg", *command(model, pictures)]
    done = run_program(words, build_environment(OMP_NUM_THREADS="1"))
    assert done.returncode == 2, done.stdout
    assert f"{BEST_FILE} is damaged or was changed" in done.stdout
    assert "Traceback" not in done.stdout
    assert [path.name for path in pictures.iterdir()] == ["a.png"]
