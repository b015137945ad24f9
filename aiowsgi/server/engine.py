"""What all connections of one server share: configuration, application, pools, clocks and counters.

A :class:`~aiowsgi.server.protocol.Protocol` needs nothing else of the server, so that tests drive it with a virtual
clock, an in-memory transport and a pool that steps.

Thread: event loop, but for :meth:`Engine.forget` and the attributes that workers read: those never change, but for
``keeps_connections``.
"""

from __future__ import annotations

import asyncio
import logging
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
from aiowsgi.server.reception import HEAD_BUFFER_SIZE
from aiowsgi.server.watch import DisconnectWatch
from aiowsgi.wsgi.environ import base_environ, endpoint_environ

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from wsgiref.types import WSGIApplication, WSGIEnvironment

    from aiowsgi.channels.link import Link
    from aiowsgi.semantics import ConnectionInfo
    from aiowsgi.server.exchange import Exchange
    from aiowsgi.server.observed import Observer
    from aiowsgi.server.opening import Opening
    from aiowsgi.server.protocol import Protocol
    from aiowsgi.server.responder import Responder

__all__ = ["Engine"]

_logger = logging.getLogger("aiowsgi.error")

# How many times its size the queue may hold, counting what was withdrawn. Arbitrary; such a request is half a kilobyte.
_WITHDRAWN_FACTOR = 4

# Requests that go to the threads together. Of connections that begin one meanwhile, as many have theirs read in each
# turn of the loop. What a request makes, about 5 KB, is then still in the processor's cache when the thread comes to
# it, and again when the loop writes the response: with 1,000 active connections one takes 30.5 µs instead of 37.3, with
# 4,000 36.8 instead of 47.8. 64 and 128 are as good, 32 and 192 are not.
_BATCH_SIZE = 96

# What an exchange sets in each environ: it has its place already.
_EXCHANGE_VARIABLES = dict.fromkeys(("aiowsgi.disconnected", "aiowsgi.park", "waitress.client_disconnected"))

# Addresses of which environ's part is kept. Arbitrary; a proxy that is trusted may tell of any number.
_KNOWN_ENDPOINTS = 64


class Engine:
    """See the module.

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
        clock: for what threads measure; ``loop.time()`` is not for them, uvloop's stands still while it waits.
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
        #: Has the interpreter switch sooner while the loop is held up.
        self.haste = Haste(loop, SHORT_INTERVAL if config.switch_interval is None else config.switch_interval)
        #: Has requests run one after another while more threads would only be in each other's way.
        self.saturation = Saturation(loop, pool, alone=alone, clock=clock)
        if config.concurrency == "fixed":
            self.saturation.close()
        self.wakeup = Wakeup(loop, clock, self.haste.note)
        self.deadlines = Deadlines(loop)
        self.watch = DisconnectWatch(loop)
        #: Ends what is parked, in a drain.
        self.dispersal = Dispersal(loop, config.drain_rate, random or Random())
        self.content_budget = MemoryBudget(config.request_buffer_total)
        #: Where connections that upload receive heads; nothing stays in it from one read to the next.
        self.head_buffer = bytearray(HEAD_BUFFER_SIZE)
        self.server_field = f"Server: {software.partition('/')[0]}\r\n" if config.server_header else ""
        #: What proxies may say of their clients; ``None`` for nothing.
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
        #: Exchanges that were submitted and whose worker has not ended. Any thread removes its own.
        self.exchanges: set[Exchange] = set()
        #: Closing what was parked and will not be sent; the loop itself holds tasks only weakly.
        self.closing_tasks: set[asyncio.Task[object]] = set()
        #: A response may leave its connection open.
        self.keeps_connections = config.keep_alive > 0
        #: One entry for each withdrawn exchange that the pool still holds; append and pop are atomic.
        self.withdrawn: list[None] = []
        #: Seconds that the last requests waited for a thread. Workers append, which is atomic.
        self.queue_waits: deque[float] = deque(maxlen=1000)
        #: Requests that have been answered whole.
        self.completed_count = 0
        #: The server does not yet want requests; it may already be asked whether it does.
        self.starting = False
        #: The server will drain soon, and still serves.
        self.leaving = False
        #: No new requests are wanted.
        self.draining = False
        #: Ways to brokers without which no requests are wanted.
        self.broker_links: Sequence[Link] = ()
        #: Answers requests of the server's own, where there are any.
        self.responder: Responder | None = None
        #: Connections that there were.
        self.accepted_count = 0
        #: Is told of the end of each request, where anything wants to know.
        self.observer: Observer | None = None
        self.clock = clock
        self._environs: dict[tuple[str, str, str], WSGIEnvironment] = {}
        self._batch: list[Exchange] = []
        #: No more than the queue holds: before more are read, which it would refuse, threads may take some.
        self.batch_size = min(_BATCH_SIZE, config.queue_size)
        #: Who begins a request is to postpone it: a batch is full, or others have postponed theirs before.
        self.postpones = False
        # In the order of their data's arrival. One that has been read in another way may be in it still, or twice.
        self._postponed: deque[Protocol] = deque()
        # When the batch was begun: the pool's jobs, and the time.
        self._waiting_count = 0
        self._batch_time = 0.0
        self._queue_size = config.queue_size
        self._on_change: Callable[[], object] | None = None

    def environ_of(self, connection: ConnectionInfo) -> WSGIEnvironment:
        """Return what is the same in every environ of a connection; it is shared, and not to be changed.

        One for each connection is 0.4 KB more, which is in no cache if there are thousands: with 4,000 active ones a
        request takes 41.7 µs instead of 38.3.
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

    def submit(self, exchange: Exchange) -> bool:
        """Hand an exchange to the pool, at the end of this turn of the loop; tell whether there was room for it.

        All requests that one turn reads go together: no thread wakes while the loop is still reading, to fight it for
        the interpreter at every socket. At 64 connections that is 0.25 context switches for a request instead of 2.4.
        """
        batch = self._batch
        if not batch:
            # Asked once for all: threads can only take from the queue meanwhile.
            self._waiting_count = self.pool.waiting_count
            self._batch_time = self.clock()
        held_count = self._waiting_count + len(batch)
        if held_count >= self._queue_size and not self._has_room(held_count):
            return False
        exchange.submitted_at = self._batch_time
        self.exchanges.add(exchange)
        if not batch:
            self.loop.call_soon(self._submit_batch)
        batch.append(exchange)
        if len(batch) >= self.batch_size:
            self.postpones = True
        return True

    @property
    def queue_full(self) -> bool:
        """Whether a request that came now would be refused."""
        held_count = self.pool.waiting_count + len(self._batch)
        return held_count >= self._queue_size and not self._has_room(held_count)

    def _has_room(self, held_count: int) -> bool:
        """Tell whether a full queue holds requests that were withdrawn, which no thread has had time to throw away.

        Within a bound: clients that come and go while all threads are stuck must not fill the memory.
        """
        waiting_count = held_count - len(self.withdrawn)
        return waiting_count < self._queue_size and held_count < _WITHDRAWN_FACTOR * self._queue_size

    def _submit_batch(self) -> None:
        batch, self._batch = self._batch, []
        # Before anything can fail: who postpones for ever is deaf.
        self._go_on()
        for exchange in batch:
            try:
                self.pool.submit(exchange)
            except RuntimeError as error:
                # Closed at the end of a drain, whose connections are being aborted: that withdraws the exchange.
                # A shared pool may also have been closed by its owner, too early: queue_timeout answers then.
                if not self.draining:
                    _logger.error("cannot run %r: %s", exchange, error)
        if self._batch_time >= self.saturation.next_look:
            self.saturation.look(self._batch_time)

    @property
    def behind(self) -> bool:
        """Whether requests that have arrived are still to be read."""
        return bool(self._postponed)

    def postpone(self, connection: Protocol) -> None:
        """Have ``connection.read_postponed()`` called in a later turn. Only while the engine ``postpones``."""
        self._postponed.append(connection)

    def _read_postponed(self) -> None:
        """Have as many connections read as make a batch, also where others have begun one: nobody waits for ever."""
        try:
            for _ in range(min(len(self._postponed), self.batch_size)):
                connection = self._postponed.popleft()
                try:
                    connection.read_postponed()
                except Exception:
                    _logger.exception("internal error while reading from %r", connection)
                    connection.abort()
        finally:
            if not self._batch:
                self._go_on()  # else with the batch

    def _go_on(self) -> None:
        """A batch is on its way: see to those that have postponed a request."""
        if self._postponed:
            self.loop.call_soon(self._read_postponed)
        else:
            self.postpones = False

    def forget(self, exchange: Exchange) -> None:
        """An exchange has ended, or will never run. Any thread."""
        self.exchanges.discard(exchange)
        if self.draining:
            self.wakeup.notify(self)

    def add_connection(self, connection: Protocol) -> None:
        """A connection was made."""
        self.arriving.discard(connection)
        self.connections.add(connection)
        self.accepted_count += 1

    def remove_connection(self, connection: Protocol) -> None:
        """A connection is gone."""
        self.arriving.discard(connection)
        self.connections.discard(connection)
        if self._on_change is not None:
            self._on_change()

    def remove_opening(self, opening: Opening) -> None:
        """A connection is gone before HTTP began on it."""
        self.arriving.discard(opening)
        self.openings.discard(opening)
        if self._on_change is not None:
            self._on_change()

    def wake(self) -> None:
        """Something ended while draining."""
        if self._on_change is not None:
            self._on_change()

    def on_change(self, callback: Callable[[], object] | None) -> None:
        """Have ``callback()`` called whenever a connection or, while draining, an exchange has ended."""
        self._on_change = callback
