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
    - ``_counts``: written under ``_lock``, without which nothing is taken from ``_added`` either; read also without it.

    No thread waits for the lock: the garbage collector, or a signal, may make the thread that holds it add or read
    again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._added: deque[dict[str, int]] = deque()
        self._counts: Counter[str] = Counter()

    def add(self, counts: dict[str, int]) -> None:
        """Add to some. Any thread; also a ``__del__`` or a signal handler, wherever that is called."""
        self._added.append(counts)
        self._sum_up()

    def __getitem__(self, name: str) -> int:
        """Return one; while another thread adds, as it was a moment ago. May be called wherever :meth:`add` may."""
        self._sum_up()
        return self._counts[name]

    def _sum_up(self) -> None:
        """Add what is to be added, unless another call is doing so: then that call, or the next one, adds it."""
        if self._lock.acquire(blocking=False):
            try:
                while self._added:
                    for name, count in self._added.popleft().items():
                        self._counts[name] += count
            finally:
                self._lock.release()
