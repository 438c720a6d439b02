"""Scores as two other projects compute them, so that a model can be set beside the rows of their tables.

* ``csail``: the evaluation of https://github.com/CSAILVision/semantic-segmentation-pytorch for MIT ADE20K: a photo is
  resized to several sizes, the probabilities of all are averaged at the photo's own size, nothing is mirrored.
* ``keras``: that of https://github.com/divamgupta/image-segmentation-keras: the network's coarse output is compared
  with the mask at the output's size.

In both a class found nowhere counts as 0. Pixels without a class are left out; the Keras project takes them as class 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from gluonseg.data.dataset import Dataset
from gluonseg.labels import UInt8Array
from gluonseg.metrics import CSAIL, KERAS, Confusion
from gluonseg.models.folder.card import ModelCard
from gluonseg.models.registry import get_title
from gluonseg.predict.enlarge import compute_mean_mask
from gluonseg.predict.evaluation import Progress, evaluate_dataset
from gluonseg.predict.predictor import Predictor

SHORT_SIDES, SINGLE_SHORT_SIDE = (300, 375, 450, 525, 600), 450
"""Pixels that csail resizes a photo's short side to: all of them, or with one scale this one."""
LONG_SIDE = 1000
_COARSE = frozenset({"upernet", "upernet-lite", "hrnet"})
"""Networks for which csail rounds the sides to multiples of 32 pixels; 8 for all others."""


def compute_csail_sizes(
    height: int, width: int, short_sides: Sequence[int] = SHORT_SIDES, multiple: int = 8
) -> list[tuple[int, int]]:
    """The (height, width) in pixels that csail resizes a photo to, one for each of ``short_sides``.

    The proportions are kept and the long side is at most 1000; then each side is rounded up to a ``multiple``.
    """
    sizes = []
    for short_side in short_sides:
        scale = min(short_side / min(height, width), LONG_SIDE / max(height, width))
        rows, columns = (max(1, int(side * scale)) for side in (height, width))
        sizes.append((-(-rows // multiple) * multiple, -(-columns // multiple) * multiple))
    return sizes


@dataclass
class CsailPredictor:
    """Masks as csail predicts them. ``seconds`` adds up, from the resized photos to the masks, as csail counts them."""

    predictor: Predictor
    short_sides: Sequence[int] = SHORT_SIDES
    seconds: float = field(default=0.0, init=False)

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        """Class ids (H, W) uint8 of an RGB picture (H, W, 3) uint8."""
        height, width = image_hwc.shape[:2]
        card, picture = self.predictor.card, Image.fromarray(image_hwc)
        sizes = compute_csail_sizes(height, width, self.short_sides, 32 if card.algorithm in _COARSE else 8)
        # Pillow's bilinear, as csail has it, looks at all pixels when it shrinks; OpenCV's does not.
        views = [np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for size in sizes]
        start = time.perf_counter()
        logits = [self.predictor.compute_whole_logits(view) for view in views]
        mask = compute_mean_mask(logits, height, width, card.align_corners)
        self.seconds += time.perf_counter() - start
        return mask


@dataclass(frozen=True)
class KerasPredictor:
    """Masks as the Keras project predicts them: of the network's output size."""

    predictor: Predictor

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        """Class ids (h, w) uint8 of an RGB picture (H, W, 3) uint8; the network's output is smaller by its stride."""
        return np.asarray(self.predictor.compute_logits(image_hwc).argmax(axis=0), dtype=np.uint8)


def evaluate_csail(
    predictor: Predictor, dataset: Dataset, short_sides: Sequence[int] = SHORT_SIDES, progress: Progress | None = None
) -> dict[str, Any]:
    """Scores by csail's protocol, as plain values from 0 to 1; see :func:`format_row`."""
    csail = CsailPredictor(predictor, short_sides)
    confusion = evaluate_dataset(csail, dataset, predictor.card.num_classes, progress)
    return {
        **_describe(CSAIL, predictor.card, dataset),
        "multi_scale": len(short_sides) > 1,
        "mean_IoU": confusion.compute_builtin_miou(),
        "pixel_accuracy": confusion.compute_pixel_accuracy(),
        "overall_score": compute_overall_score(confusion),
        "frames_per_second": len(dataset) / csail.seconds,
        "class_IoU": _name_iou(confusion, predictor.card),
    }


def evaluate_keras(predictor: Predictor, dataset: Dataset, progress: Progress | None = None) -> dict[str, Any]:
    """Scores by the Keras project's protocol, under its names, as plain values from 0 to 1."""
    keras, num_classes = KerasPredictor(predictor), predictor.card.num_classes
    confusion = evaluate_dataset(keras, dataset, num_classes, progress, at_output_size=True)
    return {
        **_describe(KERAS, predictor.card, dataset),
        "mean_IU": confusion.compute_builtin_miou(),
        "frequency_weighted_IU": compute_frequency_weighted_iou(confusion),
        "pixel_accuracy": confusion.compute_pixel_accuracy(),
        "class_wise_IU": _name_iou(confusion, predictor.card),
    }


def _describe(protocol: str, card: ModelCard, dataset: Dataset) -> dict[str, Any]:
    # csail's name for a decoder that was trained with an auxiliary head ends so.
    suffix = "_deepsup" if protocol == CSAIL and card.aux else ""
    architecture = f"{card.backbone} + {get_title(card.algorithm)}{suffix}"
    return {"protocol": protocol, "images": len(dataset), "architecture": architecture}


def _name_iou(confusion: Confusion, card: ModelCard) -> dict[str, float]:
    """IoU by class name; 0 for a class found nowhere."""
    return dict(zip(card.class_names, np.nan_to_num(confusion.compute_class_iou()).tolist(), strict=True))


def compute_overall_score(confusion: Confusion) -> float:
    """The mean of mean IoU over all classes and pixel accuracy: what the ADE20K challenge ranks by."""
    return (confusion.compute_builtin_miou() + confusion.compute_pixel_accuracy()) / 2


def compute_frequency_weighted_iou(confusion: Confusion) -> float:
    """The mean IoU weighted by each class's share of the masks' pixels; 0 when no pixel was counted."""
    counts = confusion.matrix.sum(axis=1)
    iou = np.nan_to_num(confusion.compute_class_iou())
    return float((iou * counts).sum() / max(1, counts.sum()))


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


_Columns = dict[str, Callable[[dict[str, Any]], str]]
_COLUMNS: dict[str, _Columns] = {
    CSAIL: {
        "Architecture": lambda found: str(found["architecture"]),
        "MultiScale Testing": lambda found: "Yes" if found["multi_scale"] else "No",
        "Mean IoU": lambda found: _percent(found["mean_IoU"]),
        "Pixel Accuracy(%)": lambda found: _percent(found["pixel_accuracy"]),
        "Overall Score": lambda found: _percent(found["overall_score"]),
        "Inference Speed(fps)": lambda found: f"{found['frames_per_second']:.1f}",
    },
    KERAS: {
        "Architecture": lambda found: str(found["architecture"]),
        "mean_IU": lambda found: f"{found['mean_IU']:.4f}",
        "frequency_weighted_IU": lambda found: f"{found['frequency_weighted_IU']:.4f}",
        "pixel accuracy": lambda found: f"{found['pixel_accuracy']:.4f}",
    },
}
"""Title of a column and how its cell is written: csail's as its published table has them, in percent."""


def format_row(found: dict[str, Any]) -> str:
    """The scores of one of the two protocols as a table of one row, in Markdown."""
    columns = _COLUMNS[found["protocol"]]
    cells = [cell(found) for cell in columns.values()]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(cells), cells))
