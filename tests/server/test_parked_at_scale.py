"""Thousands of parked clients: threads, memory for each, and how long an event takes to the last of them.

The server is a process of its own, so that what it uses can be measured. Bounds are generous; the figures are printed
(``pytest -s``) and recorded. ``PARKED_CLIENTS=5000`` asks for more clients than usual.
"""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import LOOPS
from tests.process.server_process import ServerProcess, server_process

CLIENT_COUNT = int(os.environ.get("PARKED_CLIENTS", "2000"))
THREAD_COUNT = 4
PATIENCE = 30.0
# Measured: 6.0 KB under either loop. What fails here is a queue, a thread's stack or an environ held for each client.
MOST_MEMORY_SIZE = 12 * 1024
# Measured for 2,000: 45 to 95 ms. What fails here is a wake-up for each client, or work that grows faster than they do.
MOST_DELAY_SECONDS = 2.0 * CLIENT_COUNT / 2000

APPLICATION = """
import threading
import time

import aiowsgi
from aiowsgi.channel import Channel
from aiowsgi.event_stream import sse

channel = Channel("scale")


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    path = environ["PATH_INFO"]
    if path == "/events":
        return aiowsgi.park(environ, sse(channel, environ))
    if path == "/send":
        channel.send(str(time.monotonic()))
    if path == "/subscribers":
        return [str(channel.stats().subscribers).encode()]
    return ["\\n".join(thread.name for thread in threading.enumerate()).encode()]
"""


class Clients:
    """Connections of many clients, read by the one thread of the test."""

    def __init__(self, address: tuple[str, int], count: int, stack: ExitStack) -> None:
        self._address = address
        self._poll = stack.enter_context(select.epoll())
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(address, PATIENCE))
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
            self._sockets[sock.fileno()] = sock
            self._poll.register(sock.fileno(), select.EPOLLIN)

    def wait_for_all(self, pattern: bytes) -> Iterator[re.Match[bytes]]:
        """Read until every client has what the pattern matches; yield what each has first."""
        missing = dict.fromkeys(self._sockets, b"")
        deadline = time.monotonic() + PATIENCE
        while missing:
            assert time.monotonic() < deadline, f"{len(missing)} clients wait in vain for {pattern!r}"
            for fd, _ in self._poll.poll(1.0):
                data = self._sockets[fd].recv(64 * 1024)
                if not data:
                    assert fd not in missing, "the server has ended a connection"
                    self._poll.unregister(fd)
                elif fd in missing:
                    missing[fd] += data
                    match = re.search(pattern, missing[fd])
                    if match:
                        del missing[fd]
                        yield match

    def get(self, target: str) -> bytes:
        """Send a request over one more connection, and return the content of the response."""
        with socket.create_connection(self._address, PATIENCE) as sock:
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: sock.recv(64 * 1024), b"")).partition(b"\r\n\r\n")[2]


def resident_size(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match
    return int(match[1]) * 1024


@pytest.fixture
def descriptors() -> None:
    """Have enough of them, here and in the server, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CLIENT_COUNT + 200
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"{needed} descriptors are needed, {hard} are allowed")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and uses epoll")
@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("loop", LOOPS)
def test_thousands_of_parked_clients_need_few_threads_little_memory_and_no_time(
    tmp_path: Path, loop: str, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "scale.py").write_text(APPLICATION)
    arguments = ["scale", "--bind", "127.0.0.1:0", "--threads", str(THREAD_COUNT), "--loop", loop]
    with server_process(tmp_path, *arguments) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with ExitStack() as stack:
            probe = Clients((host, int(port)), 1, stack)
            list(probe.wait_for_all(rb"\n:\n"))  # so that all that is loaded late is loaded
            size_before = resident_size(server)

            clients = Clients((host, int(port)), CLIENT_COUNT, stack)
            list(clients.wait_for_all(rb"\n:\n"))
            memory = (resident_size(server) - size_before) / CLIENT_COUNT
            assert probe.get("/subscribers") == b"%d" % (CLIENT_COUNT + 1)

            threads = probe.get("/threads").decode().splitlines()
            delays = [seconds_to_the_last(clients, lambda: probe.get("/send")) for _ in range(3)]

            server.signal(signal.SIGTERM)
            list(clients.wait_for_all(rb"(^|\r\n)0\r\n\r\n"))  # all of them end, and properly
        assert server.wait() == 0
        assert "Traceback" not in server.log

    figures = {
        "loop": loop,
        "clients": CLIENT_COUNT,
        "threads": len(threads),
        "KB per client": round(memory / 1024, 1),
        "ms from send() to the last client": [round(delay * 1000) for delay in delays],
    }
    print(figures)
    record_property("parked clients", figures)
    assert 1 <= len([name for name in threads if "worker" in name]) <= THREAD_COUNT
    assert len(threads) <= THREAD_COUNT + 4  # main, the watch for blocking calls, files
    assert memory < MOST_MEMORY_SIZE
    assert min(delays) < MOST_DELAY_SECONDS


def seconds_to_the_last(clients: Clients, send: Callable[[], object]) -> float:
    """Have the application send the time; return how long it took to the last client."""
    sender = threading.Thread(target=send)
    sender.start()
    arrivals = [time.monotonic() - float(match[1]) for match in clients.wait_for_all(rb"data: ([\d.]+)\n")]
    sender.join()
    return max(arrivals)
