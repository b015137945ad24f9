"""The writing side of a connection: flow control, whether the client takes what is sent, and two ways to end.

Thread: event loop.

Source: RFC 9112 section 9.6; tcp(7) on SIOCOUTQ, which is TIOCOUTQ; socket(7) on SO_LINGER.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
from collections.abc import Sequence

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # a platform without them
    TIOCOUTQ = 0  # type: ignore[misc]  # a constant where it exists

__all__ = ["Outlet", "portion_size"]

# What a transport may hold before the application has to wait.
_HIGH_WATER_SIZE = 64 * 1024
# What a transport that copies is given at a time. To a client that takes all of it, 16 MB cost a third of what they do
# as a whole; with 256 KB at a time, 1 MB costs half as much again.
_PORTION_SIZE = 1024 * 1024
# How often the kernel asks whether a client is still there. Arbitrary; a tenth of what finding out takes anyway.
_PROBE_SECONDS = 10
_LINGER_RESET = struct.pack("ii", 1, 0)


class Outlet:
    """Writes to one transport.

    Args:
        transport: of the connection.
    """

    __slots__ = ("_transport", "_unsent_size", "paused", "watched")

    def __init__(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=_HIGH_WATER_SIZE)
        self._transport = transport
        # What was not taken when the watch began, and what has been written since.
        self._unsent_size = 0
        #: A watch has begun.
        self.watched = False
        #: The transport holds as much as it should: write no more until it says so.
        self.paused = False

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Write pieces in order; where there are several, none of them is empty."""
        transport = self._transport
        if transport.is_closing():
            return  # connection_lost() is on its way
        if self.watched:
            self._unsent_size += sum(map(len, pieces))
        if len(pieces) == 1:
            transport.write(pieces[0])
            return
        transport.writelines(pieces)
        if not self.paused and transport.get_write_buffer_size() > _HIGH_WATER_SIZE:
            # asyncio of CPython 3.12.0 to 3.12.8 and 3.13.0 to 3.13.1 does not ask to pause after writelines()
            # (CVE-2024-12254); setting the limits makes it look. Can go with those versions.
            transport.set_write_buffer_limits(high=_HIGH_WATER_SIZE)

    def duplicate_socket(self) -> socket.socket | None:
        """Return a socket of our own to write to, if the transport has nothing left to do.

        Returns:
            ``None`` where what is written has to go through the transport: it is encrypted, or something is unsent.
        """
        transport = self._transport
        sock = transport.get_extra_info("socket")
        if sock is None or sock.type != socket.SOCK_STREAM:
            return None
        if transport.get_extra_info("sslcontext") is not None or transport.get_write_buffer_size():
            return None
        try:
            # Not sock.dup(): what uvloop gives out is not a socket itself.
            duplicate = socket.socket(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))
        except OSError:  # the connection is going away, or descriptors have run out
            return None
        duplicate.setblocking(False)
        return duplicate

    @property
    def closing(self) -> bool:
        """Whether the transport is closed, or about to be: it takes nothing any more."""
        return self._transport.is_closing()

    @property
    def flushed(self) -> bool:
        """Whether the kernel has taken all that was written."""
        return not self._transport.get_write_buffer_size()

    def tell_when_flushed(self) -> None:
        """Have the transport resume only once the kernel has taken all."""
        self._transport.set_write_buffer_limits(high=0)

    def begin_watch(self) -> None:
        """Begin to measure how much the client takes."""
        self._unsent_size = self._untaken_size()
        self.watched = True

    def _untaken_size(self) -> int:
        """Bytes in the transport, and in the kernel as far as it reports them.

        A client that reads 10 KB/s takes minutes for what lies in the kernel, and all that time the transport's own
        buffer does not move: the kernel asks for more only when a third of its own is free.
        """
        size = self._transport.get_write_buffer_size()
        sock = self._transport.get_extra_info("socket")
        if TIOCOUTQ and sock is not None:
            with contextlib.suppress(OSError):  # closed, or not a question that this kernel answers
                size += int.from_bytes(ioctl(sock.fileno(), TIOCOUTQ, bytes(4)), sys.byteorder)
        return size

    def end_watch(self) -> None:
        """Stop measuring."""
        self.watched = False

    @property
    def taken_size(self) -> int:
        """Bytes that the client has taken since the watch began."""
        return self._unsent_size - self._untaken_size()

    def end(self) -> bool:
        """End our side once all is written; return whether the client's has to be read on to its end.

        Closing at once would answer data that still arrives with a reset, which may destroy the response before
        the client has read it.
        """
        if not self._transport.can_write_eof():
            self._transport.close()
            return False
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset the connection: asyncio raises, uvloop does not
            self._transport.abort()
            return False
        return True

    def probe_client(self) -> None:
        """Have the kernel ask from time to time whether the client, which has ended its side, is still there.

        The end of its side is also all that arrives from a client that has closed its connection. Its kernel then
        answers for a minute or so (on Linux: tcp_fin_timeout), and after that with a reset; that of a client which
        still reads always answers.
        """
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError, AttributeError):  # AttributeError: options that this platform lacks
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_SECONDS)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)

    def abort(self) -> None:
        """Close at once: the client has gone."""
        self._transport.abort()

    def reset(self) -> None:
        """Close with a reset: what the client has of the response is not all of it."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self._transport.abort()


def portion_size(loop: asyncio.AbstractEventLoop) -> int:
    """Return how many bytes a transport of the loop should be given at a time.

    Before CPython 3.12 asyncio's join all that they are given, and copy all that the kernel does not take of it: 64 MB
    hold the loop for 100 ms, and take 64 MB for each client even if they are the same block 64 times.
    """
    if sys.version_info < (3, 12) and isinstance(loop, asyncio.SelectorEventLoop):
        return _PORTION_SIZE
    return sys.maxsize
