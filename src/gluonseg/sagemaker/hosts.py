"""Training on several hosts: they find each other, sum over MPI, and watch each other.

The first host listens on a TCP port, and the others connect to it. Over these connections, a JSON object a line, they
say who they are, give a sign of life every two seconds, and tell how they end. When a host ends, or gives no sign of
life any more, all others end, too: MPI alone would wait for it for ever.

The sums are MPI's (mpi4py, MPICH). Its processes join as clients and servers do (MPI 4.1, chapter 11.9), so there is no
mpiexec, which would need ssh or a second process on each host.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from gluonseg.errors import UserError, describe_failure
from gluonseg.text import join_names
from gluonseg.train.group import Group
from gluonseg.train.stop import Stop, Stopped

_log = logging.getLogger(__name__)
T = TypeVar("T")
End = Callable[[str, str, int], None]
PORT_VARIABLE, WAIT_VARIABLE = "GLUONSEG_HOSTS_PORT", "GLUONSEG_HOSTS_WAIT_S"
_PORT = 7077
_WAIT_S = 300
"""How long the hosts wait for each other: names of hosts are known late, and data comes to each at its own time."""
_ADVICE = "see the log there. In a VPC the security group must let the hosts of a job reach each other on all ports"
_PULSE_S = 2.0
_SILENCE_S = 30.0
"""A host that is silent for so long is lost."""
_POLL_S = 0.0002
"""MPI's own waiting takes a whole core."""


class _Connection:
    """Messages to and from another host, whose name is ``name``; ``fault`` is how it has ended."""

    def __init__(self, name: str, connected: socket.socket) -> None:
        self.name = name
        self.fault = "has ended without a word, as when it is killed or out of memory"
        self._socket = connected
        self._lock = threading.Lock()
        connected.settimeout(_SILENCE_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = connected.makefile("rb")

    def send(self, **message: Any) -> None:
        """Send a message; nothing happens when the other host is gone, which the reading side notices."""
        with self._lock, suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> dict[str, Any] | None:
        """The next message, None at the end."""
        with suppress(ConnectionError, ValueError):
            try:
                return dict(json.loads(self._lines.readline()))
            except TimeoutError:
                self.fault = f"has given no sign of life for {_SILENCE_S:.0f} s"
        return None


class _Watch:
    """Watches the connections to other hosts, and ends this process when one of them ends or is lost.

    ``first`` is the name of the first host, where this is another one. ``ports`` gets the addresses where MPI joins.
    """

    def __init__(self, first: str | None, end: End) -> None:
        self.ports: queue.Queue[str] = queue.Queue()
        self._first = first
        self._end = end
        self.connections: dict[str, _Connection] = {}
        self._done: queue.Queue[str] = queue.Queue()
        self._is_over = False

    def add(self, connection: _Connection) -> None:
        """Watch a connection from now on."""
        self.connections[connection.name] = connection
        for work in (self._read, self._beat):
            threading.Thread(target=work, args=(connection,), daemon=True).start()

    def tell(self, **message: Any) -> None:
        """Send a message to all connected hosts."""
        for connection in self.connections.values():
            connection.send(**message)

    def leave(self, host: str, text: str, code: int) -> None:
        """Tell the others that this ``host`` ends, and do not care any more how they end."""
        self._is_over = True
        self._tell_end(host, text, code)

    def _tell_end(self, host: str, text: str, code: int) -> None:
        self.tell(host=host, text=text, code=code)
        time.sleep(0.5)  # a process that ends at once may take back what the others have not read yet

    def finish(self) -> None:
        """Wait until all hosts have done their work; the first one then goes first.

        Docker Compose, which SageMaker's local mode uses, stops all containers as soon as one has ended.
        """
        if self._first:
            self.tell(is_done=True)
            self._done.get()
            with suppress(queue.Empty):  # the connection is closed when the first host has ended
                self._done.get(timeout=10)
        else:
            for _ in self.connections:
                self._done.get()
            self._is_over = True
            self.tell(is_done=True)

    def _beat(self, connection: _Connection) -> None:
        while not self._is_over:
            connection.send()
            time.sleep(_PULSE_S)

    def _read(self, connection: _Connection) -> None:
        name = connection.name
        while (message := connection.read()) is not None:
            if "port" in message:
                self.ports.put(message["port"])
            elif "is_done" in message:
                self._is_over = name == self._first
                self._done.put(name)
            elif "text" in message:
                self._end_all(**message)
        self._done.put(name)
        advice = "see its log. The next run goes on from the checkpoints, if there are any"
        self._end_all(name, f"AlgorithmError: it {connection.fault}; {advice}", 1)

    def _end_all(self, host: str, text: str, code: int) -> None:
        if self._is_over:
            return
        if not self._first:  # the others know this host alone
            self._tell_end(host, text, code)
        self._end(host, text, code)


class _MpiGroup(Group):
    """The hosts of a training, which MPI's communicator ``joined`` connects in the order of their names."""

    def __init__(self, names: Sequence[str], sharded: Collection[str], joined: Any) -> None:
        super().__init__(names, joined.Get_rank(), sharded)
        self._joined = joined

    def all_gather(self, value: T) -> list[T]:
        with _leaving_errors_to_watch():
            _wait(self._joined.Ibarrier())
            return list(self._joined.allgather(value))

    def all_reduce(self, vector: npt.NDArray[np.float32]) -> None:
        from mpi4py import MPI

        with _leaving_errors_to_watch():
            _wait(self._joined.Iallreduce(MPI.IN_PLACE, vector))


def _wait(request: Any) -> None:
    while not request.Test():
        time.sleep(_POLL_S)


@contextmanager
def _leaving_errors_to_watch() -> Iterator[None]:
    """When another host is lost, MPI may say so in its own words before the watch knows which one it is."""
    from mpi4py import MPI

    try:
        yield
    except MPI.Exception as error:
        _log.warning("MPI: %s", str(error).splitlines()[0])
        time.sleep(_SILENCE_S + _PULSE_S)
        raise


@contextmanager
def joining_hosts(
    names: Sequence[str], host: str, interface: str, sharded: Collection[str], stop: Stop, end: End
) -> Iterator[Group]:
    """Join the hosts ``names``, of which this is ``host``, until the block ends on all of them.

    ``interface`` is the network interface between the hosts. ``end(host, text, code)`` has to end this process when
    ``host`` has ended with an error (text and exit code as in :func:`gluonseg.errors.describe_failure`) or, with code
    0, was stopped. An error in the block is told to the other hosts.

    Raises:
        UserError: MPI is not installed, or a host does not come in time.
        Stopped: the stop is asked for while the hosts wait for each other.
    """
    names = sorted(names)
    rank = names.index(host)
    watch = _Watch(names[0] if rank else None, end)
    try:
        mpi = _load_mpi(interface)
        port, wait_s = (int(os.environ.get(*pair)) for pair in ((PORT_VARIABLE, _PORT), (WAIT_VARIABLE, _WAIT_S)))
        _log.info("Waiting up to %d s for the hosts %s", wait_s, join_names(names))
        if rank:
            watch.add(_connect(names[0], host, port, wait_s, stop))
        else:
            for connection in _accept_all(names, port, wait_s, stop):
                watch.add(connection)
        yield _MpiGroup(names, sharded, _join(mpi, watch, names, rank))
        watch.finish()
    except Stopped:
        watch.leave(host, "it was stopped before training had begun", 0)
        raise
    except Exception as error:
        watch.leave(host, *describe_failure(error))
        raise


def _load_mpi(interface: str) -> Any:
    """MPI, which reads its settings when it is loaded."""
    os.environ.setdefault("FI_PROVIDER", "tcp")
    if interface in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault("FI_TCP_IFACE", interface)
    try:
        import mpi4py
    except ModuleNotFoundError:
        raise UserError('several hosts need MPI, which is not installed: pip install "gluonseg[hosts]"') from None
    # The end of MPI would wait for hosts that are lost.
    mpi4py.rc(finalize=False, thread_level="funneled")
    from mpi4py import MPI

    return MPI


def _accept_all(names: Sequence[str], port: int, wait_s: int, stop: Stop) -> Iterator[_Connection]:
    """The connections of the other hosts, each as soon as it comes."""
    deadline, missing = time.monotonic() + wait_s, list(names[1:])
    try:
        server = socket.create_server(("", port))
    except OSError as error:
        fix = f"end what uses it, or set {PORT_VARIABLE} to another one on all hosts"
        raise UserError(f"port {port} of {names[0]} cannot be used: {error.strerror}; {fix}") from None
    with server:
        server.settimeout(1)
        while missing:
            stop.check()
            if time.monotonic() > deadline:
                raise UserError(
                    f"{join_names(missing)} did not come to {names[0]} within {wait_s} s (port {port}); {_ADVICE}"
                )
            with suppress(TimeoutError):
                connection = _Connection("", server.accept()[0])
                connection.name = str((connection.read() or {}).get("host"))
                if connection.name in missing:
                    missing.remove(connection.name)
                    yield connection


def _connect(first: str, host: str, port: int, wait_s: int, stop: Stop) -> _Connection:
    """The connection from ``host`` to the first host."""
    deadline = time.monotonic() + wait_s
    while True:
        stop.check()
        try:
            connection = _Connection(first, socket.create_connection((first, port), timeout=5))
        except OSError as error:
            if time.monotonic() > deadline:
                reason = (
                    "its name does not resolve"
                    if isinstance(error, socket.gaierror)
                    else f"port {port} does not answer"
                )
                raise UserError(
                    f"{host} cannot reach {first} within {wait_s} s: {reason} ({error.strerror or error}); {_ADVICE}"
                ) from None
            time.sleep(1)
        else:
            connection.send(host=host)
            return connection


def _join(mpi: Any, watch: _Watch, names: Sequence[str], rank: int) -> Any:
    """A communicator of all hosts: to those that are joined already, one after the other joins."""
    joined = mpi.COMM_SELF
    for newcomer in range(1, len(names)):
        if rank == newcomer:
            joined = joined.Connect(watch.ports.get()).Merge(high=True)
        elif rank < newcomer:
            address = mpi.Open_port() if rank == 0 else ""
            if rank == 0:
                watch.connections[names[newcomer]].send(port=address)
            joined = joined.Accept(address).Merge(high=False)
    joined.Set_errhandler(mpi.ERRORS_RETURN)
    return joined
