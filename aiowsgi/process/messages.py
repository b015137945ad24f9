"""What a supervisor and its workers say to one another: lines of JSON over a pair of connected sockets.

A worker says: ``ready``, ``heartbeat``, ``recycle`` (with a reason), ``leaving``, ``dumped``, ``statistics``,
``report``, ``ask`` (for what all workers say), ``stopped``, and ``failed`` (it cannot start, and why). The supervisor
says: ``start`` (its first line, with all that the worker has to know), ``drain``, ``listen`` and ``tell`` (with
sockets), ``dump``, ``statistics``, ``report`` and ``answer``.

The end of the stream is a message too: a worker whose supervisor is gone leaves, however the supervisor ended.

Thread: that of the event loop or of the supervisor, and its signal handlers; :meth:`MessagePipe.send` any.

Source: unix(7) on SCM_RIGHTS.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections import deque
from collections.abc import Sequence
from selectors import EVENT_WRITE, PollSelector  # by name: eventlet takes it out of the module
from typing import Any

from aiowsgi.bridge.one_at_a_time import OneAtATime

__all__ = ["Message", "MessagePipe", "message_pipes"]

Message = dict[str, Any]

_READ_SIZE = 64 * 1024
# No message is longer; a process that sends more has lost its mind, and is not listened to.
_MOST_UNREAD_SIZE = 4 * 1024 * 1024
# Messages that wait for a reader that does not read. Further ones are dropped: a late heartbeat says nothing.
_MOST_UNSENT_COUNT = 100
_MOST_DESCRIPTORS = 64


class MessagePipe:
    """One end of the pair.

    Args:
        sock: connected, of the family AF_UNIX.
        unread: data that was read from it before, with messages still to be taken.
    """

    def __init__(self, sock: socket.socket, unread: bytes = b"") -> None:
        self._socket = sock
        self._unread = unread
        #: Lines, the first perhaps begun, and the descriptors that go with them.
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque()
        self._descriptors: deque[int] = deque()
        self._send_on = OneAtATime(lambda: bool(self._unsent), self._send_unsent)
        #: The other side is gone, or has closed its end.
        self.ended = False

    def fileno(self) -> int:
        """Return the descriptor, to wait for messages; -1 once closed."""
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether something waits for room, to be sent by :meth:`flush`."""
        return bool(self._unsent)

    def set_blocking(self, blocking: bool) -> None:
        """Let :meth:`receive` wait for a message, or not."""
        self._socket.setblocking(blocking)

    def send(self, kind: str, /, *, descriptors: Sequence[int] = (), **fields: Any) -> bool:
        """Send a message, or keep it until the other side reads on. Never blocks where the pipe does not.

        Args:
            kind: of the message.
            descriptors: go with it. If they are closed before it is sent, it is dropped.
            fields: values that JSON has.

        Returns:
            Whether it is short enough: the other side takes a longer one for the end.
        """
        line = json.dumps({"type": kind, **fields}, separators=(",", ":")).encode() + b"\n"
        if len(line) > _MOST_UNREAD_SIZE:
            return False
        if descriptors or len(self._unsent) < _MOST_UNSENT_COUNT:
            self._unsent.append((line, descriptors))
        self.flush()
        return True

    def flush(self) -> None:
        """Send what could not be sent before. Whoever comes while another sends leaves that to it."""
        self._send_on()

    def flush_all(self, seconds: float) -> None:
        """Wait for the other side to take what could not be sent before, but no longer than that."""
        end = time.monotonic() + seconds
        with PollSelector() as selector:  # takes no descriptor, which may be what is missing
            selector.register(self._socket, EVENT_WRITE)
            while self._unsent and selector.select(max(0.0, end - time.monotonic())):
                self.flush()

    def _send_unsent(self) -> bool:
        """Send what waits; return whether there was room for all of it. One thread at a time."""
        while self._unsent:
            line, descriptors = self._unsent.popleft()
            try:
                if descriptors:
                    sent_size = socket.send_fds(self._socket, [line], list(descriptors))
                    descriptors = ()  # they go with the first byte
                else:
                    sent_size = self._socket.send(line)
            except BlockingIOError:
                sent_size = 0
            except OSError:
                if descriptors:
                    continue  # they have been closed; or nobody is there, and the next line fails too
                self._unsent.clear()  # the other side is gone; the end of the stream says so
                return True
            if sent_size < len(line):
                self._unsent.appendleft((line[sent_size:], descriptors))
                return False
        return True

    def receive(self) -> list[Message]:
        """Return the messages that have arrived; no more can come once :attr:`ended` is true."""
        return self._read() or []

    def _read(self) -> list[Message] | None:
        """Return the messages that what is read completes; ``None`` where there is nothing to read."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, _READ_SIZE, _MOST_DESCRIPTORS)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            data, descriptors = b"", []
        self._descriptors.extend(descriptors)
        if not data or len(self._unread) > _MOST_UNREAD_SIZE:
            self.ended = True
        if not data:
            return None
        *lines, self._unread = (self._unread + data).split(b"\n")
        messages = []
        for line in lines:
            # An application that finds the descriptor and writes to it must not stop the supervisor.
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    messages.append(message)
        return messages

    def receive_all(self) -> list[Message]:
        """Return all that has arrived: the other side has ended. The pipe must not block."""
        messages: list[Message] = []
        while (received := self._read()) is not None:
            messages.extend(received)
        return messages

    def take_descriptors(self, count: int) -> list[int]:
        """Return up to ``count`` of the descriptors that came, oldest first."""
        return [self._descriptors.popleft() for _ in range(min(count, len(self._descriptors)))]

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def message_pipes() -> tuple[MessagePipe, socket.socket]:
    """Return the supervisor's end, which does not block, and the worker's socket."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    own.setblocking(False)
    return MessagePipe(own), other
