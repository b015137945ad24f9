"""Listening sockets: opened where the configuration says, taken over from others, cloned, and closed.

Thread: the one that starts or ends a server.

Source: socket(7), ipv6(7), unix(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from aiowsgi.config import BindAddress, FileDescriptorAddress, TCPAddress, UnixAddress

__all__ = ["bound_files", "clone_socket", "close_sockets", "lets_others_in", "open_sockets"]

_DEVICE_NAME_SIZE = 16  # IFNAMSIZ


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
