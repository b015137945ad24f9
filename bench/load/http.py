"""HTTP/1.1 as a client of the generator speaks it: requests out, and where responses end. No I/O.

Thread: event loop.

Source: RFC 9112 sections 4, 6 and 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Answer", "BadResponse", "Request", "ResponseReader"]


class BadResponse(Exception):
    """What arrived is not an HTTP response, or not all of one."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is sent again and again.

    Args:
        path: with its query.
        fields: field name to value, besides ``Host`` and ``Content-Length``.
        body_size: bytes of content.
    """

    path: str
    method: str = "GET"
    fields: Mapping[str, str] = field(default_factory=dict)
    body_size: int = 0

    def serialise(self, port: int) -> bytes:
        """Return its bytes."""
        fields = {"Host": f"127.0.0.1:{port}", **self.fields}
        if self.body_size:
            fields["Content-Length"] = str(self.body_size)
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{head}\r\n".encode() + b"x" * self.body_size


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is complete.

    Args:
        size: bytes of content, without the framing.
        reusable: whether the connection may carry another request.
    """

    status: int
    size: int
    reusable: bool


class ResponseReader:
    """Finds where each response of a connection ends."""

    __slots__ = ("_buffer", "_chunked", "_left", "_reusable", "_size", "_status", "_until_close")

    def __init__(self) -> None:
        self._buffer = b""
        self._begin()

    def _begin(self) -> None:
        self._status = 0
        self._size = 0
        self._left = 0
        self._chunked = False
        self._until_close = False
        self._reusable = True

    def feed(self, data: bytes) -> Answer | None:
        """Take what was received; return the response that it completes.

        Raises:
            BadResponse: it is not one, or there is more than one: only one request is ever under way.
        """
        self._buffer = self._buffer + data if self._buffer else data
        if not self._status and not self._read_head():
            return None
        if self._chunked:
            complete = self._read_chunks()
        elif self._until_close:
            self._size += len(self._buffer)
            self._buffer = b""
            complete = False
        else:
            self._size += len(self._buffer)
            self._left -= len(self._buffer)
            self._buffer = b""
            if self._left < 0:
                raise BadResponse(f"{-self._left} bytes more than were announced")
            complete = not self._left
        return self._finish() if complete else None

    def feed_end(self) -> Answer | None:
        """Take the end of the connection; return the response that it completes.

        Raises:
            BadResponse: it cuts a response short.
        """
        if self._status and self._until_close:
            return self._finish()
        if self._status or self._buffer:
            raise BadResponse("the connection ended within a response")
        return None

    def _finish(self) -> Answer:
        answer = Answer(self._status, self._size, self._reusable)
        self._begin()
        return answer

    def _read_head(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        status_line, *lines = head.split(b"\r\n")
        version, _, status = status_line.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not status[:3].isdigit():
            raise BadResponse(f"no status line: {status_line[:60]!r}")
        self._status = int(status[:3])
        self._buffer = rest
        length, connection = None, b""
        for line in lines:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                self._chunked = value.strip().lower() == b"chunked"
            elif name == b"connection":
                connection = value.strip().lower()
        self._reusable = b"close" not in connection and (version == b"HTTP/1.1" or connection == b"keep-alive")
        if not self._chunked and length is None:
            self._until_close, self._reusable = True, False
        self._left = length or 0
        return True

    def _read_chunks(self) -> bool:
        """Take the chunks that are whole. ``_left`` holds a chunk's length while its data is awaited."""
        buffer, place = self._buffer, 0
        while True:
            if not self._left:
                end = buffer.find(b"\r\n", place)
                if end < 0:
                    break
                size = int(buffer[place:end].partition(b";")[0], 16)
                if not size:
                    # No trailer section: the applications here have none.
                    if len(buffer) < end + 4:
                        break
                    self._buffer = b""
                    return True
                place, self._left = end + 2, size + 2
            taken = min(self._left, len(buffer) - place)
            self._size += min(taken, max(0, self._left - 2))
            place += taken
            self._left -= taken
            if self._left:
                break
        self._buffer = buffer[place:]
        return False
