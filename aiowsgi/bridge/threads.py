"""The threads of this process, by name.

Thread: any.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

__all__ = [
    "LOG_THREAD_NAME",
    "call_aside",
    "call_at_slow_end",
    "in_main_thread",
    "join_threads",
    "lasting_threads",
    "own_thread_id",
    "thread_frames",
    "thread_names",
    "thread_names_without_copies",
]

# Reentrant: a signal handler may want the frames as well.
_gathering = threading.RLock()


def _begin_anew() -> None:
    """In a copy of the process, whose other threads are gone, one of them perhaps with the lock."""
    global _gathering
    _gathering = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)

#: Of each :class:`~aiowsgi.bridge.log_writer.LogWriter`'s thread.
LOG_THREAD_NAME = "aiowsgi-log"


def own_thread_id() -> int:
    """Return the calling thread's :func:`threading.get_ident`."""
    return threading.get_ident()


def thread_frames() -> dict[int, FrameType]:
    """Return the frame that each thread is executing, by :func:`threading.get_ident`.

    Without a garbage collection, which CPython 3.11 may begin under a lock that it needs itself for some of the
    garbage, such as a ``threading.local``: the process would stand still (gh-106883). Later versions begin none there.
    """
    if sys.version_info >= (3, 12):
        return sys._current_frames()
    with _gathering:  # or one thread would find the collector off because of another, and leave it so
        collects = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if collects:
                gc.enable()


def thread_names() -> dict[int, str]:
    """Return the names of all threads that the interpreter knows, by identifier."""
    return {thread.ident: thread.name for thread in threading.enumerate() if thread.ident is not None}


def thread_names_without_copies() -> list[str]:
    """Return the names of the threads that a copy of this process will not have: all but the calling one.

    The log's are left out, which a copy has anew.
    """
    own = threading.get_ident()
    return [name for ident, name in thread_names().items() if ident != own and name != LOG_THREAD_NAME]


def lasting_threads() -> set[threading.Thread]:
    """Return the threads that the interpreter's end would wait for: all but daemons and the main thread."""
    main = threading.main_thread()
    return {thread for thread in threading.enumerate() if not thread.daemon and thread is not main}


def in_main_thread() -> bool:
    """Return whether the calling thread is the one that receives signals."""
    return threading.current_thread() is threading.main_thread()


def call_aside(function: Callable[[], object]) -> None:
    """Call a function in a thread of its own, without waiting for it.

    For signal handlers: one may interrupt its own thread while that holds a lock that the function needs.
    """
    thread = threading.Thread(target=function, name="aiowsgi-aside", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no thread can be started, which may be the very thing to be looked into
        function()


def call_at_slow_end(*calls: tuple[float, Callable[[bool], object]]) -> None:
    """Have functions called, each in a thread of its own, if the interpreter takes so long to end once it has begun to.

    Args:
        calls: how many seconds, and the function, by these seconds; it is told whether only daemons run any more.
    """
    threads_ended = threading.Event()
    # What was registered last is called first, and nothing is before the threads have ended.
    atexit.register(threads_ended.set)

    def watch() -> None:
        threading.main_thread().join()  # which counts as ended once the interpreter waits for the others
        begun_at = time.monotonic()
        for seconds, function in calls:
            threading.Event().wait(begun_at + seconds - time.monotonic())
            call_aside(partial(function, threads_ended.is_set()))

    with contextlib.suppress(RuntimeError):  # no thread can be started: then the end has no bound
        threading.Thread(target=watch, name="aiowsgi-end", daemon=True).start()


def join_threads() -> None:
    """Wait for the threads that an interpreter's end waits for, in the main thread of a process that then ends.

    An executor's threads are told first that they may leave, which only the interpreter's own function does;
    multiprocessing calls it in its forked children.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # not typed
