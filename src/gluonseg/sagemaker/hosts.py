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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from gluonseg.errors import UserError, describe_failure
from gluonseg.files import find_storage_error
from gluonseg.sagemaker.contract import Hosts
from gluonseg.text import join_names
from gluonseg.train.group import Group
from gluonseg.train.stop import Stop, Stopped

_log = logging.getLogger(__name__)
End = Callable[[str, str, int], None]
PORT_VARIABLE, WAIT_VARIABLE = "GLUONSEG_HOSTS_PORT", "GLUONSEG_HOSTS_WAIT_S"
_PORT = 7077
_WAIT_S = 300
"""How long the hosts wait for each other: names of hosts are known late, and data comes to each at its own time."""
_ADVICE = (
    "see the log there: it may have ended before. In a VPC the security group must let the hosts of a job reach each "
    "other on all ports"
)
_PULSE_S = 2.0
_SILENCE_S = 30.0
"""A host that is silent for so long is lost."""
_POLL_S = 0.0002
"""MPI's own waiting takes a whole core."""


class _Connection:
    """Messages to and from another host.

    ``name`` is that host's, ``is_done`` whether it has done its work, and ``fault`` how it has ended.
    """

    def __init__(self, name: str, connected: socket.socket) -> None:
        self.name = name
        self.is_done = False
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
        with suppress(OSError, ValueError, TypeError):
            try:
                return dict(json.loads(self._lines.readline()))
            except TimeoutError:
                self.fault = f"has given no sign of life for {_SILENCE_S:.0f} s"
        return None

    def accept(self) -> None:
        """Take the name that the other host gives, in two seconds: anybody may connect."""
        self._socket.settimeout(2)
        self.name = str((self.read() or {}).get("host"))
        self._socket.settimeout(_SILENCE_S)


class _Watch:
    """Watches the connections to other hosts, and ends this process when one of them ends or is lost.

    ``first`` is the name of the first host, where this is another one.
    """

    def __init__(self, first: str | None, end: End) -> None:
        self._first = first
        self._end = end
        self.connections: dict[str, _Connection] = {}
        self._ports: queue.Queue[str] = queue.Queue()
        self._done: queue.Queue[str] = queue.Queue()
        self._is_over = False
        self._is_closed = threading.Event()
        self._ending = threading.Lock()

    def wait(self, request: Any) -> None:
        """Wait for a request of MPI, or for the end of this process."""
        # When hosts are lost, MPI waits for ever or, asked again, aborts the process before it has told why it ends.
        while self._ending.locked() or not request.Test():
            time.sleep(_POLL_S)

    def add(self, connection: _Connection) -> None:
        """Watch a connection from now on."""
        self.connections[connection.name] = connection
        for work in (self._read, self._beat):
            threading.Thread(target=work, args=(connection,), daemon=True).start()

    def _tell(self, **message: Any) -> None:
        """Send a message to all connected hosts."""
        for connection in list(self.connections.values()):
            connection.send(**message)

    def get_port(self, stop: Stop) -> str:
        """Wait for the address where MPI joins this host."""
        while True:
            stop.check()
            with suppress(queue.Empty):
                return self._ports.get(timeout=1)

    def leave(self, host: str, text: str, code: int) -> None:
        """Tell the others that this ``host`` ends, and do not care any more how they end."""
        self._is_over = True
        self._tell_end(host, text, code)

    def _tell_end(self, host: str, text: str, code: int) -> None:
        self._tell(host=host, text=text, code=code)
        time.sleep(0.5)  # a process that ends at once may take back what the others have not read yet

    def finish(self) -> None:
        """Wait until all hosts have done their work; the first one then goes first.

        Docker Compose, which SageMaker's local mode uses, stops all containers as soon as one has ended.
        """
        if not self._first:
            for _ in self.connections:
                self._done.get()
            self._is_over = True
        self._tell(is_done=True)
        if self._first:
            self._done.get()
            self._is_closed.wait(timeout=10)

    def _beat(self, connection: _Connection) -> None:
        while not self._is_over:
            connection.send()
            time.sleep(_PULSE_S)

    def _read(self, connection: _Connection) -> None:
        name = connection.name
        while (message := connection.read()) is not None:
            if "port" in message:
                self._ports.put(message["port"])
            elif "is_done" in message:
                connection.is_done = True
                self._is_over = self._is_over or name == self._first
                self._done.put(name)
            elif "text" in message:
                self._end_all(**message)
        self._is_closed.set()
        if not connection.is_done:
            advice = "see its log. The next run goes on from the checkpoints, if there are any"
            self._end_all(name, f"AlgorithmError: it {connection.fault}; {advice}", 1)

    def _end_all(self, host: str, text: str, code: int) -> None:
        # The first host that is lost is the cause: the others end because of it.
        if self._is_over or not self._ending.acquire(blocking=False):
            return
        if not self._first:  # the others know this host alone
            self._tell_end(host, text, code)
        self._end(host, text, code)


class _MpiGroup(Group):
    """The hosts of a training, which MPI's communicator ``joined`` connects in the order of their names."""

    def __init__(self, names: Sequence[str], mpi: Any, joined: Any, watch: _Watch) -> None:
        super().__init__(names, joined.Get_rank())
        self._mpi = mpi
        self._joined = joined
        self._watch = watch

    def all_gather(self, value: Any) -> list[Any]:
        own, sizes = np.frombuffer(json.dumps(value).encode(), np.uint8), np.empty(self.size, np.int64)
        self._watch.wait(self._joined.Iallgather(np.array([own.size]), sizes))
        found = np.empty(sizes.sum(), np.uint8)
        self._watch.wait(self._joined.Iallgatherv(own, [found, sizes]))
        return [json.loads(part.tobytes()) for part in np.split(found, np.cumsum(sizes)[:-1])]

    def broadcast(self, content: bytes) -> bytes:
        size = np.array([len(content)])
        self._watch.wait(self._joined.Ibcast(size))
        found = np.empty(size[0], np.uint8) if self.rank else np.frombuffer(content, np.uint8)
        self._watch.wait(self._joined.Ibcast(found))
        return found.tobytes() if self.rank else content

    def all_reduce(self, vector: npt.NDArray[np.float32]) -> None:
        self._watch.wait(self._joined.Iallreduce(self._mpi.IN_PLACE, vector))


@contextmanager
def joining_hosts(hosts: Hosts, stop: Stop, end: End) -> Iterator[Group]:
    """Join the hosts of a job until the block ends on all of them.

    ``end(host, text, code)`` has to end this process when ``host`` has ended with an error (text and exit code as in
    :func:`gluonseg.errors.describe_failure`) or, with code 0, was stopped. An error in the block is told to the others.

    Raises:
        UserError: MPI is not installed, or a host does not come in time.
        Stopped: the stop is asked for while the hosts wait for each other.
    """
    names, host = sorted(hosts.names), hosts.current
    rank = names.index(host)
    watch = _Watch(names[0] if rank else None, end)
    try:
        mpi = _load_mpi(hosts.interface)
        port, wait_s = _read_number(PORT_VARIABLE, _PORT), _read_number(WAIT_VARIABLE, _WAIT_S)
        _log.info("Waiting up to %d s for the hosts %s", wait_s, join_names(names))
        if rank:
            watch.add(_connect(names[0], host, port, wait_s, stop))
        else:
            for connection in _accept_all(names, port, wait_s, stop):
                watch.add(connection)
        yield _MpiGroup(names, mpi, _join(mpi, watch, names, rank, stop), watch)
        watch.finish()
    except Stopped:
        watch.leave(host, "it was stopped before training had begun", 0)
        raise
    except Exception as error:
        watch.leave(host, *describe_failure(find_storage_error(error) or error))
        raise


def _read_number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise UserError(f"the environment variable {variable} is {text!r}; give a whole number, or leave it out")
    return int(text)


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
                connection.accept()
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


def _join(mpi: Any, watch: _Watch, names: Sequence[str], rank: int, stop: Stop) -> Any:
    """A communicator of all hosts: to those that are joined already, one after the other joins."""
    joined = mpi.COMM_SELF
    for newcomer in range(1, len(names)):
        if rank == newcomer:
            joined = joined.Connect(watch.get_port(stop)).Merge(high=True)
        elif rank < newcomer:
            address = mpi.Open_port() if rank == 0 else ""
            if rank == 0:
                watch.connections[names[newcomer]].send(port=address)
            joined = joined.Accept(address).Merge(high=False)
    return joined
