"""Scoring a model by the answers of its endpoint: whole validation photos, each at its own size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from example import Mask, count_classes, parse_mask
from job import Ask
from PIL import Image

from gluonseg.data.decode import read_label
from gluonseg.data.label_channel import read_label_maps
from gluonseg.data.pairs import Pair, match_pairs
from gluonseg.labels import LabelMap, default_class_names
from gluonseg.metrics import Confusion, compute_confusion

WARM_UPS = 2


@dataclass(frozen=True)
class Truth:
    """The validation photos with their masks, and what the labels in these masks mean."""

    pairs: Sequence[Pair]
    label_map: LabelMap
    class_names: Sequence[str]

    def read(self, pair: Pair) -> Mask:
        """Class ids (H, W) of a photo's own mask, 255 where it is not scored."""
        return self.label_map.apply(read_label(pair.label))


@dataclass(frozen=True)
class EndpointScore:
    """A model scored by its endpoint: pixels by class, and the median time of an answer over HTTP."""

    confusion: Confusion
    latency_ms: float


def read_truth(data: Path) -> Truth:
    """The validation data in the folder of the channels."""
    maps = read_label_maps(data / "label_map")
    class_names = maps.class_names or default_class_names(count_classes(data))
    return Truth(match_pairs(data / "validation", data / "validation_annotation").pairs, maps.validation, class_names)


def score_endpoint(ask: Ask, truth: Truth, masks: Path) -> EndpointScore:
    """Send every validation photo, write the masks that come back to ``masks/<name>.png``, and score them.

    RuntimeError when the endpoint refuses a photo, ValueError when the answer has another size than the photo.
    """
    masks.mkdir(parents=True, exist_ok=True)
    for _ in range(WARM_UPS):
        ask(truth.pairs[0].image, "image/png")
    total, seconds = Confusion.empty(len(truth.class_names)), []
    for pair in truth.pairs:
        start = time.perf_counter()
        answer = ask(pair.image, "image/png")
        seconds.append(time.perf_counter() - start)
        mask = parse_mask(answer)
        total += compute_confusion(truth.read(pair), mask, len(truth.class_names))
        Image.fromarray(mask).save(masks / f"{pair.name}.png")
    return EndpointScore(total, 1000 * statistics.median(seconds))
