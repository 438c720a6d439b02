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


@contextmanager
def open_link(count: int = 2, delay_s: float = 0.0) -> Iterator[dict[str, list[str]]]:
    """``count`` hosts 10.77.0.1, 10.77.0.2, ..., with interfaces ``eth0`` and ``lo``, while the context is open.

    It gives, for each address, what comes before a command to run it in that host. Every packet takes ``delay_s`` in
    either direction, so a round trip takes twice that, as with ``netem delay`` on each host. At the end what still runs
    in the hosts is killed, and all is removed; what a process that was killed has left is removed at the start. Raises
    CalledProcessError when the caller is not root.
    """
    _remove_leftovers()
    names = {f"{_NETWORK}{number}": f"{_PREFIX}{os.getpid()}-{number}" for number in range(1, 1 + count)}
    with ExitStack() as stack:
        for name in names.values():
            _run_ip("netns", "add", name)
            stack.callback(_remove, name)
            _run_ip("-n", name, "link", "set", "lo", "up")
        if count == 2 and not delay_s:
            first, second = names.values()
            _run_ip("-n", first, "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", second)
        else:
            stack.enter_context(_running_relay(list(names.values()), delay_s))
        for address, name in names.items():
            _run_ip("-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
            _run_ip("-n", name, "link", "set", INTERFACE, "up")
        for name in names.values():
            # libfabric does not use an interface before the kernel has noticed its carrier, up to a second later.
            while "NO-CARRIER" in _run_ip("-n", name, "link", "show", INTERFACE):
                time.sleep(0.02)
        yield {address: ["ip", "netns", "exec", name] for address, name in names.items()}


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
def _running_relay(names: Sequence[str], delay_s: float) -> Iterator[None]:
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
        yield
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
