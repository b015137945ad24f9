"""The limit on connections: whether there is room for one more, and which are closed if there is none.

Thread: event loop.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from aiowsgi.server.protocol import Phase, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiowsgi.server.engine import Engine

__all__ = ["Room", "default_limit"]

# Descriptors that are left to the application, the loop, temporary files and logs; a quarter where there are few.
_DESCRIPTOR_RESERVE = 64
_MOST_CONNECTIONS = 50_000
# How long clients that have had their last answer may take to leave, once others wait. Arbitrary.
_LEAVING_SECONDS = 1.0
# One in so many connections is closed at a look, so that a flood of newcomers does not cause one look for each.
_BATCH_SHARE = 100
# After a look at all connections that was of little use, the next waits so many times as long as that took: they take a
# twentieth of the loop's time at most, even if each busy connection that ends lets in another, which finds no room.
_REST_FACTOR = 20
# A connection that turns idle during that wait is closed later by so much at most: less than listeners pause before
# they ask again.
_MOST_REST_SECONDS = 0.4


class Room:
    """The room for connections, whether arriving, opening or open.

    Args:
        engine: knows them.
        limit: 1 or more.
        clock: measures how long it takes to look at them.
    """

    def __init__(self, engine: Engine, limit: int, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._limit = limit
        self._clock = clock
        self._rests_until = clock()

    def is_left(self) -> bool:
        """Return whether there is room for one more."""
        engine = self._engine
        return len(engine.connections) + len(engine.openings) + len(engine.arriving) < self._limit

    def make(self) -> bool:
        """Close idle connections, if there are any: their clients know how to come back. Return whether there were.

        Not all of them: those that have been idle for longest. With 50,000 connections a look at all of them takes
        20 ms, so a look that finds few is not repeated immediately.
        """
        # A connection that is answered from now on closes with its answer.
        self._engine.keeps_connections = False
        began_at = self._clock()
        if began_at < self._rests_until:
            return False
        most_count = max(1, self._limit // _BATCH_SHARE)
        closed_count = 0
        for connection in self._look():
            if closed_count < most_count and not _has_unread_data(connection):
                connection.drain()
                closed_count += 1
        if closed_count < most_count:
            now = self._clock()
            self._rests_until = now + min(_REST_FACTOR * (now - began_at), _MOST_REST_SECONDS)
        return closed_count > 0

    def _look(self) -> list[Protocol]:
        """Return the idle connections, the longest idle first; hurry those that only have to leave."""
        # Else slow clients that were refused would keep their places for longer than others.
        late = self._engine.loop.time() + _LEAVING_SECONDS
        idle = []
        for connection in self._engine.connections:
            phase = connection.phase
            if phase is Phase.IDLE:
                if connection.idle:
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


def default_limit() -> int:
    """Derive the limit from the process's file descriptors."""
    try:
        import resource
    except ImportError:  # a platform without such a limit
        return _MOST_CONNECTIONS
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(1, min(_MOST_CONNECTIONS, soft_limit - min(_DESCRIPTOR_RESERVE, soft_limit // 4)))
