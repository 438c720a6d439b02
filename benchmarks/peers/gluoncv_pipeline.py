"""A pass over photos and masks as GluonCV's training prepares them: decoded, augmented, normalised, batched.

``python -m benchmarks.peers.gluoncv_pipeline IMAGES MASKS COUNT``. The settings are those of GluonCV's
segmentation training script.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
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

from benchmarks.stage_input_pipeline import BASE_SIZE, BATCH_SIZE, CROP_SIZE
from benchmarks.variant import Measurement, serve_rounds
from gluonseg.data.pairs import Pair, match_pairs
from gluonseg.models.folder.card import IMAGENET_MEAN, IMAGENET_STD


class Folder(SegmentationDataset):  # type: ignore[misc]
    """What GluonCV's data sets are, on any folder: Pillow decodes, ``_sync_transform`` augments."""

    NUM_CLASS = 3

    def __init__(self, pairs: Sequence[Pair]) -> None:
        to_input = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
        super().__init__(".", "train", "train", to_input, base_size=BASE_SIZE, crop_size=CROP_SIZE)
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image = Image.open(self._pairs[index].image).convert("RGB")
        image, mask = self._sync_transform(image, Image.open(self._pairs[index].label))
        return self.transform(image), mask

    def _mask_transform(self, mask: Image.Image) -> Any:
        class_ids = np.array(mask).astype("int32")
        class_ids[class_ids == 255] = -1
        return mx.nd.array(class_ids, mx.cpu(0))


def main(images: str, masks: str, count: str) -> None:
    """Serve rounds of one pass each."""
    data = Folder(match_pairs(Path(images), Path(masks)).pairs[: int(count)])
    loader = DataLoader(data, BATCH_SIZE, shuffle=True, last_batch="rollover")

    def run() -> Measurement:
        done = batch_bytes = 0
        for batch in loader:
            for array in batch:
                array.wait_to_read()
            done += len(batch[0])
            batch_bytes = sum(array.size * np.dtype(array.dtype).itemsize for array in batch)
        return {"count": done, "batch_bytes": batch_bytes}

    run()
    serve_rounds(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
