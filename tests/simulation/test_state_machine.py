"""Thousands of interleavings of data, pauses, disconnections, timeouts, drains and steps of applications.

After each step everything is checked that must always be true (:mod:`tests.simulation.simulation`): a request is
answered once, in order and with its own response, or its connection closed; ``close()`` is called once, in the thread
of the call; buffers keep within their bounds; nobody waits for a client without an end. When all clients are gone,
nothing is left.

Two ways to choose the steps: hypothesis, which shrinks what it finds to a few of them, and random walks, which take
many more in the same time.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.simulation.applications import KINDS
from tests.simulation.simulation import MALFORMED, Client, Simulation
from tests.simulation.walk import Walk

# --hypothesis-profile=long
_LONG = settings.default is not None and settings.default.max_examples > 1000
_WALK_COUNT = 20_000 if _LONG else 60
_WALK_STEPS = 400

_which = st.integers(0, 7)
_sizes = st.sampled_from((0, 1, 10, 1000, 5000, 30_000))


class ServerMachine(RuleBasedStateMachine):
    """One server and a few clients."""

    simulation: Simulation

    def __init__(self) -> None:
        super().__init__()
        self.sound = True

    @contextlib.contextmanager
    def _step(self) -> Any:
        """Note that a step has failed, so that what follows from it is not looked at."""
        self.sound = False
        yield
        self.sound = True

    def _do(self, action: Callable[..., object], *args: Any, **options: Any) -> None:
        with self._step():
            action(*args, **options)

    def _client(self, which: int, wanted: Callable[[Client], object]) -> Client | None:
        clients = [client for client in self.simulation.clients if not client.gone and wanted(client)]
        return clients[which % len(clients)] if clients else None

    @initialize(
        batch_size=st.sampled_from((96, 1, 2)), stream_body=st.booleans(), http=st.sampled_from(("h11", "httptools"))
    )
    def start(self, **options: Any) -> None:
        self.simulation = Simulation(**options)
        self._do(self.simulation.connect)

    @precondition(lambda self: sum(client.open for client in self.simulation.clients) < 4)
    @rule()
    def connect(self) -> None:
        self._do(self.simulation.connect)

    @rule(
        which=_which,
        kind=st.sampled_from(KINDS),
        method=st.sampled_from(("GET", "POST", "HEAD")),
        count=st.sampled_from((0, 1, 2, 8)),
        size=_sizes,
        content_size=st.sampled_from((0, 1, 100, 1900, 3000, 9000, 90_000)),
        chunked=st.booleans(),
        version=st.sampled_from(("1.1", "1.1", "1.1", "1.0")),
        expects=st.booleans(),
    )
    def request(self, which: int, kind: str, **options: Any) -> None:
        client = self._client(which, lambda client: client.may_write)
        if client is not None:
            self._do(self.simulation.request, client, kind, **options)

    @rule(which=_which, data=st.integers(0, len(MALFORMED) - 1))
    def malformed(self, which: int, data: int) -> None:
        client = self._client(which, lambda client: client.may_write)
        if client is not None:
            self._do(self.simulation.malformed, client, data)

    @rule(which=_which, size=st.sampled_from((1, 20, 100, 3000, 1_000_000)))
    def send(self, which: int, size: int) -> None:
        client = self._client(which, lambda client: client.unsent)
        if client is not None:
            self._do(client.send, size)

    @rule(which=_which, size=st.sampled_from((1, 100, 3000, -1)))
    def read(self, which: int, size: int) -> None:
        client = self._client(which, lambda client: client.connection.arrived_size)
        if client is not None:
            self._do(client.read, size)

    @rule(which=_which)
    def end(self, which: int) -> None:
        client = self._client(which, lambda client: not client.ended)
        if client is not None:
            self._do(client.end)

    @rule(which=_which, reset=st.booleans())
    def leave(self, which: int, reset: bool) -> None:
        client = self._client(which, bool)
        if client is not None:
            self._do(client.leave, reset)

    @rule()
    def turn_the_loop(self) -> None:
        self._do(self.simulation.server.loop.run_turn)

    @precondition(lambda self: self.simulation.server.pool.waiting_count)
    @rule()
    def begin_a_job(self) -> None:
        self._do(self.simulation.server.pool.begin)

    @precondition(lambda self: self.simulation.server.pool.movable)
    @rule(which=_which)
    def step_a_job(self, which: int) -> None:
        pool = self.simulation.server.pool
        self._do(pool.go_on, which % len(pool.movable))

    @precondition(lambda self: self.simulation.server.io_pool.waiting_count or self.simulation.server.io_pool.movable)
    @rule()
    def step_a_file(self) -> None:
        self._do(self.simulation.server.io_pool.step)

    @rule()
    def settle(self) -> None:
        self._do(self.simulation.server.settle)

    @rule(seconds=st.sampled_from((0.01, 0.5, 1.0, 3.0, 11.0)))
    def advance(self, seconds: float) -> None:
        self._do(self.simulation.advance, seconds)

    @precondition(lambda self: not self.simulation.draining)
    @rule()
    def drain(self) -> None:
        self._do(self.simulation.drain)

    @invariant()
    def everything_is_as_it_must_be(self) -> None:
        if hasattr(self, "simulation"):
            self._do(self.simulation.check)

    def teardown(self) -> None:
        if not hasattr(self, "simulation"):
            return
        try:
            if self.sound:
                with self._step():
                    self.simulation.finish()
        finally:
            with contextlib.nullcontext() if self.sound else contextlib.suppress(Exception):
                self.simulation.close()


TestServerMachine = ServerMachine.TestCase
if not _LONG:
    TestServerMachine.settings = settings(
        max_examples=60, stateful_step_count=60, derandomize=True, database=None, deadline=None
    )
TestServerMachine = pytest.mark.timeout(0 if _LONG else 120)(TestServerMachine)


def test_random_walks_find_nothing() -> None:
    first = random.SystemRandom().randrange(10**9) if _LONG else 0
    for seed in range(first, first + _WALK_COUNT):
        try:
            Walk(seed).run(_WALK_STEPS)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_random_walk_is_the_same_every_time() -> None:
    def trace(seed: int) -> list[object]:
        walk = Walk(seed)
        walk.run(300)
        return [
            walk.simulation.server.loop.time(),
            *((client.port, client.sent_size, client.reader.responses) for client in walk.simulation.clients),
            *((request, request.call_count) for request in walk.simulation.requests.values()),
        ]

    assert repr(trace(7)) == repr(trace(7))
