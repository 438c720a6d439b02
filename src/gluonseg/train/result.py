"""The model folder of a job: complete at its end, also when it is stopped."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gluonseg.errors import ModelError
from gluonseg.files import write_text
from gluonseg.hyperparameters import validates_whole_photos
from gluonseg.metrics import Confusion, describe_confusion
from gluonseg.models.folder.card import CARD_FILE, ModelCard, encode_card, read_card
from gluonseg.models.folder.manifest import (
    BEST_FILE,
    HYPERPARAMETERS_FILE,
    LAST_FILE,
    MANIFEST_FILE,
    MODEL_FILES,
    ONNX_FILE,
    SYMBOL_FILE,
    listing_files,
)
from gluonseg.models.params import read_arrays
from gluonseg.report.curves import draw_curves
from gluonseg.report.one_model import CURVES_PICTURE, build_record
from gluonseg.train.job_report import REPORT_FILES
from gluonseg.train.listener import EpochResult, Listener
from gluonseg.train.stop import Stop
from gluonseg.train.writer import CURVES_FILE, ModelWriter, describe_epochs, keeping_model, write_json

_log = logging.getLogger(__name__)

_PARAMETERS = (LAST_FILE, BEST_FILE)
_FILES = (MANIFEST_FILE, *(name for name in MODEL_FILES if name not in _PARAMETERS), CURVES_FILE, CURVES_PICTURE)


class ResultFolder(Listener):
    """Writes all that a job leaves in its model folder, and the curves into ``output_folder`` as well.

    ``card`` is the card as last written, ``symbol`` the JSON of the network's symbol; ``writer`` holds the parameters.
    """

    def __init__(
        self, folder: Path, output_folder: Path | None, card: ModelCard, symbol: str, writer: ModelWriter, stop: Stop
    ) -> None:
        self.card = card
        self._symbol = symbol
        self._folder = folder
        self._output_folder = output_folder
        self._curve_folders = [path for path in (folder, output_folder) if path]
        self._writer = writer
        self._stop = stop

    def begin(self, best: Mapping[str, Any]) -> None:
        """Remove what an earlier job left in the folder: its parameters must not be taken for those of this one.

        ``best`` are the parameters of the best epoch before a checkpoint that the job goes on from; else it is empty.
        """
        files = [(folder, name) for folder in self._curve_folders for name in REPORT_FILES]
        # Parameters last: when the disk refuses in between, what is left is a model, or none.
        files += [(self._folder, name) for name in (*_FILES, *_PARAMETERS)]
        for folder, name in files:
            # A job that was killed while it wrote a file leaves the part it had written.
            for path in folder.glob(f".{name}.*.partial"):
                path.unlink(missing_ok=True)
            if not best or name != BEST_FILE:  # which is replaced in one step
                (folder / name).unlink(missing_ok=True)
        if best:
            self._writer.write_best(best)
            self._write_card()

    def holds_scored(self, best: Mapping[str, Any]) -> bool:
        """Whether the folders have all that the training in the writer leaves, scored and with its report.

        Then the card of the model is taken over.
        """
        paths = [self._folder / HYPERPARAMETERS_FILE, self._folder / ONNX_FILE]
        paths += [folder / CURVES_FILE for folder in self._curve_folders]
        if self._output_folder:
            paths += [self._output_folder / name for name in REPORT_FILES]
        if not all(path.is_file() for path in paths):
            return False
        try:
            card = read_card(self._folder / CARD_FILE)
            files = {BEST_FILE: best, LAST_FILE: self._writer.last}
            is_same = all(_is_same(read_arrays(self._folder / name), arrays) for name, arrays in files.items())
        except (ModelError, OSError):
            return False
        if not is_same or "whole_image" not in card.metrics or card.metrics.get("epochs") != len(self._writer.results):
            return False
        self.card = card
        return True

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        """Put hyperparameters and card beside each best model, so that a job that is killed leaves a usable one."""
        if is_best:
            self._write_card()

    def complete(self) -> None:
        """Write everything, with the parameters as they are; at the end of training, or of as much as there was."""
        self._write()
        self._draw_curves()
        if self._is_stop_in_card:
            where = f"in the first epoch: {BEST_FILE} and {LAST_FILE} have"
            if results := self._writer.results:
                best = f"{BEST_FILE} is of epoch {self.card.metrics['best_epoch']}"
                where = f"after epoch {results[-1].epoch}: {best}, {LAST_FILE} has"
            text = "Stopped by %s %s the parameters as they were; the model is in %s"
            _log.info(text, self._stop.name, where, self._folder)

    def add_scores(self, confusion: Confusion) -> None:
        """Add the whole-image scores of the best epoch to the card."""
        scores = describe_confusion(confusion, self.card.class_names)
        with listing_files(self._folder, HYPERPARAMETERS_FILE, CARD_FILE):
            self.card = dataclasses.replace(self.card, metrics={**self.card.metrics, "whole_image": scores})
            self._write_card()

    def log_unscored(self) -> None:
        """Log that the stop came after training and before the scores, unless a line on the stop is there already."""
        template = "Stopped by %s: the model in %s is complete, but not scored on whole images; try gluonseg evaluate"
        if not self._is_stop_in_card:
            _log.info(template, self._stop.name, self._folder)

    @property
    def _is_stop_in_card(self) -> bool:
        """Whether the stop came before the end of training: a later one finds a complete model."""
        return "stopped_by" in self.card.metrics

    def _write(self) -> None:
        results = self._writer.results
        # Not before: a job that is killed during the training leaves a model without a manifest, not with an old one.
        with listing_files(self._folder, *MODEL_FILES):
            self._writer.write_last()
            metrics: dict[str, Any] = {"epochs": len(results)}
            if self._stop.is_requested:
                metrics["stopped_by"] = self._stop.name
            if results:
                best = max(results, key=lambda result: result.miou)
                key = "validation" if validates_whole_photos(self.card.hyperparameters) else "centre_crop"
                scores = describe_confusion(best.confusion, self.card.class_names)
                metrics = {"best_epoch": best.epoch, **metrics, key: scores}
            self.card = dataclasses.replace(self.card, metrics=metrics)
            self._write_card()
        for folder in self._curve_folders:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / CURVES_FILE, describe_epochs(results, self.card.class_names))

    def _write_card(self) -> None:
        write_json(self._folder / HYPERPARAMETERS_FILE, dict(self.card.hyperparameters))
        write_text(self._folder / CARD_FILE, encode_card(self.card))
        write_text(self._folder / SYMBOL_FILE, self._symbol)

    def _draw_curves(self) -> None:
        for folder in self._curve_folders if self._writer.results else ():
            with keeping_model("The curves are not drawn"):
                draw_curves(build_record(self.card, folder), folder / CURVES_PICTURE)


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether numpy arrays and NDArrays of the same names have the same values."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name].asnumpy()) for name in one)
