"""One wake-up of the event loop for everything that is ready.

``call_soon_threadsafe`` writes to a pipe and wakes the loop out of its poll: a system call for the caller and a turn
for the loop. A wake-up is therefore scheduled only while none is pending, and the loop then takes all that has arrived.

Thread: :meth:`Wakeup.notify` any; the rest event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from typing import Protocol

__all__ = ["Ready", "Wakeup"]

_logger = logging.getLogger("aiowsgi.error")


class Ready(Protocol):
    """Something that has work for the event loop."""

    def wake(self) -> None:
        """Do the work. Event loop."""
        ...


class Wakeup:
    """Hands :class:`Ready` objects from any thread to one event loop.

    Shared between threads, without a lock of its own:

    - ``_ready``: a deque; ``append`` and ``popleft`` are atomic on every build of CPython.
    - ``_pending``: whether a wake-up is on its way. The loop clears it *before* it empties the deque, and a notifier
      reads it *after* it has appended; both orders are fenced by the deque's own operations. So an object appended
      while the flag was still set is always found by the drain that the flag announced.
    """

    __slots__ = ("_context", "_loop", "_pending", "_ready")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Not the notifier's, which is its request's: what the loop does is for everybody.
        self._context = contextvars.Context()
        self._ready: deque[Ready] = deque()
        self._pending = False

    def notify(self, ready: Ready) -> None:
        """Have ``ready.wake()`` called by the loop, once, soon. Any thread."""
        self._ready.append(ready)
        if not self._pending:
            self._pending = True
            try:
                self._loop.call_soon_threadsafe(self._drain, context=self._context)
            except RuntimeError:
                # The loop is closed: a thread outlived its server. Nobody is left to tell.
                self._ready.clear()

    def _drain(self) -> None:
        self._pending = False
        ready = self._ready
        # Bounded by what is there now, so that threads that are quick cannot hold the loop.
        for _ in range(len(ready)):
            item = ready.popleft()
            try:
                item.wake()
            except Exception:
                _logger.exception("internal error while handing %r to the event loop", item)
        if ready and not self._pending:
            self._pending = True
            self._loop.call_soon(self._drain)
