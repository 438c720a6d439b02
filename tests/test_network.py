"""The networks: GluonCV's parameters and results, any picture size, several threads, names and arguments."""

from __future__ import annotations

import contextlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt
import pytest
from gluoncv.data import datasets
from gluoncv.model_zoo import deeplabv3, fcn, pspnet

import gluonseg
from gluonseg.errors import ModelError
from gluonseg.models.card import build_card
from gluonseg.models.network import SegmentationNetwork, load_params
from gluonseg.models.params_file import read_params
from gluonseg.models.registry import build_network, get_model, get_segmentation_model
from gluonseg.predict.mxnet_engine import MXNetEngine
from gluonseg.predict.predictor import Predictor
from picture import draw_noise

GLUONCV: dict[str, Any] = {"fcn": fcn.FCN, "psp": pspnet.PSPNet, "deeplab": deeplabv3.DeepLabV3}
CROP = 64
CLASSES = 5
Array = npt.NDArray[Any]


def _build_theirs(algorithm: str, backbone: str, crop_size: int = CROP) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):  # GluonCV's PSPNet prints
        return GLUONCV[algorithm](CLASSES, backbone, pretrained_base=False, crop_size=crop_size)


def _build_ours(algorithm: str, backbone: str) -> SegmentationNetwork:
    network = build_network(algorithm, backbone, CLASSES)
    network.initialize(mx.init.Xavier(), force_reinit=True)
    return network


def _draw_batch(height: int, width: int, count: int = 1, seed: int = 0) -> Any:
    return mx.nd.array(np.random.default_rng(seed).normal(0, 1, (count, 3, height, width)).astype(np.float32))


def _stir_statistics(network: Any) -> None:
    """Give batch norms a mean and deviation of their own, so that swapped ones would show."""
    rng = np.random.default_rng(5)
    for name, parameter in network._collect_params_with_prefix().items():
        if name.endswith(("running_mean", "beta")):
            parameter.set_data(mx.nd.array(rng.normal(0, 0.1, parameter.shape)))
        elif name.endswith(("running_var", "gamma")):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape)))


def _assert_close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    a, b = found.asnumpy(), expected.asnumpy()
    assert a.shape == b.shape
    assert np.abs(b).max() > 0
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def _get_shapes(network: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in network._collect_params_with_prefix().items()}


@pytest.fixture(scope="class")
def network(algorithm: str) -> SegmentationNetwork:
    """One small network of each architecture; tests leave it as they found it."""
    network = _build_ours(algorithm, "resnet-18")
    network(_draw_batch(32, 32))  # works the shapes out
    _stir_statistics(network)
    return network


def _build_predictor(network: SegmentationNetwork, algorithm: str) -> Predictor:
    card = build_card(algorithm, "resnet-18", CLASSES)
    return Predictor(MXNetEngine(network, card), card)


@pytest.mark.parametrize("algorithm", list(GLUONCV), scope="class")
class TestArchitecture:
    """What holds for every architecture."""

    def test_parity_with_gluoncv_in_both_directions(self, algorithm: str, tmp_path: Path) -> None:
        ours, theirs = build_network(algorithm, "resnet-50", CLASSES), _build_theirs(algorithm, "resnet50")
        batch, path = _draw_batch(CROP, CROP), tmp_path / "network.params"
        theirs.initialize(mx.init.Xavier(), force_reinit=True)
        for source, target in ((theirs, ours), (ours, theirs)):
            source(batch)
            _stir_statistics(source)
            source.save_parameters(str(path))
            target.initialize(mx.init.Zero(), force_reinit=True)
            target.load_parameters(str(path))
            for found, expected in zip(target(batch), source(batch), strict=True):
                _assert_close(found, expected)
        # Other sizes go through GluonCV's predict, which sets the size first.
        odd = _draw_batch(40, 72)
        expected = theirs.predict(odd)
        _assert_close(ours.predict(odd), expected)
        _assert_close(ours(odd)[0], expected)
        load_params(ours, read_params(path), mx.cpu())
        _assert_close(ours.predict(odd), expected)

    @pytest.mark.parametrize("depth", ["101", "152"])
    def test_parameters_of_deeper_ones_are_gluoncvs(self, algorithm: str, depth: str) -> None:
        ours = _get_shapes(build_network(algorithm, f"resnet-{depth}", CLASSES))
        assert ours == _get_shapes(_build_theirs(algorithm, f"resnet{depth}"))

    @pytest.mark.parametrize("backbone", ["resnet-18", "resnet-34"])
    def test_heads_of_small_backbones(self, algorithm: str, backbone: str) -> None:
        shapes = _get_shapes(build_network(algorithm, backbone, CLASSES))
        first = {
            "fcn": "head.block.0.weight",
            "psp": "head.psp.conv1.0.weight",
            "deeplab": "head.aspp.concurent.0.0.weight",
        }
        assert shapes[first[algorithm]][1] == 512
        assert shapes["auxlayer.block.0.weight"][1] == 256
        assert shapes["head.block.4.weight"][0] == shapes["auxlayer.block.4.weight"][0] == CLASSES

    @pytest.mark.parametrize("size", [(8, 8), (9, 31), (17, 64), (33, 12), (70, 69)])
    def test_any_size(self, network: SegmentationNetwork, algorithm: str, size: tuple[int, int]) -> None:
        batch = _draw_batch(*size, count=2)
        outputs = network(batch)
        assert [output.shape for output in outputs] == [(2, CLASSES, *size)] * 2
        assert all(np.isfinite(output.asnumpy()).all() for output in outputs)
        # A picture's result does not depend on its neighbours in the batch.
        _assert_close(network(batch[1:])[0], outputs[0][1:])
        _assert_close(network.predict(batch), outputs[0], 0)

    @pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 5), (7, 8)])
    def test_the_smallest_pictures_are_predicted(
        self, network: SegmentationNetwork, algorithm: str, size: tuple[int, int]
    ) -> None:
        predictor = _build_predictor(network, algorithm)
        image = draw_noise(*size, seed=1)
        probabilities = predictor.predict_probabilities(image)
        assert probabilities.shape == (CLASSES, *size)
        np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
        mask = predictor.predict_mask(image)
        assert mask.shape == size
        assert mask.dtype == np.uint8
        assert (probabilities.argmax(axis=0) == mask).all()

    def test_threads_do_not_disturb_one_another(self, network: SegmentationNetwork, algorithm: str) -> None:
        predictor = _build_predictor(network, algorithm)
        rng = np.random.default_rng(2)
        images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((24, 40), (57, 33))] * 4
        alone = [predictor.predict_probabilities(image) for image in images]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(predictor.predict_probabilities, images))
        assert all((one == other).all() for one, other in zip(alone, together, strict=True))

    def test_a_call_changes_nothing_in_the_network(self, network: SegmentationNetwork, algorithm: str) -> None:
        batch = _draw_batch(32, 32)
        before, sizes = network(batch)[0], dict(network._up_kwargs)
        network.predict(_draw_batch(16, 48))
        network.demo(_draw_batch(48, 16))
        assert network._up_kwargs == sizes
        _assert_close(network(batch)[0], before, 0)

    def test_compiled_equals_imperative_for_changing_sizes(self, network: SegmentationNetwork, algorithm: str) -> None:
        batches = [_draw_batch(*size) for size in ((32, 32), (24, 56), (32, 32))]
        imperative = [network(batch) for batch in batches]
        network.hybridize(static_alloc=True)
        try:
            for batch, expected in zip(batches, imperative, strict=True):
                for found, one in zip(network(batch), expected, strict=True):
                    _assert_close(found, one)
        finally:
            network.hybridize(False)

    def test_heads_learn_ten_times_as_fast(self, network: SegmentationNetwork, algorithm: str) -> None:
        for name, parameter in network._collect_params_with_prefix().items():
            assert parameter.lr_mult == (10 if name.startswith(("head.", "auxlayer.")) else 1)

    def test_gradients_reach_every_parameter(self, network: SegmentationNetwork, algorithm: str) -> None:
        with mx.autograd.record():
            loss = sum(output.square().mean() for output in network(_draw_batch(24, 40, count=2)))
        loss.backward()
        for name, parameter in network._collect_params_with_prefix().items():
            if parameter.grad_req != "null":
                gradient = parameter.grad().asnumpy()
                assert np.isfinite(gradient).all(), name
                assert gradient.any(), name

    def test_without_auxiliary_head(self, algorithm: str) -> None:
        network = build_network(algorithm, "resnet-18", 2, aux=False)
        network.initialize(force_reinit=True)
        assert [output.shape for output in network(_draw_batch(16, 24))] == [(1, 2, 16, 24)]
        assert not any(name.startswith("auxlayer") for name in _get_shapes(network))


@pytest.mark.parametrize(
    ("name", "kind", "dataset"),
    [
        ("fcn_resnet18_voc", "FCN", "pascal_voc"),
        ("PSP_ResNet18_ADE", "PSPNet", "ade20k"),
        ("deeplab_resnet34_coco", "DeepLabV3", "coco"),
        ("psp_resnet18_citys", "PSPNet", "citys"),
    ],
)
def test_get_model_takes_gluoncvs_names(name: str, kind: str, dataset: str) -> None:
    network = get_model(name, pretrained_base=False)
    assert type(network).__name__ == kind
    assert network.nclass == datasets[dataset].NUM_CLASS
    assert network.classes == datasets[dataset].CLASSES


def test_get_segmentation_model_takes_gluoncvs_arguments() -> None:
    assert gluonseg.get_segmentation_model is get_segmentation_model
    assert gluonseg.get_model is get_model
    network = get_segmentation_model(
        "fcn", dataset="ade20k", backbone="resnet18", pretrained=False, root="~/nowhere", ctx=mx.cpu(0),
        pretrained_base=False, nclass=7, aux=False, base_size=300, crop_size=200,
        norm_layer=mx.gluon.nn.BatchNorm, norm_kwargs={"epsilon": 1e-3},
    )  # fmt: skip
    network.initialize(force_reinit=True)
    assert network.predict(_draw_batch(16, 16)).shape == (1, 7, 16, 16)
    assert (network.base_size, network.crop_size, network.aux) == (300, 200, False)
    assert not hasattr(network, "classes")


def test_pretrained_base_loads_the_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = _build_ours("fcn", "resnet-18")
    trained(_draw_batch(16, 16))
    _stir_statistics(trained)
    trained.save_parameters(str(tmp_path / "resnet18_v1b.params"))
    monkeypatch.setenv("GLUONSEG_PRETRAINED_DIR", str(tmp_path))
    network = get_segmentation_model("psp", backbone="resnet18", nclass=3)
    batch = _draw_batch(24, 24)
    for found, expected in zip(network.base_forward(batch), trained.base_forward(batch), strict=True):
        _assert_close(found, expected, 0)
    assert network.predict(batch).shape == (1, 3, 24, 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "fnc"}, r"unknown model 'fnc' \(did you mean fcn\?\); valid ones: fcn, psp, deeplab"),
        ({"model": "fcn", "backbone": "resnet-50"}, r"unknown backbone 'resnet-50' \(did you mean resnet50\?\)"),
        ({"model": "fcn", "dataset": "voc"}, r"unknown dataset 'voc'.*pascal_voc"),
    ],
)
def test_unknown_names(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        get_segmentation_model(**arguments, pretrained_base=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["fcn", "fcn_resnet50", "fcn_resnet50_imagenet", "fcn-resnet50-voc", ""])
def test_unknown_model_names(name: str) -> None:
    with pytest.raises(ModelError, match=r"names are MODEL_BACKBONE_DATASET with MODEL one of fcn, psp, deeplab"):
        get_model(name)


def test_unknown_parts_of_a_model_name() -> None:
    with pytest.raises(ModelError, match="unknown model 'unet'"):
        get_model("unet_resnet50_voc")
    with pytest.raises(ModelError, match="unknown backbone 'resnet20'"):
        get_model("fcn_resnet20_voc")
    with pytest.raises(ModelError, match="unknown backbone 'vgg16'"):
        build_network("fcn", "vgg16", 2)


def test_params_that_do_not_fit_change_nothing() -> None:
    network = _build_ours("fcn", "resnet-18")
    network(_draw_batch(16, 16))
    params = {name: parameter.data() * 0 for name, parameter in network._collect_params_with_prefix().items()}
    before = network.predict(_draw_batch(16, 16))
    name = "layer4.1.conv2.weight"
    wrong = {
        rf"{name} is missing": {key: value for key, value in params.items() if key != name},
        "other.weight is not known": {**params, "other.weight": params[name]},
        rf"parameter {name} has shape \(2, 512, 3, 3\), not \(512, 512, 3, 3\)": {**params, name: params[name][:2]},
        rf"parameter {name} has shape \(512, 512, 9\)": {**params, name: params[name].reshape((512, 512, 9))},
        rf"parameter {name} has shape \(512, 512\)": {**params, name: params[name].mean(axis=(2, 3))},
    }
    for message, given in wrong.items():
        with pytest.raises(ModelError, match=message):
            load_params(network, given, mx.cpu())
    _assert_close(network.predict(_draw_batch(16, 16)), before, 0)
    load_params(network, params, mx.cpu())
    assert not network.predict(_draw_batch(16, 16)).asnumpy().any()
