"""The requests that wait, the backends that answer them, and what happens when one of those ends."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gluonseg.errors import BusyError
from gluonseg.serve.answer import INTERNAL, NOT_READY, Answer, build_error
from gluonseg.serve.channel import Message, stored
from gluonseg.serve.process import SILENCE_S, BackendProcess
from gluonseg.serve.settings import Settings
from gluonseg.serve.standstill import Standstill
from gluonseg.serve.strike import STRIKE_WINDOW_S, STRIKES, Strikes

LOGGER = logging.getLogger("gluonseg.serve")
FAILED = 1
"""Exit code of a server that ends by itself through no fault of the model."""
_MEMORY = 0.2
"""Weight of the newest request in the mean time of one."""
_ATTEMPTS = 2
_START_AGAIN_S = 5.0
_LEAST_PATIENCE_S = 2.0
"""A sign of life comes every second."""


@dataclass(eq=False)
class Job:
    """A request with its whole body. ``deadline`` is monotonic; ``is_gone`` says whether the client has left."""

    fields: dict[str, Any]
    body: bytes
    deadline: float
    is_gone: Callable[[], bool]
    reply: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    attempts: int = 0
    sent: float = 0.0

    def answer(self, answer: Answer) -> None:
        """Give the answer, unless there is one already or nobody waits for it."""
        if self.reply.done():
            close_file(answer)
        else:
            self.reply.set_result(answer)


def close_file(answer: Answer) -> None:
    """Free an answer that is sent, or that nobody wants."""
    if answer.file is not None:
        os.close(answer.file)


class _Worker:
    """A backend, what it is doing, and when it last finished something."""

    def __init__(self, process: BackendProcess) -> None:
        self.process = process
        self.jobs: dict[int, Job] = {}
        self.finished = 0.0

    def can_take(self, job: Job, limit: int) -> bool:
        """Whether there is room. A job that a backend has already ended with is tried alone."""
        if any(other.attempts for other in self.jobs.values()):
            return False
        return not self.jobs if job.attempts else len(self.jobs) < limit


class Dispatcher:
    """Gives requests to backends, first come first served.

    ``stop`` is called with an exit code when the server cannot go on.
    """

    def __init__(self, settings: Settings, load_model: str, stop: Callable[[int], None]) -> None:
        self._settings = settings
        self._load_model = load_model
        self._stop = stop
        self._ids = itertools.count()
        self._queue: deque[Job] = deque()
        self._ends = Strikes()
        self._mean_s = 0.0
        self._standstill = Standstill()
        self._workers: list[_Worker] = []
        self._is_closed = False

    def start(self) -> None:
        """Start the backends; returns at once."""
        for _ in range(self._settings.workers):
            self._start_worker()

    def check_ready(self) -> None:
        """Refuse everything while no backend has a loaded model and gives signs of life.

        Raises:
            BusyError: none does.
        """
        if not any(self._iter_ready()):
            raise BusyError(NOT_READY)

    def check_room(self) -> None:
        """Refuse another request when there is no room, or no hope to begin it before its deadline.

        Raises:
            BusyError: one of the two.
        """
        count = len(self._queue) + sum(len(worker.jobs) for worker in self._workers)
        if count >= self._settings.max_requests * self._settings.workers:
            raise BusyError(f"the server has {count} requests already: try again in a second")
        wait_s = self._mean_s * count / self._settings.workers
        if wait_s > self._settings.deadline_s:
            raise BusyError(f"the server has {count} requests already, for {wait_s:.0f} s: try again later")

    def submit(self, job: Job) -> None:
        """Take a request, which may have to wait for a model; its ``reply`` gets the answer.

        Raises:
            BusyError: see :meth:`check_room`.
        """
        self.check_room()
        self._queue.append(job)
        self._dispatch()

    def cancel(self, job: Job) -> None:
        """The client has left: a job that waits is dropped, one that has begun ends as soon as it can."""
        job.reply.cancel()
        for worker in self._workers:
            for job_id, other in worker.jobs.items():
                if other is job:
                    worker.process.send({"id": job_id})
        self._sweep()

    def check_time(self) -> None:
        """Answer what has waited too long, and end a backend that hangs; to be called several times a second."""
        has_stood_still, now = self._standstill.look(), self._standstill.looked
        if has_stood_still:
            # The backends are likely to have stood still, too, and could not be heard in any case.
            for worker in self._workers:
                worker.process.last_sign = worker.finished = now
        self._sweep()
        for worker in self._workers:
            oldest = min((job.deadline for job in worker.jobs.values()), default=now)
            patience_s = max(_LEAST_PATIENCE_S if worker.process.is_loaded else SILENCE_S, self._settings.timeout_s)
            if now - max(self._standstill.went_on, min(worker.process.last_sign, oldest)) > patience_s:
                LOGGER.error("a backend (pid %d) hangs and is ended", worker.process.pid)
                worker.process.kill()

    def close(self, text: str) -> None:
        """Answer everything with 503 and end all backends."""
        self._is_closed = True
        for job in [*self._queue, *(job for worker in self._workers for job in worker.jobs.values())]:
            job.answer(build_error(503, text))
        self._queue.clear()
        for worker in self._workers:
            worker.process.kill()

    def _start_worker(self) -> None:
        """Start a backend, if there is need of one; where that fails now, another time."""
        if self._is_closed or len(self._workers) >= self._settings.workers:
            return
        try:
            process = BackendProcess(self._settings, self._load_model, self._hear, self._bury)
        except OSError as error:
            LOGGER.error("a backend cannot be started: %s", error.strerror)
            if not self._count_end():
                asyncio.get_running_loop().call_later(_START_AGAIN_S, self._start_worker)
            return
        self._workers.append(_Worker(process))

    def _count_end(self) -> bool:
        """Count that a backend has ended; whether that was too often, so that the server ends, too."""
        if not self._ends.count():
            return False
        LOGGER.error("%d backends have ended within %.0f s: the server ends, too", STRIKES, STRIKE_WINDOW_S)
        self._stop(FAILED)
        return True

    def _iter_ready(self) -> Iterator[_Worker]:
        """Those that have a model and gave signs of life when this process last looked: it may have been paused."""
        return (worker for worker in self._workers if worker.process.is_ready(self._standstill.looked))

    def _find_worker(self, process: BackendProcess) -> _Worker:
        return next(worker for worker in self._workers if worker.process is process)

    def _sweep(self) -> None:
        """Drop what nobody waits for and what has waited too long; then there may be something to be begun."""
        now = time.monotonic()
        for job in self._queue:
            if job.reply.done():
                continue
            if job.is_gone():
                job.reply.cancel()
            elif now > job.deadline:
                job.answer(build_error(503, f"no answer was begun within {self._settings.deadline_s} s: try again"))
        self._queue = deque(job for job in self._queue if not job.reply.done())
        self._dispatch()

    def _dispatch(self) -> None:
        """Give out what can be begun now."""
        while self._queue:
            job = self._queue[0]
            if job.reply.done() or job.is_gone() or time.monotonic() > job.deadline:
                self._sweep()
                return
            workers = [worker for worker in self._iter_ready() if worker.can_take(job, self._settings.threads)]
            if not workers:
                return
            self._queue.popleft()
            self._send(min(workers, key=lambda worker: len(worker.jobs)), job)

    def _send(self, worker: _Worker, job: Job) -> None:
        job_id = next(self._ids)
        worker.jobs[job_id] = job
        job.sent = time.monotonic()
        # What the client chose goes by the file: a message has a size that it must not reach.
        head = json.dumps(job.fields).encode()
        fields = {"id": job_id, "deadline": job.deadline, "head": len(head), "size": len(job.body)}
        try:
            with stored(head, job.body) as file:
                worker.process.send(fields, file)
        except OSError as error:
            LOGGER.error("a body cannot be kept: %s", error.strerror)
            del worker.jobs[job_id]
            job.answer(build_error(503, "the server has no room for this: try again in a second"))

    def _hear(self, process: BackendProcess, message: Message) -> None:
        worker, fields = self._find_worker(process), message.fields
        event = fields["event"]
        if event == "ready":
            process.is_loaded = True
        elif event == "failed":
            self._is_closed = True  # another one would fail, too
            self._stop(fields["exit_code"])
        elif event == "answer" and message.file is not None:
            headers = tuple((name, text) for name, text in fields["headers"])
            answer = Answer(fields["status"], headers, file=message.file, size=fields["size"])
            self._finish(worker, worker.jobs.pop(fields["id"]), answer)
        elif event != "alive":  # "lost", or an answer whose file there was no descriptor for
            self._finish(worker, worker.jobs.pop(fields["id"]), build_error(500, INTERNAL))
        self._dispatch()

    def _finish(self, worker: _Worker, job: Job, answer: Answer) -> None:
        now = time.monotonic()
        if answer.status == 200:
            # A backend has several at a time, on one network: what counts is the time since the last one was done.
            seconds = now - max(job.sent, worker.finished)
            self._mean_s += (_MEMORY if self._mean_s else 1.0) * (seconds - self._mean_s)
        worker.finished = now
        job.answer(answer)

    def _bury(self, process: BackendProcess, exit_code: int) -> None:
        worker = self._find_worker(process)
        self._workers.remove(worker)
        if self._is_closed:
            return
        LOGGER.error("a backend (pid %d) has ended with code %d", process.pid, exit_code)
        # One that was tried alone after another end is to blame for this one, which was counted then.
        is_blamed = any(job.attempts for job in worker.jobs.values())
        for job in reversed(worker.jobs.values()):
            if not job.reply.done():
                self._try_again(job)
        if not is_blamed and self._count_end():
            return
        self._start_worker()
        self._dispatch()

    def _try_again(self, job: Job) -> None:
        """A prediction can be made twice; but a picture that ends a second backend, all alone, is to blame for it."""
        job.attempts += 1
        if job.attempts < _ATTEMPTS:
            self._queue.appendleft(job)
        else:
            job.answer(build_error(500, INTERNAL))
