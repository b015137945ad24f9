"""What holds of a channel wherever it lives: in the process, or in Redis."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aiowsgi import Channel, Subscription, sse
from tests.channel_homes import HOMES, PATIENCE, Home, homes, settle, take


@pytest.fixture(scope="module", params=HOMES)
def home(request: pytest.FixtureRequest) -> Iterator[Home]:
    with homes(request.param) as home:
        yield home


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call where no loop runs, as an application does."""
    return await asyncio.to_thread(function, *args)


async def sent(channel: Channel, numbers: range) -> list[str]:
    return [await channel.asend(str(number)) for number in numbers]


def texts(numbers: range) -> list[bytes]:
    return [b"%d" % number for number in numbers]


async def test_send_returns_the_id_of_the_event_that_subscribers_get(home: Home) -> None:
    channel = home.channel()
    subscription = await in_thread(channel.subscribe)
    ids = [await in_thread(channel.send, "żółć"), await in_thread(channel.send, b"\xff\r\n\0", "raw ż")]
    first, second = await take(subscription, 2)
    assert (first, first.event, first.id) == ("żółć".encode(), None, ids[0])
    assert (second, second.event, second.id) == (b"\xff\r\n\0", "raw ż", ids[1])
    assert ids[0] != ids[1]
    assert channel.stats().sent == 2
    await subscription.aclose()


async def test_subscribers_begin_where_they_subscribed(home: Home) -> None:
    channel = home.channel()
    early = await in_thread(channel.subscribe)
    await channel.asend("1")
    late = await in_thread(channel.subscribe)
    await channel.asend("2")
    assert await take(early, 2) == [b"1", b"2"]
    assert await take(late, 1) == [b"2"]
    for subscription in (early, late):
        await subscription.aclose()


async def test_subscribe_after_an_id_replays_what_came_later_and_goes_on(home: Home) -> None:
    channel = home.channel(history=500, limit=10)
    ids = await sent(channel, range(300))
    subscriptions = [channel.subscribe(ids[index]) for index in (298, 200, 0)]
    for subscription, first in zip(subscriptions, (299, 201, 1), strict=True):
        assert await take(subscription, 300 - first) == texts(range(first, 300))
    await channel.asend("300")
    for subscription in subscriptions:
        assert await take(subscription, 1) == [b"300"]
        assert subscription.dropped == 0
        await subscription.aclose()


async def test_replay_joins_what_is_sent_meanwhile_without_gap_or_duplicate(home: Home) -> None:
    channel = home.channel(history=5000, limit=300)
    ids = await sent(channel, range(400))
    end = 1200
    subscriptions: list[Subscription] = []
    received: dict[Subscription, list[bytes]] = {}

    async def follow(index: int) -> None:
        subscription = channel.subscribe(ids[index])
        subscriptions.append(subscription)
        received[subscription] = await take(subscription, end - 1 - index)
        assert received[subscription] == texts(range(index + 1, end))

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        for index in range(0, 400, 40):
            tasks.create_task(follow(index))
        for number in range(400, end):
            ids.append(await channel.asend(str(number)))
            if number % 100 == 0:
                tasks.create_task(follow(number - 350))
            await asyncio.sleep(0)
    assert not any(subscription.dropped for subscription in subscriptions)
    for subscription in subscriptions:
        await subscription.aclose()


UNKNOWN = [
    "0",
    "-1",
    "x-1",
    "1-1",
    "1-²",
    "9999999999999-0",
    "18446744073709551615-18446744073709551615",
    "18446744073709551616-0",
    "1" * 5000,
    "1-" + "1" * 5000,
    "+",
    "-",
    "$",
    ">",
    "*",
    "(1-1",
    "1-1 COUNT 1",
    "1-1\r\nFLUSHALL",
    "01-1",
    "1-00",
    "ż\udcff",
]


async def test_subscribe_after_an_id_that_is_unknown_begins_with_reset(home: Home) -> None:
    channel = home.channel()
    id = await channel.asend("1")
    milliseconds, _, number = id.partition("-")
    for unknown in [*UNKNOWN, f"{milliseconds}-", f"{milliseconds}-{int(number) + 1}"]:
        subscription = channel.subscribe(unknown)
        [event] = await take(subscription, 1)
        assert (event, event.event, event.id) == (b"", "reset", id), unknown
        await subscription.aclose()


async def test_subscribe_after_an_empty_id_is_as_without(home: Home) -> None:
    channel = home.channel()
    await channel.asend("1")
    subscription = channel.subscribe("")
    await settle(subscription)
    await channel.asend("2")
    assert await take(subscription, 1) == [b"2"]
    await subscription.aclose()


async def test_reset_of_an_empty_channel_has_an_id_to_come_back_with(home: Home) -> None:
    channel = home.channel()
    subscription = channel.subscribe("other-1")
    [reset] = await take(subscription, 1)
    assert reset.event == "reset"
    await sent(channel, range(1, 3))
    again = channel.subscribe(reset.id)
    assert await take(again, 2) == [b"1", b"2"]
    assert await take(subscription, 2) == [b"1", b"2"]
    for each in (subscription, again):
        await each.aclose()


async def test_wait_that_is_cancelled_loses_no_event(home: Home) -> None:
    channel = home.channel()
    subscription = await in_thread(channel.subscribe)
    for number in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.002):
                await anext(subscription)
        await channel.asend(str(number))
        assert await take(subscription, 1) == [b"%d" % number]
    await subscription.aclose()


async def test_threads_that_send_at_once_lose_nothing_and_keep_their_order(home: Home) -> None:
    thread_count, event_count = 4, 150
    channel = home.channel(limit=thread_count * event_count)
    subscriptions = [await in_thread(channel.subscribe) for _ in range(3)]

    def send(sender: int) -> list[str]:
        return [channel.send(f"{sender} {number}") for number in range(event_count)]

    ids = await asyncio.gather(*(asyncio.to_thread(send, sender) for sender in range(thread_count)))
    assert len({id for sent in ids for id in sent}) == thread_count * event_count
    histories = [await take(subscription, thread_count * event_count) for subscription in subscriptions]
    assert histories[0] == histories[1] == histories[2]
    by_sender = defaultdict(list)
    for event in histories[0]:
        sender, number = map(int, event.split())
        by_sender[sender].append(number)
        assert event.id in ids[sender]
    assert by_sender == {sender: list(range(event_count)) for sender in range(thread_count)}
    for subscription in subscriptions:
        await subscription.aclose()


async def test_close_lets_subscribers_read_to_the_end_and_refuses_more(home: Home) -> None:
    channel = home.channel()
    behind, waiting = [await in_thread(channel.subscribe) for _ in range(2)]
    await channel.asend("1")
    assert await take(waiting, 1) == [b"1"]
    reading = asyncio.ensure_future(anext(waiting, b"end"))
    await asyncio.sleep(0)
    channel.close()
    channel.close()
    assert await asyncio.wait_for(reading, PATIENCE) == b"end"
    assert [event async for event in behind] == [b"1"]
    assert [event async for event in channel.subscribe()] == []
    assert channel.closed
    for send in (in_thread(channel.send, "late"), channel.asend("late")):
        with pytest.raises(RuntimeError, match=re.escape(f"{channel!r} is closed")):
            await send
    assert channel.stats().subscribers == 0


async def test_subscription_after_aclose_is_at_its_end_and_not_counted(home: Home) -> None:
    channel = home.channel()
    subscription = channel.subscribe()
    assert channel.stats().subscribers == 0
    assert subscription.take() is None
    assert channel.stats().subscribers == 1
    await subscription.aclose()
    await subscription.aclose()
    assert channel.stats().subscribers == 0
    await channel.asend("1")
    assert [event async for event in subscription] == []


async def test_sse_of_a_client_that_comes_back_frames_each_event_once_for_all(home: Home) -> None:
    channel = home.channel()
    ids = await sent(channel, range(3))
    streams = [sse(channel, {"HTTP_LAST_EVENT_ID": ids[0]}, retry=1) for _ in range(2)]
    for stream in streams:
        assert b"retry: 1000\n" in await anext(stream)
        block = b""
        async with asyncio.timeout(PATIENCE):
            while block.count(b"\n\n") < 2:
                block += await anext(stream)
        assert block == b"id: %b\ndata: 1\n\nid: %b\ndata: 2\n\n" % (ids[1].encode(), ids[2].encode())
        await stream.aclose()


async def test_sse_of_a_silent_channel_sends_comments(home: Home) -> None:
    channel = home.channel()
    stream = sse(channel, {}, keep_alive=0.02)
    await anext(stream)
    async with asyncio.timeout(PATIENCE):
        assert [await anext(stream) for _ in range(3)] == [b":\n\n"] * 3
        await channel.asend("1")
        while (block := await anext(stream)) == b":\n\n":
            pass
    assert b"data: 1\n" in block
    await stream.aclose()


async def test_slow_subscriber_under_disconnect_ends_and_that_is_counted(home: Home) -> None:
    channel = home.channel(history=1, limit=3, policy="disconnect")
    slow = await in_thread(channel.subscribe)
    assert slow.take() is None
    await sent(channel, range(1500))  # more than Redis leaves of a history that is trimmed roughly
    received = []
    async with asyncio.timeout(PATIENCE):
        async for event in slow:
            received.append(event)
    assert received == texts(range(len(received)))
    assert len(received) < 1500
    stats = channel.stats()
    assert (stats.dropped, stats.disconnected, stats.subscribers) == (0, 1, 0)
