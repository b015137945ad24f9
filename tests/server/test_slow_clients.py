"""Clients that are slow on purpose or by their modem: what they get, and that nobody else notices."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerThread, running_server
from tests.process.server_process import wait_until
from tests.raw import RawClient

Serve = Callable[..., ServerThread]

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
MEGABYTE = b"m" * 1_000_000
# Timeouts are met to a tenth of a second; the rest is for machines that are busy with something else.
LATE_SECONDS = 3.0


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def endless(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer with 20 MB, in the way that the path says: more than the kernel holds."""
    start_response("200 OK", [])
    size = 20_000_000
    if environ["PATH_INFO"] == "/file":
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the server
        file.truncate(size)
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return wrapped
    if environ["PATH_INFO"] == "/list":
        return [MEGABYTE] * 20
    return (MEGABYTE[:50_000] for _ in range(size // 50_000))


def small_window(server: ServerThread) -> RawClient:
    """Connect with as small a receive buffer as the kernel allows."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(10)
    sock.connect(("127.0.0.1", server.port))
    return RawClient(sock)


def seconds_until_end(client: RawClient, dribble: bytes = b"") -> float:
    """Send a byte every twentieth of a second until the server has answered or ended; return how long it took."""
    begun = time.monotonic()
    while not select.select([client.socket], [], [], 0.05)[0]:
        assert time.monotonic() - begun < 10
        if dribble:
            client.send(dribble)
    return time.monotonic() - begun


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Have enough descriptors for both ends of 900 connections."""
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096
    if soft_limit != resource.RLIM_INFINITY and soft_limit < wanted:
        if hard_limit != resource.RLIM_INFINITY and hard_limit < wanted:
            pytest.skip(f"{hard_limit} file descriptors are too few")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard_limit))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard_limit))


@pytest.mark.usefixtures("many_descriptors")
def test_quick_requests_beside_300_slow_heads_bodies_and_readers_are_all_answered(serve: Serve) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [MEGABYTE if environ["PATH_INFO"] == "/big" else b"quick"]

    server = serve(application, threads=8, max_connections=2000)
    dribble_over = threading.Event()
    latencies = []
    with ExitStack() as stack:
        heads = [stack.enter_context(server.connect()) for _ in range(300)]
        bodies = [stack.enter_context(server.connect()) for _ in range(300)]
        readers = [stack.enter_context(small_window(server)) for _ in range(300)]
        for client in heads:
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow: ")
        for client in bodies:
            client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n")
        for client in readers:
            client.send(b"GET /big HTTP/1.1\r\nHost: test\r\n\r\n")

        def dribble() -> None:
            while not dribble_over.wait(0.2):
                for client in (*heads, *bodies):
                    client.send(b"a")
                for client in readers:
                    with contextlib.suppress(BlockingIOError):
                        client.socket.recv(10, socket.MSG_DONTWAIT)

        dribbler = threading.Thread(target=dribble)
        dribbler.start()
        try:
            with server.connect() as quick:
                for _ in range(200):
                    begun = time.monotonic()
                    assert quick.get("/").content == b"quick"
                    latencies.append(time.monotonic() - begun)
            assert len(server.server.engine.connections) >= 900
        finally:
            dribble_over.set()
            dribbler.join()
    # The last of the 300 megabytes may be on their way during the first requests; one in ten would tell of a server
    # that waits for somebody. The threads of this test and of the server share one interpreter.
    assert sorted(latencies)[179] < 0.5


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="asyncio's transports do not copy")
def test_large_response_that_is_not_read_is_not_copied_by_asyncio() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [MEGABYTE] * 20  # more than the kernel holds

    with running_server(application, "asyncio") as server, server.connect() as client:
        client.send(GET)

        def transport_size() -> int:
            return sum(connection._transport.get_write_buffer_size() for connection in server.server.engine.connections)

        wait_until(lambda: server.call(transport_size), "a client that does not read")
        assert server.call(transport_size) < 2_000_000


# Heads.


def test_heads_that_take_longer_than_header_timeout_are_408(serve: Serve) -> None:
    """The silent, the dribbling and the second of a connection alike."""
    server = serve(hello, header_timeout=0.3)
    with server.connect() as silent, server.connect() as dribbling, server.connect() as second:
        assert second.get("/").content == b"hello"
        second.send(b"G")
        for client in (silent, dribbling):
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow: ")
        assert 0.2 < seconds_until_end(dribbling, b"a") < 0.3 + LATE_SECONDS
        for client in (silent, dribbling, second):
            response = client.receive()
            assert response.status_code == 408
            assert response.value("Connection") == "close"
            assert client.at_end()


def test_connection_that_never_sends_anything_is_closed_without_an_answer(serve: Serve) -> None:
    with serve(hello, header_timeout=0.1, keep_alive=0.3).connect() as client:
        assert 0.2 < seconds_until_end(client) < 0.3 + LATE_SECONDS
        assert client.at_end()


def test_idle_connection_is_closed_after_keep_alive(serve: Serve) -> None:
    with serve(hello, header_timeout=5, keep_alive=0.3).connect() as client:
        assert client.get("/").value("Connection") is None
        assert 0.2 < seconds_until_end(client) < 0.3 + LATE_SECONDS
        assert client.at_end()


def test_empty_line_between_requests_begins_no_head(serve: Serve) -> None:
    """RFC 9112 section 2.2: old clients end content with one. It is no request that could time out."""
    with serve(hello, header_timeout=0.1, keep_alive=30).connect() as client:
        assert client.get("/").content == b"hello"
        client.send(b"\r\n")
        # Five times what a head may take.
        assert not select.select([client.socket], [], [], 0.5)[0]
        assert client.get("/").content == b"hello"


# Content.


def test_content_that_stops_for_body_timeout_is_408(serve: Serve) -> None:
    server = serve(hello, body_timeout=0.3)
    with server.connect() as client, server.connect() as chunked:
        for connection, framing in ((client, b"Content-Length: 1000"), (chunked, b"Transfer-Encoding: chunked")):
            connection.send(b"POST / HTTP/1.1\r\nHost: test\r\n%s\r\n\r\n5\r\nab" % framing)
        assert 0.2 < seconds_until_end(client) < 0.3 + LATE_SECONDS
        for connection in (client, chunked):
            assert connection.receive().status_code == 408
            assert connection.at_end()


def test_content_that_dribbles_below_the_minimum_rate_is_408(serve: Serve) -> None:
    """A byte every twentieth of a second is 20 bytes a second."""
    with serve(hello, body_timeout=0.3, body_min_rate=240).connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n")
        assert 0.2 < seconds_until_end(client, b"a") < 0.6 + LATE_SECONDS
        assert client.receive().status_code == 408


def test_content_that_dribbles_above_the_minimum_rate_is_taken(serve: Serve) -> None:
    with serve(hello, body_timeout=0.6, body_min_rate=2).connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 20\r\n\r\n")
        begun = time.monotonic()
        for _ in range(20):
            assert not select.select([client.socket], [], [], 0.05)[0]
            client.send(b"a")
        assert time.monotonic() - begun > 0.9
        assert client.receive().content == b"hello"


def test_content_that_stops_in_a_file_is_408_and_leaves_no_file_open(serve: Serve) -> None:
    server = serve(hello, body_timeout=0.3, request_buffer=1000)
    with server.connect() as client:
        assert client.post(b"a" * 5000).content == b"hello"  # loops open what they need when they need it
    wait_until(lambda: not server.server.engine.connections, "the connection's end")
    descriptors = list(Path("/dev/fd").iterdir())
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n" + b"a" * 5000)
        assert client.receive().status_code == 408
    wait_until(lambda: not server.server.engine.connections, "the connection's end")
    wait_until(lambda: len(list(Path("/dev/fd").iterdir())) <= len(descriptors), "the temporary file's end")
    assert server.server.engine.content_budget.used == 0


# Responses.


KINDS = ["list", "generator", "file"]


def request_each_kind(stack: ExitStack, connect: Callable[[], RawClient]) -> list[RawClient]:
    """Begin three downloads: what follows has to hold for every way in which a response is made."""
    clients = [stack.enter_context(connect()) for _ in KINDS]
    for client, kind in zip(clients, KINDS, strict=True):
        client.send(f"GET /{kind} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    return clients


def test_clients_that_stop_reading_are_reset_after_write_timeout(serve: Serve) -> None:
    server = serve(endless, write_timeout=0.3)
    with ExitStack() as stack:
        clients = request_each_kind(stack, lambda: small_window(server))
        begun = time.monotonic()
        wait_until(lambda: len(server.server.engine.connections) == 3, "the connections")
        wait_until(lambda: not server.server.engine.connections, "the connections' end")
        assert 0.2 < time.monotonic() - begun < 0.6 + LATE_SECONDS
        for client in clients:
            with pytest.raises(ConnectionResetError):
                client.receive()
    wait_until(lambda: not server.server.engine.exchanges, "the requests' end")


def test_clients_that_take_a_few_bytes_at_a_time_gain_nothing(serve: Serve) -> None:
    server = serve(endless, write_timeout=0.3)
    with ExitStack() as stack:
        clients = request_each_kind(stack, lambda: small_window(server))
        for client in clients:
            assert client.socket.recv(1)
        deadline = time.monotonic() + 0.6 + LATE_SECONDS
        while server.server.engine.connections:
            assert time.monotonic() < deadline
            for client in clients:
                assert client.socket.recv(1)
            select.select([], [], [], 0.02)


def test_clients_that_read_below_the_minimum_rate_are_reset(serve: Serve) -> None:
    """A hundred megabytes a second is asked; these take a few."""
    server = serve(endless, write_timeout=0.3, write_min_rate=100_000_000)
    with ExitStack() as stack:
        clients = request_each_kind(stack, server.connect)
        for client in clients:
            assert client.socket.recv(1)
        with contextlib.suppress(ConnectionResetError):
            while server.server.engine.connections:
                for client in clients:
                    assert client.socket.recv(100_000)
                select.select([], [], [], 0.05)
        wait_until(lambda: not server.server.engine.connections, "the connections' end")
        assert server.server.engine.completed_count < 3


def test_clients_that_read_slowly_keep_their_connections(serve: Serve) -> None:
    """The kernel holds megabytes: at 200 KB/s the transport's buffer stands still far longer than write_timeout."""
    server = serve(endless, write_timeout=0.6)
    with ExitStack() as stack:
        clients = request_each_kind(stack, server.connect)
        begun = time.monotonic()
        while time.monotonic() - begun < 1.5:
            for client in clients:
                assert client.socket.recv(10_000)
            select.select([], [], [], 0.05)
        assert len(server.server.engine.connections) == 3
        for client in clients:
            client.reset()
    wait_until(lambda: not server.server.engine.exchanges, "the requests' end")


def unix_capacity() -> int:
    """Return how much one send to a Unix socket takes that nobody reads."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        one.setblocking(False)
        return one.send(bytes(10_000_000))


def test_unread_rest_of_an_earlier_response_does_not_cut_the_next_request_short(serve: Serve, tmp_path: Path) -> None:
    """The deadline that passes while the second request runs is that of the queue, not of the first's reader."""
    size = unix_capacity() + 20_000
    go_on = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/second":
            assert go_on.wait(10)
            return [b"second"]
        return [b"f" * size]

    server = serve(application, bind=[f"unix:{tmp_path}/socket"], queue_timeout=0.2)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(f"{tmp_path}/socket")
    with RawClient(sock) as client:
        client.send(b"GET /first HTTP/1.1\r\nHost: test\r\n\r\nGET /second HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until(lambda: server.call(server.server.stats).requests.running, "the second request")
        (connection,) = server.server.engine.connections
        assert connection.deadline < server.server.engine.loop.time() + 1
        wait_until(lambda: connection.deadline > server.server.engine.loop.time() + 1, "the end of the queue's time")
        go_on.set()
        assert client.receive().content == b"f" * size
        assert client.receive().content == b"second"


def test_pipelined_flood_that_reads_no_answers_is_not_read_on(serve: Serve) -> None:
    server = serve(hello)
    flood = GET * 10_000
    with server.connect() as client:
        client.socket.setblocking(False)
        wait_until(lambda: server.server.engine.connections, "the connection")
        (connection,) = server.server.engine.connections
        most = 0
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                client.socket.send(flood)
            most = max(most, connection._http.buffered_size)
        assert server.server.engine.completed_count > 10
        # What is read ahead is 64 KiB, and a read or two more.
        assert most < 1024 * 1024
