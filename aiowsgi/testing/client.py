"""The client of a connection without a socket, and the kernel's buffers between it and the server.

What the client sends waits there while the server does not read, and what the server writes waits there until the
client takes it. A reset destroys what the client has not taken, as RFC 9112 section 9.6 warns.

Thread: that of the loop.

Source: tcp(7), shutdown(2), poll(2).
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MemoryClient"]


class MemoryClient:
    r"""The client's end of a :class:`MemoryTransport`.

    It reads only what it is told to read.

    ::

        client = server.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        server.settle()
        client.read(100)
        client.reset()

    Args:
        kernel_size: bytes that may be on their way to the client, before the server's transport has to keep them.
    """

    def __init__(self, kernel_size: int) -> None:
        self._kernel_size = kernel_size
        self._notify: Callable[[], object] = bool
        # Towards the server.
        self._sent = bytearray()
        self._sent_end = False
        self._gone = False
        # Towards the client.
        self._arrived = bytearray()
        self._ended = False
        self._server_gone = False
        self._was_reset = False

    # What a test does.

    def send(self, data: bytes) -> None:
        """Send; never waits, however much the server leaves unread."""
        if self._sent_end:
            raise BrokenPipeError("the client has ended its side")
        if self._server_gone:
            self.reset()  # RFC 9293 §3.10.7.1: a closed socket answers data with a reset
            return
        self._sent += data
        self._notify()

    def end(self) -> None:
        """Send nothing more, but go on reading: a half-close."""
        self._sent_end = True
        self._notify()

    def close(self) -> None:
        """Close; a reset if there is something unread."""
        if self._arrived:
            self.reset()
        else:
            self._gone = True
            self.end()

    def reset(self) -> None:
        """Vanish with a reset."""
        self._gone = self._was_reset = self._sent_end = True
        self._arrived.clear()
        self._notify()

    def read(self, size: int = -1) -> bytes:
        """Take at most ``size`` bytes of what has arrived, or all of it; never waits."""
        stop = len(self._arrived) if size < 0 else size
        data = bytes(self._arrived[:stop])
        del self._arrived[:stop]
        self._notify()
        return data

    @property
    def arrived_size(self) -> int:
        """Bytes that can be read now."""
        return len(self._arrived)

    @property
    def unread_size(self) -> int:
        """Bytes that were sent and that the server has not read."""
        return len(self._sent)

    @property
    def at_end(self) -> bool:
        """Whether the server has ended its direction without a reset, and all was read."""
        return self._ended and not self._arrived and not self._was_reset

    @property
    def was_reset(self) -> bool:
        """Whether either side has broken the connection off."""
        return self._was_reset

    # What the kernel does, for the transport.

    def take_sent(self, size: int) -> bytes:
        """Return the next bytes that the client sent."""
        data = bytes(self._sent[:size])
        del self._sent[:size]
        return data

    def receive(self, data: bytes | bytearray | memoryview) -> int:
        """Take as much as the kernel has room for; return how much that is.

        Raises:
            ConnectionResetError: the connection was reset.
        """
        if self._was_reset:
            raise ConnectionResetError("the client is gone")
        if self._gone:
            self.reset()  # as in send(), the other way round
            return len(data)
        size = min(len(data), self._kernel_size - len(self._arrived))
        self._arrived += data[:size]
        return size

    def receive_end(self) -> None:
        """The server ends its direction."""
        self._ended = True

    def receive_close(self, reset: bool) -> None:
        """The server closes. If it has left anything unread, Linux sends a reset, whatever was asked for."""
        self._ended = self._server_gone = True
        if (reset or self._sent) and not self._was_reset:
            self.reset()

    @property
    def sent_end(self) -> bool:
        """Nothing more comes after what was sent."""
        return self._sent_end

    @property
    def hung_up(self) -> bool:
        """What ``poll`` calls POLLHUP or POLLERR: a reset, or both directions closed."""
        return self._was_reset or (self._sent_end and self._ended)

    def attach(self, notify: Callable[[], object]) -> None:
        """Have ``notify()`` called after everything that the client does."""
        self._notify = notify
