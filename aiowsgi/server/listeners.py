"""Listening sockets, and accepting from them.

Accepting is done here and not by the loop's own servers, because those can neither pause (at the limit of connections,
or out of file descriptors) nor report, when closed, that they have taken all that the kernel had queued.

Thread: event loop.

Source: socket(7), ipv6(7), accept(2), unix(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from aiowsgi.bridge.fork_sockets import keep_from_forks
from aiowsgi.config import BindAddress, FileDescriptorAddress, TCPAddress, UnixAddress

__all__ = [
    "Listener",
    "bound_files",
    "clone_socket",
    "close_sockets",
    "end_handovers",
    "lets_others_in",
    "open_sockets",
]

_logger = logging.getLogger("aiowsgi.error")

# Connections taken in one turn of the loop, so that a flood of them does not starve the existing ones.
_ACCEPT_COUNT = 64
# The same where other processes accept from the same socket, so that they share a burst.
_SHARED_ACCEPT_COUNT = 4
_DEVICE_NAME_SIZE = 16  # IFNAMSIZ
# How long accepting pauses when it fails, or when there is no room and no connection can be closed.
_PAUSE_SECONDS = 0.5
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


def open_sockets(
    addresses: Sequence[BindAddress],
    backlog: int,
    *,
    uds_mode: int | None = None,
    umask: int | None = None,
    reuse_port: bool = False,
) -> list[socket.socket]:
    """Bind and listen; all of them or none.

    Args:
        addresses: where.
        backlog: connections that the kernel may hold for each.
        uds_mode: permissions of Unix sockets' files, in place of what the umask leaves.
        umask: for these files, in place of the process's.
        reuse_port: other sockets of this user may be bound to the same ports: SO_REUSEPORT.

    Raises:
        OSError: naming the address.
    """
    sockets: list[socket.socket] = []
    if uds_mode is not None:
        umask = 0o777 & ~uds_mode
    try:
        for address in addresses:
            try:
                opened = _open(address, umask, reuse_port)
                sockets.extend(opened)
                for sock in opened:
                    sock.setblocking(False)
                    sock.listen(backlog)
            except OSError as error:
                text = error.strerror or str(error)
                raise OSError(error.errno, f"cannot listen on {address}: {text}") from error
    except BaseException:
        close_sockets(sockets)
        raise
    return sockets


def clone_socket(sock: socket.socket, backlog: int) -> socket.socket:
    """Listen again on the address of a listening socket that allows it (SO_REUSEPORT), for the same clients.

    Raises:
        OSError: it does not, or the clone may not be bound to its network device.
    """
    clone = socket.socket(sock.family, sock.type, sock.proto)
    try:
        clone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        clone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Both as they are: a socket that we have inherited may be for IPv4 as well, or for one network device alone.
        # Linux spreads connections only over sockets that are alike in this.
        if sock.family == socket.AF_INET6:
            v6_only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            clone.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
        if hasattr(socket, "SO_BINDTODEVICE"):
            device = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _DEVICE_NAME_SIZE)
            if device:
                clone.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        clone.bind(sock.getsockname())
        clone.setblocking(False)
        clone.listen(backlog)
    except BaseException:
        clone.close()
        raise
    return clone


def lets_others_in(sock: socket.socket) -> bool:
    """Return whether others may listen at a socket's address: SO_REUSEPORT, which means nothing to a Unix socket."""
    return sock.family != socket.AF_UNIX and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def close_sockets(sockets: Sequence[socket.socket]) -> None:
    """Close listening sockets."""
    for sock in sockets:
        sock.close()


def bound_files(sockets: Iterable[socket.socket]) -> list[str]:
    """Return the paths of Unix sockets' files that were made here; those of inherited ones are somebody else's."""
    return [sock.path for sock in sockets if isinstance(sock, _UnixSocket) and sock.path]


class _UnixSocket(socket.socket):
    """A Unix socket that was bound here: closing it removes its file, if the file is still its own.

    The file of an inherited socket is left to its owner, who may hand the socket to other processes while this one
    ends. So is that of a socket which a process has got by a fork.
    """

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._file: tuple[str, int, int, int] | None = None

    def bind(self, path: Any) -> None:
        """See :meth:`socket.socket.bind`."""
        super().bind(path)
        if isinstance(path, str) and not path.startswith("\0"):
            status = os.stat(path)
            self._file = os.path.abspath(path), status.st_dev, status.st_ino, os.getpid()

    @property
    def path(self) -> str:
        """Where its file is, from the root; empty where there is none."""
        return "" if self._file is None else self._file[0]

    def close(self) -> None:
        """See :meth:`socket.socket.close`."""
        if self._file is not None:
            path, *identity = self._file
            self._file = None
            with contextlib.suppress(OSError):
                status = os.stat(path)
                if [status.st_dev, status.st_ino, os.getpid()] == identity:
                    os.unlink(path)
        super().close()


def _open(address: BindAddress, umask: int | None, reuse_port: bool) -> list[socket.socket]:
    if isinstance(address, UnixAddress):
        return [_bind_unix(address.path, umask)]
    if isinstance(address, FileDescriptorAddress):
        return [_inherit(address.fd)]
    return _bind_tcp(address, reuse_port)


def _bind_tcp(address: TCPAddress, reuse_port: bool) -> list[socket.socket]:
    """Bind every address that the host stands for; if the port was left open, all on the same one."""
    sockets: list[socket.socket] = []
    port = address.port
    unusable: OSError | None = None
    try:
        found = socket.getaddrinfo(
            address.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except UnicodeError as error:
        raise OSError(errno.EINVAL, f"cannot resolve {address.host}: not a host name") from error
    except socket.gaierror:
        # AI_ADDRCONFIG hides ::1 on a machine without any other IPv6 address.
        try:
            found = socket.getaddrinfo(address.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except socket.gaierror as error:
            raise OSError(error.errno, f"cannot resolve {address.host}: {error.strerror}") from error
    try:
        for family, kind, number, _, resolved in dict.fromkeys(found):
            try:
                sock = socket.socket(family, kind, number)
            except OSError as error:
                unusable = error  # a family that this kernel does not have
                continue
            sockets.append(sock)
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((resolved[0], port, *resolved[2:]))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL or len(found) == 1:
                    raise
                unusable = error  # "localhost" names ::1 even where IPv6 is switched off
                sockets.pop().close()
                continue
            port = sock.getsockname()[1]
        if not sockets:
            raise unusable or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    except BaseException:
        close_sockets(sockets)
        raise
    return sockets


def _bind_unix(path: str, umask: int | None) -> socket.socket:
    """Bind a Unix socket, replacing one on which nobody listens any more."""
    if path.startswith("@"):
        return _bind_abstract(path)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "the file exists and is not a socket")
        if _is_live(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        os.unlink(path)
    sock = _UnixSocket()
    # Not chmod(2) afterwards: it follows a link, which others may have put there if they may write in that folder.
    previous = None if umask is None else os.umask(umask)
    try:
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    finally:
        if previous is not None:
            os.umask(previous)
    return sock


def _bind_abstract(path: str) -> socket.socket:
    if not sys.platform.startswith("linux"):
        raise OSError(errno.EADDRNOTAVAIL, "only Linux has abstract Unix sockets")
    sock = _UnixSocket()
    try:
        sock.bind("\0" + path[1:])
    except BaseException:
        sock.close()
        raise
    return sock


def _is_live(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True  # its backlog is full
        return True


def _inherit(fd: int) -> socket.socket:
    """Take over a listening socket; the caller's descriptor stays open."""
    own_fd = os.dup(fd)
    try:
        sock = socket.socket(fileno=own_fd)
    except OSError:
        os.close(own_fd)
        raise
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        raise OSError(errno.ENOTSOCK, "not a stream socket")
    if sock.family not in (socket.AF_INET, socket.AF_INET6) and sock.family != socket.AF_UNIX:  # Windows has no AF_UNIX
        sock.close()
        raise OSError(errno.EAFNOSUPPORT, "neither a TCP nor a Unix socket")
    return sock


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
        make_room: called if there is none and a client waits; returns whether a connection is about to end, after
            which :meth:`resume` has to be called. Until then nothing is accepted.
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
