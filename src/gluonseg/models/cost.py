"""What a network costs: its parameters, and the multiply-accumulates of one picture.

Counted from the network's graph and the shapes in it; nothing is computed. As is usual, one multiply-accumulate is
one multiplication with its addition in a convolution or dense layer; norms, activations, pooling and resizing are
not counted. Parameters are those that training changes, not the running means and variances of the batch norms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mxnet as mx

from gluonseg.models.card import ModelCard
from gluonseg.models.network import build_network

_COUNTED = ("Convolution", "FullyConnected", "Deconvolution")
_KEPT = ("Convolution", "Deconvolution", "Activation", "LeakyReLU", "relu", "clip")
_INPUT = "data"


@dataclass(frozen=True)
class Cost:
    """Parameters of a network, and multiply-accumulates (``macs``) for one picture."""

    parameters: int
    macs: int


def compute_cost(run: Callable[[Any], Any], height: int, width: int) -> Cost:
    """Cost of ``run``, a hybrid block or one of its methods, for one picture (1, 3, height, width)."""
    symbol = run(mx.sym.var(_INPUT))
    shape = {_INPUT: (1, 3, height, width)}
    arguments, _, _ = symbol.infer_shape(**shape)
    sizes = {name: math.prod(size) for name, size in zip(symbol.list_arguments(), arguments, strict=True)}
    return Cost(sum(sizes.values()) - sizes[_INPUT], _count_macs(symbol, shape))


def _count_macs(symbol: Any, shape: Mapping[str, tuple[int, ...]]) -> int:
    nodes = json.loads(symbol.tojson())["nodes"]
    _, outputs, _ = symbol.get_internals().infer_shape(**shape)
    macs = 0
    # Each node has one visible output here, in the order of the nodes.
    for node, output in zip(nodes, outputs, strict=True):
        if node["op"] in _COUNTED:
            # (filters, channels a group, kernel height, kernel width), or (units, inputs).
            weight = outputs[node["inputs"][1][0]]
            # A transposed convolution uses its weights once for each input.
            places = outputs[node["inputs"][0][0]] if node["op"] == "Deconvolution" else output
            macs += math.prod(places) * math.prod(weight[1:])
    return macs


def compute_served_cost(card: ModelCard, height: int, width: int) -> Cost:
    """Cost of a model as it is served, without its auxiliary head, for a network input of (height, width) pixels."""
    network = build_network(
        card.algorithm, card.backbone, card.num_classes, aux=False, output_stride=card.output_stride
    )
    return compute_cost(network.predict_coarse, height, width)


def compute_kept_bytes(run: Callable[[Any], Any], height: int, width: int) -> int:
    """Bytes that a training step keeps of the forward pass of one picture (1, 3, height, width), at the least.

    The backward pass needs what goes into each batch norm, which convolutions give, and what goes into each
    convolution, which activations give; float32. Parameters are not counted.
    """
    symbol = run(mx.sym.var(_INPUT))
    symbol = mx.sym.Group(list(symbol)) if isinstance(symbol, tuple | list) else symbol
    nodes = json.loads(symbol.tojson())["nodes"]
    _, outputs, _ = symbol.get_internals().infer_shape(**{_INPUT: (1, 3, height, width)})
    kept: int = sum(math.prod(out) for node, out in zip(nodes, outputs, strict=True) if node["op"] in _KEPT)
    return 4 * kept
