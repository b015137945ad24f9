"""Deadlines of any number of connections, without a timer object for each and without scanning them.

Connections lie in buckets by the tenth of a second in which they are next looked at. Moving a deadline *later*, as
every request does, is one assignment: the connection stays in its bucket, and is put into a later one when that
comes up. Only moving it *earlier* moves the connection. One timer of the loop serves all; with nothing due it sleeps.

Thread: event loop. Time is ``loop.time()``.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from typing import Protocol

__all__ = ["NEVER", "DeadlineHolder", "Deadlines"]

_logger = logging.getLogger("aiowsgi.error")

NEVER = math.inf

# Deadlines are met late by up to this much. Arbitrary; a tenth of the shortest timeout that anybody sets.
_BUCKET_SECONDS = 0.1


class DeadlineHolder(Protocol):
    """Something that has one deadline at a time.

    ``deadline`` is in seconds of ``loop.time()``, or :data:`NEVER`. It may be assigned directly where it only moves
    later. ``deadline_bucket`` belongs to :class:`Deadlines`; it begins as :data:`NEVER`.
    """

    deadline: float
    deadline_bucket: float

    def deadline_passed(self, now: float) -> None:
        """The deadline has passed; it is :data:`NEVER` unless set again here."""
        ...


class Deadlines:
    """The buckets of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[float, set[DeadlineHolder]] = {}
        self._order: list[float] = []  # a heap of the buckets' numbers
        self._timer: asyncio.TimerHandle | None = None
        self._timer_bucket: float = NEVER

    def set(self, holder: DeadlineHolder, deadline: float) -> None:
        """Set a holder's deadline, earlier or later than it was."""
        holder.deadline = deadline
        if deadline < holder.deadline_bucket * _BUCKET_SECONDS:
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
        number = math.ceil(holder.deadline / _BUCKET_SECONDS)
        holder.deadline_bucket = number
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = set()
            heapq.heappush(self._order, number)
            if number < self._timer_bucket:
                self._set_timer(number)
        bucket.add(holder)

    def _take_out(self, holder: DeadlineHolder) -> None:
        bucket = self._buckets.get(holder.deadline_bucket)
        holder.deadline_bucket = NEVER
        if bucket is not None:
            bucket.discard(holder)  # an empty bucket goes when it comes up

    def _set_timer(self, number: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_bucket = number
        self._timer = self._loop.call_at(number * _BUCKET_SECONDS, self._expire)

    def _expire(self) -> None:
        now = self._loop.time()
        self._timer_bucket = NEVER
        self._timer = None
        while self._order and self._order[0] * _BUCKET_SECONDS <= now:
            for holder in self._buckets.pop(heapq.heappop(self._order)):
                holder.deadline_bucket = NEVER
                if holder.deadline > now:
                    if holder.deadline != NEVER:
                        self._put(holder)
                    continue
                holder.deadline = NEVER
                try:
                    holder.deadline_passed(now)
                except Exception:
                    _logger.exception("internal error at a deadline of %r", holder)
        if self._order and self._order[0] < self._timer_bucket:
            self._set_timer(self._order[0])
