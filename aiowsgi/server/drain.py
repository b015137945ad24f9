"""How a server ends: it stops accepting, lets requests end, and cuts off those that do not.

Thread: event loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from aiowsgi.server.listeners import Listener, end_handovers
from aiowsgi.server.protocol import Phase, Protocol
from aiowsgi.server.stats import requests_under_way, unsent_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiowsgi.server.engine import Engine
    from aiowsgi.server.opening import Opening

__all__ = ["Drain", "DrainReport"]

# An idle client's next request may be on its way when a drain begins.
_IDLE_GRACE_SECONDS = 0.1
# How long an accepted connection has to get its protocol, which takes a few turns of the loop. Arbitrary.
_ARRIVAL_SECONDS = 1.0
# How long parked iterables have to close once there is no more time. Arbitrary.
_CLOSING_SECONDS = 1.0


class DrainReport:
    """What became of the requests that were under way when a server shut down.

    Args:
        completed: requests answered since the shutdown began, whose whole response is out.
        abandoned: requests that were cut off, whether still arriving, running or being answered; and those whose
            thread still runs.
    """

    __slots__ = ("abandoned", "completed")

    def __init__(self, completed: int, abandoned: int) -> None:
        self.completed = completed
        self.abandoned = abandoned

    def __repr__(self) -> str:
        return f"<DrainReport completed={self.completed} abandoned={self.abandoned}>"


class Drain:
    """The end of one server's connections.

    Args:
        engine: knows the connections.
        listeners: accept them.
        seconds: how long requests have to end; 0 or more.
        leave_backlog: connections that wait to be accepted are left to the processes that share the sockets.
        delay: seconds for which to go on serving before all that.
    """

    def __init__(
        self, engine: Engine, listeners: Sequence[Listener], seconds: float, *, leave_backlog: bool, delay: float
    ) -> None:
        self._engine = engine
        self._listeners = listeners
        self._leave_backlog = leave_backlog
        #: The shortest time that any call has left to the requests.
        self.seconds = seconds
        self._serves_on = delay > 0
        self._delay = anyio.move_on_after(delay)
        # Ends when there is no time left.
        self._scope = anyio.CancelScope()
        self._begun = False
        # A connection or a request has ended.
        self._changed = asyncio.Event()
        self._completed_before = engine.completed_count

    def shorten(self, seconds: float) -> None:
        """Leave no more than this many seconds from now, the delay included."""
        end = anyio.current_time() + seconds
        if not self._begun:
            if end < self._delay.deadline + self.seconds:
                self.end_delay()
        elif end < self._scope.deadline:
            self._scope.deadline = end
            self._engine.dispersal.begin(seconds)
        self.seconds = min(self.seconds, seconds)

    def end_delay(self) -> None:
        """Serve on no longer: the requests' time begins."""
        self._delay.cancel()

    async def run(self) -> DrainReport:
        """Let requests end; cut off those that have not in time, or when this is cancelled."""
        self._engine.leaving = True
        try:
            with self._scope:
                await self._serve_on()
                self._begin()
                await self._end_requests()
        finally:
            report = await self._cut_off()
        return report

    # In this order.

    async def _serve_on(self) -> None:
        """Wait for the end of the delay, if there is one."""
        if self._serves_on:
            with self._delay:
                await anyio.Event().wait()

    def _begin(self) -> None:
        """From now on the requests' time runs, and no new ones are wanted."""
        self._begun = True
        self._scope.deadline = anyio.current_time() + self.seconds
        self._completed_before = self._engine.completed_count - unsent_count(self._engine)
        self._want_no_more()
        self._engine.dispersal.begin(self.seconds)

    def _want_no_more(self) -> None:
        self._engine.draining = True
        self._engine.keeps_connections = False
        # This replaces the callback that lets another connection in when one has ended.
        self._engine.on_change(self._changed.set)

    async def _end_requests(self) -> None:
        """Help connections and requests to end, and wait until all have."""
        if not self._leave_backlog:
            for listener in self._listeners:
                listener.take_backlog()
        await self._end_arrivals()
        with anyio.move_on_after(_IDLE_GRACE_SECONDS):
            await self._wait_until(self._all_ended)
        for connection in self._open():
            connection.drain()
        await self._wait_until(self._all_ended)

    async def _cut_off(self) -> DrainReport:
        """Close what is still open, and report."""
        self._want_no_more()  # again: if this was cancelled during the delay, nothing has begun
        self._engine.dispersal.close()
        await self._end_arrivals()
        report = self._report()
        for connection in self._open():
            connection.abort()
        await self._end_parked()
        self._engine.on_change(None)
        return report

    def _report(self) -> DrainReport:
        """Count, before anything is cut off."""
        engine = self._engine
        cut_off_count = unsent_count(engine)
        completed_count = max(0, engine.completed_count - self._completed_before - cut_off_count)
        arriving_count = sum(connection.phase is Phase.CONTENT for connection in engine.connections)
        return DrainReport(completed_count, len(requests_under_way(engine)) + arriving_count + cut_off_count)

    async def _end_parked(self) -> None:
        """Let what was parked close, now that its connections are gone: tasks must not outlive their server."""
        with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
            await self._wait_until(self._all_closed)
        for task in self._engine.closing_tasks:
            task.cancel()

    # Small things.

    async def _end_arrivals(self) -> None:
        """Accept no more, and wait until every connection can be closed."""
        for listener in self._listeners:
            listener.close()
        with anyio.CancelScope(shield=True):
            await end_handovers(self._listeners, _ARRIVAL_SECONDS)

    def _open(self) -> list[Protocol | Opening]:
        return [*self._engine.connections, *self._engine.openings]

    def _all_closed(self) -> bool:
        engine = self._engine
        return not (engine.connections or engine.openings or engine.closing_tasks)

    def _all_ended(self) -> bool:
        return not self._engine.exchanges and self._all_closed()

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
