"""A client that sends and receives exactly the bytes that a test says."""

from __future__ import annotations

import socket
from types import TracebackType


class RawResponse:
    """A response as it came: status line, fields and content."""

    def __init__(self, status_line: bytes, fields: list[tuple[str, str]], content: bytes, interim: list[bytes]) -> None:
        self.status_line = status_line
        self.fields = fields
        self.content = content
        #: The status lines of the 1xx responses before it.
        self.interim = interim

    @property
    def status_code(self) -> int:
        return int(self.status_line.split(b" ")[1])

    def values(self, name: str) -> list[str]:
        """Return all values of a field."""
        return [value for field_name, value in self.fields if field_name.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """Return the value of a field that must not be repeated."""
        values = self.values(name)
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    def __repr__(self) -> str:
        return f"<RawResponse {self.status_line!r} {self.fields} {self.content[:100]!r}>"


class Truncated(Exception):
    """The connection ended in the middle of a response."""


class RawClient:
    """One connection. Every wait is bounded by the socket's timeout."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close with a reset, as a client that crashed would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def end(self) -> None:
        """Send nothing more; still read."""
        self.socket.shutdown(socket.SHUT_WR)

    def get(self, target: str = "/", *fields: str, method: str = "GET") -> RawResponse:
        """Send a request without content and return its response."""
        lines = [f"{method} {target} HTTP/1.1", "Host: test", *fields, "", ""]
        self.send("\r\n".join(lines).encode("latin-1"))
        return self.receive(method)

    def post(self, content: bytes, target: str = "/", *fields: str) -> RawResponse:
        """Send a request with content and return its response."""
        lines = [f"POST {target} HTTP/1.1", "Host: test", f"Content-Length: {len(content)}", *fields, "", ""]
        self.send("\r\n".join(lines).encode("latin-1") + content)
        return self.receive()

    def _fill(self) -> None:
        data = self.socket.recv(256 * 1024)
        if not data:
            raise Truncated(self._buffer)
        self._buffer += data

    def read(self, size: int) -> bytes:
        """Return exactly ``size`` bytes."""
        while len(self._buffer) < size:
            self._fill()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def read_until(self, mark: bytes) -> bytes:
        """Return what comes before ``mark``, and skip the mark."""
        while mark not in self._buffer:
            self._fill()
        data, _, self._buffer = self._buffer.partition(mark)
        return data

    def read_all(self) -> bytes:
        """Return all that comes until the server ends the connection in an orderly way."""
        while True:
            try:
                self._fill()
            except Truncated:
                data, self._buffer = self._buffer, b""
                return data

    def receive_head(self, method: str = "GET") -> RawResponse:
        """Read a response's head, and the interim responses before it."""
        interim = []
        while True:
            status_line, *lines = self.read_until(b"\r\n\r\n").split(b"\r\n")
            if not status_line.startswith(b"HTTP/1.1 1"):
                break
            interim.append(status_line)
        fields = []
        for line in lines:
            name, colon, value = line.decode("latin-1").partition(": ")
            assert colon, line
            fields.append((name, value))
        return RawResponse(status_line, fields, b"", interim)

    def read_chunk(self) -> bytes:
        """Return the content of one chunk; empty for the last, whose end is read as well."""
        size = int(self.read_until(b"\r\n"), 16)
        content = self.read(size)
        assert self.read(2) == b"\r\n"
        return content

    def receive(self, method: str = "GET") -> RawResponse:
        """Read a whole response, delimited as RFC 9112 section 6.3 says.

        Raises:
            Truncated: the connection ended before the response did.
            ConnectionResetError: likewise, with a reset.
        """
        response = self.receive_head(method)
        if method == "HEAD" or response.status_code in (204, 304):
            return response
        if response.value("Transfer-Encoding") == "chunked":
            while chunk := self.read_chunk():
                response.content += chunk
        elif (length := response.value("Content-Length")) is not None:
            response.content = self.read(int(length))
        else:
            response.content = self.read_all()
        return response

    def at_end(self) -> bool:
        """Wait for what comes next; tell whether it is the orderly end of the connection."""
        if self._buffer:
            return False
        data = self.socket.recv(1)
        self._buffer += data
        return not data
