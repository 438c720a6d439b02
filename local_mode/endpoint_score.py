"""Scoring a model by the answers of its endpoint: whole validation photos, each at its own size."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from example import Ask, Mask, parse_mask
from PIL import Image

from gluonseg.compare.measurement import score_photo
from gluonseg.compare.record import PhotoScore, Score
from gluonseg.data.decode import read_label
from gluonseg.data.label_channel import read_label_maps
from gluonseg.data.pairs import Pair, match_pairs
from gluonseg.labels import IGNORE, LabelMap
from gluonseg.metrics import Confusion, compute_confusion

WARM_UPS = 2


@dataclass(frozen=True)
class Truth:
    """The validation photos with their masks, and what the labels in these mean."""

    pairs: Sequence[Pair]
    label_map: LabelMap
    class_names: Sequence[str]

    def read(self, pair: Pair) -> Mask:
        """Class ids (H, W) of a photo's own mask, ``IGNORE`` where it is not scored."""
        return self.label_map.apply(read_label(pair.label))


@dataclass(frozen=True)
class Answers:
    """What came of asking an endpoint about every photo; ``seconds`` are of each answer, over HTTP."""

    confusion: Confusion
    photos: Sequence[PhotoScore]
    seconds: Sequence[float]

    @property
    def latency_s(self) -> float:
        """The median time of an answer."""
        return statistics.median(self.seconds)


def read_truth(data: Path, class_names: Sequence[str], ignore_label: int = IGNORE) -> Truth:
    """The validation data in the folder of the channels."""
    pairs = match_pairs(data / "validation", data / "validation_annotation").pairs
    return Truth(pairs, read_label_maps(data / "label_map", ignore_label).validation, class_names)


def ask_about_all(ask: Ask, truth: Truth, masks: Path) -> Answers:
    """Send every validation photo, and write the masks that come back, class ids, to ``masks/<name>.png``.

    RuntimeError when the endpoint refuses a photo, or the answer is not one to that photo.
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
    return Answers(total, photos, seconds)


def _read_figure(report: Path, key: str) -> Any:
    """A number that the job itself has put into its report; nan where it has not."""
    try:
        (model,) = json.loads(report.read_text(encoding="utf-8"))["models"]
        return model["metrics"][key]["mean"]
    except (OSError, ValueError, TypeError, KeyError):
        return float("nan")


def build_score(answers: Answers, truth: Truth, job_report: Path) -> Score:
    """The score as a comparison keeps it.

    How large the network is stands in the job's own report, ``output/data/report.json``. Outlines and memory are not
    measured.
    """
    return Score(
        class_names=list(truth.class_names),
        confusion=answers.confusion.matrix.tolist(),
        boundary_f=None,
        photos=answers.photos,
        parameters=_read_figure(job_report, "parameters"),
        gmacs=_read_figure(job_report, "gmacs"),
        gmacs_size=[],
        latency_ms=1000 * answers.latency_s,
        images_per_second=len(answers.seconds) / sum(answers.seconds),
        prediction_peak_mb=float("nan"),
    )
