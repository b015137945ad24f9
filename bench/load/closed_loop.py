"""A closed loop: a number of connections, each of which asks again as soon as it has its answer.

With one connection it measures how long a request takes when nothing else is going on; with several it does what wrk
does, if wrk is missing or the latencies *within* a closed loop are wanted.

Thread: event loop; :func:`one_by_one` blocks.
"""

from __future__ import annotations

import asyncio
import socket
from time import perf_counter as clock  # an event loop's own time may tick in milliseconds

from bench.load.connection import Connection, Outcome
from bench.load.http import Answer, BadResponse, Request, ResponseReader

__all__ = ["closed_loop", "greet", "one_by_one"]

_RECEIVE = 256 * 1024
_SWEEP = 0.1


class _ClosedLoop:
    def __init__(self, port: int, request: Request, connections: int, rounds: int | None, timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._data = request.serialise(port)
        self._connections = connections
        self._left = None if rounds is None else rounds * connections
        self._timeout = timeout
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self.latency: list[float] = []
        self.received = 0
        self.errors: dict[str, int] = {}

    async def run(self, seconds: float) -> float:
        begun = clock()
        for _ in range(self._connections):
            self._connect()
        self._sweep()
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            pass
        elapsed = clock() - begun
        self._over.set()
        for task in self._tasks:
            task.cancel()
        for connection in self._open:
            connection.close()
        return elapsed

    @property
    def unanswered(self) -> int:
        """How many connections still wait for an answer."""
        return self._left or 0

    def _connect(self) -> None:
        task = self._loop.create_task(self._connected())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._on_outcome), "127.0.0.1", self._port
                )
        except (OSError, TimeoutError):
            self._error("connect")
            return
        self._open.add(connection)
        connection.request(self._data, clock(), self._timeout)

    def _on_outcome(self, connection: Connection, outcome: Outcome) -> None:
        if self._over.is_set():
            return
        if isinstance(outcome, Answer) and outcome.status == 200:
            self.latency.append(clock() - connection.intended)
            self.received += outcome.size
        else:
            self._error(str(outcome.status) if isinstance(outcome, Answer) else outcome)
        if self._left is not None:
            self._left -= 1
            if not self._left:
                self._over.set()
                return
            if self._left < self._connections:
                return  # the others are in their last round
        if connection.lost:
            self._open.discard(connection)
            self._connect()
        else:
            connection.request(self._data, clock(), self._timeout)

    def _error(self, word: str) -> None:
        self.errors[word] = self.errors.get(word, 0) + 1

    def _sweep(self) -> None:
        now = clock()
        for connection in [each for each in self._open if each.busy and each.deadline < now]:
            connection.fail("timeout")
        if not self._over.is_set():
            self._loop.call_later(_SWEEP, self._sweep)


async def closed_loop(
    port: int, request: Request, *, connections: int, seconds: float, timeout: float = 5.0
) -> dict[str, object]:
    """Ask again and again for a time.

    Returns:
        ``seconds``, ``latency`` (a list, seconds), ``received`` (bytes of content) and ``errors`` (word to count).
    """
    run = _ClosedLoop(port, request, connections, None, timeout)
    elapsed = await run.run(seconds)
    return {"seconds": elapsed, "latency": run.latency, "received": run.received, "errors": run.errors}


async def greet(port: int, request: Request, *, connections: int, seconds: float) -> dict[str, object]:
    """Let each of many connections, all open at once, ask once, and see that each is answered.

    A server may show a fine throughput and yet serve only some of its connections, as one does whose threads are held
    by open connections.

    Returns:
        ``answered`` and ``errors`` (word to count).
    """
    run = _ClosedLoop(port, request, connections, 1, seconds)
    await run.run(seconds)
    return {"answered": len(run.latency), "errors": run.errors}


def one_by_one(port: int, request: Request, *, seconds: float, timeout: float = 5.0) -> dict[str, object]:
    """Ask on one connection, with blocking calls, which disturb the measurement least.

    Returns:
        As :func:`closed_loop`.
    """
    data = request.serialise(port)
    reader = ResponseReader()
    latency: list[float] = []
    received = 0
    sock: socket.socket | None = None
    begun = clock()
    try:
        while clock() - begun < seconds:
            start = clock()
            if sock is None:
                sock = socket.create_connection(("127.0.0.1", port), timeout)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(data)
            answer = None
            while answer is None:
                block = sock.recv(_RECEIVE)
                answer = reader.feed(block) if block else reader.feed_end()
                if answer is None and not block:
                    raise BadResponse("closed without an answer")
            latency.append(clock() - start)
            if answer.status != 200:
                raise BadResponse(f"status {answer.status}")
            received += answer.size
            if not answer.reusable:
                sock.close()
                sock = None
    except (OSError, BadResponse) as error:
        return {
            "seconds": clock() - begun,
            "latency": latency,
            "received": received,
            "errors": {str(error) or type(error).__name__: 1},
        }
    finally:
        if sock is not None:
            sock.close()
    return {"seconds": clock() - begun, "latency": latency, "received": received, "errors": {}}
