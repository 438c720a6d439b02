"""Whether the memory is enough for a training: the kernel kills a process that takes too much, without a message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gluonseg.errors import HyperparameterError
from gluonseg.hyperparameters import Hyperparameters
from gluonseg.machine.limits import find_memory_limit
from gluonseg.models.cost import compute_cost, compute_kept_bytes
from gluonseg.models.network import CoarseNetwork, build_network

_PROGRAM_BYTES = 200 << 20
"""Python, MXNet and the other libraries, at the least."""
_STATES = {"adam": 2, "rmsprop": 3, "adagrad": 1, "adadelta": 2}
"""Arrays that an optimizer keeps for each parameter; sgd and nag keep one if momentum is above 0."""


def estimate_bytes(hp: Hyperparameters) -> tuple[int, int]:
    """Bytes that a training on CPUs takes at the least: with a batch of any size, and for each crop in it."""
    options = {"aux": hp._aux_loss, "output_stride": hp.output_stride}
    network = CoarseNetwork(build_network(hp.algorithm, hp.backbone, hp.num_classes, **options))
    size = hp.crop_size, hp.crop_size
    parameters = 4 * compute_cost(network.network.predict_coarse, *size).parameters
    arrays = 2 + _STATES.get(hp.optimizer, int(hp.momentum > 0))  # the parameters themselves, and their gradients
    return _PROGRAM_BYTES + arrays * parameters, compute_kept_bytes(network, *size)


def check_memory(hp: Hyperparameters, batch_size: int, devices: Sequence[Any], limit: int | None = None) -> None:
    """Raise HyperparameterError when batches of ``batch_size`` crops cannot fit; the memory of GPUs is not looked at.

    ``limit`` is in bytes, by default the memory of this machine or container.
    """
    limit = find_memory_limit() if limit is None else limit
    if limit is None or any(device.device_type != "cpu" for device in devices):
        return
    fixed, each = estimate_bytes(hp)
    needed = fixed + batch_size * each
    if needed > limit:
        most = (limit - fixed) // each
        fix = f"lower mini_batch_size to {most} or less, or crop_size" if most > 0 else "lower crop_size"
        raise HyperparameterError(
            f"batches of {batch_size} crops of {hp.crop_size} pixels need at least {needed / 1e9:.1f} GB of memory "
            f"with {hp.algorithm} on {hp.backbone}, and there are {limit / 1e9:.1f} GB here; {fix}"
        )
