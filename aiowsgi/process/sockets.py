"""The listening sockets of all workers; they belong to the supervisor, and outlive the workers.

There is one set that all share, or with ``reuse_port`` one for each slot: the kernel then spreads connections over
them, and those that wait in a slot's socket are there for the slot's next worker. While no worker serves a slot, its
sockets are lent to another.

Thread: the supervisor's.

Source: socket(7) on SO_REUSEPORT; listen(2) on somaxconn.
"""

from __future__ import annotations

import dataclasses
import logging
import socket
from pathlib import Path

from aiowsgi.config import Config
from aiowsgi.errors import StartupError
from aiowsgi.process.privileges import give_files
from aiowsgi.server.listening_sockets import bound_files, clone_socket, close_sockets, lets_others_in, open_sockets

__all__ = ["ListeningSockets", "warn_of_backlog"]

_logger = logging.getLogger("aiowsgi.supervisor")

_SOMAXCONN = Path("/proc/sys/net/core/somaxconn")


class ListeningSockets:
    """Binds the sockets, and lends them to workers.

    Args:
        config: says where, and how.

    Raises:
        StartupError: an address cannot be listened on; nothing is left open.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        try:
            first = open_sockets(
                config.addresses, config.backlog, uds_mode=config.uds_mode, reuse_port=config.reuse_port
            )
        except OSError as error:
            raise StartupError(error.strerror or str(error)) from error
        #: By slot; without reuse_port there is only the first entry.
        self._by_slot: list[list[socket.socket]] = [first]
        # With reuse_port, those that all slots share all the same; not Unix sockets, of which that is known.
        self._unexpectedly_shared: set[socket.socket] = set()
        try:
            give_files(config, bound_files(first))
        except BaseException:
            self.close()
            raise
        warn_of_backlog(config.backlog)

    def for_slot(self, slot: int) -> list[socket.socket]:
        """Return the sockets that a slot's worker listens on, making them if they are missing."""
        if not self._config.reuse_port:
            return self._by_slot[0]
        while len(self._by_slot) <= slot:
            self._by_slot.append([self._clone(sock) for sock in self._by_slot[0]])
        return self._by_slot[slot]

    def _clone(self, sock: socket.socket) -> socket.socket:
        """Return another socket at the same address, or the same socket if there cannot be two."""
        if sock.family == socket.AF_UNIX or sock in self._unexpectedly_shared:
            return sock
        reason = "it was opened without SO_REUSEPORT (systemd: ReusePort=yes)"
        if lets_others_in(sock):
            try:
                return clone_socket(sock, self._config.backlog)
            except OSError as error:  # it is another user's, for example
                reason = f"no other socket can be opened there: {error.strerror or error}"
        self._unexpectedly_shared.add(sock)
        address = ":".join(map(str, sock.getsockname()[:2]))
        _logger.warning("reuse_port: workers share %s, since %s", address, reason)
        return sock

    def config_of_workers(self, config: Config) -> Config:
        """Return the options with which workers serve: if they share a socket, a busy one leaves it to the others."""
        return dataclasses.replace(config, reuse_port=False) if self._unexpectedly_shared else config

    def left_by(self, count: int) -> list[tuple[int, list[socket.socket]]]:
        """Return the slots beyond the first ``count`` and their own sockets, which some worker has to serve."""
        shared = set(self._by_slot[0])
        return [
            (slot, [sock for sock in self._by_slot[slot] if sock not in shared])
            for slot in range(count, len(self._by_slot))
        ]

    @property
    def known_count(self) -> int:
        """How many slots have sockets."""
        return len(self._by_slot)

    def close(self, *, serve_on: bool = False) -> None:
        """Close all; Unix sockets' files go with them.

        Args:
            serve_on: the workers still accept. Unix sockets stay open, so that they are found; the others do not, so
                that nobody waits in one whose worker dies.
        """
        for sockets in self._by_slot:
            close_sockets([sock for sock in sockets if not (serve_on and sock.family == socket.AF_UNIX)])


def warn_of_backlog(backlog: int) -> None:
    """Warn if the kernel holds fewer connections than it is asked to."""
    try:
        most = int(_SOMAXCONN.read_text())
    except (OSError, ValueError):  # not Linux
        return
    if backlog > most:
        _logger.warning("backlog=%d: the kernel holds %d at most (net.core.somaxconn)", backlog, most)
