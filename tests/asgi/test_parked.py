"""Parked responses inside an ASGI program: the program's loop goes on with them, and no thread is held."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aiowsgi
from aiowsgi.asgi import ASGIAdapter
from tests.asgi.conversation import PATIENCE, Conversation, answer, http_scope, until
from tests.asgi.test_servers import UvicornThread
from tests.redis_process import needs_redis, redis_process

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Adapt = Callable[..., ASGIAdapter]


class Stream(AsyncIterator[bytes]):
    """Yields what the test puts into it, until that is ``None`` or an exception; notes its thread and its closing."""

    def __init__(self, *blocks: Any) -> None:
        self.blocks: asyncio.Queue[Any] = asyncio.Queue()
        for block in blocks:
            self.blocks.put_nowait(block)
        self.taken_count = 0
        self.closed_count = 0
        self.threads: set[int] = set()

    async def __anext__(self) -> bytes:
        self.threads.add(threading.get_ident())
        block = await self.blocks.get()
        self.taken_count += 1
        if block is None:
            raise StopAsyncIteration
        if isinstance(block, BaseException):
            raise block
        assert isinstance(block, bytes)
        return block

    async def aclose(self) -> None:
        self.closed_count += 1


def parking(stream: Any, *own: bytes, status: str = "200 OK", finish: bool = False) -> WSGIApplication:
    """Return an application that sends blocks of its own and parks a stream."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response(status, [("Content-Type", "text/plain")])
        for block in own:
            write(block)
        return aiowsgi.park(environ, stream, finish=finish)

    return application


async def test_parked_stream_goes_on_in_the_loop_behind_the_application_s_own_blocks(adapt: Adapt) -> None:
    stream = Stream(b"two, ", b"three", None)
    status, fields, content = await answer(adapt(parking(stream, b"one, ")), http_scope())
    assert (status, content) == (200, b"one, two, three")
    assert "content-length" not in fields
    assert stream.threads == {threading.get_ident()}
    await until(lambda: stream.closed_count == 1)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks")
async def test_parked_stream_goes_on_where_the_programs_tasks_are_eager(adapt: Adapt) -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 # unknown to Python 3.11
    try:
        stream = Stream(b"two, ", b"three", None)
        status, _, content = await answer(adapt(parking(stream, b"one, ")), http_scope())
        assert (status, content) == (200, b"one, two, three")
        await until(lambda: stream.closed_count == 1)
    finally:
        loop.set_task_factory(None)


async def test_parked_head_is_sent_before_the_first_block(adapt: Adapt) -> None:
    stream = Stream()
    conversation = Conversation(adapt(parking(stream)), http_scope())
    assert (await conversation.start())[0] == 200
    stream.blocks.put_nowait(b"first")
    assert (await conversation.sent())["body"] == b"first"
    stream.blocks.put_nowait(None)
    assert await conversation.content() == b""
    await conversation.ended()


async def test_parked_responses_hold_no_thread(adapt: Adapt) -> None:
    streams = [Stream() for _ in range(20)]
    left = iter(streams)
    adapter = adapt(lambda environ, start_response: parking(next(left))(environ, start_response), 1, max_threads=1)
    conversations = [Conversation(adapter, http_scope()) for _ in streams]
    for conversation in conversations:
        await conversation.start()
    await until(lambda: adapter.pool.stats().running == 0)
    for stream in streams:
        stream.blocks.put_nowait(b"here")
        stream.blocks.put_nowait(None)
    for conversation in conversations:
        assert await conversation.content() == b"here"
        await conversation.ended()


def tell(conversation: Conversation) -> None:
    conversation.disconnect()


def fail_to_send(conversation: Conversation) -> None:
    conversation.gone = True


def cancel(conversation: Conversation) -> None:
    conversation.call.cancel()


@pytest.mark.parametrize("leave", [tell, fail_to_send, cancel])
async def test_client_that_goes_closes_the_parked_stream_once(
    adapt: Adapt, leave: Callable[[Conversation], None]
) -> None:
    stream = Stream(b"first")
    conversation = Conversation(adapt(parking(stream)), http_scope())
    await conversation.start()
    await conversation.sent()
    leave(conversation)
    stream.blocks.put_nowait(b"for nobody")
    if leave is cancel:
        with pytest.raises(asyncio.CancelledError):
            await conversation.ended()
    else:
        await conversation.ended()
    await until(lambda: stream.closed_count)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    assert stream.closed_count == 1


async def test_client_that_goes_before_the_thread_has_done_its_part_closes_the_stream_unbegun(adapt: Adapt) -> None:
    stream = Stream(b"for nobody", None)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"first")
        body = aiowsgi.park(environ, stream)
        assert environ["aiowsgi.disconnected"].wait(PATIENCE)
        return body

    conversation = Conversation(adapt(application), http_scope())
    await conversation.start()
    assert (await conversation.sent())["body"] == b"first"
    conversation.disconnect()
    await conversation.ended()
    await until(lambda: stream.closed_count)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    assert (stream.taken_count, stream.closed_count) == (0, 1)
    assert conversation.nothing_sent()


async def test_slow_client_makes_the_parked_stream_wait(adapt: Adapt) -> None:
    stream = Stream(*[b"block"] * 100, None)
    conversation = Conversation(adapt(parking(stream)), http_scope(), slow=True)
    await conversation.start()
    for _ in range(5):
        conversation.let_pass()
    await until(lambda: stream.taken_count >= 4)
    for _ in range(20):
        await asyncio.sleep(0)
    assert stream.taken_count < 10
    for _ in range(200):
        conversation.let_pass()
    assert await conversation.content() == b"block" * 100
    await conversation.ended()


async def test_parked_stream_that_fails_breaks_the_response_off(adapt: Adapt) -> None:
    stream = Stream(b"half", ValueError("broken"))
    conversation = Conversation(adapt(parking(stream)), http_scope())
    await conversation.start()
    assert await conversation.sent() == {"type": "http.response.body", "body": b"half", "more_body": True}
    with pytest.raises(ValueError, match="broken"):
        await conversation.ended()
    assert conversation.nothing_sent()
    await until(lambda: stream.closed_count == 1)


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content")])
async def test_parked_stream_of_a_response_without_content_is_closed_without_being_begun(
    adapt: Adapt, method: str, status: str
) -> None:
    stream = Stream(b"never")
    assert (await answer(adapt(parking(stream, status=status)), http_scope(method)))[2] == b""
    await until(lambda: stream.closed_count == 1)
    assert not stream.threads


async def test_parked_stream_is_closed_when_the_application_fails_after_it(adapt: Adapt) -> None:
    stream = Stream(b"never")

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        aiowsgi.park(environ, stream)
        raise ValueError("on purpose")

    assert (await answer(adapt(application), http_scope()))[0] == 500
    await until(lambda: stream.closed_count == 1)


async def test_parked_stream_goes_on_behind_a_file(adapt: Adapt, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"file, ")

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        aiowsgi.park(environ, Stream(b"stream", None))
        file: Iterable[bytes] = environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))
        return file

    status, fields, content = await answer(adapt(application), http_scope())
    assert (status, fields, content) == (200, {}, b"file, stream")


async def test_aclose_ends_what_is_parked_between_two_blocks(adapt: Adapt) -> None:
    stream = Stream(b"first")
    adapter = adapt(parking(stream))
    conversation = Conversation(adapter, http_scope())
    await conversation.start()
    assert (await conversation.sent())["body"] == b"first"
    async with asyncio.timeout(PATIENCE):
        await adapter.aclose()
    assert await conversation.content() == b""
    await conversation.ended()
    assert stream.closed_count == 1


async def test_aclose_ends_a_crowd_in_turns_and_each_with_a_farewell(adapt: Adapt) -> None:
    channel = aiowsgi.Channel()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return aiowsgi.park(environ, aiowsgi.sse(channel, environ))

    adapter = adapt(application, drain_rate=40)
    conversations = [Conversation(adapter, http_scope()) for _ in range(20)]
    for conversation in conversations:
        await conversation.start()
        assert (await conversation.sent())["body"].startswith(b"id: ")
    begun = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        await adapter.aclose()
    assert time.monotonic() - begun > 0.4
    farewells = {await conversation.content() for conversation in conversations}
    assert len(farewells) > 15
    assert all(re.fullmatch(rb"retry: \d+\n\n", farewell) for farewell in farewells)


async def test_aclose_does_not_wait_for_ever_for_a_parked_stream_to_close(
    adapt: Adapt, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(Stream):
        async def aclose(self) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

    monkeypatch.setattr("aiowsgi.asgi._CLOSING_SECONDS", 0.05)
    ended = asyncio.Event()
    adapter = adapt(parking(Hanging(b"first")), graceful_timeout=0)
    conversation = Conversation(adapter, http_scope())
    await conversation.start()
    await conversation.sent()
    async with asyncio.timeout(5):  # half of what one may take to close while the program goes on
        await adapter.aclose()
        await ended.wait()


async def test_aclose_waits_for_a_parked_stream_that_finishes(adapt: Adapt) -> None:
    stream = Stream(b"first")
    adapter = adapt(parking(stream, finish=True))
    conversation = Conversation(adapter, http_scope())
    await conversation.start()
    await conversation.sent()
    closing = asyncio.ensure_future(adapter.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    stream.blocks.put_nowait(b" and last")
    stream.blocks.put_nowait(None)
    assert await conversation.content() == b" and last"
    async with asyncio.timeout(PATIENCE):
        await closing


def test_parked_events_under_uvicorn_reach_every_client_on_one_thread() -> None:
    channel = aiowsgi.Channel()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return aiowsgi.park(environ, aiowsgi.sse(channel, environ))

    with UvicornThread(ASGIAdapter(application, threads=1, max_threads=1)) as server:
        clients = [server.connect() for _ in range(5)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.receive_head().status_code == 200
            assert client.read_chunk().startswith(b"id: ")
        channel.send("to all")
        for client in clients:
            assert b"data: to all\n\n" in client.read_chunk()
        clients.pop().reset()
        channel.send("to the others")
        for client in clients:
            assert b"data: to the others\n\n" in client.read_chunk()
        channel.close()
        for client in clients:
            assert client.read_chunk() == b""
            client.close()


@needs_redis
async def test_channel_of_a_broker_reaches_a_client_of_the_program(adapt: Adapt) -> None:
    with redis_process() as redis:
        orders = aiowsgi.Channel("orders", broker=redis.url)

        def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return aiowsgi.park(environ, aiowsgi.sse(orders, environ))

        conversation = Conversation(adapt(application), http_scope())
        await conversation.start()
        # The thread has asked Redis for the channel's place: what is sent from now on is the client's.
        assert (await conversation.sent())["body"] == b"id: 0-0\n\n"
        event_id = await asyncio.to_thread(orders.send, "42", "paid")
        content = b""
        while b"data: " not in content:
            content += (await conversation.sent())["body"]
        assert content.endswith(f"id: {event_id}\nevent: paid\ndata: 42\n\n".encode())
        conversation.disconnect()
        await conversation.ended()
        await until(lambda: redis.client_count() <= 2)  # those of threads: what reads is closed
