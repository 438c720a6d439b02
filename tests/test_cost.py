"""Parameters and multiply-accumulates, against values worked out by hand and published ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from gluoncv.model_zoo import get_model
from mxnet.gluon import nn

from gluonseg.models.card import build_card, read_card
from gluonseg.models.cost import Cost, compute_cost, compute_served_cost
from gluonseg.models.params_file import read_params


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
    cost = compute_served_cost(read_card(trained_model / "model_card.json"), 40, 56)
    assert cost.parameters == sum(math.prod(shape) for shape in served)


@pytest.mark.parametrize(("algorithm", "channels"), [("fcn", 128), ("psp", 128), ("deeplab", 256)])
def test_a_further_class_is_one_filter_at_an_eighth_of_the_size(algorithm: str, channels: int) -> None:
    few, more = (compute_served_cost(build_card(algorithm, "resnet-18", classes), 97, 160) for classes in (3, 4))
    assert more.parameters - few.parameters == channels + 1
    assert more.macs - few.macs == channels * 13 * 20
