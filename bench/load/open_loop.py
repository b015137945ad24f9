"""An open loop: requests are due at a fixed rate, whatever the server does.

A latency counts from the moment at which the request was *due*. If a server stalls for a second, it keeps every request
waiting that comes in that second, and all of them count: there is no coordinated omission. A request takes a free
connection, or else a new one; if there may be no more, it waits, and its time runs.

Thread: event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter as clock  # an event loop's own time may tick in milliseconds

from bench.load.connection import Connection, Outcome
from bench.load.http import Answer, Request

__all__ = ["OUTCOMES", "open_loop"]

OUTCOMES = ("answered", "refused", "failed")
_ANSWERED, _REFUSED, _FAILED = range(3)
_SWEEP = 0.05


class _Metronome:
    """Calls back in the loop whenever something is due, to within a few dozen microseconds.

    An event loop's timers are only accurate to a millisecond, which would be added to every latency.

    Thread: the loop, and one of its own, which sleeps.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._loop.add_reader(self._read, self._tick)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, times: Sequence[float]) -> None:
        self._times = times
        self._thread.start()

    def _run(self) -> None:
        for due in self._times:
            delay = due - clock()
            if delay > 0:
                time.sleep(delay)
            if self._stopped.is_set():
                return
            os.write(self._write, b".")

    def _tick(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        self._callback()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._loop.remove_reader(self._read)
        os.close(self._read)
        os.close(self._write)


class _OpenLoop:
    def __init__(
        self, port: int, request: Request, profile: Sequence[Sequence[float]], timeout: float, most: int
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._data = request.serialise(port)
        self._due = list(_due(profile))
        self._count = len(self._due)
        self._timeout = timeout
        self._most = most
        self._begun = 0.0
        self._sent = 0
        self._pending: deque[float] = deque()
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._finished = asyncio.Event()
        self.at: list[float] = []
        self.latency: list[float] = []
        self.outcome: list[int] = []
        self.late: list[float] = []
        self.words: dict[str, int] = {}

    async def run(self) -> None:
        metronome = _Metronome(self._send_due)
        self._begun = clock()
        self._due = [self._begun + due for due in self._due]
        metronome.start(self._due)
        self._sweep()
        try:
            await self._finished.wait()
        finally:
            metronome.stop()
            for task in self._connecting:
                task.cancel()
            for connection in self._open:
                connection.close()

    def _send_due(self) -> None:
        now = clock()
        while self._sent < self._count and (due := self._due[self._sent]) <= now:
            self._sent += 1
            self.late.append(now - due)
            self._dispatch(due)

    def _dispatch(self, due: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                connection.request(self._data, due, self._timeout)
                return
            self._open.discard(connection)
        self._pending.append(due)
        if len(self._open) + len(self._connecting) < self._most:
            task = self._loop.create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._on_outcome), "127.0.0.1", self._port
                )
        except (OSError, TimeoutError):
            if self._pending:
                self._record(self._pending.popleft(), "connect")
            return
        self._open.add(connection)
        self._next(connection)

    def _next(self, connection: Connection) -> None:
        if self._pending:
            connection.request(self._data, self._pending.popleft(), self._timeout)
        else:
            self._idle.append(connection)

    def _on_outcome(self, connection: Connection, outcome: Outcome) -> None:
        self._record(connection.intended, outcome)
        if not connection.lost:
            self._next(connection)
            return
        self._open.discard(connection)
        if self._pending:
            self._dispatch(self._pending.popleft())

    def _record(self, intended: float, outcome: Outcome) -> None:
        word = str(outcome.status) if isinstance(outcome, Answer) else outcome
        self.words[word] = self.words.get(word, 0) + 1
        self.at.append(intended - self._begun)
        self.latency.append(clock() - intended)
        self.outcome.append({"200": _ANSWERED, "503": _REFUSED}.get(word, _FAILED))
        if len(self.at) == self._count:
            self._finished.set()

    def _sweep(self) -> None:
        """Fail the requests that are overdue."""
        now = clock()
        while self._pending and self._pending[0] + self._timeout < now:
            self._record(self._pending.popleft(), "timeout")
        for connection in [each for each in self._open if each.busy and each.deadline < now]:
            connection.fail("timeout")
        if not self._finished.is_set():
            self._loop.call_later(_SWEEP, self._sweep)


def _due(profile: Sequence[Sequence[float]]) -> Iterator[float]:
    """Yield when each request is due, from the start."""
    begun = 0.0
    for rate, seconds in profile:
        yield from (begun + number / rate for number in range(round(rate * seconds)))
        begun += seconds


async def open_loop(
    port: int, request: Request, *, profile: Sequence[Sequence[float]], timeout: float, most: int = 4000
) -> dict[str, object]:
    """Send requests at fixed rates, one after the other.

    Args:
        profile: pairs of a rate, requests a second, and the seconds for which it holds.
        timeout: a request that has no answer by then has failed, and its connection is given up.
        most: connections at once.

    Returns:
        ``at`` (when each was due, seconds from the start), ``latency`` (seconds), ``outcome`` (an index into
        :data:`OUTCOMES`), each in the order in which requests ended; ``late``, how late the generator itself was at
        each; ``words``, how often each status and each kind of failure was seen.
    """
    run = _OpenLoop(port, request, profile, timeout, most)
    await run.run()
    return {"at": run.at, "latency": run.latency, "outcome": run.outcome, "late": run.late, "words": run.words}
