"""``python -m benchmarks.network_table [ALGORITHM | ALGORITHM/BACKBONE ...]`` prints the table of docs/networks.md.

Each pair is measured twice, in processes of their own: two steps of a training, then photos through the model. An MB of
memory is 1024 * 1024 bytes, as in the reports of gluonseg.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.model import CLASSES, prepare_model
from benchmarks.stage_training_step import build_stepper
from benchmarks.training_batch import LEARNING_RATE, draw_batch
from benchmarks.variant import ROOT, Measurement, Variant, serve_rounds
from gluonseg.machine.limits import read_peak_mb, set_thread_count
from gluonseg.models.registry import get_networks

HEIGHT, WIDTH = 480, 640
_HEAD = """\
| network | backbone | output stride | parameters, million | GMACs | latency, ms | memory serving, MB | \
memory training, MB |
|---|---|---|---|---|---|---|---|"""


def _measure_training(algorithm: str, backbone: str) -> Measurement:
    from gluonseg.data.loader import Batch

    stepper, batch = build_stepper(algorithm, backbone, CLASSES), Batch(*draw_batch(CLASSES))
    for _ in range(2):
        stepper.update(batch, LEARNING_RATE)
    return {"training_mb": read_peak_mb()}


def _measure_serving(model: str) -> Measurement:
    from gluonseg.predict.predictor import load_predictor

    predictor = load_predictor(Path(model), search_gpu=False)
    photo = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    predictor.predict_mask(photo)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        predictor.predict_mask(photo)
        times.append(time.perf_counter() - start)
    found = {"latency_ms": 1000 * statistics.median(times), "serving_mb": read_peak_mb()}
    cost = predictor.engine.compute_cost(HEIGHT, WIDTH)
    return {**found, "parameters": cost.parameters / 1e6, "gmacs": cost.macs / 1e9}


def _run(*arguments: str) -> Measurement:
    """Measure in a process of its own, whose memory is that of one network."""
    with Variant("benchmarks.network_table", "--measure", *arguments) as variant:
        return variant.ready


def format_row(algorithm: str, backbone: str, figures: Mapping[str, float]) -> str:
    """One line of the table."""
    network = get_networks()[algorithm]
    strides = ", ".join(map(str, network.output_strides))
    cells = f"{figures['parameters']:.1f} | {figures['gmacs']:.1f} | {figures['latency_ms']:.0f}"
    memory = f"{figures['serving_mb']:,.0f} | {figures['training_mb']:,.0f}"
    return f"| {network.title} | {backbone} | {strides} | {cells} | {memory} |"


def main(arguments: Sequence[str]) -> None:
    """Print the table, or measure one part of it."""
    if arguments[:1] == ["--measure"]:
        set_thread_count()
        kind, *names = arguments[1:]
        serve_rounds(lambda: None, _measure_training(*names) if kind == "training" else _measure_serving(*names))
        return
    print(_HEAD)
    for argument in arguments or get_networks():
        algorithm, _, only = argument.partition("/")
        for backbone in [only] if only else [encoder.name for encoder in get_networks()[algorithm].encoders]:
            model = prepare_model(ROOT / "build" / "bench", algorithm, backbone)
            figures = {**_run("training", algorithm, backbone), **_run("serving", str(model))}
            print(format_row(algorithm, backbone, figures), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
