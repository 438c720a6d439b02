"""The kinds of data that ``gluonseg prepare`` knows, by the names of its commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gluonseg.data.prepare.core import DataSet
from gluonseg.data.prepare.folders import find_folders

FINDERS: Mapping[str, Callable[..., DataSet]] = {
    "folders": find_folders,
}
"""Kind -> the function that looks through a source; the options of the command are its arguments."""
