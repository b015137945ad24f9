"""A client of server-sent events that does what a browser does, and records all that it is given.

When its connection is lost, it comes back after the time that the server's ``retry:`` says, and names the last event
that it has. When it is turned away (by any status but 200), a browser gives up; the page of this example then makes a
new EventSource, which names its last event in the URL, and so does this client.

Source: HTML Living Standard, section 9.2 "Server-sent events"; RFC 9112 section 7.1 for chunks.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

#: Seconds that a browser waits when it was not told how long.
RETRY = 1.0
#: The longest wait: a check should not take all day.
LONGEST_RETRY = 3.0
TURNED_AWAY_RETRY = 0.5


@dataclass
class Event:
    """What was received between two empty lines."""

    id: str
    event: str
    data: str


@dataclass
class Counts:
    """What happened to all clients."""

    connected: int = 0
    lost: int = 0
    turned_away: int = 0
    comments: int = 0
    #: The workers that served them, as they introduce themselves.
    workers: set[str] = field(default_factory=set)


class Malformed(Exception):
    """The server has sent something that is not a stream of events."""


class Stream(asyncio.Protocol):
    """One connection: a request, and the response in chunks as it comes."""

    def __init__(self, source: EventSource, request: bytes) -> None:
        self._source = source
        self._request = request
        self._buffer = b""
        self._text = b""
        self._in_head = True
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            if self._in_head and not self._read_head():
                return
            while self._read_chunk():
                pass
        except Exception as error:
            self.close()
            if not self.ended.done():
                self.ended.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        self._transport.abort()

    def _read_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        self._in_head = False
        self._buffer = rest
        if not head.startswith(b"HTTP/1.1 200 "):
            self._source.turned_away()
            self.close()
            return False
        if b"\r\ntransfer-encoding: chunked" not in head.lower():
            raise Malformed(head)
        self._source.opened()
        return True

    def _read_chunk(self) -> bool:
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return False
        size = int(line, 16)
        if len(rest) < size + 2:
            return False
        if rest[size : size + 2] != b"\r\n":
            raise Malformed(rest[:100])
        self._buffer = rest[size + 2 :]
        *blocks, self._text = (self._text + rest[:size]).split(b"\n\n")
        for block in blocks:
            self._source.receive(block)
        if not size:
            self.close()
        return True


class EventSource:
    """One client, until it is cancelled.

    Args:
        port: of 127.0.0.1.
        counts: shared by all clients.
    """

    def __init__(self, port: int, counts: Counts) -> None:
        self.events: list[Event] = []
        self.is_open = False
        self._port = port
        self._counts = counts
        self.last_event_id = ""
        self.retry = RETRY
        self._was_turned_away = False

    async def run(self) -> None:
        """Follow the events."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, stream = await loop.create_connection(lambda: Stream(self, self._request()), "127.0.0.1", self._port)
            except OSError:
                pass
            else:
                try:
                    await stream.ended
                finally:
                    stream.close()
            self._counts.lost += self.is_open
            self.is_open = False
            delay = TURNED_AWAY_RETRY if self._was_turned_away else min(self.retry, LONGEST_RETRY)
            # As browsers do, so that they do not all come together.
            await asyncio.sleep(delay * random.uniform(1, 1.2))

    def _request(self) -> bytes:
        lines = ["GET /events HTTP/1.1", "Host: localhost", "Accept: text/event-stream", "Cache-Control: no-store"]
        if self.last_event_id and self._was_turned_away:
            lines[0] = f"GET /events?last={self.last_event_id} HTTP/1.1"
        elif self.last_event_id:
            lines.append(f"Last-Event-ID: {self.last_event_id}")
        self._was_turned_away = False
        return "\r\n".join([*lines, "", ""]).encode()

    def opened(self) -> None:
        self.is_open = True
        self._counts.connected += 1

    def turned_away(self) -> None:
        self._was_turned_away = True
        self._counts.turned_away += 1

    def receive(self, block: bytes) -> None:
        """Take what comes before an empty line."""
        event = Event("", "message", "")
        data = []
        for line in block.decode().split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif name == "event":
                event.event = value
            elif name == "id":
                event.id = self.last_event_id = value
            elif name == "retry":
                self.retry = int(value) / 1000
            elif not name:
                self._counts.comments += 1
        if not data:
            return
        event.data = "\n".join(data)
        if event.event == "worker":
            self._counts.workers.add(event.data)
        else:
            self.events.append(event)
