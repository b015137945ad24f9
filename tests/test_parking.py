"""Parked responses, on real sockets under both loops; and on a server that cannot park."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import re
import socket
import threading
import time
import wsgiref.simple_server
import wsgiref.validate
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import flask
import pytest
import werkzeug.wsgi

import aiowsgi
from aiowsgi.bridge import blocking
from aiowsgi.server import drain, parked
from aiowsgi.testing import MemoryServer
from tests.conftest import LOOPS, ServerThread, running_server
from tests.raw import RawClient, Truncated
from tests.simulation.memory import GET, SteppedClient

PATIENCE = 10.0
Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll a condition for a bounded time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.005)


class Stream(AsyncIterator[bytes]):
    """An asynchronous iterable that notes what is done to it.

    Args:
        blocks: what it yields; then
        hold: it waits until it is released; or
        error: it raises this; or it ends.
        close_error: what ``aclose()`` raises.
        close_hold: ``aclose()`` waits without end.
    """

    def __init__(
        self,
        *blocks: Any,
        hold: bool = False,
        error: BaseException | None = None,
        close_error: BaseException | None = None,
        close_hold: bool = False,
    ) -> None:
        self.blocks = list(blocks)
        self.hold = hold
        self.error = error
        self.close_error = close_error
        self.close_hold = close_hold
        self.begun = False
        self.released: asyncio.Future[None] | None = None
        self.closed_count = 0

    async def __anext__(self) -> Any:
        self.begun = True
        if self.blocks:
            return self.blocks.pop(0)
        if self.hold:
            self.released = asyncio.get_running_loop().create_future()
            await self.released
            self.hold = False
            return await self.__anext__()
        if self.error is not None:
            raise self.error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed_count += 1
        if self.close_hold:
            await asyncio.get_running_loop().create_future()
        if self.close_error is not None:
            raise self.close_error

    def release(self) -> None:
        """End the waiting. Event loop."""
        assert self.released is not None
        self.released.set_result(None)

    def wait_until_closed(self) -> None:
        wait_until(lambda: self.closed_count, "aclose()")


class Endless(Stream):
    """Yields without ever waiting for anything."""

    block = b"x" * (16 * 1024)

    def __init__(self) -> None:
        super().__init__()
        self.yielded_size = 0

    async def __anext__(self) -> bytes:
        self.yielded_size += len(self.block)
        return self.block


class Site:
    """A server whose application is what the test says."""

    def __init__(self) -> None:
        self.application: Application = lambda environ, start_response: []
        self.server: ServerThread

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/other":
            start_response("200 OK", [])
            return [b"other"]
        return self.application(environ, start_response)

    def connect(self) -> RawClient:
        return self.server.connect()

    def parks(self, stream: Any, *fields: tuple[str, str], status: str = "200 OK", finish: bool = False) -> None:
        """Make an application that parks a stream and does nothing else."""

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response(status, list(fields))
            return aiowsgi.park(environ, stream, finish=finish)

        self.application = application


@pytest.fixture(scope="module", params=LOOPS)
def shared_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site()
    # One thread for the application: a parked response that held it would hold everything.
    with running_server(site, request.param, threads=1, max_threads=1) as site.server:
        yield site


@pytest.fixture
def site(shared_site: Site) -> Site:
    return shared_site


@pytest.fixture
def errors(error_log: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what has been logged as an error or a warning, by anybody."""
    return lambda: [record.getMessage() for record in error_log.records if record.levelno >= logging.WARNING]


def get_until_end(client: RawClient, target: str = "/") -> bytes:
    """Send a request; return the content of its chunked response, which must be whole."""
    response = client.get(target)
    assert response.status_code == 200
    assert response.value("Transfer-Encoding") == "chunked"
    return response.content


def begin(client: RawClient, target: str = "/") -> None:
    """Send a request and read the head of its response."""
    client.send(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    assert client.receive_head().status_code == 200


# What reaches the client.


def test_park_blocks_arrive_in_order_and_stream_is_closed_once(site: Site, errors: Any) -> None:
    stream = Stream(b"one", b"", b"two", b"three" * 100_000)
    site.parks(stream)
    with site.connect() as client:
        assert get_until_end(client) == b"onetwo" + b"three" * 100_000
        assert get_until_end_of_other(client) == b"other"
    stream.wait_until_closed()
    assert stream.closed_count == 1
    assert errors() == []


def get_until_end_of_other(client: RawClient) -> bytes:
    """Use the connection once more, for a response that nobody parks."""
    return client.get("/other").content


def test_park_empty_iterable_is_an_empty_response(site: Site) -> None:
    site.parks(Stream())
    with site.connect() as client:
        assert get_until_end(client) == b""
        assert get_until_end_of_other(client) == b"other"


def test_park_head_arrives_before_the_first_block(site: Site) -> None:
    stream = Stream(hold=True)
    site.parks(stream, ("X-Mark", "head"))
    client = site.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    assert client.receive_head().value("X-Mark") == "head"
    wait_until(lambda: stream.released, "the first block is awaited")
    client.reset()
    stream.wait_until_closed()


def test_park_after_blocks_of_its_own_goes_on_behind_them(site: Site) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"own "
        yield from aiowsgi.park(environ, Stream(b"parked"))
        yield b"own again "

    site.application = application
    with site.connect() as client:
        assert get_until_end(client) == b"own own again parked"


def test_park_after_write_goes_on_behind_it(site: Site) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])(b"written ")
        return aiowsgi.park(environ, Stream(b"parked"))

    site.application = application
    with site.connect() as client:
        assert get_until_end(client) == b"written parked"


def test_park_async_generator_runs_its_finally_when_client_resets(site: Site) -> None:
    ended = threading.Event()

    async def generator() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    site.parks(generator())
    client = site.connect()
    begin(client)
    assert client.read_chunk() == b"first"
    client.reset()
    assert ended.wait(PATIENCE)


def test_parked_responses_hold_no_thread(site: Site) -> None:
    """There is one thread in all."""
    streams = [Stream(b"first", hold=True) for _ in range(20)]

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return aiowsgi.park(environ, streams[int(environ["PATH_INFO"][1:])])

    site.application = application
    clients = [site.connect() for _ in streams]
    for number, client in enumerate(clients):
        begin(client, f"/{number}")
        assert client.read_chunk() == b"first"
    with site.connect() as client:
        assert get_until_end_of_other(client) == b"other"
    stats = site.server.server.stats
    # The thread itself may still be on its way back.
    wait_until(
        lambda: site.server.call(lambda: (stats().threads.running, stats().threads.stalled)) == (0, 0), "no thread"
    )
    for client in clients:
        client.reset()


def test_park_iterable_with_separate_iterator_closes_both_once(site: Site) -> None:
    iterator = Stream(b"block")

    class Source:
        closed_count = 0

        def __aiter__(self) -> Stream:
            return iterator

        async def aclose(self) -> None:
            self.closed_count += 1

    source = Source()
    site.parks(source)
    with site.connect() as client:
        assert get_until_end(client) == b"block"
    wait_until(lambda: source.closed_count, "aclose()")
    assert (iterator.closed_count, source.closed_count) == (1, 1)


def test_parked_iterable_that_never_waits_leaves_the_loop_to_others(site: Site) -> None:
    stream = Endless()
    site.parks(stream)
    with site.connect() as greedy, site.connect() as client:
        begin(greedy)
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                greedy.socket.recv(1 << 20)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for _ in range(20):
                assert get_until_end_of_other(client) == b"other"
        finally:
            done.set()
            reader.join()
    stream.wait_until_closed()


def test_parked_iterable_sees_no_context_of_any_request(site: Site) -> None:
    """What wakes the loop is whichever thread was last: its request's context must not get into another's stream."""
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    async def stream() -> AsyncIterator[bytes]:
        yield user.get().encode()

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        user.set(environ["PATH_INFO"])
        start_response("200 OK", [])
        return aiowsgi.park(environ, stream())

    site.application = application
    with site.connect() as client:
        assert get_until_end(client, "/alice") == b"nobody"


# Through what wraps iterables.


def generator_middleware(application: Application) -> Application:
    def wrapped(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        iterable = application(environ, start_response)
        try:
            yield from iterable
        finally:
            iterable.close()  # type: ignore[attr-defined]

    return wrapped


def joining_middleware(application: Application) -> Application:
    def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        iterable = application(environ, start_response)
        try:
            return [b"".join(iterable)]
        finally:
            iterable.close()  # type: ignore[attr-defined]

    return wrapped


def closing_middleware(application: Application) -> Application:
    def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return werkzeug.wsgi.ClosingIterator(application(environ, start_response), lambda: None)

    return wrapped


def copying_middleware(application: Application) -> Application:
    def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return application(dict(environ), start_response)

    return wrapped


@pytest.mark.parametrize(
    "middleware",
    [
        generator_middleware,
        joining_middleware,
        closing_middleware,
        copying_middleware,
        lambda application: closing_middleware(generator_middleware(closing_middleware(application))),
        wsgiref.validate.validator,
    ],
    ids=["generator", "joining", "closing", "copying", "several", "validator"],
)
def test_park_under_middleware_goes_on_after_it(site: Site, middleware: Any, errors: Any) -> None:
    stream = Stream(b"one", b"two")
    site.parks(stream, ("Content-Type", "text/plain"))
    site.application = middleware(site.application)
    with site.connect() as client:
        assert get_until_end(client) == b"onetwo"
        assert get_until_end_of_other(client) == b"other"
    stream.wait_until_closed()
    assert stream.closed_count == 1
    assert errors() == []


def test_park_in_flask_response_goes_on_and_teardown_runs_before(site: Site) -> None:
    order: list[str] = []
    app = flask.Flask(__name__)

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        order.append("teardown")

    @app.after_request
    def after(response: flask.Response) -> flask.Response:
        response.headers["X-After"] = "yes"
        return response

    async def stream() -> AsyncIterator[bytes]:
        order.append("stream")
        yield b"flask"

    @app.get("/")
    def view() -> flask.Response:
        response = flask.Response(aiowsgi.park(flask.request.environ, stream()), mimetype="text/event-stream")
        response.call_on_close(lambda: order.append("on close"))
        return response

    site.application = app
    with site.connect() as client:
        response = client.get("/")
    assert (response.content, response.value("X-After")) == (b"flask", "yes")
    assert order[-1] == "stream"
    assert set(order) == {"teardown", "on close", "stream"}


def test_park_returned_by_a_flask_view_is_its_response(site: Site) -> None:
    app = flask.Flask(__name__)

    @app.get("/")
    def view() -> Any:
        return aiowsgi.park(flask.request.environ, Stream(b"flask")), 200, {"Content-Type": "text/event-stream"}

    site.application = app
    with site.connect() as client:
        response = client.get("/", "Accept-Encoding: gzip")
    assert (response.content, response.value("Content-Type")) == (b"flask", "text/event-stream")


# Requests and responses that have no content, or say how much they have.


@pytest.mark.parametrize("loose", [False, True], ids=["empty", "after write()"])
def test_park_for_head_is_closed_without_being_begun(site: Site, loose: bool) -> None:
    stream = Stream(b"never")
    answered = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        if loose:
            write(b"something")  # which is all that an answer to HEAD waits for
            assert answered.wait(PATIENCE)
        return aiowsgi.park(environ, stream)

    site.application = application
    with site.connect() as client:
        assert client.get(method="HEAD").status_code == 200
        answered.set()
        assert get_until_end_of_other(client) == b"other"
    stream.wait_until_closed()
    assert (stream.closed_count, stream.begun) == (1, False)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_park_for_status_without_content_is_closed_without_being_begun(site: Site, status: str) -> None:
    stream = Stream(b"never")
    site.parks(stream, status=status)
    with site.connect() as client:
        assert client.get().content == b""
        assert get_until_end_of_other(client) == b"other"
    stream.wait_until_closed()
    assert (stream.closed_count, stream.begun) == (1, False)


@pytest.mark.parametrize("own", [[], [b"own, "]])
def test_park_with_the_content_length_of_its_own_part_drops_it_and_goes_on(
    site: Site, own: list[bytes], errors: Any
) -> None:
    """As Django's CommonMiddleware and others add it, to a body that was joined and seemed to be all."""
    stream = Stream(b"parked")

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = [*own, *aiowsgi.park(environ, stream)]
        start_response("200 OK", [("Content-Length", str(len(b"".join(body))))])
        return body

    site.application = application
    with site.connect() as client:
        response = client.get()
        assert response.content == b"".join(own) + b"parked"
        assert response.value("Content-Length") is None
        assert get_until_end_of_other(client) == b"other"
    stream.wait_until_closed()
    assert errors() == []


@pytest.mark.parametrize("length", ["6", "100"])
def test_park_with_content_length_is_500_and_closes_the_stream(site: Site, length: str, errors: Any) -> None:
    """Content beyond the length would be read as the next response."""
    stream = Stream(b"parked")
    site.parks(stream, ("Content-Length", length))
    with site.connect() as client:
        assert client.get().status_code == 500
    stream.wait_until_closed()
    assert (stream.closed_count, stream.begun) == (1, False)
    assert len(errors()) == 1
    assert f"Content-Length: {length}" in errors()[0] or f"Content-Length is {length}" in errors()[0]


def test_park_with_content_length_of_a_streamed_part_is_500(site: Site, errors: Any) -> None:
    stream = Stream(b"parked")

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        aiowsgi.park(environ, stream)
        start_response("200 OK", [("Content-Length", "3")])
        yield b"o"
        yield b"wn"

    site.application = application
    with site.connect() as client:
        assert client.get().status_code == 500
    stream.wait_until_closed()
    assert "Content-Length: 3" in errors()[0]


def test_park_takes_accept_encoding_away_from_what_would_compress_an_empty_body(site: Site) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        assert environ["HTTP_ACCEPT_ENCODING"] == "gzip"
        body = aiowsgi.park(environ, Stream(b"plain"))
        assert "HTTP_ACCEPT_ENCODING" not in environ
        start_response("200 OK", [])
        return body

    site.application = application
    with site.connect() as client:
        assert client.get("/", "Accept-Encoding: gzip").content == b"plain"


def test_park_of_a_response_that_is_encoded_all_the_same_is_500(site: Site, errors: Any) -> None:
    stream = Stream(b"plain")
    site.parks(stream, ("Content-Encoding", "gzip"))
    with site.connect() as client:
        assert client.get().status_code == 500
    stream.wait_until_closed()
    assert "Content-Encoding: gzip, but what was parked is identity" in errors()[0]


@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_park_of_what_is_encoded_as_the_response_says_goes_on(site: Site, coding: str) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Encoding", coding)])
        return aiowsgi.park(environ, Stream(b"encoded"), content_coding=coding)

    site.application = application
    with site.connect() as client:
        assert client.get().content == b"encoded"


def test_park_behind_a_file_goes_on_after_it(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"file, ")

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        aiowsgi.park(environ, Stream(b"stream"))
        file: Iterable[bytes] = environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))
        return file

    site.application = application
    with site.connect() as client:
        assert get_until_end(client) == b"file, stream"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are listed in /proc")
def test_park_behind_a_file_with_content_length_leaves_no_descriptor(tmp_path: Path, errors: Any) -> None:
    (tmp_path / "file").write_bytes(b"file, ")

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "6")])
        aiowsgi.park(environ, Stream(b"stream"))
        file: Iterable[bytes] = environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))
        return file

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        client.send(GET)
        assert client.receive().status_code == 500
    opened = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    assert str(tmp_path / "file") not in opened
    assert "Content-Length: 6" in errors()[0]


def test_park_after_a_head_with_content_length_raises_in_the_application(site: Site) -> None:
    raised: list[BaseException] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        yield b"first"
        try:
            aiowsgi.park(environ, Stream(b"parked"))
        except aiowsgi.ApplicationError as error:
            raised.append(error)
        yield b"later"

    site.application = application
    with site.connect() as client:
        assert client.get().content == b"firstlater"
    assert "Content-Length: 10" in str(raised[0])


@pytest.mark.parametrize("end", ["ends", "fails"])
def test_park_for_http_1_0_client_is_ended_by_the_connection(site: Site, end: str) -> None:
    site.parks(Stream(b"old ", b"client", error=RuntimeError("on purpose") if end == "fails" else None))
    with site.connect() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        head = client.receive_head()
        assert head.value("Transfer-Encoding") is None
        assert head.value("Connection") == "close"
        if end == "ends":
            assert client.read_all() == b"old client"
        else:
            with pytest.raises(ConnectionResetError):
                client.read_all()


# Connections that live on.


def test_park_pipelined_request_is_answered_after_the_stream(site: Site) -> None:
    stream = Stream(b"first", hold=True)
    site.parks(stream)
    with site.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\nGET /other HTTP/1.1\r\nHost: test\r\n\r\n")
        client.receive_head()
        assert client.read_chunk() == b"first"
        wait_until(lambda: stream.released, "the second block is awaited")
        site.server.call(stream.release)
        assert client.read_chunk() == b""
        assert client.receive().content == b"other"


def test_park_again_and_again_on_one_connection(site: Site) -> None:
    with site.connect() as client:
        for number in range(50):
            site.parks(Stream(b"a%d" % number, b"b"))
            assert get_until_end(client) == b"a%db" % number


def test_notification_that_comes_late_does_not_end_the_stream(site: Site) -> None:
    """A client that begins to read lets the loop take what the thread has not told it of yet."""
    stream = Stream(b"first", b"", hold=True)
    site.parks(stream)
    with site.connect() as client:
        begin(client)
        assert client.read_chunk() == b"first"
        wait_until(lambda: stream.released, "it is parked")

        def tell_again() -> None:
            (connection,) = (each for each in site.server.server.engine.connections if each.parked)
            exchange = connection._exchange
            assert exchange is not None
            exchange.wake()
            stream.blocks.append(b"second")
            stream.release()

        site.server.call(tell_again)
        assert client.read_chunk() == b"second"
        assert client.read_chunk() == b""
        assert get_until_end_of_other(client) == b"other"


# Clients that go, or do not read.


@pytest.mark.parametrize("way", ["reset", "close"])
def test_park_client_that_goes_closes_the_stream_once(site: Site, way: str, errors: Any) -> None:
    class Ticking(Stream):
        async def __anext__(self) -> bytes:
            await asyncio.sleep(0.01)
            return b"tick"

    stream = Ticking()
    site.parks(stream)
    client = site.connect()
    begin(client)
    assert client.read_chunk() == b"tick"
    if way == "reset":
        client.reset()
    else:
        client.close()
    stream.wait_until_closed()
    wait_until(lambda: not site.server.call(lambda: site.server.server.engine.closing_tasks), "the task ends")
    assert stream.closed_count == 1
    assert errors() == []


def test_park_client_that_went_before_the_application_returned_closes_the_stream(site: Site, errors: Any) -> None:
    stream = Stream(b"never")
    running = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        running.set()
        assert environ["aiowsgi.disconnected"].wait(PATIENCE)
        return aiowsgi.park(environ, stream)

    site.application = application
    client = site.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    assert running.wait(PATIENCE)
    client.reset()
    stream.wait_until_closed()
    with site.connect() as client:
        assert get_until_end_of_other(client) == b"other"
    assert (stream.closed_count, stream.begun) == (1, False)
    assert errors() == []


def test_park_client_that_goes_between_park_and_the_first_step_closes_the_stream(site: Site) -> None:
    """A task that is cancelled before its first step never runs."""
    stream = Stream(b"never")
    engine = site.server.server.engine

    def park_and_go() -> None:
        response = parked.ParkedResponse(engine, stream, lambda block: None, lambda error: None)
        response.cancel()

    site.server.call(park_and_go)
    stream.wait_until_closed()
    assert (stream.closed_count, stream.begun) == (1, False)


def test_park_slow_reader_makes_the_stream_wait(site: Site) -> None:
    stream = Endless()
    site.parks(stream)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", site.server.port))
    with RawClient(sock) as client:
        begin(client)
        sizes: list[int] = [0, 1]

        def waits() -> bool:
            # It never waits by itself: in a turn in which it yields nothing, it is made to.
            sizes.append(site.server.call(lambda: stream.yielded_size))
            return sizes[-1] == sizes[-2] == sizes[-3]

        wait_until(waits, "backpressure")
        held_size = stream.yielded_size
        assert held_size < 16 * 1024 * 1024  # what the kernel may hold for both, and the transport's 64 KiB
        while stream.yielded_size == held_size:
            client.read_chunk()
    stream.wait_until_closed()
    assert stream.closed_count == 1


# Streams and applications that fail.


class Odd:
    """Asynchronously iterable, to all appearance."""

    closed_count = 0

    def __aiter__(self) -> Any:
        raise RuntimeError("no iterator, on purpose")

    async def aclose(self) -> None:
        self.closed_count += 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Stream(b"first", error=RuntimeError("on purpose")), "on purpose"),
        (lambda: Stream(b"first", error=SystemExit(3)), "SystemExit(3)"),
        (lambda: Stream(b"first", error=KeyboardInterrupt()), "KeyboardInterrupt"),
        (lambda: Stream(b"first", error=asyncio.CancelledError()), "CancelledError"),
        (lambda: Stream(b"first", error=StopIteration()), "StopIteration"),
        (lambda: Stream(b"first", "text"), "a block of a parked body is str, not bytes"),
        (Odd, "no iterator, on purpose"),
    ],
    ids=["exception", "SystemExit", "KeyboardInterrupt", "CancelledError", "StopIteration", "text", "no iterator"],
)
def test_park_stream_that_fails_is_cut_off_visibly_and_logged_once(
    site: Site, make: Callable[[], Stream | Odd], words: str, errors: Any
) -> None:
    stream = make()
    site.parks(stream)
    with site.connect() as client, pytest.raises(Truncated):
        client.get()
    wait_until(lambda: stream.closed_count, "aclose()")
    assert stream.closed_count == 1
    assert len(errors()) == 1
    assert words in errors()[0]
    with site.connect() as client:
        assert get_until_end_of_other(client) == b"other"


class Short(bytes):
    """Says another size than it has, as a subclass may."""

    def __len__(self) -> int:
        return 3


def test_park_stream_of_a_subclass_of_bytes_is_its_own_bytes(site: Site) -> None:
    site.parks(Stream(Short(b"0123456789"), b", whole"))
    with site.connect() as client:
        assert get_until_end(client) == b"0123456789, whole"
        assert get_until_end_of_other(client) == b"other"


def test_park_stream_whose_aclose_raises_is_a_whole_response_and_logged_once(site: Site, errors: Any) -> None:
    site.parks(Stream(b"whole", close_error=RuntimeError("aclose, on purpose")))
    with site.connect() as client:
        assert get_until_end(client) == b"whole"
        assert get_until_end_of_other(client) == b"other"
    wait_until(errors, "a record")
    assert len(errors()) == 1
    assert "aclose, on purpose" in errors()[0]


def test_park_stream_whose_aclose_raises_system_exit_does_not_end_the_loop(site: Site, errors: Any) -> None:
    site.parks(Stream(b"whole", close_error=SystemExit(3)))
    with site.connect() as client:
        assert get_until_end(client) == b"whole"
        assert get_until_end_of_other(client) == b"other"
    wait_until(errors, "a record")
    assert "SystemExit" in errors()[0]


def test_park_stream_that_is_ended_early_closes_as_a_task_that_nobody_cancels() -> None:
    counts: list[int] = []

    class Noting(Stream):
        async def aclose(self) -> None:
            task = asyncio.current_task()
            assert task is not None
            counts.append(task.cancelling())

    site = Site()
    site.parks(Noting(b"first", hold=True))
    with MemoryServer(site) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        client.reset()
        server.settle()
    assert counts == [0]


def test_park_stream_whose_aclose_hangs_delays_nobody_and_is_given_up(
    site: Site, errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "_CLOSE_SECONDS", 0.05)
    stream = Stream(b"whole", close_hold=True)
    site.parks(stream)
    with site.connect() as client:
        assert get_until_end(client) == b"whole"
        assert get_until_end_of_other(client) == b"other"
    engine = site.server.server.engine
    wait_until(lambda: errors() and not site.server.call(lambda: engine.closing_tasks), "it is given up")
    assert stream.closed_count == 1
    assert len(errors()) == 1
    assert "has not closed within 0.05 s" in errors()[0]


def test_park_generator_that_swallows_its_cancellation_is_closed_all_the_same(site: Site, errors: Any) -> None:
    ended = threading.Event()

    async def generator() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            with suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()
            while True:
                yield b"to nobody"
        finally:
            ended.set()

    site.parks(generator())
    client = site.connect()
    begin(client)
    assert client.read_chunk() == b"first"
    client.reset()
    assert ended.wait(PATIENCE)
    assert errors() == []


def test_park_generator_that_fails_when_it_is_cancelled_is_logged_once(site: Site, errors: Any) -> None:
    async def generator() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.get_running_loop().create_future()
        finally:
            raise RuntimeError("in finally, on purpose")

    site.parks(generator())
    client = site.connect()
    begin(client)
    assert client.read_chunk() == b"first"
    client.reset()
    wait_until(errors, "a record")
    assert len(errors()) == 1
    assert "in finally, on purpose" in errors()[0]


def test_park_twice_raises_in_the_application_and_closes_the_first(site: Site, errors: Any) -> None:
    stream = Stream(b"never")

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        aiowsgi.park(environ, stream)
        return aiowsgi.park(environ, Stream())

    site.application = application
    with site.connect() as client:
        assert client.get().status_code == 500
    stream.wait_until_closed()
    assert (stream.closed_count, stream.begun) == (1, False)
    assert "only once" in errors()[0]


@pytest.mark.parametrize("when", ["before the head", "after the head", "in close()"])
def test_park_application_that_fails_after_it_closes_the_stream(site: Site, when: str, errors: Any) -> None:
    stream = Stream(b"never")

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            if when == "after the head":
                yield b"head"
            if when != "in close()":
                raise RuntimeError("on purpose")

        def close(self) -> None:
            if when == "in close()":
                raise RuntimeError("on purpose")

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        aiowsgi.park(environ, stream)
        return Body()

    site.application = application
    with site.connect() as client:
        if when == "before the head":
            assert client.get().status_code == 500
        else:
            with pytest.raises(Truncated):
                client.get()
    stream.wait_until_closed()
    assert (stream.closed_count, stream.begun) == (1, False)
    assert len(errors()) == 1


def test_park_after_the_response_raises(site: Site) -> None:
    environs: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environs.append(environ)
        start_response("200 OK", [])
        return [b"done"]

    site.application = application
    with site.connect() as client:
        assert client.get().content == b"done"
    wait_until(lambda: not site.server.call(lambda: site.server.server.engine.exchanges), "the request ends")
    with pytest.raises(aiowsgi.ApplicationError, match="only while its application runs"):
        aiowsgi.park(environs[0], Stream())


def test_park_when_a_streamed_response_has_ended_raises_and_leaves_it_whole(errors: Any) -> None:
    class Body:
        def __init__(self, environ: dict[str, Any]) -> None:
            self.environ = environ

        def __iter__(self) -> Iterator[bytes]:
            yield b"whole"

        def close(self) -> None:
            aiowsgi.park(self.environ, stream)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body(environ)

    stream = Stream(b"never")
    with MemoryServer(application) as server:
        client = SteppedClient(server)
        for _ in range(2):
            client.send(GET)
            assert client.receive().content == b"whole"
        server.settle()
    assert (stream.begun, len(errors())) == (False, 2)
    assert "only before its end" in errors()[0]


def test_park_what_is_not_asynchronously_iterable_raises_type_error() -> None:
    with pytest.raises(TypeError, match="not list"):
        aiowsgi.park({}, [b"block"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="asynchronous iterable, not"):
        aiowsgi.park({}, Stream)  # type: ignore[arg-type]


# Draining.


def shut_down(server: ServerThread, graceful: float) -> None:
    """Shut a server down, and wait for its thread: it has tasks to end, which would be told of as errors."""
    server.shutdown(graceful)
    server._thread.join(PATIENCE)


def test_park_streams_end_at_once_and_whole_when_the_server_drains(serve: Any, errors: Any) -> None:
    site = Site()
    site.server = serve(site)
    stream = Stream(b"first", hold=True)
    site.parks(stream)
    with site.connect() as client:
        begin(client)
        assert client.read_chunk() == b"first"
        began = time.monotonic()
        shutdown = threading.Thread(target=shut_down, args=(site.server, 20.0))
        shutdown.start()
        assert client.read_chunk() == b""
        assert client.at_end()
        assert time.monotonic() - began < 2
    shutdown.join(PATIENCE)
    assert time.monotonic() - began < 3
    assert stream.closed_count == 1
    assert errors() == []


@pytest.mark.parametrize("in_time", [True, False])
def test_park_stream_that_finishes_goes_on_while_the_server_drains(serve: Any, in_time: bool) -> None:
    site = Site()
    site.server = serve(site)
    stream = Stream(b"first", hold=True)
    site.parks(stream, finish=True)
    with site.connect() as client, site.connect() as idle:
        begin(client)
        assert client.read_chunk() == b"first"
        shutdown = threading.Thread(target=shut_down, args=(site.server, PATIENCE if in_time else 0.3))
        shutdown.start()
        # An idle connection is closed when the drain comes to the others.
        assert idle.at_end()
        if in_time:
            stream.blocks.append(b"last")
            site.server.call(stream.release)
            assert client.read_chunk() == b"last"
            assert client.read_chunk() == b""
        else:
            with pytest.raises((Truncated, ConnectionResetError)):
                client.read_chunk()
    shutdown.join(PATIENCE)
    assert stream.closed_count == 1


@pytest.mark.parametrize("finish", [False, True])
def test_park_while_the_server_drains_is_ended_unless_it_finishes(serve: Any, finish: bool) -> None:
    site = Site()
    site.server = serve(site)
    stream = Stream(b"parked", hold=not finish)
    running, go_on = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        running.set()
        assert go_on.wait(PATIENCE)
        return aiowsgi.park(environ, stream, finish=finish)

    site.application = application
    with site.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert running.wait(PATIENCE)
        shutdown = threading.Thread(target=shut_down, args=(site.server, 20.0))
        shutdown.start()
        wait_until(lambda: site.server.server.engine.draining, "the drain begins")
        go_on.set()
        assert client.receive().content == b"parked"
        assert client.at_end()
    shutdown.join(PATIENCE)
    assert not shutdown.is_alive()
    assert stream.closed_count == 1


def test_shutdown_without_time_returns_when_what_was_parked_has_closed(loop_name: str) -> None:
    ended = False

    async def stream() -> AsyncIterator[bytes]:
        nonlocal ended
        try:
            yield b"first"
            await asyncio.get_running_loop().create_future()
        finally:
            for _ in range(20):
                await asyncio.sleep(0.001)
            ended = True

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return aiowsgi.park(environ, stream())

    async def main() -> None:
        server = aiowsgi.Server(application, bind=["127.0.0.1:0"])
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await reader.readuntil(b"first")
        await server.shutdown(0)
        assert ended
        assert not server.engine.closing_tasks
        writer.close()

    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        runner.run(main())


def test_park_stream_whose_aclose_hangs_does_not_outlive_its_server(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "_CLOSING_SECONDS", 0.1)
    site = Site()
    site.server = serve(site)
    stream = Stream(b"first", hold=True, close_hold=True)
    site.parks(stream)
    with site.connect() as client:
        begin(client)
        assert client.read_chunk() == b"first"
        began = time.monotonic()
        shut_down(site.server, 0.2)
        assert time.monotonic() - began < 5
        assert client.read_chunk() == b""
    assert stream.closed_count == 1


# Calls that block.


def blocking_warnings(error_log: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in error_log.records
        if record.name == "aiowsgi.error" and record.levelno == logging.WARNING and "block" in record.getMessage()
    ]


def warning_of(site: Site, error_log: pytest.LogCaptureFixture, make_stream: Callable[[float], Any]) -> str:
    """Have a stream block for longer and longer, in seconds, until it is warned of; return the warning.

    The first time is enough, but for a machine that is busy with other things: there a call has to block for longer to
    be told from one that waits for the processor.
    """
    engine = site.server.server.engine
    for seconds in (0.15, 0.3, 0.6, 1.2, 2.4):
        site.parks(make_stream(seconds))
        with site.connect() as client:
            get_until_end(client)
        wait_until(lambda: not site.server.call(lambda: engine.closing_tasks), "it has closed")
        warnings = blocking_warnings(error_log)
        if warnings:
            assert len(warnings) == 1
            return warnings[0]
    raise AssertionError("there was no warning")


def line_of(mark: str) -> str:
    """Return file and line of this module's line with a mark."""
    path = Path(__file__)
    lines = path.read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if line.endswith(f"# {mark}")]
    return f"{path}:{number} in "


def test_blocking_call_in_parked_stream_is_reported_with_line_and_time(
    site: Site, error_log: pytest.LogCaptureFixture
) -> None:
    slept = 0.0

    async def stream(seconds: float) -> AsyncIterator[bytes]:
        nonlocal slept
        slept = seconds
        time.sleep(seconds)  # sleeps
        yield b"late"

    warning = warning_of(site, error_log, stream)
    assert line_of("sleeps") in warning
    assert "time.sleep(seconds)" in warning
    match = re.search(r" for (\d+\.\d+) s: ", warning)
    assert match
    assert slept - 0.01 <= float(match[1]) < slept + 5


def test_blocking_call_deep_in_a_library_is_reported_as_the_application_line(
    site: Site, error_log: pytest.LogCaptureFixture
) -> None:
    def fetch(seconds: float) -> bytes:
        try:
            return Queue[bytes]().get(timeout=seconds)  # waits in the standard library
        except Empty:
            return b"nothing"

    async def stream(seconds: float) -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        yield fetch(seconds)

    assert line_of("waits in the standard library") in warning_of(site, error_log, stream)


def test_blocking_call_in_an_iterable_of_a_library_is_reported_as_its_line(
    site: Site, error_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "_LIBRARIES", (str(Path(__file__).parent),))

    async def stream(seconds: float) -> AsyncIterator[bytes]:
        time.sleep(seconds)  # sleeps in what counts as a library
        yield b"late"

    assert line_of("sleeps in what counts as a library") in warning_of(site, error_log, stream)


def test_blocking_call_that_holds_the_interpreter_is_reported(site: Site, error_log: pytest.LogCaptureFixture) -> None:
    pattern = re.compile("(a+)+$")
    began = time.thread_time()
    pattern.match("a" * 18 + "b")
    short_seconds = time.thread_time() - began

    async def stream(seconds: float) -> AsyncIterator[bytes]:
        # Each letter doubles what it takes.
        text = "a" * (18 + math.ceil(math.log2(2 * seconds / short_seconds))) + "b"
        pattern.match(text)  # backtracks
        yield b"late"

    assert line_of("backtracks") in warning_of(site, error_log, stream)


def test_blocking_call_in_aclose_is_reported(site: Site, error_log: pytest.LogCaptureFixture) -> None:
    class Slow(Stream):
        def __init__(self, seconds: float) -> None:
            super().__init__(b"block")
            self.seconds = seconds

        async def aclose(self) -> None:
            time.sleep(self.seconds)  # sleeps in aclose

    assert line_of("sleeps in aclose") in warning_of(site, error_log, Slow)


def test_blocking_call_that_goes_on_is_reported_before_its_end(
    site: Site, error_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "_STILL_BLOCKING_SECONDS", 0.2)
    done = threading.Event()

    async def stream() -> AsyncIterator[bytes]:
        done.wait(PATIENCE)  # waits for the test
        yield b"late"

    site.parks(stream())
    with site.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until(lambda: blocking_warnings(error_log), "a warning")
        done.set()
        assert client.receive().content == b"late"
    assert "has been blocking" in blocking_warnings(error_log)[0]
    wait_until(lambda: len(blocking_warnings(error_log)) == 2, "the warning at the end")
    assert all(line_of("waits for the test") in text for text in blocking_warnings(error_log))


def test_streams_that_wait_or_take_many_short_steps_are_not_reported(
    site: Site, error_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "_STILL_BLOCKING_SECONDS", 0.15)

    async def stream() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.4)
        for _ in range(100):
            await asyncio.sleep(0.002)
        yield b"done"

    site.parks(stream())
    with site.connect() as client:
        assert get_until_end(client) == b"done"
    assert blocking_warnings(error_log) == []


def watcher_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "aiowsgi-blocking-watch"]


def test_blocking_watch_is_a_daemon_that_ends_when_nothing_is_parked(site: Site) -> None:
    stream = Stream(b"first", hold=True)
    site.parks(stream)
    client = site.connect()
    begin(client)
    assert client.read_chunk() == b"first"
    assert len(watcher_threads()) == 1
    assert all(thread.daemon for thread in threading.enumerate() if thread.name in watcher_threads())
    client.reset()
    wait_until(lambda: not watcher_threads(), "the thread ends")
    with site.connect() as client:
        assert get_until_end_of_other(client) == b"other"
    assert watcher_threads() == []
    site.parks(Stream(b"again"))
    with site.connect() as client:
        assert get_until_end(client) == b"again"
    assert len(watcher_threads()) == 1


async def test_watched_coroutine_shows_its_stack_as_any_other() -> None:
    async def coroutine() -> None:
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(blocking.WatchedCoroutine(coroutine()))
    await asyncio.sleep(0)
    assert [frame.f_code.co_name for frame in task.get_stack()] == ["coroutine"]
    assert f"running at {__file__}" in repr(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_watch_that_cannot_start_a_thread_is_logged_and_the_stream_goes_on(
    error_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, errors: Any
) -> None:
    watcher = blocking._Watcher()
    monkeypatch.setattr(blocking, "_watcher", watcher)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def coroutine() -> None:
        await asyncio.sleep(0)

    with monkeypatch.context() as patch, asyncio.Runner() as runner:
        patch.setattr(threading.Thread, "start", refuse)
        runner.run(blocking.WatchedCoroutine(coroutine()))
    assert len(errors()) == 1
    assert "can't start new thread" in errors()[0]


# On a server that cannot park.


def answered_by_wsgiref(application: Application, target: str = "/", method: str = "GET") -> bytes:
    """Serve one request with the standard library's server; return the content of its response."""

    class Quiet(wsgiref.simple_server.WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with wsgiref.simple_server.make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        server.timeout = PATIENCE
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        try:
            with socket.create_connection(("127.0.0.1", server.server_port), PATIENCE) as sock:
                sock.sendall(f"{method} {target} HTTP/1.0\r\n\r\n".encode())
                data = b"".join(iter(lambda: sock.recv(65536), b""))
        finally:
            thread.join(PATIENCE)
    return data.partition(b"\r\n\r\n")[2]


def test_park_on_another_server_streams_in_its_thread() -> None:
    threads: list[str] = []

    async def stream() -> AsyncIterator[bytes]:
        try:
            for number in range(3):
                await asyncio.sleep(0.001)
                yield b"%d" % number
        finally:
            await asyncio.sleep(0)
            threads.append(threading.current_thread().name)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        threads.append(threading.current_thread().name)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return aiowsgi.park(environ, stream())

    assert answered_by_wsgiref(wsgiref.validate.validator(application)) == b"012"
    assert len(threads) == 2
    assert threads[0] == threads[1]


def test_park_on_another_server_that_only_closes_closes_the_stream_once() -> None:
    stream = Stream(b"never")
    body = aiowsgi.park({}, stream)
    with closing(body):  # type: ignore[type-var]
        pass
    body.close()  # type: ignore[attr-defined]
    assert (stream.closed_count, stream.begun) == (1, False)
    assert list(body) == []


def test_park_on_another_server_closed_midway_closes_the_stream_once() -> None:
    stream = Stream(b"one", b"two")
    body = aiowsgi.park({}, stream)
    assert next(body) == b"one"
    body.close()  # type: ignore[attr-defined]
    assert stream.closed_count == 1


def test_park_on_another_server_raises_what_the_stream_raises() -> None:
    with closing(aiowsgi.park({}, Stream(b"one", error=KeyError("on purpose")))) as body:  # type: ignore[type-var]
        assert next(body) == b"one"
        with pytest.raises(KeyError, match="on purpose"):
            next(body)


def test_park_on_another_server_leaves_the_threads_event_loop_alone() -> None:
    own = asyncio.new_event_loop()
    asyncio.set_event_loop(own)
    try:
        with closing(aiowsgi.park({}, Stream(b"one"))) as body:  # type: ignore[type-var]
            assert list(body) == [b"one"]
        assert asyncio.get_event_loop() is own
    finally:
        asyncio.set_event_loop(None)
        own.close()


async def test_park_inside_of_another_event_loop_says_what_is_missing() -> None:
    with pytest.raises(aiowsgi.ApplicationError, match="serve it with aiowsgi"):
        aiowsgi.park({}, Stream(b"one"))
