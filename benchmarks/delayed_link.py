"""Hosts on one machine, network namespaces of Linux, whose packets to each other take a given time. It needs root.

Two hosts without delay are the ends of a veth pair. Otherwise each has a TUN device, and a process in user space, the
relay, hands packets from one to the other once their time has come: for kernels without ``netem``. See ip-netns(8) and
https://docs.kernel.org/networking/tuntap.html.

``python -m benchmarks.delayed_link DELAY_S DEVICE ...`` is the relay.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

INTERFACE = "eth0"
_NETWORK, _MTU = "10.77.0.", 65000
_PREFIX = "gluonseg-bench-"
# Values of linux/if_tun.h.
_TUNSETIFF, _TUNSETOFFLOAD, _TUN_F_CSUM = 0x400454CA, 0x400454D0, 0x01
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_HEADER = 10
"""Bytes of ``struct virtio_net_hdr`` before a packet. With it, checksums are neither computed nor compared."""
_LAST_BYTE_OF_TARGET = _HEADER + 19
"""Of an IPv4 packet."""


class DelayedLink:
    """What :func:`open_link` has opened."""

    def __init__(self, names: Sequence[str], relay: subprocess.Popen[bytes] | None) -> None:
        self._names, self._relay = names, relay
        self.addresses = [f"{_NETWORK}{number}" for number in range(1, 1 + len(names))]

    def build_prefix(self, host: int) -> list[str]:
        """What comes before a command to run it in host 0, 1, ..."""
        return ["ip", "netns", "exec", self._names[host]]

    def read_relay_cpu_s(self) -> float:
        """Seconds that the relay has kept a core busy, 0 without one.

        The kernel's work for a packet that arrives is part of it; elsewhere the receiving host does that.
        """
        if self._relay is None:
            return 0.0
        times = psutil.Process(self._relay.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def open_link(count: int = 2, delay_s: float = 0.0) -> Iterator[DelayedLink]:
    """``count`` hosts 10.77.0.1, 10.77.0.2, ..., with interfaces ``eth0`` and ``lo``, while the context is open.

    Every packet takes ``delay_s`` in either direction, so a round trip twice that, as with ``netem delay`` on each
    host. At the end what still runs in the hosts is killed, and all is removed; so is at the start what a process that
    was killed has left. Raises CalledProcessError or PermissionError when the caller is not root.
    """
    _remove_leftovers()
    names = [f"{_PREFIX}{os.getpid()}-{number}" for number in range(1, 1 + count)]
    with ExitStack() as stack:
        for name in names:
            _run_ip("netns", "add", name)
            stack.callback(_remove, name)
            _run_ip("-n", name, "link", "set", "lo", "up")
        relay = None
        if count == 2 and not delay_s:
            pair = ("type", "veth", "peer", "name", INTERFACE, "netns", names[1])
            _run_ip("-n", names[0], "link", "add", INTERFACE, *pair)
        else:
            relay = stack.enter_context(_start_relay(names, delay_s))
        link = DelayedLink(names, relay)
        for name, address in zip(names, link.addresses, strict=True):
            _run_ip("-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
            _run_ip("-n", name, "link", "set", INTERFACE, "up")
        for name in names:
            # libfabric does not use an interface before the kernel has noticed its carrier, up to a second later.
            while "NO-CARRIER" in _run_ip("-n", name, "link", "show", INTERFACE):
                time.sleep(0.02)
        yield link


def _run_ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def _remove(name: str) -> None:
    """A namespace and what runs in it."""
    for pid in _run_ip("netns", "pids", name).split():
        with suppress(psutil.NoSuchProcess):
            psutil.Process(int(pid)).kill()
    _run_ip("netns", "delete", name)


def _remove_leftovers() -> None:
    """The namespaces of processes that are no more."""
    for line in _run_ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(_PREFIX) and not psutil.pid_exists(int(name.removeprefix(_PREFIX).partition("-")[0])):
            _remove(name)


@contextmanager
def _start_relay(names: Sequence[str], delay_s: float) -> Iterator[subprocess.Popen[bytes]]:
    with ExitStack() as stack:
        devices = []
        for name in names:
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            stack.callback(os.close, device)
            devices.append(device)
            request = struct.pack("16sH22x", b"gluonseg%d", _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
            made = fcntl.ioctl(device, _TUNSETIFF, request)[:16].rstrip(b"\0").decode()
            fcntl.ioctl(device, _TUNSETOFFLOAD, _TUN_F_CSUM)
            _run_ip("link", "set", made, "netns", name, "name", INTERFACE, "mtu", str(_MTU))
        command = [sys.executable, "-m", "benchmarks.delayed_link", str(delay_s), *map(str, devices)]
        # Its standard input ends with this process, and the relay with it.
        relay = subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, pass_fds=devices)
    try:
        yield relay
    finally:
        relay.communicate()


def _relay(delay_s: float, devices: Sequence[int]) -> None:
    """Hand packets on until standard input ends."""
    waiting: deque[tuple[float, int, bytes]] = deque()  # all wait equally long: the first that came is the next to go
    while True:
        rest_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable = select.select([0, *devices], [], [], rest_s)[0]
        if 0 in readable:
            return
        now = time.monotonic()
        for device in readable:
            packet = os.read(device, _HEADER + _MTU)
            host = packet[_LAST_BYTE_OF_TARGET] - 1
            # Others are what the kernel sends to groups when an interface comes up.
            if packet[_HEADER] >> 4 == 4 and host < len(devices):
                waiting.append((now + delay_s, devices[host], packet))
        while waiting and waiting[0][0] <= now:
            _, device, packet = waiting.popleft()
            os.write(device, packet)


if __name__ == "__main__":
    _relay(float(sys.argv[1]), [int(device) for device in sys.argv[2:]])
