"""All targets by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from . import from_job, from_model, from_request
from .target import Target

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "request": from_request.REQUEST,
        "label_map": from_job.LABEL_MAP,
        "hyperparameters": from_job.HYPERPARAMETERS,
        "params": from_model.PARAMS,
        "onnx": from_model.ONNX,
        "archive": from_model.ARCHIVE,
        "card": from_model.CARD,
    }
)
