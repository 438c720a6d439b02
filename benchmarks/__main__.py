"""``python -m benchmarks [STAGE ...]``: measure, print the table, write build/bench/results.json."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.inputs import describe_data, find_pets
from benchmarks.row import ResultRow, format_table
from benchmarks.variant import ROOT
from gluonseg.errors import DataError
from gluonseg.machine.limits import count_usable_cores

STAGES = ("check", "input_pipeline", "training_step", "hosts", "engine", "int8", "server")
"""Modules benchmarks.stage_NAME, each with ``measure(scratch) -> list[ResultRow]``."""
SCRATCH = ROOT / "build" / "bench"
RESULT = SCRATCH / "results.json"
BUSY_LOAD = 0.5


def describe_machine() -> dict[str, Any]:
    """The first processor as Linux describes it, cores, versions of all packages."""
    return {
        "processor": Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines(),
        "cores": count_usable_cores(),
        "python": platform.python_version(),
        "packages": {item.name: item.version for item in metadata.distributions()},
    }


def _wait_until_idle(patience_s: float = 90.0) -> float:
    """Wait for a load below :data:`BUSY_LOAD`, so that one stage is not measured in the wake of another."""
    deadline = time.monotonic() + patience_s
    while os.getloadavg()[0] > BUSY_LOAD and time.monotonic() < deadline:
        time.sleep(2)
    return os.getloadavg()[0]


def _measure(stage: str) -> tuple[list[ResultRow], dict[str, Any]]:
    load = _wait_until_idle()
    print(f"measuring {stage} (load {load:.2f}) ...", file=sys.stderr, flush=True)
    start = time.monotonic()
    rows: list[ResultRow] = importlib.import_module(f"benchmarks.stage_{stage}").measure(SCRATCH)
    print(format_table(rows), file=sys.stderr, flush=True)
    return rows, {"load": load, "seconds": round(time.monotonic() - start, 1)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the stages named, or all; returns 0 when every stage ran and every bar is met, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"some of {', '.join(STAGES)} (default: all)")
    parser.add_argument("--json", type=Path, default=RESULT, help="where the result is written")
    parsed = parser.parse_args(arguments)
    unknown = sorted(set(parsed.stages) - set(STAGES))
    if unknown:
        parser.error(f"unknown stage {unknown[0]}; there are {', '.join(STAGES)}")
    try:
        find_pets()
    except DataError as error:
        parser.error(str(error))
    SCRATCH.mkdir(parents=True, exist_ok=True)
    rows: list[ResultRow] = []
    stages: dict[str, Any] = {}
    for stage in parsed.stages or STAGES:
        try:
            found, stages[stage] = _measure(stage)
        except Exception as error:
            # The other stages are measured all the same.
            traceback.print_exc()
            found, stages[stage] = [], {"error": str(error)}
        rows += found
        # After each stage, so that a run that is stopped leaves what it has measured.
        content = {
            "machine": describe_machine(),
            "data": describe_data(SCRATCH),
            "stages": stages,
            "rows": [{**dataclasses.asdict(row), "is_met": row.is_met} for row in rows],
        }
        parsed.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(format_table(rows))
    for stage, facts in stages.items():
        if facts.get("load", 0) > BUSY_LOAD:
            print(f"- {stage}: measured at load {facts['load']:.2f}: the machine was busy")
    failed = [stage for stage, facts in stages.items() if "error" in facts]
    if failed:
        print(f"not measured, see the messages above: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or any(row.is_met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
