"""Decoding and augmentation beside GluonCV's: photos per CPU-second, one process, one thread; size of a batch.

``python -m benchmarks.stage_input_pipeline IMAGES MASKS COUNT PASSES CACHE_BYTES`` is our side: passes over
photos and masks as gluonseg's training prepares them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.inputs import prepare_channels
from benchmarks.row import AT_MOST, ResultRow, build_ratio_row
from benchmarks.variant import Measurement, Variant, compare, pick, serve_rounds
from gluonseg.data.pairs import match_pairs

BASE_SIZE, CROP_SIZE, BATCH_SIZE = 520, 480, 8
_MOST_PHOTOS = 320
_PEER = "GluonCV's data set"
_RULE = (
    "pictures are normalised and in an array of MXNet's on both sides; GluonCV's masks too are made arrays of MXNet's, "
    "of 32 bits a pixel, while ours stay uint8, as our loss takes them"
)


def measure(scratch: Path) -> list[ResultRow]:
    """Base size 520, crop 480, batch 8; GluonCV always decodes, as its training does."""
    channels = prepare_channels(scratch)
    images, masks = channels / "train", channels / "train_annotation"
    files = (str(images), str(masks), str(min(_MOST_PHOTOS, len(match_pairs(images, masks).pairs))))

    def start_ours(passes: int, cache_bytes: int) -> Variant:
        return Variant("benchmarks.stage_input_pipeline", *files, str(passes), str(cache_bytes), threads=1)

    series = compare(
        {
            "gluoncv": Variant("benchmarks.peers.gluoncv_pipeline", *files, threads=1),
            "cold": start_ours(1, 0),
            "decoded cache": start_ours(4, 1 << 32),
        }
    )
    rows = [
        build_ratio_row(
            f"input pipeline, {name}", _PEER, "photos/CPU-s", *pick(series, "cpu_rate", name, "gluoncv"), bar,
            note=_RULE,
        )
        for name, bar in (("cold", 2.5), ("decoded cache", 6))
    ]  # fmt: skip
    both, note = pick(series, "batch_bytes", "cold", "gluoncv"), "uint8, as the loader yields it"
    return [*rows, build_ratio_row("input pipeline, a batch", _PEER, "bytes", *both, 0.27, AT_MOST, note)]


def main(images: str, masks: str, *settings: str) -> None:
    """Be our side."""
    import cv2
    import mxnet as mx

    from gluonseg.data.dataset import Dataset
    from gluonseg.data.loader import Loader
    from gluonseg.data.transforms import TrainingPolicy
    from gluonseg.labels import default_label_map
    from gluonseg.predict.mxnet_engine import normalise_images
    from gluonseg.train.step import place_array

    count, passes, cache_bytes = map(int, settings)
    cv2.setNumThreads(1)  # as training does
    pairs = match_pairs(Path(images), Path(masks)).pairs[:count]
    data = Dataset(pairs, default_label_map(), cache_bytes=cache_bytes)
    policy = TrainingPolicy(BASE_SIZE, CROP_SIZE)
    loader = Loader(data, policy.draw, batch_size=BATCH_SIZE, shuffle=True, workers=1)
    epochs = iter(range(1_000_000))

    def run() -> Measurement:
        done = batch_bytes = 0
        for _ in range(passes):
            for batch in loader.iter_batches(next(epochs)):
                done += len(batch.images)
                batch_bytes = batch.images.nbytes + batch.class_ids.nbytes
                # As a training step does.
                place_array(normalise_images(batch.images), mx.cpu()).wait_to_read()
        return {"count": done, "batch_bytes": batch_bytes}

    run()
    serve_rounds(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
