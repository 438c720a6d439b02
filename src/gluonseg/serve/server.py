"""The server as gunicorn starts and supervises it: one worker, which starts the backends that have the model.

There is neither a gunicorn.conf.py nor a wsgi.py: the settings come from SageMaker's environment variables,
not from gunicorn's own files, and ``gluonseg serve`` runs the same server where no container/ folder exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

import gunicorn.workers.base
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from gluonseg.cores import count_usable_cores, set_thread_count
from gluonseg.errors import UserError, describe_failure
from gluonseg.sagemaker.contract import find_temporary_folder
from gluonseg.serve.answer import configure_log
from gluonseg.serve.frontend import Frontend
from gluonseg.serve.request import HEADER_LIMIT
from gluonseg.serve.settings import Settings, read_settings
from gluonseg.serve.standstill import Standstill
from gluonseg.serve.strike import Strikes

LOGGER = logging.getLogger("gluonseg.serve")
_GRACE_S = 25
"""SageMaker kills a container 30 seconds after SIGTERM. The worker ends by itself before this."""

# A worker that ends with one of gunicorn's two codes stops the master, too, instead of being started again.
_STOP_CODES = {2: Arbiter.APP_LOAD_ERROR, 1: Arbiter.WORKER_BOOT_ERROR}


class Worker(gunicorn.workers.base.Worker):  # type: ignore[misc]  # gunicorn has no types
    """A process of gunicorn with our event loop in it.

    gunicorn's own workers read a request in the thread, or with the greenlet, that answers it: slow clients take
    the threads, and a refusal waits for one. Here the network is in other processes.
    """

    def init_signals(self) -> None:
        """Called by gunicorn: SIGHUP, which a closed terminal sends to all processes, would end this one."""
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def load_wsgi(self) -> None:
        """The application runs in the backends."""

    def run(self) -> None:
        """Called by gunicorn: serve until SIGTERM."""
        exit_code = asyncio.run(self._serve())
        if exit_code:
            # No SystemExit: it would be taken for the master's, whose call of gunicorn this process is in, too.
            os._exit(_STOP_CODES[exit_code])

    async def _serve(self) -> int:
        server = self.app
        frontend = Frontend(server.settings, server.load_model, self.sockets, self.cfg, self.notify)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, frontend.drain)
        if not self.alive:  # gunicorn's own handler has heard of it before
            frontend.drain()
        return await frontend.run()


class Supervisor(Arbiter):  # type: ignore[misc]
    """gunicorn's master, for the one worker that has the clients' connections.

    It starts another when that ends. What it does on the signals below would be with several workers.
    """

    def __init__(self, app: BaseApplication) -> None:
        super().__init__(app)
        self._standstill = Standstill()

    def murder_workers(self) -> None:
        """Called by gunicorn, each second or sooner: end a worker that hangs, but not one that was paused with us."""
        self._standstill.look()
        if self._standstill.looked - self._standstill.went_on > self.timeout:
            super().murder_workers()

    def signal(self, sig: int, frame: object) -> None:
        """Called by Python: the worker is told to stop at once, not when the master has come to it."""
        if sig == signal.SIGTERM:
            if os.getpid() != self.pid:
                # A worker that has just been forked, and still has this handler: it has taken nothing.
                os._exit(0)
            for pid in self.WORKERS:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sig)
        super().signal(sig, frame)

    def _ignore(self) -> None:
        LOGGER.info("this signal does nothing here")

    handle_hup = handle_ttin = handle_ttou = handle_usr2 = handle_winch = _ignore


class Ends:
    """Counts how often a worker has ended, for gunicorn's hook ``child_exit``."""

    def __init__(self) -> None:
        self._strikes = Strikes()

    def count(self, arbiter: Arbiter, _worker: Worker) -> None:
        """Raises gunicorn's HaltServer when it was too often."""
        # While the server is being stopped it has no listeners any more.
        if self._strikes.count() and arbiter.LISTENERS:
            raise HaltServer("The worker has ended too often.", Arbiter.WORKER_BOOT_ERROR)


def _find_writable_folder() -> str:
    """Return a folder for the workers' heartbeat files, in memory if possible (a slow disk would stall them)."""
    shared_memory = "/dev/shm"
    return shared_memory if os.access(shared_memory, os.W_OK | os.X_OK) else find_temporary_folder()


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn with our settings; ``load_model`` names the function that each backend process calls."""

    def __init__(self, settings: Settings, load_model: str) -> None:
        self.settings = settings
        self.load_model = load_model
        super().__init__()

    def load_config(self) -> None:
        """Called by gunicorn: fill in its configuration."""
        settings = self.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        values = {
            "bind": f"{host}:{settings.port}",
            # It has the connections; the settings' workers are the backends that it starts.
            "workers": 1,
            "worker_class": Worker,
            "timeout": max(2, settings.timeout_s),
            "limit_request_field_size": HEADER_LIMIT,
            "graceful_timeout": _GRACE_S,
            "child_exit": Ends().count,
            "worker_tmp_dir": _find_writable_folder(),
            # It would be created in the home folder, which may be read-only, and nobody needs it.
            "control_socket_disable": True,
        }
        for name, value in values.items():
            if name in self.cfg.settings:  # gunicorn before 25 has no control socket
                self.cfg.set(name, value)

    def run(self) -> None:
        """Run until the server has ended; raises SystemExit."""
        Supervisor(self).run()


def run_server(settings: Settings, load_model: str = "gluonseg.serve.backend:load") -> int:
    """Serve until SIGTERM or SIGINT; return the exit code of the process.

    ``load_model`` names a function, ``module:function``, of the kind of ``gluonseg.serve.backend.Load``.

    0 after a stop, 2 when the model cannot be used, 1 when the port is taken or something else failed.
    Must run before MXNet is imported, and in the main thread. UserError is raised when there is no folder for
    temporary files.
    """
    configure_log()
    set_thread_count(max(1, count_usable_cores() // settings.workers))
    # The model's libraries need it in any case, and gunicorn turns an error in its configuration into one of its own.
    find_temporary_folder()
    try:
        Server(settings, load_model).run()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        return {Arbiter.APP_LOAD_ERROR: 2, 0: 0}.get(code, 1)
    return 0


def main() -> int:
    """Serve the model under /opt/ml as SageMaker's environment says; return the exit code."""
    configure_log()
    try:
        return run_server(read_settings(os.environ))
    except UserError as error:
        LOGGER.error("%s", describe_failure(error)[0])
        return error.exit_code
