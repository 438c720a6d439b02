"""Passes over pictures and masks as gluonseg's training prepares them.

``python -m benchmarks.variants.our_pipeline IMAGES MASKS COUNT WORKERS PASSES CACHE_BYTES [--placed]``: batches as the
loader yields them (uint8), or with ``--placed`` as the network takes them (float32 in an array of MXNet's).
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2

from benchmarks.variant import serve_rounds
from gluonseg.data.dataset import Dataset
from gluonseg.data.loader import Batch, Loader
from gluonseg.data.pairs import match_pairs
from gluonseg.data.transforms import TrainingPolicy
from gluonseg.labels import default_label_map
from gluonseg.predict.preprocess import normalise_images

BASE_SIZE, CROP_SIZE, BATCH_SIZE = 520, 480, 8


def _place(batch: Batch) -> None:
    """As a training step does. Pictures only: masks are compared as they come."""
    import mxnet as mx

    from gluonseg.train.step import place_array

    place_array(normalise_images(batch.images), mx.cpu()).wait_to_read()


def main(arguments: list[str]) -> None:
    """Serve rounds of some passes each."""
    images, masks = (Path(argument) for argument in arguments[:2])
    count, workers, passes, cache_bytes = (int(argument) for argument in arguments[2:6])
    is_placed = "--placed" in arguments
    cv2.setNumThreads(1)  # as training does
    data = Dataset(match_pairs(images, masks).pairs[:count], default_label_map(), cache_bytes=cache_bytes)
    policy = TrainingPolicy(BASE_SIZE, CROP_SIZE)
    loader = Loader(data, policy.draw, batch_size=BATCH_SIZE, shuffle=True, workers=workers)
    epochs = iter(range(1_000_000))

    def run() -> dict[str, float]:
        done = batch_bytes = 0
        for _ in range(passes):
            for batch in loader.iter_batches(next(epochs)):
                done += len(batch.images)
                batch_bytes = batch.images.nbytes + batch.class_ids.nbytes
                if is_placed:
                    _place(batch)
        return {"photos": done, "batch_bytes": batch_bytes}

    run()
    serve_rounds(run)


if __name__ == "__main__":
    main(sys.argv[1:])
