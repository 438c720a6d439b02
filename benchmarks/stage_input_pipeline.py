"""Decoding and augmentation beside GluonCV's: photos per CPU-second, one process, one thread; size of a batch."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from benchmarks.photo import prepare_channels
from benchmarks.rounds import Series, pick, run_rounds
from benchmarks.row import AT_MOST, Row, build_ratio_row
from benchmarks.variant import Variant
from gluonseg.data.pairs import match_pairs

_MOST_PHOTOS = 320
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_ALL_BYTES = str(1 << 32)
_UNIT = "photos/CPU-s"
_RULE = (
    "pictures are normalised and in an array of MXNet's on both sides; GluonCV's masks too are made arrays of MXNet's, "
    "of 32 bits a pixel, while ours stay uint8, as our loss takes them"
)
_WARM_PASSES = "4"
_PLACED = "--placed"


def _build_variants(images: Path, masks: Path, count: int, stack: ExitStack) -> list[Variant]:
    def start(name: str, module: str, *settings: str) -> Variant:
        arguments = (str(images), str(masks), str(count), *settings)
        return stack.enter_context(
            Variant(name, f"benchmarks.variants.{module}", arguments, environ=_ONE_THREAD)
        )  # fmt: skip

    return [
        start("gluoncv", "gluoncv_pipeline", "0"),
        start("gluoncv decoded", "gluoncv_pipeline", "0", "decoded"),
        start("gluoncv, 2 workers", "gluoncv_pipeline", "2"),
        start("cold", "our_pipeline", "1", "1", "0", _PLACED),
        start("cold uint8", "our_pipeline", "1", "1", "0"),
        start("warm", "our_pipeline", "1", _WARM_PASSES, _ALL_BYTES, _PLACED),
        start("warm uint8", "our_pipeline", "1", _WARM_PASSES, _ALL_BYTES),
        start("cold, 2 workers", "our_pipeline", "2", "1", "0", _PLACED),
    ]


def _compute_rates(series: Series, name: str, key: str) -> list[float]:
    return [photos / time for photos, time in zip(pick(series, name, "photos"), pick(series, name, key), strict=True)]


def _build_rows(series: Series) -> list[Row]:
    rates = {name: _compute_rates(series, name, "cpu_seconds") for name in series}
    walls = {name: _compute_rates(series, name, "seconds") for name in series}
    stage = "input pipeline"
    theirs = "GluonCV's data set"
    sizes = [pick(series, name, "batch_bytes") for name in ("cold uint8", "gluoncv")]
    return [
        build_ratio_row(f"{stage}, cold", theirs, _UNIT, rates["cold"], rates["gluoncv"], 2.5, note=_RULE),
        build_ratio_row(f"{stage}, decoded cache", theirs, _UNIT, rates["warm"], rates["gluoncv"], 6, note=_RULE),
        build_ratio_row(
            f"{stage}, cold, as the loader yields it", theirs, _UNIT, rates["cold uint8"], rates["gluoncv"], None
        ),
        build_ratio_row(
            f"{stage}, decoded cache, as the loader yields it", theirs, _UNIT, rates["warm uint8"], rates["gluoncv"],
            None,
        ),
        build_ratio_row(
            f"{stage}, transforms alone", "the same", _UNIT, rates["warm"], rates["gluoncv decoded"], None,
            note="GluonCV, which has no cache, is handed decoded pictures too",
        ),
        build_ratio_row(
            f"{stage}, cold, 2 workers", theirs, "photos/s", walls["cold, 2 workers"], walls["gluoncv, 2 workers"],
            None, note="by the clock: threads beside GluonCV's processes",
        ),
        build_ratio_row(
            f"{stage}, a batch", theirs, "bytes", sizes[0], sizes[1], 0.27, AT_MOST,
            note="uint8, as the loader yields it",
        ),
    ]  # fmt: skip


def measure(scratch: Path) -> list[Row]:
    """Base size 520, crop 480, batch 8; GluonCV always decodes, as its training does."""
    channels = prepare_channels(scratch)
    images, masks = channels / "train", channels / "train_annotation"
    count = min(_MOST_PHOTOS, len(match_pairs(images, masks).pairs))
    with ExitStack() as stack:
        series = run_rounds(_build_variants(images, masks, count, stack))
    return _build_rows(series)
