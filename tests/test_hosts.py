"""Training on several hosts: processes on the loopback interface, each with an address of its own."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import mxnet as mx
import numpy as np
import numpy.typing as npt
import pytest

from gluonseg.data.decode import read_label
from gluonseg.data.loader import Loader, Share
from gluonseg.errors import DataError
from gluonseg.files import hash_file
from gluonseg.labels import IGNORE
from gluonseg.sagemaker.contract import read_contract
from gluonseg.train.exchange import Exchange
from gluonseg.train.group import Group
from gluonseg.train.stop import Stop
from host_program import make_steps
from job_layout import CHANNELS, TRAIN, Job, draw_channels, lay_out_job
from local_server import find_free_port
from program import LoggedProcess, start_logged

PROGRAM = Path(__file__).with_name("host_program.py")
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@contextmanager
def starting(
    folder: Path, work: Sequence[str], names: Sequence[str] = HOSTS, *, only: Sequence[str] = (), wait_s: int = 180
) -> Iterator[list[LoggedProcess]]:
    """``host_program.py`` on each host, or on those in ``only``."""
    variables = {
        "GLUONSEG_HOSTS_PORT": str(find_free_port()),
        "GLUONSEG_HOSTS_WAIT_S": str(wait_s),
        "OMP_NUM_THREADS": "1",
    }
    with ExitStack() as stack:
        started = []
        for host in only or names:
            command = [sys.executable, str(PROGRAM), work[0], host, ",".join(names), *work[1:]]
            log_file = folder / f"{host}.log"
            started.append(LoggedProcess(stack.enter_context(start_logged(command, log_file, **variables)), log_file))
        yield started


def wait_joined(started: Sequence[LoggedProcess]) -> None:
    deadline = time.monotonic() + 180
    while not all("JOINED" in one.log for one in started):
        assert time.monotonic() < deadline, [one.log for one in started]
        time.sleep(0.05)


def wait_all(started: Sequence[LoggedProcess]) -> list[int]:
    return [one.process.wait(timeout=180) for one in started]


# How the hosts find and watch each other.


@pytest.mark.parametrize(
    ("number", "what", "words"),
    [(1, signal.SIGKILL, "has ended without a word"), (0, signal.SIGKILL, "has ended without a word"),
     (2, signal.SIGSTOP, "has given no sign of life for 5 s")],
)  # fmt: skip
def test_when_a_host_dies_or_hangs_the_others_end_and_name_it(
    tmp_path: Path, number: int, what: signal.Signals, words: str
) -> None:
    with starting(tmp_path, ["sum"]) as started:
        wait_joined(started)
        lost = started.pop(number)
        lost.process.send_signal(what)
        assert wait_all(started) == [1, 1]
        for one in started:
            assert f"END {HOSTS[number]}: AlgorithmError: it {words}" in one.log


@pytest.mark.parametrize(
    ("event", "codes", "texts"),
    [
        ("nothing", [0, 0, 0], ["", "", ""]),
        ("fail", [2, 2, 2], ["END 127.0.0.2: ClientError: a mask", "a mask is gone", "END 127.0.0.2: ClientError: a"]),
        ("fail together", [0, 0, 0], ["host 127.0.0.2: ZeroDivisionError: ", "ZeroDivisionError: ", "host 127.0.0.2"]),
        (
            "disagree",
            [2, 2, 2],
            ["rate is 0.0 on 127.0.0.1, 0.1 on 127.0.0.2; learning_rate is 0.0 on 127.0.0.1, "] * 3,
        ),
    ],
)
def test_an_error_on_one_host_is_known_to_all(
    tmp_path: Path, event: str, codes: Sequence[int], texts: Sequence[str]
) -> None:
    with starting(tmp_path, ["work", event]) as started:
        assert wait_all(started) == codes
        for one, text in zip(started, texts, strict=True):
            assert text in one.log


def test_a_stop_before_training_stops_all(tmp_path: Path) -> None:
    with starting(tmp_path, ["sum"]) as started:
        wait_joined(started)
        started[1].process.terminate()
        assert wait_all(started) == [0, 0, 0]
        assert "STOPPED" in started[1].log
        for one in started[::2]:
            assert "END 127.0.0.2: it was stopped before training had begun" in one.log


@pytest.mark.parametrize(
    ("names", "only", "texts"),
    [
        (
            HOSTS,
            HOSTS[:2],
            ["127.0.0.3 did not come to 127.0.0.1 within 2 s (port ", "END 127.0.0.1: ClientError: 127.0.0.3"],
        ),
        (HOSTS, HOSTS[1:2], ["127.0.0.2 cannot reach 127.0.0.1 within 2 s: port "]),
        (("0.no-host.invalid", HOSTS[1]), HOSTS[1:2], ["0.no-host.invalid within 2 s: its name does not resolve ("]),
    ],
)
def test_a_host_that_never_comes_is_named(
    tmp_path: Path, names: Sequence[str], only: Sequence[str], texts: Sequence[str]
) -> None:
    with starting(tmp_path, ["sum"], names, only=only, wait_s=2) as started:
        assert 0 not in wait_all(started)
        for one, text in zip(started, texts, strict=True):
            assert text in one.log


# What they compute.


def test_hosts_have_equal_parts_of_a_batch() -> None:
    assert [list(Share(rank, 3).cut(5)) for rank in range(3)] == [[0, 1], [2, 3], [4]]


def count_reads(shards: tuple[int, ...], batch_size: int, *, shuffle: bool) -> list[list[Counter[int]]]:
    """For each host and epoch how often the loader reads each photo."""
    found = []
    for rank, count in enumerate(shards):
        dataset = [None] * count
        options = {"batch_size": batch_size, "shuffle": shuffle, "share": Share(rank, len(shards), shards)}
        loader = Loader(cast(Any, dataset), cast(Any, None), **cast(Any, options))
        edges = [epoch * loader.num_samples // loader.batch_size for epoch in range(4)]
        batches = [range(*edge) for edge in pairwise(edges)]
        found.append([Counter(i for number in epoch for _, i in loader._positions(number)) for epoch in batches])
    return found


@pytest.mark.parametrize(("shards", "batch_size"), [((3, 3), 1), ((1, 5), 4), ((4, 5, 4), 2)])
def test_each_photo_of_a_shard_is_validated_once(shards: tuple[int, ...], batch_size: int) -> None:
    totals = [sum(epochs, Counter()) for epochs in count_reads(shards, batch_size, shuffle=False)]
    # Batches run on across the end of an epoch, so that the third may lack a part of one.
    assert all(2 <= times <= 3 for total in totals for times in total.values())
    assert [len(total) for total in totals] == list(shards)


def test_hosts_train_on_as_many_photos_of_shards_that_differ() -> None:
    one, five = count_reads((1, 5), 4, shuffle=True)
    assert [epoch.total() for epoch in one] == [epoch.total() for epoch in five]


class OtherHost(Group):
    """Two hosts, of which the other one sends ``vector``."""

    def __init__(self, size: int) -> None:
        super().__init__(("algo-1", "algo-2"))
        self.vector = np.random.default_rng(0).normal(size=size).astype(np.float32)

    def all_reduce(self, vector: npt.NDArray[np.float32]) -> None:
        self.vector = self.vector[: vector.size]
        vector += self.vector


def test_running_statistics_are_the_mean_of_the_hosts() -> None:
    network = mx.gluon.nn.BatchNorm(in_channels=3)
    network.initialize()
    exchange = Exchange(network, other := OtherHost(100), Stop())
    exchange.reduce(0.0, 1.0)
    for parameter, own, sent in (
        (network.running_mean, 0, other.vector[6:9]),
        (network.running_var, 1, other.vector[9:12]),
    ):
        np.testing.assert_allclose(parameter.data().asnumpy(), (own + sent) / 2, rtol=1e-6)


def test_two_and_three_hosts_train_as_one(tmp_path: Path) -> None:
    """Batch norm is frozen, so that no crop depends on another."""
    make_steps(Group(), tmp_path / "one.npz")
    expected = dict(np.load(tmp_path / "one.npz"))
    for count in (2, 3):
        with starting(tmp_path, ["steps", str(tmp_path)], HOSTS[:count]) as started:
            assert wait_all(started) == [0] * count, started[0].log
        files = sorted(tmp_path.glob(f"{count}-*.npz"))
        assert len(files) == count * (count - 1)
        assert len({hash_file(file) for file in files}) == 1
        for name, values in np.load(files[0]).items():
            np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-6, err_msg=name)


# Whole jobs.


def lay_out(folder: Path, data: Path, **hyperparameters: str) -> list[Job]:
    jobs = []
    for host in HOSTS[:2]:
        job = lay_out_job(folder / host, data)
        job.set_hyperparameters(**hyperparameters)
        resources = {"current_host": host, "hosts": list(HOSTS[:2]), "network_interface_name": "lo"}
        job.write_config("resourceconfig", resources)
        jobs.append(job)
    return jobs


@contextmanager
def running(jobs: Sequence[Job]) -> Iterator[list[LoggedProcess]]:
    """``container/train`` on each host."""
    variables = {"GLUONSEG_HOSTS_PORT": str(find_free_port()), "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        started = []
        for job in jobs:
            log_file = job.base / "log"
            start = start_logged([sys.executable, str(TRAIN)], log_file, SAGEMAKER_BASE_DIR=str(job.base), **variables)
            started.append(LoggedProcess(stack.enter_context(start), log_file))
        yield started


def run_all(jobs: Sequence[Job]) -> list[str]:
    """The logs of jobs that end well."""
    with running(jobs) as started:
        assert wait_all(started) == [0, 0], started[0].log
        return [one.log for one in started]


def wait_for(one: LoggedProcess, words: str) -> None:
    deadline = time.monotonic() + 180
    while words not in one.log:
        assert time.monotonic() < deadline, one.log
        assert one.process.poll() is None, one.log
        time.sleep(0.01)


def hash_model(job: Job) -> list[str]:
    return [hash_file(job.model / name) for name in ("model_best.params", "model_algo-1")]


def test_a_training_that_is_killed_and_stopped_goes_on_exactly(tmp_path: Path) -> None:
    data = draw_channels(tmp_path)
    first, second = jobs = lay_out(tmp_path / "whole", data, epochs="4")
    logs = run_all(jobs)
    assert "of each batch this one has 4 crops" in logs[0]
    assert "#quality_metric" in logs[0]
    assert "metric" not in logs[1]
    assert list(second.model.iterdir()) == list((second.base / "output" / "data").iterdir()) == []
    report = json.loads((first.base / "output" / "data" / "report.json").read_text())
    assert len(report["models"][0]["runs"][0]["photo_mIoU"]) == 6

    first, second = jobs = lay_out(tmp_path / "broken", data, epochs="4")
    (first.base / "checkpoints").mkdir()
    with running(jobs) as started:
        wait_for(started[0], "epoch: 1, train loss")
        started[1].process.kill()
        assert started[0].process.wait(timeout=180) == 1
    assert str(first.read_failure()).startswith("AlgorithmError: on the host 127.0.0.2: it has ended without a word")
    with running(jobs) as started:
        wait_for(started[0], "epoch: 2, train loss")
        started[1].process.terminate()
        assert wait_all(started) == [0, 0]
        assert "Resuming from checkpoint" in started[0].log
        assert "Stopped by SIGTERM after epoch" in started[0].log
    run_all(jobs)
    assert hash_model(first) == hash_model(Job(tmp_path / "whole" / HOSTS[0]))


def test_photos_that_are_sharded_without_their_masks_are_refused(tmp_path: Path) -> None:
    job, _ = lay_out(tmp_path, draw_channels(tmp_path))
    job.write_config("inputdataconfig", {"train": {"S3DistributionType": "ShardedByS3Key"}, "train_annotation": {}})
    with pytest.raises(DataError, match=r"train, train_annotation one is ShardedByS3Key.*FullyReplicated"):
        read_contract(job.base)


def test_each_host_trains_on_photos_of_its_own(tmp_path: Path) -> None:
    jobs = lay_out(tmp_path, draw_channels(tmp_path), validation_mini_batch_size="1")
    kinds = {
        name: {"S3DistributionType": "FullyReplicated" if name == "label_map" else "ShardedByS3Key"}
        for name in CHANNELS
    }
    for number, job in enumerate(jobs):
        job.write_config("inputdataconfig", kinds)
        for split in ("train", "validation"):
            for photo in sorted(job.channel(split).iterdir())[number::2]:
                photo.unlink()
                (job.channel(f"{split}_annotation") / f"{photo.stem}.png").unlink()
    logs = run_all(jobs)
    assert "The channel train is sharded: 127.0.0.1, 127.0.0.2 have 9, 9 photos" in logs[0]
    card = json.loads((jobs[0].model / "model_card.json").read_text())
    assert (card["data"]["num_training_samples"], card["data"]["num_validation_samples"]) == (18, 6)
    masks = [read_label(file) for job in jobs for file in job.channel("validation_annotation").iterdir()]
    assert sum(card["data"]["pixels"]["validation"]) == sum(np.count_nonzero(mask != IGNORE) for mask in masks)
