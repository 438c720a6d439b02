"""Our prediction engine beside GluonCV's ``predict`` as its demos use it; MXNet and OpenVINO for information."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.model import prepare_model
from benchmarks.rounds import Series, pick, run_rounds
from benchmarks.row import AT_MOST, Row, build_ratio_row
from benchmarks.training_batch import THREADS
from benchmarks.variant import Variant
from gluonseg.cores import count_usable_cores

_MODULE = "benchmarks.variants.engine"
_SIZE = ("480", "480")
_PEER = "GluonCV predict"
_ROUNDS = 5
_MB = 1e6


def _start(stack: ExitStack, scratch: Path, engine: str, model: Path, threads: str) -> Variant:
    mask = scratch / f"mask-{engine}.npy"
    arguments = (engine, str(model), *_SIZE, "--save", str(mask))
    return stack.enter_context(
        Variant(f"{engine} {threads}", _MODULE, arguments, environ={THREADS: threads})
    )


def _build_agreement(scratch: Path) -> Row:
    ours, theirs = (np.load(scratch / f"mask-{engine}.npy") for engine in ("ours", "gluoncv"))
    share = 100 * float((ours == theirs).mean())
    return Row("prediction, same class", _PEER, "% of pixels", share, None, share, 99.99)


def _compare(series: Series, name: str, other: str) -> tuple[Sequence[float], Sequence[float]]:
    """Photos per second of both."""
    return [1 / time for time in pick(series, name)], [1 / time for time in pick(series, other)]


def measure(scratch: Path) -> list[Row]:
    """FCN resnet-50, 21 classes, one photo of 480x480 at a time; an empty thread count is the default."""
    model = prepare_model(scratch, "fcn", "resnet-50", 21, onnx=True)
    cores = str(count_usable_cores())
    settings = [("gluoncv", ""), ("ours", ""), ("gluoncv", cores), ("ours", cores), ("mxnet", cores)]
    if find_spec("openvino"):
        settings.append(("openvino", cores))
    with ExitStack() as stack:
        variants = [_start(stack, scratch, engine, model, threads) for engine, threads in settings]
        series = run_rounds(variants, rounds=_ROUNDS)
        loads = {variant.name: variant.ready["load_s"] for variant in variants}
    unit, same = "photos/s", f"prediction, {cores} threads"
    rows = [
        build_ratio_row("prediction, out of the box", _PEER, unit, *_compare(series, "ours ", "gluoncv "), 1.7),
        build_ratio_row(same, _PEER, unit, *_compare(series, f"ours {cores}", f"gluoncv {cores}"), 1.12),
        _build_agreement(scratch),
    ]
    for engine, _ in settings[4:]:
        name = f"{engine} {cores}"
        compared = _compare(series, f"ours {cores}", name)
        note = f"{engine} loaded in {loads[name]:.1f} s, ours in {loads[f'ours {cores}']:.1f} s"
        rows.append(build_ratio_row(same, engine, unit, *compared, None, note=note))
    ours, theirs = (
        [value / _MB for value in pick(series, name, "peak_bytes")] for name in (f"ours {cores}", f"gluoncv {cores}")
    )
    rows.append(build_ratio_row("memory of prediction", _PEER, "MB", ours, theirs, None, AT_MOST))
    return rows
