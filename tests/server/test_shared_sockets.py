"""Servers that accept from the same sockets, as the workers of a supervisor do."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from aiowsgi import Server
from aiowsgi.config import parse_bind
from aiowsgi.server.listeners import clone_socket, open_sockets
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
    """Two servers on one socket, the first of which holds its requests until it is released."""

    def __init__(self, listening: socket.socket, loop_name: str) -> None:
        self.released = threading.Event()
        self.first = ServerThread(Server(self.hold, threads=1, shared_sockets=[listening.dup()]), loop_name)
        self.second = ServerThread(Server(self.answer, threads=1, shared_sockets=[listening.dup()]), loop_name)

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
            self.second.stop()


def requests(server: ServerThread) -> tuple[int, int]:
    """Return how many requests run and how many wait."""
    stats = server.call(server.server.stats)
    return stats.requests.running, stats.requests.waiting


def test_busy_server_leaves_connections_to_the_other_one(listening: socket.socket, loop_name: str) -> None:
    with Sharing(listening, loop_name) as sharing:
        held = [connect(listening) for _ in range(2)]
        for client in held:
            client.send(GET)
        wait_until(lambda: requests(sharing.first) == (1, 1), "a queue over the watermark")
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


def test_server_that_leaves_the_backlog_drains_without_it(listening: socket.socket, loop_name: str) -> None:
    with Sharing(listening, loop_name) as sharing:
        held = [connect(listening) for _ in range(2)]
        for client in held:
            client.send(GET)
        wait_until(lambda: requests(sharing.first) == (1, 1), "a queue over the watermark")
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


def test_socket_is_cloned_only_where_it_lets_others_in(listening: socket.socket) -> None:
    with pytest.raises(OSError):
        clone_socket(listening, 10)
    (sock,) = open_sockets([parse_bind("127.0.0.1:0")], 10, reuse_port=True)
    with sock, clone_socket(sock, 10) as clone:
        assert clone.getsockname() == sock.getsockname()
