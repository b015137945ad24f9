"""Listening sockets that systemd passes to the service that it starts: socket activation.

Thread: the main thread.

Source: sd_listen_fds(3).
"""

from __future__ import annotations

import os

__all__ = ["take_passed_descriptors"]

_FIRST_DESCRIPTOR = 3


def take_passed_descriptors() -> tuple[int, ...]:
    """Return the descriptors that were passed to this very process; only once, since the variables are removed."""
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return ()
    descriptors = tuple(range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return descriptors
