"""The encoders beside GluonCV's classifiers: same parameters, same features; dilated ones beside plain ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo import get_model
from gluoncv.model_zoo.hrnet import HRNET_SPEC, HighResolutionBaseNet

from gluonseg.errors import ModelError
from gluonseg.models.network import build_network
from gluonseg.models.registry import find_encoder, load_object
from network_tester import CLASSES, assert_close, draw_batch

LISTS = ("mobilenet", "mobilenet-v2", "vgg-16")
"""The encoders whose layers are one list in GluonCV."""


def build_encoder(name: str, output_stride: int = 32, **options: Any) -> Any:
    encoder = load_object(find_encoder(name).build)(name, output_stride, **options)
    encoder.initialize(mx.init.Xavier())
    encoder(draw_batch(32, 32))  # works the shapes out
    return encoder


def list_parameters(block: Any, parts: tuple[str, ...]) -> set[str]:
    """Names of the parameters of those children."""
    return {name for name in block._collect_params_with_prefix() if name.partition(".")[0] in parts}


def run_layers(layers: Any, batch: Any) -> list[Any]:
    """The last output of each size."""
    outputs = {}
    for layer in layers:
        batch = layer(batch)
        outputs[batch.shape[2:]] = batch
    return list(outputs.values())


@pytest.mark.parametrize("name", LISTS)
def test_features_are_those_of_gluoncvs_classifier_in_both_directions(name: str, tmp_path: Path) -> None:
    """At a size that every stride divides; GluonCV's poolings round other sizes down."""
    ours, theirs = build_encoder(name), get_model(find_encoder(name).gluoncv, pretrained=False).features
    for behind in list(theirs._children)[len(ours.features) :]:
        del theirs._children[behind]
    theirs.initialize(mx.init.Xavier())
    batch, path = draw_batch(64, 96), tmp_path / "encoder.params"
    theirs(batch)
    for source, target in ((theirs, ours.features), (ours.features, theirs)):
        source.save_parameters(str(path))
        target.initialize(mx.init.Zero(), force_reinit=True)
        target.load_parameters(str(path))
        expected = run_layers(theirs, batch)
        # VGG's first layers have the size of the photo, which stands first in its place.
        expected = [one for one in expected if one.shape[2:] != batch.shape[2:]]
        for found, one in zip(ours(batch)[1:], expected, strict=True):
            assert_close(found, one)


def test_hrnets_branches_are_gluoncvs() -> None:
    """Also at sizes that no stride divides."""
    ours, theirs = build_encoder("hrnet-w18"), HighResolutionBaseNet(HRNET_SPEC["w18"], "bilinear_like")
    theirs.initialize()
    for size in ((64, 96), (45, 74)):
        batch = draw_batch(*size)
        theirs(batch)
        parameters = theirs._collect_params_with_prefix()
        for key, parameter in ours._collect_params_with_prefix().items():
            parameters[key].set_data(parameter.data())
        _, stem, *branches = ours(batch)
        assert stem.shape == (1, 64, *(-(-side // 2) for side in size))
        for found, expected in zip(branches, theirs(batch), strict=True):
            assert_close(found, expected)


@pytest.mark.parametrize("name", [*LISTS, "hrnet-w18", "hrnet-w48"])
def test_parameters_have_their_names_in_gluoncv(name: str) -> None:
    """In a segmentation network; of GluonCV's classifier only what comes behind the encoder is not there."""
    encoder = load_object(find_encoder(name).build)(name, 32)
    ours = list_parameters(build_network("unet", name, CLASSES), encoder.parts)
    theirs = list_parameters(get_model(find_encoder(name).gluoncv, pretrained=False), encoder.parts)
    behind = {"mobilenet-v2": ("features.20.", "features.21."), "vgg-16": ("features.44.", "features.46.")}
    assert ours == {key for key in theirs if not key.startswith(behind.get(name, ("none",)))}


@pytest.mark.parametrize("name", ["resnet-18", "resnet-18s", "resnet-50", "mobilenet", "mobilenet-v2", "vgg-16"])
def test_dilated_encoders_give_what_the_plain_one_gives_and_more(name: str) -> None:
    """With dilation in place of a stride the values are those of the plain network, and there are some between them.

    Where VGG has a pooling and no stride, the pooling is left out, so only sizes are equal.
    """
    batch, features = draw_batch(96, 130), {}
    plain = build_encoder(name)
    for stride in (32, 16, 8):
        encoder = build_encoder(name, stride)
        for target, source in zip(encoder.collect_params().values(), plain.collect_params().values(), strict=True):
            if source.shape and 0 not in source.shape:  # a classifier's layer behind the encoder has no values
                target.set_data(source.data())
        features[stride] = encoder(batch)
        assert len(features[stride]) == 6
        for feature, channels, reduced in zip(features[stride], encoder.channels, encoder.strides, strict=True):
            assert feature.shape == (1, channels, -(-96 // reduced), -(-130 // reduced))
    if name != "vgg-16":
        assert_close(features[16][-1][:, :, ::2, ::2], features[32][-1])
        assert_close(features[8][-1][:, :, ::4, ::4], features[32][-1])
        assert_close(features[8][-2][:, :, ::2, ::2], features[16][-2])


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1)])
def test_vggs_poolings_round_up(size: tuple[int, int]) -> None:
    batch = draw_batch(*size)
    halve = build_encoder("vgg-16").features[6]
    padded = np.pad(batch.asnumpy(), ((0, 0), (0, 0), *((0, side % 2) for side in size)), mode="edge")
    height, width = padded.shape[2] // 2, padded.shape[3] // 2
    expected = padded.reshape(1, 3, height, 2, width, 2).max(axis=(3, 5))
    np.testing.assert_array_equal(halve(batch).asnumpy(), expected)


@pytest.mark.parametrize("name", ["resnet-18", *LISTS])
def test_stages_that_are_left_out_have_no_parameters(name: str) -> None:
    batch, full = draw_batch(32, 64), build_encoder(name)
    part = build_encoder(name, stages=4)
    assert part.channels == full.channels[:-1]
    assert [one.shape for one in part(batch)] == [one.shape for one in full(batch)[:-1]]
    whole = list_parameters(full, full.parts)
    assert list_parameters(part, part.parts) <= whole
    if name != "vgg-16":  # whose last stage is a pooling alone
        assert list_parameters(part, part.parts) < whole


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        ("mobilenet", 4, "mobilenet has the output strides 32, 16, 8, not 4; a network .* sets encoder_stride"),
        ("hrnet-w18", 8, "hrnet-w18 has branches of the strides 4 to 32 and no output stride 8"),
    ],
)
def test_output_strides_that_do_not_exist_are_refused(name: str, stride: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_object(find_encoder(name).build)(name, stride)
