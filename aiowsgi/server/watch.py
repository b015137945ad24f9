"""Connections whose transport cannot notice that the client has gone.

A transport that is paused for reading reports neither the end of the stream nor a reset, and one that has read the end
reports no reset after it. While a request is being answered in such a state, the kernel is asked directly, for all of
these connections in one call, once a second; with none there is no timer.

Thread: event loop.

Source: poll(2).
"""

from __future__ import annotations

import asyncio
import select
from typing import Protocol

__all__ = ["DisconnectWatch", "Watched"]

_INTERVAL_SECONDS = 1.0


class Watched(Protocol):
    """A connection."""

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 where there is none."""
        ...

    def client_gone(self) -> None:
        """Close the connection immediately: its client is gone."""
        ...


class DisconnectWatch:
    """Asks the kernel about connections, and closes those whose clients are gone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._connections: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Watched) -> None:
        """Watch a connection."""
        self._connections.add(connection)
        if self._timer is None:
            self._timer = self._loop.call_later(_INTERVAL_SECONDS, self._look)

    def discard(self, connection: Watched) -> None:
        """Stop watching a connection."""
        self._connections.discard(connection)

    def close(self) -> None:
        """Stop watching."""
        self._connections.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if not self._connections:
            return
        poll = select.poll()
        by_fd = {connection.fileno(): connection for connection in self._connections}
        by_fd.pop(-1, None)
        for fd in by_fd:
            poll.register(fd, 0)  # POLLHUP and POLLERR are always reported: both directions are closed, or were reset
        for fd, _ in poll.poll(0):
            by_fd[fd].client_gone()
        if self._connections:
            self._timer = self._loop.call_later(_INTERVAL_SECONDS, self._look)
