"""An event loop whose clock belongs to the test.

Thread: the one that made it, but for :meth:`VirtualLoop.call_soon_threadsafe`; any other is refused.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar, cast

__all__ = ["VirtualHandle", "VirtualLoop"]

_T = TypeVar("_T")


class VirtualHandle:
    """What :class:`asyncio.TimerHandle` is to asyncio's loops."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_when")

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> None:
        self._when = when
        self._context = copy_context() if context is None else context
        self._callback = callback
        self._args = args
        self._cancelled = False

    def when(self) -> float:
        """Return the time at which it is due."""
        return self._when

    def cancel(self) -> None:
        """Never run the callback."""
        self._cancelled = True

    def cancelled(self) -> bool:
        """Tell whether it was cancelled."""
        return self._cancelled

    def run(self) -> None:
        """Run the callback, unless it was cancelled."""
        if not self._cancelled:
            self._context.run(self._callback, *self._args)


class VirtualLoop:
    """The callbacks, timers and tasks of :class:`asyncio.AbstractEventLoop`, and no more, run when the test says so.

    An exception in a callback propagates from the method that ran it.

    ::

        loop = VirtualLoop()
        loop.call_later(60, print, "a minute has passed")
        loop.advance(60)  # takes no time

    Args:
        time: where the clock begins, in seconds.
    """

    def __init__(self, time: float = 1000.0) -> None:
        self._time = time
        self._ready: deque[VirtualHandle] = deque()
        self._timers: list[tuple[float, int, VirtualHandle]] = []
        self._numbers = itertools.count()
        self._thread_id = threading.get_ident()

    def time(self) -> float:
        """See :meth:`asyncio.loop.time`."""
        return self._time

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> VirtualHandle:
        """See :meth:`asyncio.loop.call_soon_threadsafe`."""
        handle = VirtualHandle(self._time, callback, args, context)
        self._ready.append(handle)
        return handle

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> VirtualHandle:
        """See :meth:`asyncio.loop.call_soon`."""
        self._check_thread()
        handle = VirtualHandle(self._time, callback, args, context)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> VirtualHandle:
        """See :meth:`asyncio.loop.call_later`."""
        return self.call_at(self._time + delay, callback, *args)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> VirtualHandle:
        """See :meth:`asyncio.loop.call_at`."""
        self._check_thread()
        handle = VirtualHandle(when, callback, args, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def create_task(
        self, coroutine: Coroutine[Any, Any, _T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[_T]:
        """See :meth:`asyncio.loop.create_task`."""
        self._check_thread()
        return asyncio.Task(coroutine, loop=cast(asyncio.AbstractEventLoop, self), name=name, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """See :meth:`asyncio.loop.create_future`."""
        return asyncio.Future(loop=cast(asyncio.AbstractEventLoop, self))

    def is_closed(self) -> bool:
        """See :meth:`asyncio.loop.is_closed`: it never is."""
        return False

    def get_debug(self) -> bool:
        """See :meth:`asyncio.loop.get_debug`: tasks ask for it."""
        return False

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread_id:
            raise RuntimeError(f"{threading.current_thread().name} used an event loop that is not its own")

    @property
    def has_ready(self) -> bool:
        """Whether a callback waits for the next turn."""
        return bool(self._ready)

    @property
    def timer_count(self) -> int:
        """Timers that will run, unless they are cancelled."""
        return sum(not handle.cancelled() for _, _, handle in self._timers)

    @property
    def next_timer(self) -> float | None:
        """When the next timer is due."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def run_turn(self) -> None:
        """Run the callbacks that are ready now, and not those that they add: one turn of a loop."""
        while (when := self.next_timer) is not None and when <= self._time:
            self._ready.append(heapq.heappop(self._timers)[2])
        around = asyncio._get_running_loop()
        asyncio._set_running_loop(cast(asyncio.AbstractEventLoop, self))  # for the application's own coroutines
        try:
            for _ in range(len(self._ready)):
                self._ready.popleft().run()
        finally:
            asyncio._set_running_loop(around)

    def run_ready(self) -> None:
        """Run turns until nothing is ready, without moving the clock."""
        self.run_turn()
        while self._ready:
            self.run_turn()

    def advance(self, seconds: float) -> None:
        """Move the clock; each timer on the way runs at its own time, and so does what it makes ready."""
        end = self._time + seconds
        self.run_ready()
        while (when := self.next_timer) is not None and when <= end:
            self._time = max(self._time, when)
            self.run_ready()
        self._time = end
        self.run_ready()
