"""One side of an HTTP/1.x connection without I/O: bytes in, events out.

Requests are read one at a time. Once one is complete, what follows it is kept unread until
:meth:`HTTPConnection.start_next_request` says that its response is finished; so pipelined requests are answered in
order, and the reader of the socket bounds what it reads ahead by :attr:`HTTPConnection.buffered_size`.

Thread: event loop.

Source: RFC 9112 sections 2.2, 9.3 and 9.6.
"""

from __future__ import annotations

import enum

from aiowsgi.http.content import ChunkedReader, ContentLengthReader, ContentReader
from aiowsgi.http.events import END_OF_CONTENT, Event, Refusal
from aiowsgi.http.parsers import HeadParser
from aiowsgi.http.policy import RequestPolicy
from aiowsgi.semantics import RequestHead

__all__ = ["HTTPConnection", "ReadState"]


class ReadState(enum.Enum):
    """What the next byte belongs to."""

    HEAD = enum.auto()  # a head, or nothing has arrived yet
    CONTENT = enum.auto()  # the content of the current request
    COMPLETE = enum.auto()  # a later request; the current one is complete
    CLOSED = enum.auto()  # nothing: refused, or at its end; further bytes are dropped


# Module-level names: looking a member up in its Enum takes Python 3.11 50 ns, ten times a request.
_HEAD = ReadState.HEAD
_CONTENT = ReadState.CONTENT
_COMPLETE = ReadState.COMPLETE

_HEAD_END = b"\r\n\r\n"
# How much the log shows of a request line that was refused. Arbitrary.
_SHOWN_SIZE = 1024
# If one read has more blocks than this, they are small, and cheaper joined than handled one by one. Arbitrary.
_SEPARATE_BLOCK_COUNT = 8


class HTTPConnection:
    """Reads the requests of one connection.

    Args:
        parser: shared by all connections of the loop.
        policy: likewise.
    """

    __slots__ = ("_buffer", "_content", "_parser", "_policy", "_scanned_size", "state")

    def __init__(self, parser: HeadParser, policy: RequestPolicy) -> None:
        self._parser = parser
        self._policy = policy
        self._buffer: bytes | bytearray = b""
        self._scanned_size = 0
        self._content: ContentReader | None = None
        self.state = ReadState.HEAD

    @property
    def buffered_size(self) -> int:
        """Bytes received and not yet given out: a partial head, or what was read ahead."""
        return len(self._buffer)

    @property
    def request_begun(self) -> bool:
        """Whether a part of a request has arrived and the rest is outstanding."""
        # RFC 9112 §2.2: an empty line after one request's content is not the beginning of another.
        return self.state is _CONTENT or (self.state is _HEAD and self._buffer not in (b"", b"\r", b"\r\n"))

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes that arrived; return what they complete, in order.

        Of many small chunks some may be left for another call: see :attr:`behind`. After a :class:`Refusal` nothing
        more is ever returned.
        """
        state = self.state
        if state is _HEAD:
            if not self._buffer:
                return self._read_whole(data) or self._read(data)
            # A head that comes in pieces is kept in a bytearray, which grows in place, however small they are.
            self._buffer += data
            return self._read(self._buffer)
        if state is _CONTENT:
            if self._buffer:
                data, self._buffer = bytes(self._buffer) + data, b""
            return self._read(data)
        if state is _COMPLETE:
            self._buffer = bytes(self._buffer) + data
        return []

    @property
    def behind(self) -> bool:
        """Whether content that has arrived is still unread: ``receive_data(b"")`` reads it, once others had a turn."""
        return self.state is _CONTENT and bool(self._buffer)

    @property
    def missing_size(self) -> int:
        """Bytes of content that have not arrived, where its length is known; else 0."""
        content = self._content
        return content.missing_size if type(content) is ContentLengthReader else 0

    def content_received(self, size: int) -> bool:
        """Account for content that bypassed this object, at most :attr:`missing_size` bytes.

        Returns:
            Whether it was the last; no :data:`END_OF_CONTENT` follows then.
        """
        content = self._content
        if type(content) is not ContentLengthReader or size > content.missing_size:
            raise RuntimeError(f"{size} bytes are more than the content")
        content.missing_size -= size
        if content.missing_size:
            return False
        self._content = None
        self.state = _COMPLETE
        return True

    def start_next_request(self) -> list[Event] | None:
        """The response is finished: read on, first what has arrived already.

        Returns:
            What that completes; ``None`` if nothing has arrived.
        """
        if self.state is not _COMPLETE:
            raise RuntimeError(f"no request is complete: {self.state}")
        self.state = _HEAD
        data = self._buffer
        if not data:
            return None
        self._buffer = b""
        return self._read(data)

    def receive_eof(self) -> list[Event]:
        """The client will send nothing more.

        Returns:
            A :class:`Refusal` if it left a request unfinished, else nothing.
        """
        if self.state is ReadState.COMPLETE:
            return []
        unfinished = self.request_begun
        self._close()
        return [Refusal(400, "request cut short")] if unfinished else []

    def _read_whole(self, data: bytes) -> list[Event]:
        """Read a head that came in one piece and alone, as most do; return nothing if this one did not."""
        if not data.endswith(_HEAD_END):
            return []
        try:
            request = self._policy.read_plain_head(data, self._parser)
        except Refusal:
            return []  # to be read again by _read(), which knows what to do with a refusal
        if request is None:
            return []
        if request.content_length == 0:
            self.state = _COMPLETE
            return [request, END_OF_CONTENT]
        self._begin_content(request)
        return [request]

    def _begin_content(self, request: RequestHead) -> None:
        self.state = _CONTENT
        if request.content_length is None:
            self._content = ChunkedReader(self._policy.body_limit, self._policy.trailer_limits)
        else:
            self._content = ContentLengthReader(request.content_length)

    def _read(self, data: bytes | bytearray) -> list[Event]:
        events: list[Event] = []
        try:
            if self._content is None:
                data = self._read_head(data, events)
            if data and self._content is not None:
                self._read_content(self._content, bytes(data), events)
        except Refusal as refusal:
            if self.state is ReadState.HEAD:
                # RFC 9112 §2.2: an empty line may precede the request line.
                begun = bytes(data[: _SHOWN_SIZE + 2]).removeprefix(b"\r\n")
                refusal.answers_head = begun.startswith(b"HEAD ")
                refusal.request_line = begun.partition(b"\r\n")[0][:_SHOWN_SIZE].decode("latin-1")
            self._close()
            events.append(refusal)
        return events

    def _close(self) -> None:
        self.state = ReadState.CLOSED
        self._buffer = b""
        self._content = None

    def _read_head(self, data: bytes | bytearray, events: list[Event]) -> bytes:
        """Read a head if all of it is there; return what follows it and belongs to its content."""
        # RFC 9112 §2.2: at least one empty line before the request line is to be ignored.
        start = 2 if data.startswith(b"\r\n") else 0
        end = data.find(_HEAD_END, max(start, self._scanned_size - 3))
        if end < 0:
            self._keep_partial_head(data, start)
            return b""
        head = bytes(data[start : end + 4])
        rest = bytes(data[end + 4 :])
        self._buffer = b""
        self._scanned_size = 0
        request = self._policy.read_head(head, self._parser)
        events.append(request)
        if request.content_length == 0:
            events.append(END_OF_CONTENT)
            self.state = ReadState.COMPLETE
            self._buffer = rest
            return b""
        self._begin_content(request)
        return rest

    def _keep_partial_head(self, data: bytes | bytearray, start: int) -> None:
        buffer = data if isinstance(data, bytearray) else bytearray(data)
        if len(buffer) > start:
            self._policy.check_partial_head(buffer[start:], max(0, self._scanned_size - start))
        self._buffer = buffer
        self._scanned_size = len(buffer)

    def _read_content(self, content: ContentReader, data: bytes, events: list[Event]) -> None:
        blocks: list[bytes] = []
        rest = content.receive_data(data, blocks)
        if len(blocks) > _SEPARATE_BLOCK_COUNT:
            blocks = [b"".join(blocks)]
        events.extend(block for block in blocks if block)
        if rest is None:
            self._buffer = content.unread
        else:
            events.append(END_OF_CONTENT)
            self._content = None
            self.state = ReadState.COMPLETE
            self._buffer = rest
