"""Tells which line of an asynchronous iterable holds up the event loop that drives it, and for how long.

A call that blocks inside a coroutine stops every connection of its loop, and nothing shows where. So each step of a
watched coroutine notes when it began. A daemon thread looks at the notes of all loops ten times a second, and where a
step takes too long, at the stack of the loop's thread; the step itself says at its end how long it took.

A step pays for two readings of the clock. The thread is there only while something is watched.

Thread: event loop, but for the class ``_Watcher``, which is a thread of its own.
"""

from __future__ import annotations

import linecache
import logging
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Coroutine
from types import CodeType, FrameType, TracebackType
from typing import Any

__all__ = ["BLOCKING_SECONDS", "WatchedCoroutine"]

_logger = logging.getLogger("aiowsgi.error")

# What asyncio's debug mode calls slow (``loop.slow_callback_duration``), what a person begins to notice, and far above
# what the loop waits for the interpreter beside eight busy threads (5 ms each: ``sys.getswitchinterval()``).
BLOCKING_SECONDS = 0.1
# A step that is still under way then may never end, and is told of before it does. Arbitrary.
_STILL_BLOCKING_SECONDS = 5.0
# The thread outlives what it watches by so many looks, so that a response every second does not start it each time.
_IDLE_LOOKS = 10

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_PATHS = sysconfig.get_paths()
_LIBRARIES = tuple({_PATHS[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class _Notice:
    """A step that was found to block."""

    __slots__ = ("place", "since", "told")

    def __init__(self, since: float, place: str) -> None:
        self.since = since
        self.place = place
        self.told = False


class _LoopThread:
    """What the watched coroutines of one thread share.

    Written by that thread: ``since``, when the running step began, 0.0 between steps; ``watched_count``, coroutines
    that have not ended. Written by the watcher: ``notice``, of which the loop's thread believes only what names its
    own step. Each is one word, so that they need no lock.
    """

    __slots__ = ("notice", "since", "thread", "watched_count")

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.since = 0.0
        self.watched_count = 0
        self.notice: _Notice | None = None

    def begin(self) -> None:
        """One coroutine more."""
        self.watched_count += 1
        if self.watched_count == 1:
            _watcher.watch(self)

    def end(self) -> None:
        """One coroutine less."""
        self.watched_count -= 1

    def step_ended(self, since: float, notice: _Notice) -> None:
        """A step has ended, and there is a notice: of this step, or one that came too late for another."""
        self.notice = None
        if notice.since == since:
            _logger.warning(
                "a parked response blocked its event loop for %.2f s: %s", time.monotonic() - since, notice.place
            )


class _Local(threading.local):
    """The calling thread's :class:`_LoopThread`."""

    def __init__(self) -> None:
        self.loop_thread = _LoopThread()


class WatchedCoroutine(Coroutine[Any, Any, None]):
    """A coroutine for a task of the calling thread's event loop: the same, step by step, but watched.

    Args:
        coroutine: the task's own.
    """

    __slots__ = ("_coroutine", "_loop_thread")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._loop_thread = _local.loop_thread
        self._loop_thread.begin()

    def send(self, value: Any) -> Any:
        """See :class:`collections.abc.Coroutine`."""
        return self._step(self._coroutine.send, value)

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        """See :class:`collections.abc.Coroutine`."""
        return self._step(self._coroutine.throw, kind if value is None else value)

    def _step(self, advance: Callable[[Any], Any], value: Any) -> Any:
        loop_thread = self._loop_thread
        outer = loop_thread.since  # not 0.0 where a task is run from inside another's step, as eager ones are
        loop_thread.since = since = time.monotonic()
        try:
            return advance(value)
        except BaseException:  # StopIteration, most of all
            loop_thread.end()
            raise
        finally:
            if loop_thread.notice is not None:
                loop_thread.step_ended(since, loop_thread.notice)
            loop_thread.since = outer

    def close(self) -> None:
        """See :class:`collections.abc.Coroutine`."""
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    # What ``Task.get_stack()`` and its like look at.

    @property
    def cr_frame(self) -> FrameType | None:
        """See :mod:`inspect`."""
        frame: FrameType | None = getattr(self._coroutine, "cr_frame", None)
        return frame

    @property
    def cr_code(self) -> CodeType | None:
        """See :mod:`inspect`."""
        code: CodeType | None = getattr(self._coroutine, "cr_code", None)
        return code

    @property
    def cr_running(self) -> bool:
        """See :mod:`inspect`."""
        return bool(getattr(self._coroutine, "cr_running", False))


class _Watcher:
    """The thread that looks, one for the process.

    Fields guarded by ``_lock``: ``_loop_threads``, ``_thread``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop_threads: set[_LoopThread] = set()
        self._thread: threading.Thread | None = None
        self._never = threading.Event()

    def watch(self, loop_thread: _LoopThread) -> None:
        """Look at a loop's thread, which has something to watch, for as long as it has. Event loop."""
        with self._lock:
            self._loop_threads.add(loop_thread)
            # A fork leaves the object behind, and not the thread.
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = threading.Thread(target=self._run, name="aiowsgi-blocking-watch", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # no thread to be had; the next that parks tries again
                _logger.error("cannot start the thread that watches for blocking calls: %s", error)

    def _run(self) -> None:
        idle_count = 0
        while True:
            with self._lock:
                # A thread may end with tasks that nobody ended.
                self._loop_threads = {each for each in self._loop_threads if each.thread.is_alive()}
                loop_threads = tuple(self._loop_threads)
                idle_count = 0 if any(each.watched_count for each in loop_threads) else idle_count + 1
                if idle_count > _IDLE_LOOKS:
                    self._loop_threads.clear()
                    self._thread = None
                    return
            now = time.monotonic()
            # To sample is to poll: steps that told when they begin would cost more than all that is gained here.
            self._never.wait(min((self._look(each, now) for each in loop_threads), default=BLOCKING_SECONDS))

    def _look(self, loop_thread: _LoopThread, now: float) -> float:
        """Look at one thread; return when to look again at the latest, in seconds."""
        since = loop_thread.since
        if not since:
            return BLOCKING_SECONDS
        age = now - since
        if age < BLOCKING_SECONDS:
            return BLOCKING_SECONDS - age  # the moment at which it becomes too long
        notice = loop_thread.notice
        if notice is None or notice.since != since:
            place = _blocking_place(sys._current_frames().get(loop_thread.thread.ident or 0))
            if place is not None and loop_thread.since == since:
                loop_thread.notice = _Notice(since, place)
        elif age >= _STILL_BLOCKING_SECONDS and not notice.told:
            notice.told = True
            _logger.warning("a parked response has been blocking its event loop for %.1f s: %s", age, notice.place)
        return BLOCKING_SECONDS


_STEP = WatchedCoroutine._step.__code__


def _blocking_place(frame: FrameType | None) -> str | None:
    """Return the line of the application that a stack stands in, innermost frame first.

    That is the innermost one that belongs to no library, or else the outermost one that is not this package's own.
    ``None`` where no such line is under way: then it is this package that waits, for the interpreter.
    """
    outermost: FrameType | None = None
    while frame is not None and frame.f_code is not _STEP:
        file_name = frame.f_code.co_filename
        if not file_name.startswith(_PACKAGE):
            if not file_name.startswith(_LIBRARIES) and not file_name.startswith("<frozen "):
                return _describe(frame)
            outermost = frame
        frame = frame.f_back
    if frame is None:
        return None  # no watched step is under way any more
    return None if outermost is None else _describe(outermost)


def _describe(frame: FrameType) -> str:
    code = frame.f_code
    text = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}" + (f": {text}" if text else "")


_watcher = _Watcher()
_local = _Local()
