"""Counts that several threads add to.

Thread: any.
"""

from __future__ import annotations

import threading
from collections import Counter, deque

__all__ = ["Tally"]


class Tally:
    """Numbers by name.

    Fields shared between threads:

    - ``_added``: what is to be added; ``append`` is atomic on every build of CPython.
    - ``_counts``: guarded by ``_lock``, under which alone something is taken from ``_added``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._added: deque[dict[str, int]] = deque()
        self._counts: Counter[str] = Counter()

    def add(self, counts: dict[str, int]) -> None:
        """Add to some. Any thread; also a ``__del__``, wherever the garbage collector calls that."""
        self._added.append(counts)
        # Without waiting: this thread may hold the lock already, if a collection under it has called a ``__del__`` that
        # adds something. Who holds it, or comes next, adds it then.
        if self._lock.acquire(blocking=False):
            try:
                self._sum_up()
            finally:
                self._lock.release()

    def _sum_up(self) -> None:
        """Add what is to be added. Under the lock."""
        while self._added:
            for name, count in self._added.popleft().items():
                self._counts[name] += count

    def __getitem__(self, name: str) -> int:
        with self._lock:
            self._sum_up()
            return self._counts[name]
