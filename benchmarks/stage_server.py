"""The server beside its own engine: time it adds, throughput, fairness, memory; and how soon it is ready."""

from __future__ import annotations

from pathlib import Path
from statistics import median, quantiles

from benchmarks.inputs import prepare_photo
from benchmarks.model import prepare_model
from benchmarks.row import AT_MOST, ResultRow, build_ratio_row
from benchmarks.service import Service, ask, measure_rate
from benchmarks.stage_engine import start_engine
from benchmarks.variant import ROUNDS, Measurement, Series, pick, run_rounds
from gluonseg.models.folder.manifest import BEST_FILE
from gluonseg.models.params import read_arrays
from gluonseg.serve.settings import Settings

CLIENTS = 8
_SMALL, _HUGE = (300, 200), (6000, 4000)


def _compare_with_engine(service: Service, model: Path, photo: Path, clients: int, requests: int) -> Series:
    """A round is all requests of all clients, and as many predictions without a server."""
    count = clients * requests
    with start_engine("ours", model, photo, photo.with_suffix(".npy"), count=count) as engine:
        return run_rounds(
            {"clients": lambda: measure_rate(service.port, photo, clients, requests), "engine": engine.run}
        )


def _measure_overhead(scratch: Path) -> ResultRow:
    """On the smallest network, since one prediction differs from the next by more than the server adds."""
    model, photo = prepare_model(scratch, "fcn", "resnet-18"), prepare_photo(scratch)
    with Service(model, scratch / "serve-small.log") as service:
        series = _compare_with_engine(service, model, photo, clients=1, requests=8)
    whole, engine = ([1e3 / rate for rate in rates] for rates in pick(series, "rate", "clients", "engine"))
    beyond = median(one - other for one, other in zip(whole, engine, strict=True))
    return ResultRow(
        "server: time beyond the engine", "its engine", "ms", median(whole), median(engine), beyond, 20, AT_MOST,
        note="FCN resnet-18, one client, JPEG 600x400 in, PNG out: median over rounds of the difference a photo",
    )  # fmt: skip


def _measure_throughput(service: Service, model: Path, scratch: Path) -> ResultRow:
    both = pick(_compare_with_engine(service, model, prepare_photo(scratch), CLIENTS, 1), "rate", "clients", "engine")
    return build_ratio_row(f"server: {CLIENTS} clients", "engine loop", "photos/s", *both, 0.95)


def _measure_fairness(service: Service, scratch: Path) -> ResultRow:
    photo = prepare_photo(scratch, _SMALL)

    def ask_alone() -> list[float]:
        return ask(service.port, photo, requests=6)

    before = ask_alone()
    crowd = ask(service.port, photo, CLIENTS, requests=8)
    alone, p99 = median([*before, *ask_alone()]), quantiles(crowd, n=100, method="inclusive")[98]
    note = f"99th percentile of {CLIENTS} clients over the median of one; photos of 300x200"
    times = 1e3 * p99, 1e3 * alone
    return ResultRow("server: nobody starves", "one client", "ms", *times, p99 / alone, 8.8, AT_MOST, note=note)


def compute_weight_mb(model: Path) -> float:
    """Megabytes of the parameters that a prediction needs: all but the auxiliary head's."""
    arrays = read_arrays(model / BEST_FILE)
    return sum(array.nbytes for name, array in arrays.items() if not name.startswith("auxlayer.")) / 1e6


def _measure_memory(service: Service, model: Path) -> ResultRow:
    """After the requests of the other measurements."""
    used, weights = service.read_pss_mb(), compute_weight_mb(model)
    note = f"PSS of all processes after photos of 600x400; the bar is 1.8 x {weights:.0f} MB of weights + 250 MB"
    bar = round(1.8 * weights + 250)
    return ResultRow("server: memory", "weights", "MB", used, weights, used, bar, AT_MOST, note=note)


def _measure_huge(model: Path, scratch: Path) -> ResultRow:
    """What a photo of 24 megapixels, JPEG to PNG, adds to a server that has answered nothing yet."""
    photo = prepare_photo(scratch, _HUGE)
    with Service(model, scratch / "serve-huge.log") as service:
        idle = service.read_idle_pss_mb()
        [seconds], most = service.watch_pss_mb(lambda: ask(service.port, photo))
    note = (
        f"most PSS of all processes while it answers, beyond that at rest; the answer took {seconds:.1f} s; "
        f"above {Settings.max_network_pixels / 1e6:.1f} million pixels a photo is shrunk for the network by default"
    )
    return ResultRow("server: 24 megapixels", "itself at rest", "MB", most, idle, most - idle, 1000, AT_MOST, note=note)


def _measure_cold_start(scratch: Path, backbone: str, bar: float) -> ResultRow:
    """From the start to the first 200 of /ping, which means loaded and warm."""
    model, photo = prepare_model(scratch, "fcn", backbone), prepare_photo(scratch)

    def start() -> Measurement:
        with Service(model, scratch / "cold-start.log") as service:
            [seconds] = ask(service.port, photo)  # fails when the 200 came too early
            return {"ready": service.ready_s, "mask": service.ready_s + seconds}

    starts = run_rounds({backbone: start})[backbone]
    ready, mask = (median(found[key] for found in starts) for key in ("ready", "mask"))
    worst = max(found["ready"] for found in starts)
    note = f"median of {ROUNDS}, the page cache is warm; the slowest {worst:.2f} s; the first mask after {mask:.2f} s"
    return ResultRow(f"cold start, fcn {backbone}", "-", "s", ready, None, ready, bar, AT_MOST, note=note)


def measure(scratch: Path) -> list[ResultRow]:
    """FCN resnet-50, 21 classes, and its start also on resnet-18."""
    model = prepare_model(scratch, "fcn", "resnet-50")
    rows = [_measure_overhead(scratch)]
    with Service(model, scratch / "serve.log") as service:
        rows.append(_measure_throughput(service, model, scratch))
        rows.append(_measure_fairness(service, scratch))
        rows.append(_measure_memory(service, model))
    rows.append(_measure_huge(model, scratch))
    return [*rows, *(_measure_cold_start(scratch, *one) for one in (("resnet-18", 2.5), ("resnet-50", 3.5)))]
