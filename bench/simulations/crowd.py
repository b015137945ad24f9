"""How many browsers come back in one second when the server that held their streams restarts.

The server's part is the real thing: the engine of each worker, a channel, ``aiowsgi.sse``, the drain. Clock,
connections and browsers are simulated, so that a restart with ten thousand of them takes seconds, and is the same in
every run.

A browser is an ``EventSource``: when its stream ends it waits for as long as ``retry:`` told it, or else for 3 s as
Chromium does, and asks again, with ``Last-Event-ID``. Events that a browser misses or gets twice are counted.

Thread: the main thread.

Source: HTML Living Standard, section 9.2.3; Chromium's ``EventSource::kDefaultReconnectDelay``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from aiowsgi import Channel, park, sse
from aiowsgi.config import Config
from aiowsgi.server.protocol import Protocol
from aiowsgi.testing import MemoryClient, MemoryServer, MemoryTransport, VirtualLoop

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Outcome", "Restart", "Returns", "simulate"]

_BROWSER_SECONDS = 3.0
# Until a browser learns of its stream's end, and until its request reaches a server.
_LATENCY_SECONDS = (0.005, 0.05)
_EVENT_INTERVAL = 2.0
# By this long after the restart began, every browser is back.
_PATIENCE_SECONDS = 120.0
_STEP_SECONDS = 0.25
_RETRY = re.compile(rb"retry: (\d+)\n\n")
_EVENT = re.compile(rb"id: (\S+)\ndata: (\d+)\n\n")
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Restart:
    """What is simulated.

    Args:
        clients: browsers in all, spread evenly over ``workers``.
        workers: how many are restarted.
        start_seconds: from one worker's turn to the next, in which a replacement starts; 0 ends all at once, when the
            replacements are already there.
        drain_rate: the option.
        graceful_timeout: the option.
        told: browsers heed ``retry:``; ``False`` shows how they behaved before it was sent.
        seed: for the latencies, and for which worker a browser returns to.
    """

    clients: int
    workers: int = 1
    start_seconds: float = 0.0
    drain_rate: int = Config.drain_rate
    graceful_timeout: float = Config.graceful_timeout
    told: bool = True
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Returns:
    """When browsers came back, in seconds since the restart began, and how long each was away."""

    times: tuple[float, ...]
    absences: tuple[float, ...]

    @property
    def busiest_second(self) -> int:
        """Most requests that came within any one second."""
        times = sorted(self.times)
        most = first = 0
        for last, time in enumerate(times):
            while time - times[first] >= 1.0:
                first += 1
            most = max(most, last - first + 1)
        return most

    @property
    def last(self) -> float:
        """When the last one was back."""
        return max(self.times, default=0.0)

    @property
    def mean_absence(self) -> float:
        """Seconds without a stream, on average."""
        return sum(self.absences) / max(1, len(self.absences))

    @property
    def longest_absence(self) -> float:
        """Seconds without a stream, at most."""
        return max(self.absences, default=0.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a restart.

    Args:
        returns: of the browsers.
        drain_seconds: until the last old worker had ended.
        missed: events that browsers did not get, in all.
        doubled: events that browsers got twice, in all.
    """

    returns: Returns
    drain_seconds: float
    missed: int
    doubled: int


def simulate(restart: Restart) -> Outcome:
    """Run one restart to its end."""
    with _Cluster(restart) as cluster:
        return cluster.run()


class _Worker(MemoryServer):
    """One worker process, on a clock that it shares with the others."""

    def __init__(self, loop: VirtualLoop, application: WSGIApplication, config: Config) -> None:
        self._shared_loop = loop
        super().__init__(application, config)

    def make_loop(self) -> VirtualLoop:
        return self._shared_loop


class _Browser:
    """One ``EventSource``."""

    __slots__ = ("last_event_id", "last_number", "left_at", "retry_seconds")

    def __init__(self) -> None:
        self.retry_seconds = _BROWSER_SECONDS
        self.last_event_id = ""
        self.last_number = -1
        self.left_at = 0.0


class _Stream(MemoryClient):
    """A browser's end of one connection, which reads whatever arrives, at once."""

    def __init__(self, cluster: _Cluster, browser: _Browser) -> None:
        super().__init__(kernel_size=0)
        self._cluster = cluster
        self._browser = browser

    def receive(self, data: bytes | bytearray | memoryview) -> int:
        """See :class:`~aiowsgi.testing.MemoryClient`."""
        cluster, browser, text = self._cluster, self._browser, bytes(data)
        if cluster.restart.told:
            for match in _RETRY.finditer(text):
                browser.retry_seconds = int(match[1]) / 1000
        for match in _EVENT.finditer(text):
            cluster.received(browser, match[1].decode(), int(match[2]))
        if text.endswith(_LAST_CHUNK):
            cluster.ended(browser, self)
        return len(text)


class _Cluster:
    def __init__(self, restart: Restart) -> None:
        self.restart = restart
        self._missed = self._doubled = 0
        self._random = Random(restart.seed)
        self._loop = VirtualLoop()
        self._config = Config(
            drain_rate=restart.drain_rate,
            graceful_timeout=restart.graceful_timeout,
            queue_size=restart.clients,
        )
        self._channel = Channel("crowd", history=1000)
        self._sent_count = 0
        self._begun = 0.0
        self._times: list[float] = []
        self._absences: list[float] = []
        self._away_count = 0
        self._workers: list[_Worker] = []
        self._serving = [self._start() for _ in range(restart.workers)]

    def __enter__(self) -> _Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.close()

    def _start(self) -> _Worker:
        worker = _Worker(self._loop, self._application, self._config)
        self._workers.append(worker)
        return worker

    def _application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return park(environ, sse(self._channel, environ, keep_alive=None))

    def run(self) -> Outcome:
        loop, old = self._loop, list(self._serving)
        for number in range(self.restart.clients):
            self._connect(_Browser(), old[number % len(old)])
        self._advance(0.0)
        self._send()  # gives each browser an id: without one, what it misses is unknown
        self._advance(0.0)
        self._begun = loop.time()
        for turn, worker in enumerate(old):
            loop.call_later(turn * self.restart.start_seconds, self._replace, worker)
        drain_seconds = 0.0
        while loop.time() - self._begun < _PATIENCE_SECONDS:
            self._advance(_STEP_SECONDS)
            if not all(worker.at_rest for worker in old):
                drain_seconds = loop.time() - self._begun
            elif not self._away_count:
                break
        self._advance(2 * _EVENT_INTERVAL)  # so that a gap would show
        returns = Returns(tuple(self._times), tuple(self._absences))
        return Outcome(returns, drain_seconds, self._missed, self._doubled)

    def _replace(self, old: _Worker) -> None:
        """Have another worker take its place; the old one gets no more clients, and drains."""
        self._serving[self._serving.index(old)] = self._start()
        old.drain()

    def _send(self) -> None:
        self._channel.send(str(self._sent_count))
        self._sent_count += 1
        self._loop.call_later(_EVENT_INTERVAL, self._send)

    def _advance(self, seconds: float) -> None:
        """Let time pass, and every worker do its work."""
        loop = self._loop
        end = loop.time() + seconds
        self._settle()
        while (when := loop.next_timer) is not None and when <= end:
            loop.advance(max(0.0, when - loop.time()))
            self._settle()
        loop.advance(max(0.0, end - loop.time()))
        self._settle()

    def _settle(self) -> None:
        moved = True
        while moved:
            moved = False
            for worker in self._workers:
                moved = worker.step() or moved

    # What browsers do.

    def _connect(self, browser: _Browser, worker: _Worker) -> None:
        stream = _Stream(self, browser)
        MemoryTransport(self._loop, Protocol(worker.engine), stream)
        field = f"Last-Event-ID: {browser.last_event_id}\r\n" if browser.last_event_id else ""
        stream.send(f"GET / HTTP/1.1\r\nHost: test\r\n{field}\r\n".encode())

    def received(self, browser: _Browser, event_id: str, number: int) -> None:
        self._missed += max(0, number - browser.last_number - 1)
        self._doubled += number <= browser.last_number
        browser.last_event_id, browser.last_number = event_id, number

    def ended(self, browser: _Browser, stream: _Stream) -> None:
        self._away_count += 1
        browser.left_at = self._loop.time()
        noticed = self._random.uniform(*_LATENCY_SECONDS)
        self._loop.call_later(noticed, stream.close)
        back = noticed + browser.retry_seconds + self._random.uniform(*_LATENCY_SECONDS)
        self._loop.call_later(back, self._return, browser)

    def _return(self, browser: _Browser) -> None:
        self._away_count -= 1
        now = self._loop.time()
        self._times.append(now - self._begun)
        self._absences.append(now - browser.left_at)
        self._connect(browser, self._random.choice(self._serving))
