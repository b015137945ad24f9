"""More than there is room for: requests, threads, connections, file descriptors."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerThread
from tests.process.server_process import ServerProcess, server_process, wait_until
from tests.raw import RawClient, RawResponse

Serve = Callable[..., ServerThread]

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
PROMPT_SECONDS = 5.0


class Held:
    """An application whose requests for ``/held`` wait for :attr:`go_on`; it notes which requests it was given."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.paths: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.paths.append(path)
        start_response("200 OK", [])
        if path == "/held":
            assert self.go_on.wait(20)
        if path == "/endless":
            return (b"e" * 65536 for _ in range(10_000))
        if path == "/large":
            return [b"l" * int(environ["QUERY_STRING"])]
        return [path.encode()]


@pytest.fixture
def held() -> Iterable[Held]:
    application = Held()
    yield application
    application.go_on.set()


def request(client: RawClient, path: str) -> None:
    client.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())


def running_count(server: ServerThread) -> int:
    return int(server.call(server.server.stats).requests.running)


def waiting_count(server: ServerThread) -> int:
    return int(server.call(server.server.stats).requests.waiting)


def stalled_count(server: ServerThread) -> int:
    return int(server.call(server.server.stats).threads.stalled)


def assert_busy(response: RawResponse) -> None:
    assert response.status_code == 503
    assert int(response.value("Retry-After") or "0") >= 1
    assert response.value("Connection") == "close"


# Requests.


def test_queue_that_is_full_answers_503_at_once_and_loses_none_of_those_in_it(serve: Serve, held: Held) -> None:
    server = serve(held, threads=1, queue_size=3)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(4)]
        request(clients[0], "/held")
        wait_until(lambda: running_count(server) == 1, "the request that holds the thread")
        for client in clients[1:]:
            request(client, "/queued")
        wait_until(lambda: waiting_count(server) == 3, "the requests that wait")
        with server.connect(PROMPT_SECONDS) as refused:
            assert_busy(refused.get("/refused"))
            assert refused.at_end()
        held.go_on.set()
        assert [client.receive().content for client in clients] == [b"/held", b"/queued", b"/queued", b"/queued"]
    assert "/refused" not in held.paths


def test_request_that_waits_longer_than_queue_timeout_is_503_and_never_runs(serve: Serve, held: Held) -> None:
    server = serve(held, threads=1, queue_timeout=0.3)
    with server.connect() as first, server.connect() as late:
        request(first, "/held")
        wait_until(lambda: running_count(server) == 1, "the request that holds the thread")
        begun = time.monotonic()
        assert_busy(late.get("/late"))
        assert 0.2 < time.monotonic() - begun < PROMPT_SECONDS
        held.go_on.set()
        assert first.receive().content == b"/held"
        assert first.get("/after").content == b"/after"
    assert held.paths == ["/held", "/after"]


# Threads.


def test_ten_stalled_downloads_do_not_hold_up_the_eleventh_request_of_two_threads(serve: Serve, held: Held) -> None:
    server = serve(held, threads=2)
    with ExitStack() as stack:
        for _ in range(10):
            request(stack.enter_context(server.connect()), "/endless")
        wait_until(lambda: stalled_count(server) == 10, "the downloads to stall")
        with server.connect(PROMPT_SECONDS) as client:
            assert client.get("/eleventh").content == b"/eleventh"
    wait_until(lambda: not server.server.engine.exchanges, "the downloads' end")
    assert stalled_count(server) == 0


def test_threads_stop_growing_at_max_threads_and_requests_wait(serve: Serve, held: Held) -> None:
    server = serve(held, threads=2, max_threads=4, queue_timeout=0.3)
    before = threading.active_count()
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(4)]
        for client in clients:
            request(client, "/endless")
        wait_until(lambda: stalled_count(server) == 4, "the downloads to stall")
        assert threading.active_count() <= before + 4
        with server.connect() as client:
            assert_busy(client.get("/late"))
        clients[0].reset()
        with server.connect() as client:
            assert client.get("/after").content == b"/after"
    assert "/late" not in held.paths


def test_threads_of_stalled_downloads_end_with_them(serve: Serve, held: Held) -> None:
    server = serve(held, threads=2)
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(20):
            request(stack.enter_context(server.connect()), "/endless")
        wait_until(lambda: stalled_count(server) == 20, "the downloads to stall")
    wait_until(lambda: threading.active_count() <= before + 2, "the end of the threads that are too many")


# Connections.


def test_longest_idle_connection_makes_room_at_the_limit(serve: Serve, held: Held) -> None:
    server = serve(held, max_connections=3)
    with ExitStack() as stack:
        oldest, second, third = (stack.enter_context(server.connect()) for _ in range(3))
        for client in (oldest, second, third, oldest):
            assert client.get("/").status_code == 200
            select.select([], [], [], 0.02)  # a loop's clock may tick by the millisecond
        # Now the second is the longest idle.
        newcomer = stack.enter_context(server.connect(PROMPT_SECONDS))
        assert newcomer.get("/new").content == b"/new"
        assert second.at_end()
        assert oldest.get("/").status_code == 200


def test_connections_up_to_the_limit_are_all_kept(serve: Serve, held: Held) -> None:
    """Nobody waits: nobody has to go."""
    server = serve(held, max_connections=3)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(3)]
        for _ in range(3):
            for client in clients:
                response = client.get("/")
                assert response.status_code == 200
                assert response.value("Connection") is None


def test_newcomer_waits_while_all_connections_are_busy_and_is_served_after_one(serve: Serve, held: Held) -> None:
    """They were busy when it came, so that there was nobody to close. Their answers make room."""
    server = serve(held, max_connections=2)
    with server.connect() as one, server.connect() as other:
        for client in (one, other):
            request(client, "/held")
        wait_until(lambda: running_count(server) == 2, "both requests")
        with server.connect() as newcomer:
            request(newcomer, "/new")
            wait_until(lambda: not server.server.engine.keeps_connections, "the newcomer at the door")
            assert len(server.server.engine.connections) == 2
            held.go_on.set()
            fields = [client.receive().value("Connection") for client in (one, other)]
            # One makes room. The other need not, if the newcomer is in by the time at which it is answered.
            assert "close" in fields
            for client, field in zip((one, other), fields, strict=True):
                assert field in ("close", None)
                assert field is None or client.at_end()
                client.close()
            assert newcomer.receive().content == b"/new"
            assert newcomer.get("/").value("Connection") is None  # the crowd is gone


def test_client_that_has_not_read_its_answer_is_not_the_one_to_make_room(
    serve: Serve, held: Held, tmp_path: Path
) -> None:
    """Closing it would make none: the rest of its answer is still to be sent."""
    address = f"{tmp_path}/socket"
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        one.setblocking(False)
        capacity = one.send(bytes(10_000_000))

    def connect() -> RawClient:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(address)
        return RawClient(sock)

    server = serve(held, max_connections=2, bind=[f"unix:{address}"])
    with connect() as reader, connect() as idle:
        request(reader, f"/large?{capacity + 20_000}")
        wait_until(lambda: server.server.engine.completed_count == 1, "the answer that is not read")
        assert idle.get("/").status_code == 200
        for path in ("/a", "/b", "/c"):
            with connect() as newcomer:
                assert newcomer.get(path).content == path.encode()
        assert len(reader.receive().content) == capacity + 20_000


def test_burst_of_connections_never_exceeds_the_limit_and_all_are_answered(serve: Serve, held: Held) -> None:
    server = serve(held, max_connections=5)
    engine = server.server.engine
    ready = threading.Event()
    most = 0
    done = False

    def look() -> None:
        nonlocal most
        most = max(most, len(engine.connections) + len(engine.arriving))
        if not done:
            engine.loop.call_later(0.001, look)

    with ExitStack() as stack:
        engine.loop.call_soon_threadsafe(ready.wait, 10)  # so that all of them wait to be accepted together
        clients = [stack.enter_context(server.connect()) for _ in range(100)]
        for client in clients:
            request(client, "/")
        engine.loop.call_soon_threadsafe(look)
        ready.set()
        for client in clients:
            assert client.receive().content == b"/"
            client.close()
    done = True
    assert most == 5


def test_burst_of_connections_that_send_only_once_connected_is_answered_whole(serve: Serve, held: Held) -> None:
    """Those that are in have not sent anything when others want to come in."""
    server = serve(held, max_connections=3)
    engine = server.server.engine
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(3)]
        wait_until(lambda: len(engine.connections) == 3, "those for whom there is room")
        clients += [stack.enter_context(server.connect()) for _ in range(3)]
        wait_until(lambda: not engine.keeps_connections, "the fourth at the door")
        for client in clients:
            request(client, "/")
        for client in clients:
            assert client.receive().content == b"/"
            client.close()


def test_clients_that_were_refused_and_do_not_leave_make_room_soon(serve: Serve, held: Held) -> None:
    server = serve(held, max_connections=4)
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(server.connect()).send(b"no request\r\n\r\n")
        began_at = time.monotonic()
        client = stack.enter_context(server.connect())
        client.send(GET)
        assert client.receive().status_code == 200
        # Three groups of four: 15 s if each had the five seconds that are left to them when there is room.
        assert time.monotonic() - began_at < 10


def test_connection_whose_next_request_has_arrived_is_not_closed_as_idle(serve: Serve, held: Held) -> None:
    server = serve(held, max_connections=3)
    ready = threading.Event()
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(3)]
        for client in clients:
            assert client.get("/first").content == b"/first"
        server.server.engine.loop.call_soon_threadsafe(ready.wait, 10)  # the loop looks away
        for client in clients:
            request(client, "/second")
        server.server.engine.loop.call_soon_threadsafe(server.server._room.make)  # as for somebody who waits
        ready.set()
        assert [client.receive().content for client in clients] == [b"/second"] * 3


def test_connections_above_the_limit_that_stay_silent_do_not_keep_requests_away(serve: Serve, held: Held) -> None:
    server = serve(held, max_connections=20)
    with ExitStack() as stack:
        for _ in range(60):  # three times as many as there is room for: it takes a quarter of a second each time
            stack.enter_context(server.connect())
        with server.connect(PROMPT_SECONDS) as client:
            assert client.get("/").content == b"/"
        assert len(server.server.engine.connections) <= 20


# File descriptors, in a process that has few.

FEW_DESCRIPTORS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

def app(environ, start_response):
    if environ["PATH_INFO"] == "/file":
        open(__file__).close()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""

loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
only_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def cpu_seconds(server: ServerProcess) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@only_linux
@loops
def test_process_with_64_descriptors_survives_200_connections_with_one_log_line(tmp_path: Path, loop: str) -> None:
    (tmp_path / "few.py").write_text(FEW_DESCRIPTORS)
    arguments = ["few:app", "--bind=127.0.0.1:0", "--max-connections=1000", "--loop", loop]
    with server_process(tmp_path, *arguments) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(200)]
        server.wait_for_log("cannot accept connections")
        # No busy loop: the connections that wait keep the listening socket readable all the time.
        before = cpu_seconds(server)
        assert not select.select([clients[-1].socket], [], [], 0.8)[0]
        assert cpu_seconds(server) - before < 0.3
        # Those that have a connection are served, and each that leaves makes room for another.
        for client in clients:
            client.send(GET)
            assert client.receive().content == b"hello"
            client.close()
        with server.connect() as client:
            assert client.get("/").content == b"hello"
        server.wait_for_log("accepting connections again")
        assert server.log.count("cannot accept connections") == 1, server.log
        assert server.log.count("accepting connections again") == 1, server.log
        assert "Traceback" not in server.log


@only_linux
def test_limit_derived_from_64_descriptors_leaves_room_to_work(tmp_path: Path) -> None:
    (tmp_path / "few.py").write_text(FEW_DESCRIPTORS)
    with server_process(tmp_path, "few:app", "--bind=127.0.0.1:0") as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(30)]
        for _ in range(2):
            for client in clients:
                client.send(GET)
            for client in clients:
                response = client.receive()
                assert response.content == b"hello"
                assert response.value("Connection") is None
        assert "cannot accept" not in server.log


@only_linux
def test_uploads_in_files_leave_descriptors_to_the_application(tmp_path: Path) -> None:
    (tmp_path / "few.py").write_text(FEW_DESCRIPTORS)
    arguments = ["few:app", "--bind=127.0.0.1:0", "--request-buffer=0"]
    with server_process(tmp_path, *arguments) as server, ExitStack() as stack:
        kept = stack.enter_context(server.connect())
        assert kept.get("/file").content == b"hello"
        uploads = [stack.enter_context(server.connect()) for _ in range(40)]
        for upload in uploads:
            upload.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\npart")
        server.wait_for_log("cannot store request content")
        assert kept.get("/file").content == b"hello"
        with server.connect() as client:
            assert client.get("/file").content == b"hello"
        assert "Too many open files" not in server.log
