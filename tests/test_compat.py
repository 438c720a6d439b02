"""gluonseg.compat adds names to numpy and changes none, for our code and for a user's own script."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gluonseg.sagemaker
from gluonseg import compat
from program import build_environment, run_source

USER_SITE = Path(gluonseg.sagemaker.__file__).with_name("user_site")
SOURCE = USER_SITE.parents[2]

COMPARE = """
import json, warnings
import numpy
import numpy.linalg, numpy.ma, numpy.random
before = dict(vars(numpy))
modules = {name: dict(vars(module)) for name, module in [
    ("linalg", numpy.linalg), ("ma", numpy.ma), ("random", numpy.random), ("ndarray", numpy.ndarray)]}
state = numpy.geterr(), numpy.get_printoptions(), list(warnings.filters)
from gluonseg import compat
after = vars(numpy)
print(json.dumps({
    "lost": sorted(before.keys() - after.keys()),
    "added": sorted(after.keys() - before.keys()),
    "changed": sorted(name for name in before if after[name] is not before[name]),
    "touched": sorted(name for name, old in modules.items()
                      if dict(vars(getattr(numpy, name))).keys() != old.keys()),
    "state": (numpy.geterr(), numpy.get_printoptions(), list(warnings.filters)) == state,
    "again": compat.restore_numpy_names(),
}))
"""


def run_python(source: str, *paths: Path, **variables: str) -> str:
    return run_source(source, build_environment(PYTHONPATH=os.pathsep.join(map(str, paths)), **variables))


@pytest.fixture(scope="module")
def comparison() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run_python(COMPARE))
    return result


def test_adds_names_of_its_own_list_and_changes_nothing(comparison: dict[str, Any]) -> None:
    assert (comparison["lost"], comparison["changed"], comparison["touched"]) == ([], [], [])
    assert comparison["state"]
    assert comparison["again"] == []
    assert set(comparison["added"]) <= set(compat.SUCCESSORS) <= set(vars(np))
    if not np.__version__.startswith("1."):
        assert {"NAN", "NINF", "PINF", "alltrue", "product", "round_", "sometrue"} <= set(comparison["added"])


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("alltrue", ([1, 0],), False),
        ("sometrue", ([1, 0],), True),
        ("product", ([2, 3],), 6),
        ("in1d", ([1, 2], [2]), [False, True]),
        ("msort", ([[3, 1], [2, 4]],), [[2, 1], [3, 4]]),
        ("round_", (1.234, 1), 1.2),
        ("trapz", ([1.0, 2.0, 3.0],), 4.0),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_successor_computes_what_the_removed_function_did(name: str, arguments: tuple[Any, ...], expected: Any) -> None:
    np.testing.assert_array_equal(getattr(np, name)(*arguments), expected)


def test_constants_have_their_old_values() -> None:
    found = [getattr(np, name) for name in ("NAN", "NaN", "PINF", "NINF", "Inf", "PZERO", "NZERO")]
    np.testing.assert_array_equal(found, [np.nan, np.nan, np.inf, -np.inf, np.inf, 0.0, 0.0])
    assert np.signbit(found[-1])


def test_user_script_can_import_gluoncv_and_mxnet() -> None:
    source = "import gluoncv, mxnet; print(float(mxnet.nd.ones((2, 3)).sum().asscalar()))"
    assert run_python(source, USER_SITE, PYTHONWARNINGS="ignore") == "6.0"


TORCHES = {
    "version 2": "__version__ = '2.6.0'",
    "a library is missing": "raise OSError('libtorch_cpu.so: cannot open shared object file')",
    "its parts do not fit": "raise ImportError('cannot import name ops')",
}
"""Modules called torch that GluonCV does not take."""
IMPORT_ALL = """
import sys
import gluonseg, gluonseg.command, gluonseg.train.job, gluonseg.export.float32
gluonseg.get_model("fcn_resnet18_voc", pretrained_base=False)
assert "torch" not in sys.modules
gluonseg.command.run_doctor(None)
"""


@pytest.mark.parametrize("source", TORCHES.values(), ids=TORCHES)
def test_the_pytorch_beside_it_plays_no_part(source: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(source)
    assert "devices    cpu(0)" in run_python(IMPORT_ALL, SOURCE, tmp_path, PYTHONWARNINGS="ignore")


def test_user_script_can_use_pytorch_beside_gluoncv(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(TORCHES["version 2"])
    source = "import gluoncv, torch; print(torch.__version__)"
    assert run_python(source, USER_SITE, SOURCE, tmp_path, PYTHONWARNINGS="ignore") == "2.6.0"


def test_user_script_starts_without_numpy() -> None:
    source = "import sys; print([name for name in ('numpy', 'gluonseg') if name in sys.modules])"
    assert run_python(source, USER_SITE) == "[]"


def test_user_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins\nbuiltins.theirs = 'ran'\n", encoding="utf-8")
    assert run_python("print(theirs)", USER_SITE, tmp_path) == "ran"
