"""Subscribers of a stream of events, and how long an event takes to reach each.

Events carry the moment of their publication by the monotonic clock, which all processes of a machine share.

Thread: event loop.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import cast

from bench.load.http import Request

__all__ = ["FanOut"]

_EVENT = re.compile(rb"data: (\d+)\r?\n")


class _Subscriber(asyncio.Protocol):
    __slots__ = ("_buffer", "_fan_out", "_open", "_transport")

    def __init__(self, fan_out: FanOut) -> None:
        self._fan_out = fan_out
        self._buffer = b""
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do the same, but are not instances of asyncio's class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._fan_out.opening)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self._buffer += data
        if not self._open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self._open, self._buffer = True, rest
            if b" 200 " in head[:16] or head[:13].endswith(b" 200"):
                self._fan_out.subscribed += 1
        if self._buffer:
            place = 0
            for match in _EVENT.finditer(self._buffer):
                self._fan_out.delivered.append((now - int(match[1])) / 1e9)
                place = match.end()
            self._buffer = self._buffer[place:][-64:]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._open:
            self._fan_out.lost += 1

    def close(self) -> None:
        self._open = False
        self._transport.abort()


class FanOut:
    """Streams from ``/subscribe``, and events by ``/publish``."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.opening = Request("/subscribe").serialise(port)
        self._publish = Request("/publish", fields={"Connection": "close"}).serialise(port)
        self._subscribers: list[_Subscriber] = []
        self.subscribed = 0
        self.lost = 0
        self.delivered: list[float] = []

    async def connect(self, count: int, timeout: float) -> dict[str, object]:
        """Open streams until there are ``count``; wait until each has its head.

        Returns:
            ``subscribed``, which may be less than ``count``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        try:
            async with asyncio.timeout(timeout):
                while len(self._subscribers) < count:
                    _, subscriber = await loop.create_connection(lambda: _Subscriber(self), "127.0.0.1", self._port)
                    self._subscribers.append(subscriber)
        except (OSError, TimeoutError):
            pass
        while self.subscribed < len(self._subscribers) and loop.time() < deadline:
            await asyncio.sleep(0.02)
        return {"subscribed": self.subscribed}

    async def publish(self, events: int, interval: float, timeout: float) -> dict[str, object]:
        """Publish events one after the other, and wait until all have arrived everywhere, or for the timeout.

        Returns:
            ``delivered`` (a list of seconds), ``expected`` (how many deliveries) and ``published``.
        """
        self.delivered.clear()
        expected = 0
        published = 0
        for _ in range(events):
            if await self._publish_one(timeout):
                published += 1
                expected += self.subscribed - self.lost
            await asyncio.sleep(interval)
        deadline = time.monotonic() + timeout
        while len(self.delivered) < expected and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return {"delivered": self.delivered, "expected": expected, "published": published, "lost": self.lost}

    async def _publish_one(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(self._publish)
                status = await reader.readline()
                writer.close()
        except (OSError, TimeoutError):
            return False
        return b" 200" in status

    def close(self) -> None:
        """End all streams."""
        for subscriber in self._subscribers:
            subscriber.close()
