"""The whole stack beside multi-model-server with an MXNet handler: same parameters, same photo, a mask as PNG."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.client import Client, prepare_photo
from benchmarks.model import prepare_model
from benchmarks.peers.model_server import PREDICTIONS, prepare_model_server, start_model_server
from benchmarks.rounds import pick, run_rounds
from benchmarks.row import AT_MOST, Row, build_ratio_row
from benchmarks.service import Service, start_gluonseg
from benchmarks.stage_server import CLIENTS, INVOCATIONS, MEGABYTE, MODEL
from benchmarks.variant import Variant

_PEER = "multi-model-server 1.1.11, MXNet"
_STARTS = 5
_SAME = 0.999
"""Share of pixels that have to have one class in both answers: both compute the same network, in another order."""

Start = Callable[[], Service]
Starts = Mapping[str, Sequence[float]]
Side = tuple[Start, str]
"""How a server is started, and the path that it predicts at."""


def _ask(service: Service, path: str, body: bytes) -> tuple[float, bytes]:
    client = Client(service.port, path, body)
    answer = client.ask()
    client.close()
    return answer


def _start_once(start: Start, path: str, body: bytes) -> Mapping[str, float]:
    """Seconds to the first 200 and to the first mask, and megabytes of memory at rest after it."""
    begin = time.perf_counter()
    with start() as service:
        _ask(service, path, body)
        mask = time.perf_counter() - begin
        return {"ready": service.ready_s, "mask": mask, "memory": service.read_idle_pss() / MEGABYTE}


def _start_in_turn(sides: Sequence[Side], body: bytes) -> Sequence[Starts]:
    """Every side once a round; the first round, which fills the page cache, is dropped."""
    rounds = [[_start_once(start, path, body) for start, path in sides] for _ in range(1 + _STARTS)][1:]
    return [{key: [one[key] for one in starts] for key in starts[0]} for starts in zip(*rounds, strict=True)]


def _check_masks(ours: bytes, theirs: bytes) -> float:
    """Share of equal pixels; raises ValueError when the two do not do the same work."""
    one, other = (np.array(Image.open(io.BytesIO(body))) for body in (ours, theirs))
    same = float((one == other).mean()) if one.shape == other.shape else 0.0
    if same < _SAME:
        raise ValueError(f"the servers' masks differ: {same:.4%} of the pixels are equal")
    return same


@dataclass
class _Alone:
    """Clients of one server while the other one stands still: at rest it still runs threads on the same cores."""

    name: str
    clients: Variant
    other: Service

    def run(self) -> Mapping[str, float]:
        with self.other.paused():
            return self.clients.run()


def _measure_throughput(ours: Service, theirs: Service, photo: Path) -> list[Row]:
    """A round is one request of each client, to one server and then to the other."""
    with ExitStack() as stack:
        variants = []
        for name, service, path, other in (
            ("ours", ours, INVOCATIONS, theirs),
            ("theirs", theirs, PREDICTIONS, ours),
        ):
            arguments = (str(service.port), path, str(photo), str(CLIENTS), "1")
            clients = stack.enter_context(Variant(name, "benchmarks.client", arguments))
            variants.append(_Alone(name, clients, other))
        series = run_rounds(variants)
    rate, their_rate = ([CLIENTS / seconds for seconds in pick(series, name)] for name in series)
    tail, their_tail = (pick(series, name, "max") for name in series)
    note = (
        "one process of ours on all cores, theirs one worker a core with a thread each: each its defaults; "
        "the other server stands still meanwhile"
    )
    return [
        build_ratio_row(f"stack: {CLIENTS} clients", _PEER, "photos/s", rate, their_rate, 1.15, note=note),
        build_ratio_row(f"stack: slowest of {CLIENTS}", _PEER, "s", tail, their_tail, None, AT_MOST),
    ]


def measure(scratch: Path) -> list[Row]:
    """All rows of this stage; PeerError when the peer cannot be installed."""
    model, photo = prepare_model(scratch, *MODEL, onnx=True), prepare_photo(scratch)
    folder = prepare_model_server(scratch, model)
    body = photo.read_bytes()

    def start_ours() -> Service:
        return start_gluonseg(model, scratch / "serve.log")

    def start_theirs() -> Service:
        return start_model_server(scratch, folder)

    first, other = _start_in_turn([(start_ours, INVOCATIONS), (start_theirs, PREDICTIONS)], body)
    note = "theirs says 200 also before a worker has the model; ours only once it is loaded and warm"
    rows = [
        build_ratio_row("stack: start to ping", _PEER, "s", first["ready"], other["ready"], 0.3, AT_MOST, note),
        build_ratio_row("stack: start to first mask", _PEER, "s", first["mask"], other["mask"], 0.5, AT_MOST),
        build_ratio_row("stack: idle memory", _PEER, "MB", first["memory"], other["memory"], 0.45, AT_MOST),
    ]
    with start_ours() as ours, start_theirs() as theirs:
        same = _check_masks(_ask(ours, INVOCATIONS, body)[1], _ask(theirs, PREDICTIONS, body)[1])
        rows += _measure_throughput(ours, theirs, photo)
        memory = ours.read_pss() / MEGABYTE, theirs.read_pss() / MEGABYTE
    note = f"{same:.3%} of the pixels of a mask are equal"
    used = Row("stack: memory after it", _PEER, "MB", *memory, memory[0] / memory[1], note=note)
    return [*rows, used]
