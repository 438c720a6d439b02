"""CSAIL's decoders against forwards in numpy, which were written from their description and not from our code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gluonseg.models.network import build_network
from network_tester import CLASSES, build_stirred, draw_batch

Map = NDArray[np.float64]
"""One photo's features, (channels, rows, columns)."""


def resize_side(size: int, target: int) -> Map:
    """The matrix (target, size) of linear interpolation; the outer edges of both lie on one another."""
    matrix = np.zeros((target, size))
    for row in range(target):
        place = max((row + 0.5) * size / target - 0.5, 0)
        first = math.floor(place)
        matrix[row, first] += 1 - (place - first)
        matrix[row, min(first + 1, size - 1)] += place - first
    return matrix


def pool_side(size: int, bins: int) -> Map:
    """The matrix (bins, size) of means; a bin that begins or ends within a pixel takes all of it."""
    matrix = np.zeros((bins, size))
    for one in range(bins):
        start, end = math.floor(one * size / bins), math.ceil((one + 1) * size / bins)
        matrix[one, start:end] = 1 / (end - start)
    return matrix


def resize(x: Map, like: Map) -> Map:
    _, height, width = x.shape
    return resize_side(height, like.shape[1]) @ x @ resize_side(width, like.shape[2]).T


def pool(x: Map, bins: int) -> Map:
    _, height, width = x.shape
    return pool_side(height, bins) @ x @ pool_side(width, bins).T


class Parameters:
    """A network's parameters and the layers that have them, for one photo and not in training."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays: dict[str, Map] = {name: one.data().asnumpy().astype(np.float64) for name, one in arrays.items()}

    def convolve(self, x: Map, name: str) -> Map:
        weight = self.arrays[f"{name}.weight"]
        side = weight.shape[2]
        padded = np.pad(x, ((0, 0), *[(side // 2, side // 2)] * 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
        result = np.tensordot(weight, windows, axes=((1, 2, 3), (0, 3, 4)))
        return result + self.arrays.get(f"{name}.bias", np.zeros(len(weight)))[:, None, None]

    def cbr(self, x: Map, name: str) -> Map:
        """Convolution, batch norm, ReLU."""
        x = self.convolve(x, f"{name}.0")
        gamma, beta, mean, variance = (
            self.arrays[f"{name}.1.{part}"][:, None, None] for part in ("gamma", "beta", "running_mean", "running_var")
        )
        return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0)

    def classify(self, x: Map, name: str, last: int) -> Map:
        """3x3, batch norm, ReLU, then 1x1: the layer ``last`` of the list, behind the dropout, if there is one."""
        return self.convolve(self.cbr(x, name), f"{name}.{last}")


def compute_c1(p: Parameters, features: list[Map]) -> list[Map]:
    return [p.classify(features[-1], "head", 3), p.classify(features[-2], "auxlayer", 3)]


def compute_ppm(p: Parameters, features: list[Map]) -> list[Map]:
    x = features[-1]
    levels = [resize(p.cbr(pool(x, bins), f"head.ppm.{index}"), x) for index, bins in enumerate((1, 2, 3, 6))]
    assert all(len(level) == 512 for level in levels)
    output = p.classify(np.concatenate([x, *levels]), "head.conv_last", 4)
    return [output, p.classify(features[-2], "auxlayer", 4)]


def compute_upernet(p: Parameters, features: list[Map]) -> list[Map]:
    x = features[-1]
    levels = [p.cbr(resize(pool(x, bins), x), f"head.ppm_conv.{index}") for index, bins in enumerate((1, 2, 3, 6))]
    top = p.cbr(np.concatenate([x, *levels]), "head.ppm_last_conv")
    pyramid = [top]
    for index in (2, 1, 0):
        lateral = p.cbr(features[2 + index], f"head.fpn_in.{index}")
        top = lateral + resize(top, lateral)
        pyramid.insert(0, p.cbr(top, f"head.fpn_out.{index}"))
    fused = np.concatenate([resize(level, pyramid[0]) for level in pyramid])
    return [p.classify(fused, "head.conv_last", 3)]


def compute_hrnet(p: Parameters, features: list[Map]) -> list[Map]:
    joined = np.concatenate([resize(branch, features[2]) for branch in features[2:]])
    return [p.classify(joined, "head.c1", 3)]


@pytest.mark.parametrize(
    ("algorithm", "backbone", "compute"),
    [
        ("c1", "mobilenet-v2", compute_c1),
        ("ppm", "resnet-18s", compute_ppm),
        ("upernet", "resnet-18s", compute_upernet),
        ("upernet-lite", "resnet-18", compute_upernet),
        ("hrnet", "hrnet-w18", compute_hrnet),
    ],
)
def test_decoders_are_as_described(
    algorithm: str, backbone: str, compute: Callable[[Parameters, list[Map]], list[Map]]
) -> None:
    """At a size that no stride divides: the logits of all heads, coarse and at the photo's size."""
    network, batch = build_stirred(algorithm, backbone), draw_batch(45, 74)
    features = [one.asnumpy()[0].astype(np.float64) for one in network.encode(batch)]
    expected = compute(Parameters(network._collect_params_with_prefix()), features)
    coarse = [one.asnumpy()[0] for one in network.forward_coarse(batch)]
    large = [one.asnumpy()[0] for one in network(batch)]
    assert len(expected) == len(coarse) == len(large)
    for logits, found, enlarged in zip(expected, coarse, large, strict=True):
        assert logits.shape == (CLASSES, *(-(-side // network.output_stride) for side in (45, 74)))
        np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5 * np.abs(logits).max())
        np.testing.assert_allclose(enlarged, resize(logits, features[0]), rtol=0, atol=1e-5 * np.abs(logits).max())


@pytest.mark.parametrize(
    ("algorithm", "backbone", "shapes"),
    [
        ("c1", "resnet-50", {"head.0": (512, 2048, 3, 3), "auxlayer.0": (512, 1024, 3, 3), "head.3": (150, 512, 1, 1)}),
        ("ppm", "mobilenet-v2", {"head.ppm.0.0": (512, 320, 1, 1), "head.conv_last.0": (512, 320 + 4 * 512, 3, 3)}),
        (
            "upernet",
            "resnet-50",
            {"head.fpn_in.0.0": (512, 256, 1, 1), "head.fpn_out.2.0": (512, 512, 3, 3), "head.conv_last.3": (150, 512)},
        ),
        ("upernet-lite", "resnet-50", {"head.ppm_conv.3.0": (512, 2048), "head.ppm_last_conv.0": (256, 4096, 3, 3)}),
        ("hrnet", "hrnet-w48", {"head.c1.0": (180, 720, 3, 3), "head.c1.3": (150, 180, 1, 1)}),
    ],
)
def test_decoders_have_the_shapes_of_csails(
    algorithm: str, backbone: str, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    parameters = build_network(algorithm, backbone, 150)._collect_params_with_prefix()
    for name, shape in shapes.items():
        assert parameters[f"{name}.weight"].shape[: len(shape)] == shape, name
        assert (f"{name}.bias" in parameters) is (shape[0] == 150), name
