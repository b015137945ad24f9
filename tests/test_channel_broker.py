"""Channels in a broker, against a real Redis: what it does to them by being slow, away, full or somebody else's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import shlex
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest

import aiowsgi
from aiowsgi import BrokerUnavailable, Channel, ConfigError, Event, Server, StartupError, park, sse
from aiowsgi.channels.address import BrokerAddress
from aiowsgi.channels.broker import brokers
from aiowsgi.channels.driver import Page, Wire
from aiowsgi.channels.feed import Feed
from aiowsgi.channels.link import Link
from aiowsgi.event_stream import EventStream
from tests.channel_homes import PATIENCE, Home, settle, take
from tests.conftest import running_server
from tests.redis_process import RedisProcess, needs_redis, redis_process

pytestmark = needs_redis


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[RedisProcess]:
    with redis_process(password="se/cr@t word") as redis:
        yield redis


@pytest.fixture(autouse=True)
def no_other_brokers() -> None:
    """Have those of other tests forgotten: a server looks for all that its process has."""
    gc.collect()


@pytest.fixture
def redis(shared_redis: RedisProcess) -> RedisProcess:
    """Return a Redis without data."""
    shared_redis.call("FLUSHALL")
    return shared_redis


@pytest.fixture
def home(redis: RedisProcess) -> Home:
    return Home(redis)


def key_of(channel: Channel) -> str:
    return f"aiowsgi:channel:{channel.name}"


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def unless_late(awaitable: Awaitable[Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def sent_at_last(channel: Channel, data: str) -> str:
    """Send, once the loop has seen that Redis is another one."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(BrokerUnavailable):
                return await channel.asend(data)


async def next_data(stream: EventStream) -> bytes:
    while b"data: " not in (block := await anext(stream)):
        pass
    return block


# Its address.


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("redis://localhost", "redis://localhost/0"),
        ("redis://user:hunter2@10.0.0.5:6379/3", "redis://10.0.0.5:6379/3"),
        ("rediss://:a%2Fb@[::1]:6380/0?ssl_ca_certs=/etc/ca.pem", "rediss://[::1]:6380/0"),
        ("unix://:hunter2@/run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
        ("redis+sentinel://:hunter2@a:1,b/main/1?sentinel_password=other", "redis+sentinel://a:1,b/main/1"),
    ],
)
def test_address_is_shown_without_its_secrets(url: str, label: str) -> None:
    address = BrokerAddress.parse(url)
    assert address.label == label
    channel = Channel("orders", broker=url)
    assert repr(channel) == f"<Channel 'orders' at {label}>"
    for text in (repr(address), repr(channel), repr(channel.stats()), address.without_secrets(f"refused: {url}")):
        assert not any(secret in text for secret in ("hunter2", "other", "a%2Fb", "a/b"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis://:hunter/2@localhost/0",
        "redis://:hunter#2@localhost/0",
        "redis://:hunter2@local host/0",
        "redis://:hunter2@localhost/zero",
        "redis://:hunter2@localhost:70000000/0",
        "redis://:hunter2@a,b/0",
        "redis://:hunter2@localhost/0?hunter=1",
        "redis+sentinel://:hunter2@a,b",
        "unix://:hunter2@host/path",
        "redis://[hunter/0",
    ],
)
def test_address_that_is_none_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^broker: ") as caught:
        Channel("orders", broker=url)
    assert "hunter2" not in str(caught.value)
    assert "2@" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_channel_without_a_name_or_history_is_refused_with_a_broker() -> None:
    with pytest.raises(ConfigError) as caught:
        Channel(broker="redis://localhost", history=0, send_timeout=0)
    assert [problem.partition("=")[0] for problem in caught.value.problems] == ["history", "send_timeout", "name"]


@pytest.mark.parametrize("seconds", [0, -1.0, float("inf"), float("nan")])
def test_channel_whose_send_could_wait_for_ever_or_not_at_all_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match=rf"^send_timeout={seconds}: must be more than 0, and finite$"):
        Channel("orders", broker="redis://localhost", send_timeout=seconds)


def test_brokers_are_listed_also_while_a_thread_makes_another_one() -> None:
    channels = [Channel("one", broker="redis://localhost:1/1")]

    def make_another(frame: FrameType, event: str, _: object) -> None:
        # Between two steps of what iterates over them.
        if event == "return" and frame.f_code.co_filename == weakref.__file__ and len(channels) == 1:
            channels.append(Channel("another", broker="redis://localhost:1/2"))

    sys.setprofile(make_another)
    try:
        found = brokers()
    finally:
        sys.setprofile(None)
    assert len(channels) == 2
    assert "redis://localhost:1/1" in [broker.label for broker in found]


def test_channel_without_redis_py_is_told_which_extra_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiowsgi.channels.driver", None)
    with pytest.raises(ConfigError, match=r"aiowsgi\[redis\]"):
        Channel("orders", broker="redis://localhost:1/7")


# Sending.


def test_send_without_a_server_adds_what_the_format_says(home: Home, redis: RedisProcess) -> None:
    channel = home.channel(history=1)
    ids = [channel.send("42", event="paid"), channel.send(b"\xff")]
    assert redis.call("XRANGE", key_of(channel), "-", "+") == [
        (ids[0].encode(), {b"data": b"42", b"event": b"paid"}),
        (ids[1].encode(), {b"data": b"\xff"}),
    ]
    for _ in range(500):
        channel.send("more")
    assert redis.call("XLEN", key_of(channel)) < 300


async def test_send_in_an_event_loop_is_refused_and_names_the_other_way(home: Home) -> None:
    with pytest.raises(RuntimeError, match=r"await channel\.asend\(\)"):
        home.channel().send("42")


def test_send_to_a_redis_that_hangs_fails_within_its_deadline(home: Home, redis: RedisProcess) -> None:
    channel = home.channel(send_timeout=0.6)
    channel.send("1")
    redis.pause()
    try:
        for send in (lambda: channel.send("2"), lambda: asyncio.run(channel.asend("2"))):
            begun = time.monotonic()
            with pytest.raises(BrokerUnavailable) as caught:
                send()
            assert time.monotonic() - begun < 5
            assert isinstance(caught.value, OSError)
        begun = time.monotonic()
        channel.subscribe()
        assert time.monotonic() - begun < 5
    finally:
        redis.resume()
    assert channel.stats().broker.send_failures == 2  # type: ignore[union-attr]
    channel.send("3")


def test_send_that_redis_refuses_is_told_why(home: Home, redis: RedisProcess) -> None:
    channel = home.channel()
    redis.call("SET", key_of(channel), "no stream")
    with pytest.raises(BrokerUnavailable, match="wrong kind of value") as caught:
        channel.send("1")
    assert not caught.value.maybe_sent


def test_send_after_redis_was_restarted_takes_a_new_connection(home: Home, redis: RedisProcess) -> None:
    channel = home.channel()
    channel.send("1")
    redis.restart()
    channel.send("2")
    assert redis.call("XLEN", key_of(channel)) == 2


def test_send_in_a_forked_process_and_its_parent_share_no_connection(redis: RedisProcess) -> None:
    program = """if True:
        import os, sys
        from aiowsgi import Channel
        channel = Channel("forked", broker=sys.argv[1])
        channel.send("parent")
        pid = os.fork()
        for number in range(200):
            channel.send(f"{'parent' if pid else 'child'} {number}")
        if pid:
            raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    subprocess.run([sys.executable, "-c", program, redis.url], check=True, timeout=PATIENCE)
    assert redis.call("XLEN", "aiowsgi:channel:forked") == 401


# What others add.


async def test_entries_of_others_are_events_whatever_they_have(home: Home, redis: RedisProcess) -> None:
    channel = home.channel()
    subscription = channel.subscribe()
    await settle(subscription)
    entries: list[tuple[bytes | str, ...]] = [
        ("data", "42", "event", "paid"),
        ("event", "only a name"),
        ("some", "thing", "data", b"\0\r\n\xff"),
        ("data", "1", "event", "two\nlines"),
        ("data", "2", "event", b"\xff"),
        ("data", "3", "event", ""),
        ("data", "first", "data", "last"),
    ]
    ids = [redis.call("XADD", key_of(channel), "MAXLEN", "~", "10000", "*", *words).decode() for words in entries]
    events = await take(subscription, len(entries))
    assert [event.id for event in events] == ids
    assert [(bytes(event), event.event) for event in events] == [
        (b"42", "paid"),
        (b"", "only a name"),
        (b"\0\r\n\xff", None),
        (b"1", None),
        (b"2", None),
        (b"3", None),
        (b"last", None),
    ]
    assert all(event.frame().startswith(b"id: ") for event in events)
    await subscription.aclose()


async def test_key_that_is_no_stream_holds_up_no_other_channel(
    home: Home, redis: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad, worse = (home.channel() for _ in range(3))
    redis.call("SET", key_of(bad), "no stream")
    subscriptions = [channel.subscribe() for channel in (good, bad, worse)]
    assert subscriptions[1].take() is None
    await settle(subscriptions[0], subscriptions[2])
    redis.call("SET", key_of(worse), "no stream any more")
    for number in range(3):
        await good.asend(str(number))
        assert await take(subscriptions[0], 1) == [b"%d" % number]
    assert "wrong kind of value" in caplog.text
    redis.call("DEL", key_of(bad))
    await bad.asend("a stream")
    # It is looked at again after a while; and what came before that is not known here.
    assert (await take(subscriptions[1], 1))[0].event == "reset"
    await bad.asend("for all to see")
    assert await take(subscriptions[1], 1) == [b"for all to see"]
    for subscription in subscriptions:
        await subscription.aclose()


async def test_key_that_is_no_stream_has_no_thread_doubt_another_channel(home: Home, redis: RedisProcess) -> None:
    good, bad = home.channel(), home.channel()
    redis.call("SET", key_of(bad), "no stream")
    assert (await asyncio.to_thread(bad.subscribe)).place is None
    subscription = await asyncio.to_thread(good.subscribe)
    assert subscription.place == "0-0"
    await good.asend("1")
    assert await take(subscription, 1) == [b"1"]
    await subscription.aclose()


async def test_stream_that_redis_does_not_let_a_subscription_read_by_itself_is_told_of_once(
    redis: RedisProcess, error_log: pytest.LogCaptureFixture
) -> None:
    redis.call("ACL", "SETUSER", "plain", "on", ">word", "~*", "+@all", "-xrange")
    channel = Channel("read by itself", broker=f"unix://plain:word@{redis.socket_path}")
    stream = sse(channel, {"HTTP_LAST_EVENT_ID": "1-1"}, keep_alive=0.05)
    await anext(stream)
    for _ in range(3):
        assert await unless_late(anext(stream)) == b":\n\n"
    await eventually(lambda: "refuses to read it: " in error_log.text)
    assert error_log.text.count("refuses to read it: ") == 1
    assert "'xrange'" in error_log.text
    await stream.aclose()


async def test_redis_that_lets_nobody_wait_for_streams_is_away_and_asked_less_and_less(
    home: Home, redis: RedisProcess, error_log: pytest.LogCaptureFixture
) -> None:
    redis.call("ACL", "SETUSER", "plain", "on", ">word", "~*", "+@all", "-xread")
    channels = [Channel(name, broker=f"unix://plain:word@{redis.socket_path}") for name in ("one", "two")]
    redis.call("CONFIG", "RESETSTAT")

    def attempt_count() -> int:
        return int(redis.call("INFO", "commandstats").get("cmdstat_xread", {}).get("rejected_calls", 0))

    subscriptions = [await asyncio.to_thread(channel.subscribe) for channel in channels]
    assert [subscription.take() for subscription in subscriptions] == [None, None]
    (link,) = channels[0]._home.broker.links()  # type: ignore[union-attr]
    await eventually(lambda: attempt_count() >= 4)
    assert attempt_count() < 10
    # Also while it is connected, and has shown what is in the streams: a server is not ready.
    assert link.state == "away"
    assert "it refuses XREAD: " in link.reason
    # What comes is read all the same, but late.
    await channels[0].asend("1")
    assert await take(subscriptions[0], 1) == [b"1"]
    assert error_log.text.count("is away") == 1
    assert "is back" not in error_log.text
    redis.call("ACL", "SETUSER", "plain", "+xread")
    await eventually(lambda: link.state == "reading")
    assert error_log.text.count("is back") == 1
    for subscription in subscriptions:
        await subscription.aclose()


# Connections.


def reader_count(redis: RedisProcess) -> int:
    return str(redis.call("CLIENT", "LIST")).count("cmd=xread")


async def test_one_connection_reads_all_channels_for_all_subscribers(home: Home, redis: RedisProcess) -> None:
    channels = [home.channel() for _ in range(30)]
    subscriptions = await asyncio.to_thread(lambda: [channel.subscribe() for channel in channels for _ in range(3)])
    waiting = [asyncio.ensure_future(anext(subscription)) for subscription in subscriptions]
    for channel in channels:
        await channel.asend(channel.name)
    events = await unless_late(asyncio.gather(*waiting))
    assert events == [channel.name.encode() for channel in channels for _ in range(3)]
    assert reader_count(redis) <= 1
    assert redis.client_count() <= 5
    # Framed and stored once for all of a channel's subscribers.
    assert len({id(event) for event in events}) == 30
    for subscription in subscriptions:
        await subscription.aclose()


async def test_new_channel_is_read_at_once_also_where_nobody_may_unblock(home: Home, redis: RedisProcess) -> None:
    redis.call("ACL", "SETUSER", "plain", "on", ">word", "~*", "+@all", "-client|unblock", "-client|id")
    url = f"unix://plain:word@{redis.socket_path}"
    first, second = (Channel(name, broker=url) for name in ("one", "two"))
    subscription = first.subscribe()
    await settle(subscription)
    begun = time.monotonic()
    another = second.subscribe("1-1")
    assert (await take(another, 1))[0].event == "reset"
    assert time.monotonic() - begun < 2.5  # and not at the end of the read that was under way
    await first.asend("to the first")
    assert await take(subscription, 1) == [b"to the first"]
    for each in (subscription, another):
        await each.aclose()


async def test_user_with_the_rights_that_the_readme_names_can_do_all(redis: RedisProcess) -> None:
    readme = (Path(aiowsgi.__file__).parents[1] / "README.md").read_text()
    (command,) = re.findall(r"^redis-cli (ACL SETUSER .*)$", readme, re.MULTILINE)
    redis.call(*shlex.split(command))
    for database in (0, 1):
        channel = Channel("orders", broker=f"unix://web:password@{redis.socket_path}?db={database}", limit=1)
        first = await asyncio.to_thread(channel.send, "1")
        live = await asyncio.to_thread(channel.subscribe)
        await settle(live)
        await channel.asend("2")
        assert await take(live, 1) == [b"2"]
        await channel.asend("3")
        back = channel.subscribe(first)  # which reads the history on its own
        assert await take(back, 2) == [b"2", b"3"]
        for each in (live, back):
            await each.aclose()
    for broker in brokers():
        await broker.check(PATIENCE)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks")
async def test_new_channels_are_read_at_once_where_the_programs_tasks_are_eager(
    home: Home, redis: RedisProcess
) -> None:
    redis.call("ACL", "SETUSER", "plain", "on", ">word", "~*", "+@all", "-client|unblock", "-client|id")
    url = f"unix://plain:word@{redis.socket_path}"
    channels = [Channel(name, broker=url) for name in ("one", "two", "three")]
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 # unknown to Python 3.11
    try:
        subscriptions = [channels[0].subscribe()]
        await settle(*subscriptions)
        for channel in channels[1:]:
            begun = time.monotonic()
            subscriptions.append(channel.subscribe("1-1"))
            assert (await take(subscriptions[-1], 1))[0].event == "reset"
            assert time.monotonic() - begun < 2.5
        for each in subscriptions:
            await each.aclose()
    finally:
        loop.set_task_factory(None)


async def test_thousand_subscriptions_leave_no_descriptor_task_or_client(home: Home, redis: RedisProcess) -> None:
    channels = [home.channel() for _ in range(5)]

    def figures() -> tuple[int, int, int]:
        return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), redis.client_count()

    before = figures()
    for number in range(1000):
        channel = channels[number % 5]
        subscription = channel.subscribe(None if number % 3 else "1-1")
        if number % 2:
            await subscription.wait(0.0005 * (number % 7))
        if number % 100 == 0:
            await channel.asend(str(number))
        await subscription.aclose()
    await eventually(lambda: figures() == before)
    assert all(channel.stats().subscribers == 0 for channel in channels)


async def test_subscription_that_nobody_closes_is_forgotten(home: Home, redis: RedisProcess) -> None:
    channel = home.channel()
    await channel.asend("1")
    async for event in channel.subscribe("1-1"):
        assert event.event == "reset"
        break
    gc.collect()
    await eventually(lambda: channel.stats().subscribers == 0 and redis.client_count() == 0)


# Slow subscribers.


async def test_slow_subscriber_reads_the_history_by_itself_and_misses_nothing(home: Home) -> None:
    channel = home.channel(history=5000, limit=10)
    slow = await asyncio.to_thread(channel.subscribe)
    quick = await asyncio.to_thread(channel.subscribe)
    assert slow.take() is None
    for number in range(1000):
        await channel.asend(str(number))
        assert await take(quick, 1) == [b"%d" % number]
    assert await take(slow, 1000) == [b"%d" % number for number in range(1000)]
    await channel.asend("last")
    assert await take(slow, 1) == [b"last"]
    assert len(slow._feed.log._items) <= 10  # type: ignore[attr-defined] # of the white box: what is held
    assert channel.stats().dropped == 0
    for subscription in (slow, quick):
        await subscription.aclose()


async def test_slow_subscriber_whose_history_is_gone_is_told_and_counted(home: Home, redis: RedisProcess) -> None:
    channel = home.channel(limit=10)
    slow = await asyncio.to_thread(channel.subscribe)
    assert slow.take() is None
    await slow.wait(PATIENCE)
    assert slow.take() is None
    ids = [await channel.asend(str(number)) for number in range(100)]
    redis.call("XTRIM", key_of(channel), "MAXLEN", 5)
    await eventually(lambda: channel.stats().broker.read >= 100)  # type: ignore[union-attr]
    [reset] = await take(slow, 1)
    assert (reset.event, reset.id) == ("reset", ids[-1])
    assert slow.dropped == channel.stats().dropped == 100
    await channel.asend("after")
    assert await take(slow, 1) == [b"after"]
    await slow.aclose()


async def test_loop_that_was_late_for_a_burst_beyond_the_history_tells_of_the_gap(home: Home) -> None:
    channel = home.channel(history=1)
    subscription = await asyncio.to_thread(channel.subscribe)
    await settle(subscription)

    def burst() -> list[str]:
        return [channel.send(str(number)) for number in range(1500)]

    thread = threading.Thread(target=burst)
    thread.start()
    thread.join()  # blocks the loop on purpose
    await channel.asend("last")
    received = [event async for event in _until(subscription, b"last")]
    numbers = [int(event) for event in received if event.event is None and event != b"last"]
    resets = [event for event in received if event.event == "reset"]
    assert resets or numbers == list(range(1500))
    assert numbers == sorted(set(numbers))
    await subscription.aclose()


async def _until(subscription: Any, last: bytes) -> Any:
    while True:
        [event] = await take(subscription, 1)
        yield event
        # A reset goes on after the newest: what was last may have been before it.
        if event == last or event.event == "reset":
            return


# Away.


async def test_subscribers_stay_while_redis_is_away_and_miss_nothing(
    home: Home, redis: RedisProcess, error_log: pytest.LogCaptureFixture
) -> None:
    channel = home.channel()
    streams = [sse(channel, {}, keep_alive=0.05) for _ in range(5)]
    for stream in streams:
        await anext(stream)
        assert await unless_late(anext(stream)) == b":\n\n"
    await channel.asend("before")
    redis.kill()
    with pytest.raises(BrokerUnavailable):
        await channel.asend("lost, and said so")
    await eventually(lambda: channel.stats().broker.state == "away")  # type: ignore[union-attr]
    late = sse(channel, {}, keep_alive=0.05)
    await anext(late)
    for stream in [*streams, late]:
        while await unless_late(anext(stream)) != b":\n\n":
            pass  # the event from before
    redis.start()
    id = await sent_at_last(channel, "after")
    for stream in streams:
        block = await unless_late(next_data(stream))
        assert block == b"id: %b\ndata: after\n\n" % id.encode()
    # Nobody could say what it would miss.
    assert b"event: reset\n" in await unless_late(next_data(late))
    for stream in [*streams, late]:
        await stream.aclose()
    assert "is back" in error_log.text
    assert "se/cr@t" not in error_log.text
    assert redis.password not in error_log.text


async def test_error_that_nobody_has_foreseen_is_told_once_and_what_came_meanwhile_is_read(
    home: Home, monkeypatch: pytest.MonkeyPatch, error_log: pytest.LogCaptureFixture
) -> None:
    channel = home.channel()
    subscription = channel.subscribe()
    await settle(subscription)
    attempts: list[object] = []

    def fail(link: Link, feed: Feed, events: list[Event]) -> None:
        attempts.append(link)
        raise ZeroDivisionError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(Link, "_append", fail)
        await channel.asend("1")
        await eventually(lambda: len(attempts) == 3)
        await eventually(lambda: channel.stats().broker.state == "away")  # type: ignore[union-attr]
        assert channel.stats().broker.reason == "internal error: ZeroDivisionError: unforeseen"  # type: ignore[union-attr]
    await channel.asend("2")
    assert await take(subscription, 2) == [b"1", b"2"]
    await subscription.aclose()
    (record,) = [record for record in error_log.records if "internal error" in record.getMessage() and record.exc_info]
    assert record.getMessage().startswith("internal error in reading from unix://")
    assert error_log.text.count("Traceback") == 1


async def test_error_that_nobody_has_foreseen_in_reading_for_one_is_told_and_tried_again_after_a_while(
    home: Home, monkeypatch: pytest.MonkeyPatch, error_log: pytest.LogCaptureFixture
) -> None:
    channel = home.channel()
    subscription = channel.subscribe()
    attempts: list[object] = []

    async def fail(wire: Wire, *arguments: object) -> Page:
        attempts.append(wire)
        raise ZeroDivisionError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(Wire, "page_after", fail)
        while not attempts:
            await subscription.wait(0.05)
        assert await subscription.wait(0.05) is False
    await settle(subscription)
    await channel.asend("1")
    assert await take(subscription, 1) == [b"1"]
    await subscription.aclose()
    assert error_log.text.count("internal error in reading from") == 1


async def test_redis_that_comes_back_without_its_data_has_subscribers_told(home: Home, redis: RedisProcess) -> None:
    channel, empty = home.channel(), home.channel()
    subscription, other = channel.subscribe(), empty.subscribe()
    await settle(subscription, other)
    await channel.asend("before")
    assert await take(subscription, 1) == [b"before"]
    redis.restart(with_data=False)
    await sent_at_last(channel, "in between")
    events = await take(subscription, 1)
    assert events[0].event == "reset"
    if redis.call("XREVRANGE", key_of(channel), "+", "-", "COUNT", 1)[0][0].decode() != events[0].id:
        assert await take(subscription, 1) == [b"in between"]
    await channel.asend("after")
    assert (await take(subscription, 1))[0] in (b"in between", b"after")
    # Of an empty stream nothing was lost.
    await empty.asend("first")
    assert await take(other, 1) == [b"first"]
    for each in (subscription, other):
        await each.aclose()


async def test_slow_one_that_began_on_an_empty_stream_is_told_that_redis_has_lost_it(
    home: Home, redis: RedisProcess
) -> None:
    channel = home.channel(limit=3)
    slow, quick = channel.subscribe(), channel.subscribe()
    await settle(slow, quick)
    for number in range(5):
        await channel.asend(b"%d" % number)
        await take(quick, 1)
    assert slow.dropped == 0
    redis.restart(with_data=False)
    assert (await take(quick, 1))[0].event == "reset"
    assert (await take(slow, 1))[0].event == "reset"
    await settle(slow)
    await channel.asend("after")
    for each in (slow, quick):
        assert await take(each, 1) == [b"after"]
        await each.aclose()


async def test_loss_is_told_once_and_not_to_those_who_come_after_it(home: Home, redis: RedisProcess) -> None:
    channel = home.channel(limit=3)
    slow, quick = channel.subscribe(), channel.subscribe()
    await settle(slow, quick)
    await channel.asend("lost")
    for each in (slow, quick):
        await take(each, 1)
    redis.restart(with_data=False)
    for each in (slow, quick):
        (event,) = await take(each, 1)
        assert (event.event, event.id) == ("reset", "0-0")
    of_a_thread, of_the_loop = await asyncio.to_thread(channel.subscribe), channel.subscribe()
    assert of_a_thread.place == "0-0"
    await settle(of_a_thread, of_the_loop)
    for number in range(5):
        await sent_at_last(channel, f"{number}")
        await take(quick, 1)
    for each in (slow, of_a_thread, of_the_loop):
        assert await take(each, 5) == [b"0", b"1", b"2", b"3", b"4"]
    for each in (slow, quick, of_a_thread, of_the_loop):
        await each.aclose()


async def test_page_that_comes_once_the_feed_has_got_there_is_not_taken(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has waited for it any more."""
    channel = home.channel()
    quick = channel.subscribe()
    await settle(quick)
    asked, answered, read = asyncio.Event(), asyncio.Event(), asyncio.Event()
    page_after, take_entries = Wire.page_after, Link._take

    async def answer_late(wire: Wire, *arguments: Any) -> Page:
        page = await page_after(wire, *arguments)
        asked.set()
        await answered.wait()
        return page

    async def read_late(link: Link, *arguments: Any) -> None:
        await read.wait()
        await take_entries(link, *arguments)

    monkeypatch.setattr(Wire, "page_after", answer_late)
    monkeypatch.setattr(Link, "_take", read_late)
    first = await channel.asend("1")
    await channel.asend("2")
    subscription = channel.subscribe(first)
    assert subscription.take() is None
    assert not await subscription.wait(0.01)
    await unless_late(asked.wait())
    read.set()
    assert await take(quick, 2) == [b"1", b"2"]
    assert subscription.take() == b"2"
    answered.set()
    await channel.asend("3")
    assert await take(subscription, 1) == [b"3"]
    for each in (subscription, quick):
        await each.aclose()


async def test_close_wakes_the_subscribers_of_its_channel_and_no_others(home: Home) -> None:
    quiet, closed = home.channel(), home.channel()
    subscriptions = [channel.subscribe() for channel in (quiet, closed)]
    await settle(*subscriptions)
    waiting = asyncio.ensure_future(anext(subscriptions[1]))
    woken = asyncio.ensure_future(subscriptions[0].wait(PATIENCE))
    await asyncio.sleep(0)
    closed.close()
    with pytest.raises(StopAsyncIteration):
        await unless_late(waiting)
    assert not woken.done()
    woken.cancel()
    await subscriptions[0].aclose()


async def test_close_ends_a_subscription_also_where_redis_has_lost_what_was_sent(
    home: Home, redis: RedisProcess
) -> None:
    channel = home.channel()
    subscription = channel.subscribe()
    await settle(subscription)
    await channel.asend("lost")
    assert await take(subscription, 1) == [b"lost"]
    redis.restart(with_data=False)
    (event,) = await take(subscription, 1)
    assert event.event == "reset"
    channel.close()
    with pytest.raises(StopAsyncIteration):
        await unless_late(anext(subscription))


def test_send_takes_a_new_connection_where_the_loop_was_not_told_of_the_old_one_s_end(
    home: Home, redis: RedisProcess
) -> None:
    channel = home.channel()
    with asyncio.Runner() as runner:
        runner.run(channel.asend("1"))
        redis.restart()
        runner.run(channel.asend("2"))
    assert redis.call("XLEN", key_of(channel)) == 2


def answer_one_event_and_reset(listener: socket.socket, count: int) -> None:
    """Be a Redis whose host forgets each connection after one event."""
    for number in range(count):
        with listener.accept()[0] as sock, sock.makefile("rb") as commands:
            words = [b""]
            while words[0] != b"XADD":
                words = []
                for _ in range(int(commands.readline()[1:])):
                    size = int(commands.readline()[1:])
                    words.append(commands.read(size + 2)[:size])
                sock.sendall(b"$3\r\n%d-1\r\n" % number if words[0] == b"XADD" else b"+OK\r\n")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def test_send_takes_a_new_connection_where_the_old_one_was_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_one_event_and_reset, args=(listener, 3), daemon=True)
        thread.start()
        channel = Channel("reset", broker=f"redis://127.0.0.1:{listener.getsockname()[1]}")
        for number in range(3):
            assert await unless_late(channel.asend("1")) == f"{number}-1"
            await asyncio.sleep(0.05)  # the loop sees it
        await asyncio.to_thread(thread.join, PATIENCE)


async def test_thread_that_has_asked_in_vain_asks_again_once_a_loop_has_had_an_answer(
    home: Home, redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiowsgi.channels.broker._DOUBT_SECONDS", 1000.0)
    channel = home.channel()
    follower = channel.subscribe()
    await settle(follower)
    redis.kill()
    assert (await asyncio.to_thread(channel.subscribe)).place is None
    await eventually(lambda: channel.stats().broker.state == "away")  # type: ignore[union-attr]
    redis.start()
    await eventually(lambda: channel.stats().broker.state == "reading")  # type: ignore[union-attr]
    assert (await asyncio.to_thread(channel.subscribe)).place == "0-0"
    await follower.aclose()


async def test_redis_that_hangs_is_noticed_and_read_on_where_it_was(home: Home, redis: RedisProcess) -> None:
    channel = home.channel()
    subscription = channel.subscribe()
    await settle(subscription)
    redis.pause()
    try:
        await eventually(lambda: channel.stats().broker.state == "away")  # type: ignore[union-attr]
        assert "not answer" in channel.stats().broker.reason  # type: ignore[union-attr]
    finally:
        redis.resume()
    await sent_at_last(channel, "after")
    assert await take(subscription, 1) == [b"after"]
    await subscription.aclose()


def test_refused_password_is_told_at_start_and_in_the_log_without_it(
    redis: RedisProcess, error_log: pytest.LogCaptureFixture
) -> None:
    channel = Channel("orders", broker=f"unix://:wrong%20word@{redis.socket_path}")

    async def follow() -> None:
        subscription = channel.subscribe()
        assert subscription.take() is None
        await eventually(lambda: channel.stats().broker.state == "away")  # type: ignore[union-attr]
        await subscription.aclose()

    with pytest.raises(StartupError, match="refuses the user and password") as caught:
        asyncio.run(Server(parked(channel), bind=["127.0.0.1:0"]).start())
    asyncio.run(follow())
    with pytest.raises(BrokerUnavailable, match="refuses the user and password"):
        channel.send("1")
    assert "refuses the user and password" in error_log.text
    for text in (error_log.text, repr(caught.value), repr(channel), repr(channel.stats())):
        assert "wrong" not in text.replace("wrong kind", "")


def parked(channel: Channel) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return [b"plain"] if environ["PATH_INFO"] == "/plain" else park(environ, sse(channel, environ))

    return application


def test_server_is_ready_while_the_broker_is_there_and_serves_on_while_it_is_not(
    redis: RedisProcess, loop_name: str, error_log: pytest.LogCaptureFixture
) -> None:
    channel = Channel("ready", broker=redis.url)
    redis.kill()
    options = {"ready_path": "/ready", "ready_broker": True, "metrics_bind": "127.0.0.1:0"}

    def ready() -> httpx.Response:
        return httpx.get(f"{server.url}/ready", timeout=PATIENCE)

    def reaches(status_code: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while ready().status_code != status_code:
            assert time.monotonic() < deadline

    try:
        with running_server(parked(channel), loop_name, **options) as server, server.connect() as client:
            assert "is not there yet" in error_log.text
            assert ready().json() == {"status": "unavailable", "reasons": ["broker_away"]}
            assert httpx.get(f"{server.url}/plain").text == "plain"
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.receive_head().status_code == 200
            assert client.read_chunk() == b":\n\n"
            redis.start()
            reaches(200)
            channel.send("42")
            # It came when nobody could say what it would miss.
            assert b"event: reset\n" in client.read_chunk()
            channel.send("43")
            chunk = client.read_chunk()
            while b"data: 43\n" not in chunk:
                chunk += client.read_chunk()
            metrics = httpx.get(server.server._side_servers[0].url + "/metrics").text
            assert 'aiowsgi_broker_links{state="reading"} 1.0' in metrics
            assert 'aiowsgi_broker_events_total{what="sent"}' in metrics
            assert "aiowsgi_broker_delay_seconds_count" in metrics
            redis.kill()
            reaches(503)
            redis.start()
            reaches(200)
    finally:
        if redis._process is None:
            redis.start()


def test_another_server_s_thread_follows_a_broker_with_a_loop_of_its_own(home: Home) -> None:
    channel = home.channel()
    body = park({}, channel.subscribe())
    with closing(body):  # type: ignore[type-var]
        for number in range(3):
            channel.send(f"event {number}")
            assert next(body) == b"event %d" % number
    assert channel.stats().subscribers == 0


def test_several_loops_in_one_process_each_have_all_events(home: Home) -> None:
    channel = home.channel()
    subscriptions = [channel.subscribe() for _ in range(3)]
    received: list[list[bytes]] = []

    async def follow(subscription: Any) -> None:
        received.append(list(await take(subscription, 50)))
        await subscription.aclose()

    threads = [threading.Thread(target=lambda s=s: asyncio.run(follow(s))) for s in subscriptions]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for number in range(50):
        channel.send(str(number))
    for thread in threads:
        thread.join(PATIENCE)
    assert received == [[b"%d" % number for number in range(50)]] * 3
