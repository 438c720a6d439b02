"""The whole stack beside multi-model-server with an MXNet handler: same parameters, same photo, a mask as PNG."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.inputs import prepare_photo
from benchmarks.model import prepare_model
from benchmarks.peers.model_server import PREDICTIONS, prepare_model_server, start_model_server
from benchmarks.row import AT_LEAST, AT_MOST, Row, build_ratio_row
from benchmarks.service import INVOCATIONS, Service, ask, measure_rate, start_gluonseg
from benchmarks.stage_server import CLIENTS
from benchmarks.variant import Measurement, pick, run_rounds
from gluonseg.machine.limits import count_usable_cores

_PEER = "multi-model-server 1.1.11, MXNet"
_SAME = 0.999
"""Share of pixels that have to have one class in both masks: both compute the same network, in another order."""
_EARLY = "theirs says 200 also before a worker has the model; ours only once it is loaded and warm"
_DEFAULTS = "one process of ours on all cores, theirs one worker a core with a thread each: each its defaults"


def check_masks(ours: bytes, theirs: bytes) -> None:
    """Raise ValueError when the two servers do not do the same work."""
    one, other = (np.array(Image.open(io.BytesIO(body))) for body in (ours, theirs))
    same = float((one == other).mean()) if one.shape == other.shape else 0.0
    if same < _SAME:
        raise ValueError(f"the servers' masks differ: {same:.4%} of the pixels are equal")


def measure(scratch: Path) -> list[Row]:
    """All rows of this stage; PeerError when the peer cannot be installed."""
    model, photo = prepare_model(scratch, "fcn", "resnet-50"), prepare_photo(scratch)
    folder, masks = prepare_model_server(scratch, model), {}

    def measure_once(start: Callable[[], Service], path: str) -> Measurement:
        """A start, and one request of each client; one server runs at a time."""
        begin = time.perf_counter()
        with start() as service:
            [(_, masks[path])] = ask(service.port, photo, path=path)
            mask = time.perf_counter() - begin
            idle = service.read_idle_pss_mb()
            ask(service.port, photo, count_usable_cores(), path=path)  # each of their workers once
            rate = measure_rate(service.port, photo, CLIENTS, path=path)
            return {"ready": service.ready_s, "mask": mask, "idle": idle, "busy": service.read_pss_mb(), **rate}

    series = run_rounds(
        {
            "ours": lambda: measure_once(lambda: start_gluonseg(model, scratch / "serve.log"), INVOCATIONS),
            "theirs": lambda: measure_once(lambda: start_model_server(scratch, folder), PREDICTIONS),
        }
    )
    check_masks(masks[INVOCATIONS], masks[PREDICTIONS])

    def build(name: str, unit: str, key: str, bar: float | None, sense: str = AT_MOST, note: str = "") -> Row:
        both = pick(series, key, "ours", "theirs")
        return build_ratio_row(f"stack: {name}", _PEER, unit, *both, bar, sense, note)

    return [
        build("start to ping", "s", "ready", 0.3, note=_EARLY),
        build("start to first mask", "s", "mask", 0.5),
        build("idle memory", "MB", "idle", 0.45),
        build(f"{CLIENTS} clients", "photos/s", "rate", 1.15, AT_LEAST, _DEFAULTS),
        build("memory after it", "MB", "busy", None),
    ]
