"""A whole request's way through the server, in one thread: no sockets, no second thread, no time that passes.

This measures all of the project's own share of a request and nothing else, to within a hundredth; the same request over
sockets varies by a tenth from one second to the next.

Thread: the caller's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

from aiowsgi.bridge.pool import Job, ThreadPoolStats
from aiowsgi.config import Config
from aiowsgi.http.parsers import make_head_parser
from aiowsgi.semantics import ConnectionInfo
from aiowsgi.server.engine import Engine
from aiowsgi.server.protocol import Protocol

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from aiowsgi.bridge.affinity import Seat

__all__ = ["WholeRequests"]


class _Loop:
    """As much of an event loop as requests need that are not delayed: its timers never expire."""

    def __init__(self) -> None:
        self.ready: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self.time = time.monotonic

    def call_soon(self, callback: Callable[..., object], *args: object, context: object = None) -> None:
        self.ready.append((callback, args))

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> _Loop:
        return self

    call_later = call_at

    def cancel(self) -> None:
        """Cancel a timer."""

    def turn(self) -> None:
        for _ in range(len(self.ready)):
            callback, args = self.ready.popleft()
            callback(*args)


class _Pool:
    """Runs its jobs when it is told to."""

    thread_limit = 8
    waiting_count = 0

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def run(self) -> None:
        while self._jobs:
            self._jobs.popleft().run()

    def stats(self) -> ThreadPoolStats:
        return ThreadPoolStats(len(self._jobs), 0, 0, 0)

    def limit_running(self, count: int | None, seconds: float = 0.0) -> None: ...

    def transition_counts(self) -> Mapping[int, int]:
        return {}

    def gather(self, seat: Seat | None) -> None: ...

    def stalled(self, ready: Callable[[], bool]) -> AbstractContextManager[None]:
        return nullcontext()

    def mark_stuck(self, job: Job, thread_id: int | None) -> bool:
        return True

    def unmark_stuck(self, job: Job) -> None: ...


class _Transport:
    """Takes all that is written, and keeps the last of it."""

    __slots__ = ("written",)

    def __init__(self) -> None:
        self.written = b""

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None: ...

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written = data

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.written = b"".join(pieces)


class WholeRequests:
    """Connections that ask once each time they are told to.

    Args:
        application: any WSGI application that answers with a list.
        parser_name: ``"h11"`` or ``"httptools"``.
        connection_count: how many there are.
    """

    def __init__(self, application: WSGIApplication, parser_name: str, connection_count: int) -> None:
        self._loop = _Loop()
        self._pool = _Pool()
        engine = Engine(
            application,
            Config(concurrency="fixed"),
            loop=cast(asyncio.AbstractEventLoop, self._loop),
            pool=self._pool,
            io_pool=self._pool,
            parser=make_head_parser(parser_name),
            software="bench",
        )
        self._connections: list[tuple[Protocol, _Transport]] = []
        for number in range(connection_count):
            info = ConnectionInfo("http", "192.0.2.7", str(1024 + number), "192.0.2.1", "8000")
            protocol, transport = Protocol(engine, info), _Transport()
            protocol.connection_made(cast(Any, transport))
            self._connections.append((protocol, transport))

    def ask(self, head: bytes) -> list[bytes]:
        """Have a request arrive on each connection, and all be answered; return the answers."""
        for protocol, transport in self._connections:
            transport.written = b""
            protocol.data_received(head)
        while self._loop.ready:
            self._loop.turn()
            self._pool.run()
        return [transport.written for _, transport in self._connections]
