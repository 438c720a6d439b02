"""Four channels of tiny pictures with masks, small enough to check hundreds of variants of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gluonseg.data.channel import find_channels
from gluonseg.data.check.doctor import CheckReport, check_channels
from gluonseg.data.label_channel import read_label_maps

HEIGHT, WIDTH = 6, 8
CHANNELS = ("train", "train_annotation", "validation", "validation_annotation")


class SmallData:
    """Four channels with three training pairs and two validation pairs, labels 0, 1, 2 and some 255."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rng = np.random.default_rng(0)
        for split, count in (("train", 3), ("validation", 2)):
            (root / split).mkdir()
            (root / f"{split}_annotation").mkdir()
            for index in range(count):
                self.image(split, f"{split[0]}{index}.jpg", rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
                mask = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3).astype(np.uint8)
                mask[0, 0] = 255
                self.mask(split, f"{split[0]}{index}.png", mask)

    def image(self, split: str, name: str, pixels: npt.NDArray[Any], **options: Any) -> None:
        Image.fromarray(pixels).save(self.root / split / name, **options)

    def mask(self, split: str, name: str, labels: npt.NDArray[Any], **options: Any) -> None:
        Image.fromarray(labels).save(self.root / f"{split}_annotation" / name, **options)

    def map_masks(self, table: dict[int, int], splits: Sequence[str] = ("train", "validation")) -> None:
        """Replace labels in every mask of ``splits``."""
        for split in splits:
            for path in (self.root / f"{split}_annotation").glob("*.png"):
                labels = np.array(Image.open(path))
                out = labels.copy()
                for old, new in table.items():
                    out[labels == old] = new
                Image.fromarray(out).save(path)

    def label_map(self, split: str, content: object) -> None:
        """Write the label map of ``split``."""
        self.path("label_map").mkdir(exist_ok=True)
        self.path("label_map", f"{split}_label_map.json").write_text(json.dumps(content))

    def path(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)

    def check(self, num_classes: int | None = 3, **options: Any) -> CheckReport:
        """Check the channels, with the label maps that are there."""
        options = {"label_maps": read_label_maps(self.path("label_map"), options.get("ignore_label", 255)), **options}
        return check_channels(find_channels(self.root), num_classes=num_classes, workers=1, **options)
