"""Steps of training beside those of GluonCV's training script: steps per second, and the most memory.

FCN on resnet-18, crop 240, batch 8, on a batch that is loaded already. Other networks and sizes: the two programs by
themselves, such as ``python -m benchmarks.variants.our_step resnet50 150 480 4 1``, which answer each line on their
standard input with a line of JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.rounds import Series, pick, run_rounds
from benchmarks.row import AT_MOST, Row, build_ratio_row
from benchmarks.training_batch import THREADS
from benchmarks.variant import Variant
from gluonseg.cores import count_usable_cores

_SETTINGS = ("240", "8", "1")  # crop, batch, steps a round
_PEER = "the steps of GluonCV's script"
_PEER_NOTE = (
    "GluonCV's script is not in its package: its steps and settings are rebuilt on GluonCV's public API, the FCN of "
    "GluonCV's resnet-18 and head, since its own FCN cannot be built for that backbone; the batch is loaded, and "
    "normalised within our step"
)
_MB = 1e6


def _start(stack: ExitStack, module: str, num_classes: int, threads: str) -> Variant:
    name = f"{module} {num_classes} {threads}"
    arguments = ("resnet18", str(num_classes), *_SETTINGS)
    environ = {THREADS: threads}
    return stack.enter_context(Variant(name, f"benchmarks.variants.{module}", arguments, environ=environ))


def _run(settings: Sequence[tuple[str, int, str]]) -> Series:
    with ExitStack() as stack:
        return run_rounds([_start(stack, *setting) for setting in settings])


def _compute_rates(series: Series, module: str, num_classes: int, threads: str) -> list[float]:
    name = f"{module} {num_classes} {threads}"
    return [steps / time for steps, time in zip(pick(series, name, "steps"), pick(series, name), strict=True)]


def _pick_peaks(series: Series, module: str, num_classes: int, threads: str) -> list[float]:
    return [peak / _MB for peak in pick(series, f"{module} {num_classes} {threads}", "peak_bytes")]


def measure(_scratch: Path) -> list[Row]:
    """An empty thread count is that of a process which nobody told one."""
    cores = str(count_usable_cores())
    few = _run([("gluoncv_step", 21, ""), ("our_step", 21, ""), ("our_step", 21, "1"), ("gluoncv_step", 21, cores)])
    many = _run([("gluoncv_step", 150, cores), ("our_step", 150, cores)])
    stage, unit = "training step", "steps/s"

    def compare(series: Series, num_classes: int, ours: str, theirs: str) -> tuple[list[float], list[float]]:
        return (
            _compute_rates(series, "our_step", num_classes, ours),
            _compute_rates(series, "gluoncv_step", num_classes, theirs),
        )

    memory = [
        build_ratio_row(
            f"memory of training, {num_classes} classes", _PEER, "MB",
            _pick_peaks(series, "our_step", num_classes, ours), _pick_peaks(series, "gluoncv_step", num_classes, cores),
            bar, AT_MOST, note="the most that the process ever had resident",
        )
        for series, num_classes, ours, bar in ((few, 21, "", 0.8), (many, 150, cores, 0.55))
    ]  # fmt: skip
    return [
        build_ratio_row(f"{stage}, out of the box", _PEER, unit, *compare(few, 21, "", ""), 1.8, note=_PEER_NOTE),
        build_ratio_row(f"{stage}, {cores} threads, 21 classes", _PEER, unit, *compare(few, 21, "", cores), 1.2),
        build_ratio_row(
            f"{stage}, 1 thread, 21 classes", _PEER, unit, *compare(few, 21, "1", ""), None,
            note="MXNet takes one thread when it is told nothing",
        ),
        build_ratio_row(f"{stage}, {cores} threads, 150 classes", _PEER, unit, *compare(many, 150, cores, cores), 1.5),
        *memory,
    ]  # fmt: skip
