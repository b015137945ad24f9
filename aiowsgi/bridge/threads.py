"""The threads of this process, by name.

Thread: any.
"""

from __future__ import annotations

import threading

__all__ = ["join_threads", "other_thread_names", "thread_names"]


def thread_names() -> dict[int, str]:
    """Return the names of all threads that the interpreter knows, by identifier."""
    return {thread.ident: thread.name for thread in threading.enumerate() if thread.ident is not None}


def other_thread_names() -> list[str]:
    """Return the names of all threads but the calling one."""
    own = threading.get_ident()
    return [name for ident, name in thread_names().items() if ident != own]


def join_threads() -> None:
    """Wait for the threads that an interpreter's end waits for: those that are no daemons."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread() and thread is not threading.main_thread():
            thread.join()
