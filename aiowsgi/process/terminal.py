"""The terminal that a process was started from.

SIGHUP means two things: an operator wants a reload, or the terminal has been closed. After the latter it is no
terminal any more.

Thread: the main thread.

Source: termios(3); credentials(7) on sessions.
"""

from __future__ import annotations

import os

__all__ = ["Terminal"]

_STANDARD_INPUT = 0


class Terminal:
    """That of standard input, if it is one; to be made at the start."""

    def __init__(self) -> None:
        self._was_there = os.isatty(_STANDARD_INPUT)

    @property
    def is_closed(self) -> bool:
        """Whether there was one, and it has been closed."""
        return self._was_there and not os.isatty(_STANDARD_INPUT)
