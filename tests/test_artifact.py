"""Model folders and archives: ours, the built-in's, and everything that is not one."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import pytest
from gluoncv.model_zoo import pspnet

from file_tree import add_member
from gluonseg.errors import ModelError
from gluonseg.models.folder import archive as archive_module
from gluonseg.models.folder.artifact import infer_architecture, read_artifact, read_folder
from gluonseg.models.folder.card import CARD_FILE, parse_card
from gluonseg.models.folder.manifest import MANIFEST_FILE
from gluonseg.models.network import build_network
from gluonseg.models.registry import RESNETS
from gluonseg.predict.predictor import load_predictor
from picture import draw_noise


def _pack(folder: Path, archive: Path, prefix: str = "") -> Path:
    # Not compressed inside the gzip: weights hardly shrink, and it takes long.
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, f"{prefix}{path.name}")
    return archive


def _link_model(source: Path, target: Path) -> Path:
    """A copy of a model folder that a test may change: files are replaced there, not written into.

    Without the manifest, which is about files that were not changed; test_manifest.py has its tests.
    """
    target.mkdir()
    for path in source.iterdir():
        if path.name != MANIFEST_FILE:
            (target / path.name).hardlink_to(path)
    return target


def _replace(path: Path, content: str | bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def model(trained_model: Path, tmp_path: Path) -> Path:
    return _link_model(trained_model, tmp_path / "model")


@pytest.fixture(scope="module")
def archive(trained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model as model.tar.gz."""
    return _pack(trained_model, tmp_path_factory.mktemp("archive") / "model.tar.gz")


@pytest.fixture(scope="module")
def builtin_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the built-in leaves: the parameters of GluonCV's own PSPNet, and a flat file of strings."""
    folder = tmp_path_factory.mktemp("builtin")
    with contextlib.redirect_stdout(io.StringIO()):  # GluonCV's PSPNet prints
        network = pspnet.PSPNet(3, pretrained_base=False, crop_size=64)
    network.initialize(force_reinit=True)
    network(mx.nd.zeros((1, 3, 64, 64)))
    network.save_parameters(str(folder / "model_best.params"))
    settings = {"algorithm": "psp", "backbone": "resnet-50", "num_classes": "3", "crop_size": "64", "base_size": "80"}
    (folder / "hyperparams.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("algorithm", "name", "classes", "aux"),
    [
        *(("fcn", encoder.name, 7, True) for encoder in RESNETS),
        *((algorithm, "resnet-50", 2, False) for algorithm in ("fcn", "psp", "deeplab")),
    ],
)
def test_shapes_tell_the_architecture_of_the_builtin(algorithm: str, name: str, classes: int, aux: bool) -> None:
    network = build_network(algorithm, name, classes, aux=aux)
    shapes = {key: parameter.shape for key, parameter in network._collect_params_with_prefix().items()}
    assert infer_architecture(shapes) == (algorithm, name, classes)


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"fc.weight": (1000, 512)},
        {"head.block.4.bias": (3,)},
        {"head.block.4.bias": (), **{f"layer{s}.{b}.conv1.weight": (8,) for s in range(1, 5) for b in range(2)}},
        {"head.block.4.bias": (3,), **{f"layer{s}.{b}.conv1.weight": (8,) for s in range(1, 5) for b in range(5)}},
        {f"layer{s}.{b}.conv1.weight": (8,) for s in range(1, 5) for b in range(2)},
    ],
)
def test_foreign_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ModelError, match="not those of an FCN, PSPNet or DeepLabV3 on a ResNet"):
        infer_architecture(shapes)


def test_a_folder(trained_model: Path) -> None:
    found = read_artifact(trained_model)
    assert (found.card.algorithm, found.card.backbone, found.card.num_classes) == ("fcn", "resnet-18", 4)
    assert found.card == parse_card((trained_model / CARD_FILE).read_text(encoding="utf-8"), "card")
    expected = mx.nd.load(str(trained_model / "model_best.params"))
    assert found.params.keys() == expected.keys()
    assert all((found.params[name].asnumpy() == expected[name].asnumpy()).all() for name in expected)


def test_the_last_epoch_stands_in_for_the_best(model: Path) -> None:
    expected = mx.nd.load(str(model / "model_algo-1"))
    (model / "model_best.params").unlink()
    found = read_artifact(model)
    assert all((found.params[name].asnumpy() == expected[name].asnumpy()).all() for name in expected)


def test_an_archive(archive: Path, trained_model: Path) -> None:
    found = read_artifact(archive)
    expected = read_folder(trained_model)
    assert found.card == expected.card
    assert all((found.params[name].asnumpy() == value.asnumpy()).all() for name, value in expected.params.items())


def test_a_folder_that_holds_just_the_archive(archive: Path) -> None:
    assert read_artifact(archive.parent).card.backbone == "resnet-18"


def test_sizes_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        add_member(tar, "model_best.params", b"x" * 100)
    monkeypatch.setattr(archive_module, "MAX_MEMBER_BYTES", 99)
    with pytest.raises(ModelError, match=r"model_best.params' in .* has 100 bytes, the limit is 99"):
        read_artifact(archive)
    monkeypatch.setattr(archive_module, "MAX_MEMBER_BYTES", 100)
    monkeypatch.setattr(archive_module, "MAX_TOTAL_BYTES", 99)
    with pytest.raises(ModelError, match="unpacks to more than 99 bytes"):
        read_artifact(archive)


def _flip(archive: Path) -> None:
    """One bit amid the weights: only the checksum at the end tells."""
    data = bytearray(archive.read_bytes())
    data[len(data) // 4] ^= 1
    archive.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(_flip, "is not a usable model.tar.gz: CRC check failed", id="damaged"),
        pytest.param(lambda path: path.unlink(), "does not exist; give a model folder or a model.tar.gz", id="absent"),
    ],
)
def test_not_an_archive(archive: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoilt = Path(shutil.copy(archive, tmp_path / "model.tar.gz"))
    spoil(spoilt)
    with pytest.raises(ModelError, match=f"^{spoilt} {message}"):
        read_artifact(spoilt)


def test_damaged_weights_in_an_archive_are_reported_by_its_name(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        add_member(tar, "model_best.params", b"not the parameters of anything")
    with pytest.raises(ModelError, match=f"^{archive}: model_best.params is no usable MXNet parameter file"):
        read_artifact(archive)


def test_an_archive_without_weights(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        add_member(tar, "hyperparams.json", b"{}")
        add_member(tar, "sub/model_best.params", b"x")
    with pytest.raises(ModelError, match=r"there is no model_best.params in .*; a model archive has it at its root"):
        read_artifact(archive)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model_best.params \(nor model_algo-1\) in"):
        read_artifact(tmp_path)


def test_a_card_of_another_model(model: Path) -> None:
    card = json.loads((model / CARD_FILE).read_text(encoding="utf-8"))
    _replace(model / CARD_FILE, json.dumps({**card, "backbone": "resnet-50"}))
    message = "model_best.params is no fcn on resnet-50 with 4 classes, as model_card.json says: the parameters"
    with pytest.raises(ModelError, match=message):
        load_predictor(model, mx.cpu())


def test_the_builtins_archive_predicts(builtin_model: Path, tmp_path: Path) -> None:
    archive = _pack(builtin_model, tmp_path / "model.tar.gz", "./")
    predictor = load_predictor(archive)
    card = predictor.card
    assert (card.algorithm, card.backbone, card.num_classes, card.aux) == ("psp", "resnet-50", 3, True)
    assert (card.crop_size, card.base_size, card.prediction_size) == (64, 80, 0)
    assert card.class_names == ("class_0", "class_1", "class_2")
    assert card.hyperparameters["crop_size"] == "64"
    image = draw_noise(31, 45)
    assert predictor.predict_mask(image).shape == (31, 45)


@pytest.mark.parametrize(
    "settings",
    [
        None,
        "[1, 2]",
        '{"crop_size": {"a": 1}, "base_size": null, "num_classes": "many"}',
        '{"crop_size": Infinity, "base_size": "1e3", "algorithm": 5}',
        b"\xff\xfe",
        "[" * 100_000,
    ],
)
def test_settings_without_a_card_may_be_odd(model: Path, settings: str | bytes | None) -> None:
    (model / CARD_FILE).unlink()
    (model / "hyperparams.json").unlink()
    if settings is not None:
        _replace(model / "hyperparams.json", settings)
    card = read_artifact(model).card
    assert (card.algorithm, card.backbone, card.num_classes, card.aux) == ("fcn", "resnet-18", 4, True)
    assert (card.base_size, card.crop_size) == (520, 240)


def test_our_parameters_load_into_gluoncv(trained_model: Path) -> None:
    """By structural name, as the built-in's do; resnet-18 heads are ours, so the backbone is compared."""
    from gluoncv.model_zoo.segbase import SegBaseModel

    network = SegBaseModel(4, False, "resnet18", pretrained_base=False)
    network.load_parameters(str(trained_model / "model_algo-1"), ignore_extra=True)
    saved = mx.nd.load(str(trained_model / "model_algo-1"))
    for name, parameter in network._collect_params_with_prefix().items():
        assert (parameter.data().asnumpy() == saved[name].asnumpy()).all()
