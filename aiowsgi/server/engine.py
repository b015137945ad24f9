"""What all connections of one server share: configuration, application, pools, clocks and counters.

A :class:`~aiowsgi.server.protocol.Protocol` needs nothing else of the server, so that tests drive it with a virtual
clock, an in-memory transport and a pool that steps.

Thread: event loop, but for :meth:`Engine.forget`. Workers read what never changes, and ``keeps_connections``,
``draining`` and ``observer`` a moment late at worst; they add to, or take from, ``exchanges``, ``queue_waits`` and the
intake's ``withdrawn``, each with one operation that is atomic.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections import deque
from random import Random
from typing import TYPE_CHECKING

from aiowsgi.bridge.pool import Pool
from aiowsgi.bridge.saturation import Saturation
from aiowsgi.bridge.switching import SHORT_INTERVAL, Haste
from aiowsgi.bridge.wakeup import Wakeup
from aiowsgi.config import Config
from aiowsgi.http.forwarded import forwarding_of
from aiowsgi.http.parsers import HeadParser
from aiowsgi.http.policy import RequestPolicy
from aiowsgi.server.content import MemoryBudget
from aiowsgi.server.deadlines import Deadlines
from aiowsgi.server.dispersal import Dispersal
from aiowsgi.server.intake import Intake
from aiowsgi.server.reception import HEAD_BUFFER_SIZE
from aiowsgi.server.watch import DisconnectWatch
from aiowsgi.wsgi.environ import base_environ, endpoint_environ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from wsgiref.types import WSGIApplication, WSGIEnvironment

    from aiowsgi.channels.link import Link
    from aiowsgi.semantics import ConnectionInfo
    from aiowsgi.server.content import ContentBuffer
    from aiowsgi.server.exchange import Exchange
    from aiowsgi.server.observed import Observer
    from aiowsgi.server.opening import Opening
    from aiowsgi.server.protocol import Protocol
    from aiowsgi.server.responder import Responder

__all__ = ["Engine"]

_logger = logging.getLogger("aiowsgi.error")

# What an exchange sets in each environ: the keys are there from the start, so that the dict need not grow.
_EXCHANGE_VARIABLES = dict.fromkeys(("aiowsgi.disconnected", "aiowsgi.park", "waitress.client_disconnected"))

# Server addresses whose part of environ is kept. Arbitrary; a trusted proxy may name any number of them.
_KNOWN_ENDPOINTS = 64


class Engine:
    """What the connections of one server have in common.

    Args:
        application: any WSGI application.
        config: every setting.
        loop: the event loop of all connections.
        pool: runs the application.
        io_pool: reads and writes files.
        parser: reads heads.
        software: ``SERVER_SOFTWARE`` and the Server field: ``"aiowsgi/1.0"``.
        multiprocess: other processes run the same application: ``wsgi.multiprocess``.
        alone: nothing but the server runs in this process.
        clock: for what threads measure; ``loop.time()`` will not do, uvloop's stands still during a wait.
        random: draws when a drain ends what is parked.
    """

    def __init__(
        self,
        application: WSGIApplication,
        config: Config,
        *,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        io_pool: Pool,
        parser: HeadParser,
        software: str,
        multiprocess: bool = False,
        alone: bool = False,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self.application = application
        self.config = config
        self.loop = loop
        self.pool = pool
        self.io_pool = io_pool
        self.parser = parser
        self.policy = RequestPolicy(config)
        #: Makes the interpreter switch sooner while the loop is held up.
        self.haste = Haste(loop, SHORT_INTERVAL if config.switch_interval is None else config.switch_interval)
        #: Has requests run one after another while more threads would only be in each other's way.
        self.saturation = Saturation(loop, pool, alone=alone, clock=clock)
        if config.concurrency == "fixed":
            self.saturation.close()
        #: Admits requests to the pool.
        self.intake = Intake(loop, pool, self.saturation, config.queue_size, clock, self._log_refusal)
        self.wakeup = Wakeup(loop, clock, self.haste.note)
        self.deadlines = Deadlines(loop)
        self.watch = DisconnectWatch(loop)
        #: Ends what is parked, in a drain.
        self.dispersal = Dispersal(loop, config.drain_rate, random or Random())
        self.content_budget = MemoryBudget(config.request_buffer_total)
        #: Contents that have a temporary file, or are about to.
        self.content_files: set[ContentBuffer] = set()
        #: Connections and such files, together, at which there are to be no more files; whoever accepts sets it.
        self.file_limit = sys.maxsize
        #: Where connections that upload receive heads; nothing stays in it from one read to the next.
        self.head_buffer = bytearray(HEAD_BUFFER_SIZE)
        self.server_field = f"Server: {software.partition('/')[0]}\r\n" if config.server_header else ""
        #: What to do with what proxies say about their clients; ``None`` for nothing.
        self.forwarding = forwarding_of(config)
        #: What is the same in every environ; not to be changed after the first request.
        self.base_environ = _EXCHANGE_VARIABLES | base_environ(
            software=software,
            root_path=config.root_path,
            multithread=pool.thread_limit > 1,
            multiprocess=multiprocess,
            extra=dict(text.split("=", 1) for text in config.environ),
        )
        #: Connections that have been accepted, and whose transport is still being made.
        self.arriving: set[Protocol | Opening] = set()
        #: Connections on which something precedes HTTP.
        self.openings: set[Opening] = set()
        #: Connections that are open.
        self.connections: set[Protocol] = set()
        #: Those of the intake's whose worker has not ended. Any thread removes its own.
        self.exchanges = self.intake.exchanges
        #: Tasks that close what was parked and will not be sent; the loop itself holds tasks only weakly.
        self.closing_tasks: set[asyncio.Task[object]] = set()
        #: A response may leave its connection open.
        self.keeps_connections = config.keep_alive > 0
        #: Seconds that the last requests waited for a thread. Workers append, which is atomic.
        self.queue_waits: deque[float] = deque(maxlen=1000)
        #: How many bytes of a response a transport without TLS is given at a time.
        self.portion_size = sys.maxsize
        #: Requests that have been answered whole.
        self.completed_count = 0
        #: Threads that still run a request that was given up.
        self.stuck_count = 0
        #: The server will drain soon, and still serves.
        self.leaving = False
        #: No new requests are wanted.
        self.draining = False
        #: Links to the brokers without which no requests are wanted.
        self.broker_links: Sequence[Link] = ()
        #: Answers requests for the server itself, where there are any.
        self.responder: Responder | None = None
        #: How many connections there have been.
        self.accepted_count = 0
        #: Notified of the end of each request; ``None`` if nothing observes.
        self.observer: Observer | None = None
        self.clock = clock
        self._environs: dict[tuple[str, str, str], WSGIEnvironment] = {}
        self._on_change: Callable[[], object] | None = None

    def environ_of(self, connection: ConnectionInfo) -> WSGIEnvironment:
        """Return what is the same in every environ of a connection; it is shared, and not to be changed.

        One for each connection would take 0.4 KB more, and with thousands of connections that is in no cache: with
        4,000 active ones a request takes 41.7 µs instead of 38.3.
        """
        if connection.tls_variables:
            return endpoint_environ(self.base_environ, connection)
        endpoint = connection.scheme, connection.server_host, connection.server_port
        environ = self._environs.get(endpoint)
        if environ is None:
            environ = endpoint_environ(self.base_environ, connection)
            if len(self._environs) < _KNOWN_ENDPOINTS:
                self._environs[endpoint] = environ
        return environ

    def _log_refusal(self, exchange: Exchange, error: RuntimeError) -> None:
        """The pool was closed: at the end of a drain, or a shared one by its owner, too early.

        In a drain the connections are being aborted, which withdraws the exchange; else ``queue_timeout`` answers.
        """
        if not self.draining:
            # A log handler that fails must not keep the pool from the rest of a batch.
            with contextlib.suppress(Exception):
                _logger.error("cannot run %r: %s", exchange, error)

    def forget(self, exchange: Exchange) -> None:
        """An exchange has ended, or will never run. Any thread."""
        self.exchanges.discard(exchange)
        if self.draining:
            self.wakeup.notify(self)

    @property
    def connection_count(self) -> int:
        """Connections, whether arriving, opening or open."""
        return len(self.connections) + len(self.openings) + len(self.arriving)

    @property
    def file_left(self) -> bool:
        """Whether content may go to one more file."""
        return self.connection_count + len(self.content_files) < self.file_limit

    def add_connection(self, connection: Protocol) -> None:
        """A connection was made."""
        self.arriving.discard(connection)
        self.connections.add(connection)
        self.accepted_count += 1

    def remove_connection(self, connection: Protocol) -> None:
        """A connection is gone."""
        self.arriving.discard(connection)
        self.connections.discard(connection)
        self.wake()

    def remove_opening(self, opening: Opening) -> None:
        """A connection is gone before HTTP began on it."""
        self.arriving.discard(opening)
        self.openings.discard(opening)
        self.wake()

    def descriptors(self) -> Iterator[int]:
        """See :class:`~aiowsgi.bridge.fork_sockets.SocketHolder`."""
        connections: list[Protocol | Opening] = [*self.connections, *self.openings]
        for connection in connections:
            with contextlib.suppress(Exception):  # a transport that is being closed
                yield connection.fileno()

    def wake(self) -> None:
        """Something has ended: a connection, a content's file, or, while draining, a request or what was parked."""
        if self._on_change is not None:
            self._on_change()

    def close(self) -> None:
        """Let go of what only requests need. Idempotent."""
        self.deadlines.close()
        self.watch.close()
        self.dispersal.close()
        self.haste.close()
        self.saturation.close()
        links, self.broker_links = self.broker_links, ()
        for link in links:
            link.unpin()

    def on_change(self, callback: Callable[[], object] | None) -> None:
        """Have ``callback()`` called by :meth:`wake`."""
        self._on_change = callback
