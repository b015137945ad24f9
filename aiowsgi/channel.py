"""``aiowsgi.Channel``: any thread sends events, and any number of parked responses follow them.

A subscription is a place in the channel's log and nothing more, so that a slow client costs no memory of its own. How
far it may fall behind, and what happens then, is said when the channel is made, and counted.

Thread: any, but for :class:`Subscription`, which belongs to the event loop that reads it.

Source: HTML Living Standard, section 9.2 "Server-sent events", for the form of :meth:`Event.frame`.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Literal, Self, get_args

from aiowsgi.bridge.broadcast import Broadcast
from aiowsgi.errors import ConfigError

__all__ = ["Channel", "ChannelStats", "Event", "Policy", "Subscription"]

Policy = Literal["drop-oldest", "disconnect"]

_LINE_END = re.compile(rb"\r\n|\r|\n")
# A name with one of these would end its line, or the receiver's text.
_NOT_IN_A_NAME = re.compile(r"[\r\n\0]")


class Event(bytes):
    """What was sent: its data, with an id and perhaps a name.

    It is ``bytes``, so that a subscription may be parked as it is where the data alone is wanted.

    Args:
        data: the event's content.
        id: tells it from all other events of its channel.
        event: what kind of event it is, or ``None``.
    """

    id: str
    event: str | None
    _frame: bytes | None

    def __new__(cls, data: bytes, id: str, event: str | None = None) -> Self:
        """Make one; the channel does."""
        self = super().__new__(cls, data)
        self.id = id
        self.event = event
        self._frame = None
        return self

    def __repr__(self) -> str:
        return f"<Event {self.id} {self.event or ''} {bytes(self[:60])!r}>"

    def frame(self) -> bytes:
        """Return the event as ``text/event-stream`` has it; made once, for all who send it. Any thread."""
        if self._frame is None:
            lines = [b"id: %b\n" % self.id.encode()]
            if self.event is not None:
                lines.append(b"event: %b\n" % self.event.encode())
            lines.extend(b"data: %b\n" % line for line in _LINE_END.split(self))
            lines.append(b"\n")
            self._frame = b"".join(lines)
        return self._frame


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """A snapshot of a channel.

    Args:
        sent: events since the channel was made.
        subscribers: subscriptions that are being read.
        dropped: events that slow subscribers have not been given, over all of them.
        disconnected: subscriptions that were ended because they were too slow.
    """

    sent: int
    subscribers: int
    dropped: int
    disconnected: int


class Channel:
    """Events from any thread to any number of subscribers.

    ::

        orders = aiowsgi.Channel("orders")

        def stream(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return aiowsgi.park(environ, aiowsgi.sse(orders, environ))

        orders.send("42", event="paid")  # from any thread, at any time

    It lives in one process: each worker process has events and ids of its own.

    Args:
        name: for people.
        history: last events that a client which comes back is given; 0 or more.
        limit: events that a subscriber may be behind; 1 or more.
        policy: what happens to one that is further behind. ``"drop-oldest"``: it misses the oldest ones.
            ``"disconnect"``: its subscription ends as if the channel had been closed, and a browser comes back for
            what the history has; that is without a gap if ``history`` is well above ``limit``.

    The channel keeps ``history + limit`` events at most, whatever the number of subscribers.

    Raises:
        ConfigError: a value is out of bounds.
    """

    def __init__(
        self, name: str = "", *, history: int = 100, limit: int = 1000, policy: Policy = "drop-oldest"
    ) -> None:
        problems = []
        if history < 0:
            problems.append(f"history={history}: must be at least 0")
        if limit < 1:
            problems.append(f"limit={limit}: must be at least 1")
        if policy not in get_args(Policy):
            problems.append(f"policy={policy}: must be one of {', '.join(get_args(Policy))}")
        if problems:
            raise ConfigError(problems)
        self.name = name
        self.history = history
        self.limit = limit
        self.policy = policy
        self._log: Broadcast[Event] = Broadcast(history + limit)
        # What tells this channel's ids from those of an earlier process, and of one that was forked from this.
        self._origins: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"<Channel {self.name!r}>"

    def send(self, data: bytes | str, event: str | None = None) -> str:
        """Send an event to everybody who is subscribed. Any thread; never waits for a subscriber.

        The order of one thread's events is that of its calls.

        Args:
            data: text is sent as UTF-8.
            event: its name, which a browser's ``addEventListener`` takes; ``None`` is its ``message``.

        Returns:
            The event's id.

        Raises:
            RuntimeError: the channel is closed.
            TypeError, ValueError: ``data`` or ``event`` is nothing that can be sent.
        """
        if not isinstance(data, (bytes, str)):
            raise TypeError(f"data of an event is {type(data).__name__}, not bytes or str")
        content = data.encode() if isinstance(data, str) else data
        if event is not None and _NOT_IN_A_NAME.search(event):
            raise ValueError(f"event={event!r}: must be one line, without NUL")
        origin = self._origin()
        try:
            return self._log.append(lambda number: Event(content, f"{origin}-{number}", event)).id
        except RuntimeError:
            raise RuntimeError(f"{self!r} is closed") from None

    def close(self) -> None:
        """Take no more events; every subscription ends once it has read what was sent. Any thread."""
        self._log.close()

    @property
    def closed(self) -> bool:
        """Whether the channel is closed. Any thread."""
        return self._log.closed

    def subscribe(self, last_event_id: str | None = None) -> Subscription:
        """Follow the channel: what is sent from now on, or after an event that was received earlier. Any thread.

        Args:
            last_event_id: the id of the last event that this client has. If it is no longer, or never was, in the
                history, the first event is one without data that is named ``reset``: what the client knows is to be
                fetched anew. Its id is that of the last event sent.

        Returns:
            An asynchronous iterable of :class:`Event`, for one reader.
        """
        end = self._log.end
        if not last_event_id:
            return Subscription(self, self._log, end)
        number = self._number_of(last_event_id)
        if number is None or not end - 1 - self.history <= number < end:
            return Subscription(self, self._log, end, Event(b"", f"{self._origin()}-{end - 1}", "reset"))
        return Subscription(self, self._log, number + 1)

    def stats(self) -> ChannelStats:
        """Return a snapshot. Any thread."""
        subscribers, dropped, disconnected = self._log.counts
        return ChannelStats(self._log.end - 1, subscribers, dropped, disconnected)

    def _origin(self) -> str:
        pid = os.getpid()
        return self._origins.get(pid) or self._origins.setdefault(pid, secrets.token_hex(4))

    def _number_of(self, event_id: str) -> int | None:
        origin, _, digits = event_id.partition("-")
        # Bounded: it is a client's text.
        if origin != self._origin() or not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            return None
        return int(digits)


class Subscription(AsyncIterator[Event]):
    """One reader's place in a channel; made by :meth:`Channel.subscribe`.

    A wait for the next event may be cancelled, by ``asyncio.timeout()`` for instance: no event is lost by that.

    Args:
        channel: whose events.
        log: the channel's.
        number: of the first event to read.
        first: comes before it.
    """

    __slots__ = ("_channel", "_ended", "_first", "_live_at", "_log", "_number", "_reading", "dropped")

    def __init__(self, channel: Channel, log: Broadcast[Event], number: int, first: Event | None = None) -> None:
        self._channel = channel
        self._log = log
        self._number = number
        # Up to here it reads what was there before it came, and may be behind by the history as well.
        self._live_at = log.end
        self._first = first
        self._reading = False
        self._ended = False
        #: Events that it has missed, being too slow.
        self.dropped = 0

    async def __anext__(self) -> Event:
        while True:
            event = self.take()
            if event is not None:
                return event
            await self.wait()

    def take(self) -> Event | None:
        """Return the next event, ``None`` if there is none yet.

        Raises:
            StopAsyncIteration: there will be none.
        """
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
            limit = self._channel.limit
            if number < self._live_at:
                limit += self._channel.history
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
        if self._channel.policy == "disconnect":
            self._log.count(cut_off=1)
            self._end()
            raise StopAsyncIteration
        oldest = end - self._channel.limit
        self.dropped += oldest - self._number
        self._log.count(lost=oldest - self._number)
        self._number = oldest

    def wait(self, timeout: float | None = None) -> Awaitable[bool]:
        """Wait until :meth:`take` has something to say, at most ``timeout`` seconds; tell whether it has."""
        return self._log.wait(self._number, timeout)

    @property
    def behind(self) -> bool:
        """Whether there are events to read."""
        return self._number < self._log.end

    async def aclose(self) -> None:
        """Read no more; by whoever reads."""
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            if self._reading:
                self._log.count(readers=-1)
