"""What a reader of a channel sees of it, wherever the channel lives.

Thread: the event loop that reads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable

from aiowsgi.channels.event import Event

__all__ = ["Subscription"]


class Subscription(AsyncIterator[Event]):
    """One reader's place in a channel; made by :meth:`aiowsgi.Channel.subscribe`.

    A wait for the next event may be cancelled, by ``asyncio.timeout()`` for instance: no event is lost by that.
    """

    __slots__ = ("__weakref__", "dropped")

    #: Events that it has missed, being too slow.
    dropped: int

    async def __anext__(self) -> Event:
        while True:
            event = self.take()
            if event is not None:
                return event
            await self.wait()

    @abstractmethod
    def take(self) -> Event | None:
        """Return the next event, ``None`` if there is none yet.

        Raises:
            StopAsyncIteration: there will be none.
        """

    @abstractmethod
    def wait(self, timeout: float | None = None) -> Awaitable[bool]:
        """Wait until :meth:`take` may have something to return, at most ``timeout`` seconds; return whether it may."""

    @property
    @abstractmethod
    def behind(self) -> bool:
        """Whether there are events to read."""

    @property
    @abstractmethod
    def place(self) -> str | None:
        """The id to come back with if nothing more is read; ``None`` if that is not known (yet)."""

    @abstractmethod
    async def aclose(self) -> None:
        """Read no more; to be called by the reader."""
