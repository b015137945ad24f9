"""Work that one thread at a time does, without that another waits for it.

Thread: any, and signal handlers: one may interrupt the very thread that is at work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["OneAtATime"]


class OneAtATime:
    """Does what there is to do, unless somebody is doing it already, who then does this as well.

    Args:
        wanted: tells whether there is something to do.
        work: does all of it; returns whether it makes sense to look again.
    """

    __slots__ = ("_lock", "_wanted", "_work")

    def __init__(self, wanted: Callable[[], bool], work: Callable[[], bool]) -> None:
        self._lock = threading.Lock()
        self._wanted = wanted
        self._work = work

    def __call__(self) -> None:
        """See to it that all that has been there before this call is done, now or soon."""
        again = True
        # Looked at again by whoever has just worked: something may have been left to it.
        while again and self._wanted() and self._lock.acquire(blocking=False):
            try:
                again = self._work()
            finally:
                self._lock.release()
