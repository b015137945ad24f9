"""Threads that take turns do so on one processor: what one has just written, the next one finds in its cache.

An event loop and the thread that works while all requests compute (:mod:`aiowsgi.bridge.saturation`) never compute at
the same time: they share an interpreter. The kernel wakes each of them on an idle processor all the same, which is
another one than where the first has read the request, or written the response. Measured with 64 clients on two
processors: an empty answer 27.2 → 19.6 µs of processor time, and a third more of them a second; a Flask view 219 → 174;
0.5 ms of Python and Django's templates, whose threads are moved in the middle of a request, some 5 %.

So the loop's thread is *held* on the processor where it is. Threads of the pool are not, for a thread or a process that
an application starts would inherit that, and so would what it believes to have for itself. They are bound to that
processor only while they wait for a job, so that they wake there, and are free again before they take it. One that was
moved away is *brought back* the same way, between two jobs, now and then. (Who asks for the affinity of the process by
its number is told that of its first thread, which is the loop's; and what the loop starts is held with it, until that
is released.)

If anything else sets the affinity of a thread, that wins: a thread whose affinity is not what was set here is left as
it is. Only a choice of the very processor on which the loop is held cannot be told from what was set here: it is undone
at the release, and has to be made again. At the release threads get the affinity back that they had before. Where only
a container bounds them, that is every processor, so that they follow whatever the container is given later.

Thread: event loop, but :class:`Seat` and :func:`go_anywhere`: any.

Source: sched_setaffinity(2), cpuset(7).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Affinity", "Seat", "go_anywhere"]

_THREADS = Path("/proc/self/task")

# How often a thread is brought back: two system calls, of 5 µs together, and a hundredth of them if it was moved.
_RETURN_SECONDS = 0.001

# Where threads of this process may run that are bound to nothing, while one of them is held.
_anywhere: frozenset[int] | None = None


class Seat:
    """One processor, for threads that wait for a job. Any thread.

    Args:
        here: it.
        allowed: where threads may run that nobody has bound.
        anywhere: what is to be set for that.
        clock: for any thread.
    """

    __slots__ = ("_allowed", "_anywhere", "_clock", "_here", "_return_at", "closed", "empty")

    def __init__(
        self,
        here: frozenset[int],
        allowed: frozenset[int],
        anywhere: frozenset[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._here = here
        self._allowed = allowed
        self._anywhere = anywhere
        self._clock = clock
        # Of all threads: there is mostly one that works.
        self._return_at = 0.0
        #: Nobody is to come here any more. Set before those are looked for that have.
        self.closed = False
        #: All that have come were let go.
        self.empty = False

    def wait(self, gate: threading.Lock, seconds: float) -> bool:
        """Acquire a lock as :meth:`threading.Lock.acquire` does, and wake here if that takes waiting."""
        if gate.acquire(blocking=False):
            return True
        if not self._take():
            return gate.acquire(timeout=seconds)
        try:
            return gate.acquire(timeout=seconds)
        finally:
            self._leave()

    def bring_back(self) -> None:
        """Have the calling thread go on here, if that was not looked after just now."""
        now = self._clock()
        if now >= self._return_at:
            self._return_at = now + _RETURN_SECONDS
            if self._take():
                self._leave()

    def _take(self) -> bool:
        """Bind the calling thread, unless somebody else has."""
        if self.closed or os.sched_getaffinity(0) != self._allowed:
            return False
        _bind(self._here)
        if self.closed:  # just now, and perhaps too late to be found
            _unbind(self._here, self._anywhere)
        return True

    def _leave(self) -> None:
        # Who is found here after all were let go, was bound by somebody else.
        if not self.empty or os.sched_getaffinity(0) != self._here:
            _unbind(self._here, self._anywhere)


class Affinity:
    """Holds the thread that has made it on a processor; see the module.

    ::

        seat = affinity.hold()
        ...
        affinity.release()
    """

    __slots__ = ("_anywhere", "_bound_before", "_here", "_seat", "_thread_id")

    def __init__(self) -> None:
        self._thread_id = threading.get_native_id()
        # Where it is held, and what is to be set for it not to be.
        self._here: frozenset[int] | None = None
        self._anywhere: frozenset[int] = frozenset()
        self._seat: Seat | None = None
        # Threads that are bound to the same processor, and not by this.
        self._bound_before: set[int] = set()

    def hold(self) -> Seat | None:
        """Hold the thread where it is; return where others can join it, or ``None`` if that cannot be done."""
        global _anywhere
        try:
            allowed = frozenset(os.sched_getaffinity(self._thread_id))
            if len(allowed) < 2:
                return None
            anywhere = self._widest(allowed)
            here = frozenset({_processor_of(self._thread_id)})
            bound_before = _threads_bound_to(here)
            os.sched_setaffinity(self._thread_id, here)
        # Not on this system, not in this sandbox, or not now.
        except (AttributeError, OSError, ValueError, IndexError):
            return None
        self._here, self._anywhere, self._bound_before = here, anywhere, bound_before
        _anywhere = anywhere
        self._seat = Seat(here, allowed, anywhere)
        return self._seat

    def _widest(self, allowed: frozenset[int]) -> frozenset[int]:
        """Return what is to be set for the thread to have no other bounds than these, which it has."""
        everything = allowed | frozenset(range(os.sysconf("SC_NPROCESSORS_CONF")))
        os.sched_setaffinity(self._thread_id, everything)
        if os.sched_getaffinity(self._thread_id) == allowed:
            return everything  # they are its container's, and may become others
        os.sched_setaffinity(self._thread_id, allowed)
        return allowed

    @property
    def is_held(self) -> bool:
        """Whether the thread is still where it is held: nobody else has set its affinity."""
        return self._here is not None and os.sched_getaffinity(self._thread_id) == self._here

    def release(self) -> None:
        """Let the thread go, and what it has started."""
        global _anywhere
        here, self._here = self._here, None
        if here is None or self._seat is None:
            return
        self._seat.closed = True
        _unbind(here, self._anywhere, self._thread_id)
        for thread_id in _threads_bound_to(here) - self._bound_before:
            _bind(self._anywhere, thread_id)
        self._seat.empty = True
        _anywhere = None  # a thread that begins before is free by itself


def go_anywhere() -> None:
    """Have a new thread not be bound to where the one that started it is held. Any thread."""
    anywhere = _anywhere
    if anywhere is not None:
        _bind(anywhere)


def _bind(processors: frozenset[int], thread_id: int = 0) -> None:
    # It has ended, or a container has lost these: the kernel has seen to it then.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(thread_id, processors)


def _unbind(here: frozenset[int], anywhere: frozenset[int], thread_id: int = 0) -> None:
    """End what :func:`_bind` has done, if nobody has bound the thread elsewhere meanwhile."""
    with contextlib.suppress(OSError):
        found = os.sched_getaffinity(thread_id)
        os.sched_setaffinity(thread_id, anywhere)
        # A container that has lost the processor lets the thread run anywhere. That was nobody's choice.
        if found != here and os.sched_getaffinity(thread_id) != found:
            os.sched_setaffinity(thread_id, found)


def _processor_of(thread_id: int) -> int:
    """Return the processor on which a thread runs, or ran last."""
    line = (_THREADS / str(thread_id) / "stat").read_text(errors="replace")
    return int(line.rpartition(")")[2].split()[36])


def _threads_bound_to(processors: frozenset[int]) -> set[int]:
    """Return the threads of this process that may run on all of these, and nowhere else."""
    try:
        thread_ids = [int(name) for name in os.listdir(_THREADS)]
    except OSError:  # no file descriptor is left; those of other languages are none of ours
        thread_ids = [thread.native_id for thread in threading.enumerate() if thread.native_id is not None]
    found = set()
    for thread_id in thread_ids:
        with contextlib.suppress(OSError):  # it has just ended
            if os.sched_getaffinity(thread_id) == processors:
                found.add(thread_id)
    return found
