"""Scoring a model by the answers of its endpoint: whole validation photos, each at its own size."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from example import Mask, parse_mask
from job import Ask
from PIL import Image

from gluonseg.data.decode import read_label
from gluonseg.data.label_channel import read_label_maps
from gluonseg.data.pairs import Pair, match_pairs
from gluonseg.labels import IGNORE, LabelMap
from gluonseg.metrics import Confusion, compute_confusion
from gluonseg.predict.score import Score, score_photo

WARM_UPS = 2
UNKNOWN_SIZE = {"parameters": 0, "gmacs": float("nan")}


@dataclass(frozen=True)
class Truth:
    """The validation photos with their masks, and what the labels in these mean."""

    pairs: Sequence[Pair]
    label_map: LabelMap
    class_names: Sequence[str]

    def read(self, pair: Pair) -> Mask:
        """Class ids (H, W) of a photo's own mask, ``IGNORE`` where it is not scored."""
        return self.label_map.apply(read_label(pair.label))


def read_truth(data: Path, class_names: Sequence[str], ignore_label: int = IGNORE) -> Truth:
    """The validation data in the folder of the channels."""
    pairs = match_pairs(data / "validation", data / "validation_annotation").pairs
    return Truth(pairs, read_label_maps(data / "label_map", ignore_label).validation, class_names)


def read_size(output: Path) -> Mapping[str, float]:
    """How large the network is, as the job's own report in its ``output`` folder says."""
    (model,) = json.loads((output / "data" / "report.json").read_text(encoding="utf-8"))["models"]
    return {key: model["metrics"][key]["mean"] for key in ("parameters", "gmacs")}


def score_endpoint(ask: Ask, truth: Truth, masks: Path, size: Mapping[str, float] = UNKNOWN_SIZE) -> Score:
    """Send every validation photo, write the masks that come back to ``masks/<name>.png``, and score them.

    Outlines and memory are not measured; times are of each answer, over HTTP. RuntimeError when the endpoint refuses a
    photo, or the answer is not one to that photo.
    """
    masks.mkdir(parents=True, exist_ok=True)
    for _ in range(WARM_UPS):
        ask(truth.pairs[0].image, "image/png")
    num_classes = len(truth.class_names)
    total, photos, seconds = Confusion.empty(num_classes), [], []
    for pair in truth.pairs:
        start = time.perf_counter()
        answer = ask(pair.image, "image/png")
        seconds.append(time.perf_counter() - start)
        try:
            mask = parse_mask(answer)
            confusion = compute_confusion(truth.read(pair), mask, num_classes)
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(f"{pair.image.name}: {error}") from None
        Image.fromarray(np.asarray(mask)).save(masks / f"{pair.name}.png")
        if scored := score_photo(pair.name, confusion):
            photos.append(scored)
        total += confusion
    return Score(
        class_names=list(truth.class_names),
        confusion=total.matrix.tolist(),
        boundary_f=None,
        photos=photos,
        parameters=int(size["parameters"]),
        gmacs=size["gmacs"],
        gmacs_size=[],
        latency_ms=1000 * statistics.median(seconds),
        images_per_second=len(seconds) / sum(seconds),
        prediction_peak_mb=float("nan"),
    )
