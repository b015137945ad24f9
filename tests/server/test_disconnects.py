"""Clients that go, at every moment and in every way, and what the application gets to know of it."""

from __future__ import annotations

import logging
import os
import select
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aiowsgi import ClientDisconnected
from tests.conftest import ServerThread
from tests.hosting import PATIENCE
from tests.process.server_process import wait_until
from tests.raw import RawClient

Serve = Callable[..., ServerThread]


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


def post(path: str, size: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n".encode()


class Application:
    """Does what the path says, and notes what becomes of it."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.started: list[str] = []
        self.notes: list[object] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.started.append(path)
        handler = getattr(self, path.strip("/"))
        result: Iterable[bytes] = handler(environ, start_response)
        return result

    def hello(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b"hello"]

    def held(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Wait for the test, whatever the client does."""
        assert self.go_on.wait(20)
        start_response("200 OK", [])
        return [b"held"]

    def waiting(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Wait until the client goes."""
        disconnected = environ["aiowsgi.disconnected"]
        self.notes.append((disconnected.is_set(), environ["waitress.client_disconnected"](), disconnected.wait(0)))
        self.notes.append((disconnected.wait(20), disconnected.is_set(), environ["waitress.client_disconnected"]()))
        start_response("200 OK", [])
        return [b"nobody reads this"]

    def endless(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Noted(self, (b"e" * 65536 for _ in range(100_000)))

    def empty(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Never yield anything that could be sent."""
        start_response("200 OK", [])

        def blocks() -> Iterator[bytes]:
            while not self.go_on.wait(0.01):
                yield b""

        return Noted(self, blocks())

    def writing(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        thread = threading.get_ident()
        try:
            while True:
                write(b"w" * 65536)
        except OSError as error:
            self.notes.append((type(error), thread == threading.get_ident()))
            raise

    def file(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
        file.truncate(50_000_000)
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return wrapped


class Noted:
    """An iterable that notes in which thread it is used and closed."""

    def __init__(self, application: Application, blocks: Iterator[bytes]) -> None:
        self._application = application
        self._blocks = blocks
        self._thread = threading.get_ident()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._blocks)

    def close(self) -> None:
        self._application.notes.append(("closed", threading.get_ident() == self._thread))


@pytest.fixture
def application() -> Iterator[Application]:
    application = Application()
    yield application
    application.go_on.set()


def running(server: ServerThread) -> int:
    """Count the requests that a thread has taken."""
    requests = server.call(server.server.stats).requests
    return int(requests.running + requests.streaming)


def is_at_rest(server: ServerThread) -> bool:
    """Whether nothing is left of any connection or request."""
    threads = server.call(server.server.stats).threads
    engine = server.server.engine
    return not (engine.connections or engine.exchanges or threads.running or threads.stalled)


def wait_for_rest(server: ServerThread) -> None:
    wait_until(lambda: is_at_rest(server), "the end of all connections and requests")
    assert server.server.engine.content_budget.used == 0


def reset(client: RawClient) -> None:
    client.reset()


def close(client: RawClient) -> None:
    """Close in an orderly way, as a program that ends does."""
    client.close()


leavings = pytest.mark.parametrize("leave", [reset, close], ids=["reset", "closed"])


def writing(server: ServerThread) -> bool:
    """Whether a client has been sent more than it takes."""

    def unsent() -> bool:
        # A file lies in no buffer of the transport; it is the kernel that takes no more.
        connections = server.server.engine.connections
        return any(not connection._outlet.flushed or connection._outlet.watched for connection in connections)

    return bool(server.call(unsent))


# What has been sent, and what tells that the server has come to it.
PHASES: dict[str, tuple[bytes, Callable[[ServerThread], object]]] = {
    "nothing": (b"", lambda server: server.server.engine.connections),
    "head": (b"GET / HTTP/1.1\r\nHo", lambda server: server.call(server.server.stats).connections.reading),
    "content": (post("/hello", 100) + b"abc", lambda server: server.call(server.server.stats).connections.reading),
    "chunk": (
        b"POST /hello HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        lambda server: server.call(server.server.stats).connections.reading,
    ),
    "content in a file": (
        post("/hello", 3_000_000) + b"a" * 1_000_000,
        lambda server: server.server.engine.connections and not server.server.engine.content_budget.used,
    ),
    "running": (get("/held"), running),
    "streaming": (get("/endless"), lambda server: server.call(server.server.stats).threads.stalled),
    "streaming nothing": (get("/empty"), running),
    "file": (get("/file"), writing),
    "next requests": (get("/held") + get("/hello") * 100, running),
}


@leavings
def test_client_that_leaves_in_any_phase_leaves_nothing_behind(
    serve: Serve, application: Application, leave: Callable[[RawClient], None], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(application, request_buffer=1000)
    with server.connect() as client:
        assert client.post(b"a" * 5000, "/hello").content == b"hello"  # loops open what they need when they need it
    wait_for_rest(server)
    descriptor_count = len(os.listdir("/dev/fd"))
    for phase, (data, reached) in PHASES.items():
        with server.connect() as client:
            client.send(data)
            wait_until(partial(reached, server), phase)
            leave(client)
        application.go_on.set()
        wait_for_rest(server)
        application.go_on.clear()
    wait_until(lambda: len(os.listdir("/dev/fd")) <= descriptor_count, "the end of all files and sockets")
    assert [record.getMessage() for record in caplog.records if record.name == "aiowsgi.error"] == []
    with server.connect() as client:
        assert client.get("/hello").content == b"hello"


@leavings
def test_client_that_leaves_a_streamed_upload_leaves_nothing_behind(
    serve: Serve, leave: Callable[[RawClient], None], caplog: pytest.LogCaptureFixture
) -> None:
    raised: list[BaseException] = []

    def upload(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raised.append(error)
            raise
        start_response("200 OK", [])
        return [b"all of it"]

    server = serve(upload, stream_body=True)
    with server.connect() as client:
        client.send(post("/", 100) + b"abc")
        wait_until(lambda: server.call(server.server.stats).threads.stalled, "the read that waits")
        leave(client)
    wait_for_rest(server)
    assert [type(error) for error in raised] == [ClientDisconnected]
    assert [record.getMessage() for record in caplog.records if record.name == "aiowsgi.error"] == []


# Before the application.


def test_queued_request_of_a_client_that_reset_never_runs(serve: Serve, application: Application) -> None:
    server = serve(application, threads=1)
    with server.connect() as first, server.connect() as gone, server.connect() as last:
        first.send(get("/held"))
        wait_until(lambda: running(server) == 1, "the request that holds the thread")
        gone.send(get("/empty"))
        last.send(get("/hello"))
        wait_until(lambda: server.call(server.server.stats).requests.waiting == 2, "the requests that wait")
        gone.reset()
        wait_until(lambda: server.call(server.server.stats).requests.waiting == 1, "the withdrawal")
        application.go_on.set()
        assert first.receive().content == b"held"
        assert last.receive().content == b"hello"
    assert application.started == ["/held", "/hello"]


# In the application.


def test_running_application_is_told_of_a_client_that_reset(serve: Serve, application: Application) -> None:
    server = serve(application)
    with server.connect() as client:
        client.send(get("/waiting"))
        wait_until(lambda: application.notes, "the application")
        client.reset()
    wait_for_rest(server)
    assert application.notes == [(False, False, False), (True, True, True)]


def test_callback_that_fails_leaves_nothing_behind(serve: Serve, error_log: pytest.LogCaptureFixture) -> None:
    called: list[str] = []

    def fail() -> None:
        called.append("failing")
        raise ZeroDivisionError("of the application")

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["aiowsgi.disconnected"].add_callback(fail)
        start_response("200 OK", [])
        return (b"e" * 65536 for _ in range(100_000))  # whose pipe's own callback comes after that one

    server = serve(application)
    with server.connect() as client:
        client.send(get("/"))
        wait_until(lambda: writing(server), "more than the client takes")
        client.reset()
    wait_for_rest(server)
    assert called == ["failing"]
    assert "ZeroDivisionError: of the application" in error_log.text


def test_wait_for_a_client_that_stays_ends_after_its_timeout(serve: Serve) -> None:
    def wait(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [repr(environ["aiowsgi.disconnected"].wait(0.05)).encode()]

    with serve(wait).connect() as client:
        assert client.get("/").content == b"False"


@leavings
def test_generator_of_a_client_that_left_is_closed_in_its_own_thread(
    serve: Serve, application: Application, leave: Callable[[RawClient], None]
) -> None:
    server = serve(application)
    with server.connect() as client:
        client.send(get("/endless"))
        wait_until(lambda: server.call(server.server.stats).threads.stalled, "the stall")
        leave(client)
    wait_for_rest(server)
    assert application.notes == [("closed", True)]


def test_generator_of_nothing_is_closed_after_its_client_reset(serve: Serve, application: Application) -> None:
    server = serve(application)
    with server.connect() as client:
        client.send(get("/empty"))
        wait_until(lambda: running(server) == 1, "the application")
        client.reset()
    wait_for_rest(server)
    assert application.notes == [("closed", True)]


@leavings
def test_write_raises_client_disconnected_in_the_thread_of_the_application(
    serve: Serve, application: Application, leave: Callable[[RawClient], None]
) -> None:
    server = serve(application)
    with server.connect() as client:
        client.send(get("/writing"))
        wait_until(lambda: server.call(server.server.stats).threads.stalled, "the stall")
        leave(client)
    wait_for_rest(server)
    assert application.notes == [(ClientDisconnected, True)]
    assert issubclass(ClientDisconnected, OSError)


def test_threads_and_requests_return_to_zero_after_a_storm_of_300_disconnects(
    serve: Serve, application: Application
) -> None:
    server = serve(application, threads=8, max_threads=60)
    paths = ["/endless", "/empty", "/waiting", "/file", "/hello"]
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(300)]
        for number, client in enumerate(clients):
            client.send(get(paths[number % len(paths)]))
        wait_until(lambda: running(server) >= 8, "the threads to be busy")
        for client in clients:
            client.reset()
    wait_for_rest(server)
    with server.connect() as client:
        assert client.get("/hello").content == b"hello"
    started = [path for path in application.started if path in ("/endless", "/empty")]
    assert application.notes.count(("closed", True)) == len(started)


# Half a farewell.


def test_half_closed_client_gets_its_answers(serve: Serve, application: Application) -> None:
    server = serve(application)
    with server.connect() as client:
        client.send(get("/hello") + get("/held") + get("/hello"))
        client.end()
        wait_until(lambda: running(server) == 1 and application.started[-1] == "/held", "the second request")
        application.go_on.set()
        assert [client.receive().content for _ in range(3)] == [b"hello", b"held", b"hello"]
        assert client.at_end()
    wait_for_rest(server)


def test_half_closed_client_gets_a_streamed_answer(serve: Serve, application: Application) -> None:
    server = serve(application)
    with server.connect() as client:
        client.send(get("/endless"))
        client.end()
        client.receive_head()
        for _ in range(200):  # 13 MB
            assert len(client.read_chunk()) == 65536
        assert application.notes == []
        client.reset()
    wait_for_rest(server)


def test_half_closed_client_that_resets_while_its_request_runs_is_noticed(
    serve: Serve, application: Application
) -> None:
    """A transport that has read the end of the stream reports nothing more; the kernel has to be asked."""
    server = serve(application)
    with server.connect() as client:
        client.send(get("/waiting"))
        client.end()
        wait_until(lambda: application.notes, "the application")
        client.reset()
    wait_for_rest(server)
    assert application.notes[1] == (True, True, True)


def test_half_closed_client_is_asked_by_the_kernel_whether_it_is_still_there(
    serve: Serve, application: Application
) -> None:
    """A client that has closed for good looks the same; after a minute its kernel answers the question with a reset."""
    server = serve(application)
    with server.connect() as client:
        client.send(get("/held"))
        wait_until(lambda: running(server) == 1, "the application")
        (connection,) = server.server.engine.connections

        def asked() -> int:
            sock = connection._transport.get_extra_info("socket")
            return int(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

        assert not server.call(asked)
        client.end()
        wait_until(lambda: server.call(asked), "the probe")
        application.go_on.set()
        assert client.receive().content == b"held"


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHo", post("/hello", 10) + b"abc"], ids=["in a head", "in the content"]
)
def test_half_close_within_a_request_is_400_and_never_reaches_the_application(
    serve: Serve, application: Application, data: bytes
) -> None:
    with serve(application).connect() as client:
        client.send(data)
        client.end()
        assert client.receive().status_code == 400
        assert client.at_end()
    assert application.started == []


@pytest.mark.parametrize("data", [b"", get("/hello"), b"\r\n"], ids=["new", "kept alive", "after an empty line"])
def test_half_close_of_an_idle_connection_closes_it(serve: Serve, application: Application, data: bytes) -> None:
    server = serve(application)
    with server.connect() as client:
        client.send(data)
        if data.startswith(b"GET"):
            assert client.receive().content == b"hello"
        client.end()
        assert client.at_end()
        wait_for_rest(server)


# Where the loop has stopped reading.


def test_client_that_sent_too_much_ahead_and_reset_is_noticed_while_its_request_runs(
    serve: Serve, application: Application
) -> None:
    """Reading is paused then, and a paused transport reports no reset."""
    server = serve(application)
    with server.connect() as client:
        client.send(get("/waiting"))
        wait_until(lambda: application.notes, "the application")
        client.send(get("/hello") * 5000)
        (connection,) = server.server.engine.connections
        wait_until(lambda: connection._read_paused, "the pause")
        client.reset()
    wait_for_rest(server)
    assert application.notes[1] == (True, True, True)
    assert application.started == ["/waiting"]


def test_unix_client_that_closes_while_its_request_runs_is_noticed(
    serve: Serve, application: Application, tmp_path: Path
) -> None:
    server = serve(application, bind=[f"unix:{tmp_path}/socket"])
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(f"{tmp_path}/socket")
    with RawClient(sock) as client:
        client.send(get("/waiting"))
        wait_until(lambda: application.notes, "the application")
    wait_for_rest(server)
    assert application.notes[1] == (True, True, True)


# Garbage.


def test_garbage_is_refused_and_leaves_nothing_behind(serve: Serve, application: Application) -> None:
    server = serve(application)
    for data in (
        b"\x00" * 1000,
        b"\xff\xfe\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03" * 20,
        b"a" * 20_000,
    ):
        with server.connect() as client:
            client.send(data)
            client.end()
            answer = client.read_all()
            assert answer.startswith(b"HTTP/1.1 4"), (data[:20], answer[:20])
    wait_for_rest(server)
    assert application.started == []


def test_refused_client_that_goes_on_sending_is_cut_off(serve: Serve, application: Application) -> None:
    """It gets its answer without a reset destroying it, but not for ever."""
    server = serve(application)
    with server.connect() as client:
        client.send(b"GET / HTTP/9.9\r\nHost: test\r\n\r\n")
        assert client.receive().status_code == 505
        sent = 0
        with pytest.raises(OSError):  # noqa: PT012
            while sent < 100_000_000:
                sent += client.socket.send(b"x" * 1_000_000)
                select.select([], [], [], 0)
    wait_for_rest(server)


def connect_with_little_room(server: ServerThread) -> RawClient:
    """Return a client whose kernel takes little until it reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", server.port))
    return RawClient(sock)


def test_client_that_ended_its_side_and_reads_late_is_let_go_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytes(8_000_000)  # more than the kernel holds

    def large(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [content]

    server = serve(large)
    for _ in range(5):
        with connect_with_little_room(server) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            client.end()
            wait_until(lambda: server.call(server.server.stats).connections.writing == 1, "a response on its way")
            assert client.receive().content == content
            assert client.at_end()
        wait_until(lambda: not server.server.engine.connections, "the end of the connection")
    # asyncio would say so of a transport that it has ended twice.
    assert [record for record in caplog.records if record.name == "asyncio" and record.levelno > logging.INFO] == []


def test_client_whose_last_response_ends_once_it_reads_is_let_go_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytes(8_000_000)  # more than the kernel holds

    def in_parts(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield content
        yield b"end"

    server = serve(in_parts)
    with connect_with_little_room(server) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        wait_until(lambda: server.call(server.server.stats).connections.writing == 1, "a response on its way")
        wait_until(lambda: server.call(server.server.stats).threads.idle == 1, "its end, which waits for the client")
        assert client.receive().content == content + b"end"
        assert client.at_end()
    wait_until(lambda: not server.server.engine.connections, "the end of the connection")
    # asyncio says so of a transport that is closed where it asks for more.
    assert [record for record in caplog.records if record.name == "asyncio" and record.levelno > logging.INFO] == []


def test_client_whose_response_breaks_off_once_it_reads_is_let_go_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytes(8_000_000)  # more than the kernel holds
    going = threading.Event()

    def failing(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield content
        assert going.wait(PATIENCE)
        raise RuntimeError("on purpose")

    server = serve(failing)
    with connect_with_little_room(server) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        wait_until(lambda: server.call(server.server.stats).connections.writing == 1, "a response on its way")
        going.set()
        wait_until(lambda: server.call(server.server.stats).threads.idle == 1, "its end, which waits for the client")
        with pytest.raises(ConnectionResetError):
            client.receive()
    wait_until(lambda: not server.server.engine.connections, "the end of the connection")
    # asyncio says so of a transport that is aborted where it asks for more.
    assert [record for record in caplog.records if record.name == "asyncio" and record.levelno > logging.INFO] == []
