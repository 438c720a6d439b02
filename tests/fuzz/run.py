"""One run of the fuzzer on one target: seeds in, figures out."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from program import build_environment, run_program
from repository import ROOT

from .register import TARGETS

MAX_SECONDS_EACH = 10
MAX_MB = 2048
WORKER = "tests.fuzz.worker"
_STATUS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/(\S+)")
_EXECUTIONS = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_ARTIFACT = re.compile(r"Test unit written to (\S+)")


class Figures(NamedTuple):
    """What a run has come to; ``problem`` is the end of the log of one that found something, else empty."""

    executions: int
    coverage: int
    features: int
    corpus: int
    corpus_bytes: str
    problem: str = ""


def write_corpus(folder: Path, seeds: Iterable[bytes]) -> None:
    """Write one file a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number:03}").write_bytes(seed)


def parse_figures(log: str, code: int) -> Figures:
    """The figures of libFuzzer's log."""
    status, executions = list(_STATUS.finditer(log)), _EXECUTIONS.search(log)
    coverage, features, corpus, size = status[-1].groups() if status else ("0", "0", "0", "0b")
    problem = "\n".join(log.splitlines()[-60:]) if code else ""
    count = int(executions[1]) if executions else 0
    return Figures(count, int(coverage), int(features), int(corpus), size, problem)


def run_fuzzer(name: str, seconds: int, corpus: Path | None = None, findings: Path | None = None) -> Figures:
    """Fuzz a target for so long; new inputs are kept in ``corpus``, one that breaks something in ``findings``."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="gluonseg-fuzz-") as scratch:
        folder = corpus or Path(scratch, "corpus")
        write_corpus(folder, target.seeds())
        findings = findings or Path(scratch)
        findings.mkdir(parents=True, exist_ok=True)
        options = {
            "max_total_time": seconds,
            "timeout": MAX_SECONDS_EACH,
            "rss_limit_mb": MAX_MB,
            "max_len": target.max_length,
            "print_final_stats": 1,
            "artifact_prefix": f"{findings}/{name}-",
        }
        words = [f"-{option}={value}" for option, value in options.items()]
        environment = build_environment(OMP_NUM_THREADS="1", TMPDIR=scratch)
        # By a shell that stays: a process that takes the place of another counts that one's peak of memory as its own.
        shell = ("/bin/sh", "-c", '"$@"; exit $?', "sh")
        command: list[str | Path] = [*shell, sys.executable, "-m", WORKER, name, folder, *words]
        done = run_program(command, environment, cwd=ROOT, timeout=seconds + 300)
        found = _ARTIFACT.search(done.stdout)
        content = f"\nthe input: {Path(found[1]).read_bytes()!r}" if found else ""
        figures = parse_figures(done.stdout, done.returncode)
        return figures._replace(problem=figures.problem + content if figures.problem else "")
