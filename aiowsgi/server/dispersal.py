"""How a drain ends parked responses: spread over its time, so that a crowd of clients does not return in one second.

A browser's ``EventSource`` comes back some seconds after its stream has ended, and all browsers wait equally long: ten
thousand streams that end together are ten thousand requests, handshakes and replays together, at the servers that are
left. So the streams take turns, in random order, ``drain_rate`` of them a second or, if that would take too long, as
many as it takes to be done in four fifths of the drain's time. A few streams end quickly: ten of them in 20 ms. A
stream that waits for its turn goes on, so that its client misses nothing.

Each is also told how much longer than usual its client should stay away (``farewell()``, see :func:`aiowsgi.park`), a
random time of its own: two seconds at most if the turns have spread the crowd already, and up to thirty if there was no
time for that.

Thread: event loop.

Source: HTML Living Standard, section 9.2.3, "reestablish the connection" and "reconnection time".
"""

from __future__ import annotations

import asyncio
from collections import deque
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiowsgi.server.parked import ParkedResponse

__all__ = ["Dispersal"]

# The share of the drain's time for the turns; in the rest, at least half a second, clients take what was written.
_SHARE = 0.8
_REST_SECONDS = 0.5
# Arbitrary: less than browsers wait on their own (3 s and 5 s), and as long as anybody will put up with.
_LEAST_ABSENCE_SECONDS = 2.0
_MOST_ABSENCE_SECONDS = 30.0
# uvloop's clock has ticks of this length, and its timers may be half a tick early.
_TICK_SECONDS = 0.001


class Dispersal:
    """The turns of one server's parked responses.

    Args:
        loop: of all of them.
        rate: responses to end in a second; 0 ends all at once.
        random: draws the order and the times.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, rate: int, random: Random) -> None:
        self._loop = loop
        self._rate = rate
        self._random = random
        # When the last turn is due.
        self._end = 0.0
        self._added: list[ParkedResponse] = []
        self._waiting: deque[ParkedResponse] = deque()
        self._turn = 0.0
        self._interval = 0.0
        self._absence = _LEAST_ABSENCE_SECONDS
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, seconds: float) -> None:
        """A drain begins that has this much time; or one that has begun has no more than this from now on."""
        self._end = self._loop.time() + max(0.0, min(_SHARE * seconds, seconds - _REST_SECONDS))
        if self._waiting:
            self._plan()

    def add(self, parked: ParkedResponse) -> None:
        """Have a response end when its turn comes."""
        if not self._added:
            self._loop.call_soon(self._plan)
        self._added.append(parked)

    def close(self) -> None:
        """Forget all that wait: the server breaks them off."""
        self._added.clear()
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan(self) -> None:
        """Share the time that is left among those that wait and those just added."""
        added, self._added = self._added, []
        self._random.shuffle(added)
        # Behind the others, whose turns come at the same rate or sooner.
        self._waiting.extend(added)
        count = len(self._waiting)
        if not count:
            return  # closed
        now = self._loop.time()
        wanted = count / self._rate if self._rate else 0.0
        window = max(0.0, min(wanted, self._end - now))
        self._interval = window / count
        self._absence = min(max(wanted - window, _LEAST_ABSENCE_SECONDS), _MOST_ABSENCE_SECONDS)
        # The next turn keeps its time, unless there is less time left than when it was planned.
        self._turn = now if self._timer is None else min(self._turn, now + self._interval)
        self._take_turns()

    def _take_turns(self) -> None:
        """End those whose turn it is, and come back for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time() + _TICK_SECONDS
        waiting = self._waiting
        while waiting:
            if waiting[0].over:
                waiting.popleft()  # its client has gone: the next one takes its turn
            elif self._turn <= now:
                waiting.popleft().end(self._random.uniform(0.0, self._absence))
                self._turn += self._interval
            else:
                self._timer = self._loop.call_at(self._turn, self._take_turns)
                return
