"""Deadlines of any number of connections, without a timer object for each and without scanning them.

Connections lie in buckets by the eighth of a second in which they are next looked at. Moving a deadline *later*, as
every request does, is one assignment: the connection stays in its bucket, and is put into a later one when that
comes up. Only moving it *earlier* moves the connection. One timer of the loop serves all; with nothing due it sleeps.

If that timer itself is late, the loop or the whole process stood still, and what clients have sent meanwhile may lie in
the kernel unread: uvloop runs timers before it reads, and a poll whose time has run out during SIGSTOP or a container's
pause reports nothing. Then everything that is due is left for another moment. But that once: the next look takes what
is due, however late it is, so that no load keeps deadlines from passing.

Thread: event loop. Time is ``loop.time()``.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import math
from typing import Protocol

__all__ = ["NEVER", "DeadlineHolder", "Deadlines"]

_logger = logging.getLogger("aiowsgi.error")

NEVER = math.inf

# Deadlines are late by up to this much. Arbitrary; an eighth of the shortest timeout that is usually set. A power of
# two, so that no rounding puts a deadline into the bucket before it.
_BUCKET_SECONDS = 0.125

# With a timer that is later by more than this, the loop stood still. Arbitrary; the supervisor's rule for its workers.
_STANDSTILL_SECONDS = 0.25
# How long after that the second look is; what has arrived is read before. Arbitrary.
_SECOND_LOOK_SECONDS = 0.25
# What the timer is set to then: no deadline is earlier, and so none brings it forward.
_SECOND_LOOK = -math.inf


class DeadlineHolder(Protocol):
    """Something that has one deadline at a time.

    ``deadline`` is in seconds of ``loop.time()``, or :data:`NEVER`. ``looked_at`` is when the holder comes up next; it
    belongs to :class:`Deadlines` and begins as :data:`NEVER`. A deadline that is no earlier may simply be assigned.
    """

    deadline: float
    looked_at: float

    def deadline_passed(self, now: float) -> None:
        """The deadline has passed; it is :data:`NEVER` unless set again here."""
        ...


class Deadlines:
    """The buckets of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[float, set[DeadlineHolder]] = {}
        self._order: list[float] = []  # a heap of the buckets' times
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float = NEVER

    def set(self, holder: DeadlineHolder, deadline: float) -> None:
        """Set a holder's deadline, earlier or later than it was."""
        holder.deadline = deadline
        if deadline < holder.looked_at:
            self._take_out(holder)
            self._put(holder)

    def remove(self, holder: DeadlineHolder) -> None:
        """Forget a holder."""
        holder.deadline = NEVER
        self._take_out(holder)

    def close(self) -> None:
        """Forget all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._buckets.clear()
        self._order.clear()

    def _put(self, holder: DeadlineHolder) -> None:
        when = math.ceil(holder.deadline / _BUCKET_SECONDS) * _BUCKET_SECONDS
        holder.looked_at = when
        bucket = self._buckets.get(when)
        if bucket is None:
            bucket = self._buckets[when] = set()
            heapq.heappush(self._order, when)
            if when < self._timer_at:
                self._set_timer(when)
        bucket.add(holder)

    def _take_out(self, holder: DeadlineHolder) -> None:
        bucket = self._buckets.get(holder.looked_at)
        holder.looked_at = NEVER
        if bucket is not None:
            bucket.discard(holder)  # an empty bucket goes when it comes up

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        now = self._loop.time()
        if now - self._timer_at > _STANDSTILL_SECONDS and self._timer_at != _SECOND_LOOK:
            self._timer_at = _SECOND_LOOK
            self._timer = self._loop.call_later(_SECOND_LOOK_SECONDS, self._expire)
            return
        self._timer_at = NEVER
        self._timer = None
        # All that is due is taken out first: a deadline that is set in the past waits for the loop's next turn.
        due: list[DeadlineHolder] = []
        while self._order and self._order[0] <= now:
            due.extend(self._buckets.pop(heapq.heappop(self._order)))
        for holder in due:
            holder.looked_at = NEVER
            if holder.deadline > now:
                if holder.deadline != NEVER:
                    self._put(holder)
                continue
            holder.deadline = NEVER
            try:
                holder.deadline_passed(now)
            except Exception:
                # A log handler that fails must not keep the others from theirs.
                with contextlib.suppress(Exception):
                    _logger.exception("internal error at a deadline of %r", holder)
        if self._order and self._order[0] < self._timer_at:
            self._set_timer(self._order[0])
