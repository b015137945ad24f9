"""The interpreter's switch interval, which belongs to the process: shared by all servers in it, and given back.

A thread that wants the interpreter waits for this long before the one that computes has to let go of it; then any
waiting thread may get it. So an event loop beside eight threads that compute waits for several intervals, each time.
Python's default is 5 ms.

Measured on 2 cores with Python 3.11 beside 8 threads that compute all the time, as p99 of the lateness of a task on a
loop: 160 to 220 ms with an interval of 5 ms, 31 to 42 with 0.5 ms, 20 with 0.2 ms, 9 with 0.1 ms, 7 with 0.05 ms. The
price is that those threads get less done, and that processor time is spent on waking each other from one core to the
next: 5 % less and 30 % more with 0.1 ms; 18 % less and 60 % more with 0.05 ms. Quick requests pay as well, and gain
nothing: 20.5 µs of processor time for "hello" instead of 17.2. Jobs of a millisecond in frameworks pay most. So the
interval is short only while long jobs hold a loop up.

Thread: any; :class:`Haste` the event loop's.

Source: :func:`sys.setswitchinterval`; ``take_gil()`` in CPython's ``ceval_gil.c``.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque

__all__ = ["HAS_LOCK", "SHORT_INTERVAL", "SLIGHTLY_LATE_SECONDS", "Haste", "SwitchInterval", "switch_interval"]

#: Threads share an interpreter lock.
HAS_LOCK: bool = getattr(sys, "_is_gil_enabled", lambda: True)()

# The interpreter counts in microseconds and cuts off the rest: a value that is read and set again, as by programs that
# change it for a while, comes out a microsecond less.
_ROUNDING = 1e-7
_TOLERANCE = 3e-6


class SwitchInterval:
    """Sets the interval while a shorter one than the current is asked for.

    If anything else sets it, that wins: an interval that is not the one this object has set is left alone.

    Fields guarded by ``_lock``: all.
    """

    def __init__(self) -> None:
        # Garbage collection under the lock may end a Haste, which calls give_back().
        self._lock = threading.RLock()
        self._wanted: list[float] = []
        self._found = 0.0
        self._set = 0.0

    def ask(self, seconds: float) -> None:
        """Ask for the interval to be no longer than this, until :meth:`give_back`; 0.0 asks for nothing."""
        with self._lock:
            if not self._wanted:
                self._found = self._set = sys.getswitchinterval()
            self._wanted.append(seconds)
            self._apply()

    def give_back(self, seconds: float) -> None:
        """Take one :meth:`ask` back; after the last, the interval is what was found."""
        with self._lock:
            self._wanted.remove(seconds)
            self._apply()

    def _apply(self) -> None:
        seconds = min((self._found, *filter(None, self._wanted)))
        if abs(sys.getswitchinterval() - self._set) < _TOLERANCE and seconds != self._set:
            sys.setswitchinterval(seconds + _ROUNDING)
            self._set = seconds


#: Seconds, inside a program that has more to do on its loop: see the module's figures.
SHORT_INTERVAL = 0.0001

#: The process's.
switch_interval = SwitchInterval()

# Threads that go from one job of less than a millisecond to the next, and give way, hold a loop up for less.
_HELD_UP_SECONDS = 0.012
#: With a short interval, a loop beside eight threads that compute is later than this several times a second; beside
#: quick requests it is not.
SLIGHTLY_LATE_SECONDS = 0.003
# The interval is given back after so long without a late loop. Arbitrary; one delay in that time is one late moment.
_CALM_SECONDS = 5.0
# A job that computes for less than this ends soon enough for the loop to go on.
_LONG_JOB_SECONDS = 0.002
# How many jobs are measured, and how long to wait for them: if they have not ended by then, they are long.
_JOB_COUNT = 16
_JUDGING_SECONDS = 0.1


class Haste:
    """Asks for a short interval from when long jobs hold a loop up until it has not been late for a while.

    A loop is also held up where the machine has too much to do, and beside jobs that compute for a millisecond each.
    There a short interval does not help, and costs half of the throughput of a Django view. So when the loop was held
    up, the next jobs are measured, and the interval is asked for only if they spend most of their time in long ones.

    Args:
        loop: the event loop.
        seconds: the interval; 0.0 never asks for one.

    Shared between threads: ``judging``, which only the loop writes; ``_jobs``, whose ``append`` is atomic.
    """

    __slots__ = ("_jobs", "_judging_since", "_late", "_loop", "_seconds", "_timer", "judging")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._late = False
        # While there is a timer, the interval has been asked for.
        self._timer: asyncio.TimerHandle | None = None
        #: Jobs are to be measured, and reported to :meth:`judge`.
        self.judging = False
        self._judging_since = 0.0
        # Seconds that the last jobs have computed.
        self._jobs: deque[float] = deque(maxlen=4 * _JOB_COUNT)

    def __del__(self) -> None:
        """Give it back now at the latest: an adapter in a program without a lifespan is never told of its end."""
        self._give_back()

    def judge(self, seconds: float) -> None:
        """Take note of how long a job has computed. Any thread; while :attr:`judging`."""
        self._jobs.append(seconds)

    def note(self, late: float) -> None:
        """The loop was held up for this many seconds, and more than :data:`SLIGHTLY_LATE_SECONDS`."""
        self._late = True
        if self._timer is not None or not self._seconds or late <= _HELD_UP_SECONDS:
            return
        now = self._loop.time()
        if not self.judging:
            self._begin_judging(now)
        elif len(self._jobs) >= _JOB_COUNT or now - self._judging_since > _JUDGING_SECONDS:
            self.judging = False
            if self._jobs_are_long():
                switch_interval.ask(self._seconds)
                self._timer = self._loop.call_later(_CALM_SECONDS, self._look)

    def _begin_judging(self, now: float) -> None:
        self._jobs.clear()
        self._judging_since = now
        self.judging = True

    def _jobs_are_long(self) -> bool:
        jobs = list(self._jobs)
        return len(jobs) < _JOB_COUNT or 2 * sum(each for each in jobs if each > _LONG_JOB_SECONDS) > sum(jobs)

    def _look(self) -> None:
        # By now the jobs may be different ones.
        if self._late and not (self.judging and not self._jobs_are_long()):
            self._late = False
            self._timer = self._loop.call_later(_CALM_SECONDS, self._look)
            self._begin_judging(self._loop.time())
        else:
            self._give_back()

    def close(self) -> None:
        """Never ask again: what threads still do after the end of a server may be late."""
        self._give_back()
        self._seconds = 0.0

    def _give_back(self) -> None:
        self.judging = False
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            switch_interval.give_back(self._seconds)
