"""What the tests in memory share: a client that moves the server while it waits, and what must not be left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from aiowsgi.testing import MemoryServer
from tests.raw import RawClient, Truncated

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


class NothingArrived(Exception):
    """The server has come to rest, and what was waited for is not there."""


class SteppedClient(RawClient):
    """A :class:`~tests.raw.RawClient` without a socket: where that would wait, the server runs until it rests."""

    def __init__(self, server: MemoryServer, **options: Any) -> None:
        self.memory = server.connect(**options)
        self.server = server
        self._buffer = b""

    def close(self) -> None:
        self.memory.close()

    def reset(self) -> None:
        self.memory.reset()

    def send(self, data: bytes) -> None:
        self.memory.send(data)

    def end(self) -> None:
        self.memory.end()

    def _fill(self) -> None:
        self.server.settle()
        data = self.memory.read()
        self._buffer += data
        if not data:
            if self.memory.was_reset:
                raise ConnectionResetError(self._buffer)
            if self.memory.at_end:
                raise Truncated(self._buffer)
            raise NothingArrived(self._buffer)

    def at_end(self) -> bool:
        self.server.settle()
        return not self._buffer and self.memory.at_end


def remains(server: MemoryServer) -> dict[str, object]:
    """Return what a server holds that it must not hold once all clients are gone; empty if nothing."""
    engine = server.engine
    held = {
        "connections": engine.connections,
        "exchanges": engine.exchanges,
        "batch": (*engine.intake._batch, *engine.intake._postponed, *([None] if engine.intake.postpones else ())),
        "deadlines": set().union(*engine.deadlines._buckets.values()),
        "watched": engine.watch._connections,
        "content bytes": engine.content_budget.used,
        "content files": engine.content_files,
        "jobs": (*server.pool.begun, *server.io_pool.begun),
        "waiting jobs": server.io_pool.waiting_count,
        "withdrawn": () if server.pool.waiting_count else engine.intake.withdrawn,
        "closing tasks": engine.closing_tasks,
        "wake-ups": engine.wakeup._ready,
    }
    return {name: value for name, value in held.items() if value}


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


def blocks(count: int, size: int) -> WSGIApplication:
    """Return an application that answers with a generator of equal blocks, and tells on itself.

    Its attribute ``made`` counts the blocks, ``closed`` the calls of ``close()``, ``errors`` holds what ended it early.
    """

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(count * size))])
        return body()

    def body() -> Iterable[bytes]:
        try:
            for _ in range(count):
                application.made += 1
                yield bytes(size)
        except BaseException as error:
            application.errors.append(error)
            raise
        finally:
            application.closed += 1

    application.made = application.closed = 0
    application.errors = []
    return application


def each_path(**applications: Callable[..., Iterable[bytes]]) -> WSGIApplication:
    """Return an application that passes ``/name`` on to the application of that name."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return applications[environ["PATH_INFO"].strip("/")](environ, start_response)

    return application
