"""Both homes of a channel, for tests that hold in either."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aiowsgi import Channel, Event, Subscription
from tests.redis_process import RedisProcess, needs_redis, redis_process

__all__ = ["HOMES", "PATIENCE", "Home", "homes", "settle", "take"]

# Seconds until a test gives up; nothing waits so long when it passes.
PATIENCE = 20.0

#: For ``pytest.mark.parametrize("name", HOMES)``.
HOMES = ("process", pytest.param("redis", marks=needs_redis))


class Home:
    """Makes channels that nobody else has.

    Args:
        redis: where they live; ``None`` for this process.
    """

    _numbers = itertools.count()

    def __init__(self, redis: RedisProcess | None) -> None:
        self.redis = redis

    def channel(self, **options: Any) -> Channel:
        name = f"channel {next(self._numbers)}"
        return Channel(name, broker=self.redis and self.redis.url, **options)


@contextmanager
def homes(name: str) -> Iterator[Home]:
    """Return a home, by its name in :data:`HOMES`."""
    if name == "process":
        yield Home(None)
    else:
        with redis_process() as redis:
            yield Home(redis)


async def take(subscription: Subscription, count: int) -> list[Event]:
    """Read so many events."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(subscription) for _ in range(count)]


async def settle(*subscriptions: Subscription) -> None:
    """Have them begin: wait until they know their places, and check that they yield nothing."""
    for subscription in subscriptions:
        assert subscription.take() is None
        # On a busy machine a broker may take longer than one such wait.
        while await subscription.wait(0.05) or subscription.place is None:
            assert subscription.take() is None
