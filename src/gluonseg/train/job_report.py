"""The report of a job: one page on its model, beside the curves."""

from __future__ import annotations

import base64
import dataclasses
import io
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from gluonseg.labels import UInt8Array
from gluonseg.metrics import Confusion
from gluonseg.models.folder.card import ModelCard
from gluonseg.predict.evaluation import Prediction
from gluonseg.predict.predictor import Predictor
from gluonseg.predict.score import PhotoScore, Score
from gluonseg.predict.scoring import PhotoFacts, build_score, compute_photo_facts
from gluonseg.report.hardware import describe_hardware
from gluonseg.report.page import CSV_FILE, JSON_FILE, MARKDOWN_FILE, PAGE_FILE, write_model_report
from gluonseg.report.photo import MAX_SIDE, shrink
from gluonseg.report.record import FINISHED, MASKS_FOLDER, RunRecord, write_record
from gluonseg.train.group import Group
from gluonseg.train.listener import EpochResult
from gluonseg.train.writer import describe_epochs, keeping_model

_log = logging.getLogger(__name__)
REPORT_FILES = (PAGE_FILE, JSON_FILE, CSV_FILE, MARKDOWN_FILE)


class JobReport:
    """Collects facts and masks of the predicted photos, and writes the report into ``folder``; None writes nothing.

    Masks are kept as PNG, at most MAX_SIDE large: whole ones would fill the memory. Of several hosts the first one
    writes the report of the photos of all, or of its own where the photos are sharded: it has no other ones to show.
    ``earlier_s`` are seconds that the training took before this process.
    Errors are logged, and none is raised: a page about a model must not make its job a failed one.
    """

    def __init__(
        self,
        model_folder: Path,
        folder: Path | None,
        channels: Mapping[str, Path],
        group: Group,
        earlier_s: float = 0.0,
    ) -> None:
        self._model_folder = model_folder
        self._folder = folder
        self._channels = channels
        self._start = time.monotonic() - earlier_s
        self._train_seconds = 0.0
        self._predictor: Predictor | None = None
        self._photos: list[PhotoFacts] = []
        self._masks: dict[str, bytes] = {}
        self._group = group
        self._merges = group.size > 1 and "validation" not in group.sharded
        self._is_whole = folder is not None or self._merges
        self._hardware: dict[str, Any] = {}
        if folder:  # the machine before the training
            with keeping_model("The report will be without the hardware"):
                self._hardware = describe_hardware()

    def watch(self, predictor: Predictor) -> None:
        """Training is over; ``predictor`` predicts the photos that :meth:`keep` will get."""
        self._train_seconds = time.monotonic() - self._start
        self._predictor = predictor

    def keep(self, prediction: Prediction) -> None:
        """Keep what the page may show of a predicted photo."""
        if not self._is_whole:
            return
        try:
            self._photos.append(compute_photo_facts(prediction))
            self._masks[prediction.pair.name] = _encode_mask(prediction.mask)
        except Exception:
            self._is_whole = False
            _log.exception("The report will be without the photos")

    def merge(self) -> None:
        """Add what the other hosts have kept; all hosts call it, each after its photos in the order of the data set."""
        if not self._merges:
            return
        masks = {name: base64.b64encode(png).decode() for name, png in self._masks.items()}
        kept = self._group.all_gather(([dataclasses.asdict(photo) for photo in self._photos], masks, self._is_whole))
        self._photos = [_build_facts(**photo) for photos, _, _ in kept for photo in photos]
        self._masks = {name: base64.b64decode(png) for _, masks, _ in kept for name, png in masks.items()}
        self._is_whole = all(is_whole for _, _, is_whole in kept)

    def write(self, card: ModelCard, results: Sequence[EpochResult], confusion: Confusion | None) -> None:
        """Write the report; with ``confusion`` as a scored model's, else with what the card tells."""
        if self._folder is None:
            return
        with keeping_model("The report is not written"):
            self._folder.mkdir(parents=True, exist_ok=True)
            if confusion is None or self._predictor is None or not self._is_whole:
                # A job that is stopped has two seconds left: no time for photos.
                write_model_report(self._model_folder, out=self._folder, hardware=self._hardware)
            else:
                score = build_score(self._predictor, self._photos, confusion)
                self._write_scored(self._folder, card, results, score)

    def _write_scored(self, folder: Path, card: ModelCard, results: Sequence[EpochResult], score: Score) -> None:
        record = RunRecord(
            algorithm=card.algorithm,
            backbone=card.backbone,
            seed=int(card.hyperparameters.get("seed", 0)),
            status=FINISHED,
            train_seconds=self._train_seconds,
            epochs=describe_epochs(results, card.class_names),
            hyperparameters=card.hyperparameters,
            versions=card.versions,
            score=score,
        )
        with tempfile.TemporaryDirectory(prefix="gluonseg-report-") as scratch:
            run = Path(scratch)
            write_record(run, record)
            (run / MASKS_FOLDER).mkdir()
            for name, png in self._masks.items():
                (run / MASKS_FOLDER / f"{name}.png").write_bytes(png)
            write_model_report(self._model_folder, self._channels, run=run, out=folder, hardware=self._hardware)


def _build_facts(size: list[int], seconds: float, score: Mapping[str, Any] | None) -> PhotoFacts:
    return PhotoFacts((size[0], size[1]), seconds, PhotoScore(**score) if score else None)


def _encode_mask(mask_hw: UInt8Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(shrink(mask_hw, MAX_SIDE, smooth=False)).save(buffer, "PNG")
    return buffer.getvalue()
