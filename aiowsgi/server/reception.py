"""Receiving content straight to where the application will read it from.

A transport gives an :class:`asyncio.Protocol` what it has read as bytes made for it, which then have to be copied once
more. While content arrives for which memory was reserved in one piece
(:meth:`~aiowsgi.server.content.ContentBuffer.reserve`), a :class:`ContentReceiver` takes the place of the connection at
its transport, and the kernel writes to that memory: a 1 MB upload then costs 285 µs instead of 336.

It stays for the next head, since a connection that has uploaded mostly uploads again. The head arrives in a small
buffer that all connections of the loop share; content that comes with it is copied. Going back after each request, to
reads of 256 KB and copies of them, would cost 360 µs.

Thread: event loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiowsgi.server.content import ContentBuffer
    from aiowsgi.server.protocol import Protocol

__all__ = ["HEAD_BUFFER_SIZE", "ContentReceiver"]

#: Enough for a browser's head, and for the content that has to arrive before 1 MB of memory is reserved.
HEAD_BUFFER_SIZE = 16 * 1024


class ContentReceiver(asyncio.BufferedProtocol):
    """A protocol between a transport and its connection.

    Args:
        connection: whose content it is.
        transport: the connection's. It has to support :class:`asyncio.BufferedProtocol`.
        head_buffer: for what is not content; of ``HEAD_BUFFER_SIZE`` bytes.
    """

    __slots__ = ("_connection", "_content", "_head_buffer", "_transport")

    def __init__(self, connection: Protocol, transport: asyncio.Transport, head_buffer: bytearray) -> None:
        self._connection = connection
        self._transport = transport
        self._head_buffer = head_buffer
        self._content: ContentBuffer | None = None

    def begin(self, content: ContentBuffer) -> None:
        """Receive the rest of a request's content into its reserved memory."""
        self._content = content
        if self._transport.get_protocol() is not self:
            self._transport.set_protocol(self)

    # What the transport calls.

    def get_buffer(self, sizehint: int) -> memoryview | bytearray:
        """See :class:`asyncio.BufferedProtocol`."""
        if self._content is not None:
            room = self._content.room
            if room is not None:
                return room
            self._content = None  # it was refused
        return self._head_buffer

    def buffer_updated(self, size: int) -> None:
        """See :class:`asyncio.BufferedProtocol`."""
        connection = self._connection
        if self._content is not None:
            if connection.content_received(self._content, size):
                self._content = None
            return
        connection.data_received(bytes(memoryview(self._head_buffer)[:size]))
        # After a head that came alone its content may still be on its way; but do not go on with small reads for long.
        if self._content is None and (size == HEAD_BUFFER_SIZE or not connection.awaits_content):
            self._transport.set_protocol(connection)

    def eof_received(self) -> bool:
        """See :class:`asyncio.BufferedProtocol`."""
        return self._connection.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """See :class:`asyncio.BaseProtocol`."""
        self._content = None
        self._connection.connection_lost(error)

    def pause_writing(self) -> None:
        """See :class:`asyncio.BaseProtocol`."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """See :class:`asyncio.BaseProtocol`."""
        self._connection.resume_writing()
