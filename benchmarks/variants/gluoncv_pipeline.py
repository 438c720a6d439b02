"""A pass over pictures and masks as GluonCV's training prepares them: decoded, augmented, normalised, batched.

``python -m benchmarks.variants.gluoncv_pipeline IMAGES MASKS COUNT [WORKERS] [decoded]``; with ``decoded`` the files
are decoded once, before the first round. The settings are those of GluonCV's segmentation training script.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gluonseg  # noqa: F401  (makes MXNet importable on today's numpy)

# isort: split
import mxnet as mx
import numpy as np
from gluoncv.data.segbase import SegmentationDataset
from mxnet.gluon.data import DataLoader
from mxnet.gluon.data.vision import transforms
from PIL import Image

from benchmarks.variant import serve_rounds
from gluonseg.data.pairs import Pair, match_pairs
from gluonseg.models.card import IMAGENET_MEAN, IMAGENET_STD

BASE_SIZE, CROP_SIZE, BATCH_SIZE = 520, 480, 8


class Folder(SegmentationDataset):  # type: ignore[misc]
    """What GluonCV's data sets are, on any folder: Pillow decodes, ``_sync_transform`` augments."""

    NUM_CLASS = 3

    def __init__(self, pairs: tuple[Pair, ...], *, decoded: bool = False) -> None:
        to_input = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
        super().__init__(".", "train", "train", to_input, base_size=BASE_SIZE, crop_size=CROP_SIZE)
        self._pairs = pairs
        self._decoded = [self._open(pair) for pair in pairs] if decoded else None

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, mask = self._decoded[index] if self._decoded else self._open(self._pairs[index])
        image, mask = self._sync_transform(image, mask)
        return self.transform(image), mask

    def _open(self, pair: Pair) -> tuple[Image.Image, Image.Image]:
        mask = Image.open(pair.label)
        mask.load()
        return Image.open(pair.image).convert("RGB"), mask

    def _mask_transform(self, mask: Image.Image) -> Any:
        class_ids = np.array(mask).astype("int32")
        class_ids[class_ids == 255] = -1
        return mx.nd.array(class_ids, mx.cpu(0))


def main(arguments: list[str]) -> None:
    """Serve rounds of one pass each."""
    images, masks, count = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    workers = int(arguments[3]) if len(arguments) > 3 else 0
    data = Folder(match_pairs(images, masks).pairs[:count], decoded="decoded" in arguments[4:])
    loader = DataLoader(data, BATCH_SIZE, shuffle=True, last_batch="rollover", num_workers=workers)

    def run() -> dict[str, float]:
        done = batch_bytes = 0
        for image_batch, mask_batch in loader:
            for array in (image_batch, mask_batch):
                array.wait_to_read()
            done += len(image_batch)
            batch_bytes = sum(array.size * np.dtype(array.dtype).itemsize for array in (image_batch, mask_batch))
        return {"photos": done, "batch_bytes": batch_bytes}

    run()
    serve_rounds(run)


if __name__ == "__main__":
    main(sys.argv[1:])
