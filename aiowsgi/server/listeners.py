"""Accepting connections from listening sockets.

Accepting is done here and not by the loop's own servers, because those can neither pause (at the limit of connections,
or out of file descriptors) nor report, when closed, that they have taken all that the kernel had queued.

Thread: event loop.

Source: accept(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from aiowsgi.bridge.fork_sockets import keep_from_forks

__all__ = ["Listener", "end_handovers"]

_logger = logging.getLogger("aiowsgi.error")

# Connections taken in one turn of the loop, so that a flood of them does not starve the existing ones.
_ACCEPT_COUNT = 64
# The same where other processes accept from the same socket, so that they share a burst.
_SHARED_ACCEPT_COUNT = 4
# How long accepting pauses when it fails, or when there is no room and no connection can be closed.
_PAUSE_SECONDS = 0.25
# How long a busy process leaves new connections to those that share its socket, before it looks again.
_BUSY_SECONDS = 0.02
# accept(2): Linux passes on the error that the connection has met; BSD says ECONNABORTED.
_CONNECTION_ERRORS = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "EPERM",
        "EPROTO",
    )
    if hasattr(errno, name)
)


class _Accepted(socket.socket):
    """The socket of a connection. Its family and type are plain numbers.

    Looking them up in their Enum, five times before the loop has a transport, would take an eighth of the instructions
    of a connection and its request.
    """

    __slots__ = ()
    family = socket.SocketType.family  # type: ignore[assignment]  # an Enum of numbers, or a number
    type = socket.SocketType.type  # type: ignore[assignment]  # likewise


class Listener:
    """Accepts connections from one listening socket, which it owns.

    Args:
        sock: listening and non-blocking.
        loop: serves the connections.
        protocol_factory: makes their protocols, called as soon as a connection has been accepted.
        has_room: called before each connection.
        make_room: called if there is none and a client waits; returns whether enough connections are about to end,
            after which :meth:`resume` has to be called. Until then nothing is accepted.
        scheme: of its URL.
        is_busy: called before each turn of accepting, if other processes accept from the same socket; while it returns
            true, new connections are left to them. But if a connection still waits the next time, nobody else may have
            time: then one is taken, the next time two, and so on until none is left. Whoever waits in the kernel would
            have no answer, not even that the server is alive, or that too many wait.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        protocol_factory: Callable[[], asyncio.Protocol],
        has_room: Callable[[], bool],
        make_room: Callable[[], bool],
        scheme: str = "http",
        is_busy: Callable[[], bool] | None = None,
    ) -> None:
        self._socket = sock
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._has_room = has_room
        self._make_room = make_room
        self._is_busy = is_busy
        # Of a burst, each process that shares the socket takes a little at a time.
        self._accept_count = _ACCEPT_COUNT if is_busy is None else _SHARED_ACCEPT_COUNT
        # How many connections to take, the next time, although it is busy; and whether that time has not come yet.
        self._busy_count = 0
        self._leaves = False
        # What socket.accept() itself calls, before it makes a socket with Enums.
        self._accept_fd = sock._accept  # type: ignore[attr-defined]  # typeshed leaves it out
        self._kind = int(sock.family), int(sock.type), sock.proto
        self._fd = sock.fileno()
        self._timer: asyncio.TimerHandle | None = None
        self._accepting = False
        self._failing = False
        #: The sockets of connections that have not got their protocols yet.
        self._handovers: dict[asyncio.Task[Any], socket.socket] = {}
        self.url = _url(sock, scheme)
        self.port = sock.getsockname()[1] if sock.family in (socket.AF_INET, socket.AF_INET6) else None

    def start(self) -> None:
        """Begin to accept."""
        keep_from_forks(self)
        self.resume()

    def pause(self) -> None:
        """Leave new connections in the kernel's queue."""
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Accept again, unless what waits has been left to other processes just now."""
        if self._leaves:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._accepting and self._fd >= 0:
            self._accepting = True
            self._loop.add_reader(self._fd, self._accept)

    def _accept(self) -> bool:
        """Accept what is there; return whether there may be more."""
        if self._is_busy is None or not self._is_busy():
            self._busy_count = 0
            return self._accept_up_to(self._accept_count)
        count, self._busy_count = self._busy_count, min(2 * self._busy_count or 1, _ACCEPT_COUNT)
        if self._accept_up_to(count):
            self.pause()
            self._leaves = True
            self._timer = self._loop.call_later(_BUSY_SECONDS, self._look_again)
        return False

    def _look_again(self) -> None:
        self._leaves = False
        self.resume()

    def _accept_up_to(self, count: int) -> bool:
        lost_count = 0
        for number in range(count):
            if not self._has_room():
                if number == 0:  # the kernel has just reported a waiting connection
                    self.pause()
                    if not self._make_room():
                        # All are busy, or just arriving. One that becomes idle does not report it.
                        self._timer = self._loop.call_later(_PAUSE_SECONDS, self.resume)
                return False
            try:
                fd, _ = self._accept_fd()
            except (BlockingIOError, InterruptedError):
                self._busy_count = 0
                self._failure_ended()
                return False
            except OSError as error:
                lost_count += error.errno in _CONNECTION_ERRORS
                if error.errno in _CONNECTION_ERRORS and lost_count < self._accept_count:
                    continue  # gone before we got to it
                # If every call has failed like this, the connections may not be gone: one that a security module
                # denies stays in the queue.
                self._endure(error)
                return False
            self._hand_over(_Accepted(*self._kind, fd))
        return True

    def _hand_over(self, sock: socket.socket) -> None:
        protocol = self._protocol_factory()
        # The loop makes it non-blocking.
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: protocol, sock))
        self._handovers[task] = sock
        task.add_done_callback(partial(self._handed_over, sock, protocol))

    def _handed_over(self, sock: socket.socket, protocol: asyncio.Protocol, task: asyncio.Task[Any]) -> None:
        """End a connection that has not got its protocol, even if its task was cancelled before it began."""
        self._handovers.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            return
        sock.close()
        # Some transports have called this already; others do not if their task is cancelled.
        protocol.connection_lost(error if isinstance(error, Exception) else None)
        # Last: a log handler may fail.
        if isinstance(error, OSError):
            _logger.debug("connection lost before it began: %s", error)
        elif error is not None:
            _logger.error("cannot serve a connection on %s", self.url, exc_info=error)

    def _endure(self, error: OSError) -> None:
        """Pause accepting for a moment, with one line in the log until it works again.

        Mostly the process or the machine is out of descriptors or memory. But whatever it is, accepting is not tried
        again without a pause, as the loop would if its reader raised: ``EINVAL``, say, once another process that shares
        the socket has called shutdown() on it.
        """
        self.pause()
        self._timer = self._loop.call_later(_PAUSE_SECONDS, self.resume)
        if not self._failing:
            self._failing = True
            # A log handler that fails must not keep a server that ends from its other listeners.
            with contextlib.suppress(Exception):
                _logger.error("cannot accept connections on %s, pausing: %s", self.url, error.strerror)

    def _failure_ended(self) -> None:
        """All that waited have been accepted. A single one does not end the failure: the next may fail again."""
        if self._failing:
            self._failing = False
            with contextlib.suppress(Exception):
                _logger.info("accepting connections again on %s", self.url)

    def take_backlog(self) -> None:
        """Accept all that the kernel has queued, within reason: those clients believe that they are connected."""
        self._is_busy = None  # no other process may be left
        while self._fd >= 0 and self._accept():
            pass

    def close(self) -> None:
        """Stop listening."""
        if self._fd < 0:
            return
        self.pause()
        if self._timer is not None:
            self._timer.cancel()
        self._fd = -1
        self._socket.close()

    @property
    def handovers(self) -> Iterable[asyncio.Future[Any]]:
        """One for each connection that has been accepted, and has not got its protocol yet."""
        return self._handovers.keys()

    def descriptors(self) -> Iterable[int]:
        """See :class:`~aiowsgi.bridge.fork_sockets.SocketHolder`; the listening socket is not a connection's."""
        return [sock.fileno() for sock in self._handovers.values()]


async def end_handovers(listeners: Iterable[Listener], seconds: float) -> None:
    """Wait for the few turns of the loop until every connection that was accepted has its protocol, or is gone.

    Args:
        listeners: no longer accepting.
        seconds: a connection that has not got its protocol by then is closed.
    """
    handovers = {handover for listener in listeners for handover in listener.handovers}
    if handovers:
        _, late = await asyncio.wait(handovers, timeout=seconds)
        for handover in late:
            handover.cancel()
        if late:
            await asyncio.wait(late, timeout=seconds)


def _url(sock: socket.socket, scheme: str) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_INET6:
        return f"{scheme}://[{name[0]}]:{name[1]}"
    if sock.family == socket.AF_INET:
        return f"{scheme}://{name[0]}:{name[1]}"
    return f"unix:{name if isinstance(name, str) else '@' + name[1:].decode('latin-1', 'replace')}"
