"""One wake-up of the event loop for everything that is ready.

``call_soon_threadsafe`` writes to a pipe and wakes the loop out of its poll: a system call for the caller and a turn
for the loop. A wake-up is therefore scheduled only while none is pending, and the loop then takes all that has arrived.

A loop that was woken competes for the interpreter with every thread that computes, and has to win it again after each
read and write: among threads that go from one short job to the next it may stand still until no job is left. So
a thread gives way, before it begins a job, to a loop that has waited for too long: measured with 64 clients and 8
threads that compute for 0.5 ms each, a task on the same loop is late by 6 to 10 ms at p99, and by 23 to 46 without.

Thread: :meth:`Wakeup.notify` and :meth:`Wakeup.give_way` any; the rest event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from aiowsgi.bridge.switching import HAS_LOCK, SLIGHTLY_LATE_SECONDS

__all__ = ["Ready", "Wakeup"]

_logger = logging.getLogger("aiowsgi.error")

# A loop that has been waiting for so long is late. Without an interpreter lock threads do not hold it up.
_LATE_SECONDS = 0.005 if HAS_LOCK else float("inf")
# A thread gives way for this long at most: threads that stand still do not help a loop that a callback blocks.
_GIVE_WAY_SECONDS = 0.02


class Ready(Protocol):
    """Something that has work for the event loop."""

    def wake(self) -> None:
        """Do the work. Event loop."""
        ...


class Wakeup:
    """Hands :class:`Ready` objects from any thread to one event loop.

    Args:
        loop: the event loop.
        clock: for any thread.
        on_late: called by the loop with the seconds for which it was held up, if they are enough to matter: those by
            which it was late, less those in which it was itself at work. A turn that reads a thousand sockets is long.

    Shared between threads, without a lock:

    - ``_ready``: a deque; ``append`` and ``popleft`` are atomic on every build of CPython.
    - ``_pending``: whether a wake-up is on its way. The loop clears it *before* it empties the deque, and a notifier
      reads it *after* it has appended; both orders are fenced by the deque's own operations. So an object appended
      while the flag was still set is always found by the drain that the flag announced.
    - ``awaited_since``: when the loop was first asked for what it has not yet done, 0.0 if that is nothing. A notifier
      sets it *after* ``_pending``; the loop clears it and *then* looks at ``_pending``, so that one of them sees it.
    """

    __slots__ = (
        "_clock",
        "_context",
        "_loop",
        "_on_late",
        "_pending",
        "_ready",
        "_thread_time",
        "_turn_ended",
        "awaited_since",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
        on_late: Callable[[float], object] | None = None,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._on_late = on_late
        # The processor time of the loop's thread when it was last here.
        self._thread_time = 0.0
        # Not the notifier's context, which is its request's: what the loop does is for all requests.
        self._context = contextvars.Context()
        self._ready: deque[Ready] = deque()
        self._pending = False
        self._turn_ended = threading.Condition()
        self.awaited_since = 0.0

    def notify(self, ready: Ready) -> None:
        """Have ``ready.wake()`` called by the loop, once, soon. Any thread.

        What this raises, such as a RecursionError of a thread that is deep in its application, is the caller's: it is
        called by the loop once somebody has notified it of anything.
        """
        self._ready.append(ready)
        if not self._pending:
            try:
                self._pending = True
                if not self.awaited_since:
                    self.awaited_since = self._clock()
                self._loop.call_soon_threadsafe(self._drain, context=self._context)
            except BaseException as error:
                # Nothing may be on its way: whoever comes next tries again.
                self._pending = False
                self.awaited_since = 0.0
                # A RecursionError is a RuntimeError too.
                if not (isinstance(error, RuntimeError) and self._loop.is_closed()):
                    raise
                # The loop is closed: a thread outlived its server. Nobody is left to notify.
                self._ready.clear()

    def give_way(self) -> None:
        """If the loop is late, wait for the end of its turn. Worker thread, before a job; seldom, and not for long.

        Call it only if ``awaited_since`` is not 0.0; mostly it is, which is why the caller checks it.
        """
        since = self.awaited_since
        if since and self._clock() - since > _LATE_SECONDS:
            with self._turn_ended:
                self._turn_ended.wait_for(lambda: self.awaited_since != since, _GIVE_WAY_SECONDS)

    def _end_turn(self) -> None:
        self._forget_waiting()
        with self._turn_ended:
            self._turn_ended.notify_all()

    def _forget_waiting(self) -> None:
        self.awaited_since = 0.0
        if self._pending:
            self.awaited_since = self._clock()

    def _drain(self) -> None:
        self._pending = False
        since = self.awaited_since
        late = self._clock() - since if since else 0.0
        if self._on_late is not None:
            thread_time = time.thread_time()
            held_up = late - (thread_time - self._thread_time)
            self._thread_time = thread_time
            if held_up > SLIGHTLY_LATE_SECONDS and HAS_LOCK:
                self._on_late(held_up)
        if late > _LATE_SECONDS:
            # What else this turn of the loop has to do, such as to read from its sockets, is late as well.
            self._loop.call_soon(self._end_turn)
        else:
            self._forget_waiting()
        ready = self._ready
        # Bounded by what is there now, so that quick threads cannot hold the loop.
        for _ in range(len(ready)):
            item = ready.popleft()
            try:
                item.wake()
            except Exception:
                # A log handler that fails must not keep the others from their turn.
                with contextlib.suppress(Exception):
                    _logger.exception("internal error while handing %r to the event loop", item)
        if ready and not self._pending:
            self._pending = True
            self._loop.call_soon(self._drain)
