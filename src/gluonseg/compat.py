"""Let MXNet 1.9.1 and GluonCV 0.10 run on the numpy of today.

Both libraries look up names that numpy has removed (numpy 1.24 removed ``np.bool``, numpy 2 a dozen more). Import this
module before ``mxnet``: it puts those names back, each as an alias of its documented successor, and changes no name
that exists. On numpy 1.23 and older it does nothing. It also loads the libraries of MXNet's CUDA build, where that is
installed (see :mod:`gluonseg.machine.cuda_library`), and takes the place of GluonCV's check of versions.

Successors: https://numpy.org/doc/stable/numpy_2_0_migration_guide.html
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from gluonseg.machine.cuda_library import preload_libraries

SUCCESSORS: Mapping[str, Any] = {
    "NAN": np.nan,
    "NaN": np.nan,
    "PZERO": 0.0,
    "NZERO": -0.0,
    "PINF": np.inf,
    "NINF": -np.inf,
    "Inf": np.inf,
    "bool": np.bool_,
    "alltrue": np.all,
    "sometrue": np.any,
    "product": np.prod,
    "in1d": np.isin,
    "msort": functools.partial(np.sort, axis=0),
    "round_": np.round,
    # numpy before 2.0 has no trapezoid, but trapz itself.
    "trapz": getattr(np, "trapezoid", None),
    # These moved to another package, numpy-financial; MXNet looks them up and does not call them.
    **dict.fromkeys(("mirr", "npv", "pmt", "ppmt", "pv", "rate")),
}
"""Values of the removed names."""


def restore_numpy_names() -> list[str]:
    """Add the removed names to ``numpy`` and return those that were missing; again, it returns an empty list."""
    # vars(), not hasattr: numpy's module __getattr__ warns for some of the removed names.
    missing = sorted(name for name in SUCCESSORS if name not in vars(np))
    for name in missing:
        setattr(np, name, SUCCESSORS[name])
    return missing


def replace_version_check() -> None:
    """Give GluonCV a ``gluoncv.check`` that does not import PyTorch: its own raises where PyTorch is 2 or is broken.

    GluonCV then takes PyTorch for missing, which only its own ``gluoncv.torch`` needs; a program can still import it.
    """

    def skip(*_versions: str) -> None:
        """MXNet and Python are the versions that gluonseg is installed with."""

    def say_missing(*_versions: str) -> None:
        raise ImportError("gluonseg runs GluonCV without PyTorch")

    check = ModuleType("gluoncv.check")
    vars(check).update(_deprecate_python2=skip, _require_mxnet_version=skip, _require_pytorch_version=say_missing)
    sys.modules.setdefault(check.__name__, check)


restore_numpy_names()
preload_libraries()
replace_version_check()
