"""Channels in a broker, against a real Redis: what is the same as in the process, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from aiowsgi import BrokerUnavailable, Channel, Event, Subscription
from tests.redis_process import RedisProcess, needs_redis, redis_process

pytestmark = needs_redis

PATIENCE = 20.0


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[RedisProcess]:
    with redis_process() as redis:
        yield redis


@pytest.fixture
def redis(shared_redis: RedisProcess) -> RedisProcess:
    """Return a Redis without data."""
    shared_redis.call("FLUSHALL")
    return shared_redis


async def take(subscription: Subscription, count: int) -> list[Event]:
    """Read so many events."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(subscription) for _ in range(count)]


async def settle(*subscriptions: Subscription) -> None:
    """Have them begin: they know their places, and have nothing to say."""
    for subscription in subscriptions:
        assert subscription.take() is None
        while await subscription.wait(0.05):
            assert subscription.take() is None


async def test_event_reaches_subscribers_of_every_channel_of_that_name(redis: RedisProcess) -> None:
    one, two = (Channel("orders", broker=redis.url) for _ in range(2))
    subscriptions = [one.subscribe(), two.subscribe(), two.subscribe()]
    await settle(*subscriptions)
    id = await one.asend("42", event="paid")
    for subscription in subscriptions:
        [event] = await take(subscription, 1)
        assert (event, event.event, event.id) == (b"42", "paid", id)
        await subscription.aclose()


async def test_subscribers_stay_while_redis_is_away_and_miss_nothing(redis: RedisProcess) -> None:
    channel = Channel("orders", broker=redis.url)
    subscription = channel.subscribe()
    await settle(subscription)
    await channel.asend("before")
    redis.kill()
    with pytest.raises(BrokerUnavailable):
        await channel.asend("lost, and said so")
    redis.start()
    await channel.asend("after")
    assert await take(subscription, 2) == [b"before", b"after"]
    await subscription.aclose()


def test_send_without_a_server_returns_the_id_in_the_stream(redis: RedisProcess) -> None:
    channel = Channel("orders", broker=redis.url)
    id = channel.send("42", event="paid")
    assert redis.call("XRANGE", "aiowsgi:channel:orders", "-", "+") == [
        (id.encode(), {b"data": b"42", b"event": b"paid"})
    ]
