"""Channels: what every subscriber gets, in which order, and what becomes of one that is slow."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

from aiowsgi import ConfigError, park
from aiowsgi.channel import Channel, Event, Subscription
from aiowsgi.event_stream import sse
from tests.conftest import running_server

PATIENCE = 10.0


def read(subscription: Subscription) -> list[bytes]:
    """Take all that there is now."""
    events: list[bytes] = []
    try:
        while (event := subscription.take()) is not None:
            events.append(event)
    except StopAsyncIteration:
        events.append(b"<end>")
    return events


def send_numbers(channel: Channel, numbers: Iterable[int]) -> list[str]:
    return [channel.send(str(number)) for number in numbers]


def texts(numbers: Iterable[int]) -> list[bytes]:
    return [b"%d" % number for number in numbers]


# Sending and reading.


def test_send_returns_the_id_of_the_event_that_subscribers_get() -> None:
    channel = Channel("orders")
    subscription = channel.subscribe()
    ids = [channel.send("żółć"), channel.send(b"\xff", event="raw")]
    first, second = subscription.take(), subscription.take()
    assert isinstance(first, Event)
    assert isinstance(second, Event)
    assert (first, first.event, first.id) == ("żółć".encode(), None, ids[0])
    assert (second, second.event, second.id) == (b"\xff", "raw", ids[1])
    assert ids[0] != ids[1]
    assert subscription.take() is None


def test_subscribers_begin_where_they_subscribed_and_share_each_event() -> None:
    channel = Channel()
    early = channel.subscribe()
    send_numbers(channel, [1])
    late = channel.subscribe()
    send_numbers(channel, [2])
    assert read(early) == [b"1", b"2"]
    event = late.take()
    assert event == b"2"
    again = channel.subscribe(channel.send("3"))
    assert again.take() is None
    assert channel.stats().sent == 3


@pytest.mark.parametrize("event", ["a\nb", "a\rb", "a\0b", "\n", "a\ud800b", "\udfff"])
def test_send_event_name_that_cannot_be_one_line_is_refused(event: str) -> None:
    channel = Channel()
    with pytest.raises(ValueError, match="must be one line"):
        channel.send("data", event=event)
    assert channel.stats().sent == 0


@pytest.mark.parametrize("data", [None, 1, ["data"], bytearray(b"data")])
def test_send_data_that_is_neither_text_nor_bytes_is_refused(data: Any) -> None:
    with pytest.raises(TypeError, match="not bytes or str"):
        Channel().send(data)


def test_channel_options_out_of_bounds_are_all_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        Channel(history=-1, limit=0, policy="wait")  # type: ignore[arg-type]
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["history=-1", "limit=0", "policy=wait"]


async def test_subscription_wakes_when_another_thread_sends() -> None:
    channel = Channel()
    subscription = channel.subscribe()
    reading = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    thread = threading.Thread(target=channel.send, args=("from a thread",))
    thread.start()
    assert await asyncio.wait_for(reading, PATIENCE) == b"from a thread"
    thread.join()


async def test_subscription_wait_that_is_cancelled_loses_no_event() -> None:
    channel = Channel()
    subscription = channel.subscribe()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(subscription)
    send_numbers(channel, [1])
    assert await anext(subscription) == b"1"
    reading = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    send_numbers(channel, [2])
    reading.cancel()  # while the wake-up is on its way
    await asyncio.wait([reading])
    assert read(subscription) == [b"2"]


async def test_subscription_wait_is_over_at_once_if_an_event_came_before_it() -> None:
    channel = Channel()
    subscription = channel.subscribe()
    assert subscription.take() is None
    channel.send("between looking and waiting")
    assert await asyncio.wait_for(subscription.wait(), PATIENCE)
    assert subscription.take() is not None
    channel.close()
    assert await asyncio.wait_for(subscription.wait(), PATIENCE)


async def test_channel_forgets_those_who_wait_no_more() -> None:
    channel = Channel()
    readings = [asyncio.ensure_future(anext(channel.subscribe())) for _ in range(10)]
    await asyncio.sleep(0)
    assert len(channel._home.log._waiters) == 1
    for reading in readings:
        reading.cancel()
    await asyncio.wait(readings)
    assert channel._home.log._waiters == {}


def test_channel_survives_a_loop_that_was_closed_under_a_subscriber(caplog: pytest.LogCaptureFixture) -> None:
    channel = Channel()
    loop = asyncio.new_event_loop()
    reading = loop.create_task(anext(channel.subscribe()))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    channel.send("to nobody")
    del reading
    gc.collect()  # asyncio tells of the task now, and not during another test
    caplog.clear()


# Many threads, many loops.


class Follower:
    """Reads a channel in a thread and a loop of its own, with several subscriptions."""

    def __init__(self, channel: Channel, count: int) -> None:
        self._subscriptions = [channel.subscribe() for _ in range(count)]
        self.received: list[list[bytes]] = [[] for _ in range(count)]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()

    async def _run(self) -> None:
        async def follow(subscription: Subscription, received: list[bytes]) -> None:
            async for event in subscription:
                received.append(event)

        await asyncio.gather(*map(follow, self._subscriptions, self.received))

    def join(self) -> list[list[bytes]]:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.received


def test_threads_that_send_at_once_lose_nothing_and_keep_their_order_on_several_loops() -> None:
    thread_count, event_count = 6, 500
    channel = Channel(limit=thread_count * event_count)
    followers = [Follower(channel, 3) for _ in range(2)]
    start = threading.Barrier(thread_count)

    def send(sender: int) -> list[str]:
        start.wait(PATIENCE)
        return [channel.send(f"{sender} {number}") for number in range(event_count)]

    with ThreadPoolExecutor(thread_count) as pool:
        ids = [id for sent in pool.map(send, range(thread_count)) for id in sent]
    channel.close()
    assert len(set(ids)) == thread_count * event_count
    histories = [received for follower in followers for received in follower.join()]
    assert all(history == histories[0] for history in histories)
    by_sender = defaultdict(list)
    for event in histories[0]:
        sender, number = map(int, event.split())
        by_sender[sender].append(number)
    assert by_sender == {sender: list(range(event_count)) for sender in range(thread_count)}
    stats = channel.stats()
    assert (stats.sent, stats.subscribers, stats.dropped) == (thread_count * event_count, 0, 0)


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts its wake-ups from other threads, and its turns."""

    wakeup_count = 0
    turn_count = 0

    # Its arguments pass through.
    def call_soon_threadsafe(self, *args: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]
        self.wakeup_count += 1
        return super().call_soon_threadsafe(*args, **options)

    def _run_once(self) -> None:
        self.turn_count += 1
        super()._run_once()  # type: ignore[misc]


def test_send_wakes_a_loop_once_for_all_its_subscribers_and_these_in_batches() -> None:
    channel = Channel()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        turns: list[int] = []

        async def follow(subscription: Subscription) -> None:
            assert await anext(subscription) == b"1"
            turns.append(loop.turn_count)

        readings = [asyncio.ensure_future(follow(channel.subscribe())) for _ in range(1000)]
        await asyncio.sleep(0)
        before = loop.wakeup_count
        thread = threading.Thread(target=send_numbers, args=(channel, [1, 2, 3]))
        thread.start()
        thread.join()  # blocks the loop on purpose: all three have been sent
        await asyncio.gather(*readings)
        assert loop.wakeup_count - before == 1
        # Ten batches: others have had their turn in between.
        assert turns[-1] - turns[0] >= 8

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main())


def test_subscriptions_on_two_servers_and_another_servers_thread_get_the_same() -> None:
    channel = Channel()

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        return park(environ, channel.subscribe())

    subscription = park({}, channel.subscribe())
    with (
        running_server(application, "asyncio") as one,
        running_server(application, "uvloop") as two,
        one.connect() as client_of_one,
        two.connect() as client_of_two,
        closing(subscription),  # type: ignore[type-var]
    ):
        for client in (client_of_one, client_of_two):
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.receive_head().status_code == 200
        for number in range(3):
            channel.send(b"event %d" % number)
            for client in (client_of_one, client_of_two):
                assert client.read_chunk() == b"event %d" % number
            assert next(subscription) == b"event %d" % number
        channel.close()
        for client in (client_of_one, client_of_two):
            assert client.read_chunk() == b""
        assert list(subscription) == []
    assert channel.stats().subscribers == 0


# Slow subscribers.


def test_slow_subscriber_misses_the_oldest_and_that_is_counted() -> None:
    channel = Channel(history=2, limit=3)
    slow, quick = channel.subscribe(), channel.subscribe()
    for number in range(10):
        send_numbers(channel, [number])
        assert read(quick) == texts([number])
    assert read(slow) == texts([7, 8, 9])
    assert (slow.dropped, quick.dropped) == (7, 0)
    stats = channel.stats()
    assert (stats.dropped, stats.disconnected, stats.subscribers) == (7, 0, 2)


def test_slow_subscriber_under_disconnect_ends_and_that_is_counted() -> None:
    channel = Channel(history=2, limit=3, policy="disconnect")
    slow, quick = channel.subscribe(), channel.subscribe()
    for number in range(3):
        send_numbers(channel, [number])
        read(quick)
    assert read(slow) == texts(range(3))  # at the limit, and not beyond
    for number in range(4):
        send_numbers(channel, [number])
        read(quick)
    assert read(slow) == [b"<end>"]
    assert read(slow) == [b"<end>"]
    stats = channel.stats()
    assert (stats.dropped, stats.disconnected, stats.subscribers) == (0, 1, 1)


def test_channel_keeps_no_more_events_than_history_and_limit() -> None:
    channel = Channel(history=5, limit=7)
    idle = [channel.subscribe() for _ in range(3)]
    send_numbers(channel, range(1000))
    assert len(channel._home.log._items) == 12
    assert [read(subscription) for subscription in idle] == [texts(range(993, 1000))] * 3


# The end.


async def test_close_lets_subscribers_read_to_the_end_and_refuses_more() -> None:
    channel = Channel("orders")
    behind = channel.subscribe()
    waiting = channel.subscribe()
    send_numbers(channel, [1])
    assert await anext(waiting) == b"1"
    reading = asyncio.ensure_future(anext(waiting, b"end"))
    await asyncio.sleep(0)
    channel.close()
    channel.close()
    assert await asyncio.wait_for(reading, PATIENCE) == b"end"
    assert read(behind) == [b"1", b"<end>"]
    assert read(channel.subscribe()) == [b"<end>"]
    assert channel.closed
    with pytest.raises(RuntimeError, match="<Channel 'orders'> is closed"):
        channel.send("late")
    assert channel.stats().subscribers == 0


async def test_subscription_after_aclose_is_at_its_end_and_not_counted() -> None:
    channel = Channel()
    subscription = channel.subscribe()
    assert channel.stats().subscribers == 0
    assert subscription.take() is None
    assert channel.stats().subscribers == 1
    await subscription.aclose()
    await subscription.aclose()
    assert channel.stats().subscribers == 0
    send_numbers(channel, [1])
    assert [event async for event in subscription] == []


# Coming back.


def test_subscribe_after_an_id_replays_what_came_later_and_goes_on() -> None:
    channel = Channel(history=10)
    ids = send_numbers(channel, range(5))
    subscription = channel.subscribe(ids[1])
    send_numbers(channel, [5])
    assert read(subscription) == texts([2, 3, 4, 5])


def test_subscribe_after_an_id_out_of_history_begins_with_reset() -> None:
    channel = Channel(history=3)
    ids = send_numbers(channel, range(6))
    assert read(channel.subscribe(ids[2])) == texts([3, 4, 5])
    subscription = channel.subscribe(ids[1])
    event = subscription.take()
    assert event is not None
    assert (event, event.event, event.id) == (b"", "reset", ids[-1])
    send_numbers(channel, [6])
    assert read(subscription) == [b"6"]


@pytest.mark.parametrize(
    "id", ["0", "-1", "x-1", "{origin}-", "{origin}-7", "{origin}-x", "{origin}-" + "1" * 5000, "²"]
)
def test_subscribe_after_an_id_that_is_unknown_begins_with_reset(id: str) -> None:
    channel = Channel()
    origin = channel.send("1").partition("-")[0]
    event = channel.subscribe(id.replace("{origin}", origin)).take()
    assert event is not None
    assert event.event == "reset"


def test_subscribe_after_an_empty_id_is_as_without() -> None:
    channel = Channel()
    send_numbers(channel, [1])
    assert read(channel.subscribe("")) == []


def test_reset_of_an_empty_channel_has_an_id_to_come_back_with() -> None:
    channel = Channel()
    reset = channel.subscribe("other-1").take()
    assert reset is not None
    send_numbers(channel, [1, 2])
    assert read(channel.subscribe(reset.id)) == texts([1, 2])


def test_ids_of_other_channels_and_forked_processes_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers are the same: taken for this channel's, they would hide a gap."""
    channel = Channel()
    id = channel.send("1")
    assert read(channel.subscribe(id)) == []
    other = Channel()
    other.send("1")
    assert other.subscribe(id).behind is False
    assert read(other.subscribe(id)) == [b""]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert read(channel.subscribe(id)) == [b""]


def test_replay_while_events_arrive_may_be_behind_by_history_and_limit() -> None:
    channel = Channel(history=10, limit=2)
    ids = send_numbers(channel, range(11))
    subscription = channel.subscribe(ids[0])
    send_numbers(channel, [11, 12])
    assert read(subscription) == texts(range(1, 13))
    assert subscription.dropped == 0


def test_replay_that_is_overtaken_is_under_the_policy() -> None:
    channel = Channel(history=10, limit=2)
    ids = send_numbers(channel, range(11))
    subscription = channel.subscribe(ids[0])
    send_numbers(channel, range(11, 14))
    assert read(subscription) == texts([12, 13])
    assert subscription.dropped == 11


class ChannelAgainstAModel(RuleBasedStateMachine):
    """Any order of sending, subscribing, coming back and reading, against a list and some positions in it."""

    HISTORY, LIMIT = 4, 3

    def __init__(self) -> None:
        super().__init__()
        self.channel = Channel(history=self.HISTORY, limit=self.LIMIT)
        self.ids: list[str] = []
        # Of each subscription: the position of its next event, and up to where it replays.
        self.positions: dict[Subscription, tuple[int, int]] = {}
        self.dropped_count = 0

    subscriptions: Bundle[Subscription] = Bundle("subscriptions")

    @rule(count=st.integers(1, 6))
    def send(self, count: int) -> None:
        for _ in range(count):
            self.ids.append(self.channel.send(str(len(self.ids))))

    @rule(target=subscriptions)
    def subscribe(self) -> Subscription:
        subscription = self.channel.subscribe()
        self.positions[subscription] = (len(self.ids), len(self.ids))
        return subscription

    @rule(target=subscriptions, data=st.data())
    def come_back(self, data: st.DataObject) -> Subscription:
        index = data.draw(st.integers(-1, len(self.ids) - 1))
        id = self.ids[index] if index >= 0 else "unknown-1"
        subscription = self.channel.subscribe(id)
        end = len(self.ids)
        if index < 0 or end - 1 - index > self.HISTORY:
            event = subscription.take()
            assert event is not None
            assert event.event == "reset"
            index = end - 1
        self.positions[subscription] = (index + 1, end)
        return subscription

    @rule(subscription=subscriptions, count=st.integers(1, 8))
    def take(self, subscription: Subscription, count: int) -> None:
        for _ in range(count):
            position, live_at = self.positions[subscription]
            end = len(self.ids)
            limit = self.LIMIT + (self.HISTORY if position < live_at else 0)
            if end - position > limit:
                self.dropped_count += end - self.LIMIT - position
                position = end - self.LIMIT
            event = subscription.take()
            if position == end:
                assert event is None
            else:
                assert event is not None
                assert (event, event.id) == (b"%d" % position, self.ids[position])
                position += 1
            self.positions[subscription] = (position, live_at)
        assert self.channel.stats().dropped == self.dropped_count


TestChannelAgainstAModel = ChannelAgainstAModel.TestCase


# As a browser reads it.


class EventSource:
    """The algorithm of the HTML Living Standard, section 9.2.6, word for word."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.comments = 0
        self.retry: str | None = None
        self._last_id = self._data = self._name = ""
        self._rest = ""

    def feed(self, stream: bytes) -> None:
        text = self._rest + stream.decode()
        *lines, self._rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in lines:
            self._line(line)

    def _line(self, line: str) -> None:
        if line == "":
            self._dispatch()
            return
        if line.startswith(":"):
            self.comments += 1
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data += value + "\n"
        elif field == "id" and "\0" not in value:
            self._last_id = value
        elif field == "retry" and value.isdigit():
            self.retry = value

    def _dispatch(self) -> None:
        if self._data:
            self.events.append((self._last_id, self._name or "message", self._data.removesuffix("\n")))
        self._data = self._name = ""


@given(
    data=st.text(st.sampled_from("a:\r\n ż\0{") | st.characters(codec="utf-8"), max_size=30),
    event=st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=10),
)
def test_frame_of_any_event_is_read_as_that_event(data: str, event: str | None) -> None:
    source = EventSource()
    source.feed(Event(data.encode(), "origin-1", event).frame())
    lines = data.replace("\r\n", "\n").replace("\r", "\n")
    assert source.events == [("origin-1", event or "message", lines)]


def test_frame_is_made_once_for_all() -> None:
    channel = Channel()
    subscriptions = [channel.subscribe() for _ in range(2)]
    channel.send("data")
    first, second = (subscription.take() for subscription in subscriptions)
    assert first is not None
    assert second is not None
    assert first.frame() is second.frame()


def place_of(channel: Channel) -> bytes:
    """Return the id of a channel's last event, as given to a browser that has had no event."""
    reset = channel.subscribe("unknown").take()
    assert reset is not None
    return reset.id.encode()


async def test_sse_begins_with_a_block_and_joins_what_has_come() -> None:
    channel = Channel()
    stream = sse(channel, {}, retry=2.5)
    assert await anext(stream) == b"id: %b\nretry: 2500\n\n" % place_of(channel)
    channel.send("one", event="number")
    channel.send("two")
    block = await anext(stream)
    source = EventSource()
    source.feed(block)
    assert [(name, data) for _, name, data in source.events] == [("number", "one"), ("message", "two")]
    await stream.aclose()
    assert [block async for block in stream] == []


async def test_sse_joins_no_more_than_a_transport_holds() -> None:
    channel = Channel()
    stream = sse(channel, {})
    await anext(stream)
    for _ in range(10):
        channel.send(b"x" * 30_000)
    assert [len(await anext(stream)) // 30_000 for _ in range(4)] == [3, 3, 3, 1]


async def test_sse_of_a_channel_that_closes_ends_after_the_last_event() -> None:
    channel = Channel()
    stream = sse(channel, {})
    await anext(stream)
    channel.send("one")
    channel.send("two")
    channel.close()
    assert len([block async for block in stream]) == 1


async def test_sse_silent_channel_sends_comments_and_no_event_is_late() -> None:
    channel = Channel()
    stream = sse(channel, {}, keep_alive=0.02)
    assert (await anext(stream)).startswith(b"id: ")
    began = time.monotonic()
    assert await asyncio.wait_for(anext(stream), PATIENCE) == b":\n\n"
    assert await asyncio.wait_for(anext(stream), PATIENCE) == b":\n\n"
    assert time.monotonic() - began < 2
    channel.send("data")
    assert b"data: data" in await anext(stream)


async def test_sse_comments_come_also_to_one_that_is_woken_for_nothing_again_and_again() -> None:
    channel = Channel()
    stream = sse(channel, {}, keep_alive=0.05)
    await anext(stream)
    comment = asyncio.ensure_future(anext(stream))
    async with asyncio.timeout(PATIENCE):
        while not comment.done():
            channel._home.log.wake()  # type: ignore[union-attr]
            await asyncio.sleep(0.005)
    assert comment.result() == b":\n\n"
    await stream.aclose()


async def test_sse_comments_come_to_each_of_many_at_its_own_time() -> None:
    channel = Channel()
    never = [asyncio.ensure_future(anext(channel.subscribe())) for _ in range(3)]
    streams = [sse(channel, {}, keep_alive=seconds) for seconds in (0.6, 0.01, 0.3)]
    for stream in streams:
        await anext(stream)
    began = time.monotonic()

    async def comment(stream: AsyncIterator[bytes]) -> float:
        assert await anext(stream) == b":\n\n"
        return time.monotonic() - began

    third, first, second = await asyncio.gather(*map(comment, streams))
    assert 0.01 <= first < second < third < 2
    assert second >= 0.3
    assert third >= 0.6
    for reading in never:
        reading.cancel()
    await asyncio.wait(never)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_alive": 0}, "keep_alive=0: must be more than 0, and finite, or None"),
        ({"keep_alive": -1.0}, "keep_alive=-1.0: must be more than 0, and finite, or None"),
        ({"keep_alive": float("nan")}, "keep_alive=nan: must be more than 0, and finite, or None"),
        ({"retry": -1}, "retry=-1: must be at least 0, and finite, or None"),
        ({"retry": float("inf")}, "retry=inf: must be at least 0, and finite, or None"),
    ],
)
def test_sse_with_seconds_that_are_none_is_refused(options: dict[str, float], message: str) -> None:
    channel = Channel()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sse(channel, {}, **options)


async def test_sse_without_keep_alive_only_waits() -> None:
    channel = Channel()
    stream = sse(channel, {}, keep_alive=None)
    await anext(stream)
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    assert all(waiters._timer is None for waiters in channel._home.log._waiters.values())
    channel.close()
    with pytest.raises(StopAsyncIteration):
        await reading


@pytest.mark.parametrize("drop_after", [1, 3, 7])
def test_sse_client_that_reconnects_at_any_point_has_no_gap_and_no_duplicate(drop_after: int) -> None:
    """Over a real server: each connection is broken off in the middle of what it is sent."""
    channel = Channel(history=100)
    event_count = 30
    numbers = itertools.count()

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return park(environ, sse(channel, environ))

    source = EventSource()
    done = threading.Event()

    def send() -> None:
        while not done.is_set() and (number := next(numbers)) < event_count:
            channel.send(str(number))
            time.sleep(0.001)

    with running_server(application) as server:
        sender = threading.Thread(target=send)
        fields: list[str] = []
        while len(source.events) < event_count:
            with server.connect() as client:
                client.send("\r\n".join(["GET / HTTP/1.1", "Host: test", *fields, "", ""]).encode())
                client.receive_head()
                assert client.read_chunk() == (b":\n\n" if fields else b"id: %b\n\n" % place_of(channel))
                if not sender.ident:
                    sender.start()
                wanted = min(event_count, len(source.events) + drop_after)
                while len(source.events) < wanted:
                    source.feed(client.read_chunk())
            fields = [f"Last-Event-ID: {source.events[-1][0]}"]
        done.set()
        sender.join()
    assert [data for _, _, data in source.events] == [str(number) for number in range(event_count)]


def test_sse_reset_reaches_the_browser_as_an_event() -> None:
    channel = Channel()
    channel.send("1")

    async def read_two() -> bytes:
        stream = sse(channel, {"HTTP_LAST_EVENT_ID": "unknown-1"})
        return await anext(stream) + await anext(stream)

    source = EventSource()
    source.feed(asyncio.run(read_two()))
    ((id, name, data),) = source.events
    assert (name, data) == ("reset", "")
    assert read(channel.subscribe(id)) == []


# What it costs.


def test_subscription_that_was_never_read_leaves_nothing_behind() -> None:
    channel = Channel()
    subscriptions = [channel.subscribe() for _ in range(1000)]
    assert channel.stats().subscribers == 0
    del subscriptions
    assert channel._home.log._waiters == {}


async def test_subscription_that_nobody_closes_is_forgotten() -> None:
    channel = Channel()
    for _ in range(3):
        async for event in channel.subscribe("an id that is unknown"):
            assert (event.event, channel.stats().subscribers) == ("reset", 1)
            break
        gc.collect()
        assert channel.stats().subscribers == 0


def test_subscription_that_is_collected_while_an_event_is_sent_is_forgotten() -> None:
    channel = Channel()
    subscriptions = [channel.subscribe()]
    assert subscriptions[0].take() is None

    def make(number: int) -> Event:
        subscriptions.clear()
        return Event(b"event", f"{number}", None)

    channel._home.log.append(make)
    assert channel.stats().subscribers == 0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll a condition for a bounded time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.005)


def test_clients_that_come_and_go_leave_no_subscriber_behind(loop_name: str) -> None:
    channel = Channel()

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        return park(environ, sse(channel, environ))

    with running_server(application, loop_name) as server:
        for _ in range(5):
            clients = [server.connect() for _ in range(20)]
            for client in clients:
                client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                client.receive_head()
                client.read_chunk()
            wait_until(lambda: channel.stats().subscribers == 20, "all are there")
            for client in clients:
                client.reset()
            wait_until(lambda: channel.stats().subscribers == 0, "all are gone")
        engine = server.server.engine
        wait_until(lambda: not server.call(lambda: engine.closing_tasks), "the tasks end")
    assert channel._home.log._waiters == {}
