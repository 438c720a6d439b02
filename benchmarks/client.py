"""Clients of a server, each with one request at a time; and the photo that they send.

``python -m benchmarks.client PORT PATH PHOTO CLIENTS REQUESTS`` is a variant: a round is REQUESTS requests of each of
CLIENTS clients, on connections that stay open.
"""

from __future__ import annotations

import http.client
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import numpy as np
from PIL import Image

from benchmarks.photo import DRAWN, find_pets, name_source
from benchmarks.variant import serve_rounds

PHOTO_SIZE = (600, 400)
_HEADERS: Mapping[str, str] = {"Content-Type": "image/jpeg", "Accept": "image/png"}


def prepare_photo(scratch: Path, size: tuple[int, int] = PHOTO_SIZE, *, is_drawn: bool = False) -> Path:
    """A JPEG file of ``size`` (width, height): a pet's photo where pets are named, else, or asked for, smooth noise."""
    pets = None if is_drawn else find_pets()
    path = scratch / "photo-{}-{}x{}.jpg".format(name_source() if pets else DRAWN, *size)
    if pets:
        picture = Image.open(sorted((pets / "images").glob("*.jpg"))[0]).convert("RGB")
    else:
        noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        picture = Image.fromarray(noise)
    scratch.mkdir(parents=True, exist_ok=True)
    picture.resize(size, Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)
    return path


class AnswerError(RuntimeError):
    """A server has answered with something other than a mask."""


@dataclass
class Client:
    """One client, on one connection."""

    port: int
    path: str
    body: bytes
    timeout_s: float = 120

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout_s)

    def ask(self) -> tuple[float, bytes]:
        """Send the photo once; return the seconds until the whole answer was there, and the answer."""
        start = time.perf_counter()
        self._connection.request("POST", self.path, self.body, _HEADERS)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise AnswerError(f"status {answer.status}: {content[:300]!r}")
        return time.perf_counter() - start, content

    def close(self) -> None:
        """Hang up; the next request opens another connection."""
        self._connection.close()


def ask_all(clients: Sequence[Client], requests: int) -> list[list[float]]:
    """Every client sends ``requests`` photos, all clients at a time; returns each one's seconds a request.

    Raises AnswerError when an answer is not a mask.
    """
    latencies: list[list[float]] = [[] for _ in clients]
    errors: list[Exception] = []

    def run(client: Client, seconds: list[float]) -> None:
        try:
            for _ in range(requests):
                seconds.append(client.ask()[0])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(clients, latencies, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise AnswerError(f"{len(errors)} of {len(clients)} clients stopped: {errors[0]!r}") from errors[0]
    return latencies


def describe_latencies(latencies: Sequence[Sequence[float]]) -> dict[str, float]:
    """Median, 99th percentile and greatest of all latencies, and the median of the client that waited longest."""
    found = sorted(seconds for one in latencies for seconds in one)
    p99 = quantiles(found, n=100, method="inclusive")[98] if len(found) > 1 else found[0]
    return {"p50": median(found), "p99": p99, "max": found[-1], "slowest_client": max(median(one) for one in latencies)}


def main(arguments: Sequence[str]) -> None:
    """Be a variant."""
    port, path, photo, count, requests = arguments
    clients = [Client(int(port), path, Path(photo).read_bytes()) for _ in range(int(count))]

    def run() -> dict[str, float]:
        found = describe_latencies(ask_all(clients, int(requests)))
        for client in clients:
            client.close()  # between two rounds the server would, perhaps while a request is on its way
        return found

    serve_rounds(run)


if __name__ == "__main__":
    main(sys.argv[1:])
