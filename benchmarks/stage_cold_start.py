"""From the start of ``gluonseg serve`` to the first 200 of /ping, which means loaded and warm."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from benchmarks.client import Client, prepare_photo
from benchmarks.model import prepare_model
from benchmarks.row import AT_MOST, Row
from benchmarks.service import NO_CONNECTION, Service, ServiceError, start_gluonseg
from benchmarks.stage_server import INVOCATIONS

_STARTS = 7
_BARS = {"resnet-18": 2.5, "resnet-50": 3.5}


def _check_early(service: Service) -> None:
    """SageMaker takes anything but 200 for not ready; of ours it has to be the 503 that says so."""
    wrong = sorted(set(service.early) - {503, NO_CONNECTION})
    if wrong:
        raise ServiceError(f"before its first 200 /ping said {', '.join(map(str, wrong))}, and not 503")


def _start(model: Path, photo: Path, log: Path) -> tuple[float, float]:
    """Seconds to the first 200, and to the first mask."""
    with start_gluonseg(model, log) as service:
        _check_early(service)
        client = Client(service.port, INVOCATIONS, photo.read_bytes())
        seconds, _ = client.ask()  # raises when the 200 came too early
        client.close()
        return service.ready_s, service.ready_s + seconds


def measure(scratch: Path) -> list[Row]:
    """A row a backbone; the first start, which fills the page cache, is dropped."""
    photo = prepare_photo(scratch)
    rows = []
    for backbone, bar in _BARS.items():
        model = prepare_model(scratch, "fcn", backbone, 21, onnx=True)
        starts = [_start(model, photo, scratch / "cold-start.log") for _ in range(1 + _STARTS)][1:]
        ready, mask = (median(times) for times in zip(*starts, strict=True))
        worst = max(seconds for seconds, _ in starts)
        note = (
            f"median of {_STARTS}, the page cache is warm; the slowest {worst:.2f} s; "
            f"the first mask (600x400) after {mask:.2f} s"
        )
        rows.append(Row(f"cold start, fcn {backbone}", "-", "s", ready, None, ready, bar, AT_MOST, note=note))
    return rows
