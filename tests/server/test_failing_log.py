"""A log handler of the program's own that fails: it costs no client its answer, and nothing its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi import Server, park
from aiowsgi.http.connection import HTTPConnection
from aiowsgi.server.deadlines import NEVER, Deadlines
from aiowsgi.testing import MemoryServer, VirtualLoop
from tests.conftest import ServerThread
from tests.hosting import run_in_loop
from tests.raw import Truncated
from tests.simulation.memory import GET, SteppedClient, hello, remains

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

PATIENCE = 10.0


def test_file_that_became_shorter_ends_the_connection(tmp_path: Path, failing_log: list[str]) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(3_000_000))

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        file: Iterable[bytes] = environ["wsgi.file_wrapper"](path.open("rb"))
        return file

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        os.truncate(path, 1_000_000)
        with pytest.raises(Truncated):
            client.receive()
        client.close()
        server.settle()
        assert not remains(server)
    assert "cannot send the file" in failing_log[0]


def test_access_log_that_cannot_be_written_nor_told_of_does_not_keep_the_server(
    monkeypatch: pytest.MonkeyPatch, failing_log: list[str]
) -> None:
    """Its last lines wait for a pipe that nobody reads."""
    monkeypatch.setattr("aiowsgi.server.access_log._CLOSE_SECONDS", 0.01)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))

    async def main() -> None:
        server = Server(hello, shared_sockets=[], access_logfile=f"/dev/fd/{writing}")
        await server.start()
        assert server._observation is not None
        assert server._observation.access_log is not None
        assert server._observation.access_log._writer is not None
        server._observation.access_log._writer.put(["last\n"], 5)
        await asyncio.wait_for(server.shutdown(), PATIENCE)

    try:
        run_in_loop("asyncio", main)
        assert "the last lines of the access log were not written in" in failing_log[-1]
    finally:
        os.close(writing)
        while os.read(reading, 65536):  # to the end: the writer has written and closed
            pass
        os.close(reading)


class Stream(AsyncIterator[bytes]):
    """Yields one block; then it raises, or ends; so does its ``aclose()``."""

    def __init__(self, error: Exception | None = None, close_error: Exception | None = None) -> None:
        self.error = error
        self.close_error = close_error
        self.begun = False
        self.closed_count = 0

    async def __anext__(self) -> bytes:
        if not self.begun:
            self.begun = True
            return b"first"
        raise self.error or StopAsyncIteration

    async def aclose(self) -> None:
        self.closed_count += 1
        if self.close_error is not None:
            raise self.close_error


class Around:
    """What is parked where its iterator is another object, to be closed as well."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.closed_count = 0

    def __aiter__(self) -> Stream:
        return self.stream

    async def aclose(self) -> None:
        self.closed_count += 1


def parking(parked: Any) -> Any:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return park(environ, parked)

    return application


def test_parked_stream_that_fails_is_cut_off_and_closed(failing_log: list[str]) -> None:
    stream = Stream(RuntimeError("on purpose"))
    with MemoryServer(parking(stream)) as server:
        client = SteppedClient(server)
        client.send(GET)
        with pytest.raises((Truncated, ConnectionResetError)):
            client.receive()
        client.close()
        server.settle()
        assert stream.closed_count == 1
        assert not remains(server)
    assert "failed while parked" in failing_log[0]


def test_parked_stream_whose_iterator_fails_to_close_is_closed_itself(failing_log: list[str]) -> None:
    around = Around(Stream(close_error=RuntimeError("on purpose")))
    with MemoryServer(parking(around)) as server:
        client = SteppedClient(server)
        client.send(GET)
        assert client.receive().content == b"first"
        server.settle()
        assert (around.stream.closed_count, around.closed_count) == (1, 1)
        assert not server.engine.closing_tasks
    assert "failed to close" in failing_log[0]


def test_farewell_that_fails_leaves_the_response_whole(failing_log: list[str]) -> None:
    class Endless(Stream):
        async def __anext__(self) -> bytes:
            if self.begun:
                await server.loop.create_future()
            return await super().__anext__()

        def farewell(self, absence: float) -> bytes:
            raise RuntimeError("on purpose")

    with MemoryServer(parking(Endless())) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        server.drain()
        server.advance(1)
        assert client.receive().content == b"first"
    assert "has no farewell" in failing_log[0]


def test_content_that_cannot_be_stored_is_500(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_log: list[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with MemoryServer(hello, request_buffer=1000) as server:
        client = SteppedClient(server)
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\n\r\n" + bytes(5000))
        assert client.receive().status_code == 500
        assert client.at_end()
    assert "cannot store request content" in failing_log[0]


def test_request_that_is_refused_gets_its_answer(failing_log: list[str]) -> None:
    with MemoryServer(hello) as server:
        client = SteppedClient(server)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert client.receive().status_code == 400
        assert client.at_end()
    assert "refused a request" in failing_log[0]


def test_response_that_is_not_taken_is_reset(failing_log: list[str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [bytes(1_000_000)]

    with MemoryServer(application, write_timeout=10) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.advance(30)
        assert client.memory.was_reset
    assert "does not take its response" in failing_log[0]


def test_error_in_one_connection_costs_no_other_its_answer(
    monkeypatch: pytest.MonkeyPatch, failing_log: list[str]
) -> None:
    receive_data = HTTPConnection.receive_data

    def fail(connection: HTTPConnection, data: bytes) -> Any:
        if b"/broken" in data:
            raise ZeroDivisionError
        return receive_data(connection, data)

    monkeypatch.setattr(HTTPConnection, "receive_data", fail)
    with MemoryServer(hello, queue_size=1) as server:  # so that all but the first are postponed
        clients = [SteppedClient(server) for _ in range(4)]
        for client, path in zip(clients, (b"/", b"/broken", b"/", b"/"), strict=True):
            client.send(GET.replace(b"/ ", path + b" ", 1))
        server.settle()
        assert clients[1].memory.was_reset or clients[1].at_end()
        for client in (clients[0], *clients[2:]):
            assert client.receive().status_code in (200, 503)
    assert "internal error while reading from" in failing_log[0]


class Failing:
    """Raises at its deadline."""

    def __init__(self) -> None:
        self.deadline = self.looked_at = NEVER
        self.passed = False

    def deadline_passed(self, now: float) -> None:
        self.passed = True
        raise RuntimeError("on purpose")


def test_deadlines_of_others_pass(failing_log: list[str]) -> None:
    loop = VirtualLoop()
    deadlines = Deadlines(loop)  # type: ignore[arg-type]  # what of it they use
    holders = [Failing() for _ in range(3)]
    for holder in holders:
        deadlines.set(holder, 1.0)
    loop.advance(2)
    assert [holder.passed for holder in holders] == 3 * [True]
    assert len(failing_log) == 3


def test_request_over_its_time_is_answered_504(serve: Callable[..., ServerThread], failing_log: list[str]) -> None:
    released = threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        released.wait(PATIENCE)
        start_response("200 OK", [])
        return []

    server = serve(application, request_timeout=0.1)
    try:
        with server.connect() as client:
            assert client.get("/").status_code == 504
    finally:
        released.set()
    assert "is given up" in failing_log[0]
