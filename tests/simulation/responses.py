"""Responses as a client reads them, byte by byte, with nothing forgiven."""

from __future__ import annotations

from collections.abc import Callable, Generator

__all__ = ["Response", "ResponseReader"]


class Response:
    """A response, as far as it has arrived."""

    def __init__(self, status_code: int, fields: dict[str, list[str]], interim: list[int]) -> None:
        self.status_code = status_code
        self.fields = fields
        self.interim = interim
        self.content = bytearray()
        self.complete = False

    def value(self, name: str) -> str | None:
        """Return the value of a field that must not be repeated."""
        values = self.fields.get(name, [])
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        """Whether the server says that it closes the connection."""
        return self.value("connection") == "close"

    def __repr__(self) -> str:
        return f"<Response {self.status_code} {len(self.content)} bytes{'' if self.complete else ' so far'}>"


class ResponseReader:
    """Reads the responses of one connection.

    Args:
        has_content: tells, by number and head, whether a response has content; ``None`` if either is right. Fails if
            there is no request that the response could answer.
    """

    def __init__(self, has_content: Callable[[int, Response], bool | None]) -> None:
        self._has_content = has_content
        self._buffer = bytearray()
        self._ended = False
        #: All responses; the last one may be incomplete.
        self.responses: list[Response] = []
        self._steps = self._read()
        next(self._steps)

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        if data:
            self._buffer += data
            self._steps.send(None)

    def feed_end(self) -> None:
        """The server has ended the connection in an orderly way."""
        if not self._ended:
            self._ended = True
            self._steps.send(None)

    def _read(self) -> Generator[None, None, None]:
        while True:
            response = yield from self._read_head()
            self.responses.append(response)
            yield from self._read_content(response)
            response.complete = True

    def _line(self, mark: bytes) -> Generator[None, None, bytes]:
        searched = 0
        while (end := self._buffer.find(mark, searched)) < 0:
            searched = max(0, len(self._buffer) - len(mark))
            yield
        line = bytes(self._buffer[:end])
        del self._buffer[: end + len(mark)]
        return line

    def _read_head(self) -> Generator[None, None, Response]:
        interim = []
        while True:
            status_line, *lines = (yield from self._line(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            version, _, status = status_line.partition(" ")
            assert version == "HTTP/1.1", status_line
            code = int(status[:3])
            if code >= 200:
                break
            assert not lines, lines
            interim.append(code)
        fields: dict[str, list[str]] = {}
        for line in lines:
            name, colon, value = line.partition(": ")
            assert colon, line
            fields.setdefault(name.lower(), []).append(value)
        return Response(code, fields, interim)

    def _read_content(self, response: Response) -> Generator[None, None, None]:
        has_content = self._has_content(len(self.responses) - 1, response)
        if has_content is None:
            while not self._ended:
                yield
            response.content += self._buffer
            self._buffer.clear()
            assert len(response.content) in (0, int(response.value("content-length") or 0))
            return
        if not has_content:
            return
        length = response.value("content-length")
        if response.value("transfer-encoding") is not None:
            assert response.value("transfer-encoding") == "chunked"
            assert length is None
            while size := int((yield from self._line(b"\r\n")), 16):
                yield from self._take(response, size)
                assert (yield from self._line(b"\r\n")) == b""
            assert (yield from self._line(b"\r\n")) == b""
        elif length is not None:
            yield from self._take(response, int(length))
        else:
            while not self._ended:
                yield from self._take(response, len(self._buffer))
                yield
            response.content += self._buffer
            self._buffer.clear()

    def _take(self, response: Response, size: int) -> Generator[None, None, None]:
        while True:
            part = self._buffer[:size]
            del self._buffer[:size]
            response.content += part
            size -= len(part)
            if not size:
                return
            yield
