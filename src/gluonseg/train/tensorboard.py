"""Training curves as event files for TensorBoard; needs the optional extra ``gluonseg[tensorboard]``."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gluonseg.errors import HyperparameterError
from gluonseg.train.listener import EpochResult, Listener

EVENTS_FOLDER = "tensorboard"


class TensorBoard(Listener):
    """Writes each epoch's numbers into ``folder``, where the events of an earlier job are removed first.

    ``class_names`` name the validation IoUs, in the order of the class ids. Raises HyperparameterError when
    tensorboardX, the library that writes event files, is not installed.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        try:
            self._library: Any = importlib.import_module("tensorboardX")
        except ImportError as error:
            raise HyperparameterError(
                f"tensorboard is True, but tensorboardX cannot be loaded ({error}); "
                'pip install "gluonseg[tensorboard]", or leave tensorboard out'
            ) from None
        self._folder = folder
        self._class_names = class_names
        self._writer: Any = None

    def on_start(self, epochs: int, iterations: int) -> None:
        for path in self._folder.glob("events.out.tfevents.*"):
            path.unlink()
        self._writer = self._library.SummaryWriter(logdir=str(self._folder))

    def on_resume(self, results: Sequence[EpochResult]) -> None:
        """The events were removed, and a machine that takes over a job has none."""
        for result in results:
            self.on_epoch(result, is_best=False)

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        """Add a point to every curve, at once on disk: people watch a training while it runs."""
        confusion = result.confusion
        iou = zip(self._class_names, confusion.compute_class_iou().tolist(), strict=True)
        values = {
            "train/loss": result.train_loss,
            "train/learning_rate": result.learning_rate,
            "train/samples_per_second": result.train_throughput,
            "validation/mIOU": result.miou,
            "validation/pixel_accuracy": confusion.compute_pixel_accuracy(),
            **{f"validation_IoU/{name}": value for name, value in iou},
        }
        for tag, value in values.items():
            # The IoU of a class that is in neither masks nor predictions is nan.
            if math.isfinite(value):
                self._writer.add_scalar(tag, value, result.epoch)
        self._writer.flush()

    def on_end(self) -> None:
        self._writer.close()
