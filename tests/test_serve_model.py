"""The model in its process: requests in turn, and what happens when the process ends, hangs, or cannot load."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from gluonseg.errors import BusyError, FatalPictureError, ModelError
from gluonseg.serve.media import PNG
from gluonseg.serve.model import MAX_DEATHS, Load, Model
from gluonseg.serve.settings import Settings
from picture import draw_noise, encode_picture
from process_tree import find_model_processes
from stand_in import HANGS, KILLS, StandIn, encode_mask, load

Start = Callable[..., Model]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts models, and ends them after the test."""
    with ExitStack() as stack:

        def start_model(load: Load = load, is_ready: bool = True, **settings: Any) -> Model:
            model = stack.enter_context(closing(Model(Settings(**settings), load)))
            if is_ready:
                wait_until_ready(model)
            return model

        yield start_model


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def is_ready(model: Model) -> bool:
    with suppress(BusyError):
        model.check_ready()
        return True
    return False


def wait_until(is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    start = time.monotonic()
    while not is_so():
        assert time.monotonic() - start < seconds
        time.sleep(0.01)


def wait_until_ready(model: Model) -> None:
    wait_until(lambda: is_ready(model) or model.exit_code is not None)
    assert model.exit_code is None


def ask(pool: ThreadPoolExecutor, model: Model, height: int, width: int, seed: int = 0) -> Future[bytes]:
    body = encode_picture(draw_noise(height, width, seed=seed))
    return pool.submit(model.predict, lambda: body, PNG)


def ask_all(pool: ThreadPoolExecutor, model: Model, count: int) -> list[Future[bytes]]:
    """Pictures of their own, in this order."""
    futures = []
    for number in range(count):
        futures.append(ask(pool, model, 20, 30, number))
        time.sleep(0.01)
    return futures


def check_answers(futures: list[Future[bytes]]) -> None:
    for number, future in enumerate(futures):
        assert future.result() == encode_mask(draw_noise(20, 30, seed=number))


def kill_process() -> None:
    (pid,) = find_model_processes(os.getpid())
    os.kill(pid, signal.SIGKILL)


def load_nothing(_settings: Settings) -> StandIn:
    raise ModelError("no model in the folder")


def load_wrongly(_settings: Settings) -> StandIn:
    raise KeyError("bug")


def test_it_is_ready_once_the_model_has_made_a_prediction(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_LOADING", "0.3")
    model = start(is_ready=False)
    with pytest.raises(BusyError, match="the model is not ready"):
        model.check_ready()
    wait_until_ready(model)
    assert model.predict(lambda: encode_picture(draw_noise(20, 30)), PNG) == encode_mask(draw_noise(20, 30))


@pytest.mark.parametrize(("load", "exit_code", "text"), [(load_nothing, 2, "no model in"), (load_wrongly, 1, "bug")])
def test_a_model_that_cannot_be_loaded_is_given_up(
    start: Start, load: Load, exit_code: int, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = start(load, is_ready=False)
    wait_until(lambda: model.exit_code is not None)
    assert model.exit_code == exit_code
    log = capfd.readouterr().err
    assert f"the model cannot be served: {'ClientError' if exit_code == 2 else 'AlgorithmError'}" in log
    assert text in log
    assert ("Traceback" in log) == (exit_code == 1)


def test_each_request_gets_its_own_answer(start: Start, pool: ThreadPoolExecutor) -> None:
    check_answers(ask_all(pool, start(), 12))


def test_a_request_too_many_is_refused_at_once(
    start: Start, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "0.3")
    futures = ask_all(pool, start(max_requests=2), 3)
    with pytest.raises(BusyError, match="2 requests already"):
        futures.pop().result()
    check_answers(futures)


def test_nothing_is_begun_after_its_deadline(
    start: Start, pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "begun"))
    monkeypatch.setenv("STAND_IN_SECONDS", "0.7")
    futures = ask_all(pool, start(deadline_s=1), 5)
    check_answers(futures[:2])
    for future in futures[2:]:
        with pytest.raises(BusyError, match="no answer in 1 s"):
            future.result()
    time.sleep(0.1)
    assert len((tmp_path / "begun").read_text().splitlines()) == 2


def test_a_killed_process_is_replaced_and_nothing_is_lost(
    start: Start, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "0.2")
    model = start()
    futures = ask_all(pool, model, 6)
    kill_process()
    check_answers(futures)


def test_a_process_that_ends_at_rest_is_replaced(start: Start, pool: ThreadPoolExecutor) -> None:
    model = start()
    for _ in range(2):
        kill_process()
        wait_until(lambda: not is_ready(model))
        wait_until_ready(model)
    check_answers(ask_all(pool, model, 1))


def test_a_picture_that_ends_the_process_is_alone_to_fail(
    start: Start, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "0.1")
    model = start()
    before = ask_all(pool, model, 3)
    poison = ask(pool, model, *KILLS)
    time.sleep(0.05)
    behind = ask_all(pool, model, 3)
    with pytest.raises(FatalPictureError, match="send another one"):
        poison.result()
    check_answers(before)
    check_answers(behind)


def test_a_process_that_keeps_ending_ends_the_server(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STAND_IN_END", "1")
    model = start(is_ready=False)
    wait_until(lambda: model.exit_code is not None)
    assert model.exit_code == 1
    assert caplog.text.count("the model's process has ended") == MAX_DEATHS


@pytest.mark.parametrize("workers", [1, 2])
def test_a_prediction_that_is_never_done_is_given_up(start: Start, pool: ThreadPoolExecutor, workers: int) -> None:
    model = start(deadline_s=1, timeout_s=1, workers=workers)
    wait_until(lambda: len(model._ready) == workers)
    with pytest.raises(BusyError, match="no answer in 1 s"):
        ask(pool, model, *HANGS).result()
    wait_until(lambda: len(model._ready) == workers)
    assert len(model._deaths) == 1
    check_answers(ask_all(pool, model, 1))


def test_two_workers_compute_at_the_same_time(
    start: Start, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "0.5")
    model = start(workers=2)
    wait_until(lambda: len(model._ready) == 2)
    begun = time.monotonic()
    check_answers(ask_all(pool, model, 2))
    assert time.monotonic() - begun < 0.95


def test_what_waits_when_it_is_closed_is_refused(
    start: Start, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "5")
    caplog.set_level(logging.INFO)
    model = start()
    futures = ask_all(pool, model, 3)
    time.sleep(0.2)
    model.close()
    for future in futures:
        with pytest.raises(BusyError, match="the server is stopping"):
            future.result()
    assert model.exit_code == 0
    assert "has ended" not in caplog.text
