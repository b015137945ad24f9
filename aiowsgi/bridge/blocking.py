"""Reports which line of an asynchronous iterable holds up the event loop that drives it, and for how long.

A call that blocks inside a coroutine stops every connection of its loop, and nothing shows where. So each step of a
watched coroutine notes when it began. A daemon thread looks at the notes of all loops ten times a second, and where a
step takes too long, at the stack of the loop's thread; the step itself says at its end how long it took.

A step pays for one reading of the clock. The thread is there only while something is watched.

Thread: event loop, but for the class ``_Watcher``, which is a thread of its own.
"""

from __future__ import annotations

import contextlib
import linecache
import logging
import os
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from types import CodeType, FrameType, TracebackType
from typing import Any

from aiowsgi.bridge.affinity import go_anywhere
from aiowsgi.bridge.threads import thread_frames

__all__ = ["BLOCKING_SECONDS", "WatchedCoroutine"]

_logger = logging.getLogger("aiowsgi.error")

# What asyncio's debug mode calls slow (``loop.slow_callback_duration``), and what a person begins to notice.
BLOCKING_SECONDS = 0.1
# A loop's thread that stands still may also be waiting for the interpreter, beside threads that compute. The watcher
# then waits for it as well, and notices by how late it wakes; only a step that takes much longer is then held to block.
# Measured beside 8 threads that compute, on 2 cores: 0.6 s for a line that does nothing; with none, below 1 ms. That
# was with Python's switch interval. With the server's, a step that lets go of the interpreter twice takes 40 ms at most
# of 300 times; with Python's, 280 ms. What remains is a machine that has no time for the process: there a report may
# name a line that has only waited, though for as long as it says.
_CONTENTION_SECONDS = 0.02
_SURELY_BLOCKING_SECONDS = 1.0
# A loop's thread that has used this share of the time is computing, perhaps in C with the interpreter held: then it is
# itself the reason why the watcher is late.
_COMPUTING_SHARE = 0.5
# A step that is still under way after this long may never end, and is reported without waiting for that. Arbitrary.
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
    that have not ended. Written by the watcher: ``notice``, which the loop's thread believes only if it is about its
    own step. Each is one word, so that they need no lock. The rest is the watcher's.
    """

    __slots__ = ("_clock_id", "_computed", "_looked_at", "notice", "since", "thread", "watched_count")

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.since = 0.0
        self.watched_count = 0
        self.notice: _Notice | None = None
        # Not every platform knows how long a thread has computed; if not, one that computes is noticed later.
        self._clock_id = (
            time.pthread_getcpuclockid(threading.get_ident()) if hasattr(time, "pthread_getcpuclockid") else None
        )
        self._computed = 0.0
        self._looked_at = 0.0

    def computing_share(self, now: float) -> float:
        """Return the share of the time since the last call in which the thread has computed. Watcher."""
        if self._clock_id is None:
            return 0.0
        try:
            computed = time.clock_gettime(self._clock_id)
        except OSError:  # the thread has ended
            return 0.0
        share = (computed - self._computed) / max(now - self._looked_at, 1e-6)
        self._computed, self._looked_at = computed, now
        return share

    def begin(self) -> None:
        """One coroutine more."""
        self.watched_count += 1
        if self.watched_count == 1:
            _watcher.watch(self)

    def end(self) -> None:
        """One coroutine less."""
        self.watched_count -= 1

    def step_ended(self, since: float, notice: _Notice) -> None:
        """A step has ended, and there is a notice: about this step, or about an earlier one, for which it came late."""
        self.notice = None
        if notice.since == since:
            # A log handler that fails must not break the response, whose step this was, nor keep the step from ending.
            with contextlib.suppress(Exception):
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
    """The thread that watches, one for the process.

    Fields guarded by ``_lock``: ``_loop_threads``, ``_thread``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop_threads: set[_LoopThread] = set()
        self._thread: threading.Thread | None = None
        self._never = threading.Event()

    def watch(self, loop_thread: _LoopThread) -> None:
        """Watch a loop's thread for as long as it has coroutines to watch. Event loop."""
        with self._lock:
            self._loop_threads.add(loop_thread)
            # A fork copies the object, but not the thread.
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = threading.Thread(target=self._run, name="aiowsgi-blocking-watch", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # no thread can be started; the next response that parks tries again
                with contextlib.suppress(Exception):
                    _logger.error("cannot start the thread that watches for blocking calls: %s", error)

    def _run(self) -> None:
        go_anywhere()
        idle_count = 0
        # How late the last looks were, where no watched thread was the reason.
        lateness: deque[float] = deque(maxlen=5)
        due = time.monotonic()
        while True:
            with self._lock:
                # A thread may end while tasks of its loop have not.
                self._loop_threads = {each for each in self._loop_threads if each.thread.is_alive()}
                loop_threads = tuple(self._loop_threads)
                idle_count = 0 if any(each.watched_count for each in loop_threads) else idle_count + 1
                if idle_count > _IDLE_LOOKS:
                    self._loop_threads.clear()
                    self._thread = None
                    return
            now = time.monotonic()
            shares = [each.computing_share(now) for each in loop_threads]
            computing = max(shares, default=0.0) >= _COMPUTING_SHARE
            lateness.append(0.0 if computing else now - due)
            limit = BLOCKING_SECONDS if max(lateness) < _CONTENTION_SECONDS else _SURELY_BLOCKING_SECONDS
            wait = min((_look(each, now, limit) for each in loop_threads), default=BLOCKING_SECONDS)
            due = time.monotonic() + wait
            # Sampling is polling: steps that announced themselves would cost more than all that is gained here.
            self._never.wait(wait)


def _look(loop_thread: _LoopThread, now: float, limit: float) -> float:
    """Look at one thread; return in how many seconds to look again, at the latest."""
    since = loop_thread.since
    if not since:
        return BLOCKING_SECONDS
    age = now - since
    if age < limit:
        return min(limit - age, BLOCKING_SECONDS)  # at the moment at which it becomes too long
    notice = loop_thread.notice
    if notice is None or notice.since != since:
        place = _blocking_place(thread_frames().get(loop_thread.thread.ident or 0))
        if place is not None and loop_thread.since == since:
            loop_thread.notice = _Notice(since, place)
    elif age >= _STILL_BLOCKING_SECONDS and not notice.told:
        notice.told = True
        with contextlib.suppress(Exception):
            _logger.warning("a parked response has been blocking its event loop for %.1f s: %s", age, notice.place)
    return BLOCKING_SECONDS


_STEP = WatchedCoroutine._step.__code__


def _blocking_place(frame: FrameType | None) -> str | None:
    """Return the line of the application that a thread is executing, given its innermost frame.

    It is the line of the innermost frame that belongs to no library, or else that of the iterable itself. ``None`` if
    the step is in this package's own code: then it waits for the interpreter.
    """
    frames = []
    while frame is not None and frame.f_code is not _STEP:
        frames.append(frame)
        frame = frame.f_back
    if frame is None:
        return None  # no watched step is under way any more
    for each in frames:
        if not each.f_code.co_filename.startswith((_PACKAGE, *_LIBRARIES, "<frozen ")):
            return _describe(each)
    # What calls the iterable is in the watched coroutine's own file.
    outside = [each for each in frames if each.f_code.co_filename != frames[-1].f_code.co_filename]
    if not outside or outside[-1].f_code.co_filename.startswith(_PACKAGE):
        return None
    return _describe(outside[-1])


def _describe(frame: FrameType) -> str:
    code = frame.f_code
    text = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}" + (f": {text}" if text else "")


_watcher = _Watcher()
_local = _Local()
