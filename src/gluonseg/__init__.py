"""gluonseg: an open, drop-in replacement for SageMaker's built-in Semantic Segmentation algorithm.

The names below are loaded on first use, so that ``import gluonseg`` itself costs nothing: MXNet takes
seconds to import, and the number of its threads has to be settled before that (see
:mod:`gluonseg.machine.limits`).
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from gluonseg import compat as compat  # puts back, for MXNet, the names that numpy has removed

if TYPE_CHECKING:
    from gluonseg.models.zoo import get_model as get_model
    from gluonseg.models.zoo import get_segmentation_model as get_segmentation_model
    from gluonseg.predict.predictor import Predictor as Predictor
    from gluonseg.predict.predictor import load_predictor as load_predictor
    from gluonseg.sagemaker.metric_definitions import METRIC_DEFINITIONS as METRIC_DEFINITIONS

# ONNX Runtime since 1.29 sends its maker what it runs, and keeps a number of this machine in the home folder, unless
# this is set before it is imported. Whoever wants that sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

_LAZY = {
    "METRIC_DEFINITIONS": "gluonseg.sagemaker.metric_definitions",
    "Predictor": "gluonseg.predict.predictor",
    "get_model": "gluonseg.models.zoo",
    "get_segmentation_model": "gluonseg.models.zoo",
    "load_predictor": "gluonseg.predict.predictor",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'gluonseg' has no attribute {name!r}")
