"""The terminal that a process was started from.

SIGHUP means one of two things: an operator wants a reload, or the terminal has been closed. After the latter, standard
input is no longer a terminal. If hangups are ignored at the start, as nohup(1) has them, the process is to outlive its
terminal, and SIGHUP is nothing but a reload.

Thread: the main thread.

Source: termios(3); credentials(7) on sessions.
"""

from __future__ import annotations

import os
import signal

__all__ = ["Terminal"]

_STANDARD_INPUT = 0


class Terminal:
    """That of standard input, if it is one and its end is the process's; to be made at the start."""

    def __init__(self) -> None:
        ignored = hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._was_there = os.isatty(_STANDARD_INPUT) and not ignored

    @property
    def is_closed(self) -> bool:
        """Whether there was one, and it has been closed."""
        return self._was_there and not os.isatty(_STANDARD_INPUT)
