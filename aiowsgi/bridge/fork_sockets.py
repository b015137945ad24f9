"""Connections in the processes that the application forks: they have none.

A forked process has every descriptor of its parent, and a connection ends for its client only when the last process has
closed it. A process that outlives a response would keep its client waiting for the end, and so it would all others that
were connected when it was forked. So the connections are put out of its reach.

It is forked by one thread while others may be at work: what they hold is read, and no lock is taken.

Thread: any; what happens in a forked process, in its only thread.

Source: fork(2), close(2), dup(2).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Protocol
from weakref import WeakSet

__all__ = ["SocketHolder", "keep_from_forks"]


class SocketHolder(Protocol):
    """What has sockets of connections."""

    def descriptors(self) -> Iterable[int]:
        """Return those that it has now; negative where a connection has none."""


_registered = False
_holders: WeakSet[SocketHolder] = WeakSet()


def keep_from_forks(holder: SocketHolder) -> None:
    """Put the sockets that a holder has at each fork, for as long as it lives, out of the new process's reach."""
    global _registered
    _holders.add(holder)
    if not _registered and hasattr(os, "register_at_fork"):
        _registered = True  # once for all holders: this cannot be taken back
        os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    holders = list(_holders)
    _holders.clear()  # the numbers may soon be those of other files
    with contextlib.suppress(OSError):  # no descriptor is left
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for holder in holders:
            # Whatever another thread was about: the application gets its process.
            with contextlib.suppress(Exception):
                for fd in holder.descriptors():
                    if fd >= 0:
                        # Not closed: an object here may close the number once more when it is another file's.
                        os.dup2(null, fd, inheritable=False)
        os.close(null)
