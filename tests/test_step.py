"""One update: gradients as at full size, class ids as the network is now, several devices, learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt
import pytest

from conftest import TINY
from gluonseg.data.loader import Batch
from gluonseg.hyperparameters import Hyperparameters, parse_hyperparameters
from gluonseg.labels import IGNORE
from gluonseg.models.network import build_network
from gluonseg.predict.mxnet_engine import normalise_images
from gluonseg.train.exchange import Exchange
from gluonseg.train.freeze import Freeze
from gluonseg.train.group import Group
from gluonseg.train.job import build_trainer
from gluonseg.train.losses import MixedLoss, build_weight_table
from gluonseg.train.start import build_start_network
from gluonseg.train.step import Stepper
from gluonseg.train.stop import Stop

WEIGHTS = build_weight_table(4, (1, 2, 1, 0.5))
RATE = 0.01


def parse_tiny(**changes: str) -> Hyperparameters:
    return parse_hyperparameters({**TINY, **changes})


def draw_batch(count: int = 3, size: int = 56, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    class_ids = rng.integers(0, 4, (count, size, size)).astype(np.uint8)
    class_ids[0, : size // 2] = IGNORE  # the parts of a batch have different numbers of scored pixels
    return Batch(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8), class_ids)


def _build(hp: Hyperparameters) -> tuple[Any, Stepper]:
    network = build_start_network(hp, [mx.cpu()])
    trainer = mx.gluon.Trainer(network.collect_params(), "sgd", {"momentum": 0.9}, kvstore=None)
    return network, Stepper(network, MixedLoss(4, hp._aux_weight), trainer, [mx.cpu()], WEIGHTS)


def _read_gradients(network: Any) -> Mapping[str, npt.NDArray[np.float32]]:
    parameters = network._collect_params_with_prefix().items()
    return {name: parameter.grad().asnumpy() for name, parameter in parameters if parameter.grad_req != "null"}


def _differentiate_at_full_size(network: Any, batch: Batch, aux_weight: float) -> float:
    """The mean loss, of the outputs at the size of the masks, and its gradients, left in the network."""
    weights = WEIGHTS[batch.class_ids]
    with mx.autograd.record():
        outputs = network(mx.nd.array(normalise_images(batch.images)))
        total = MixedLoss(4, aux_weight)(
            mx.nd.array(batch.class_ids.astype(np.float32)), mx.nd.array(weights), *outputs
        )
        loss = total / weights.sum()
    loss.backward()
    return float(loss.asscalar())


@pytest.mark.parametrize("changes", [{}, {"algorithm": "deeplab", "_aux_loss": "False"}])
def test_gradients_are_those_of_the_outputs_at_full_size(changes: Mapping[str, str]) -> None:
    hp, batch = parse_tiny(**changes), draw_batch()
    network, _ = _build(hp)
    mx.random.seed(1)  # dropout
    expected_loss = _differentiate_at_full_size(network, batch, hp._aux_weight)
    expected = _read_gradients(network)
    network, stepper = _build(hp)
    mx.random.seed(1)
    assert stepper.update(batch, RATE) == pytest.approx(expected_loss, rel=1e-5)
    found = _read_gradients(network)
    greatest = max(np.abs(gradient).max() for gradient in expected.values())
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert np.abs(gradient - expected[name]).max() <= 1e-5 * greatest, name


def test_a_stepper_leaves_the_networks_outputs_at_full_size() -> None:
    network, stepper = _build(parse_tiny())
    batch = draw_batch()
    stepper.update(batch, RATE)
    assert [output.shape for output in network(mx.nd.zeros((1, 3, 40, 24)))] == [(1, 4, 40, 24)] * 2
    stepper.update(batch, RATE)


def test_predict_is_the_greatest_of_the_outputs_as_they_are_now() -> None:
    network, stepper = _build(parse_tiny())
    batch = draw_batch(4)
    seen = []
    for _ in range(2):
        stepper.update(batch, 0.1)
        seen.append(stepper.predict(batch.images))
        expected = network(mx.nd.array(normalise_images(batch.images)))[0].argmax(axis=1).asnumpy()
        assert seen[-1].dtype == np.uint8
        assert (seen[-1] == expected).all()
    assert (seen[0] != seen[1]).any()


def test_a_backbone_frozen_after_the_first_update_works_as_in_prediction() -> None:
    hp, batch = parse_tiny(), draw_batch()
    network, stepper = _build(hp)
    stepper.update(batch, RATE)
    assert Freeze(network, 1, ("head.", "auxlayer.")).begin_epoch(0)
    stepper.forget_compiled()
    mx.random.seed(1)
    expected = _differentiate_at_full_size(network, batch, hp._aux_weight)
    mx.random.seed(1)
    assert stepper.update(batch, RATE) == pytest.approx(expected, rel=1e-5)


# Several devices, the learning rate, and nothing to learn from.


def build_steady(devices: list[Any], hp: Hyperparameters, group: Group | None = None) -> tuple[Any, Stepper]:
    """A network in which no picture depends on another, with fixed statistics and no dropout, and its stepper."""
    mx.random.seed(3)
    network = build_network("fcn", "resnet-18", 4, ctx=devices, norm_kwargs={"use_global_stats": True})
    network.initialize(mx.init.Xavier(), ctx=devices, force_reinit=True)

    def disable(block: Any) -> None:
        if isinstance(block, mx.gluon.nn.Dropout):
            block._rate = 0

    network.apply(disable)
    network.hybridize(static_alloc=True)
    network(mx.nd.zeros((1, 3, 24, 24), ctx=devices[0]))
    exchange = Exchange(network, group, Stop()) if group else None
    trainer = build_trainer(hp, network, len(devices), updates_on_devices=exchange is not None)
    return network, Stepper(network, MixedLoss(4, hp._aux_weight), trainer, devices, WEIGHTS, exchange=exchange)


def read_values(network: Any) -> Mapping[str, npt.NDArray[np.float32]]:
    return {name: one.data(mx.cpu()).asnumpy() for name, one in network._collect_params_with_prefix().items()}


@pytest.mark.parametrize(("kvstore", "count"), [("device", 3), ("local", 1)])
def test_several_devices_update_as_one(kvstore: str, count: int, tmp_path: Path) -> None:
    """An uneven cut, and more devices than pictures."""
    saved: list[Mapping[str, Any]] = []
    losses, file = [], str(tmp_path / "start.params")
    for devices in ([mx.cpu(0)], [mx.cpu(0), mx.cpu(1)]):
        network, stepper = build_steady(devices, parse_tiny(_kvstore=kvstore, momentum="0.9"))
        if saved:
            network.load_parameters(file, ctx=devices)
        else:
            network.save_parameters(file)
        start = read_values(network)
        losses.append([stepper.update(draw_batch(count, 24, n), 0.05) for n in range(2)])
        saved.append(read_values(network))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    for name, value in saved[0].items():
        moved = np.abs(value - start[name]).max()
        np.testing.assert_allclose(saved[1][name], value, atol=1e-3 * moved + 1e-7, err_msg=name)
    assert np.abs(saved[0]["head.block.4.weight"] - start["head.block.4.weight"]).max() > 1e-4


@pytest.mark.parametrize("rate", [0.01, 0.02])
def test_the_learning_rate_is_used_and_ten_times_for_heads(rate: float) -> None:
    network, stepper = build_steady([mx.cpu()], parse_tiny(momentum="0", weight_decay="0"))
    before = read_values(network)
    stepper.update(draw_batch(2, 24), rate)
    after, gradients = read_values(network), _read_gradients(network)
    for name, factor in {"head.block.4.weight": 10, "layer4.1.conv2.weight": 1}.items():
        ratio = np.abs(before[name] - after[name]).sum() / np.abs(gradients[name]).sum()
        assert ratio == pytest.approx(factor * rate, rel=1e-2)


def test_a_batch_without_a_scored_pixel_changes_nothing_but_decay() -> None:
    network, stepper = build_steady([mx.cpu()], parse_tiny(weight_decay="0"))
    batch, before = draw_batch(2, 24), read_values(network)
    loss = stepper.update(Batch(batch.images, np.full_like(batch.class_ids, IGNORE)), 0.1)
    assert loss == 0
    name = "layer1.0.conv1.weight"
    assert (read_values(network)[name] == before[name]).all()
