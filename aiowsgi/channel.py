"""``aiowsgi.Channel``: any thread sends events, and any number of parked responses follow them.

A channel lives in its process (:mod:`aiowsgi.channels.local`), or in a broker that the workers of all machines share
(:mod:`aiowsgi.channels.remote`). How far a slow client may fall behind, and what happens then, is decided when the
channel is made; how often it happens is counted.

Thread: any.
"""

from __future__ import annotations

import math
from typing import get_args

from aiowsgi.channels.event import Event, is_event_name
from aiowsgi.channels.local import LocalHome
from aiowsgi.channels.remote import RemoteHome
from aiowsgi.channels.settings import ChannelSettings, Policy
from aiowsgi.channels.stats import BrokerStats, ChannelStats
from aiowsgi.channels.subscription import Subscription
from aiowsgi.errors import ConfigError

__all__ = ["BrokerStats", "Channel", "ChannelStats", "Event", "Policy", "Subscription"]

_HISTORY, _BROKER_HISTORY = 100, 10_000


class Channel:
    """Events from any thread to any number of subscribers.

    ::

        orders = aiowsgi.Channel("orders")

        def stream(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return aiowsgi.park(environ, aiowsgi.sse(orders, environ))

        orders.send("42", event="paid")  # from any thread, at any time

    It lives in one process: each worker process has events and ids of its own. With a broker, all channels of that
    name, in whatever process and on whatever machine, are one::

        orders = aiowsgi.Channel("orders", broker="redis://10.0.0.5:6379/0")

    Args:
        name: for people; with a broker, what distinguishes it from other channels there.
        broker: URL of a Redis or Valkey: ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://``, as
            :mod:`aiowsgi.channels.address` describes them. Needs the extra ``redis``.
        history: how many of the last events are kept for clients that come back; 0 or more, 100 by default. With a
            broker, 1 or more, 10,000 by default, and somewhat more may be kept.
        limit: events that a subscriber may be behind; 1 or more. With a broker, a subscriber that is further behind
            reads from the history, and is too slow only once its place is gone from that too.
        policy: what happens to a subscriber that is too slow. ``"drop-oldest"``: it misses the oldest events; with a
            broker it is told so by an event named ``reset``. ``"disconnect"``: its subscription ends as if the channel
            had been closed, and a browser comes back for what is in the history; that leaves no gap if ``history`` is
            well above ``limit``.
        send_timeout: seconds that :meth:`send` may wait for a broker; more than 0, and finite.

    Whatever the number of subscribers, the channel keeps ``history + limit`` events at most; with a broker, ``limit``
    in each process that has subscribers. There, an event costs the more processor time, the more channels somebody
    follows: have some hundreds, not one for each user.

    Raises:
        ConfigError: a value is out of bounds, the broker's URL is not valid, or redis-py is not installed. Whether the
            broker is there is found out when a server starts, and whenever it is used.
    """

    def __init__(
        self,
        name: str = "",
        *,
        broker: str | None = None,
        history: int | None = None,
        limit: int = 1000,
        policy: Policy = "drop-oldest",
        send_timeout: float = 2.0,
    ) -> None:
        if history is None:
            history = _HISTORY if broker is None else _BROKER_HISTORY
        least = 0 if broker is None else 1
        problems = []
        if history < least:
            problems.append(f"history={history}: must be at least {least}{' with a broker' if least else ''}")
        if limit < 1:
            problems.append(f"limit={limit}: must be at least 1")
        if policy not in get_args(Policy):
            problems.append(f"policy={policy}: must be one of {', '.join(get_args(Policy))}")
        if not 0 < send_timeout < math.inf:
            problems.append(f"send_timeout={send_timeout}: must be more than 0, and finite")
        if broker is not None and not name:
            problems.append(f"name={name!r}: a channel with a broker must have one")
        if problems:
            raise ConfigError(problems)
        self.name = name
        self.history = history
        self.limit = limit
        self.policy = policy
        settings = ChannelSettings(name, history, limit, policy, send_timeout)
        self._home: LocalHome | RemoteHome
        if broker is None:
            self._home = LocalHome(settings)
        else:
            try:
                self._home = RemoteHome(settings, broker)
            except ValueError as error:
                raise ConfigError([f"broker: {error}"]) from None

    def __repr__(self) -> str:
        where = f" at {self._home.broker.label}" if isinstance(self._home, RemoteHome) else ""
        return f"<Channel {self.name!r}{where}>"

    def send(self, data: bytes | str, event: str | None = None) -> str:
        """Send an event to all subscribers. Any thread; never waits for a subscriber.

        The events of one thread keep the order of its calls. With a broker, the call waits for the broker, at most
        ``send_timeout`` seconds, and must not be made in the thread of an event loop.

        Args:
            data: text is sent as UTF-8.
            event: its name, which a browser's ``addEventListener`` takes; ``None`` is its ``message``.

        Returns:
            The event's id.

        Raises:
            RuntimeError: the channel is closed; or it has a broker, and this is an event loop: see :meth:`asend`.
            BrokerUnavailable: the broker has not taken the event in time, or has refused it.
            TypeError, ValueError: ``data`` or ``event`` cannot be sent.
        """
        content = _content(data, event)
        if self._home.closed:
            raise RuntimeError(f"{self!r} is closed")
        return self._home.send(content, event)

    async def asend(self, data: bytes | str, event: str | None = None) -> str:
        """Send an event from asynchronous code; otherwise like :meth:`send`. Event loop."""
        content = _content(data, event)
        if self._home.closed:
            raise RuntimeError(f"{self!r} is closed")
        return await self._home.asend(content, event)

    def close(self) -> None:
        """Take no more events; every subscription ends once it has read what was sent. Any thread.

        With a broker, this applies to this object and its subscriptions: others go on.
        """
        self._home.close()

    @property
    def closed(self) -> bool:
        """Whether the channel is closed. Any thread."""
        return self._home.closed

    def subscribe(self, last_event_id: str | None = None) -> Subscription:
        """Follow the channel: what is sent from now on, or after an event that was received earlier. Any thread.

        With a broker, "now" is what the broker says: in an event loop, where the call cannot wait, that is when the
        subscription is first read; if the broker cannot be reached, the first event is a ``reset``.

        Args:
            last_event_id: the id of the last event that this client has. If it is no longer, or never was, in the
                history, the first event is one without data that is named ``reset``: the client should fetch what it
                knows again. Its id is that of the last event sent.

        Returns:
            An asynchronous iterable of :class:`Event`, for one reader.
        """
        return self._home.subscribe(last_event_id)

    def stats(self) -> ChannelStats:
        """Return a snapshot. Any thread."""
        return self._home.stats()


def _content(data: bytes | str, event: str | None) -> bytes:
    if not isinstance(data, (bytes, str)):
        raise TypeError(f"data of an event is {type(data).__name__}, not bytes or str")
    if event is not None and not is_event_name(event):
        raise ValueError(f"event={event!r}: must be one line, without NUL or surrogates")
    return data.encode() if isinstance(data, str) else data
