"""The file descriptors of a process: the three that every process has, and how many it may have.

Thread: the main thread, before serving.

Source: getrlimit(2); POSIX, "execve": a program may be started without 0, 1 and 2.
"""

from __future__ import annotations

import os
import sys

from aiowsgi.errors import StartupError

__all__ = ["open_standard_descriptors", "raise_descriptor_limit"]

_LAST_STANDARD = 2


def open_standard_descriptors() -> None:
    """Open ``/dev/null`` in the place of each standard descriptor that is closed.

    Otherwise the next file or socket would get its number: for instance the event loop's own pipes, into which lines of
    the log would be written, and which uvloop does not close.

    Raises:
        StartupError: there is no such device; a container may lack it.
    """
    for descriptor in range(_LAST_STANDARD + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            _open_null_device()
            os.set_inheritable(descriptor, True)  # like the others: for workers and the application's children
    # Python sets a stream to None if its descriptor was closed at startup; code that writes to it need not care.
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", errors="backslashreplace", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)


def _open_null_device() -> None:
    """Open it as the first descriptor that is closed."""
    try:
        os.open(os.devnull, os.O_RDWR)
    except OSError as error:
        text = f"{os.devnull}: {error.strerror}; it takes the place of a standard descriptor that is closed"
        raise StartupError(text) from error


def raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one; keep it where the system refuses or has none.

    Each connection takes one. Systems give a soft limit of 1,024 for the sake of programs that use ``select()``, and a
    hard one that is meant to be used.
    """
    try:
        import resource
    except ImportError:
        return
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    except (OSError, ValueError):  # macOS names a hard limit that it does not grant
        return
