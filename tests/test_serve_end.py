"""How the server ends, and what it does when one of its processes ends or hangs.

The model is a stand-in that takes the time it is told to; everything else is the server as shipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gunicorn.arbiter import Arbiter

from gluonseg.serve.process import SILENCE_S
from gluonseg.serve.server import Server, Supervisor
from gluonseg.serve.settings import Settings
from local_server import ServerProcess, find_free_port
from picture import draw_noise, encode_picture
from process_tree import find_backends, find_worker, is_running, iter_tree
from raw_client import build_request, connect, exchange, is_closed, read_reply
from stand_in import HANGS, KILLS, encode_mask
from stand_in_server import (
    AT_ONCE_S,
    CHANGED,
    PNG,
    STAND_IN,
    describe_stand_in,
    draw,
    ping,
    post_all,
    stand_in,
    starting,
    wait_until,
)


@pytest.mark.fault(family=61, outcome="503 for new requests, 200 for those that were taken, exit code 0", inputs=7)
@pytest.mark.fault(family=43, outcome="SIGTERM, once or twice, finishes what was taken; exit code 0")
@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_finishes_what_was_taken_and_refuses_the_rest(tmp_path: Path, signals: int) -> None:
    data = build_request(PNG)
    with (
        stand_in(tmp_path, STAND_IN_SECONDS="0.4") as server,
        connect(server.port) as idle,
        connect(server.port) as half,
    ):
        processes = list(iter_tree(server.process.pid))
        half.sendall(data[:-9])
        taken = post_all(server, [PNG] * 4)
        time.sleep(0.2)
        for _ in range(signals):
            server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        pinged, refused = ping(server), exchange(server.port, data)
        idle.sendall(data)
        late = read_reply(idle)
        half.sendall(data[-9:])
        assert [reply.status for reply in (pinged, refused, late)] == [503] * 3
        assert all(reply.headers["connection"] == "close" for reply in (pinged, refused, late))
        assert max(reply.seconds for reply in (pinged, refused, late)) < AT_ONCE_S
        assert is_closed(idle)
        assert read_reply(half).status == 200
        assert [reply.result().status for reply in taken] == [200] * 4
        assert server.process.wait(timeout=10) == 0
        assert not any(is_running(pid) for pid in processes)


def test_what_cannot_be_finished_in_time_is_told_so_before_the_platform_kills(tmp_path: Path) -> None:
    command = "import gluonseg.serve.frontend as f; f.DRAIN_S = 1.0; " + CHANGED.format("")
    with stand_in(tmp_path, "-c", command, STAND_IN_SECONDS="5") as server:
        taken = post_all(server, [PNG] * 2)
        time.sleep(0.3)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert [reply.result().status for reply in taken] == [503] * 2
        assert "stopping" in taken[0].result().read_error()
        assert server.process.wait(timeout=10) == 0
        assert time.monotonic() - start < 3


@pytest.mark.fault(family=44, outcome="a killed engine is replaced; nothing that was taken is lost")
def test_a_killed_backend_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    with stand_in(tmp_path, STAND_IN_SECONDS="0.3", STAND_IN_LOADING="0.7") as server:
        (backend,) = find_backends(server.process.pid)
        taken = post_all(server, [draw(number) for number in range(6)])
        time.sleep(0.2)
        os.kill(backend, signal.SIGKILL)
        wait_until(lambda: ping(server).status == 503, 1)
        refused = exchange(server.port, build_request(PNG))
        assert (refused.status, "loaded" in refused.read_error()) == (503, True)
        seconds = wait_until(lambda: ping(server).status == 200)
        assert seconds < 10
        for number, reply in enumerate(taken):
            assert reply.result().status == 200
            assert reply.result().body == encode_mask(draw_noise(20, 30, seed=number))
        assert exchange(server.port, build_request(PNG)).status == 200
        assert "has ended with code -9" in server.read_log()


def test_a_picture_that_ends_the_backend_is_alone_to_fail(tmp_path: Path) -> None:
    with stand_in(tmp_path, STAND_IN_SECONDS="0.2") as server:
        bodies = [draw(1), encode_picture(draw_noise(*KILLS)), draw(2), draw(3)]
        statuses = [reply.result().status for reply in post_all(server, bodies)]
        assert statuses == [200, 500, 200, 200]
        assert exchange(server.port, build_request(PNG)).status == 200
        assert server.read_log().count("has ended with code -9") == 2


@pytest.mark.fault(family=61, outcome="/ping says 503; after the third time within a minute the exit code is 1")
def test_a_backend_that_keeps_ending_ends_the_server(tmp_path: Path) -> None:
    with starting(tmp_path, STAND_IN_END="1", STAND_IN_LOADING="0.3") as one:
        statuses = set()
        while one.is_running():
            try:
                statuses.add(ping(one).status)
            except OSError:
                time.sleep(0.02)
        assert one.process.wait() == 1
        assert statuses == {503}
        assert "3 backends have ended within" in one.read_log()


@pytest.mark.fault(family=43, outcome="SIGKILL of gunicorn's worker: it is replaced, and its backend ends with it")
def test_a_killed_worker_is_replaced_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with stand_in(tmp_path) as server:
        master = server.process.pid
        worker, backends = find_worker(master), find_backends(master)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, [worker, *backends])), 5)
        statuses = server.wait_until_served()
        assert set(statuses) <= {503, 200}
        assert exchange(server.port, build_request(PNG)).status == 200


def test_a_worker_that_keeps_ending_ends_the_server(tmp_path: Path) -> None:
    with stand_in(tmp_path) as server:
        for number in range(3):
            wait_until(lambda: len(list(iter_tree(server.process.pid))) > 1)
            os.kill(find_worker(server.process.pid), signal.SIGKILL)
            time.sleep(0.3 if number < 2 else 0)
        assert server.process.wait(timeout=10) == 1


@pytest.mark.fault(family=43, outcome="SIGKILL of the master: the other processes end by themselves")
def test_a_killed_master_leaves_nothing_behind(tmp_path: Path) -> None:
    with stand_in(tmp_path) as server:
        processes = list(iter_tree(server.process.pid))
        assert len(processes) == 3
        server.process.kill()
        wait_until(lambda: not any(map(is_running, processes)), 5)


@pytest.mark.fault(family=43, outcome="SIGHUP changes nothing; SIGINT stops; the log's reader may be gone", inputs=3)
def test_other_signals(tmp_path: Path) -> None:
    with stand_in(tmp_path) as server:
        worker = find_worker(server.process.pid)
        for pid in iter_tree(server.process.pid):
            os.kill(pid, signal.SIGHUP)
        time.sleep(0.3)
        assert find_worker(server.process.pid) == worker
        assert exchange(server.port, build_request(PNG)).status == 200
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=10) == 0


def test_a_log_that_nobody_reads_any_more_stops_nothing(tmp_path: Path) -> None:
    port, (reading, writing) = find_free_port(), os.pipe()
    process = subprocess.Popen([sys.executable, STAND_IN], env=describe_stand_in(port), stdout=writing, stderr=writing)
    os.close(writing)
    server = ServerProcess(process, port, tmp_path / "log")
    try:
        server.wait_until_served()
        os.close(reading)
        assert [exchange(server.port, build_request(PNG)).status for _ in range(3)] == [200] * 3
        assert server.stop() == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.fault(family=43, outcome="SIGSTOP: /ping says 503, and the backend is replaced after the timeout")
def test_a_backend_that_gives_no_sign_of_life_is_replaced(tmp_path: Path) -> None:
    with stand_in(tmp_path, SAGEMAKER_MODEL_SERVER_TIMEOUT="3", STAND_IN_LOADING="0.7") as server:
        (backend,) = find_backends(server.process.pid)
        os.kill(backend, signal.SIGSTOP)
        taken = post_all(server, [PNG])
        wait_until(lambda: ping(server).status == 503, 8)
        wait_until(lambda: not is_running(backend), 8)
        assert taken[0].result().status == 200
        assert "hangs and is ended" in server.read_log()


@pytest.mark.fault(family=61, outcome="503 for a client that had just connected when the server was told to stop")
def test_a_client_that_has_just_connected_is_answered(tmp_path: Path) -> None:
    with stand_in(tmp_path) as server, connect(server.port) as client:
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        client.sendall(build_request(PNG))
        assert read_reply(client).status == 503
        assert server.process.wait(timeout=5) == 0


@pytest.mark.fault(family=43, outcome="SIGSTOP and SIGCONT of all processes (docker pause): it goes on at once")
def test_a_server_that_was_paused_goes_on(tmp_path: Path) -> None:
    """For longer than all that counts as a sign that a process hangs, while a request is answered."""
    variables = {"SAGEMAKER_MODEL_SERVER_TIMEOUT": "3", "GLUONSEG_REQUEST_DEADLINE": "2", "STAND_IN_SECONDS": "0.3"}
    with stand_in(tmp_path, **variables) as server, connect(server.port) as client:
        client.sendall(build_request(PNG))
        assert read_reply(client).status == 200
        processes = list(iter_tree(server.process.pid))
        (taken,) = post_all(server, [PNG])
        time.sleep(0.15)
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(SILENCE_S + 2)
        client.sendall(build_request(PNG))
        # The one that has the clients goes on before the one with the model can have said anything.
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.1)
        assert [read_reply(client).status, taken.result().status, ping(server).status] == [200] * 3
        # The time that it stood still is not taken for that of a prediction, after which these would have to wait long.
        assert [one.result().status for one in post_all(server, [PNG] * 3)] == [200] * 3
        time.sleep(3)
        assert list(iter_tree(server.process.pid)) == processes


def test_the_master_gives_a_worker_time_after_it_was_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that ends a pause wakes it twice at once, before the worker can have given a sign of life."""
    calls: list[float] = []
    now = [1000.0]
    monkeypatch.setattr(Arbiter, "murder_workers", lambda _self: calls.append(now[0]))
    monkeypatch.setattr("gluonseg.serve.standstill.time.monotonic", lambda: now[0])
    supervisor = Supervisor(Server(Settings(), "stand_in:load"))
    supervisor.timeout = 3
    for now[0] in (1001.0, 1002.0, 1003.5, 1060.0, 1060.1, 1061.0, 1062.0, 1063.2):
        supervisor.murder_workers()
    assert calls == [1003.5, 1063.2]


def test_a_prediction_that_is_never_done_is_given_up(tmp_path: Path) -> None:
    variables = {"SAGEMAKER_MODEL_SERVER_TIMEOUT": "2", "GLUONSEG_REQUEST_DEADLINE": "1"}
    with stand_in(tmp_path, **variables) as server:
        assert exchange(server.port, build_request(encode_picture(draw_noise(*HANGS)))).status == 503
        server.wait_until_served()
        assert exchange(server.port, build_request(PNG)).status == 200


@pytest.mark.fault(family=43, outcome="as process 1 of a container: ended processes are reaped, SIGTERM stops")
def test_as_the_first_process_of_a_container(tmp_path: Path) -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespace of processes can be made here")
    port, command = find_free_port(), [*unshare, sys.executable, STAND_IN]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=describe_stand_in(port), stderr=log, stdout=log)
    server = ServerProcess(process, port, tmp_path / "log")
    try:
        server.wait_until_served()
        master = list(iter_tree(process.pid))[1]
        backend = list(iter_tree(master))[2]
        os.kill(find_worker(master), signal.SIGKILL)
        wait_until(lambda: backend not in list(iter_tree(master)), 5)
        server.wait_until_served()
        states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in iter_tree(master)]
        assert "Z" not in states
        os.kill(master, signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()
