"""How the last reload has ended, and who waits to be told.

``aiowsgi reload`` asks a worker, and that its supervisor, which answers once all workers are new, or the reload is
given up. A worker that has to leave meanwhile must not wait for that: it would be waiting for its own end.

Thread: the supervisor's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["ReloadOutcome"]

Answer = Callable[[dict[str, Any]], object]


class ReloadOutcome:
    """The last reload's, for as long as there is no other."""

    def __init__(self) -> None:
        #: Empty while one is under way.
        self._outcome: dict[str, Any] = {"reload": "none"}
        #: The number of the worker that has asked, and what takes the answer.
        self._waiters: list[tuple[int, Answer]] = []

    @property
    def under_way(self) -> bool:
        """Whether a reload has begun and not ended."""
        return not self._outcome

    def begin(self) -> None:
        """A reload begins; if another was under way, those who wait for its end wait for this one's."""
        self._outcome = {}

    def end(self, how: str, text: str) -> None:
        """A reload has ended: tell those who wait.

        Args:
            how: ``"done"`` or ``"given up"``.
            text: the log's words.
        """
        self._outcome = {"reload": how, "text": text}
        waiters, self._waiters = self._waiters, []
        for _, answer in waiters:
            answer(self._outcome)

    def tell(self, number: int, answer: Answer) -> None:
        """Answer a worker: now, or at the end of the reload that is under way."""
        if self.under_way:
            self._waiters.append((number, answer))
        else:
            answer(self._outcome)

    def put_off(self, number: int) -> None:
        """Have those who wait for a worker, which is to leave, ask another."""
        for answer in self.forget(number):
            answer({"reload": "under way"})

    def forget(self, number: int) -> list[Answer]:
        """A worker is gone; return what would have taken its answers."""
        forgotten = [answer for asked, answer in self._waiters if asked == number]
        self._waiters = [waiter for waiter in self._waiters if waiter[0] != number]
        return forgotten
