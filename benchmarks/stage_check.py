"""``gluonseg check``: photos with their masks a second, on all cores beside one.

``python -m benchmarks.stage_check CHANNELS WORKERS`` reads them with so many threads.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.inputs import prepare_channels
from benchmarks.row import ResultRow, build_ratio_row
from benchmarks.variant import Measurement, Variant, compare, pick, serve_rounds
from gluonseg.machine.limits import count_usable_cores


def measure(scratch: Path) -> list[ResultRow]:
    """Without a bar: how much a second core helps depends on the photos' sizes."""
    channels, cores = str(prepare_channels(scratch)), count_usable_cores()
    series = compare(
        {str(workers): Variant("benchmarks.stage_check", channels, str(workers)) for workers in {1, cores}}
    )
    both = pick(series, "rate", str(cores), "1")
    return [build_ratio_row(f"check, {cores} cores", "itself on one core", "photos/s", *both)]


def main(channels: str, workers: str) -> None:
    """Be one side."""
    from gluonseg.data.channel import find_channels
    from gluonseg.data.check.doctor import check_channels

    folders = find_channels(Path(channels))
    count = sum(len(list(folders[name].iterdir())) for name in ("train", "validation"))

    def run() -> Measurement:
        check_channels(folders, workers=int(workers)).raise_for_errors()
        return {"count": count}

    serve_rounds(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
