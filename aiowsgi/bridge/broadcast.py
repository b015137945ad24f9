"""A bounded log that any thread appends to, and that any number of readers follow on any number of event loops.

A reader has no queue: it keeps the number of its next item, and the log knows of it only while it waits. An item is
stored once, and appending it costs one wake-up of each loop that has readers waiting, however many they are. The loop
then wakes its readers in batches, so that it goes on serving others in between.

Thread: as each method says.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from aiowsgi.bridge.tally import Tally

__all__ = ["Broadcast"]

Item = TypeVar("Item")

# Readers to wake in one turn of the loop: some 3 ms of it, if each writes a small block to its client.
_BATCH_COUNT = 100
# Timeouts are late by up to this much, so that one timer, and few passes over the readers, serve all of them.
_TIMER_SECONDS = 0.25


class Broadcast(Generic[Item]):
    """A log of the last items, and of the readers that wait for the next.

    Args:
        capacity: items that are kept, 1 or more.

    Fields guarded by ``_lock``: all but ``_capacity`` and ``_tally``. Readers look at ``_end`` and ``_items`` without
    it: an item is there before ``_end`` passes its number, and each change of the dict is atomic.

    The garbage collector, or a signal, may have a thread that holds the lock call any of the methods again: the lock is
    reentrant, and code that makes objects under it allows for the fields having changed.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.RLock()
        self._items: dict[int, Item] = {}
        self._end = 1
        self._closed = False
        # By loop, those that wait on it for the next item.
        self._waiters: dict[asyncio.AbstractEventLoop, _Waiters] = {}
        # Of these, whom a thread was to wake and could not.
        self._unwoken: list[_Waiters] = []
        self._tally = Tally()

    def append(self, make: Callable[[int], Item]) -> Item:
        """Add an item, made from its number. Any thread; never waits for a reader.

        Raises:
            RuntimeError: the log is closed.
        """
        with self._lock:
            while True:
                if self._closed:
                    raise RuntimeError("closed")
                number = self._end
                item = make(number)
                if number == self._end:
                    break
                # While making this one, this thread has appended another.
            self._items[number] = item
            self._end = number + 1
            self._items.pop(number - self._capacity, None)
        self.wake()
        return item

    def close(self) -> None:
        """Allow no more items; readers may read on to the end. Any thread."""
        with self._lock:
            self._closed = True
        self.wake()

    def wake(self) -> None:
        """Have all who wait look again. Any thread."""
        if not self._waiters and not self._unwoken:
            return
        with self._lock:
            # Out of everybody's reach before they are iterated over: see _leave().
            taken, self._waiters = self._waiters, {}
            waiters = [*self._unwoken, *taken.values()]
            self._unwoken = []
        try:
            for each in waiters:
                each.wake_soon()
        except BaseException:  # such as a RecursionError, of a thread that is deep in its application
            with self._lock:
                self._unwoken.extend(waiters)  # for the next that comes here
            raise

    def get(self, number: int) -> Item | None:
        """Return an item; ``None`` if it is not there yet, or no longer. Any thread."""
        return self._items.get(number)

    @property
    def end(self) -> int:
        """The number that the next item gets; the first one got 1. Any thread."""
        return self._end

    @property
    def closed(self) -> bool:
        """Whether no more can be appended. Any thread."""
        return self._closed

    @property
    def counts(self) -> tuple[int, int, int]:
        """Readers that there are, items that slow ones have missed, readers that were cut off. Any thread."""
        tally = self._tally
        return tally["readers"], tally["lost"], tally["cut off"]

    def count(self, *, readers: int = 0, lost: int = 0, cut_off: int = 0) -> None:
        """Add to :attr:`counts`. Any thread; also a ``__del__``."""
        self._tally.add({"readers": readers, "lost": lost, "cut off": cut_off})

    async def wait(self, number: int, timeout: float | None = None) -> bool:
        """Wait until an item exists or the log is closed. Event loop.

        Args:
            number: of the item.
            timeout: seconds, exceeded by up to a quarter of a second; ``None`` waits for ever.

        Returns:
            Whether that happened in time, or :meth:`wake` was called, as it is for each item.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            # Made before _end is read: making it may start a garbage collection that appends.
            waiters = self._waiters.get(loop) or _Waiters(loop)
            if number < self._end or self._closed:
                return True
            waiters = self._waiters.setdefault(loop, waiters)
        # Whoever appends from now on finds the waiters, and wakes them in a later turn of this loop.
        future = waiters.add(timeout)
        try:
            woken = await future
        except BaseException:
            self._leave(waiters, future)
            raise
        if not woken:
            self._leave(waiters, future)
        return woken  # together with all others; their place is forgotten already

    def _leave(self, waiters: _Waiters, future: asyncio.Future[bool]) -> None:
        """Forget one that waits no more, and its loop if it was the last. Event loop, or wherever it is collected."""
        if not waiters.discard(future):
            return
        with self._lock:
            if self._waiters.get(waiters.loop) is waiters:
                del self._waiters[waiters.loop]


class _Waiters:
    """Those who wait on one event loop, until they are woken together. Event loop, but for :meth:`wake_soon`."""

    __slots__ = ("_futures", "_timer", "_timer_at", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # When the wait of each ends.
        self._futures: dict[asyncio.Future[bool], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")

    def add(self, timeout: float | None) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = self.loop.create_future()
        if timeout is None:
            self._futures[future] = float("inf")
        else:
            due = self._futures[future] = self.loop.time() + timeout
            if due < self._timer_at:
                self._set_timer(due)
        return future

    def discard(self, future: asyncio.Future[bool]) -> bool:
        """Forget one; return whether it was the last."""
        self._futures.pop(future, None)
        if self._futures:
            return False
        self._cancel_timer()
        return True

    def wake_soon(self) -> None:
        """Wake all. Any thread."""
        try:
            self.loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # a RecursionError is one too
            if not self.loop.is_closed():
                raise
            # Else nobody waits there.

    def _wake(self) -> None:
        self._cancel_timer()
        futures = list(self._futures)
        self._futures.clear()
        self._wake_batch(iter(futures), True)

    def _wake_batch(self, futures: Iterator[asyncio.Future[bool]], result: bool) -> None:
        count = 0
        for future in futures:
            if not future.done():  # cancelled
                future.set_result(result)
                count += 1
                if count == _BATCH_COUNT:
                    self.loop.call_soon(self._wake_batch, futures, result)
                    return

    def _set_timer(self, when: float) -> None:
        self._cancel_timer()
        self._timer_at = when
        self._timer = self.loop.call_at(when, self._expire)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = float("inf")

    def _expire(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        now = self.loop.time()
        expired = [future for future, due in self._futures.items() if due <= now]
        for future in expired:
            del self._futures[future]
        next_due = min(self._futures.values(), default=float("inf"))
        if next_due < float("inf"):
            self._set_timer(max(next_due, now + _TIMER_SECONDS))
        self._wake_batch(iter(expired), False)
