"""``python -m benchmarks.network_table [ALGORITHM ...]`` prints the table of docs/networks.md: every pair.

Each pair is measured twice in processes of its own: two steps of a training, then photos through the model.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.model import prepare_model
from benchmarks.variant import ROOT
from gluonseg.models.registry import get_networks

CLASSES, CROP, BATCH = 21, 240, 8
HEIGHT, WIDTH = 480, 640
_SCRATCH = ROOT / "build" / "bench"
_HEAD = """\
| network | backbone | output stride | parameters, million | GMACs | latency, ms | memory serving, MB | \
memory training, MB |
|---|---|---|---|---|---|---|---|"""
Figures = Mapping[str, float]


def _find_peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measure_training(algorithm: str, backbone: str) -> Figures:
    from benchmarks.training_batch import draw_batch
    from benchmarks.variants.our_step import LEARNING_RATE, build_stepper
    from gluonseg.data.loader import Batch

    stepper = build_stepper(backbone, CLASSES, CROP, algorithm)
    batch = Batch(*draw_batch(CROP, BATCH, CLASSES))
    for _ in range(2):
        stepper.update(batch, LEARNING_RATE).wait_to_read()
    return {"training_mb": _find_peak_mb()}


def _measure_serving(model: Path) -> Figures:
    from gluonseg.predict.predictor import load_predictor

    predictor = load_predictor(model, search_gpu=False)
    photo = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    predictor.predict_mask(photo)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        predictor.predict_mask(photo)
        times.append(time.perf_counter() - start)
    return {"latency_ms": 1000 * statistics.median(times), "serving_mb": _find_peak_mb()}


def _measure_cost(model: Path) -> Figures:
    from gluonseg.predict.predictor import load_predictor

    cost = load_predictor(model, search_gpu=False).engine.compute_cost(HEIGHT, WIDTH)
    return {"parameters": cost.parameters / 1e6, "gmacs": cost.macs / 1e9}


def _run(*arguments: str) -> Figures:
    """Measure in a process of its own, whose memory is that of one network."""
    command = [sys.executable, "-m", "benchmarks.network_table", "--measure", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def format_row(algorithm: str, backbone: str, figures: Figures) -> str:
    """One line of the table."""
    network = get_networks()[algorithm]
    strides = ", ".join(map(str, network.output_strides))
    cells = f"{figures['parameters']:.1f} | {figures['gmacs']:.1f} | {figures['latency_ms']:.0f}"
    memory = f"{figures['serving_mb']:,.0f} | {figures['training_mb']:,.0f}"
    return f"| {network.title} | {backbone} | {strides} | {cells} | {memory} |"


def _write_table(algorithms: Sequence[str]) -> None:
    print(_HEAD)
    for algorithm in algorithms or get_networks():
        for encoder in get_networks()[algorithm].encoders:
            model = prepare_model(_SCRATCH, algorithm, encoder.name, CLASSES, onnx=True)
            parts = [_run("training", algorithm, encoder.name), _run("serving", str(model)), _run("cost", str(model))]
            merged = {name: value for part in parts for name, value in part.items()}
            print(format_row(algorithm, encoder.name, merged), flush=True)


def main(arguments: Sequence[str]) -> None:
    """Print the table, or measure one part of it."""
    if arguments[:1] != ["--measure"]:
        _write_table(arguments)
        return
    from gluonseg.cores import set_thread_count

    set_thread_count()
    kind, *names = arguments[1:]
    if kind == "training":
        figures = _measure_training(*names)
    else:
        figures = {"serving": _measure_serving, "cost": _measure_cost}[kind](Path(names[0]))
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
