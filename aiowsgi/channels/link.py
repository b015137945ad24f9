"""One event loop's link to one broker: a connection that reads, and a few for commands.

It reads every stream with a subscriber on this loop. The connection waits in one XREAD for whatever comes in any of
these streams. XREAD leaves nothing behind in Redis: a reply that is lost with its connection is read again, from the
last id that has arrived. So the reader may be interrupted at any time; to add a stream, it is woken by CLIENT UNBLOCK
or, if that is not allowed or comes too early, by giving up the connection.

After each connect, every stream has to prove that nothing is missing since its last event
(:meth:`~aiowsgi.channels.driver.Wire.page_after`); if it cannot, its subscribers are told.

Thread: event loop, except where stated otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from aiowsgi.channels.commands import Commands
from aiowsgi.channels.driver import Away, Refused, Wire, read_entry
from aiowsgi.channels.event import Event
from aiowsgi.channels.feed import Feed, order

if TYPE_CHECKING:
    from aiowsgi.channels.broker import Broker

__all__ = ["Link"]

_logger = logging.getLogger("aiowsgi.error")

# Seconds that a read waits for events: Redis is heard from at least this often.
_BLOCK_SECONDS = 3.0
# Seconds in which any answer comes, beyond the wait that was asked for.
_ANSWER_SECONDS = 3.0
# Events of one stream in one reply.
_READ_COUNT = 500
# Attempts to wake the reader before its connection is given up.
_UNBLOCK_COUNT = 3
# Seconds for which connections for commands are kept when nobody is subscribed.
_LINGER_SECONDS = 1.0
# Seconds between two looks at a stream that Redis refuses to read.
_FAULT_SECONDS = 5.0
# Seconds of the first pause, and of the longest; each is drawn between a half and the whole.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class Interrupted(Exception):
    """The reading connection was given up on purpose."""


class Link:
    """Reads for the subscribers on one loop. It lives while there are any, and for a moment longer.

    Args:
        broker: to be reached.
        loop: that reads.
    """

    def __init__(self, broker: Broker, loop: asyncio.AbstractEventLoop) -> None:
        self._broker = broker
        self.loop = loop
        self.state = "idle"
        self.reason = ""
        # The last unexpected error.
        self._fault = ""
        #: When Redis last answered, and how long the last event that was read took to arrive; in seconds.
        self.answered_at = loop.time()
        self.delay = 0.0
        self._feeds: dict[str, Feed] = {}
        self._changed = asyncio.Event()
        self._deserted = asyncio.Event()
        self._commands = Commands(broker.connector)
        self._reader: Wire | None = None
        self._reader_id = 0
        self._pin_count = 0
        # Of the read under way: its number, whether Redis holds it, whether it lacks a stream, and what ends it.
        self._turn = 0
        self._blocked = False
        self._stale = False
        self._interrupted = False
        self._patience: asyncio.Timeout | None = None
        self._unblocking: asyncio.Task[None] | None = None
        # The streams of the last read, if Redis has refused it; also one over an earlier connection.
        self._refused: set[str] = set()
        # In no context of anybody's request; and not by an eager task factory, before whoever makes this knows of it.
        self._task = asyncio.Task(self._run(), loop=loop, name=f"aiowsgi {broker!r}", context=contextvars.Context())

    @property
    def connection_count(self) -> int:
        """Connections that are open. Any thread."""
        return (self._reader is not None) + self._commands.count

    # For subscriptions.

    def follow(self, key: str, capacity: int, history: int) -> Feed:
        """Have a stream read until every caller has called :meth:`leave`."""
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(key, capacity, history)
            self._wake()
        feed.history = min(feed.history, history)
        feed.subscriber_count += 1
        return feed

    def leave(self, feed: Feed) -> None:
        """End one caller's :meth:`follow`."""
        feed.subscriber_count -= 1
        if not feed.subscriber_count:
            del self._feeds[feed.key]
            if not self._feeds and not self._pin_count:
                self._interrupt()

    def pin(self) -> None:
        """Stay connected, even without subscribers, until every caller has called :meth:`unpin`.

        For code that asks whether the broker is there.
        """
        self._pin_count += 1
        self._changed.set()
        self._deserted.clear()

    def unpin(self) -> None:
        """End one caller's :meth:`pin`."""
        self._pin_count -= 1
        if not self._feeds and not self._pin_count:
            self._interrupt()

    def wake_subscribers(self, key: str) -> None:
        """Have those of a stream look again."""
        feed = self._feeds.get(key)
        if feed is not None:
            feed.log.wake()

    async def ask(self, *words: bytes | str | int) -> Any:
        """Send one command; see :meth:`Wire.ask`."""
        async with self.wire() as wire:
            return await wire.ask(*words)

    def wire(self) -> AbstractAsyncContextManager[Wire]:
        """Lend a connection for commands; see :meth:`Commands.wire`."""
        return self._commands.wire()

    # Reading.

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while not self._task.cancelling() and await self._wanted():
                begun_at = self.loop.time()
                try:
                    await self._follow()
                except Interrupted:
                    continue
                except Exception as error:
                    was_there = self.state == "reading"
                    if not isinstance(error, (Away, Refused)):
                        # Unexpected. The cause may be in what Redis answers, and recur with each answer.
                        was_there = was_there and self.loop.time() - begun_at > _LONGEST_PAUSE
                        error = self.unforeseen(error, again=was_there)
                    # A broker that was there for a while has only just gone: trying again soon costs nothing.
                    pause = _FIRST_PAUSE if was_there else min(2 * pause, _LONGEST_PAUSE)
                    self._went_away(error)
                    await _wait(self._deserted, pause * random.uniform(0.5, 1.0))
        finally:
            self._broker.forget(self)
            for feed in self._feeds.values():
                feed.ready = False
                feed.log.wake()
            if self._unblocking is not None:
                self._unblocking.cancel()
            await self._commands.close()

    async def _wanted(self) -> bool:
        """Wait a moment for a subscriber; return whether the link is still wanted."""
        while not (self._feeds or self._pin_count):
            self.state = "idle"
            used_count = self._commands.used_count
            self._changed.clear()
            await _wait(self._changed, _LINGER_SECONDS)
            if not (self._feeds or self._pin_count or self._commands.busy) and self._commands.used_count == used_count:
                return False
        return True

    async def _follow(self) -> None:
        """Connect and read until that fails, or the link is no longer wanted."""
        try:
            self._reader = reader = await self._broker.connector.connect(_BLOCK_SECONDS + _ANSWER_SECONDS)
            with contextlib.suppress(Refused):  # this user may not; the connection is given up instead
                self._reader_id = await reader.ask("CLIENT", "ID")
            # cancelling(): the loop's end cancels this task only once, and that may be swallowed.
            while (self._feeds or self._pin_count) and not self._task.cancelling():
                if await self._make_ready(reader):
                    await self._read(reader)
                else:
                    await self._await_feed(reader)
        finally:
            opened, self._reader = self._reader, None
            self._reader_id = 0
            for feed in self._feeds.values():
                feed.ready = False
            if opened is not None:
                await opened.close()

    async def _make_ready(self, reader: Wire) -> bool:
        """Have each stream prove that nothing is missing; return whether any stream can be read."""
        again = True
        while again:
            again = False
            for feed in list(self._feeds.values()):
                if feed.ready or self.loop.time() < feed.retry_at:
                    continue
                again = True
                asked_at = time.monotonic()
                try:
                    await (self._catch_up(reader, feed) if feed.primed else self._prime(reader, feed))
                except Refused as error:
                    feed.retry_at = self.loop.time() + _FAULT_SECONDS
                    feed.failure_count += 1
                    self.refuses(feed, error)
                else:
                    feed.ready, feed.fault, feed.asked_at = True, "", asked_at
                    feed.log.wake()
        if not self._refused:  # else only the read shows whether Redis serves
            self._answered()
        return any(feed.ready for feed in self._feeds.values())

    async def _prime(self, reader: Wire, feed: Feed) -> None:
        feed.prime(await reader.last_events(feed.key, feed.capacity))

    async def _catch_up(self, reader: Wire, feed: Feed) -> None:
        """Append what has come since the last event, or report that something is missing."""
        while True:
            page = await reader.page_after(feed.key, feed.tail, _READ_COUNT, feed.added)
            if not page.continuous:
                self._broker.tally.add({"resets": 1})
                _log(
                    logging.WARNING,
                    "channel %s: %s does not have all events since %s: subscribers are told",
                    feed.key,
                    self._broker.label,
                    feed.tail,
                )
                feed.reset(page.stream)
                return
            self._append(feed, page.events)
            if len(page.events) < _READ_COUNT:
                return

    def _append(self, feed: Feed, events: list[Event]) -> None:
        if events:
            feed.extend(events)
            self.delay = max(0.0, time.time() - order(feed.tail)[0] / 1000)
            self._broker.took(len(events), self.delay)

    async def _await_feed(self, reader: Wire) -> None:
        """No stream can be read: check that Redis is still there, and wait for a change."""
        self._changed.clear()
        await reader.ask("PING")
        self._refused.clear()
        self._answered()
        await _wait(self._changed, _BLOCK_SECONDS)

    async def _read(self, reader: Wire) -> None:
        ready = [feed for feed in self._feeds.values() if feed.ready]
        # After a refusal, a short one: whether Redis reads them now is to be known soon.
        seconds = 0.001 if self._refused else _BLOCK_SECONDS
        self._turn += 1
        self._stale = False
        self._blocked = True
        try:
            async with asyncio.timeout(None) as self._patience:
                await reader.send(
                    *("XREAD", "COUNT", _READ_COUNT, "BLOCK", round(seconds * 1000), "STREAMS"),
                    *(feed.key for feed in ready),
                    *(feed.tail for feed in ready),
                )
                # asyncio.wait_for, through which redis-py sends, may swallow a cancellation (gh-86296, until 3.12).
                if self._interrupted:
                    raise Interrupted
                answer = await reader.receive()
        except TimeoutError:
            raise Interrupted from None
        except Refused as error:
            # One of the streams was refused: each is asked for alone to find out which.
            for feed in ready:
                feed.ready = False
            refused, self._refused = self._refused, {feed.key for feed in ready}
            if self._refused == refused:
                # None was: this user may not wait, or a Redis Cluster has them in different places.
                raise Away(f"it refuses XREAD: {error}") from None
            return
        finally:
            self._blocked = self._interrupted = False
            self._patience = None
        self._refused.clear()
        self._answered()
        for key, entries in answer or ():
            await self._take(reader, key.decode(), entries)

    async def _take(self, reader: Wire, key: str, entries: Sequence[Any]) -> None:
        feed = self._feeds.get(key)
        if feed is None or not feed.ready:
            return  # nobody is subscribed any more, or only since just now
        if len(entries) < min(_READ_COUNT, feed.history):
            self._append(feed, [read_entry(entry) for entry in entries])
            return
        # This many may be all that is left of more: only a page shows that.
        try:
            await self._catch_up(reader, feed)
        except Refused:
            feed.ready = False

    def _answered(self) -> None:
        self.answered_at = self.loop.time()
        if self.state != "reading":
            if self.state == "away":
                _log(logging.INFO, "%s is back", self._broker.label)
            self.state, self.reason = "reading", ""
            self._broker.answers()

    def refuses(self, feed: Feed, error: Refused) -> None:
        """Log that Redis refuses to read a stream, unless that was logged already."""
        if feed.fault != str(error):
            feed.fault = str(error)
            _log(logging.ERROR, "channel %s: %s refuses to read it: %s", feed.key, self._broker.label, error)

    def unforeseen(self, error: Exception, *, again: bool = False) -> Away:
        """Log an unexpected error, and return what it is treated as.

        Args:
            again: log it also if it was the last one that was logged.
        """
        text = self._broker.connector.address.without_secrets(f"{type(error).__name__}: {error}")
        if again or self._fault != text:
            self._fault = text
            _log(logging.ERROR, "internal error in reading from %s", self._broker.label, error=error)
        return Away(f"internal error: {text}")

    def _went_away(self, error: Exception) -> None:
        text = str(error)
        if self.state != "away" or self.reason != text:
            _log(logging.ERROR, "%s is away: %s; subscribers wait", self._broker.label, text)
        if self.state == "reading":
            self._broker.tally.add({"losses": 1})
        first = self.state != "away"
        self.state, self.reason = "away", text
        for feed in self._feeds.values():
            feed.failure_count += 1
            if first:
                feed.log.wake()  # those of a channel that was closed wait no longer

    # Waking the reader.

    def _wake(self) -> None:
        """Have the reader look at the streams again."""
        self._changed.set()
        self._deserted.clear()
        self._stale = True
        if self._blocked and self._unblocking is None:
            # Not by an eager task factory: it may end at once, and would be noted after that.
            self._unblocking = asyncio.Task(self._unblock(), loop=self.loop, context=contextvars.Context())

    async def _unblock(self) -> None:
        try:
            turn, count = self._turn, 0
            while self._blocked and self._stale:
                if turn != self._turn:
                    turn, count = self._turn, 0
                count += 1
                if count > _UNBLOCK_COUNT or not self._reader_id:
                    self._interrupt()
                elif await self.ask("CLIENT", "UNBLOCK", self._reader_id):
                    return
                # Otherwise Redis is not holding it: the command is still on its way, or the reply already is.
        except (Away, Refused):
            self._interrupt()
        finally:
            self._unblocking = None

    def _interrupt(self) -> None:
        """Give up the reading connection, if it is waiting."""
        self._stale = False
        if self._patience is not None and not self._interrupted:
            self._interrupted = True
            self._patience.reschedule(self.loop.time())
        if not (self._feeds or self._pin_count):
            self._changed.set()
            self._deserted.set()


def _log(level: int, message: str, *arguments: object, error: Exception | None = None) -> None:
    # A log handler that fails must not end the reader, on which all streams of this loop depend.
    with contextlib.suppress(Exception):
        _logger.log(level, message, *arguments, exc_info=error)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
