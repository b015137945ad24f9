"""Requests run one after another while all that they do is compute, and the interpreter has no more to give.

Of threads that share an interpreter lock, only one computes at a time. More of them get no more done, and pay for
changing places; if they take locks of the application's own, far more than that. A thread that loses the
interpreter while it holds such a lock makes the others wait for it; the one that gets the lock next owns it before it
has the interpreter again, so that now the first has to wait; and so on: a *convoy*, which lasts for as long as two
threads want the lock.
Django's templates, which take one for each number that they format, cost 2.3 ms and 94 context switches with eight
threads, as with two, and 1.05 ms and 1.3 with one; a Flask view 0.21 and 0.20; "hello" 25 µs and 22.

So if the threads keep one core busy, the pool lets one thread work at a time. If they wait for something, such as a
database, it does not: the time that they leave unused shows in the processor's accounts, and all of them run as before.
They also do so if one thread gets a fifth less done than all did. A job that takes long no longer counts, and another
one runs beside it: nothing ever waits for its end. And a limit that is not renewed expires, whatever has become of the
loop.

Where the loop belongs to the server as well, it and the thread that works stay on one processor, while nobody else
wants that (:mod:`aiowsgi.bridge.affinity`).

What is measured is how long threads computed *or were ready to*: on a machine with more processes than cores, none
of them keeps a core busy by itself. Linux reports both; elsewhere, and without an interpreter lock, jobs run as they
come.

Thread: event loop.

Source: /proc/PID/task/TID/schedstat, https://docs.kernel.org/scheduler/sched-stats.html.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from aiowsgi.bridge.affinity import Affinity
from aiowsgi.bridge.pool import Pool, is_at_work
from aiowsgi.bridge.switching import HAS_LOCK

__all__ = ["Account", "Saturation", "read_accounts"]

_logger = logging.getLogger("aiowsgi.error")

_TOLD = Path("/proc/self/schedstat").exists()

# Between two looks. Arbitrary; reading the accounts of nine threads takes 0.1 ms, or 1 ms on a virtual machine.
_PERIOD_SECONDS = 0.25
# When they are first looked at after one thread was made to do it all, in case that was wrong.
_TRIAL_SECONDS = 0.1
# A job that is still running this long after it was first seen no longer counts.
_LONG_JOB_SECONDS = 0.02
# How long the limit holds unless it is renewed, as it is at each tick. Arbitrary; some ticks.
_LIMIT_SECONDS = 0.5
# Shares of a core. Threads that compute have a whole one, less what it takes to wake the loop.
_SATURATED = 0.9
_STILL_SATURATED = 0.75
# Share of what all threads got done. It does not fall where they only compute; the margin is for the machine's noise.
_WORSE = 0.8
# What computes on more than one core has let go of the interpreter: there threads do help.
_ONE_CORE = 1.25
# The least that a thread which is always ready must get of the processor it shares. Sharing is worth losing the rest.
_OURS = 0.75
# After so long all threads are let go, to see whether something has changed that one thread cannot show.
_TERM_SECONDS = 30.0
# The pause after a look that found nothing to gain; it doubles each further time.
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 10.0


class Account(NamedTuple):
    """What the kernel says about a thread; seconds."""

    computed: float
    #: For how long it was ready, and had no processor.
    delayed: float


class _Snapshot(NamedTuple):
    """What threads had done at a moment, by their native ids."""

    time: float
    accounts: Mapping[int, Account]
    transition_counts: Mapping[int, int]


class _Work:
    """What threads did between two moments, per second. Those that began or ended in between are left out.

    Args:
        before: the first moment.
        now: the second.
    """

    def __init__(self, before: _Snapshot, now: _Snapshot) -> None:
        seconds = max(now.time - before.time, 1e-6)
        pairs = [(before.accounts[each], now.accounts[each]) for each in before.accounts.keys() & now.accounts.keys()]
        #: In cores: how much processor time they had, and how much they could have used.
        self.computed = sum(later.computed - earlier.computed for earlier, later in pairs) / seconds
        self.wanted = self.computed + sum(later.delayed - earlier.delayed for earlier, later in pairs) / seconds
        earlier_counts, later_counts = before.transition_counts, now.transition_counts
        both = earlier_counts.keys() & later_counts.keys()
        #: How often they began or stopped working.
        self.transition_rate = sum(later_counts[each] - earlier_counts[each] for each in both) / seconds


def read_accounts(thread_ids: Iterable[int]) -> dict[int, Account]:
    """Return the accounts of threads of this process, which are given and returned by their native ids."""
    accounts = {}
    for thread_id in thread_ids:
        try:
            computed, delayed, _ = Path(f"/proc/self/task/{thread_id}/schedstat").read_bytes().split()
        except (OSError, ValueError):
            continue  # it has just ended, or there are no file descriptors left
        accounts[thread_id] = Account(int(computed) / 1e9, int(delayed) / 1e9)
    return accounts


class Saturation:
    """Lets one thread of a pool work at a time for as long as more would get nothing more done.

    ::

        if now >= saturation.next_look:
            saturation.look(now)

    Args:
        loop: of the server.
        pool: runs its applications. If several servers share it, the last word counts.
        alone: nothing but the server runs in this process, and its loop's work is part of the requests'. A guest's loop
            may do anything besides.
        clock: of ``now``.
        process_time: processor time of the whole process.
        accounts: :func:`read_accounts`.
        affinity: of the loop's thread; default :class:`Affinity`.
    """

    __slots__ = (
        "_accounts",
        "_affinity",
        "_alone",
        "_apart_pause",
        "_before",
        "_clock",
        "_gathered",
        "_hold_at",
        "_least_transition_rate",
        "_loop",
        "_loop_thread",
        "_pause",
        "_pool",
        "_process_time",
        "_seen",
        "_since",
        "_timer",
        "_transition_counts",
        "next_look",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        *,
        alone: bool = False,
        clock: Callable[[], float] = time.monotonic,
        process_time: Callable[[], float] = time.process_time,
        accounts: Callable[[Iterable[int]], Mapping[int, Account]] = read_accounts,
        affinity: Affinity | None = None,
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._alone = alone
        self._clock = clock
        self._process_time = process_time
        self._accounts = accounts
        self._loop_thread = threading.get_native_id()
        self._affinity = affinity or Affinity()
        # Whether the loop is held on one processor, when it next may be, and the pause if it then has to be let go.
        self._gathered = False
        self._hold_at = 0.0 if alone else math.inf
        self._apart_pause = _FIRST_PAUSE_SECONDS
        # The process's processor time, and the clock's time, at the last look.
        self._seen = (0.0, 0.0)
        # What the threads had done when it was last measured.
        self._before: _Snapshot | None = None
        self._pause = _FIRST_PAUSE_SECONDS
        # While one thread does it all: since when, and what it has to get done in a second; what each thread had done
        # at the last tick, and the timer of the next one.
        self._since = 0.0
        self._least_transition_rate = 0.0
        self._transition_counts: Mapping[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: When :meth:`look` is to be called, at the next request.
        self.next_look = 0.0 if pool.thread_limit > 1 and HAS_LOCK and _TOLD else math.inf

    def __del__(self) -> None:
        """Let them go now at the latest: an adapter in a program without a lifespan is never told of its end."""
        self._let_go(math.inf)

    @property
    def taking_turns(self) -> bool:
        """Whether one thread does it all just now."""
        return self._timer is not None

    def look(self, now: float) -> None:
        """Look whether the threads are more than the interpreter can use."""
        self.next_look = now + _PERIOD_SECONDS
        if self._before is not None:
            work = self._work(now)
            if work.wanted >= _SATURATED and work.computed <= _ONE_CORE:
                self._take_turns(now, _WORSE * work.transition_rate)
            else:
                self._pause_looking(now)
            return
        # One system call, where there is nothing to gain.
        cpu, (cpu_before, before) = self._process_time(), self._seen
        self._seen = cpu, now
        if cpu - cpu_before >= _SATURATED * (now - before) or self._pool.waiting_count:
            self._before = self._measure(now)

    def close(self) -> None:
        """Let all threads work from now on."""
        self._let_go(math.inf)

    def _measure(self, now: float) -> _Snapshot:
        counts = self._pool.transition_counts()
        thread_ids = [*counts, self._loop_thread] if self._alone else counts
        return _Snapshot(now, self._accounts(thread_ids), counts)

    def _work(self, now: float) -> _Work:
        """Return what the threads have done since it was last measured."""
        snapshot = self._measure(now)
        before, self._before = self._before or snapshot, None
        return _Work(before, snapshot)

    def _pause_looking(self, now: float) -> None:
        self.next_look = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    def _take_turns(self, now: float, least_transition_rate: float) -> None:
        self.next_look = math.inf
        self._since = now
        self._least_transition_rate = least_transition_rate
        self._transition_counts = {}
        self._before = self._measure(now)
        self._pool.limit_running(1, _LIMIT_SECONDS)
        self._gather(now)
        self._timer = self._loop.call_later(_LONG_JOB_SECONDS, self._tick, _TRIAL_SECONDS)
        _logger.debug("requests keep the interpreter busy: they run one after another")

    def _let_go(self, next_look: float) -> None:
        self.next_look = next_look
        self._before = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._pool.limit_running(None)
            self._disperse()

    def _tick(self, period: float) -> None:
        """Make sure that no job waits for a long one to end; check now and then whether one thread is still right.

        Fifty times a second, only while threads keep a core busy: nothing else tells that a job has become a long one.
        """
        now = self._clock()
        counts, before = self._pool.transition_counts(), self._transition_counts
        self._transition_counts = counts
        if counts == before and not any(map(is_at_work, counts.values())):
            self._let_go(now)  # there are no requests
            return
        long_count = sum(is_at_work(count) and before.get(thread_id) == count for thread_id, count in counts.items())
        self._pool.limit_running(1 + long_count, _LIMIT_SECONDS)
        if self._gathered and not self._affinity.is_held:
            self._keep_apart(now)  # something else has set where this process is to run
        if self._before is None:
            self._before = self._measure(now)
        elif now - self._before.time >= period:
            if not self._is_right(now):
                return
            period = _PERIOD_SECONDS
        self._timer = self._loop.call_later(_LONG_JOB_SECONDS, self._tick, period)

    def _is_right(self, now: float) -> bool:
        """Tell whether one thread is still enough; let the others work if it is not, or no longer certainly is."""
        work = self._work(now)
        if self._gathered and work.computed < _OURS and work.wanted >= 1.0:
            self._keep_apart(now)  # one of them was always ready, and others had the processor
            return True
        # On one processor these threads wait for one another there, and not for the interpreter.
        wanted = work.computed if self._gathered else work.wanted
        if wanted < _STILL_SATURATED or work.transition_rate < self._least_transition_rate:
            self._let_go(now)
            if self._pool.waiting_count:
                self._pause_looking(now)  # not because there is less to do: jobs wait for something
            return False
        self._pause = _FIRST_PAUSE_SECONDS
        if now - self._since >= _TERM_SECONDS:
            if self._gathered:
                self._apart_pause = _FIRST_PAUSE_SECONDS
            self._let_go(now)
            return False
        if not self._gathered:
            self._gather(now)
        return True

    def _gather(self, now: float) -> None:
        """Have the loop and the thread that works stay on one processor, if they may again."""
        if now >= self._hold_at:
            seat = self._affinity.hold()
            if seat is None:
                self._keep_apart(now)
            else:
                self._gathered = True
                self._pool.gather(seat)

    def _keep_apart(self, now: float) -> None:
        """End :meth:`_gather`, and do not try again for some time."""
        self._disperse()
        self._hold_at = now + self._apart_pause
        self._apart_pause = min(2 * self._apart_pause, _LONGEST_PAUSE_SECONDS)

    def _disperse(self) -> None:
        """End :meth:`_gather`."""
        if self._gathered:
            self._gathered = False
            self._pool.gather(None)
            self._affinity.release()
