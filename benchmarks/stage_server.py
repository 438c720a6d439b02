"""The server beside its own engine: time it adds, throughput, fairness, memory, size of a mask."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.client import Client, ask_all, describe_latencies, prepare_photo
from benchmarks.model import prepare_model
from benchmarks.rounds import Series, pick, run_rounds
from benchmarks.row import AT_MOST, Row, build_ratio_row
from benchmarks.service import Service, find_free_port, start_gluonseg
from benchmarks.variant import Variant
from gluonseg.labels import voc_colours
from gluonseg.models.artifact import BEST_FILE
from gluonseg.models.params_file import read_arrays
from gluonseg.predict.formats import encode_png
from gluonseg.serve.settings import Settings

MODEL = ("fcn", "resnet-50", 21)
CLIENTS = 8
INVOCATIONS = "/invocations"
MEGABYTE = 1e6
_SMALL, _TINY, _HUGE = (300, 200), (96, 64), (6000, 4000)
_HUGE_LIMIT_S = 600
_LARGE_MASK = (720, 960)

UInt8Array = npt.NDArray[np.uint8]


def _measure_overhead(model: Path, scratch: Path, count: int = 16) -> Row:
    photo = prepare_photo(scratch)
    port, times = find_free_port(), scratch / "prediction-times.txt"
    command = (sys.executable, "-m", "benchmarks.variants.timed_server", str(model), str(port), str(times))
    with Service(command, port, log=scratch / "timed-server.log"):
        client = Client(port, INVOCATIONS, photo.read_bytes())
        client.ask()
        whole = [client.ask()[0] for _ in range(count)]
        client.close()
    # One line a prediction: that of the start comes first, then that of the first request.
    engine = [float(line) for line in times.read_text(encoding="ascii").split()[2:]]
    beyond = median(one - other for one, other in zip(whole, engine, strict=True))
    note = "median over requests of the difference of the two times of one request; JPEG 600x400 in, PNG out"
    return Row(
        "server: time beyond the engine", "its engine", "ms", 1e3 * median(whole), 1e3 * median(engine),
        1e3 * beyond, 12, AT_MOST, note=note,
    )  # fmt: skip


def _run_clients(service: Service, photo: Path) -> Variant:
    arguments = (str(service.port), INVOCATIONS, str(photo), str(CLIENTS), "1")
    return Variant(f"{CLIENTS} clients", "benchmarks.client", arguments)


def _measure_throughput(service: Service, model: Path, scratch: Path) -> Row:
    """A round is one request of each client; more rounds tell more than longer ones."""
    photo = prepare_photo(scratch)
    with ExitStack() as stack:
        clients = stack.enter_context(_run_clients(service, photo))
        arguments = (str(model), str(photo), str(CLIENTS))
        engine = stack.enter_context(Variant("engine", "benchmarks.variants.engine_loop", arguments))
        series: Series = run_rounds([clients, engine])
    rates = {name: [CLIENTS / seconds for seconds in pick(series, name)] for name in series}
    return build_ratio_row(
        f"server: {CLIENTS} clients", "engine loop", "photos/s", rates[clients.name], rates[engine.name], 0.97
    )


def _measure_fairness(service: Service, scratch: Path) -> Row:
    body = prepare_photo(scratch, _SMALL).read_bytes()
    clients = [Client(service.port, INVOCATIONS, body) for _ in range(CLIENTS)]
    ask_all(clients, 1)
    solo = [describe_latencies(ask_all(clients[:1], 6))["p50"] for _ in range(2)]
    for client in clients:  # a server hangs up on those that have been silent for long
        client.close()
    crowd = describe_latencies(ask_all(clients, 8))
    solo.append(describe_latencies(ask_all(clients[:1], 6))["p50"])
    for client in clients:
        client.close()
    alone = median(solo)
    note = f"99th percentile of {CLIENTS} clients over the median of one; the median of the client that waits longest: "
    return Row(
        "server: nobody starves", "one client", "ms", 1e3 * crowd["p99"], 1e3 * alone, crowd["p99"] / alone, 8.8,
        AT_MOST, note=f"{note}{crowd['slowest_client'] / alone:.2f}; photos of 300x200",
    )  # fmt: skip


def count_weight_bytes(model: Path) -> int:
    """Bytes of the parameters that a prediction needs: all but the auxiliary head's."""
    arrays = read_arrays(model / BEST_FILE)
    return sum(array.nbytes for name, array in arrays.items() if not name.startswith("auxlayer."))


def _measure_memory(service: Service, model: Path, scratch: Path) -> list[Row]:
    """After the requests of the other measurements; and how much 500 more add."""
    before = service.read_pss() / MEGABYTE
    weights = count_weight_bytes(model) / MEGABYTE
    tiny = prepare_photo(scratch, _TINY).read_bytes()
    clients = [Client(service.port, INVOCATIONS, tiny) for _ in range(CLIENTS)]
    ask_all(clients, 10)
    settled = service.read_pss() / MEGABYTE
    ask_all(clients, 63)
    after = service.read_pss() / MEGABYTE
    for client in clients:
        client.close()
    limit = round(1.8 * weights + 250)
    note = f"PSS of all processes after photos of 600x400; the bar is 1.8 x {weights:.0f} MB of weights + 250 MB"
    growth = "ours: after 504 more requests (96x64); theirs: before them"
    return [
        Row("server: memory", "weights", "MB", before, weights, before, limit, AT_MOST, note=note),
        Row("server: growth", "itself", "MB", after, settled, after - settled, note=growth),
    ]


def _measure_huge(model: Path, scratch: Path) -> Row:
    """What a photo of 24 megapixels, JPEG to PNG, adds to a server that has answered nothing yet."""
    body = prepare_photo(scratch, _HUGE, is_drawn=True).read_bytes()
    with start_gluonseg(model, scratch / "serve-huge.log") as service:
        idle = service.read_idle_pss() / MEGABYTE
        client = Client(service.port, INVOCATIONS, body, _HUGE_LIMIT_S)
        (seconds, _), most_bytes = service.watch_pss(client.ask)
        client.close()
    most = most_bytes / MEGABYTE
    note = (
        f"most PSS of all processes while it answers, beyond that at rest; the answer took {seconds:.1f} s; "
        f"above {Settings.max_network_pixels / 1e6:.1f} million pixels a photo is shrunk for the network by default"
    )
    return Row("server: 24 megapixels", "itself at rest", "MB", most, idle, most - idle, 1000, AT_MOST, note=note)


def _draw_mask(height: int, width: int) -> UInt8Array:
    """21 classes in smooth regions."""
    draw = np.random.default_rng(0)
    planes = [Image.fromarray(draw.normal(size=(9, 12)).astype(np.float32)) for _ in range(MODEL[2])]
    smooth = [np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC)) for plane in planes]
    mask: UInt8Array = np.stack(smooth).argmax(axis=0).astype(np.uint8)
    return mask


def _encode_with_pillow(pixels: UInt8Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _time_encoding(mask: UInt8Array) -> float:
    start = time.process_time()
    encode_png(mask)
    return time.process_time() - start


def _measure_encoding(masks: Sequence[UInt8Array]) -> list[Row]:
    milliseconds = [1e3 * median(_time_encoding(mask) for _ in range(20)) for mask in masks]
    palette = np.array(voc_colours(MODEL[2]), np.uint8)
    ours = sum(len(encode_png(mask)) for mask in masks) / len(masks)
    colour = sum(len(_encode_with_pillow(palette[mask])) for mask in masks) / len(masks)
    grey = sum(len(_encode_with_pillow(mask)) for mask in masks) / len(masks)
    note = f"960x720; both by Pillow at its defaults: in colour as above, the mask as grey {grey:.0f} bytes"
    return [
        Row("server: mask to PNG", "-", "ms", max(milliseconds), None, max(milliseconds), 3, AT_MOST, note="960x720"),
        Row("server: size of a mask", "RGB PNG of it in colour", "bytes", ours, colour, ours / colour, note=note),
    ]


def measure(scratch: Path) -> list[Row]:
    """All rows of this stage."""
    model = prepare_model(scratch, *MODEL, onnx=True)
    rows = [_measure_overhead(model, scratch)]
    with start_gluonseg(model, scratch / "serve.log") as service:
        rows.append(_measure_throughput(service, model, scratch))
        rows.append(_measure_fairness(service, scratch))
        rows += _measure_memory(service, model, scratch)
    rows.append(_measure_huge(model, scratch))
    return [*rows, *_measure_encoding([_draw_mask(*_LARGE_MASK)])]
