"""A broker as this process uses it: one for each URL, whatever the number of channels.

Threads send over a few connections of their own; each event loop with subscribers has one :class:`Link`. All of this
belongs to the process that has opened it: a forked process starts afresh.

Thread: any, except where stated otherwise.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from aiowsgi.bridge.tally import Tally
from aiowsgi.channels.address import BrokerAddress
from aiowsgi.channels.stats import DELAY_BUCKETS, BrokerStats

if TYPE_CHECKING:
    from aiowsgi.channels.driver import Connector, Sender
    from aiowsgi.channels.link import Link

__all__ = ["Broker", "broker_of", "brokers"]

# Seconds for an answer to a command of a subscription.
_COMMAND_SECONDS = 3.0
# Seconds for which threads that subscribe do not ask again, once one has asked in vain.
_DOUBT_SECONDS = 1.0

_brokers: weakref.WeakValueDictionary[str, Broker] = weakref.WeakValueDictionary()


def broker_of(url: str) -> Broker:
    """Return the broker at a URL.

    Raises:
        ValueError: it is not the URL of one, or redis-py is not installed; the message contains no secrets.
    """
    broker = _brokers.get(url)
    if broker is None:
        broker = _brokers.setdefault(url, Broker(BrokerAddress.parse(url)))
    return broker


def brokers() -> list[Broker]:
    """Return the brokers of this process's channels."""
    # Not values(): a thread may make another one meanwhile, and these references are copied at once.
    return [broker for reference in _brokers.valuerefs() if (broker := reference()) is not None]


class Broker:
    """One broker: this process's senders to it, and the link of each of its event loops.

    Args:
        address: where it is.
    """

    def __init__(self, address: BrokerAddress) -> None:
        try:
            from aiowsgi.channels.driver import Connector
        except ImportError:
            raise ValueError("redis-py is not installed; the extra aiowsgi[redis] has it") from None
        self.label = address.label
        self.connector: Connector = Connector(address, _COMMAND_SECONDS)
        self.tally = Tally()
        # By process, and by their timeout.
        self._senders: dict[tuple[int, float], Sender] = {}
        # Once no channel is left that needs this broker.
        weakref.finalize(self, _close, self._senders)
        # By process and loop; each is added and removed by its own loop.
        self._links: dict[tuple[int, int], Link] = {}
        self._doubted_until = 0.0

    def __repr__(self) -> str:
        return f"<Broker {self.label}>"

    def sender(self, timeout: float) -> Sender:
        """Return what sends from threads of this process, within ``timeout`` seconds."""
        from aiowsgi.channels.driver import Sender

        key = (os.getpid(), timeout)
        sender = self._senders.get(key)
        if sender is None:
            sender = self._senders.setdefault(key, Sender(self.connector, timeout))
        return sender

    def link(self) -> Link:
        """Return the running loop's link to the broker. Event loop."""
        from aiowsgi.channels.link import Link

        loop = asyncio.get_running_loop()
        key = (os.getpid(), id(loop))
        link = self._links.get(key)
        # A new loop may have got the id() of one that was closed without ending its tasks.
        if link is None or link.loop is not loop:
            link = self._links[key] = Link(self, loop)
        return link

    def forget(self, link: Link) -> None:
        """The link has ended. Event loop."""
        key = (os.getpid(), id(link.loop))
        if self._links.get(key) is link:
            del self._links[key]

    def links(self) -> list[Link]:
        """Return the links of this process."""
        pid = os.getpid()
        return [link for (owner, _), link in list(self._links.items()) if owner == pid]

    def last_id(self, key: str, timeout: float) -> str | None:
        """Ask for the id of a stream's last event; ``None`` if the broker cannot say now. Not in an event loop."""
        from aiowsgi.channels.driver import Away, Refused

        now = time.monotonic()
        if now < self._doubted_until or any(link.state == "away" for link in self.links()):
            return None
        try:
            return self.sender(timeout).last_id(key)
        except Refused:  # of this stream: that says nothing about others
            return None
        except Away:
            self._doubted_until = now + _DOUBT_SECONDS
            return None

    def answers(self) -> None:
        """A link has had an answer again: threads need no longer doubt the broker."""
        self._doubted_until = 0.0

    def took(self, count: int, delay: float) -> None:
        """Count events that a link has read, and how long the last of them took to arrive."""
        bucket = bisect_left(DELAY_BUCKETS, delay)
        self.tally.add({"read": count, f"delay {bucket}": 1, "delay microseconds": round(delay * 1e6)})

    def wake_subscribers(self, key: str) -> None:
        """Have the subscribers of a stream look again."""
        for link in self.links():
            try:
                link.loop.call_soon_threadsafe(link.wake_subscribers, key)
            except RuntimeError:  # a RecursionError is one too
                if not link.loop.is_closed():
                    raise

    def stats(self) -> BrokerStats:
        """Return a snapshot."""
        links = self.links()
        states = {link.state for link in links}
        away = [link for link in links if link.state == "away"]
        reading = [link for link in links if link.state != "idle"]
        tally = self.tally
        return BrokerStats(
            state="away" if away else "reading" if "reading" in states else "idle",
            silence=max((link.loop.time() - link.answered_at for link in reading), default=0.0),
            delay=max((link.delay for link in links), default=0.0),
            reason=away[0].reason if away else "",
            read=tally["read"],
            resets=tally["resets"],
            send_failures=tally["send_failures"],
            connections=sum(link.connection_count for link in links),
        )

    async def check(self, timeout: float) -> Any:
        """Make sure that the broker is there and accepts the user and password. Event loop.

        Raises:
            Away: it is not, or does not.
        """
        wire = await self.connector.connect(timeout)
        try:
            await wire.ask("PING")
        finally:
            await wire.close()


def _close(senders: dict[tuple[int, float], Sender]) -> None:
    pid = os.getpid()
    for (owner, _), sender in senders.items():
        if owner == pid:
            sender.close()
