"""The writing side of a connection: flow control, whether the client takes what is sent, and two ways to end.

Thread: event loop.

Source: RFC 9112 section 9.6; tcp(7), socket(7) on SO_LINGER.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence

__all__ = ["Outlet"]

# What a transport may hold before the application has to wait.
_HIGH_WATER_SIZE = 64 * 1024
_LINGER_RESET = struct.pack("ii", 1, 0)


class Outlet:
    """Writes to one transport.

    Args:
        transport: of the connection.
    """

    __slots__ = ("_transport", "_unsent_size", "paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=_HIGH_WATER_SIZE)
        self._transport = transport
        # What was unsent when the watch began, and what has been written since; 0 while nothing is watched.
        self._unsent_size = 0
        #: The transport holds as much as it should: write no more until it says so.
        self.paused = False

    def write(self, pieces: Sequence[bytes]) -> None:
        """Write pieces in order, without joining them."""
        if self._unsent_size:
            self._unsent_size += sum(map(len, pieces))
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)

    @property
    def flushed(self) -> bool:
        """Whether the kernel has taken all that was written."""
        return not self._transport.get_write_buffer_size()

    def begin_watch(self) -> None:
        """Begin to measure how much the client takes."""
        self._unsent_size = self._transport.get_write_buffer_size()

    def end_watch(self) -> None:
        """Measure no more."""
        self._unsent_size = 0

    @property
    def taken_size(self) -> int:
        """Bytes that the client has taken since the watch began."""
        return self._unsent_size - self._transport.get_write_buffer_size()

    def end(self) -> bool:
        """End the response's direction once all is written; tell whether the client's has to be read on to its end.

        Closing at once would answer data that still arrives with a reset, which may destroy the response before
        the client has read it.
        """
        if not self._transport.can_write_eof():
            self._transport.close()
            return False
        self._transport.write_eof()
        return True

    def reset(self) -> None:
        """Close with a reset: what the client has of the response is not all of it."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self._transport.abort()
