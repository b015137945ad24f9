"""Asking all workers the same question, for their figures or reports, and gathering the answers.

Thread: the supervisor's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from aiowsgi.process.messages import Message

__all__ = ["Census", "Censuses", "Told"]

# How long workers have to answer; one whose loop is stuck does not.
_SECONDS = 2.0

#: Answers, by the worker's number.
Told = dict[int, Any]


class Census:
    """Gathers the answers of several workers, until all have answered or time is up.

    Args:
        numbers: of the workers that were asked.
        deadline: when to do without the rest.
        done: called once, with the answers.
    """

    def __init__(self, numbers: Iterable[int], deadline: float, done: Callable[[Told], object]) -> None:
        self._missing = set(numbers)
        self._told: Told = {}
        self._done = done
        self.deadline = deadline
        self.closed = False

    def add(self, number: int, told: Any) -> None:
        """A worker has answered."""
        if number in self._missing:
            self._told[number] = told
        self.leave_out(number)

    def leave_out(self, number: int) -> None:
        """A worker has answered, or never will."""
        self._missing.discard(number)
        self.tick(-math.inf)

    def tick(self, now: float) -> None:
        """Time has passed."""
        if not self.closed and (not self._missing or now >= self.deadline):
            self.closed = True
            self._done(self._told)


class Censuses:
    """All censuses under way; a worker's answer says which one it is for, as ``census``."""

    def __init__(self) -> None:
        self._open: dict[int, Census] = {}
        self._count = 0

    def begin(self, numbers: Iterable[int], now: float, done: Callable[[Told], object]) -> int:
        """Expect answers; return the census's number, to be sent with the question.

        Args:
            numbers: of the workers that are asked.
            now: the time.
            done: called once, with what they have told; if nobody is asked, at the next :meth:`tick`.
        """
        self._count += 1
        number = self._count

        def end(told: Told) -> None:
            del self._open[number]
            done(told)

        self._open[number] = Census(numbers, now + _SECONDS, end)
        return number

    def add(self, number: int, message: Message, told: Any) -> None:
        """A worker has answered, perhaps too late."""
        census = self._open.get(message.get("census", 0))
        if census is not None:
            census.add(number, told)

    def leave_out(self, number: int) -> None:
        """A worker is gone."""
        for census in list(self._open.values()):
            census.leave_out(number)

    def tick(self, now: float) -> None:
        """Time has passed."""
        for census in list(self._open.values()):
            census.tick(now)

    @property
    def deadline(self) -> float:
        """When :meth:`tick` is to be called at the latest."""
        return min((census.deadline for census in self._open.values()), default=math.inf)
