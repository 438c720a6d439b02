"""Cases of a test, each with the family of the fault catalogue that it is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest


def mark_cases(
    cases: Mapping[str, tuple[Any, ...]], families: Mapping[str, int], outcome: str
) -> list[Any]:  # ParameterSet is no public name
    """One parameter set a case; those whose name is among ``families`` are marked with their family and ``outcome``."""
    sets = []
    for name, case in cases.items():
        marks = [pytest.mark.fault(family=families[name], outcome=outcome)] if name in families else []
        sets.append(pytest.param(*case, id=name, marks=marks))
    return sets
