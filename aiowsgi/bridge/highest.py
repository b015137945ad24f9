"""The highest of what several threads report.

Thread: any.
"""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["Highest"]


class Highest:
    """The highest value so far.

    Args:
        value: the first one; all must be comparable.
    """

    __slots__ = ("_lock", "value")

    def __init__(self, value: Any) -> None:
        self._lock = threading.Lock()
        self.value = value

    def report(self, value: Any) -> None:
        """Keep a value if it is higher. A thread that is overtaken between looking and writing sets nothing back."""
        with self._lock:
            if value > self.value:
                self.value = value
