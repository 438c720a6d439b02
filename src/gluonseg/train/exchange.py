"""The gradients of a batch that several hosts share: one sum over the hosts in each step."""

from __future__ import annotations

import time
from typing import Any

import mxnet as mx
import numpy as np

from gluonseg.train.group import Group
from gluonseg.train.stop import Stop


class Exchange:
    """Makes the gradients of each host those of the whole batch.

    What goes through the network is one float32 vector: gradients and loss, both times the weight of the host's scored
    pixels, this weight, the running statistics of batch norm, and whether the host was asked to stop. So the update is
    that of one process with all crops, but that each batch norm normalises by the crops of its own device (Goyal et al.
    2017, arXiv:1706.02677, section 2.3). The running statistics become the mean over the hosts.

    ``seconds`` is the time that this has taken so far, waiting for slower hosts included.
    """

    def __init__(self, network: Any, group: Group, stop: Stop) -> None:
        self.seconds = 0.0
        self._network = network
        self._group = group
        self._stop = stop
        self.find_arrays()

    def find_arrays(self) -> None:
        """Look again which parameters are trained; call it when that has changed."""
        self._learned = [one for one in self._network.collect_params().values() if one.grad_req != "null"]
        self._statistics: list[Any] = []
        self._network.apply(self._add_statistics)
        sizes = [int(np.prod(one.shape)) for one in (*self._learned, *self._statistics)]
        *self._cuts, end = np.cumsum(sizes)
        self._gradients_end = int(sum(sizes[: len(self._learned)]))
        self._vector = np.zeros(int(end) + 3, np.float32)

    def _add_statistics(self, block: Any) -> None:
        # Batch norm that is frozen does not change its statistics, and the mean of equal values may differ by a bit.
        if isinstance(block, mx.gluon.nn.BatchNorm) and not block._kwargs["use_global_stats"]:
            self._statistics += [block.running_mean, block.running_var]

    def reduce(self, loss: float, weight: float) -> float:
        """Replace gradients and statistics by those of all hosts; returns the mean loss of the whole batch.

        ``loss`` is the mean over this host's scored pixels, which weigh ``weight``; its gradients are on all devices.
        """
        start = time.perf_counter()
        parts = np.split(self._vector[:-3], self._cuts)
        arrays = [one.list_grad()[0] for one in self._learned] + [one._reduce() for one in self._statistics]
        for part, array in zip(parts, arrays, strict=True):
            part[:] = array.asnumpy().ravel()
        self._vector[: self._gradients_end] *= np.float32(weight)
        self._vector[-3:] = loss * weight, weight, self._stop.asked is not None
        self._group.all_reduce(self._vector)
        total_loss, total_weight, asked = (float(value) for value in self._vector[-3:])
        total_weight = total_weight or 1.0
        self._vector[: self._gradients_end] /= np.float32(total_weight)
        self._vector[self._gradients_end : -3] /= np.float32(self._group.size)
        copies = [one.list_grad() for one in self._learned] + [one.list_data() for one in self._statistics]
        for part, devices in zip(parts, copies, strict=True):
            for array in devices:
                array[:] = part.reshape(array.shape)
        mx.nd.waitall()
        self._stop.settle(asked > 0)
        self.seconds += time.perf_counter() - start
        return total_loss / total_weight
