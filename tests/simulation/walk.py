"""A random walk through the states of a simulation."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

from tests.simulation.applications import KINDS
from tests.simulation.simulation import MALFORMED, Client, Simulation

__all__ = ["Walk"]

_CONTENT_SIZES = (0, 1, 100, 1900, 3000, 9000, 90_000)
_SIZES = (0, 1, 10, 1000, 5000, 30_000)


class Walk:
    """Chooses what happens next by a generator of numbers.

    Args:
        seed: of the generator.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        choice = self.random.choice
        self.simulation = Simulation(
            batch_size=choice((1, 2, 96)),
            stream_body=choice((False, True)),
            http=choice(("h11", "httptools")),
            keep_alive=choice((10, 10, 10, 0)),
            request_buffer=choice((0, 2000, 2000)),
            response_buffer=choice((1, 3000, 3000)),
        )
        # Each walk has a character of its own: a few kinds of requests, which then meet often; in some no time passes,
        # in some no client misbehaves. So what needs three rare things at once is no longer rare.
        self._kinds = self.random.sample(KINDS, self.random.randint(2, 8))
        self._sizes = [*self.random.sample(_SIZES, 2), 30_000]
        self._content_sizes = self.random.sample(_CONTENT_SIZES, 3)
        self._expecting = self.random.choice((0.0, 0.6))
        self._drains = self.random.random() < 0.2
        self._leaves = self.random.random() < 0.6
        self._ages = self.random.random() < 0.6
        moves: list[tuple[int, Callable[[], object]]] = [
            (6, self._connect),
            (8, self._request),
            (1 if self._leaves else 0, self._malformed),
            (24, self._send),
            (20, self._read),
            (2 if self._leaves else 0, self._end),
            (2 if self._leaves else 0, self._leave),
            (40, self._turn),
            (30, self.simulation.server.pool.begin),
            (40, self._go_on),
            (12, self.simulation.server.io_pool.step),
            (4, self._some_steps),
            (3 if self._ages else 0, self._advance),
        ]
        self._moves = [move for _, move in moves]
        self._weights = [weight * self.random.choice((0.4, 1.0, 2.5)) for weight, _ in moves]
        self.step_count = 0

    def run(self, step_count: int) -> None:
        """Take so many steps, checking after each; then finish."""
        try:
            idle_count = 0
            while self.step_count < step_count and idle_count < 1000:
                idle_count += 1
                if self.random.choices(self._moves, self._weights)[0]():
                    idle_count = 0
                    self.step_count += 1
                    self.simulation.check()
            if self._drains:
                self.simulation.drain()
            self.simulation.finish()
        except BaseException:
            with contextlib.suppress(Exception):  # what has failed may have left anything
                self.simulation.close()
            raise
        self.simulation.close()

    def _client(self, wanted: Callable[[Client], object]) -> Client | None:
        clients = [client for client in self.simulation.clients if not client.gone and wanted(client)]
        return self.random.choice(clients) if clients else None

    # The moves; each tells whether there was anything to do.

    def _connect(self) -> bool:
        if sum(client.open for client in self.simulation.clients) >= 5:
            return False
        self.simulation.connect()
        return True

    def _request(self) -> bool:
        client = self._client(lambda client: client.may_write and client.outstanding_count < 5)
        if client is None:
            return False
        choice = self.random.choice
        self.simulation.request(
            client,
            choice(self._kinds),
            method=choice(("GET", "GET", "POST", "HEAD")),
            count=choice((0, 1, 4, 8)),
            size=choice(self._sizes),
            content_size=choice(self._content_sizes),
            chunked=self.random.random() < 0.3,
            version=choice(("1.1",) * 9 + ("1.0",)),
            expects=self.random.random() < self._expecting,
            spoiled=self._leaves and self.random.random() < 0.03,
        )
        return True

    def _malformed(self) -> bool:
        client = self._client(lambda client: client.may_write)
        if client is not None:
            self.simulation.malformed(client, self.random.randrange(len(MALFORMED)))
        return client is not None

    def _send(self) -> bool:
        client = self._client(lambda client: client.unsent)
        if client is None:
            return False
        size = self.random.choice((1, 20, 100, 3000, 100_000, 1_000_000))
        if self.random.random() < 0.9:
            size = min(size, client.polite_size)
        client.send(size)
        return size > 0

    def _read(self) -> bool:
        client = self._client(lambda client: client.connection.arrived_size)
        if client is not None:
            client.read(self.random.choice((1, 100, 3000, -1)))
        return client is not None

    def _end(self) -> bool:
        client = self._client(lambda client: not client.ended)
        if client is not None:
            if self.random.random() < 0.6:
                client.send(len(client.unsent))
            client.end()
        return client is not None

    def _leave(self) -> bool:
        client = self._client(bool)
        if client is not None:
            client.leave(self.random.random() < 0.5)
        return client is not None

    def _turn(self) -> bool:
        has_ready = self.simulation.server.loop.has_ready
        self.simulation.server.loop.run_turn()
        return has_ready

    def _go_on(self) -> bool:
        movable = self.simulation.server.pool.movable
        return bool(movable) and self.simulation.server.pool.go_on(self.random.randrange(len(movable)))

    def _some_steps(self) -> bool:
        return sum(self.simulation.server.step() for _ in range(self.random.randrange(1, 20))) > 0

    def _advance(self) -> bool:
        self.simulation.advance(self.random.choice((0.01, 0.1, 0.5, 1.0, 3.0, 11.0)))
        return True
