"""The manifest of a model's files: written with each, compared before any is parsed."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from gluonseg.errors import ModelError
from gluonseg.export.float32 import export_model
from gluonseg.files import hash_file
from gluonseg.models.folder.artifact import read_artifact
from gluonseg.models.folder.manifest import (
    BEST_FILE,
    HYPERPARAMETERS_FILE,
    LAST_FILE,
    MANIFEST_FILE,
    ONNX_FILE,
    check_files,
    listing_files,
    parse_manifest,
)
from gluonseg.predict.predictor import load_predictor

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


def _flip(path: Path) -> None:
    """Turn over one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
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


@pytest.mark.parametrize("name", [BEST_FILE, "model_card.json", ONNX_FILE])
def test_one_bit_is_found_before_the_file_is_parsed(model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("it was parsed")

    for reader in ("onnx.file.check_structure", "models.folder.artifact.read_arrays", "models.folder.card.parse_card"):
        monkeypatch.setattr(f"gluonseg.{reader}", fail)
    assert check_files(model).keys() == set(WRITTEN)
    _flip(model / name)
    with pytest.raises(ModelError, match=f"{name} is damaged or was changed: its sha256 is [0-9a-f]{{64}}, "):
        load_predictor(model)


MANIFESTS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "is damaged"),
    "a later version": (b'{"format_version": 2, "sha256": {}}', "format_version 2, this gluonseg reads 1"),
    "no digests": (b'{"format_version": 1}', "no list of sha256"),
}


@pytest.mark.parametrize(("content", "words"), MANIFESTS.values(), ids=MANIFESTS)
def test_unusable_manifests(content: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        parse_manifest(content, "the manifest")


def test_a_model_without_a_manifest(model: Path) -> None:
    """As those of the built-in are."""
    for name in (MANIFEST_FILE, "model_card.json", ONNX_FILE):
        (model / name).unlink()
        assert load_predictor(model).card.num_classes == 4


def test_files_that_are_damaged_or_gone_and_not_read(model: Path) -> None:
    _flip(model / LAST_FILE)
    assert load_predictor(model).card.num_classes == 4
    with pytest.raises(ModelError, match=f"{LAST_FILE} is damaged or was changed"):
        check_files(model, [LAST_FILE])
    (model / LAST_FILE).unlink()
    assert read_artifact(model).weights.name == BEST_FILE
    (model / BEST_FILE).unlink()
    assert load_predictor(model).engine.name == "ONNX Runtime"


def test_what_is_written_anew_is_not_listed_meanwhile(model: Path) -> None:
    """A process that is killed in between leaves a model that loads."""

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


def test_a_manifest_travels_in_the_archive(model: Path, tmp_path: Path) -> None:
    _flip(model / BEST_FILE)
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        tar.add(model, ".")
    with pytest.raises(ModelError, match=rf"^{archive}: {BEST_FILE} is damaged or was changed"):
        load_predictor(archive)
