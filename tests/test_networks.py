"""The networks: one short class each, and what is particular to some."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo import deeplabv3, fcn, pspnet

from conftest import TINY
from gluonseg.errors import ModelError
from gluonseg.models.network import build_network, load_params
from gluonseg.models.params import read_params
from network_tester import CLASSES, Job, NetworkTester, assert_close, build_stirred, draw_batch

CROP = 64


def _get_shapes(network: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in network._collect_params_with_prefix().items()}


class GluonCVTester(NetworkTester):
    """A network that GluonCV has, too: its files and results are the same, both ways."""

    theirs: ClassVar[Any]

    def _build_theirs(self, backbone: str) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):  # GluonCV's PSPNet prints
            return self.theirs(CLASSES, backbone, pretrained_base=False, crop_size=CROP)

    def test_parity_with_gluoncv_in_both_directions(self, tmp_path: Path) -> None:
        ours, theirs = build_stirred(self.algorithm, "resnet-50"), self._build_theirs("resnet50")
        batch, path = draw_batch(CROP, CROP), tmp_path / "network.params"
        theirs.initialize(mx.init.Xavier(), force_reinit=True)
        for source, target in ((theirs, ours), (ours, theirs)):
            source(batch)
            source.save_parameters(str(path))
            target.initialize(mx.init.Zero(), force_reinit=True)
            target.load_parameters(str(path))
            for found, expected in zip(target(batch), source(batch), strict=True):
                assert_close(found, expected)
        # Other sizes go through GluonCV's predict, which sets the size first.
        odd = draw_batch(40, 72)
        assert_close(ours.predict(odd), theirs.predict(odd))
        load_params(ours, read_params(path), mx.cpu())
        assert_close(ours.predict(odd), theirs.predict(odd))


class TestFCN(GluonCVTester):
    algorithm, parameters, theirs = "fcn", 11_767_237, fcn.FCN
    backbones = ("resnet-18", "resnet-50")  # the encoders are those of all networks
    # test_checkpoint.py has it, for the same training.
    test_a_killed_training_goes_on_bit_for_bit = None  # type: ignore[assignment]

    @pytest.fixture(scope="class")
    @classmethod
    def job(cls, finished_job: Path, drawn_channels: Mapping[str, Path]) -> Job:
        return finished_job, drawn_channels, TINY

    @pytest.mark.parametrize("depth", ["101", "152"])
    def test_parameters_of_deeper_ones_are_gluoncvs(self, depth: str) -> None:
        ours = _get_shapes(build_network(self.algorithm, f"resnet-{depth}", CLASSES))
        assert ours == _get_shapes(self._build_theirs(f"resnet{depth}"))


class TestPSP(GluonCVTester):
    algorithm, parameters, theirs = "psp", 12_620_229, pspnet.PSPNet


class TestDeepLab(GluonCVTester):
    algorithm, parameters, theirs = "deeplab", 15_899_973, deeplabv3.DeepLabV3


class TestUNet(NetworkTester):
    # segmentation_models_pytorch.Unet("resnet18", classes=5) has as many.
    algorithm, parameters = "unet", 14_328_789
    backbones = ("resnet-18", "resnet-50")


class TestDeepLabPlus(NetworkTester):
    algorithm, parameters = "deeplabplus", 16_604_069


class TestSegNet(NetworkTester):
    algorithm, parameters = "segnet", 5_516_485
    backbones = ("resnet-18", "vgg-16")


class TestC1(NetworkTester):
    algorithm, parameters = "c1", 2_042_677
    backbones = ("mobilenet-v2", "resnet-18s")


class TestPPM(NetworkTester):
    algorithm, parameters = "ppm", 19_467_589
    backbones = ("mobilenet", "resnet-18s")


class TestUPerNet(NetworkTester):
    algorithm, parameters = "upernet", 40_780_869
    # TestUPerNetLite has what needs a training, for the same class with half the channels.
    test_a_tiny_training_serves_a_mask = None  # type: ignore[assignment]
    test_tiles_give_nearly_the_mask_of_the_whole = None  # type: ignore[assignment]
    test_int8_gives_nearly_the_same_mask = None  # type: ignore[assignment]
    test_a_killed_training_goes_on_bit_for_bit = None  # type: ignore[assignment]
    test_fine_tuning_with_other_classes = None  # type: ignore[assignment]


class TestUPerNetLite(NetworkTester):
    algorithm, parameters = "upernet-lite", 22_524_741
    backbones = ("resnet-18s",)


class TestHRNet(NetworkTester):
    algorithm, parameters = "hrnet", 9_725_544
    backbones = ("hrnet-w18",)


def test_deeplabs_rates_keep_their_distance_on_the_photo() -> None:
    """12, 24, 36 at output stride 8 and 6, 12, 18 at 16, as in section 3.3 of the paper."""
    for stride, rates in ((8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))):
        branches = build_network("deeplab", "resnet-18", 2, output_stride=stride).head.aspp.concurent
        assert [branches[number][0]._kwargs["dilate"] for number in (1, 2, 3)] == [(rate, rate) for rate in rates]


def test_unet_is_written_as_its_layers_are() -> None:
    """Two blocks computed by numpy's repeat: the first joins a feature, the last has none to join."""
    network = build_stirred("unet", "resnet-18")
    features = network.encode(draw_batch(64, 64))
    x = features[-1]
    for block, skip in zip(network.decoder, reversed(features[:-1]), strict=True):
        large = np.repeat(np.repeat(x.asnumpy(), 2, axis=2), 2, axis=3)
        joined = large if skip is features[0] else np.concatenate([large, skip.asnumpy()], axis=1)
        x = block.convolutions(mx.nd.array(joined))
    assert_close(network.classifier(x), network.predict(draw_batch(64, 64)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fnc", "resnet-18"), r"unknown algorithm 'fnc' \(did you mean fcn\?\); valid ones: fcn, psp, deeplab"),
        (("fcn", "vgg16"), r"fcn has no backbone 'vgg16' \(did you mean vgg-16\?\); valid ones: resnet-50, resnet-101"),
        (
            ("hrnet", "resnet-18"),
            r"hrnet has no backbone 'resnet-18' \(did you mean hrnet-w18\?\); valid ones: hrnet-w18, hrnet-w48; "
            "resnet-18 goes with fcn, psp",
        ),
        (("psp", "resnet-81"), r"psp has no backbone 'resnet-81' \(did you mean resnet-18\?\)"),
        (("fcn", "resnet-18", 4), r"output_stride of fcn must be 8 or 16 or 32; got 4"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(arguments: tuple[Any, ...], message: str) -> None:
    algorithm, backbone, *stride = arguments
    with pytest.raises(ModelError, match=message):
        build_network(algorithm, backbone, 2, output_stride=stride[0] if stride else None)


def test_params_that_do_not_fit_change_nothing() -> None:
    network = build_stirred("fcn", "resnet-18")
    params = {name: parameter.data() * 0 for name, parameter in network._collect_params_with_prefix().items()}
    before = network.predict(draw_batch(16, 16))
    name = "layer4.1.conv2.weight"
    wrong = {
        rf"{name} is missing": {key: value for key, value in params.items() if key != name},
        "other.weight is not known": {**params, "other.weight": params[name]},
        rf"parameter {name} has shape \(2, 512, 3, 3\), not \(512, 512, 3, 3\)": {**params, name: params[name][:2]},
    }
    for message, given in wrong.items():
        with pytest.raises(ModelError, match=message):
            load_params(network, given, mx.cpu())
    assert_close(network.predict(draw_batch(16, 16)), before, 0)
