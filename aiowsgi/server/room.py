"""The limit on connections: whether there is room for one more, and which are closed if there is none.

Thread: event loop.
"""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING

from aiowsgi.server.protocol import Phase, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiowsgi.server.engine import Engine

__all__ = ["Room", "descriptor_limit"]

# Descriptors that are left to the application, the loop and logs; a quarter where there are few. Beyond the limit on
# connections, contents may take half of these for temporary files, never the rest.
_DESCRIPTOR_RESERVE = 64
_FILE_RESERVE = _DESCRIPTOR_RESERVE // 2
_MOST_CONNECTIONS = 50_000
# How long clients that have had their last answer may take to leave, once others wait. Arbitrary.
_LEAVING_SECONDS = 1.0
# How long a client may take to send a request, once it has connected or been told that its connection stays open,
# before that is closed for others: this, and so much for each connection of the limit, but no more than a second.
# Arbitrary. A crowd of 1,500 in one process that connects first and then sends takes 0.5 s on a busy machine. Of silent
# clients, as many as there is room for keep those behind them waiting for so long, and for one pause of the listeners.
_FAIR_SECONDS = 0.2
_FAIR_SECONDS_EACH = 0.001
_MOST_FAIR_SECONDS = 1.0
# One in so many connections is closed at a look, so that a flood of newcomers does not cause one look for each.
_BATCH_SHARE = 100
# After a look at all connections that was of little use, the next waits so many times as long as that took: they take a
# twentieth of the loop's time at most, even if each busy connection that ends lets in another, which finds no room.
_REST_FACTOR = 20
# A connection that turns idle during that wait is closed later by so much at most.
_MOST_REST_SECONDS = 0.4


class Room:
    """The room for connections, whether arriving, opening or open.

    Args:
        engine: knows them, and the temporary files that take descriptors as well.
        limit: 1 or more; 0 for as many as the descriptors allow.
        clock: measures how long it takes to look at them.
        descriptor_limit: of the process.
    """

    def __init__(
        self, engine: Engine, limit: int, clock: Callable[[], float], descriptor_limit: int = sys.maxsize
    ) -> None:
        places = max(1, descriptor_limit - min(_DESCRIPTOR_RESERVE, descriptor_limit // 4))
        self._engine = engine
        self._limit = limit or min(places, _MOST_CONNECTIONS)
        # For connections and files together. A higher limit that somebody has set still holds for connections alone.
        self._places = max(places, self._limit)
        self._clock = clock
        self._fair_seconds = min(_FAIR_SECONDS + self._limit * _FAIR_SECONDS_EACH, _MOST_FAIR_SECONDS)
        self._rests_until = clock()
        engine.file_limit = descriptor_limit - _FILE_RESERVE

    def is_left(self) -> bool:
        """Return whether there is room for one more."""
        return self._missing_count <= 0

    @property
    def _missing_count(self) -> int:
        """How many connections have to end before there is room for one more; 0 or less if there is."""
        engine = self._engine
        count = engine.connection_count
        return 1 + max(count - self._limit, count + len(engine.content_files) - self._places)

    def make(self) -> bool:
        """Close idle connections, if there are any: their clients know how to come back. Return if they make room.

        Not those whose clients may be sending a request just now: whoever has just connected would not come back. Nor
        all of the others: those that have been idle for longest. With 50,000 connections a look at all of them takes
        20 ms, so a look that finds few is not repeated immediately.
        """
        # A connection that is answered from now on closes with its answer.
        self._engine.keeps_connections = False
        began_at = self._clock()
        if began_at < self._rests_until:
            return False
        missing_count = self._missing_count
        most_count = max(missing_count, self._limit // _BATCH_SHARE, 1)
        closed_count = 0
        for connection in self._look():
            if closed_count < most_count and not _has_unread_data(connection):
                connection.drain()
                closed_count += 1
        if closed_count < most_count:
            now = self._clock()
            self._rests_until = now + min(_REST_FACTOR * (now - began_at), _MOST_REST_SECONDS)
        return closed_count >= max(missing_count, 1)

    def _look(self) -> list[Protocol]:
        """Return the connections idle for long enough, the longest first; hurry those that only have to leave."""
        now = self._engine.loop.time()
        # Else slow clients that were refused would keep their places for longer than others.
        late = now + _LEAVING_SECONDS
        idle = []
        for connection in self._engine.connections:
            phase = connection.phase
            if phase is Phase.IDLE:
                if connection.idle_since <= now - self._fair_seconds and connection.idle:
                    idle.append(connection)
            elif phase is Phase.LINGERING and connection.deadline > late:
                connection.drain()
        idle.sort(key=lambda connection: connection.deadline)
        return idle


def _has_unread_data(connection: Protocol) -> bool:
    """Return whether something has arrived, most likely a request, that the loop has not got to yet."""
    fd = connection.fileno()
    if fd < 0:
        return False
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def descriptor_limit() -> int:
    """Return how many file descriptors the process may have."""
    try:
        import resource
    except ImportError:  # a platform without such a limit
        return sys.maxsize
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft_limit == resource.RLIM_INFINITY else soft_limit
