"""The hosts that train together. One host, as here, tells nobody; several do in :mod:`gluonseg.sagemaker.hosts`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from gluonseg.errors import UserError
from gluonseg.metrics import Confusion
from gluonseg.text import shorten
from gluonseg.train.stop import Stop

T = TypeVar("T")


class Group:
    """The hosts of a training by name, of which this one is ``names[rank]``.

    ``sharded`` has the splits (train, validation) of which each host has photos of its own; of the others all hosts
    have the same photos. All hosts must call what follows in the same order.
    """

    def __init__(self, names: Sequence[str] = ("algo-1",), rank: int = 0) -> None:
        self.names = tuple(names)
        self.rank = rank
        self.sharded: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """The number of hosts."""
        return len(self.names)

    def all_gather(self, value: Any) -> list[Any]:
        """What each host gives, in the order of ``names``; something that JSON can say."""
        return [value]

    def broadcast(self, content: bytes) -> bytes:
        """What the first host gives."""
        return content

    def all_reduce(self, vector: npt.NDArray[np.float32]) -> None:
        """Replace ``vector`` by the sum of those of all hosts, which has the same bits on each."""

    def sum_confusions(self, own: Confusion) -> Confusion:
        """The pixels that all hosts have counted."""
        return Confusion(np.asarray(np.sum(self.all_gather(own.matrix.tolist()), axis=0), np.int64))

    def agree_stop(self, stop: Stop) -> None:
        """Raise Stopped on all hosts when one of them was asked to stop."""
        stop.settle(any(self.all_gather(stop.asked is not None)))
        stop.check()

    def run_together(self, work: Callable[[], T]) -> T:
        """Return what ``work`` gives; an error on one host is raised on all."""
        try:
            value, own_error = work(), None
        except Exception as error:
            own_error = error
        errors = self.all_gather(own_error and f"{type(own_error).__name__}: {own_error}")
        if own_error:
            raise own_error
        for name, text in zip(self.names, errors, strict=True):
            if text:
                raise UserError(f"host {name}: {text}")
        return value

    def check_same(self, values: Mapping[str, str]) -> None:
        """Raise UserError on all hosts when the values of one differ from those of the first."""

        def show(found: Mapping[str, str], name: str) -> str:
            return shorten(found.get(name, "not set"))

        first, *others = self.all_gather(dict(values))
        differences = [
            f"{name} is {show(first, name)} on {self.names[0]}, {show(other, name)} on {host}"
            for host, other in zip(self.names[1:], others, strict=True)
            for name in dict.fromkeys([*first, *other])
            if first.get(name) != other.get(name)
        ]
        if differences:
            raise UserError(
                f"the hosts do not train the same: {'; '.join(differences)}. Give all of them the same settings, "
                "image and channels; only channels whose S3DistributionType is ShardedByS3Key may differ"
            )
