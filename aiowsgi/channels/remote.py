"""The home of a channel in a broker: a Redis Stream that every worker of every machine reads and adds to.

The stream of the channel ``orders`` is at the key ``aiowsgi:channel:orders``. An event is an entry with the field
``data`` and, if it has a name, ``event``; its id is the entry's. Any program may send by adding one, in any language::

    redis-cli XADD aiowsgi:channel:orders MAXLEN '~' 10000 '*' data 42 event paid

An entry without ``data`` is an event without data; an ``event`` that is not UTF-8, or not one line, is ignored, and so
are other fields. A sender has to trim as well, to no less than the channel's ``history``: a worker misses what is
trimmed between two of its reads.

Thread: any, but for :class:`RemoteSubscription`, which belongs to the event loop that reads it.

Source: https://redis.io/docs/latest/develop/data-types/streams/.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import re
import time
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from aiowsgi.bridge.highest import Highest
from aiowsgi.bridge.tally import Tally
from aiowsgi.channels.broker import Broker, broker_of
from aiowsgi.channels.event import RESET, Event
from aiowsgi.channels.feed import BEGINNING, Feed, order
from aiowsgi.channels.stats import ChannelStats
from aiowsgi.channels.subscription import Subscription
from aiowsgi.errors import BrokerUnavailable

if TYPE_CHECKING:
    from aiowsgi.channels.driver import Page
    from aiowsgi.channels.link import Link
    from aiowsgi.channels.settings import ChannelSettings

__all__ = ["KEY_PREFIX", "RemoteHome", "RemoteSubscription"]

#: What comes before a channel's name in its stream's key.
KEY_PREFIX = "aiowsgi:channel:"

# Events that a subscription fetches at a time when it reads by itself: it holds no more than these.
_PAGE_COUNT = 100
# Seconds until a subscription that could not be served asks again.
_RETRY_SECONDS = 1.0
# Seconds for which a thread that subscribes waits for the channel's last id.
_LAST_ID_SECONDS = 1.0

# Bounded: it is a client's text. Both parts have 64 bits in Redis.
_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)


def is_id(text: str) -> bool:
    """Tell whether a text is an id as Redis writes it."""
    match = _ID.fullmatch(text)
    return match is not None and all(int(part) < 2**64 for part in match.groups())


class RemoteHome:
    """One channel in a broker.

    Args:
        settings: of the channel.
        url: of the broker.

    Raises:
        ValueError: as :func:`broker_of`.
    """

    def __init__(self, settings: ChannelSettings, url: str) -> None:
        self.settings = settings
        self.key = KEY_PREFIX + settings.name
        self.broker: Broker = broker_of(url)
        self.tally = Tally()
        self.closed = False
        # The order of the highest id that this process was given, and when it was last given one: once the channel is
        # closed, subscriptions read up to there.
        self._last_sent = Highest(order(BEGINNING))
        self._sent_at = Highest(0.0)

    def send(self, data: bytes, event: str | None) -> str:
        """Add an event to the stream; see :meth:`aiowsgi.Channel.send`."""
        from aiowsgi.channels.driver import Away, Refused, entry_words

        if _in_event_loop():
            raise RuntimeError("send() would hold the event loop until the broker answers: await channel.asend() there")
        self._check_open()
        try:
            answer = self.broker.sender(self.settings.send_timeout).ask(
                *entry_words(self.key, self.settings.history, data, event)
            )
        except (Away, Refused) as error:
            raise self._unavailable(error) from None
        return self._sent(answer)

    async def asend(self, data: bytes, event: str | None) -> str:
        """Add an event to the stream; see :meth:`aiowsgi.Channel.asend`."""
        from aiowsgi.channels.driver import Away, Refused, entry_words

        self._check_open()
        words = entry_words(self.key, self.settings.history, data, event)
        try:
            async with asyncio.timeout(self.settings.send_timeout):
                return self._sent(await self.broker.link().ask(*words))
        except TimeoutError:
            raise self._unavailable(Away("it does not answer", sent=True)) from None
        except (Away, Refused) as error:
            raise self._unavailable(error) from None

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError("closed")

    def _sent(self, answer: bytes) -> str:
        id = answer.decode()
        self._last_sent.report(order(id))
        self._sent_at.report(time.monotonic())
        self.count("sent")
        return id

    def count(self, name: str, count: int = 1) -> None:
        """Count something of this channel, and of its broker."""
        self.tally.add({name: count})
        self.broker.tally.add({name: count})

    def _unavailable(self, error: Exception) -> BrokerUnavailable:
        self.count("send_failures")
        return BrokerUnavailable(f"{self.broker.label}: {error}", maybe_sent=getattr(error, "sent", False))

    def close(self) -> None:
        """Send no more from here; subscriptions here end."""
        self.closed = True
        self.broker.wake_subscribers(self.key)

    def has_sent_no_later_than(self, id: str, read_at: float = 0.0) -> bool:
        """Tell whether no event of this process comes after an id.

        Args:
            id: of an event.
            read_at: when Redis was asked for all up to there: what was sent before and has a later id is lost.
        """
        return bool(self._last_sent.value <= order(id) or self._sent_at.value < read_at)

    def subscribe(self, last_event_id: str | None) -> RemoteSubscription:
        """Make a subscription; see :meth:`aiowsgi.Channel.subscribe`."""
        if last_event_id:
            return RemoteSubscription(self, last_event_id if is_id(last_event_id) else None, known=False)
        if _in_event_loop():
            return RemoteSubscription(self, None, known=True)
        id = self.broker.last_id(self.key, min(_LAST_ID_SECONDS, self.settings.send_timeout))
        # If the broker cannot say that, there is no telling what will have been missed, either.
        return RemoteSubscription(self, id, known=id is not None)

    def stats(self) -> ChannelStats:
        """Return a snapshot."""
        tally = self.tally
        return ChannelStats(
            tally["sent"], tally["subscribers"], tally["dropped"], tally["disconnected"], self.broker.stats()
        )


class RemoteSubscription(Subscription):
    """A place in a stream: a place in the loop's :class:`Feed`, while that goes back far enough, else an id.

    A subscription that is too slow for the feed, or comes back with an older id, reads the stream by itself, a page at
    a time, until it has caught up. What it has yet to read is in Redis and not here.

    Args:
        home: whose events.
        after: the id of the event before the first to read. ``None``: if ``known``, it begins with what is sent once it
            reads; else it begins with a reset.
        known: ``after`` comes from Redis, not from a client.
    """

    __slots__ = (
        "_after",
        "_ended",
        "_failure_count",
        "_feed",
        "_first",
        "_home",
        "_known",
        "_left_at",
        "_link",
        "_number",
        "_page",
        "_since",
        "_skip",
        "_task",
    )

    def __init__(self, home: RemoteHome, after: str | None, *, known: bool) -> None:
        self._ended = False
        self._home = home
        self._after = after
        self._known = known
        self._link: Link | None = None
        self._feed: Feed | None = None
        # The place in the feed; None while it is not in the feed.
        self._number: int | None = None
        # Events up to this one are skipped: it has them already.
        self._skip: tuple[int, int] | None = None
        # Where it fell out of the feed, being too slow.
        self._left_at: int | None = None
        # Of the feed, when this began: shows whether "now" would be later than it was asked for.
        self._failure_count = 0
        # The place in the feed at which the stream was known to be the one that it reads.
        self._since = 0
        self._first: Event | None = None
        self._page: deque[Event] = deque()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    def take(self) -> Event | None:
        """See :class:`Subscription`."""
        if self._ended:
            raise StopAsyncIteration
        feed = self._feed or self._begin()
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._page:
            event = self._page.popleft()
            self._after = event.id
            return event
        if self._number is not None or self._place(feed):
            found = self._take_from(feed)
            if found is not None:
                return found
        if self._home.closed and self._has_all(feed):
            self._end()
            raise StopAsyncIteration
        return None

    def _has_all(self, feed: Feed) -> bool:
        """Tell whether it has all that was sent before the channel was closed, or cannot get it now."""
        assert self._link is not None
        if self._link.state == "away":
            return True
        if self._number is not None:
            return self._number == feed.log.end and self._home.has_sent_no_later_than(feed.tail, feed.asked_at)
        return self._after is not None and self._known and self._home.has_sent_no_later_than(self._after)

    def _take_from(self, feed: Feed) -> Event | None:
        log = feed.log
        while (number := self._number) is not None:
            if log.end - number > min(self._home.settings.limit, feed.capacity):
                self._left_at, self._number = number, None
                break
            event = log.get(number)
            if event is None:
                break
            self._number = number + 1
            if self._skip is not None:
                if event.event != RESET and order(event.id) <= self._skip:
                    continue
                self._skip = None
            self._after = event.id
            if event.event == RESET:
                self._since = self._number
            return event
        return None

    def _begin(self) -> Feed:
        self._link = self._home.broker.link()
        settings = self._home.settings
        feed = self._feed = self._link.follow(self._home.key, settings.limit, settings.history)
        self._failure_count = -1 if self._link.state == "away" else feed.failure_count
        self._since = feed.log.end
        self._home.count("subscribers")
        return feed

    def _place(self, feed: Feed) -> bool:
        """Go on in the feed, if its place is there; return whether it is."""
        if not feed.ready or self._page or self._first is not None:
            return False
        self._doubt_beginning(feed)
        if self._after is None:
            return False
        number = feed.number_after(self._after, known=self._known)
        if number is None or feed.log.end - number > min(self._home.settings.limit, feed.capacity):
            return False
        self._number = number
        self._skip = order(self._after)
        self._known = True
        self._left_at = None
        return True

    def _doubt_beginning(self, feed: Feed) -> None:
        """Begin anew, if the stream was empty and Redis has lost it since: all empty streams look the same."""
        if self._after == BEGINNING and feed.lost_at >= self._since:
            self._after, self._known = None, False

    def wait(self, timeout: float | None = None) -> Awaitable[bool]:
        """See :class:`Subscription`."""
        feed = self._feed or self._begin()
        if self._number is not None:
            return feed.log.wait(self._number, timeout)
        return self._wait_for_place(feed, timeout)

    async def _wait_for_place(self, feed: Feed, timeout: float | None) -> bool:
        if self._first is not None or self._page or self._place(feed):
            return True
        if self._task is None:
            if not feed.ready:
                return await feed.log.wait(feed.log.end, timeout)
            # Not by an eager task factory: it may end at once, and would be noted after that.
            self._task = asyncio.Task(self._fetch(feed), context=contextvars.Context())
        done, _ = await asyncio.wait([self._task], timeout=timeout)
        return bool(done)

    async def _fetch(self, feed: Feed) -> None:
        """Read what comes next from the stream itself; if that fails, wait a while before the next attempt."""
        from aiowsgi.channels.driver import Away, Refused

        assert self._link is not None
        after = self._after
        try:
            async with self._link.wire() as wire:
                count = 1 if after is None else _PAGE_COUNT
                page = await wire.page_after(feed.key, after or BEGINNING, count)
        except Exception as error:
            if isinstance(error, Refused):
                self._link.refuses(feed, error)
            elif not isinstance(error, Away):
                self._link.unforeseen(error)
            await feed.log.wait(feed.log.end, _RETRY_SECONDS)
        else:
            # Unless nobody has waited for it, and the feed has got there in the meantime.
            if self._number is None and self._after == after:
                self._take_page(feed, page)
        finally:
            self._task = None

    def _take_page(self, feed: Feed, page: Page) -> None:
        self._doubt_beginning(feed)
        if self._after is None and self._known and feed.failure_count == self._failure_count:  # from now on
            self._after, self._since = page.stream.last_id, feed.log.end
        elif self._after is not None and page.continuous:
            self._known = True
            self._page.extend(page.events)
            if not page.events:
                # At the end of the stream, which the feed has not seen yet.
                self._after = page.stream.last_id
        else:
            self._miss(feed, page)

    def _miss(self, feed: Feed, page: Page) -> None:
        """What comes next has been trimmed, or never was there."""
        if self._known and self._after is not None:  # it was there, so this one is too slow
            if self._home.settings.policy == "disconnect":
                self._home.count("disconnected")
                self._end()
                return
            # How many is not known of a subscription that has never been in the feed.
            lost = 1 if self._left_at is None else max(1, feed.log.end - self._left_at)
            self.dropped += lost
            self._home.count("dropped", lost)
            self._left_at = None
        self._home.count("resets")
        self._first = Event(b"", page.stream.last_id, RESET)
        self._after = page.stream.last_id
        self._known = True
        self._since = feed.log.end

    @property
    def behind(self) -> bool:
        """See :class:`Subscription`."""
        if self._first is not None or self._page:
            return True
        return self._number is not None and self._feed is not None and self._number < self._feed.log.end

    @property
    def place(self) -> str | None:
        """See :class:`Subscription`."""
        return self._after if self._known and self._first is None else None

    async def aclose(self) -> None:
        """See :class:`Subscription`."""
        self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._page.clear()
        if self._task is not None:
            self._task.cancel()
        if self._link is not None and self._feed is not None:
            self._link.leave(self._feed)
            self._home.count("subscribers", -1)

    def __del__(self) -> None:
        # For one that was not closed, as after a ``break`` out of ``async for``; in whichever thread frees it.
        if not self._ended and self._link is not None and self._feed is not None:
            self._home.count("subscribers", -1)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._link.loop.call_soon_threadsafe(self._link.leave, self._feed)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
