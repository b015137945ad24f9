"""Servers that accept from the same sockets, as the workers of a supervisor do."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi import Server
from aiowsgi.server import listeners
from tests.conftest import ServerThread
from tests.process.server_process import PATIENCE, wait_until
from tests.raw import RawClient

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as sock:
        sock.setblocking(False)
        yield sock


def connect(sock: socket.socket) -> RawClient:
    return RawClient(socket.create_connection(sock.getsockname(), PATIENCE))


class Sharing:
    """Two servers on one socket, the first of which holds its requests until it is released; the second if wanted."""

    def __init__(self, listening: socket.socket, loop_name: str, **options: Any) -> None:
        self.released = threading.Event()
        options["threads"] = 1
        self.first = ServerThread(Server(self.hold, shared_sockets=[listening.dup()], **options), loop_name)
        self._listening = listening
        self._loop_name = loop_name
        self._options = options

    @cached_property
    def second(self) -> ServerThread:
        server = Server(self.answer, shared_sockets=[self._listening.dup()], **self._options)
        return ServerThread(server, self._loop_name)

    def occupy_first(self) -> list[RawClient]:
        """Return two clients of the first server, for which one request runs, and one waits: it is busy."""
        clients = [connect(self._listening) for _ in range(2)]
        for client in clients:
            client.send(GET)
        wait_until(lambda: requests(self.first) == (1, 1), "a queue over the watermark")
        return clients

    def hold(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert self.released.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"first"]

    def answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"second" if environ["wsgi.multiprocess"] else b"alone"]

    def __enter__(self) -> Sharing:
        self.first.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.released.set()
        try:
            self.first.stop()
        finally:
            if "second" in self.__dict__:
                self.second.stop()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have busy servers leave connections to others for as long as a test lasts."""
    monkeypatch.setattr(listeners, "_BUSY_SECONDS", PATIENCE)


def requests(server: ServerThread) -> tuple[int, int]:
    """Return how many requests run and how many wait."""
    stats = server.call(server.server.stats)
    return stats.requests.running, stats.requests.waiting


# A socket that lets no others in is shared, even if each was to have its own.
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("reuse_port", [False, True])
def test_busy_server_leaves_connections_to_the_other_one(
    listening: socket.socket, loop_name: str, reuse_port: bool
) -> None:
    with Sharing(listening, loop_name, reuse_port=reuse_port) as sharing:
        held = sharing.occupy_first()
        late = [connect(listening) for _ in range(5)]
        for client in late:
            client.send(GET)
        sharing.second.start()
        for client in late:
            assert client.receive().content == b"second"
        sharing.released.set()
        for client in held:
            assert client.receive().content == b"first"
        for client in held + late:
            client.close()


@pytest.mark.usefixtures("patient")
def test_connection_that_ends_does_not_have_a_busy_server_take_others_sooner(
    listening: socket.socket, loop_name: str
) -> None:
    with Sharing(listening, loop_name) as sharing:
        held = sharing.occupy_first()
        late = [connect(listening) for _ in range(5)]
        for client in late:
            client.send(GET)
        for _ in range(20):
            sharing.first.call(sharing.first.server._connection_ended)
        assert requests(sharing.first) == (1, 1)
        sharing.second.start()
        for client in late:
            assert client.receive().content == b"second"
        sharing.released.set()
        for client in held:
            assert client.receive().content == b"first"
        for client in held + late:
            client.close()


@pytest.mark.parametrize("count", [1, 20])
def test_busy_server_takes_what_nobody_else_has_taken(listening: socket.socket, loop_name: str, count: int) -> None:
    with Sharing(listening, loop_name, health_path="/alive") as sharing:
        held = sharing.occupy_first()
        for _ in range(2):
            late = [connect(listening) for _ in range(count)]
            for client in late:
                assert client.get("/alive").status_code == 200
                client.close()
        sharing.released.set()
        for client in held:
            assert client.receive().content == b"first"
            client.close()


def test_server_whose_threads_hang_refuses_what_waits_too_long(listening: socket.socket, loop_name: str) -> None:
    with Sharing(listening, loop_name, queue_size=2, queue_timeout=0.05) as sharing:
        held = connect(listening)
        held.send(GET)
        wait_until(lambda: requests(sharing.first) == (1, 0), "a request that holds the thread")
        for _ in range(3):
            late = [connect(listening) for _ in range(5)]
            for client in late:
                client.send(GET)
            for client in late:
                assert client.receive().status_code == 503
                client.close()
        sharing.released.set()
        assert held.receive().content == b"first"
        held.close()


def test_requests_that_were_withdrawn_keep_no_server_busy(listening: socket.socket, loop_name: str) -> None:
    with Sharing(listening, loop_name, queue_timeout=0.1) as sharing:
        held = [connect(listening) for _ in range(3)]
        for client in held:
            client.send(GET)
        statuses = sorted(client.receive().status_code for client in held[1:])
        server = sharing.first.server
        assert statuses == [503, 503]
        assert sharing.first.call(lambda: server.engine.pool.waiting_count) == 2  # the thread has had no time for them
        assert not sharing.first.call(server._is_busy)
        sharing.released.set()
        assert held[0].receive().content == b"first"
        for client in held:
            client.close()


@pytest.mark.usefixtures("patient")
def test_server_that_leaves_the_backlog_drains_without_it(listening: socket.socket, loop_name: str) -> None:
    with Sharing(listening, loop_name) as sharing:
        held = sharing.occupy_first()
        waiting = connect(listening)
        waiting.send(GET)
        server = sharing.first.server
        drain = asyncio.run_coroutine_threadsafe(server.shutdown(PATIENCE, leave_backlog=True), server.engine.loop)
        wait_until(lambda: sharing.first.call(lambda: server.engine.draining), "the end of accepting")
        sharing.released.set()
        for client in held:
            assert client.receive().content == b"first"
        drain.result(PATIENCE)
        sharing.second.start()
        assert waiting.receive().content == b"second"
        for client in [*held, waiting]:
            client.close()


def test_server_is_given_more_sockets_while_it_runs(listening: socket.socket, loop_name: str) -> None:
    with Sharing(listening, loop_name) as sharing, socket.create_server(("127.0.0.1", 0)) as another:
        sharing.second.start()
        another.setblocking(False)
        sharing.second.call(lambda: sharing.second.server.listen([another.dup()]))
        with connect(another) as client:
            assert client.get("/").content == b"second"
        assert len(sharing.second.server.urls) == 2
        late = another.dup()

        async def lend_too_late() -> None:
            drains.append(asyncio.ensure_future(sharing.second.server.shutdown()))
            sharing.second.server.listen([late])

        drains: list[asyncio.Future[object]] = []
        loop = sharing.second.server.engine.loop
        asyncio.run_coroutine_threadsafe(lend_too_late(), loop).result(PATIENCE)
        wait_until(lambda: late.fileno() == -1, "the end of a socket that came too late")
