"""Faults of the checkpoint folder: damage at any byte, odd clocks, another process, a folder without rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from drills.fault import COMPILER, build_library
from drills.kill import iter_folder_boundaries
from gluonseg.train.checkpoint_file import CheckpointFile, open_checkpoints
from job_layout import TRAIN, draw_channels, lay_out_job
from program import build_environment, run_program

HOLDER = """
import sys, time
from pathlib import Path
from gluonseg.train.checkpoint_file import open_checkpoints
with open_checkpoints(Path(sys.argv[1])):
    sys.stdout.write("held\\n")
    sys.stdout.flush()
    time.sleep(600)
"""


BYTES = 577
"""Length of one of the checkpoints of :func:`folder`."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small checkpoints after epochs 0 and 1."""
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints
        for epochs in (1, 2):
            checkpoints.write(epochs, 0, {"array": np.arange(100, dtype="float32"), "epochs": np.array([epochs])})
    return tmp_path / "checkpoints"


def _list(folder: Path) -> list[CheckpointFile]:
    with open_checkpoints(folder) as checkpoints:
        assert checkpoints
        return checkpoints.find_files()


@pytest.mark.fault(family=37, outcome="told from a whole one by its checksum, wherever it is cut", inputs=BYTES)
def test_cut_at_every_byte(folder: Path) -> None:
    newest, before = _list(folder)
    content = newest.path.read_bytes()
    assert len(content) == BYTES
    assert newest.is_whole()
    for length in range(len(content)):
        newest.path.write_bytes(content[:length])
        assert not newest.is_whole(), length
    newest.path.write_bytes(content + b"\0")
    assert not newest.is_whole()
    assert before.is_whole()


@pytest.mark.fault(family=37, outcome="told from a whole one by its checksum, whichever bit is flipped", inputs=BYTES)
def test_a_bit_flipped_in_every_byte(folder: Path) -> None:
    newest, _ = _list(folder)
    content = bytearray(newest.path.read_bytes())
    for index in range(len(content)):
        content[index] ^= 1 << index % 8
        newest.path.write_bytes(content)
        assert not newest.is_whole(), index
        content[index] ^= 1 << index % 8


@pytest.mark.fault(family=37, outcome="killed at any call of a write: whole checkpoints alone are left", inputs=60)
@pytest.mark.skipif(COMPILER is None, reason="a process is killed at a chosen call by a library written in C")
def test_killed_at_every_call_of_a_write(tmp_path: Path) -> None:
    kills = list(iter_folder_boundaries(tmp_path, build_library(tmp_path)))
    assert len(kills) >= 40
    assert [kill for kill in kills if kill.differs] == []


@pytest.mark.fault(family=40, outcome="chosen by the recorded place in the training, whatever the clock says", inputs=3)
@pytest.mark.parametrize("times", [(2**32, 0), (0, 0), (1, 2**33)], ids=["back", "equal", "future"])
def test_clocks(folder: Path, times: tuple[int, int]) -> None:
    for path, seconds in zip(sorted(folder.iterdir()), times, strict=True):
        os.utime(path, (seconds, seconds))
    assert [file.epochs for file in _list(folder)] == [2, 1]


@pytest.mark.fault(family=40, outcome="chosen by the recorded place in the training, as numbers", inputs=7)
def test_places_are_numbers(tmp_path: Path) -> None:
    places = [(9, 0), (9, 9), (9, 10), (10, 0), (10, 1), (999_999, 0), (1_000_000, 0)]
    for epochs, updates in places:
        with open_checkpoints(tmp_path) as checkpoints:  # a folder of its own each time: nothing is rotated
            assert checkpoints
            path = checkpoints.write(epochs, updates, {"a": np.arange(3)})
        path.rename(tmp_path / f"kept.{path.name}")
    for path in tmp_path.glob("kept.*"):
        path.rename(tmp_path / path.name.removeprefix("kept."))
    assert [(file.epochs, file.updates) for file in _list(tmp_path)] == places[::-1]


@pytest.mark.fault(family=42, outcome="refused (2), naming the folder; the first process goes on")
def test_a_folder_that_another_process_holds(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    job = lay_out_job(tmp_path / "ml", draw_channels(tmp_path_factory.getbasetemp()), link=True)
    folder = job.base / "checkpoints"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout
            assert holder.stdout.readline() == b"held\n"
            run = job.run()
            assert holder.poll() is None
        finally:
            holder.kill()
    assert run.code == 2
    assert f"another process keeps its checkpoints in {folder}; wait for its end" in (run.failure or "")
    assert list(job.model.iterdir()) == []
    assert _list(folder) == [], "the end of the process gives the folder free"


@pytest.mark.fault(family=36, outcome="refused (2) before the data is read, naming folder, uid and reason")
@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root needs setpriv to have no rights")
def test_a_folder_without_the_right_to_write(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    job = lay_out_job(tmp_path / "ml", draw_channels(tmp_path_factory.getbasetemp()), link=True)
    folder = job.base / "checkpoints"
    folder.mkdir(mode=0o555)
    plain = ("setpriv", "--inh-caps=-all", "--bounding-set=-all") if os.geteuid() == 0 else ()
    environment = build_environment(SAGEMAKER_BASE_DIR=str(job.base), OMP_NUM_THREADS="1")
    done = run_program([*plain, sys.executable, str(TRAIN)], environment, timeout=120)
    assert done.returncode == 2, done.stdout
    message = f"the folder of the checkpoints, {folder}, cannot be used: Permission denied; give the folder to uid"
    assert message in done.stdout
    assert "Traceback" not in done.stdout
    assert "Checked" not in done.stdout
