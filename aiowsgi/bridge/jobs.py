"""The queue of a pool's jobs: a thread that is awake takes the next one before another is woken.

A *gate*, a lock that no thread owns, is open when a thread has been called. Putting a job opens it once, however many
jobs follow before a thread comes; that thread closes it as it passes, and opens it for another if jobs are left.
CPython's own ``SimpleQueue`` does much the same until 3.12, and costs as much; that of 3.13 wakes a thread for
each job, and a request at 64 connections has 1.1 context switches there instead of 0.2, and costs 36 µs instead of 26.

Nothing is lost: a thread sleeps only at a closed gate, after it has found nothing; a job is put before the gate is
looked at; and a thread that passes the gate looks again.

If only a limited number may be at work, the other threads sleep although there are jobs. Nothing is lost then either: a
thread counts as free before it comes for a job, and whoever makes room calls a thread.

Thread: any.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from aiowsgi.bridge.affinity import Seat

__all__ = ["JobQueue"]

_T = TypeVar("_T")

# How often a thread for which there is no room looks again without being called: whoever set the limit may be gone.
_LOOK_SECONDS = 0.5


class JobQueue(Generic[_T]):
    """Jobs in the order in which they were put."""

    __slots__ = ("_gate", "_jobs", "room", "seat")

    def __init__(self) -> None:
        self._jobs: deque[_T] = deque()
        #: Given how many more threads are wanted at work, returns how many more may be, not counting those that come
        #: for a job; ``None`` for any number.
        self.room: Callable[[int], int] | None = None
        #: Where threads wait, and go on; ``None`` where it does not matter.
        self.seat: Seat | None = None
        self._gate = threading.Lock()
        self._gate.acquire()

    def qsize(self) -> int:
        """Return how many jobs wait."""
        return len(self._jobs)

    def put(self, job: _T) -> None:
        """Add a job, and call a thread if none has been called."""
        self._jobs.append(job)
        if self._gate.locked() and ((room := self.room) is None or room(1) > 0):
            self._open()

    def call(self) -> None:
        """Call a thread if there are jobs: there may be room for it now."""
        if self._jobs and self._gate.locked():
            self._open()

    def get(self, timeout: float) -> _T:
        """Take the next job, waiting for one.

        Raises:
            queue.Empty: there was none for ``timeout`` seconds.
        """
        jobs = self._jobs
        called = False
        while True:
            room = self.room
            if room is None or room(1) > 0:
                try:
                    job = jobs.popleft()
                except IndexError:
                    pass
                else:
                    if called and jobs and self._gate.locked() and (room is None or room(2) > 1):
                        self._open()
                    if (seat := self.seat) is not None:
                        seat.bring_back()
                    return job
            wait = timeout if room is None else min(timeout, _LOOK_SECONDS)
            seat = self.seat
            if self._gate.acquire(timeout=wait) if seat is None else seat.wait(self._gate, wait):
                called = True
            elif wait == timeout:
                raise queue.Empty
            else:
                timeout -= wait

    def _open(self) -> None:
        try:  # noqa: SIM105 # suppress() takes three times as long
            self._gate.release()
        except RuntimeError:
            pass  # another thread was quicker
