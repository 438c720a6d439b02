"""Stands in for SageMaker in Pipe mode: makes the pipe of a channel and writes RecordIO into it, from a thread."""

from __future__ import annotations

import os
import random
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

MAGIC = struct.pack("<I", 0xCED7230A)
Pairs = Sequence[tuple[bytes, bytes]]


def read_pairs(data: Path, split: str) -> Pairs:
    """Photo and mask of each pair of a channel in the file layout."""
    photos = sorted((data / split).glob("*.jpg"))
    return [(photo.read_bytes(), (data / f"{split}_annotation" / f"{photo.stem}.png").read_bytes()) for photo in photos]


def shuffle(pairs: Pairs, seed: int) -> list[bytes]:
    """The records of the pairs, in another order for another seed, as a ShuffleConfig has it."""
    return [record for pair in random.Random(seed).sample(pairs, len(pairs)) for record in pair]


def encode_record(record: bytes, *, parts: int = 1) -> bytes:
    """One record as RecordIO; in several parts as if the magic number had stood between them."""
    pieces = record.split(MAGIC) if parts > 1 else [record]
    assert len(pieces) == parts
    flags = [0] if parts == 1 else [1, *[2] * (parts - 2), 3]
    headers = [MAGIC + struct.pack("<I", flag << 29 | len(piece)) for flag, piece in zip(flags, pieces, strict=True)]
    return b"".join(head + piece + bytes(-len(piece) % 4) for head, piece in zip(headers, pieces, strict=True))


@contextmanager
def feeding(path: Path, stream: bytes, *, late_s: float = 0, step: int = 1 << 20, pause_s: float = 0) -> Iterator[None]:
    """Write ``stream`` into a pipe at ``path`` while the block runs: ``step`` bytes at a time, a pause between two."""

    def feed() -> None:
        time.sleep(late_s)
        os.mkfifo(path)
        with suppress(BrokenPipeError), path.open("wb", buffering=0) as pipe:
            for start in range(0, len(stream), step):
                pipe.write(stream[start : start + step])
                time.sleep(pause_s)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    yield
    with suppress(FileNotFoundError):  # ends the wait for a reader that has never come
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    thread.join(timeout=5)
