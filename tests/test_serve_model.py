"""The model in its process: requests in turn, and what happens when the process ends, hangs, or cannot load."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest

from gluonseg.errors import BusyError, FatalPictureError, ModelError
from gluonseg.serve.media import PNG
from gluonseg.serve.model import MAX_DEATHS, Load, Model
from gluonseg.serve.settings import Settings
from picture import draw_noise, encode_picture
from process_tree import find_model_processes
from stand_in import HANGS, KILLS, StandIn, encode_mask, load


def wait_until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    start = time.monotonic()
    while not is_so():
        assert time.monotonic() - start < seconds
        time.sleep(0.01)


class Asker:
    """Clients of a model, each in a thread of its own."""

    def __init__(self, pool: ThreadPoolExecutor, model: Model) -> None:
        self._pool, self.model = pool, model
        self.begun: list[int] = []
        """The seeds of the pictures whose turn has come."""
        self.may_begin: Callable[[], object] = lambda: None
        """Called by each request once it has a process."""

    def is_ready(self) -> bool:
        with suppress(BusyError):
            self.model.check_ready()
            return True
        return False

    def wait_until_ready(self) -> None:
        wait_until(lambda: self.is_ready() or self.model.exit_code is not None)
        assert self.model.exit_code is None

    def ask(self, seed: int, size: tuple[int, int] = (20, 30)) -> Future[bytes]:
        def read_body() -> bytes:
            self.begun.append(seed)
            self.may_begin()
            return encode_picture(draw_noise(*size, seed=seed))

        return self._pool.submit(self.model.predict, read_body, PNG)

    def ask_all(self, count: int) -> list[Future[bytes]]:
        """Ask for pictures 0 .. count - 1, each unlike the others."""
        return [self.ask(seed) for seed in range(count)]


Start = Callable[..., Asker]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts models, and ends them after the test."""
    with ThreadPoolExecutor(32) as pool, ExitStack() as stack:

        def start_model(load: Load = load, is_ready: bool = True, **settings: Any) -> Asker:
            asker = Asker(pool, stack.enter_context(closing(Model(Settings(**settings), load))))
            if is_ready:
                asker.wait_until_ready()
            return asker

        yield start_model


def check_answers(futures: list[Future[bytes]]) -> None:
    for seed, future in enumerate(futures):
        assert future.result() == encode_mask(draw_noise(20, 30, seed=seed))


def kill_process() -> None:
    (pid,) = find_model_processes(os.getpid())
    os.kill(pid, signal.SIGKILL)


def load_nothing(_settings: Settings) -> StandIn:
    raise ModelError("no model in the folder")


def load_wrongly(_settings: Settings) -> StandIn:
    raise KeyError("bug")


def end_while_loading(_settings: Settings) -> StandIn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_it_is_ready_once_the_model_has_made_a_prediction(start: Start) -> None:
    asker = start(is_ready=False)
    with pytest.raises(BusyError, match="the model is not ready"):
        asker.model.check_ready()
    asker.wait_until_ready()
    check_answers(asker.ask_all(1))


@pytest.mark.parametrize(("load", "exit_code", "text"), [(load_nothing, 2, "no model in"), (load_wrongly, 1, "bug")])
def test_a_model_that_cannot_be_loaded_is_given_up(
    start: Start, load: Load, exit_code: int, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = start(load, is_ready=False).model
    wait_until(lambda: model.exit_code is not None)
    assert model.exit_code == exit_code
    log = capfd.readouterr().err
    assert f"the model cannot be served: {'ClientError' if exit_code == 2 else 'AlgorithmError'}" in log
    assert text in log
    assert ("Traceback" in log) == (exit_code == 1)


def test_a_request_too_many_is_refused_at_once(start: Start) -> None:
    asker, event = start(max_requests=2), threading.Event()
    asker.may_begin = event.wait
    futures = asker.ask_all(2)
    wait_until(lambda: asker.model._places._value == 0)
    with pytest.raises(BusyError, match="2 requests already"):
        asker.ask(2).result()
    event.set()
    check_answers(futures)


def test_nothing_is_begun_after_its_deadline(start: Start) -> None:
    asker, event = start(deadline_s=1), threading.Event()
    asker.may_begin = event.wait
    first = asker.ask(0)
    wait_until(lambda: asker.begun == [0])
    for future in [asker.ask(seed) for seed in (1, 2)]:
        with pytest.raises(BusyError, match="no answer in 1 s"):
            future.result()
    event.set()
    check_answers([first])
    assert asker.begun == [0]


def test_a_long_queue_is_answered_before_its_deadline(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asynchronous inference; the time limit of a process counts from the deadline on."""
    monkeypatch.setenv("STAND_IN_SECONDS", "0.5")
    check_answers(start(deadline_s=3600, timeout_s=1).ask_all(4))


def test_a_killed_process_is_replaced_and_nothing_is_lost(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "0.2")
    asker = start()
    futures = asker.ask_all(4)
    wait_until(lambda: bool(asker.begun))
    kill_process()
    check_answers(futures)
    kill_process()  # now at rest
    wait_until(lambda: not asker.is_ready())
    asker.wait_until_ready()
    check_answers(asker.ask_all(1))


def test_a_picture_that_ends_the_process_is_alone_to_fail(start: Start) -> None:
    asker = start()
    before, poison, behind = asker.ask_all(3), asker.ask(0, KILLS), asker.ask_all(3)
    with pytest.raises(FatalPictureError, match="send another one"):
        poison.result()
    check_answers(before)
    check_answers(behind)


def test_a_process_that_keeps_ending_ends_the_server(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    model = start(end_while_loading, is_ready=False).model
    wait_until(lambda: model.exit_code is not None)
    assert model.exit_code == 1
    assert caplog.text.count("the model's process has ended") == MAX_DEATHS


def test_a_prediction_that_never_ends_is_given_up(start: Start) -> None:
    asker = start(deadline_s=1, timeout_s=1)
    with pytest.raises(BusyError, match="no answer in 1 s"):
        asker.ask(0, HANGS).result()
    asker.wait_until_ready()
    assert len(asker.model._deaths) == 1
    check_answers(asker.ask_all(1))


def test_two_workers_compute_at_the_same_time(start: Start) -> None:
    asker = start(workers=2)
    asker.may_begin = threading.Barrier(2, timeout=20).wait
    check_answers(asker.ask_all(2))


def test_what_is_begun_or_waits_when_it_is_closed_is_refused(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    asker = start()
    begun = asker.ask(0, HANGS)
    wait_until(lambda: asker.begun == [0])
    waiting = asker.ask_all(2)
    asker.model.close()
    for future in (begun, *waiting):
        with pytest.raises(BusyError, match="the server is stopping"):
            future.result()
    assert asker.model.exit_code == 0
    assert "has ended" not in caplog.text
