"""Looks after requests that run: slow ones are reported, those over their time are given up.

A timer of the loop looks at running requests, a few times within the shortest limit that is set; requests themselves
pay nothing. A request's time is what a thread has spent on it, without its wait for a thread.

A thread that is *stuck*, because its request was given up and it did not notice, does not count in the pool until it
ends that request after all, and another is started in its place, up to ``max_threads`` in all. If more than a certain
share of the threads is stuck, the process asks to be replaced.

Thread: event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from aiowsgi.bridge.threads import thread_frames
from aiowsgi.http.events import Refusal
from aiowsgi.server.engine import Engine
from aiowsgi.server.exchange import Exchange
from aiowsgi.server.stacks import describe_request, exchange_of, stack_of

__all__ = ["RequestGuard"]

_logger = logging.getLogger("aiowsgi.error")

_LOOKS = 8
_SHORTEST_LOOK_SECONDS = 0.05
_LONGEST_LOOK_SECONDS = 1.0


class _Watched:
    """A request that runs."""

    __slots__ = ("given_up", "told")

    def __init__(self) -> None:
        self.told = False
        self.given_up = False


class RequestGuard:
    """Reports slow requests, and gives up those over their time; to be started if either limit is set.

    Args:
        engine: whose requests.
        recycle: called, once, with the reason why this process should be replaced.
    """

    def __init__(self, engine: Engine, recycle: Callable[[str], object] | None) -> None:
        config = engine.config
        self._engine = engine
        self._actions = config.timeout_actions
        self._recycle = recycle if "recycle" in self._actions else None
        self._slow_seconds = config.slow_request
        self._timeout = config.request_timeout
        self._most_stuck_count = config.stuck_threads * config.threads
        self._watched: dict[Exchange, _Watched] = {}
        shortest = min(filter(None, (self._slow_seconds, self._timeout)), default=0.0)
        self._interval = min(_LONGEST_LOOK_SECONDS, max(_SHORTEST_LOOK_SECONDS, shortest / _LOOKS))
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look."""
        self._timer = self._engine.loop.call_later(self._interval, self._look)

    def close(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        engine = self._engine
        self._timer = engine.loop.call_later(self._interval, self._look)
        running = {exchange for exchange in engine.exchanges.copy() if exchange.started_at}
        now = engine.clock()
        for exchange in self._watched.keys() - running:
            if self._watched.pop(exchange).given_up:
                engine.stuck_count -= 1
                with contextlib.suppress(Exception):
                    _logger.info("the thread of request %s, which was given up, is free again", exchange.identify())
        for exchange in running:
            watched = self._watched.setdefault(exchange, _Watched())
            seconds = now - exchange.started_at
            if self._timeout and seconds >= self._timeout and not watched.given_up:
                watched.given_up = watched.told = True
                self._give_up(exchange, seconds)
            elif self._slow_seconds and seconds >= self._slow_seconds and not watched.told:
                watched.told = True
                self._tell(logging.WARNING, exchange, f"has run for {seconds:.1f} s")

    def _tell(self, level: int, exchange: Exchange, what: str) -> None:
        stack = next((stack_of(each) for each in thread_frames().values() if exchange_of(each) is exchange), "")
        # A log handler that fails must not keep a client from its 504, nor other requests from being looked at.
        with contextlib.suppress(Exception):
            _logger.log(level, "%s: %s\n%s", describe_request(self._engine, exchange), what, stack)

    def _give_up(self, exchange: Exchange, seconds: float) -> None:
        has_room = self._mark_stuck(exchange)
        if "log" in self._actions:
            what = f"has run for {seconds:.1f} s and is given up"
            if not has_room:
                what += "; no other thread takes the place of its thread: max_threads is reached"
            self._tell(logging.ERROR, exchange, what)
        if "504" in self._actions and exchange.whole is None:  # else its answer is about to be sent, or on its way
            for connection in list(self._engine.connections):
                if connection.exchange is exchange:
                    connection.refuse(Refusal(504, "the application took too long"))
        stuck_count = self._engine.stuck_count
        if self._recycle is not None and stuck_count > self._most_stuck_count:
            recycle, self._recycle = self._recycle, None
            recycle(f"{stuck_count} of {self._engine.config.threads} threads are stuck")

    def _mark_stuck(self, exchange: Exchange) -> bool:
        """Mark its thread as stuck; return whether the pool has room for a successor."""
        engine = self._engine
        engine.stuck_count += 1
        # Not known for a thread that is running a greenlet's stack.
        frames = thread_frames().items()
        thread_id = next((thread_id for thread_id, frame in frames if exchange_of(frame) is exchange), None)
        has_room = engine.pool.mark_stuck(exchange, thread_id)
        if exchange not in engine.exchanges:
            engine.pool.unmark_stuck(exchange)  # it ended just before that, and its thread may not have seen the mark
        return has_room
