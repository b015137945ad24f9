"""What a client costs on real sockets: the server's memory and processor time with the kernel's part of both.

Fewer clients than in memory, since both ends of each need a descriptor on this machine. If a figure differs from that
simulation's, it is because of the kernel or the transport. Imports nothing of aiowsgi: the server is the harness's.

Thread: the main thread.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.load.http import Request
from bench.process import ServerProcess, free_port, raise_descriptor_limit, running
from bench.servers import SERVERS, Launch

__all__ = ["SocketCost", "measure"]

_PATIENCE_SECONDS = 60.0
_SERVER = "aiowsgi-httptools"
_WARM_COUNT = 200
_READ_SIZE = 64 * 1024
_BATCH_COUNT = 100
# The slabs that have an object for each connected TCP socket on Linux; they count those of all processes.
_SLABS = ("TCP", "sock_inode_cache", "filp", "eventpoll_epi")
# A socket also has one dentry, in a slab shared with all files: one object's size is counted per socket.
_DENTRY = "dentry"


@dataclass(frozen=True, slots=True)
class SocketCost:
    """What was measured.

    Args:
        clients: how many there were.
        idle_size: bytes of the server for each idle connection.
        parked_size: bytes of the server for each parked one.
        kernel_size: bytes of the kernel for each connection, at one of its ends; 0 if it may not be read.
        park_seconds: of processor time, for a client to come and be parked.
        event_seconds: of processor time, user and system, for an event to reach one client.
        delay_seconds: from the request that publishes to the last client, the median.
    """

    clients: int
    idle_size: float
    parked_size: float
    kernel_size: float
    park_seconds: float
    event_seconds: float
    delay_seconds: float


def measure(clients: int, events: int, server: str = _SERVER) -> SocketCost:
    """Measure with so many connections.

    Raises:
        BenchError: there are not enough descriptors, or the server does not serve so many.
    """
    limit = raise_descriptor_limit()
    if limit < clients + 500:
        raise BenchError(f"{clients} clients need {clients + 500} descriptors, and {limit} are allowed: ulimit -n")
    with _held(clients, server, "/hello") as (process, crowd):
        idle_size, _ = crowd.connect(clients, process)
    with _held(clients, server, "/subscribe") as (process, crowd):
        slab_before = _slab_size()
        parked_size, park_seconds = crowd.connect(clients, process)
        kernel_size = (_slab_size() - slab_before) / (2 * clients)
        before = process.snapshot()
        delays = sorted(crowd.publish() for _ in range(events))
        event_seconds = process.snapshot().cpu_since(before) / (events * (clients + _WARM_COUNT))
    return SocketCost(
        clients, idle_size, parked_size, kernel_size, park_seconds, event_seconds, delays[len(delays) // 2]
    )


@contextmanager
def _held(clients: int, server: str, path: str) -> Iterator[tuple[ServerProcess, _Crowd]]:
    port = free_port()
    launch = Launch("bench.applications.plain:application", port, connections=clients + 500)
    with running(SERVERS[server], launch) as process:
        crowd = _Crowd(port, path)
        try:
            crowd.connect(_WARM_COUNT, process)  # so that all that is loaded late is loaded
            yield process, crowd
        finally:
            crowd.close()


class _Crowd:
    """Connections that each ask once, and then read whatever they are sent."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._opening = Request(path).serialise(port)
        self._publishing = Request("/publish", fields={"Connection": "close"}).serialise(port)
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._parked = path == "/subscribe"

    def connect(self, count: int, process: ServerProcess) -> tuple[float, float]:
        """Open this many more; return the server's bytes and seconds of processor time for each."""
        before, size = process.snapshot(), process.memory().proportional
        # The first block of a stream, or the content.
        mark = b"\n\n" if self._parked else b"Hello, world!"
        for done in range(0, count, _BATCH_COUNT):
            new = [self._open() for _ in range(min(_BATCH_COUNT, count - done))]
            self._await(mark, {sock.fileno() for sock in new})
        return (process.memory().proportional - size) / count, process.snapshot().cpu_since(before) / count

    def _open(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port), _PATIENCE_SECONDS)
        sock.sendall(self._opening)
        self._sockets[sock.fileno()] = sock
        self._poll.register(sock.fileno(), select.EPOLLIN)
        return sock

    def publish(self) -> float:
        """Publish an event; return after how many seconds all have it."""
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", self._port), _PATIENCE_SECONDS) as sock:
            sock.sendall(self._publishing)
            self._await(b"data: ", set(self._sockets))
            while sock.recv(_READ_SIZE):
                pass
        return time.monotonic() - begun

    def _await(self, mark: bytes, missing: set[int]) -> None:
        """Read until each of these has received the mark, which arrives in one piece."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while missing:
            if time.monotonic() > deadline:
                raise BenchError(f"{len(missing)} clients have waited in vain for {mark!r}")
            for fd, _ in self._poll.poll(1.0, 1000):
                data = self._sockets[fd].recv(_READ_SIZE)
                if not data:
                    raise BenchError("the server has closed a connection")
                if mark in data:
                    missing.discard(fd)

    def close(self) -> None:
        """Close all."""
        for sock in self._sockets.values():
            sock.close()
        self._poll.close()


def _slab_size() -> int:
    """Return the kernel's memory for sockets; 0 if it may not be read."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except OSError:  # only root may read it
        return 0
    found = {name: (int(active), int(size)) for name, active, _, size, *_ in map(str.split, lines)}
    sockets = found.get("sock_inode_cache", (0, 0))[0]
    size = sum(active * size for name, (active, size) in found.items() if name in _SLABS)
    return size + sockets * found.get(_DENTRY, (0, 0))[1]
