"""Let MXNet 1.9.1 and GluonCV 0.10 run on the numpy of today.

Both libraries touch names that numpy has since removed (numpy 1.24 dropped ``np.bool``, numpy 2 a
dozen more). Import this module before ``mxnet``: it puts those names back, each as an alias of its
documented successor, and changes nothing that exists. On numpy 1.23 and older it does nothing.
It also loads the libraries of MXNet's CUDA build, where that is installed (see gluonseg.machine.cuda_library).

Successors: https://numpy.org/doc/stable/numpy_2_0_migration_guide.html
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from gluonseg.machine.cuda_library import preload_libraries

_FINANCIAL = ("mirr", "npv", "pmt", "ppmt", "pv", "rate")


def _refuse_financial(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise NotImplementedError("numpy moved its financial functions to the numpy-financial package")


def _msort(a: Any) -> Any:
    return np.sort(a, axis=0)


def _trapz(*args: Any, **kwargs: Any) -> Any:
    # Looked up when called: numpy before 2.0 has no trapezoid, and there np.trapz itself exists.
    return getattr(np, "trapezoid")(*args, **kwargs)  # noqa: B009


def _successors() -> dict[str, Any]:
    return {
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
        "msort": _msort,
        "round_": np.round,
        "trapz": _trapz,
        **dict.fromkeys(_FINANCIAL, _refuse_financial),
    }


def restore_numpy_names() -> list[str]:
    """Add the removed names to ``numpy`` and return those that were missing.

    Calling it again is harmless and returns an empty list.
    """
    # vars(), not hasattr: numpy's module __getattr__ warns for some of the removed names.
    missing = {name: value for name, value in _successors().items() if name not in vars(np)}
    for name, value in missing.items():
        setattr(np, name, value)
    return sorted(missing)


restore_numpy_names()
preload_libraries()
