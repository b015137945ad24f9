"""Tells systemd the state of the service, if systemd has asked for it.

Thread: the main thread.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

__all__ = ["Notifier"]


# Seconds. A sender waits for at most this long while the service manager does not read.
_PATIENCE = 1.0


class Notifier:
    """Sends states to the socket that ``NOTIFY_SOCKET`` names; without one, sends nothing.

    The variables are removed from the environment, so that no child speaks in the service's name.
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        watchdog = os.environ.pop("WATCHDOG_USEC", "")
        watchdog_pid = os.environ.pop("WATCHDOG_PID", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        #: Seconds between two signs of life; 0.0 if none are wanted.
        self.watchdog_interval = 0.0
        if self._address and watchdog.isdigit() and watchdog_pid in ("", str(os.getpid())):
            # Half of what is allowed, as the manual advises.
            self.watchdog_interval = int(watchdog) / 2_000_000

    def ready(self, status: str) -> None:
        """The service serves: it has started, or its reload is over."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; :meth:`ready` is to follow."""
        # Type=notify-reload compares the time with that of its signal.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1", "STATUS=stopping")

    def watchdog(self) -> None:
        """Give a sign of life."""
        self._send("WATCHDOG=1", must_arrive=False)

    def _send(self, *lines: str, must_arrive: bool = True) -> None:
        if not self._address:
            return
        # Whether anybody listens is systemd's business: a service that serves does not fail over it.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            # A manager that is behind has up to ten messages waiting; one that it must not miss is worth a short wait.
            sock.settimeout(_PATIENCE if must_arrive else 0.0)
            sock.sendto("\n".join(lines).encode(), self._address)
