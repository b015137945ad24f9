"""Threads that take turns do so on one processor: what one has just written, the next one finds in its cache.

An event loop and the thread that works while all requests compute (:mod:`aiowsgi.bridge.saturation`) never compute at
the same time: they share an interpreter. The kernel nevertheless wakes each of them on an idle processor, and not on
the one where the other has just read the request, or written the response. Measured with 64 clients on two processors:
an empty answer 27.2 → 19.6 µs of processor time, and a third more answers a second; a Flask view 219 → 174; 0.5 ms of
Python and Django's templates, whose threads are moved in the middle of a request, some 5 %.

So the loop's thread is *held* on the processor where it is. Threads of the pool are not: a thread or a process that an
application starts would inherit that, and with it a wrong idea of how many processors it has. They are bound to that
processor only while they wait for a job, so that they wake there, and are free again before they take it. A thread that
was moved away is *brought back* the same way, between two jobs, now and then. (Whoever asks for the affinity of the
process by its id gets that of its first thread, which is the loop's; and what the loop starts is held with it, until
the loop is released.)

Whoever calls a thread to a job still has the interpreter for some microseconds. A thread that waits on that processor
therefore waits under the policy for those that need not run at once (``SCHED_BATCH``): else the kernel would let it
take the place of its caller, only to find that it has to wait for that. Hello with 64 clients: 0.06 context switches
for each request instead of 0.17, and 3.4 % less processor time (100 alternations of 0.15 s within one process).

If anything else sets the affinity of a thread, that wins: a thread whose affinity is not what was set here is left as
it is. Only a choice of the very processor on which the loop is held cannot be told from what was set here: it is undone
at the release, and has to be made again. At the release threads get the affinity back that they had before. Where only
a container bounds them, that is every processor, so that they follow whatever the container is given later.

Thread: event loop, but :class:`Seat` and :func:`go_anywhere`: any.

Source: sched_setaffinity(2), sched(7), cpuset(7).
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

# A thread is brought back at most once in so long: its four system calls take 5 µs, or half a hundredth of that time.
_RETURN_SECONDS = 0.001

# While a thread of this process is held: where those that are not bound may run.
_anywhere: frozenset[int] | None = None


class Seat:
    """One processor, for threads that wait for a job. Any thread.

    Args:
        here: the processor.
        allowed: where threads may run that nobody has bound.
        anywhere: the affinity to set so that a thread may run there.
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
        # Shared by all threads: mostly only one works.
        self._return_at = 0.0
        #: No thread is to come here any more. Set before looking for the threads that are here.
        self.closed = False
        #: All threads that had come here have been let go.
        self.empty = False

    def wait(self, gate: threading.Lock, seconds: float) -> bool:
        """Acquire a lock as :meth:`threading.Lock.acquire` does, and wake here if that takes waiting."""
        if gate.acquire(blocking=False):
            return True
        if not self._take():
            return gate.acquire(timeout=seconds)
        patient = False
        try:
            patient = _change_policy("SCHED_OTHER", "SCHED_BATCH")
            return gate.acquire(timeout=seconds)
        finally:
            if patient:
                _change_policy("SCHED_BATCH", "SCHED_OTHER")
            self._leave()

    def bring_back(self) -> None:
        """Have the calling thread go on here, unless that was seen to just now."""
        now = self._clock()
        if now >= self._return_at:
            self._return_at = now + _RETURN_SECONDS
            if self._take():
                self._leave()

    def _take(self) -> bool:
        """Bind the calling thread, unless something else has."""
        if self.closed or os.sched_getaffinity(0) != self._allowed:
            return False
        _bind(self._here)
        if self.closed:  # closed just now: this thread was perhaps bound too late to be found
            _unbind(self._here, self._anywhere)
        return True

    def _leave(self) -> None:
        # A thread that is found here after all were let go was bound by somebody else.
        if not self.empty or os.sched_getaffinity(0) != self._here:
            _unbind(self._here, self._anywhere)


class Affinity:
    """Holds the thread that creates it on one processor; see the module.

    ::

        seat = affinity.hold()
        ...
        affinity.release()
    """

    __slots__ = ("_anywhere", "_bound_before", "_here", "_seat", "_thread_id")

    def __init__(self) -> None:
        self._thread_id = threading.get_native_id()
        # Where the thread is held, and the affinity to set when it no longer is.
        self._here: frozenset[int] | None = None
        self._anywhere: frozenset[int] = frozenset()
        self._seat: Seat | None = None
        # Threads that something else has bound to the same processor.
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
        """Return the widest affinity that can be set for the thread without changing the one that it has."""
        everything = allowed | frozenset(range(os.sysconf("SC_NPROCESSORS_CONF")))
        os.sched_setaffinity(self._thread_id, everything)
        if os.sched_getaffinity(self._thread_id) == allowed:
            return everything  # the bounds are its container's, and may change
        os.sched_setaffinity(self._thread_id, allowed)
        return allowed

    @property
    def is_held(self) -> bool:
        """Whether the thread is still where it is held: nothing else has set its affinity."""
        return self._here is not None and os.sched_getaffinity(self._thread_id) == self._here

    def release(self) -> None:
        """Let the thread go, and the threads that it has started."""
        global _anywhere
        here, self._here = self._here, None
        if here is None or self._seat is None:
            return
        self._seat.closed = True
        _unbind(here, self._anywhere, self._thread_id)
        for thread_id in _threads_bound_to(here) - self._bound_before:
            _bind(self._anywhere, thread_id)
        self._seat.empty = True
        _anywhere = None  # a thread that begins before this frees itself


def go_anywhere() -> None:
    """Free a new thread from the binding that it inherits if a held thread has started it. Any thread."""
    anywhere = _anywhere
    if anywhere is not None:
        _bind(anywhere)


def _bind(processors: frozenset[int], thread_id: int = 0) -> None:
    # On an error the thread has ended, or its container has lost the processors: the kernel has dealt with either.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(thread_id, processors)


def _unbind(here: frozenset[int], anywhere: frozenset[int], thread_id: int = 0) -> None:
    """Undo :func:`_bind`, unless something else has bound the thread elsewhere since."""
    with contextlib.suppress(OSError):
        found = os.sched_getaffinity(thread_id)
        os.sched_setaffinity(thread_id, anywhere)
        # If its container has lost the processor, the kernel lets the thread run anywhere: nobody has chosen that.
        if found != here and os.sched_getaffinity(thread_id) != found:
            os.sched_setaffinity(thread_id, found)


def _change_policy(found: str, wanted: str) -> bool:
    """Change the calling thread's scheduling policy from one to another; return false if it has another one."""
    try:
        if os.sched_getscheduler(0) != getattr(os, found):
            return False  # somebody's choice
        os.sched_setscheduler(0, getattr(os, wanted), os.sched_param(0))
    except (AttributeError, OSError):  # not on this system, or not in this sandbox
        return False
    return True


def _processor_of(thread_id: int) -> int:
    """Return the processor on which a thread runs, or ran last."""
    line = (_THREADS / str(thread_id) / "stat").read_text(errors="replace")
    return int(line.rpartition(")")[2].split()[36])


def _threads_bound_to(processors: frozenset[int]) -> set[int]:
    """Return the threads of this process that may run on all of these, and nowhere else."""
    try:
        thread_ids = [int(name) for name in os.listdir(_THREADS)]
    except OSError:  # no file descriptor is left; threads that are not Python's are not ours either
        thread_ids = [thread.native_id for thread in threading.enumerate() if thread.native_id is not None]
    found = set()
    for thread_id in thread_ids:
        with contextlib.suppress(OSError):  # it has just ended
            if os.sched_getaffinity(thread_id) == processors:
                found.add(thread_id)
    return found
