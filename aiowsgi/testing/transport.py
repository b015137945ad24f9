"""The server's end of a connection without a socket: what asyncio's transports do, as they do it.

Thread: that of the loop.

Source: asyncio's selector transports.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from aiowsgi.testing.client import MemoryClient
    from aiowsgi.testing.loop import VirtualHandle, VirtualLoop

__all__ = ["MemoryTransport"]

# What asyncio's transports read at a time.
_READ_SIZE = 256 * 1024


class MemoryTransport(asyncio.Transport):
    """The server's end of a connection to a :class:`MemoryClient`.

    Args:
        loop: runs what a real loop's poll would.
        protocol: the connection's.
        client: the other end.
        peername: address of the client; ``sockname``: of the server.
        read_size: bytes that the protocol is given at a time.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        protocol: asyncio.Protocol,
        client: MemoryClient,
        *,
        peername: object = ("192.0.2.1", 50000),
        sockname: object = ("192.0.2.80", 80),
        read_size: int = _READ_SIZE,
    ) -> None:
        self._socket = _MemorySocket(client)
        super().__init__({"peername": peername, "sockname": sockname, "socket": self._socket})
        self._loop = loop
        self._protocol: asyncio.Protocol | asyncio.BufferedProtocol = protocol
        self._client = client
        self._read_size = read_size
        self._unsent = bytearray()
        self._limits = (16 * 1024, 64 * 1024)
        self._write_paused = False
        self._resuming = False
        self._read_paused = False
        self._read_end = False
        self._write_end = False
        self._closing = False
        self._lost = False
        self._turn: VirtualHandle | None = None
        loop.call_soon(protocol.connection_made, self)
        loop.call_soon(client.attach, self._wake)
        loop.call_soon(self._wake)

    # Reading.

    def pause_reading(self) -> None:
        """See :class:`asyncio.ReadTransport`."""
        self._read_paused = True

    def resume_reading(self) -> None:
        """See :class:`asyncio.ReadTransport`."""
        self._read_paused = False
        self._read_end = False  # a selector would report the end once more
        self._wake()

    def is_reading(self) -> bool:
        """See :class:`asyncio.ReadTransport`."""
        return not self._closing and not self._read_paused

    def _read(self) -> None:
        if not self.is_reading() or self._read_end:
            return
        if self._read_piece(self._protocol):
            self._wake()
        elif self._client.was_reset:
            self._lose(ConnectionResetError("the client has reset the connection"))
        elif self._client.sent_end:
            self._read_end = True
            if not self._protocol.eof_received():
                self.close()

    def _read_piece(self, protocol: asyncio.BaseProtocol) -> bool:
        """Give the protocol what the client has sent; return whether there was anything."""
        if isinstance(protocol, asyncio.BufferedProtocol):
            buffer = memoryview(protocol.get_buffer(-1))
            data = self._client.take_sent(min(self._read_size, len(buffer)))
            if data:
                buffer[: len(data)] = data
                protocol.buffer_updated(len(data))  # the buffer is still held, as by a loop's own transport
        else:
            data = self._client.take_sent(self._read_size)
            if data:
                cast(asyncio.Protocol, protocol).data_received(data)
        return bool(data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See :class:`asyncio.BaseTransport`."""
        self._protocol = cast(asyncio.Protocol | asyncio.BufferedProtocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See :class:`asyncio.BaseTransport`."""
        return self._protocol

    # Writing.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See :class:`asyncio.WriteTransport`."""
        if self._write_end:
            raise RuntimeError("write() after write_eof()")
        if self._lost or not data:
            return
        must_wait = bool(self._unsent)
        self._unsent += data
        if not must_wait:
            self._send()
        self._pause_if_full()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """See :class:`asyncio.WriteTransport`. Empty pieces are refused: asyncio's of CPython 3.12 and later spin."""
        pieces = list(list_of_data)
        if not all(pieces):
            raise ValueError("an empty piece for writelines(), after which asyncio's transports never end (gh-155888)")
        self.write(b"".join(pieces))

    def _pause_if_full(self) -> None:
        if len(self._unsent) > self._limits[1] and not self._write_paused:
            self._write_paused = True
            self._protocol.pause_writing()

    def _send(self) -> None:
        if self._unsent and not self._lost:
            try:
                size = self._client.receive(self._unsent)
            except ConnectionResetError as error:
                self._lose(error)
            else:
                del self._unsent[:size]

    def _flush(self) -> None:
        self._send()
        if self._write_paused and len(self._unsent) <= self._limits[0]:
            self._write_paused = False
            self._resuming = True
            try:
                self._protocol.resume_writing()
            finally:
                self._resuming = False
        if not self._unsent and not self._lost:
            if self._closing:
                self._lose(None)
            elif self._write_end:
                self._client.receive_end()

    def write_eof(self) -> None:
        """See :class:`asyncio.WriteTransport`."""
        if not self._closing and not self._write_end:
            self._write_end = True
            if not self._unsent:
                self._client.receive_end()

    def can_write_eof(self) -> bool:
        """See :class:`asyncio.WriteTransport`."""
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See :class:`asyncio.WriteTransport`."""
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        self._limits = (high // 4 if low is None else low, high)
        self._pause_if_full()

    def get_write_buffer_size(self) -> int:
        """See :class:`asyncio.WriteTransport`."""
        return len(self._unsent)

    # Closing.

    def is_closing(self) -> bool:
        """See :class:`asyncio.BaseTransport`."""
        return self._closing

    def close(self) -> None:
        """See :class:`asyncio.BaseTransport`."""
        if not self._closing:
            self._closing = True
            if not self._unsent:
                self._check_not_resuming()
                self._lose(None)

    def abort(self) -> None:
        """See :class:`asyncio.WriteTransport`."""
        if not self._lost:
            self._check_not_resuming()
            self._lose(None)

    def _check_not_resuming(self) -> None:
        if self._resuming:
            raise RuntimeError("closed by resume_writing(): asyncio's transports tell of their end twice then")

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._unsent.clear()
            self._loop.call_soon(self._finish, error)

    def _finish(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._client.receive_close(self._socket.resets)
            self._socket.close()

    # The loop's poll.

    def _wake(self) -> None:
        """Something has changed on either side: look at it in the loop's next turn."""
        if self._turn is None and not self._lost:
            self._turn = self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        self._turn = None
        self._read()
        if self._unsent:
            self._flush()


class _MemorySocket:
    """As much of a socket as a transport's users need."""

    family = socket.AF_INET
    type = 0  # not a type on which anything could be sent past the transport

    def __init__(self, client: MemoryClient) -> None:
        self._client = client
        self._pipe: tuple[int, int] | None = None
        self._closed = False
        self.resets = False

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """Take SO_LINGER with a time of zero, which makes a close a reset."""
        self.resets = (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER)

    def fileno(self) -> int:
        """Return a real descriptor, for ``poll``: it is hung up once the client is."""
        if self._closed:
            return -1
        if self._pipe is None:
            self._pipe = os.pipe()
        read_end, write_end = self._pipe
        if self._client.hung_up and write_end >= 0:
            os.close(write_end)
            self._pipe = (read_end, -1)
        return read_end

    def close(self) -> None:
        """Close the descriptor, if there was one."""
        self._closed = True
        if self._pipe is not None:
            for fd in self._pipe:
                if fd >= 0:
                    os.close(fd)
            self._pipe = None
