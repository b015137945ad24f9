"""A server without sockets, whose threads and clock move only when the test says so.

Thread: the test's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import threading
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from aiowsgi.config import Config
from aiowsgi.http.parsers import make_head_parser
from aiowsgi.server.engine import Engine
from aiowsgi.server.protocol import Protocol
from aiowsgi.testing.client import MemoryClient
from aiowsgi.testing.loop import VirtualLoop
from aiowsgi.testing.pool import StepPool
from aiowsgi.testing.transport import MemoryTransport
from aiowsgi.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from aiowsgi.bridge.disconnection import Disconnection

__all__ = ["MemoryServer"]

# More than any test needs; it ends one that would never end.
_MOST_STEPS = 10_000_000


class MemoryServer:
    r"""Serves a WSGI application to clients in memory: the engine of :class:`~aiowsgi.server.Server`, step by step.

    Nothing moves except in :meth:`step`, :meth:`settle` and :meth:`advance`, and time passes only in the last one; an
    application's wait on ``environ["aiowsgi.disconnected"]`` goes by that time as well. Only threads that the
    application has started itself run freely, and wait for a client until one of these methods lets it move.

    ::

        with MemoryServer(application, write_timeout=30) as server:
            client = server.connect()
            client.send(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
            server.settle()  # the application has run as far ahead of its client as it may
            client.read(1000)
            server.advance(31)  # the client takes no more
            assert client.was_reset

    Args:
        application: any WSGI application. It runs in threads of its own, one at a time.
        config: every setting, instead of ``options``.
        kernel_size: bytes that each client's kernel holds for it.
        options: fields of :class:`~aiowsgi.config.Config`.
    """

    def __init__(
        self,
        application: WSGIApplication,
        config: Config | None = None,
        *,
        kernel_size: int = 64 * 1024,
        **options: Any,
    ) -> None:
        self.config = Config(**options) if config is None else config
        self.loop = self.make_loop()
        #: Runs the application.
        self.pool = StepPool("step-application")
        #: Reads and writes files.
        self.io_pool = StepPool("step-io")
        self._application = application
        self._kernel_size = kernel_size
        self.engine = Engine(
            self._run,
            # How late this loop is says nothing about the interpreter, nor its clock about what threads compute.
            dataclasses.replace(self.config, switch_interval=0.0, concurrency="fixed"),
            loop=cast(asyncio.AbstractEventLoop, self.loop),  # as much of one as the engine uses
            pool=self.pool,
            io_pool=self.io_pool,
            parser=make_head_parser(self.config.http),
            software=f"aiowsgi/{__version__}",
            clock=self.loop.time,
            random=Random(0),
        )

    def make_loop(self) -> VirtualLoop:
        """Return the server's loop; a test that wants a loop of its own overrides this."""
        return VirtualLoop()

    def _run(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["aiowsgi.disconnected"] = _Disconnection(self, environ["aiowsgi.disconnected"])
        return self._application(environ, start_response)

    def connect(self, **options: Any) -> MemoryClient:
        """Return a client that is connected; ``options`` are of :class:`~aiowsgi.testing.MemoryTransport`."""
        client = MemoryClient(self._kernel_size)
        MemoryTransport(self.loop, Protocol(self.engine), client, **options)
        return client

    def step(self) -> bool:
        """Let something move: a turn of the loop, a file job or an application; return whether anything could."""
        if self.loop.has_ready:
            self.loop.run_turn()
            return True
        return self.io_pool.step() or self.pool.step()

    def settle(self) -> None:
        """Step until everything waits: for a client, or for time to pass."""
        for _ in range(_MOST_STEPS):
            if not self.step():
                return
        raise RuntimeError(f"nothing has come to rest in {_MOST_STEPS} steps")

    def advance(self, seconds: float) -> None:
        """Let time pass, and everything move that it sets going."""
        end = self.loop.time() + seconds
        self.settle()
        while (when := self.loop.next_timer) is not None and when <= end:
            self.loop.advance(max(0.0, when - self.loop.time()))
            self.settle()
        self.loop.advance(end - self.loop.time())
        self.settle()

    def drain(self, idle_grace: float = 0.1) -> None:
        """Begin what :meth:`Server.shutdown() <aiowsgi.server.Server.shutdown>` does to connections.

        Args:
            idle_grace: seconds before idle connections are closed.
        """
        self.engine.draining = True
        self.engine.keeps_connections = False
        self.engine.dispersal.begin(self.config.graceful_timeout)
        self.loop.call_later(idle_grace, self._close_idle)

    def _close_idle(self) -> None:
        for connection in list(self.engine.connections):
            connection.drain()

    @property
    def at_rest(self) -> bool:
        """Whether no connection is open and no application runs: what a drain waits for."""
        return not self.engine.connections and not self.engine.exchanges

    def close(self) -> None:
        """Break off every connection, let the applications see it, and end the threads."""
        try:
            for connection in list(self.engine.connections):
                connection.abort()
            self.settle()
        finally:
            self.pool.close()
            self.loop.run_ready()
            self.io_pool.close()
            self.loop.run_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Disconnection:
    """``environ["aiowsgi.disconnected"]``, whose wait goes by the loop's time and lets others move."""

    def __init__(self, server: MemoryServer, disconnection: Disconnection) -> None:
        self._server = server
        self.is_set = disconnection.is_set
        self.add_callback = disconnection.add_callback
        self.remove_callback = disconnection.remove_callback

    def wait(self, timeout: float | None = None) -> bool:
        """See :meth:`aiowsgi.bridge.disconnection.Disconnection.wait`."""
        loop = self._server.loop
        pool = self._server.pool
        over = threading.Event()
        end = math.inf if timeout is None else loop.time() + timeout
        if timeout is not None:
            loop.call_soon_threadsafe(loop.call_at, end, over.set)  # the clock stops there, at least
        if pool.has_calling_thread:
            pool.wait_until(lambda: self.is_set() or loop.time() >= end)
        else:  # one that the application has started itself
            self.add_callback(over.set)
            over.wait()
            self.remove_callback(over.set)
        return self.is_set()
