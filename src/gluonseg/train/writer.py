"""What a job leaves in the model folder: parameters, hyperparameters, card, curves."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gluoncv
import mxnet as mx
import numpy as np

from gluonseg import __version__
from gluonseg.atomic import replacing_file, write_text
from gluonseg.metrics import describe_confusion
from gluonseg.models.artifact import BEST_FILE, LAST_FILE
from gluonseg.train.listener import EpochResult, Listener

_log = logging.getLogger(__name__)
CURVES_FILE = "curves.json"


class ModelWriter(Listener):
    """Writes ``model_best.params`` whenever an epoch is the best so far, and ``model_algo-1`` at the end."""

    def __init__(self, network: Any, folder: Path, dtype: str = "float32") -> None:
        self._network = network
        self._folder = folder
        self._dtype = dtype

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        if is_best:
            self.write(BEST_FILE)

    def write(self, name: str) -> None:
        """Write the network's parameters in float32; the file is replaced in one step."""
        path = self._folder / name
        _log.info("Serializing model to %s", path)
        with replacing_file(path) as partial:
            if self._dtype == "float32":
                self._network.save_parameters(str(partial))
                return
            parameters = self._network._collect_params_with_prefix()
            mx.nd.save(str(partial), {key: value._reduce().astype("float32") for key, value in parameters.items()})

    def write_last(self) -> None:
        """Write the parameters as they are now under the last epoch's name."""
        self.write(LAST_FILE)


def describe_versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {
        "gluonseg": __version__,
        "python": platform.python_version(),
        "mxnet": mx.__version__,
        "gluoncv": gluoncv.__version__,
        "numpy": np.__version__,
    }


def describe_epochs(results: Sequence[EpochResult], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The curves: one entry an epoch. Validation numbers are of the centre crops."""
    return [
        {
            "epoch": result.epoch,
            "learning_rate": result.learning_rate,
            "train_loss": result.train_loss,
            "train_throughput": result.train_throughput,
            "validation_throughput": result.validation_throughput,
            "validation": describe_confusion(result.confusion, class_names),
        }
        for result in results
    ]


def write_json(path: Path, content: Any) -> None:
    """Write JSON to ``path`` in one step."""
    write_text(path, json.dumps(content, indent=2) + "\n")
