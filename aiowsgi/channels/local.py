"""The home of a channel that lives in this process: a bounded log in memory.

A subscription is a place in that log and nothing more, so that a slow client costs no memory of its own.

Thread: any, but for :class:`LocalSubscription`, which belongs to the event loop that reads it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from aiowsgi.bridge.broadcast import Broadcast
from aiowsgi.channels.event import RESET, Event
from aiowsgi.channels.stats import ChannelStats
from aiowsgi.channels.subscription import Subscription

if TYPE_CHECKING:
    from aiowsgi.channels.settings import ChannelSettings

__all__ = ["LocalHome", "LocalSubscription"]


class LocalHome:
    """Keeps ``history + limit`` events at most, whatever the number of subscribers.

    Args:
        settings: of the channel.
    """

    def __init__(self, settings: ChannelSettings) -> None:
        self.settings = settings
        self.log: Broadcast[Event] = Broadcast(settings.history + settings.limit)
        # What distinguishes this channel's ids from those of an earlier process, or of one forked from this one.
        self._origins: dict[int, str] = {}

    def send(self, data: bytes, event: str | None) -> str:
        """Add an event.

        Raises:
            RuntimeError: the channel is closed.
        """
        origin = self._origin()
        return self.log.append(lambda number: Event(data, f"{origin}-{number}", event)).id

    async def asend(self, data: bytes, event: str | None) -> str:
        """Add an event; this never waits here."""
        return self.send(data, event)

    def close(self) -> None:
        """Take no more events."""
        self.log.close()

    @property
    def closed(self) -> bool:
        """Whether the channel takes no more events."""
        return self.log.closed

    def subscribe(self, last_event_id: str | None) -> LocalSubscription:
        """Make a subscription; see :meth:`aiowsgi.Channel.subscribe`."""
        end = self.log.end
        if not last_event_id:
            return LocalSubscription(self, end)
        number = self._number_of(last_event_id)
        if number is None or not end - 1 - self.settings.history <= number < end:
            return LocalSubscription(self, end, Event(b"", self.id_of(end - 1), RESET))
        return LocalSubscription(self, number + 1)

    def stats(self) -> ChannelStats:
        """Return a snapshot."""
        subscribers, dropped, disconnected = self.log.counts
        return ChannelStats(self.log.end - 1, subscribers, dropped, disconnected)

    def id_of(self, number: int) -> str:
        """Return the id of an event, by its number."""
        return f"{self._origin()}-{number}"

    def _origin(self) -> str:
        pid = os.getpid()
        return self._origins.get(pid) or self._origins.setdefault(pid, secrets.token_hex(4))

    def _number_of(self, event_id: str) -> int | None:
        origin, _, digits = event_id.partition("-")
        # Bounded: it is a client's text.
        if origin != self._origin() or not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            return None
        return int(digits)


class LocalSubscription(Subscription):
    """A place in the log.

    Args:
        home: whose events.
        number: of the first event to read.
        first: an event that comes before that one.
    """

    __slots__ = ("_ended", "_first", "_home", "_live_at", "_log", "_number", "_reading", "_settings")

    def __init__(self, home: LocalHome, number: int, first: Event | None = None) -> None:
        self._home = home
        self._settings = home.settings
        self._log = home.log
        self._number = number
        # Up to here it reads what was there before it subscribed, and may be behind by the history as well.
        self._live_at = home.log.end
        self._first = first
        self._reading = False
        self._ended = False
        self.dropped = 0

    def take(self) -> Event | None:
        """See :class:`Subscription`."""
        if self._ended:
            raise StopAsyncIteration
        if not self._reading:
            self._reading = True
            self._log.count(readers=1)
        if self._first is not None:
            first, self._first = self._first, None
            return first
        log = self._log
        while True:
            number = self._number
            limit = self._settings.limit
            if number < self._live_at:
                limit += self._settings.history
            if log.end - number > limit:
                self._fell_behind(log.end)
                continue
            event = log.get(number)
            if event is not None:
                self._number = number + 1
                return event
            if number >= log.end:
                break
        if log.closed and number >= log.end:
            self._end()
            raise StopAsyncIteration
        return None

    def _fell_behind(self, end: int) -> None:
        if self._settings.policy == "disconnect":
            self._log.count(cut_off=1)
            self._end()
            raise StopAsyncIteration
        oldest = end - self._settings.limit
        self.dropped += oldest - self._number
        self._log.count(lost=oldest - self._number)
        self._number = oldest

    def wait(self, timeout: float | None = None) -> Awaitable[bool]:
        """See :class:`Subscription`."""
        return self._log.wait(self._number, timeout)

    @property
    def behind(self) -> bool:
        """See :class:`Subscription`."""
        return self._number < self._log.end

    @property
    def place(self) -> str | None:
        """See :class:`Subscription`."""
        return None if self._first is not None else self._home.id_of(self._number - 1)

    async def aclose(self) -> None:
        """See :class:`Subscription`."""
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            if self._reading:
                self._log.count(readers=-1)

    def __del__(self) -> None:
        # For one that was not closed, as after a ``break`` out of ``async for``; in whichever thread frees it.
        self._end()
