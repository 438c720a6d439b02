"""Whether the memory is enough for a training: the kernel ends a process that holds too much, without a word."""

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
"""Arrays that an optimizer keeps for each parameter; of the others momentum decides."""


def estimate_bytes(hp: Hyperparameters) -> tuple[int, int]:
    """Bytes that a training on CPUs holds at the least: whatever the batch is, and for each crop of it."""
    options = {"aux": hp._aux_loss, "output_stride": hp.output_stride}
    network = CoarseNetwork(build_network(hp.algorithm, hp.backbone, hp.num_classes, **options))
    size = hp.crop_size, hp.crop_size
    parameters = 4 * compute_cost(network.network.predict_coarse, *size).parameters
    arrays = 2 + _STATES.get(hp.optimizer, int(hp.momentum > 0))  # the parameters themselves, and their gradients
    return _PROGRAM_BYTES + arrays * parameters, compute_kept_bytes(network, *size)


def check_memory(
    hp: Hyperparameters,
    batch_size: int,
    validation_batch_size: int,
    devices: Sequence[Any],
    limit: int | None = None,
) -> None:
    """Raise HyperparameterError when batches of these sizes cannot fit; of GPUs nothing is known before.

    ``limit`` is in bytes, by default what there is.
    """
    limit = find_memory_limit() if limit is None else limit
    if limit is None or any(device.device_type != "cpu" for device in devices):
        return
    fixed, each = estimate_bytes(hp)
    # In validation at least the crops and what the first layer makes of them are held: 64 channels of half the side.
    each_of_validation = 4 * hp.crop_size**2 * (3 + 64 // 4)
    for name, count, size in (
        ("mini_batch_size", batch_size, each),
        ("validation_mini_batch_size", validation_batch_size, each_of_validation),
    ):
        needed = fixed + count * size
        if needed > limit:
            most = (limit - fixed) // size
            fix = f"lower {name} to {most} or less, or crop_size" if most > 0 else "lower crop_size"
            raise HyperparameterError(
                f"batches of {count} crops of {hp.crop_size} pixels need at least {needed / 1e9:.1f} GB of memory "
                f"with {hp.algorithm} on {hp.backbone}, and there are {limit / 1e9:.1f} GB here; {fix}"
            )
