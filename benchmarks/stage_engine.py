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
_SQUARE, _PHOTO = ("480", "480"), ("375", "500")
"""Height and width; the first is the size that GluonCV's networks are trained at."""
_PEER = "GluonCV predict"
_MB = 1e6


def _start(
    stack: ExitStack, scratch: Path, engine: str, model: Path, threads: str, size: tuple[str, str] = _SQUARE
) -> Variant:
    arguments = (engine, str(model), *size, "--save", str(_find_mask(scratch, engine, size)))
    return stack.enter_context(
        Variant(f"{engine} {threads}", _MODULE, arguments, environ={THREADS: threads})
    )


def _find_mask(scratch: Path, engine: str, size: tuple[str, str]) -> Path:
    return scratch / f"mask-{engine}-{'x'.join(size)}.npy"


def _build_agreement(scratch: Path, size: tuple[str, str]) -> Row:
    ours, theirs = (np.load(_find_mask(scratch, engine, size)) for engine in ("ours", "gluoncv"))
    share = 100 * float((ours == theirs).mean())
    note = f"of {len(np.unique(theirs))} classes in their mask"
    return Row(f"prediction, same class, {'x'.join(size)}", _PEER, "% of pixels", share, None, share, 99.99, note=note)


def _measure_photo(scratch: Path, model: Path, cores: str) -> list[Row]:
    """The same for a photo that is no square, whose sides are no multiples of the stride."""
    with ExitStack() as stack:
        variants = [_start(stack, scratch, engine, model, cores, _PHOTO) for engine in ("gluoncv", "ours")]
        series = run_rounds(variants)
    compared = _compare(series, f"ours {cores}", f"gluoncv {cores}")
    stage = f"prediction, {cores} threads, {'x'.join(_PHOTO)}"
    return [build_ratio_row(stage, _PEER, "photos/s", *compared, None), _build_agreement(scratch, _PHOTO)]


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
        series = run_rounds(variants)
        loads = {variant.name: variant.ready["load_s"] for variant in variants}
    unit, same = "photos/s", f"prediction, {cores} threads"
    rows = [
        build_ratio_row("prediction, out of the box", _PEER, unit, *_compare(series, "ours ", "gluoncv "), 1.7),
        build_ratio_row(same, _PEER, unit, *_compare(series, f"ours {cores}", f"gluoncv {cores}"), 1.12),
        _build_agreement(scratch, _SQUARE),
        *_measure_photo(scratch, model, cores),
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
