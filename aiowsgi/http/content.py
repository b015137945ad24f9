"""How the content of a request is delimited: by length, or by chunks.

Thread: event loop. No I/O: bytes in; blocks, and what is left over, out. A reader never takes a byte beyond the end of
its own message, and content is not complete before the last chunk *and* its trailer section have been read. Why this
is not left to the parsers: see :mod:`aiowsgi.http.parsers`.

Source: RFC 9112 sections 6.2, 6.3 and 7.1.
"""

from __future__ import annotations

import enum
import re
from typing import Protocol

from aiowsgi.http.events import Refusal
from aiowsgi.semantics import TOKEN_CHARACTERS

__all__ = ["ChunkedReader", "ContentLengthReader", "ContentReader"]


class ContentReader(Protocol):
    """Separates one request's content from the bytes that follow it."""

    @property
    def unread(self) -> bytes:
        """What has arrived but is left for another call: it takes long to read, and other connections wait."""
        ...

    def receive_data(self, data: bytes, blocks: list[bytes]) -> bytes | None:
        """Take bytes off the wire.

        Args:
            data: what has arrived.
            blocks: the content in it is appended here.

        Returns:
            ``None`` while content is missing; at its end the bytes that follow it.

        Raises:
            Refusal: the framing is malformed, or a limit is crossed.
        """
        ...


class ContentLengthReader:
    """Content of a known length."""

    __slots__ = ("missing_size",)

    unread = b""

    def __init__(self, content_length: int) -> None:
        #: Bytes that have not arrived.
        self.missing_size = content_length

    def receive_data(self, data: bytes, blocks: list[bytes]) -> bytes | None:
        """See :meth:`ContentReader.receive_data`."""
        size = len(data)
        if size < self.missing_size:
            self.missing_size -= size
            blocks.append(data)
            return None
        blocks.append(data[: self.missing_size])
        return data[self.missing_size :]


class _Expect(enum.Enum):
    CHUNK_SIZE = enum.auto()
    CHUNK_DATA = enum.auto()
    CHUNK_END = enum.auto()
    TRAILERS = enum.auto()


# RFC 9112 §7.1. 16 digits are 64 bits; the RFC asks for some bound. BWS stands before a ";" only.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_PLAIN_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_TRAILER_LINE = re.compile(rf"[{TOKEN_CHARACTERS}]+:[\t\x20-\x7e\x80-\xff]*".encode("ascii"))
# RFC 9112 §7.1.1: "A server ought to limit the total length of chunk extensions received in a request".
# Both arbitrary: no known client sends any.
_CHUNK_LINE_SIZE = 256
_EXTENSIONS_SIZE = 4 * 1024
# Lines of the framing that are read in one call; 3 µs each. A client may send a chunk for each byte, and one read of
# the socket, of a quarter of a megabyte, would hold the loop for more than 0.1 s. Arbitrary.
_CALL_LINE_COUNT = 500


class ChunkedReader:
    """Content in chunks.

    Args:
        content_limit: most bytes of content; more is 413.
        trailer_limits: most trailer fields, and most bytes of them; more is 431. They are read and discarded.
    """

    __slots__ = (
        "_content_limit",
        "_content_size",
        "_expect",
        "_extensions_size",
        "_line",
        "_missing_size",
        "_trailer_count",
        "_trailer_limits",
        "_trailers_size",
        "unread",
    )

    def __init__(self, content_limit: int, trailer_limits: tuple[int, int]) -> None:
        self._content_limit = content_limit
        self._trailer_limits = trailer_limits
        self._expect = _Expect.CHUNK_SIZE
        self._line = b""  # the beginning of a line whose end has not arrived; bounded by the line limits
        self._missing_size = 0
        self._content_size = 0
        self._extensions_size = 0
        self._trailer_count = 0
        self._trailers_size = 0
        #: See :attr:`ContentReader.unread`.
        self.unread = b""

    def receive_data(self, data: bytes, blocks: list[bytes]) -> bytes | None:
        """See :meth:`ContentReader.receive_data`."""
        self.unread = b""
        position, line_count = self._take_plain_chunks(data, blocks)
        end = len(data)
        while position < end:
            if self._expect is _Expect.CHUNK_DATA:
                block = data[position : position + self._missing_size]
                blocks.append(block)
                position += len(block)
                self._missing_size -= len(block)
                if not self._missing_size:
                    self._expect = _Expect.CHUNK_END
                continue
            if line_count >= _CALL_LINE_COUNT:
                self.unread = data[position:]
                return None
            line_count += 1
            line, position = self._take_line(data, position)
            if line is None:
                return None
            if self._expect is _Expect.CHUNK_SIZE:
                self._start_chunk(line)
            elif self._expect is _Expect.CHUNK_END:
                if line:
                    raise Refusal(400, "chunk longer than its size")
                self._expect = _Expect.CHUNK_SIZE
            elif line:
                self._check_trailer(line)
            else:
                return data[position:]
        return None

    def _take_plain_chunks(self, data: bytes, blocks: list[bytes]) -> tuple[int, int]:
        """Take whole chunks without extensions from the beginning of a read.

        Returns:
            The position where something else begins, or what is left for another call; and how many chunks were taken.

        The rules are those below, for the form that nearly all chunks have. Without this, a client that sends chunks of
        a byte would hold the loop five times as long.
        """
        position = count = 0
        if self._expect is not _Expect.CHUNK_SIZE or self._line:
            return position, count
        while count < _CALL_LINE_COUNT and (match := _PLAIN_CHUNK_LINE.match(data, position)):
            size = int(match[1], 16)
            start = match.end()
            stop = start + size
            if not size or data[stop : stop + 2] != b"\r\n" or self._content_size + size > self._content_limit:
                break
            self._content_size += size
            blocks.append(data[start:stop])
            position = stop + 2
            count += 1
        return position, count

    def _take_line(self, data: bytes, position: int) -> tuple[bytes | None, int]:
        """Return the line that begins at ``position`` without its end, and where the next begins."""
        limit = self._line_limit() - len(self._line)
        # CR LF may be split between two reads: the part that was kept then ends with the CR.
        if self._line.endswith(b"\r"):
            if data[position : position + 1] != b"\n":
                raise Refusal(400, "bare CR in chunked framing")
            line, self._line = self._line[:-1], b""
            return line, position + 1
        stop = data.find(b"\n", position, position + limit + 2)
        if stop < 0:
            if len(data) - position > limit + 1:
                raise self._line_refusal()
            self._line += data[position:]
            if b"\r" in self._line[:-1]:
                raise Refusal(400, "bare CR in chunked framing")
            return None, len(data)
        line = self._line + data[position:stop]
        self._line = b""
        if not line.endswith(b"\r") or b"\r" in line[:-1]:
            raise Refusal(400, "bare line end in chunked framing")
        return line[:-1], stop + 1

    def _line_limit(self) -> int:
        if self._expect is _Expect.CHUNK_SIZE:
            return _CHUNK_LINE_SIZE
        if self._expect is _Expect.CHUNK_END:
            return 0
        return self._trailer_limits[1] - self._trailers_size

    def _line_refusal(self) -> Refusal:
        if self._expect is _Expect.TRAILERS:
            return Refusal(431, "trailer section too large")
        if self._expect is _Expect.CHUNK_END:
            return Refusal(400, "chunk longer than its size")
        return Refusal(400, "chunk size line too long")

    def _start_chunk(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise Refusal(400, "malformed chunk size")
        self._extensions_size += len(match[2] or b"")
        if self._extensions_size > _EXTENSIONS_SIZE:
            raise Refusal(400, "chunk extensions too large")
        size = int(match[1], 16)
        self._content_size += size
        if self._content_size > self._content_limit:
            raise Refusal(413, "request content too large")
        self._missing_size = size
        self._expect = _Expect.CHUNK_DATA if size else _Expect.TRAILERS

    def _check_trailer(self, line: bytes) -> None:
        self._trailer_count += 1
        self._trailers_size += len(line) + 2
        if self._trailer_count > self._trailer_limits[0] or self._trailers_size > self._trailer_limits[1]:
            raise Refusal(431, "trailer section too large")
        if not _TRAILER_LINE.fullmatch(line):
            raise Refusal(400, "malformed trailer field")
