"""The record that a comparison keeps of each run, as JSON beside the run's model.

A comparison's folder holds ``comparison.json``, one folder ``runs/<algorithm>_<backbone>_seed<n>`` for each run, and
the reports. A run's folder is a job's folder (``model``, ``output``) with ``run.json`` and ``log.txt`` beside them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gluonseg.errors import UserError
from gluonseg.files import parse_json_object, write_text
from gluonseg.hyperparameters import validates_whole_photos
from gluonseg.models.registry import get_title
from gluonseg.predict.score import Score, parse_score

COMPARISON_FILE = "comparison.json"
RUN_FILE = "run.json"
RUNS_FOLDER = "runs"
MASKS_FOLDER = "masks"
"""In a run's folder: the predicted mask of each validation photo, as ``<name>.png``."""
FINISHED, FAILED = "finished", "failed"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """How a run ended. ``epochs`` are the entries of curves.json; ``error`` says why a run failed, in one line."""

    algorithm: str
    backbone: str
    seed: int
    status: str
    error: str = ""
    train_seconds: float = 0.0
    train_peak_mb: float = 0.0
    epochs: Sequence[Mapping[str, Any]] = ()
    hyperparameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    score: Score | None = None

    @property
    def name(self) -> str:
        """Name of the run and of its folder."""
        return f"{self.algorithm}_{self.backbone}_seed{self.seed}"

    @property
    def model_name(self) -> str:
        """What is compared: the same for all seeds."""
        return f"{self.algorithm} {self.backbone}"

    @property
    def title(self) -> str:
        """``model_name`` as people write it."""
        return f"{get_title(self.algorithm)} {self.backbone}"

    @property
    def validated_on(self) -> str:
        """What the validation numbers of ``epochs`` are of."""
        return "whole photos" if validates_whole_photos(self.hyperparameters) else "centre crops"


def write_record(folder: Path, record: RunRecord) -> None:
    """Write ``run.json`` into a run's folder, in one step; numbers that JSON does not know become null."""
    content = drop_non_finite(dataclasses.asdict(record))
    write_text(folder / RUN_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")


def drop_non_finite(value: Any) -> Any:
    """The value with None for numbers that JSON does not know: the loss of a training that diverged is nan."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: drop_non_finite(item) for name, item in value.items()}
    return [drop_non_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def read_json(path: Path) -> Any:
    """The content of a JSON file that a step may have left; None where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def describe_training(model: Path, settings: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a record that a training has left in its ``model`` folder; ``settings`` where it left none."""
    return {
        "epochs": read_json(model / "curves.json") or [],
        "hyperparameters": read_json(model / "hyperparams.json") or settings,
        "versions": (read_json(model / "model_card.json") or {}).get("versions", {}),
    }


def check_epochs(content: Any) -> list[Mapping[str, Any]]:
    """The entries of curves.json; ValueError where an entry has no epoch."""
    if not isinstance(content, list) or not all(isinstance(entry, dict) and "epoch" in entry for entry in content):
        raise ValueError("it is no list of epochs")
    return content


def read_record(folder: Path) -> RunRecord | None:
    """The record in a run's folder; None where the run has not come to an end. UserError for one that is damaged."""
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        content = parse_json_object(path.read_bytes())
        score = content.pop("score", None)
        check_epochs(content.get("epochs", []))
        return RunRecord(score=None if score is None else parse_score(score), **content)
    except (OSError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it, and the run is made again") from None
