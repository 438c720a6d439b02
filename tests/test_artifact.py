"""Model folders and archives: ours, the built-in algorithm's, and folders and files that are neither."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo import fcn

from file_tree import add_member
from gluonseg.errors import ModelError
from gluonseg.models.folder import archive as archive_module
from gluonseg.models.folder.artifact import find_model, infer_architecture, read_artifact, read_folder
from gluonseg.models.folder.card import CARD_FILE, parse_card
from gluonseg.models.folder.manifest import MANIFEST_FILE
from gluonseg.models.network import build_network
from gluonseg.models.params import read_arrays, write_params
from gluonseg.predict.predictor import load_predictor
from picture import draw_noise


def _pack(folder: Path, archive: Path, prefix: str = "") -> Path:
    # Not compressed inside the gzip: weights hardly shrink, and it takes long.
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, f"{prefix}{path.name}")
    return archive


def _link_model(source: Path, target: Path) -> Path:
    """A model folder whose files a test may replace; without the manifest, see test_manifest.py."""
    target.mkdir()
    for path in source.iterdir():
        if path.name != MANIFEST_FILE:
            (target / path.name).hardlink_to(path)
    return target


def _replace(path: Path, content: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(content, encoding="utf-8")


@pytest.fixture
def model(trained_model: Path, tmp_path: Path) -> Path:
    return _link_model(trained_model, tmp_path / "model")


@pytest.fixture(scope="module")
def archive(trained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model as model.tar.gz."""
    return _pack(trained_model, tmp_path_factory.mktemp("archive") / "model.tar.gz")


@pytest.fixture
def builtin_model(tmp_path: Path) -> Path:
    """A folder as the built-in algorithm leaves it: parameters of GluonCV's own FCN, and a flat file of strings."""
    folder = tmp_path / "builtin"
    folder.mkdir()
    network = fcn.FCN(3, pretrained_base=False, crop_size=32)
    network.initialize(force_reinit=True)
    network(mx.nd.zeros((1, 3, 32, 32)))
    network.save_parameters(str(folder / "model_best.params"))
    settings = {"algorithm": "fcn", "backbone": "resnet-50", "num_classes": "3", "crop_size": "64", "base_size": "80"}
    (folder / "hyperparams.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("algorithm", "backbone"),
    [
        *(("fcn", f"resnet-{depth}") for depth in (18, 50, 152)),
        *((algorithm, "resnet-18") for algorithm in ("psp", "deeplab")),
    ],
)
def test_shapes_tell_the_architecture_of_the_builtin(algorithm: str, backbone: str) -> None:
    network = build_network(algorithm, backbone, 7)
    shapes = {key: parameter.shape for key, parameter in network._collect_params_with_prefix().items()}
    assert infer_architecture(shapes) == (algorithm, backbone, 7)
    classifier = {name: shape for name, shape in shapes.items() if name.startswith("head.")}
    for foreign in (classifier, {name: shape for name, shape in shapes.items() if name not in classifier}):
        with pytest.raises(ModelError, match="not those of an FCN, PSPNet or DeepLabV3 on a ResNet"):
            infer_architecture(foreign)


@pytest.mark.parametrize("weights", ["model_best.params", "model_algo-1"])
def test_a_folder_with_the_best_or_the_last_epoch(model: Path, weights: str) -> None:
    expected = mx.nd.load(str(model / weights))
    if weights == "model_algo-1":
        (model / "model_best.params").unlink()
    found = read_artifact(model)
    assert found.card == parse_card((model / CARD_FILE).read_text(encoding="utf-8"), "card")
    assert found.params.keys() == expected.keys()
    assert all((found.params[name].asnumpy() == expected[name].asnumpy()).all() for name in expected)


def test_an_archive_and_a_folder_that_holds_just_it(archive: Path, trained_model: Path) -> None:
    expected = read_folder(trained_model)
    for source in (archive, archive.parent):
        found = read_artifact(source)
        assert found.card == expected.card
        assert all((found.arrays[name] == array).all() for name, array in expected.arrays.items())


@pytest.mark.parametrize(
    ("model", "others"),
    [
        ("model.tar.gz", ["output.tar.gz"]),
        ("model.tar.gz", ["sourcedir.tar.gz", ".hidden.tar.gz", "old/model.tar.gz", "notes.txt"]),
        ("model.tar.gz", ["code.tar.gz", "data.tar"]),
        ("model.tar", ["output.tar.gz"]),
        ("output/model.tar.gz", ["output/output.tar.gz", "debug-output/events.json", "source/sourcedir.tar.gz"]),
        ("job/output/model.tar.gz", ["job/checkpoints/checkpoint-1.params"]),
        ("model/model_best.params", ["output/data/curves.json", "output/model_best.params.txt"]),
        ("model/model_int8.onnx", ["model/model_card.json"]),
        ("model_best.params", ["model.tar.gz", "old/model.tar.gz"]),
    ],
)
def test_the_one_model_of_a_folder_is_meant(model: str, others: list[str], tmp_path: Path) -> None:
    for name in (model, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    path = tmp_path / model
    assert find_model(tmp_path) == (path if ".tar" in path.name else path.parent)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.tar.gz", "b.tar.gz"], "there are 2 models in FOLDER: a.tar.gz, b.tar.gz; give one of them"),
        (
            ["one/output/model.tar.gz", "two/output/model.tar.gz"],
            "there are 2 models in FOLDER: one/output/model.tar.gz, two/output/model.tar.gz; give one of them",
        ),
        (
            ["output.tar.gz", "data/a.jpg"],
            "no model_best.params, no model.tar.gz in FOLDER: it holds data/, output.tar.gz; give",
        ),
        ([], "no model_best.params, no model.tar.gz in FOLDER: it is empty; give a model folder or a model.tar.gz"),
    ],
)
def test_a_folder_that_can_mean_no_model_or_several(names: list[str], words: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=f"^{re.escape(words.replace('FOLDER', str(tmp_path)))}"):
        read_artifact(tmp_path)


def test_size_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all members together, also those that are not wanted."""
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        add_member(tar, "other", b"x" * 60)
        add_member(tar, "model_best.params", b"x" * 60)
    monkeypatch.setattr(archive_module, "MAX_TOTAL_BYTES", 119)
    with pytest.raises(ModelError, match=r"unpacks to more than 119 bytes at 'model_best\.params'"):
        read_artifact(archive)


def test_one_bit_amid_the_weights_is_found_by_the_checksum(archive: Path, tmp_path: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[len(data) // 4] ^= 1
    spoilt = tmp_path / "model.tar.gz"
    spoilt.write_bytes(data)
    with pytest.raises(ModelError, match=f"^{spoilt} is not a usable model.tar.gz: CRC check failed"):
        read_artifact(spoilt)


def test_damaged_weights_in_an_archive_are_reported_by_its_name(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        add_member(tar, "model_best.params", b"not the parameters of anything")
    with pytest.raises(ModelError, match=f"^{archive}: model_best.params is no usable MXNet parameter file"):
        read_artifact(archive)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent does not exist; give a model folder or a model.tar.gz"):
        read_artifact(tmp_path / "absent")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        add_member(tar, "sub/model_best.params", b"x")
        add_member(tar, "other", b"x")
    with pytest.raises(ModelError, match=r"no model_best.params at the root of .*: it holds 'sub/model_best.params'"):
        read_artifact(tmp_path / "model.tar.gz")


@pytest.mark.parametrize("prefix", ["model/", "./model/"])
def test_an_archive_of_one_folder(trained_model: Path, tmp_path: Path, prefix: str) -> None:
    archive = _pack(trained_model, tmp_path / "model.tar.gz", prefix)
    assert read_artifact(archive).card == read_folder(trained_model).card


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
    assert (card.algorithm, card.backbone, card.num_classes, card.aux) == ("fcn", "resnet-50", 3, True)
    assert (card.crop_size, card.base_size, card.prediction_size) == (64, 80, 0)
    assert card.class_names == ("class_0", "class_1", "class_2")
    assert card.hyperparameters["crop_size"] == "64"
    assert predictor.predict_mask(draw_noise(15, 20)).shape == (15, 20)


@pytest.mark.parametrize("settings", [None, "[1, 2]", '{"crop_size": {"a": 1}, "base_size": "1e3", "algorithm": 5}'])
def test_settings_without_a_card_may_be_odd(model: Path, settings: str | None) -> None:
    (model / CARD_FILE).unlink()
    (model / "hyperparams.json").unlink()
    if settings is not None:
        _replace(model / "hyperparams.json", settings)
    card = read_artifact(model).card
    assert (card.algorithm, card.backbone, card.num_classes, card.aux) == ("fcn", "resnet-18", 4, True)
    assert (card.base_size, card.crop_size) == (520, 240)


def test_parameters_of_no_model(trained_model: Path, tmp_path: Path) -> None:
    arrays = read_arrays(trained_model / "model_best.params")
    weight = arrays["head.block.4.weight"]
    many = {"head.block.4.weight": np.zeros((300, *weight.shape[1:]), np.float32), "head.block.4.bias": np.zeros(300)}
    for changes, words in (
        (many, "has 300 classes; 2 to 254"),
        ({"bn1.beta": arrays["bn1.beta"] * np.nan}, r"not finite in bn1\.beta"),
    ):
        write_params({**arrays, **changes}, tmp_path / "model_best.params")
        with pytest.raises(ModelError, match=words):
            read_artifact(tmp_path)


def test_half_precision_serves(trained_model: Path, tmp_path: Path) -> None:
    arrays = read_arrays(trained_model / "model_best.params")
    write_params({name: array.astype(np.float16) for name, array in arrays.items()}, tmp_path / "model_best.params")
    picture = draw_noise(24, 32)
    expected = load_predictor(trained_model).predict_probabilities(picture)
    np.testing.assert_allclose(load_predictor(tmp_path).predict_probabilities(picture), expected, atol=0.02)
