"""Each operator that has a translation: ONNX Runtime gives what MXNet gives, or the operator is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import contrib, nn

from gluonseg.errors import ModelError
from gluonseg.models.folder.card import build_card
from gluonseg.onnx.file import build_onnx_file, check_structure
from gluonseg.onnx.symbol import describe_symbol, parse_symbol
from gluonseg.onnx.trace import TRANSLATIONS, build_graph
from gluonseg.predict.onnx_engine import OnnxEngine
from picture import draw_noise

Compute = Callable[[Any, Any, Any], Any]
CENTRE = 5.0
"""About the mean of the input: with it taken off, half of the values are negative."""


class _Network(nn.HybridBlock):  # type: ignore[misc]
    """``compute(block, F, x)`` as a network; ``block`` is a layer with parameters."""

    def __init__(self, compute: Compute, block: Callable[[], Any] | None) -> None:
        super().__init__()
        self._compute = compute
        with self.name_scope():
            self.block = block() if block else nn.HybridSequential()

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self._compute(self.block, F, x)

    def predict_coarse(self, x: Any) -> Any:
        return self._compute(self.block, mx.sym, x)


def _build(compute: Compute, block: Callable[[], Any] | None = None) -> _Network:
    network = _Network(compute, block)
    network.initialize(mx.init.Normal(0.3))
    network(mx.nd.zeros((1, 3, 16, 16)))
    rng = np.random.default_rng(0)
    for name, parameter in network._collect_params_with_prefix().items():
        if name.endswith(("gamma", "running_var")):
            parameter.set_data(mx.nd.array(rng.uniform(0.01, 1.5, parameter.shape)))
        elif name.endswith(("beta", "running_mean", "bias")):
            parameter.set_data(mx.nd.array(rng.normal(0, 0.3, parameter.shape)))
    return network


def _translate(network: _Network, classes: int = 3) -> OnnxEngine:
    arrays = {name: one.data().asnumpy() for name, one in network._collect_params_with_prefix().items()}
    card = build_card("any", "any", max(2, classes), mean=(0.0, 0.0, 0.0), std=(0.1, 0.1, 0.1))
    file = build_onnx_file(build_graph(card, arrays, parse_symbol(describe_symbol(network).encode(), "it")), "it")
    check_structure(file.read(), "it")
    return OnnxEngine(file, card)


def _layer(block: Any, _F: Any, x: Any) -> Any:
    return block(x)


def _centred(block: Any, _F: Any, x: Any) -> Any:
    return block(x - CENTRE)


def _twice(block: Any, _F: Any, x: Any) -> Any:
    return block(block(x))


def _pool(**options: Any) -> tuple[Compute, None]:
    return lambda _block, F, x: F.Pooling(x - CENTRE, **options), None


def _pool_bins(bins: Any) -> tuple[Compute, None]:
    return lambda _block, F, x: F.contrib.AdaptiveAvgPooling2D(x, output_size=bins), None


def _resize(**options: Any) -> tuple[Compute, None]:
    small = {"kernel": (2, 2), "stride": (2, 2), "pool_type": "avg", "pooling_convention": "full"}
    return lambda _block, F, x: F.contrib.BilinearResize2D(F.Pooling(x, **small), x, mode="like", **options), None


def _operate(name: str, *others: str, **options: Any) -> tuple[Compute, None]:
    def compute(_block: Any, F: Any, x: Any) -> Any:
        values = [F.sigmoid(x - CENTRE), *(getattr(F, other)(x - CENTRE) + 2 for other in others)]
        return getattr(F, name)(*values, **options)

    return compute, None


CASES: dict[str, tuple[Compute, Callable[[], Any] | None]] = {
    "convolution": (_layer, lambda: nn.Conv2D(4, (3, 1), (2, 1), (2, 0), (2, 1), use_bias=False)),
    "convolution in groups": (_layer, lambda: nn.Conv2D(6, 3, groups=3, padding=1)),
    "transposed": (_layer, lambda: nn.Conv2DTranspose(4, 3, strides=2, padding=1, output_padding=1)),
    "transposed in groups": (_layer, lambda: nn.Conv2DTranspose(6, (4, 3), (2, 3), (1, 0), groups=3, use_bias=False)),
    "a block called twice": (_twice, lambda: nn.Conv2D(3, 3, padding=1)),
    "batch norm": (_layer, lambda: nn.BatchNorm(epsilon=1e-3)),
    "batch norm without scale": (_layer, lambda: nn.BatchNorm(scale=False)),
    "batch norm over devices": (_layer, lambda: contrib.nn.SyncBatchNorm(num_devices=1)),
    "leaky": (_centred, lambda: nn.LeakyReLU(0.3)),
    **{
        f"activation {name}": (_centred, partial(nn.Activation, name))
        for name in ("relu", "sigmoid", "tanh", "softrelu")
    },
    "max pooling": _pool(kernel=(3, 3), stride=(2, 2), pad=(1, 1)),
    "max pooling, full": _pool(kernel=(3, 3), stride=(2, 2), pad=(1, 1), pooling_convention="full"),
    "mean pooling": _pool(kernel=(3, 2), stride=(2, 2), pad=(1, 1), pool_type="avg"),
    "mean pooling of what is there": _pool(kernel=(3, 3), pad=(1, 1), pool_type="avg", count_include_pad=False),
    "mean of all": _pool(global_pool=True, pool_type="avg", kernel=(1, 1)),
    "greatest of all": _pool(global_pool=True, kernel=(1, 1)),
    **{f"mean over {bins} bins": _pool_bins(bins) for bins in (1, 3, (2, 3), (3, 1))},
    "bilinear": _resize(),
    "bilinear, edges aligned": _resize(align_corners=False),
    "bilinear to a size": (lambda _block, F, x: F.contrib.BilinearResize2D(x, height=11, width=5), None),
    "nearest": (lambda _block, F, x: F.UpSampling(x, scale=2, sample_type="nearest"), None),
    "cut to a size": (lambda _block, F, x: F.slice_like(F.concat(x, x, dim=3), x, axes=(2, 3)), None),
    "spread": (lambda _block, F, x: F.broadcast_like(F.mean(x, axis=(2, 3), keepdims=True), x, (2, 3), (2, 3)), None),
    "edges repeated": (lambda _block, F, x: F.pad(x, mode="edge", pad_width=(0, 0, 0, 0, 1, 2, 0, 3)), None),
    "clip": _operate("clip", a_min=0.2, a_max=0.6),
    "sum of several": _operate("add_n", "sigmoid", "tanh"),
    "concatenated": (lambda _block, F, x: F.concat(x, F.relu(x - CENTRE), dim=1), None),
    "scalars": (lambda _block, F, x: ((x - CENTRE) * 2 + 1) / 3, None),
    "dropout": (_layer, lambda: nn.Dropout(0.5)),
    **{
        f"{kind} {name}": _operate(f"{kind}_{name}", "tanh")
        for kind in ("elemwise", "broadcast")
        for name in ("add", "sub", "mul", "div")
    },
}  # fmt: skip


@pytest.mark.parametrize(("compute", "block"), CASES.values(), ids=CASES.keys())
def test_onnx_runtime_gives_what_mxnet_gives(compute: Compute, block: Callable[[], Any] | None) -> None:
    network = _build(compute, block)
    engine = _translate(network, network(mx.nd.zeros((1, 3, 16, 16))).shape[1])
    for seed, size in enumerate([(8, 8), (9, 13), (33, 20)]):
        images = np.stack([draw_noise(*size, seed=seed), draw_noise(*size, seed=seed + 9)])
        wanted = network(mx.nd.array(images.transpose(0, 3, 1, 2) / 25.5)).asnumpy()
        found = engine.compute_logits(images)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1e-9, float(np.abs(wanted).max())))


REFUSED: dict[str, tuple[tuple[Compute, Any], str]] = {
    "no translation": (_operate("topk"), r"the operator topk \(\S*topk0\) has no translation to ONNX; docs"),
    "padding alone": (_pool(kernel=(2, 2), stride=(3, 3), pooling_convention="full"), "windows that begin in the pad"),
    "always dropping": (_operate("Dropout", mode="always"), "Dropout .* has mode 'always', which is not translated"),
    "another slope": (_operate("LeakyReLU", act_type="elu"), "LeakyReLU .* has act_type 'elu', which is not"),
}  # fmt: skip


@pytest.mark.parametrize(("case", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_translated_is_named(case: tuple[Compute, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        _translate(_build(*case))


def test_every_translation_is_tried() -> None:
    """By the cases here: the symbols of all of them together have every operator."""
    tried = {
        node.kind
        for compute, block in CASES.values()
        for node in parse_symbol(describe_symbol(_build(compute, block)).encode(), "it")
    }
    assert set(TRANSLATIONS) - tried <= {"_copy"}
