"""Counts that several threads add to.

Thread: any.
"""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["Tally"]


class Tally:
    """Numbers by name.

    Fields guarded by ``_lock``: ``_counts``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, counts: dict[str, int]) -> None:
        """Add to some. Any thread."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    def __getitem__(self, name: str) -> int:
        with self._lock:
            return self._counts[name]
