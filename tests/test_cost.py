"""Parameters and multiply-accumulates, against values worked out by hand and published ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gluoncv.model_zoo import get_model
from mxnet.gluon import nn
from onnx import TensorProto, helper, numpy_helper

from gluonseg.errors import ModelError
from gluonseg.models.cost import Cost, compute_cost, compute_graph_cost
from gluonseg.models.params import read_params
from gluonseg.predict.predictor import load_predictor


def test_a_small_network_by_hand() -> None:
    network = nn.HybridSequential()
    network.add(
        nn.Conv2D(8, kernel_size=3, strides=2, padding=1, use_bias=False),  # 10x14 -> 5x7
        nn.BatchNorm(),
        nn.Activation("relu"),
        nn.Conv2D(12, kernel_size=(1, 3), groups=4, padding=(0, 2), dilation=(1, 2)),
        nn.GlobalAvgPool2D(),
        nn.Dense(5),
    )
    parameters = 8 * 3 * 9 + 2 * 8 + (12 * 2 * 3 + 12) + (12 * 5 + 5)
    macs = 5 * 7 * 8 * 3 * 9 + 5 * 7 * 12 * 2 * 3 + 12 * 5
    assert compute_cost(network, 10, 14) == Cost(parameters, macs)


def test_a_block_used_twice_counts_twice_but_is_stored_once() -> None:
    convolution = nn.Conv2D(3, kernel_size=3, padding=1, use_bias=False)
    assert compute_cost(lambda x: convolution(convolution(x)), 6, 5) == Cost(81, 2 * 6 * 5 * 81)


def _build_graph(sizes: str) -> bytes:
    """A small graph whose last convolution is on an array of the size ``sizes``, an array of the graph."""
    shapes = {"w": (8, 3, 3, 3), "scale": (8,), "mean": (8,), "t": (8, 2, 2, 2), "bias": (4,), "v": (5, 4, 1, 1)}
    arrays: dict[str, Any] = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    arrays |= {"zeros": np.array([0, 0]), "axes": np.array([2, 3])}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),  # 10x14 -> 5x7
        helper.make_node("BatchNormalization", ["a", "scale", "scale", "mean", "mean"], ["b"]),
        helper.make_node("ConvTranspose", ["b", "t", "bias"], ["c"], group=2, strides=[2, 2]),
        helper.make_node("Shape", ["x"], ["measured"], start=2),
        helper.make_node("Slice", ["c", "zeros", sizes, "axes"], ["d"]),
        helper.make_node("Conv", ["d", "v"], ["e"], name="last"),
    ]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3]),
        helper.make_tensor_value_info("other", TensorProto.INT64, [2]),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "small", inputs, [], constants)
    model: bytes = helper.make_model(graph).SerializeToString()
    return model


def test_a_graph_by_hand() -> None:
    parameters = 8 * 3 * 9 + 8 + (8 * 2 * 4 + 4) + 5 * 4
    macs = 5 * 7 * 8 * 3 * 9 + 5 * 7 * 8 * 2 * 4 + 10 * 14 * 5 * 4
    assert compute_graph_cost(_build_graph("measured"), 10, 14) == Cost(parameters, macs)


def test_a_size_that_is_not_known_is_told() -> None:
    with pytest.raises(ModelError, match="cannot be counted: the size in last is not known"):
        compute_graph_cost(_build_graph("other"), 10, 14)


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"), [("resnet18_v1b", 11_689_512, 1.81), ("resnet50_v1b", 25_557_032, 4.09)]
)
def test_published_figures(name: str, parameters: int, gmacs: float) -> None:
    """num_params and GFLOPS of the same networks in https://pytorch.org/vision/stable/models."""
    cost = compute_cost(get_model(name, pretrained=False), 224, 224)
    assert (cost.parameters, round(cost.macs / 1e9, 2)) == (parameters, gmacs)


def test_parameters_are_those_of_the_file_without_auxiliary_head_and_statistics(trained_model: Path) -> None:
    params = read_params(trained_model / "model_best.params")
    assert any(name.startswith("auxlayer.") for name in params)
    served = [
        array.shape
        for name, array in params.items()
        if not name.startswith("auxlayer.") and not name.endswith(("running_mean", "running_var"))
    ]
    cost = load_predictor(trained_model).engine.compute_cost(40, 56)
    assert cost.parameters == sum(math.prod(shape) for shape in served)
