"""Signals in the processes that the application forks: as if there were no server.

A forked process has the handlers of its parent. In it those of an event loop do nothing, so that SIGTERM would not end
it; and before CPython 3.12 they report to the parent's loop, which would take the signal for its own. So they are set
back to the default there, as execve(2) does; those that the application has set itself stay. While a process is being
forked these signals wait: the application may send one before the handlers have gone.

Only a process that serves remembers handlers. A supervisor does not: what it forks sets up its own.

Thread: the main thread; what happens around a fork, in the thread that forks, which is the new process's main thread.

Source: signal(7), fork(2); :func:`signal.set_wakeup_fd`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from typing import Any

from aiowsgi.bridge.threads import own_thread_id

__all__ = ["forget_handlers", "remember_handlers", "remember_wakeup_fd"]

_registered = False
#: The server's, by the number of the signal.
_handlers: dict[int, Any] = {}
#: Where the loop has the numbers of signals written.
_wakeup_fd = -1
#: What was blocked before, by the thread that forks.
_masks: dict[int, set[Any]] = {}


def remember_handlers(signums: Iterable[int]) -> None:
    """Take the handlers that these signals have now for the server's."""
    global _registered
    _handlers.update((signum, signal.getsignal(signum)) for signum in signums)
    if not _registered and hasattr(os, "register_at_fork"):
        _registered = True  # once for all servers: this cannot be taken back
        os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_set_back)


def remember_wakeup_fd() -> None:
    """Take the current wakeup descriptor for the loop's.

    To be called before the loop handles a signal that must not be lost: for a moment there is no such descriptor.
    """
    global _wakeup_fd
    _wakeup_fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(_wakeup_fd, warn_on_full_buffer=False)


def forget_handlers() -> None:
    """The server no longer handles signals."""
    global _wakeup_fd
    _handlers.clear()
    _wakeup_fd = -1


def _hold_back() -> None:
    if _handlers:
        _masks[own_thread_id()] = signal.pthread_sigmask(signal.SIG_BLOCK, _handlers)


def _let_through() -> None:
    mask = _masks.pop(own_thread_id(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _set_back() -> None:
    # ValueError: a subinterpreter, where no signals are handled; OSError: a descriptor that was closed meanwhile.
    with contextlib.suppress(ValueError, OSError):
        if _wakeup_fd >= 0:
            wakeup_fd = signal.set_wakeup_fd(-1)
            if wakeup_fd not in (-1, _wakeup_fd):
                signal.set_wakeup_fd(wakeup_fd)
    ours = [signum for signum, handler in _handlers.items() if signal.getsignal(signum) is handler]
    with contextlib.suppress(ValueError):
        for signum in ours:
            signal.signal(signum, signal.SIG_DFL)
    forget_handlers()
    _let_through()  # what has waited ends the process; from Python's handler of SIGINT an exception would be lost here
    _masks.clear()  # of threads that are not here
    with contextlib.suppress(ValueError):
        if signal.SIGINT in ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
