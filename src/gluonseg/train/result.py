"""The model folder of a job: complete at its end, also when it is stopped."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gluonseg.errors import ModelError, StorageError
from gluonseg.files import write_text
from gluonseg.metrics import Confusion, describe_confusion
from gluonseg.models.folder.card import CARD_FILE, ModelCard, encode_card, read_card
from gluonseg.models.folder.manifest import (
    BEST_FILE,
    HYPERPARAMETERS_FILE,
    LAST_FILE,
    MANIFEST_FILE,
    MODEL_FILES,
    SYMBOL_FILE,
    listing_files,
)
from gluonseg.models.params import read_arrays
from gluonseg.report.curves import draw_curves
from gluonseg.train.job_report import REPORT_FILES
from gluonseg.train.listener import EpochResult, Listener
from gluonseg.train.stop import Stop
from gluonseg.train.writer import CURVES_FILE, ModelWriter, describe_epochs, write_json

_log = logging.getLogger(__name__)
CURVES_PICTURE = "curves.png"
_PARAMETERS = (LAST_FILE, BEST_FILE)
_FILES = (MANIFEST_FILE, *(name for name in MODEL_FILES if name not in _PARAMETERS), CURVES_FILE, CURVES_PICTURE)


class ResultFolder(Listener):
    """Writes all that a job leaves. ``card`` is the card as last written, ``symbol`` the JSON of the network's symbol.

    ``writer`` holds the parameters.
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

        A job that goes on from a checkpoint has a ``best`` model already, others have none: an empty mapping.
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
        try:
            card = read_card(self._folder / CARD_FILE)
            files = {BEST_FILE: best, LAST_FILE: self._writer.last}
            is_same = all(_is_same(read_arrays(self._folder / name), arrays) for name, arrays in files.items())
            is_same &= all(path.is_file() for path in self._list_beside())
        except (ModelError, OSError):
            return False
        if not is_same or "whole_image" not in card.metrics or card.metrics.get("epochs") != len(self._writer.results):
            return False
        self.card = card
        return True

    def _list_beside(self) -> list[Path]:
        """What a job writes beside parameters and card; pictures may fail, so they are not asked for."""
        paths = [folder / CURVES_FILE for folder in self._curve_folders]
        if self._output_folder:
            paths += [self._output_folder / name for name in REPORT_FILES]
        return [self._folder / HYPERPARAMETERS_FILE, *paths]

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        """Put hyperparameters and card beside each best model, so that a job that is killed leaves a usable one."""
        if is_best:
            self._write_card()

    def complete(self) -> None:
        """Write everything, with the parameters as they are; at the end of training, or of as much as there was."""
        self._write()
        self._draw_curves()
        if self._is_stop_in_card:
            self._tell()

    def add_scores(self, confusion: Confusion) -> None:
        """Add the whole-image scores of the best epoch to the card."""
        scores = describe_confusion(confusion, self.card.class_names)
        with listing_files(self._folder, HYPERPARAMETERS_FILE, CARD_FILE):
            self.card = dataclasses.replace(self.card, metrics={**self.card.metrics, "whole_image": scores})
            self._write_card()

    def tell_unscored(self) -> None:
        """Log that the stop came after training and before the scores, unless the log says already what it did."""
        template = "Stopped by %s: the model in %s is complete, but not scored on whole images; try gluonseg evaluate"
        if not self._is_stop_in_card:
            _log.info(template, self._stop.name, self._folder)

    @property
    def _is_stop_in_card(self) -> bool:
        """Whether the stop came before the end of training: a later one finds a complete model."""
        return "stopped_by" in self.card.metrics

    def _write(self) -> None:
        # Not before: whoever is killed during the training leaves a model without a manifest, not with an old one.
        with listing_files(self._folder, *MODEL_FILES):
            self._writer.write_last()
            self.card = dataclasses.replace(self.card, metrics=self._describe())
            self._write_card()
        self._write_curves()

    def _describe(self) -> dict[str, Any]:
        results = self._writer.results
        stopped = {"stopped_by": self._stop.name} if self._stop.is_requested else {}
        if not results:
            return {"epochs": 0, **stopped}
        best = max(results, key=lambda result: result.miou)
        centre_crop = describe_confusion(best.confusion, self.card.class_names)
        return {"best_epoch": best.epoch, "epochs": len(results), **stopped, "centre_crop": centre_crop}

    def _write_card(self) -> None:
        write_json(self._folder / HYPERPARAMETERS_FILE, dict(self.card.hyperparameters))
        write_text(self._folder / CARD_FILE, encode_card(self.card))
        write_text(self._folder / SYMBOL_FILE, self._symbol)

    def _write_curves(self) -> None:
        epochs = describe_epochs(self._writer.results, self.card.class_names)
        for folder in self._curve_folders:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / CURVES_FILE, epochs)

    def _draw_curves(self) -> None:
        epochs = describe_epochs(self._writer.results, self.card.class_names)
        for folder in self._curve_folders if epochs else ():
            try:
                draw_curves(epochs, folder / CURVES_PICTURE, f"{self.card.algorithm} {self.card.backbone}")
            # The model is trained and written: a picture of it must not make the job a failed one.
            except StorageError as error:
                _log.error("The curves are not drawn: %s", error)
            except Exception:
                _log.exception("The curves could not be drawn")

    def _tell(self) -> None:
        """Log what the stop made of the model."""
        last, results = "the parameters as they were", self._writer.results
        if results:
            best = self.card.metrics["best_epoch"]
            text = f"after epoch {results[-1].epoch}: {BEST_FILE} is of epoch {best}, {LAST_FILE} has {last}"
        else:
            text = f"in the first epoch: {BEST_FILE} and {LAST_FILE} have {last}"
        _log.info("Stopped by %s %s; the model is in %s", self._stop.name, text, self._folder)


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether numpy arrays and NDArrays of the same names have the same values."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name].asnumpy()) for name in one)
