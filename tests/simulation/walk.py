"""A random walk through the states of a simulation."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

from tests.simulation.applications import KINDS
from tests.simulation.simulation import MALFORMED, Client, Simulation

__all__ = ["Walk"]

_CONTENT_SIZES = (0, 0, 1, 100, 1900, 3000, 9000, 90_000)


class Walk:
    """Chooses what happens next by a generator of numbers.

    Args:
        seed: of the generator.
        kinds: of requests.
    """

    def __init__(self, seed: int, kinds: tuple[str, ...] = KINDS) -> None:
        self.random = random.Random(seed)
        self._kinds = kinds
        self.simulation = Simulation(
            stream_body=self.random.random() < 0.5, http=self.random.choice(("h11", "httptools"))
        )
        # Each walk has a temper of its own: some never see a clock, some no vandal.
        self._drains = self.random.random() < 0.2
        self._leaves = self.random.random() < 0.6
        self._ages = self.random.random() < 0.6
        moves: list[tuple[int, Callable[[], object]]] = [
            (6, self._connect),
            (16, self._request),
            (1 if self._leaves else 0, self._malformed),
            (24, self._send),
            (20, self._read),
            (1, self._end),
            (2 if self._leaves else 0, self._leave),
            (40, self.simulation.server.loop.run_turn),
            (30, self.simulation.server.pool.begin),
            (40, self._go_on),
            (12, self.simulation.server.io_pool.step),
            (4, self._some_steps),
            (5 if self._ages else 0, self._advance),
        ]
        self._moves = [move for _, move in moves]
        self._weights = [weight for weight, _ in moves]
        self.step_count = 0

    def run(self, step_count: int) -> None:
        """Take so many steps, checking after each; then finish."""
        try:
            for _ in range(step_count):
                self.random.choices(self._moves, self._weights)[0]()
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

    def _client(self) -> Client | None:
        clients = [client for client in self.simulation.clients if not client.gone]
        return self.random.choice(clients) if clients else None

    def _connect(self) -> None:
        if sum(not client.gone for client in self.simulation.clients) < 5:
            self.simulation.connect()

    def _request(self) -> None:
        client = self._client()
        if client is None or not client.may_write:
            return
        choice = self.random.choice
        self.simulation.request(
            client,
            choice(self._kinds),
            method=choice(("GET", "GET", "POST", "HEAD")),
            count=choice((0, 1, 2, 4)),
            size=choice((0, 1, 10, 1000, 5000, 30_000)),
            content_size=choice(_CONTENT_SIZES),
            chunked=self.random.random() < 0.3,
            version=choice(("1.1",) * 9 + ("1.0",)),
            expects=self.random.random() < 0.2,
            spoiled=self._leaves and self.random.random() < 0.03,
        )

    def _malformed(self) -> None:
        client = self._client()
        if client is not None and client.may_write:
            self.simulation.malformed(client, self.random.randrange(len(MALFORMED)))

    def _send(self) -> None:
        client = self._client()
        if client is not None:
            client.send(self.random.choice((1, 20, 100, 3000, 100_000, 1_000_000)))

    def _read(self) -> None:
        client = self._client()
        if client is not None:
            client.read(self.random.choice((1, 100, 3000, -1)))

    def _end(self) -> None:
        client = self._client()
        if client is not None and not client.ended:
            if self.random.random() < 0.8:
                client.send(len(client.unsent))
            client.end()

    def _leave(self) -> None:
        client = self._client()
        if client is not None:
            client.leave(self.random.random() < 0.5)

    def _go_on(self) -> None:
        movable = self.simulation.server.pool.movable
        if movable:
            self.simulation.server.pool.go_on(self.random.randrange(len(movable)))

    def _some_steps(self) -> None:
        for _ in range(self.random.randrange(20)):
            self.simulation.server.step()

    def _advance(self) -> None:
        self.simulation.advance(self.random.choice((0.01, 0.1, 0.5, 1.0, 3.0, 11.0)))
