"""Writes parameters, versions and curves of a job, and logs errors that come after the training."""

from __future__ import annotations

import importlib
import json
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gluonseg import __version__
from gluonseg.errors import UserError
from gluonseg.files import write_pieces, write_text
from gluonseg.metrics import describe_confusion
from gluonseg.models.folder.manifest import BEST_FILE, LAST_FILE
from gluonseg.models.params import compute_size, iter_params
from gluonseg.train.listener import EpochResult, Listener

_log = logging.getLogger(__name__)
CURVES_FILE = "curves.json"
NOT_INSTALLED = "not installed"


class ModelWriter(Listener):
    """Writes ``model_best.params`` whenever an epoch is the best so far, and ``model_algo-1`` at the end.

    ``results`` are the whole epochs so far. ``last`` is a copy, in the host's memory, of the parameters after the last
    of them; before the first one's end, of those the job began with.
    """

    def __init__(self, network: Any, folder: Path, dtype: str = "float32") -> None:
        self._network = network
        self._folder = folder
        self._dtype = dtype
        self.results: list[EpochResult] = []
        self.last = self.copy_parameters()

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        self.last = self.copy_parameters()
        self.results.append(result)
        if is_best:
            self.write_best(self.last)

    def resume(self, results: Sequence[EpochResult]) -> None:
        """Take over the epochs that a checkpoint has brought; the network has the parameters after the last one."""
        self.last = self.copy_parameters()
        self.results = list(results)

    def write_best(self, parameters: Mapping[str, Any]) -> None:
        """Write the best epoch's parameters."""
        self._write(BEST_FILE, parameters)

    def copy_parameters(self) -> dict[str, Any]:
        """The network's parameters in float32 on the CPU, by structural name; waits until they are computed."""
        parameters = self._network._collect_params_with_prefix()
        copies = {name: parameter._reduce() for name, parameter in parameters.items()}
        if self._dtype != "float32":
            copies = {name: copy.astype("float32") for name, copy in copies.items()}
        for copy in copies.values():
            copy.wait_to_read()
        return copies

    def write_last(self) -> None:
        """Write the parameters as they are under the last epoch's name; as the best ones, too, if no epoch is whole."""
        parameters = self.copy_parameters()
        if not self.results:
            self.write_best(parameters)
        self._write(LAST_FILE, parameters)

    def _write(self, name: str, parameters: Mapping[str, Any]) -> None:
        """The file is replaced in one step."""
        path = self._folder / name
        _log.info("Serializing model to %s", path)
        write_pieces(path, iter_params(parameters), compute_size(parameters))


@contextmanager
def keeping_model(words: str) -> Iterator[None]:
    """Log an error of the block after ``words``, and go on: the model is written, and the job does not fail."""
    try:
        yield
    except (UserError, OSError) as error:
        _log.error("%s: %s", words, error)
    except Exception:
        _log.exception("%s", words)


def describe_versions() -> dict[str, str]:
    """Versions of what a result depends on; "not installed" for a library that only training needs."""
    versions = {"gluonseg": __version__, "python": platform.python_version()}
    modules = {"mxnet": "mxnet", "gluoncv": "gluoncv", "numpy": "numpy", "pillow": "PIL", "opencv": "cv2"}
    for name, module in modules.items():
        try:
            versions[name] = str(importlib.import_module(module).__version__)
        except ModuleNotFoundError:
            versions[name] = NOT_INSTALLED
    return versions


def describe_epochs(results: Sequence[EpochResult], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The curves: one entry an epoch, with its ``phase`` if training has two stages."""
    return [
        {
            "epoch": result.epoch,
            **({"phase": result.phase} if result.phase else {}),
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
