"""How requests get from their connections to the threads: with a bound on how many wait, and in batches.

All requests that one turn of the loop reads go to the pool together, at its end: no thread wakes while the loop is
still reading, to fight it for the interpreter at every socket. At 64 connections that is 0.25 context switches for a
request instead of 2.4.

Once a batch is full, connections on which a request begins *postpone* it: they keep its bytes, and in each later turn
as many of them as make a batch are read, in order of arrival. A request's objects, about 5 KB, are then still in the
processor's cache when the thread gets to them, and again when the loop writes the response: with 1,000 active
connections a request takes 30.5 µs instead of 37.3, with 4,000 36.8 instead of 47.8.

Thread: event loop, but :attr:`Intake.withdrawn`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiowsgi.bridge.pool import Pool
from aiowsgi.bridge.saturation import Saturation

if TYPE_CHECKING:
    from aiowsgi.server.exchange import Exchange
    from aiowsgi.server.protocol import Protocol

__all__ = ["Intake"]

_logger = logging.getLogger("aiowsgi.error")

# How many times its size the queue may hold, withdrawn requests included. Arbitrary; each of those is half a kilobyte.
_WITHDRAWN_FACTOR = 4
# Requests that go to the threads together: see the module. 64 and 128 are as good, 32 and 192 are not.
_BATCH_SIZE = 96


class Intake:
    """Admits requests to the pool, a batch at a time.

    Args:
        loop: the event loop of all connections.
        pool: runs the exchanges.
        saturation: is asked, after a batch, whether threads are to take turns.
        queue_size: requests that may wait for a thread.
        clock: of the times at which exchanges are submitted.
        on_error: called with an exchange that the pool did not take because it was closed, and the error.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        saturation: Saturation,
        queue_size: int,
        clock: Callable[[], float],
        on_error: Callable[[Exchange, RuntimeError], None],
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._saturation = saturation
        self._queue_size = queue_size
        self._clock = clock
        self._on_error = on_error
        #: Exchanges that were submitted and whose worker has not ended. Any thread removes its own.
        self.exchanges: set[Exchange] = set()
        #: One entry for each withdrawn exchange that the pool still holds; append and pop are atomic. Any thread.
        self.withdrawn: list[None] = []
        #: No more than the queue holds: threads may then take some before more are read, which it would refuse.
        self.batch_size = min(_BATCH_SIZE, queue_size)
        #: A connection on which a request begins is to postpone it: a batch is full, or others have postponed theirs.
        self.postpones = False
        self._batch: list[Exchange] = []
        # As the batch was begun: how many jobs waited in the pool, and the time.
        self._waiting_count = 0
        self._batch_time = 0.0
        # In order of arrival. A connection that was read for another reason may still be in it, or be in it twice.
        self._postponed: deque[Protocol] = deque()

    def submit(self, exchange: Exchange) -> bool:
        """Hand an exchange to the pool, at the end of this turn of the loop; return whether there was room for it."""
        batch = self._batch
        if not batch:
            # Asked once for the whole batch: until it is submitted, threads can only take from the queue.
            self._waiting_count = self._pool.waiting_count
            self._batch_time = self._clock()
        held_count = self._waiting_count + len(batch)
        if held_count >= self._queue_size and not self._has_room(held_count):
            return False
        exchange.submitted_at = self._batch_time
        self.exchanges.add(exchange)
        if not batch:
            self._loop.call_soon(self._submit_batch)
        batch.append(exchange)
        if len(batch) >= self.batch_size:
            self.postpones = True
        return True

    @property
    def waiting_count(self) -> int:
        """Requests that wait for a thread."""
        return self._pool.waiting_count - len(self.withdrawn)

    @property
    def full(self) -> bool:
        """Whether a request that came now would be refused."""
        held_count = self._pool.waiting_count + len(self._batch)
        return held_count >= self._queue_size and not self._has_room(held_count)

    def _has_room(self, held_count: int) -> bool:
        """Return whether a full queue holds requests that were withdrawn, which no thread has had time to throw away.

        Within a bound: clients that come and go while all threads are stuck must not fill the memory.
        """
        waiting_count = held_count - len(self.withdrawn)
        return waiting_count < self._queue_size and held_count < _WITHDRAWN_FACTOR * self._queue_size

    def _submit_batch(self) -> None:
        batch, self._batch = self._batch, []
        # First, so that no error below leaves connections postponed for ever.
        self._go_on()
        for exchange in batch:
            try:
                self._pool.submit(exchange)
            except RuntimeError as error:
                self._on_error(exchange, error)
        if self._batch_time >= self._saturation.next_look:
            self._saturation.look(self._batch_time)

    @property
    def behind(self) -> bool:
        """Whether requests that have arrived are still to be read."""
        return bool(self._postponed)

    def postpone(self, connection: Protocol) -> None:
        """Have ``connection.read_postponed()`` called in a later turn. Only while the intake ``postpones``."""
        self._postponed.append(connection)

    def _read_postponed(self) -> None:
        """Read as many connections as make a batch, even if others have begun one: no connection waits for ever."""
        try:
            for _ in range(min(len(self._postponed), self.batch_size)):
                connection = self._postponed.popleft()
                try:
                    connection.read_postponed()
                except Exception:
                    connection.abort()
                    # A log handler that fails must not keep the others from being read.
                    with contextlib.suppress(Exception):
                        _logger.exception("internal error while reading from %r", connection)
        finally:
            if not self._batch:
                self._go_on()  # else with the batch

    def _go_on(self) -> None:
        """A batch is on its way: see to those that have postponed a request."""
        if self._postponed:
            self._loop.call_soon(self._read_postponed)
        else:
            self.postpones = False
