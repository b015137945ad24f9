"""Any order of sending, subscribing, reading, leaving and trimming, and of Redis going and coming, against a list.

The oracle is what a browser relies on: each event that a subscription gives is the next one of the list; or it is a
``reset``, for which there must be a reason, and the next event is the one after its id. And in the end each has all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, precondition, rule, run_state_machine_as_test

from aiowsgi import BrokerUnavailable, Channel, Event, Subscription
from tests.channel_homes import HOMES, PATIENCE, Home
from tests.redis_process import RedisProcess, redis_process

HISTORY, LIMIT = 50, 3
# Seconds for which a thread that has asked Redis in vain does not ask again.
DOUBT = 0.02


@dataclass(eq=False)
class Reader:
    """A subscription, and what is known of it."""

    subscription: Subscription
    position: int
    #: It may begin anew: its place is unknown, or lost.
    may_reset: bool = False
    #: It began when the stream had never had an event.
    blank: bool = False
    #: Where it goes on when it is :attr:`blank`, if that was lost before it was read from: nobody can tell one empty
    #: stream from another.
    restart: int | None = None


class ChannelMachine(RuleBasedStateMachine):
    """Over a home that a subclass names."""

    redis: RedisProcess | None
    #: When Redis last came back; also for the next machine, whose channel has the same broker.
    back_at = -inf

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.up = True
        if self.redis is not None:
            self.redis.call("FLUSHALL")
        self.channel: Channel = Home(self.redis).channel(history=HISTORY, limit=LIMIT)
        self.sent: list[tuple[str, bytes]] = []
        self.readers: set[Reader] = set()
        # Redis has never had an event of it, as far as Redis knows.
        self.blank = True
        # Events before this position may be gone.
        self.trimmed = 0

    @property
    def remote(self) -> bool:
        return self.redis is not None

    opened: Bundle[Reader] = Bundle("readers")

    @rule(count=st.integers(1, 6), name=st.sampled_from([None, "paid"]))
    def send(self, count: int, name: str | None) -> None:
        for _ in range(count):
            data = b"%d" % len(self.sent)
            if self.up:
                self.sent.append((self.runner.run(self.channel.asend(data, name)), data))
                self.blank = False
            else:
                with pytest.raises(BrokerUnavailable):
                    self.runner.run(self.channel.asend(data, name))

    @rule(target=opened)
    def subscribe(self) -> Reader:
        # Who thinks that Redis is away does not ask it.
        away = self.remote and (not self.up or self._doubted or self.channel.stats().broker.state == "away")
        return self._added(Reader(self.channel.subscribe(), len(self.sent), away, self.blank))

    @property
    def _doubted(self) -> bool:
        return time.monotonic() < type(self).back_at + DOUBT

    @rule(target=opened, data=st.data())
    def come_back(self, data: st.DataObject) -> Reader:
        index = data.draw(st.integers(-1, len(self.sent) - 1))
        id = self.sent[index][0] if index >= 0 else "1-1"
        gone = index < self.trimmed or (not self.remote and len(self.sent) - 1 - index > HISTORY)
        return self._added(Reader(self.channel.subscribe(id), index + 1, index < 0 or gone))

    def _added(self, reader: Reader) -> Reader:
        self.readers.add(reader)
        return reader

    @rule(reader=opened, count=st.integers(1, 8))
    def read(self, reader: Reader, count: int) -> None:
        self.runner.run(self._read(reader, count))

    async def _read(self, reader: Reader, count: int) -> None:
        for _ in range(count):
            if reader not in self.readers:
                return
            if not self.up or (reader.position == len(self.sent) and not reader.may_reset):
                # It may have events still, or a reset; and may have to be looked at twice.
                if not await reader.subscription.wait(0.01):
                    return
                event = reader.subscription.take()
                if event is None:
                    return
            else:
                try:
                    async with asyncio.timeout(0.3 if reader.may_reset else PATIENCE):
                        event = await anext(reader.subscription)
                except TimeoutError:
                    assert reader.may_reset
                    return
            self._check(reader, event)

    def _check(self, reader: Reader, event: Event) -> None:
        if event.event == "reset":
            assert reader.may_reset or reader.position <= self.trimmed, (event, reader.position, self.trimmed)
            ids = [id for id, _ in self.sent]
            # Of an event that was lost with Redis's data there is none to come after.
            reader.position = ids.index(event.id) + 1 if event.id in ids else max(reader.position, self.trimmed)
            reader.may_reset = self.remote and not self.up
            # It may have asked by itself, before its loop has noticed the loss and tells all.
            reader.blank, reader.restart = event.id == "0-0", None
            reader.may_reset |= reader.blank
            return
        position = reader.position
        if reader.restart is not None and (event.id, event) != self.sent[position]:
            position, reader.may_reset = reader.restart, False
        reader.blank, reader.restart = False, None
        if not self.remote:
            # It misses the oldest ones, and that is counted.
            position = max(position, int(event))
            assert position == reader.position or reader.subscription.dropped
        assert (event.id, event) == self.sent[position], (position, self.trimmed)
        reader.position = position + 1

    @rule(reader=consumes(opened))
    def disconnect(self, reader: Reader) -> None:
        self.readers.discard(reader)
        self.runner.run(reader.subscription.aclose())

    @precondition(lambda self: self.remote and self.up)
    @rule(keep=st.integers(0, 5))
    def trim(self, keep: int) -> None:
        assert self.redis is not None
        self.redis.call("XTRIM", f"aiowsgi:channel:{self.channel.name}", "MAXLEN", keep)
        # The last id of those removed is unknown as well, unless nothing came after it.
        self.trimmed = max(self.trimmed, len(self.sent) - keep)

    @precondition(lambda self: self.remote and self.up)
    @rule()
    def lose_redis(self) -> None:
        assert self.redis is not None
        self.redis.kill()
        self.up = False

    @precondition(lambda self: self.remote and not self.up)
    @rule(with_data=st.sampled_from([True, True, False]))
    def find_redis(self, with_data: bool) -> None:
        assert self.redis is not None
        if not with_data:
            self.redis.lose_data()
            self.trimmed = len(self.sent)
            self.blank = True
        for reader in self.readers:
            if reader.blank and not with_data:
                reader.restart = len(self.sent)
            # A reader that has seen nothing has not lost anything.
            reader.may_reset |= not with_data or reader.position < self.trimmed
        self._start()

    def _start(self) -> None:
        assert self.redis is not None
        self.redis.start()
        self.up = True
        type(self).back_at = time.monotonic()

    def teardown(self) -> None:
        try:
            if self.redis is not None and not self.up:
                self._start()
            self.runner.run(self._finish())
        finally:
            self.runner.close()

    async def _finish(self) -> None:
        """Each gets all that is left, and a last one."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    self.sent.append((await self.channel.asend(b"%d" % len(self.sent)), b"%d" % len(self.sent)))
                except BrokerUnavailable:
                    continue
                break
            for reader in list(self.readers):
                while reader.position < len(self.sent):
                    try:
                        event = await asyncio.wait_for(anext(reader.subscription), 1.0)
                    except TimeoutError:
                        # It began anew after the last one: there is nothing more for it.
                        assert reader.may_reset, reader.position
                        break
                    self._check(reader, event)
                await reader.subscription.aclose()


@pytest.fixture(scope="module", params=HOMES)
def redis(request: pytest.FixtureRequest) -> Iterator[RedisProcess | None]:
    with ExitStack() as stack:
        yield None if request.param == "process" else stack.enter_context(redis_process())


@pytest.mark.timeout(240)
def test_channel_against_a_model(redis: RedisProcess | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiowsgi.channels.broker._DOUBT_SECONDS", DOUBT)

    class Machine(ChannelMachine):
        pass

    Machine.redis = redis
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=100 if redis is None else 20,
            stateful_step_count=25,
            deadline=None,
            # To shrink what fails, with a Redis that is killed again and again, takes minutes.
            phases=[Phase.explicit, Phase.generate] + ([Phase.shrink] if redis is None else []),
            suppress_health_check=list(HealthCheck),
        ),
    )
