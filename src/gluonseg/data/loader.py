"""Batches from a data set, prepared in threads ahead of time.

What a batch holds depends on the seed and its number only, never on the number of workers: the order of
each pass is a permutation seeded by (seed, pass), and each sample's augmentation is seeded by
(seed, pass, index). Pictures stay uint8 until a batch is complete.

Batches run on across the end of an epoch, as Gluon's ``last_batch='rollover'`` does and as the built-in's
validation numbers show: batch b holds the samples b*size to (b+1)*size - 1 of an endless stream, and epoch
e ends where the next full batch would no longer fit.

Several hosts each prepare a part of every batch. Where all have the same photos the parts are cut from the batch that
one host would have; where each has a shard of its own, they are cut from as many endless streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gluonseg.data.dataset import Dataset
from gluonseg.data.transforms import CropBalancer, Transform
from gluonseg.labels import UInt8Array

Sample = tuple[UInt8Array, UInt8Array]
DrawTransform = Callable[[np.random.Generator, int, int], Transform]


@dataclass(frozen=True)
class Batch:
    """Images (N, crop, crop, 3) uint8 RGB and class ids (N, crop, crop) uint8, 255 = ignore."""

    images: UInt8Array
    class_ids: UInt8Array


@dataclass(frozen=True)
class Share:
    """The part of every batch that host ``rank`` (from 0) of ``hosts`` prepares.

    ``shards`` are the numbers of photos of all hosts when each has photos of its own, and empty when all have the same.
    """

    rank: int = 0
    hosts: int = 1
    shards: tuple[int, ...] = ()

    def cut(self, count: int) -> range:
        """Of ``count`` things in order those of this host: the parts are equal, but the first may have one more."""
        size, more = divmod(count, self.hosts)
        start = self.rank * size + min(self.rank, more)
        return range(start, start + size + (self.rank < more))


def count_batches(epoch: int, dataset_size: int, batch_size: int) -> int:
    """Number of batches in ``epoch`` (0-based) under rollover."""
    return (epoch + 1) * dataset_size // batch_size - epoch * dataset_size // batch_size


class Loader:
    """Iterates over the batches of an epoch; ``shuffle`` permutes each pass, ``balancer`` moves crops.

    ``num_samples`` and ``batch_size`` are of all hosts together; of each batch only the part of ``share`` is prepared.
    A batch size above the number of samples is lowered to it, so that every epoch has a batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        draw: DrawTransform,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        workers: int = 2,
        balancer: CropBalancer | None = None,
        share: Share = Share(),
    ) -> None:
        self.dataset = dataset
        self.share = share
        self.num_samples = sum(share.shards) or len(dataset)
        self.batch_size = min(batch_size, self.num_samples)
        self._draw = draw
        self._shuffle = shuffle
        self._seed = seed
        self._workers = workers
        self._balancer = balancer

    def count_batches(self, epoch: int) -> int:
        """Number of batches in ``epoch``."""
        return count_batches(epoch, self.num_samples, self.batch_size)

    def iter_batches(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` after the first ``done`` ones, two of them prepared ahead."""
        first = epoch * self.num_samples // self.batch_size
        numbers = range(first + done, first + self.count_batches(epoch))
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="loader")
        waiting: deque[list[Future[Sample]]] = deque()
        try:
            for number in numbers:
                waiting.append([pool.submit(self._prepare, position) for position in self._positions(number)])
                if len(waiting) > 2:
                    yield _collect(waiting.popleft())
            while waiting:
                yield _collect(waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _positions(self, batch_number: int) -> list[tuple[int, int]]:
        """(pass, sample index) of each member of this host's part of a batch."""
        part = self.share.cut(self.batch_size)
        first = batch_number * (len(part) if self.share.shards else self.batch_size)
        first += 0 if self.share.shards else part.start
        places = [divmod(position, len(self.dataset)) for position in range(first, first + len(part))]
        orders = {turn: self._order(turn) for turn, _ in places}
        return [(turn, int(orders[turn][place])) for turn, place in places]

    def _order(self, turn: int) -> npt.NDArray[np.int64]:
        if not self._shuffle:
            return np.arange(len(self.dataset))
        return np.random.default_rng([self._seed, turn]).permutation(len(self.dataset))

    def _prepare(self, position: tuple[int, int]) -> Sample:
        turn, index = position
        image, class_ids = self.dataset.read(index)
        # Two hosts must not draw the same for photos of the same index.
        number = index + sum(self.share.shards[: self.share.rank])
        rng = np.random.default_rng([self._seed, turn, number])
        transform = self._draw(rng, *class_ids.shape)
        if self._balancer is not None:
            transform = self._balancer.move(rng, transform, class_ids)
        return transform.apply_image(image), transform.apply_label(class_ids)


def _collect(futures: list[Future[Sample]]) -> Batch:
    if not futures:  # a batch with fewer photos than there are hosts
        return Batch(np.zeros((0, 1, 1, 3), np.uint8), np.zeros((0, 1, 1), np.uint8))
    samples = [future.result() for future in futures]
    return Batch(np.stack([image for image, _ in samples]), np.stack([class_ids for _, class_ids in samples]))
