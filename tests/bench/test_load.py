"""The generator: where responses end, when requests are due, and what counts as answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bench.load.closed_loop import closed_loop, greet
from bench.load.fan_out import FanOut
from bench.load.http import Answer, BadResponse, Request, ResponseReader
from bench.load.open_loop import OUTCOMES, open_loop

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n"

RESPONSES = {
    "length": (HELLO, Answer(200, 5, True)),
    "empty": (b"HTTP/1.1 204 No Content\r\ncontent-length:0\r\n\r\n", Answer(204, 0, True)),
    "chunked": (CHUNKED, Answer(200, 11, True)),
    "closing": (HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), Answer(200, 5, False)),
    "old": (HELLO.replace(b"1.1", b"1.0"), Answer(200, 5, False)),
    "old, kept": (
        HELLO.replace(b"1.1", b"1.0").replace(b"\r\nC", b"\r\nConnection: Keep-Alive\r\nC"),
        Answer(200, 5, True),
    ),
}


def read(*blocks: bytes) -> Answer | None:
    reader = ResponseReader()
    answers = [answer for block in blocks if (answer := reader.feed(block)) is not None]
    assert len(answers) <= 1
    return answers[0] if answers else None


@pytest.mark.parametrize("name", RESPONSES)
def test_response_ends_where_it_ends_however_it_is_split(name: str):
    data, expected = RESPONSES[name]
    assert read(data) == expected
    for place in range(1, len(data)):
        assert read(data[:place], data[place:]) == expected
    assert read(*(bytes([byte]) for byte in data)) == expected
    assert read(data[:-1]) is None


def test_reader_goes_on_with_the_next_response():
    reader = ResponseReader()
    for _ in range(2):
        for data, expected in (RESPONSES["length"], RESPONSES["chunked"]):
            assert reader.feed(data) == expected


def test_response_without_framing_ends_with_the_connection():
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.0 200 OK\r\n\r\nhel") is None
    assert reader.feed(b"lo") is None
    assert reader.feed_end() == Answer(200, 5, False)


@pytest.mark.parametrize("data", [HELLO[:-1], CHUNKED[:-1], b"HTTP/1.1 2"])
def test_response_that_is_cut_short_is_bad(data: bytes):
    reader = ResponseReader()
    reader.feed(data)
    with pytest.raises(BadResponse, match="within a response"):
        reader.feed_end()


def test_end_between_responses_is_no_fault():
    reader = ResponseReader()
    reader.feed(HELLO)
    assert reader.feed_end() is None


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", HELLO + b"x"])
def test_what_is_no_response_is_bad(data: bytes):
    with pytest.raises(BadResponse):
        ResponseReader().feed(data)


def test_request_has_its_fields_and_content():
    request = Request("/a", "POST", {"Cookie": "a=b"}, 3)
    assert request.serialise(80) == (
        b"POST /a HTTP/1.1\r\nHost: 127.0.0.1:80\r\nCookie: a=b\r\nContent-Length: 3\r\n\r\nxxx"
    )


Answerer = Callable[[int], tuple[float, bytes]]


@asynccontextmanager
async def server(answer: Answerer) -> AsyncIterator[int]:
    """Answer the nth request with bytes, after seconds; empty bytes close the connection."""
    count = 0
    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        handlers.add(asyncio.current_task())
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                delay, data = answer(count)
                count += 1
                await asyncio.sleep(delay)
                if not data:
                    break
                writer.write(data)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]
        for handler in handlers:
            handler.cancel()  # from Python 3.12.1 on, the end of the server waits for them


async def test_open_loop_counts_from_when_a_request_was_due():
    # One connection, whose first answer takes 0.3 s: all that were due in that time have waited, and say so.
    async with server(lambda number: (0.3 if number == 0 else 0.0, HELLO)) as port:
        seen = await open_loop(port, Request("/"), profile=[(100, 0.3)], timeout=10, most=1)
    assert seen["words"] == {"200": 30}
    latency = dict(zip([round(at, 2) for at in seen["at"]], seen["latency"], strict=True))
    assert latency[0.0] >= 0.3
    assert latency[0.1] >= 0.2 - 0.02
    assert sum(value > 0.1 for value in latency.values()) >= 15


async def test_open_loop_sends_by_its_profile():
    async with server(lambda number: (0.0, HELLO)) as port:
        seen = await open_loop(port, Request("/"), profile=[(50, 0.2), (100, 0.1)], timeout=10)
    assert sorted(round(at, 3) for at in seen["at"]) == [number / 50 for number in range(10)] + [
        round(0.2 + number / 100, 3) for number in range(10)
    ]
    assert len(seen["late"]) == 20
    assert min(seen["late"]) >= 0


async def test_open_loop_tells_refusals_from_failures():
    refused = HELLO.replace(b"200 OK", b"503 Service Unavailable")
    answers = [HELLO, refused, b"", HELLO.replace(b"200 OK", b"500 No")]
    async with server(lambda number: (0.0, answers[number % 4])) as port:
        seen = await open_loop(port, Request("/"), profile=[(100, 0.4)], timeout=10, most=1)
    assert seen["words"] == {"200": 10, "503": 10, "500": 10, "closed": 10}
    assert [seen["outcome"].count(index) for index in range(len(OUTCOMES))] == [10, 10, 20]


async def test_open_loop_gives_up_what_is_never_answered():
    async with server(lambda number: (3600.0, HELLO)) as port:
        async with asyncio.timeout(20):
            seen = await open_loop(port, Request("/"), profile=[(50, 0.1)], timeout=0.3, most=2)
    assert seen["words"] == {"timeout": 5}
    assert min(seen["latency"]) >= 0.3


async def test_open_loop_without_a_server_fails_each_request():
    async with server(lambda number: (0.0, HELLO)) as port:
        pass
    seen = await open_loop(port, Request("/"), profile=[(50, 0.1)], timeout=5)
    assert seen["words"] == {"connect": 5}


async def test_closed_loop_counts_answers_and_content():
    async with server(lambda number: (0.001, HELLO)) as port:
        seen = await closed_loop(port, Request("/"), connections=3, seconds=0.3)
    assert seen["errors"] == {}
    assert len(seen["latency"]) > 3
    assert seen["received"] == 5 * len(seen["latency"])
    assert min(seen["latency"]) >= 0.001


async def test_closed_loop_tells_errors():
    async with server(lambda number: (0.001, HELLO if number else HELLO.replace(b"200", b"500"))) as port:
        seen = await closed_loop(port, Request("/"), connections=1, seconds=0.3)
    assert seen["errors"] == {"500": 1}


async def test_greeting_finds_connections_that_are_not_served():
    async with server(lambda number: (0.0 if number < 3 else 3600.0, HELLO)) as port:
        assert (await greet(port, Request("/"), connections=3, seconds=10))["answered"] == 3
        assert (await greet(port, Request("/"), connections=5, seconds=0.5))["answered"] == 0


async def test_fan_out_counts_deliveries_to_each_subscriber():
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /subscribe"):
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n:\n\n\r\n")
            writers.append(writer)
            return
        for each in writers:
            each.write(b"data: 1")  # in two pieces, as the network may have it
        await asyncio.sleep(0.01)
        for each in writers:
            each.write(b"000\n\n")
        writer.write(HELLO)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        fan_out = FanOut(listening.sockets[0].getsockname()[1])
        assert await fan_out.connect(4, timeout=10) == {"subscribed": 4}
        seen = await fan_out.publish(3, 0.01, timeout=10)
        fan_out.close()
        for writer in writers:
            writer.close()
    assert (len(seen["delivered"]), seen["expected"], seen["published"]) == (12, 12, 3)
