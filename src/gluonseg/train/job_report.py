"""The report of a job: what became of its model, as one page beside the curves."""

from __future__ import annotations

import dataclasses
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gluonseg.compare.record import FINISHED, MASKS_FOLDER, PhotoScore, RunRecord, Score, write_record
from gluonseg.data.dataset import Dataset
from gluonseg.metrics import Confusion, compute_confusion
from gluonseg.models.card import ModelCard
from gluonseg.models.cost import compute_served_cost
from gluonseg.report.page import CSV_FILE, JSON_FILE, MARKDOWN_FILE, PAGE_FILE, write_model_report
from gluonseg.report.photo import MAX_SIDE, shrink
from gluonseg.train.listener import EpochResult
from gluonseg.train.writer import describe_epochs

_log = logging.getLogger(__name__)
REPORT_FILES = (PAGE_FILE, JSON_FILE, CSV_FILE, MARKDOWN_FILE)
UInt8Array = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class _Photo:
    """One validation photo as predicted; ``mask_png`` is at most MAX_SIDE large: full masks would fill the memory."""

    name: str
    size: tuple[int, int]
    seconds: float
    confusion: Confusion
    mask_png: bytes


class JobReport:
    """Looks on while validation photos are predicted, and writes the report into ``folder``; None writes nothing.

    Nothing here raises: the model is there, and a page about it must not make the job a failed one.
    """

    def __init__(self, model_folder: Path, folder: Path | None, channels: Mapping[str, Path]) -> None:
        self._model_folder = model_folder
        self._folder = folder
        self._channels = channels
        self._start = time.monotonic()
        self._train_seconds = 0.0
        self._predictor: Any = None
        self._seconds = 0.0
        self._mask: UInt8Array = np.zeros((0, 0), dtype=np.uint8)
        self._photos: list[_Photo] = []
        self._is_whole = folder is not None

    def watch(self, predictor: Any) -> JobReport:
        """Take the predictor's place in the evaluation; training is over."""
        self._train_seconds = time.monotonic() - self._start
        self._predictor = predictor
        return self

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        """The watched predictor's mask, class ids (H, W)."""
        start = time.perf_counter()
        self._mask = self._predictor.predict_mask(image_hwc)
        self._seconds = time.perf_counter() - start
        return self._mask

    def keep(self, validation: Dataset, index: int) -> None:
        """Keep what the page may show of the photo that was predicted last."""
        if not self._is_whole:
            return
        try:
            truth = validation.read(index)[1]
            confusion = compute_confusion(truth, self._mask, self._predictor.card.num_classes)
            height, width = self._mask.shape
            name, png = validation.pairs[index].name, _encode_mask(self._mask)
            self._photos.append(_Photo(name, (height, width), self._seconds, confusion, png))
        except Exception:
            self._is_whole = False
            _log.exception("The report will be without the photos")

    def write(self, card: ModelCard, results: Sequence[EpochResult], confusion: Confusion | None) -> None:
        """Write the report; with ``confusion`` as a scored model's, else with what the card tells."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if confusion is None or not self._is_whole:
                # A job that is stopped has two seconds left: no time for photos.
                write_model_report(self._model_folder, out=self._folder)
            else:
                self._write_scored(self._folder, card, results, confusion)
        except Exception:
            _log.exception("The report could not be written")

    def _write_scored(
        self, folder: Path, card: ModelCard, results: Sequence[EpochResult], confusion: Confusion
    ) -> None:
        record = RunRecord(
            algorithm=card.algorithm,
            backbone=card.backbone,
            seed=int(card.hyperparameters.get("seed", 0)),
            status=FINISHED,
            train_seconds=self._train_seconds,
            epochs=describe_epochs(results, card.class_names),
            hyperparameters=card.hyperparameters,
            versions=card.versions,
            score=self._build_score(card, confusion),
        )
        with tempfile.TemporaryDirectory(prefix="gluonseg-report-") as scratch:
            run = Path(scratch)
            write_record(run, record)
            (run / MASKS_FOLDER).mkdir()
            for photo in self._photos:
                (run / MASKS_FOLDER / f"{photo.name}.png").write_bytes(photo.mask_png)
            write_model_report(self._model_folder, self._channels, run=run, out=folder)

    def _build_score(self, card: ModelCard, confusion: Confusion) -> Score:
        """What was measured on the way; memory of the prediction alone and outlines were not."""
        photos = self._photos
        typical = sorted((photo.size for photo in photos), key=lambda size: (size[0] * size[1], size))[len(photos) // 2]
        height, width = self._predictor.compute_input_size(*typical)
        cost = compute_served_cost(card, height, width)
        seconds = [photo.seconds for photo in photos]
        return Score(
            class_names=list(card.class_names),
            confusion=confusion.matrix.tolist(),
            boundary_f=None,
            photos=[
                PhotoScore(photo.name, photo.confusion.compute_miou(), photo.confusion.compute_pixel_accuracy())
                for photo in photos
                if photo.confusion.matrix.any()
            ],
            parameters=cost.parameters,
            gmacs=cost.macs / 1e9,
            gmacs_size=[height, width],
            latency_ms=1000 * statistics.median(seconds),
            images_per_second=len(seconds) / sum(seconds),
            prediction_peak_mb=float("nan"),
        )


def _encode_mask(mask_hw: UInt8Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(shrink(mask_hw, MAX_SIDE, smooth=False)).save(buffer, "PNG")
    return buffer.getvalue()
