"""What an application hands over, what becomes of it, and who gets to know when it fails."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from aiowsgi.asgi import ASGIAdapter
from aiowsgi.bridge.pool import ThreadPool
from aiowsgi.errors import ApplicationError, ClientDisconnected
from tests.asgi.conftest import returning
from tests.asgi.conversation import PATIENCE, Conversation, Notes, answer, http_scope, until

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Adapt = Callable[..., ASGIAdapter]


async def test_list_under_httpx_is_one_response_with_content_length(adapt: Adapt) -> None:
    application = returning([b"hello ", b"world"], "201 Created", [("X-Note", "caf\xe9")])
    transport = httpx.ASGITransport(adapt(application))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get("/")
    assert (response.status_code, response.content) == (201, b"hello world")
    assert response.headers.raw == [(b"x-note", b"caf\xe9"), (b"content-length", b"11")]


@pytest.mark.parametrize(
    ("method", "status", "content_length"),
    [("HEAD", "200 OK", "4"), ("GET", "204 No Content", None), ("GET", "304 Not Modified", None)],
)
async def test_response_that_may_have_no_content_has_none(
    adapt: Adapt, method: str, status: str, content_length: str | None
) -> None:
    _, fields, content = await answer(adapt(returning([b"body"], status)), http_scope(method))
    assert content == b""
    assert fields.get("content-length") == content_length


async def test_single_block_of_any_iterable_gets_its_content_length(adapt: Adapt) -> None:
    class One:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"one block"])

    _, fields, content = await answer(adapt(returning(One())), http_scope())
    assert (fields, content) == ({"content-length": "9"}, b"one block")


async def test_generator_is_sent_block_by_block(adapt: Adapt) -> None:
    go_on = threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b""
        yield b"first"
        assert go_on.wait(PATIENCE)
        yield b"second"

    conversation = Conversation(adapt(application), http_scope())
    assert await conversation.start() == (200, {})
    assert (await conversation.sent())["body"] == b"first"
    go_on.set()
    assert await conversation.content() == b"second"
    await conversation.ended()


async def test_write_sends_at_once_and_comes_before_the_iterable(adapt: Adapt) -> None:
    go_on = threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"written, ")
        assert go_on.wait(PATIENCE)
        return [b"returned"]

    conversation = Conversation(adapt(application), http_scope())
    await conversation.start()
    assert (await conversation.sent())["body"] == b"written, "
    go_on.set()
    assert await conversation.content() == b"returned"
    await conversation.ended()


async def test_exc_info_before_the_first_block_replaces_the_head(adapt: Adapt) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("X-Old", "1")])
        yield b""
        try:
            raise ValueError("too late")
        except ValueError:
            start_response("500 Oops", [("X-New", "1")], sys.exc_info())
        yield b"sorry"

    status, fields, content = await answer(adapt(application), http_scope())
    assert (status, fields, content) == (500, {"x-new": "1"}, b"sorry")


async def test_exc_info_after_the_first_block_raises_and_breaks_the_response_off(adapt: Adapt) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        try:
            raise ValueError("too late")
        except ValueError:
            start_response("500 Oops", [], sys.exc_info())
        yield b"never"

    conversation = Conversation(adapt(application), http_scope())
    await conversation.start()
    assert await conversation.sent() == {"type": "http.response.body", "body": b"half", "more_body": True}
    with pytest.raises(ValueError, match="too late"):
        await conversation.ended()
    assert conversation.nothing_sent()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_exit_after_the_head_does_not_reach_the_event_loop(adapt: Adapt, error: BaseException) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        raise error

    conversation = Conversation(adapt(application), http_scope())
    with pytest.raises(ApplicationError, match="broke off") as caught:
        await conversation.ended()
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [SystemExit(3), ValueError("broken")])
async def test_failure_before_the_head_is_500_and_logged_once(
    adapt: Adapt, error: BaseException, error_log: pytest.LogCaptureFixture
) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        raise error

    status, fields, page = await answer(adapt(application), http_scope(path="/broken"))
    assert (status, page) == (500, b"500 Internal Server Error: the application failed to answer\n")
    assert fields == {"content-type": "text/plain; charset=utf-8", "content-length": str(len(page))}
    (record,) = error_log.records
    assert record.getMessage() == f"GET /broken failed: {type(error).__name__}: {error}"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_failure_leaves_no_task_behind(adapt: Adapt) -> None:
    await answer(adapt(returning(None)), http_scope())  # type: ignore[arg-type] # on purpose
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_broken_rule_is_logged_with_its_clause(adapt: Adapt, error_log: pytest.LogCaptureFixture) -> None:
    status, _, _ = await answer(adapt(returning(["text"])), http_scope())  # type: ignore[list-item] # on purpose
    assert status == 500
    (record,) = error_log.records
    assert 'PEP 3333 "A Note On String Types"' in record.getMessage()


async def test_failing_page_for_head_has_no_content(adapt: Adapt) -> None:
    status, fields, page = await answer(adapt(returning(None)), http_scope("HEAD"))  # type: ignore[arg-type] # on purpose
    assert (status, page) == (500, b"")
    assert int(fields["content-length"]) > 0


class Body:
    """An iterable that notes the thread and the context of each call."""

    def __init__(self, notes: Notes, blocks: list[bytes], close_error: Exception | None = None) -> None:
        self._notes = notes
        self._blocks = iter(blocks)
        self._close_error = close_error

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._notes.put(("next", threading.current_thread(), variable.get()))
        return next(self._blocks)

    def close(self) -> None:
        self._notes.put(("close", threading.current_thread(), variable.get()))
        if self._close_error is not None:
            raise self._close_error


variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable", default=None)


async def test_close_comes_once_in_the_thread_and_context_of_the_call(adapt: Adapt) -> None:
    notes = Notes()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        mark = object()
        variable.set(mark)
        notes.put(("call", threading.current_thread(), mark))
        start_response("200 OK", [])
        return Body(notes, [b"a", b"b"])

    await answer(adapt(application), http_scope())
    calls = [notes.get_nowait() for _ in range(notes.qsize())]
    assert [call[0] for call in calls] == ["call", "next", "next", "next", "close"]
    assert len({call[1:] for call in calls}) == 1


async def test_failure_of_close_after_a_whole_response_is_logged_only(
    adapt: Adapt, error_log: pytest.LogCaptureFixture
) -> None:
    body = Body(Notes(), [b"whole"], close_error=OSError("close failed"))
    status, _, content = await answer(adapt(returning(body)), http_scope())
    assert (status, content) == (200, b"whole")
    assert [record.getMessage() for record in error_log.records] == ["GET / failed: OSError: close failed"]


@pytest.mark.parametrize(("fields", "size"), [([], 300_000), ([("Content-Length", "5")], 5)])
async def test_file_wrapper_sends_the_file_and_closes_it(
    adapt: Adapt, tmp_path: Path, fields: list[tuple[str, str]], size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * 1200)
    file = path.open("rb")

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", fields)
        body: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return body

    status, answered, content = await answer(adapt(application), http_scope())
    assert (status, answered) == (200, {"content-length": str(size)})
    assert content == path.read_bytes()[:size]
    assert file.closed


async def test_generator_waits_for_a_slow_client_without_counting_as_a_thread(adapt: Adapt) -> None:
    notes = Notes()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/quick":
            return [b"quick"]
        return (notes.put(number) or bytes(1000) for number in range(100))  # type: ignore[func-returns-value]

    adapter = adapt(application, threads=1, max_threads=2, response_buffer=10_000)
    slow = Conversation(adapter, http_scope(), slow=True)
    await slow.start()
    await until(lambda: adapter.pool.stats().stalled)
    # Ten are in the pipe, and one waits to be.
    assert notes.qsize() == 11
    assert (await answer(adapter, http_scope(path="/quick")))[2] == b"quick"
    assert notes.qsize() == 11
    for _ in range(102):
        slow.let_pass()
    assert len(await slow.content()) == 100_000
    await slow.ended()


class Endless:
    """An application that streams until its client is gone."""

    def __init__(self) -> None:
        self.notes = Notes()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"more"
        finally:
            self.notes.put("closed")


class EndlessWrite:
    """The same through ``write``, which tells it."""

    def __init__(self) -> None:
        self.notes = Notes()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        try:
            while True:
                write(b"more")
        except ClientDisconnected:
            self.notes.put(environ["aiowsgi.disconnected"].is_set())
            raise


def tell(conversation: Conversation) -> None:
    conversation.disconnect()


def fail_to_send(conversation: Conversation) -> None:
    conversation.gone = True


@pytest.mark.parametrize("leave", [tell, fail_to_send])
@pytest.mark.parametrize(("kind", "note"), [(Endless, "closed"), (EndlessWrite, True)])
async def test_client_that_goes_ends_the_stream_quietly(
    adapt: Adapt,
    leave: Callable[[Conversation], None],
    kind: type[Endless | EndlessWrite],
    note: object,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    application = kind()
    conversation = Conversation(adapt(application), http_scope())
    await conversation.start()
    leave(conversation)
    await conversation.ended()
    assert application.notes.take() == note
    assert caplog.records == []


async def test_running_application_is_told_that_its_client_is_gone(adapt: Adapt) -> None:
    notes = Notes()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.put("running")
        notes.put(environ["aiowsgi.disconnected"].wait(PATIENCE))
        notes.put(environ["waitress.client_disconnected"]())
        start_response("200 OK", [])
        return [b"for nobody"]

    conversation = Conversation(adapt(application), http_scope())
    assert await notes.arrive() == "running"
    conversation.disconnect()
    await conversation.ended()
    assert [notes.take(), notes.take()] == [True, True]
    assert conversation.nothing_sent()


async def test_end_of_a_response_is_not_a_disconnection(adapt: Adapt) -> None:
    notes = Notes()

    class Ending(Body):
        def close(self) -> None:
            go_on.wait(PATIENCE)
            notes.put(disconnected())

    go_on = threading.Event()
    disconnected: Callable[[], bool] = lambda: True  # noqa: E731

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal disconnected
        disconnected = environ["aiowsgi.disconnected"].is_set
        start_response("200 OK", [])
        return Ending(Notes(), [b"all"])

    conversation = Conversation(adapt(application), http_scope())
    await conversation.start()
    assert await conversation.content() == b"all"
    conversation.disconnect()  # as uvicorn and httpx do when the response is complete
    for _ in range(10):
        await asyncio.sleep(0)
    go_on.set()
    await conversation.ended()
    assert notes.take() is False


async def test_late_write_after_a_complete_response_ends_with_client_disconnected(adapt: Adapt) -> None:
    notes = Notes()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])

        def write_on() -> None:
            try:
                while True:
                    write(bytes(1000))
            except Exception as error:
                notes.put(error)

        threads.append(threading.Thread(target=write_on, daemon=True))
        raise RuntimeError("on purpose")

    threads: list[threading.Thread] = []
    adapter = adapt(application)
    conversation = Conversation(adapter, http_scope())
    assert (await conversation.start())[0] == 500
    threads[0].start()
    await conversation.ended()
    assert isinstance(await notes.arrive(), ClientDisconnected)
    assert adapter.pool.stats().stalled == 0


async def test_thread_that_waits_for_the_client_s_end_is_told_of_the_end_of_the_call(adapt: Adapt) -> None:
    notes = Notes()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        disconnected = environ["aiowsgi.disconnected"]
        disconnected.add_callback(lambda: notes.put("called"))
        threading.Thread(target=lambda: notes.put(disconnected.wait(PATIENCE)), daemon=True).start()
        start_response("200 OK", [])
        return [b"all"]

    assert (await answer(adapt(application), http_scope()))[2] == b"all"
    assert {await notes.arrive(), await notes.arrive()} == {"called", True}


async def test_queued_request_of_a_client_that_has_gone_never_runs(adapt: Adapt) -> None:
    notes = Notes()
    go_on = threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.put(environ["PATH_INFO"])
        assert go_on.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"done"]

    adapter = adapt(application, threads=1)
    first = Conversation(adapter, http_scope(path="/first"))
    assert await notes.arrive() == "/first"
    second = Conversation(adapter, http_scope(path="/second"))
    await until(lambda: adapter.pool.waiting_count)
    second.disconnect()
    await until(second._incoming.empty)
    go_on.set()
    await second.ended()
    await first.ended()
    assert notes.empty()
    assert second.nothing_sent()


async def test_request_over_the_queue_is_503(adapt: Adapt) -> None:
    notes = Notes()
    go_on = threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.put("running")
        assert go_on.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"done"]

    adapter = adapt(application, threads=1, queue_size=1)
    running = Conversation(adapter, http_scope())
    await notes.arrive()
    waiting = Conversation(adapter, http_scope())
    await until(lambda: adapter.pool.waiting_count)
    status, fields, _ = await answer(adapter, http_scope())
    assert (status, fields["retry-after"]) == (503, "1")
    go_on.set()
    for conversation in (running, waiting):
        assert (await conversation.start())[0] == 200
        await conversation.ended()


@pytest.mark.parametrize("closed", [False, True], ids=["busy", "closed too early"])
async def test_request_that_no_thread_takes_in_time_is_503_and_never_runs(adapt: Adapt, closed: bool) -> None:
    notes = Notes()
    go_on = threading.Event()
    pool = ThreadPool(1, max_threads=1)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.put(environ["PATH_INFO"])
        assert go_on.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"done"]

    adapter = adapt(application, pool=pool, queue_timeout=0.05)
    running = Conversation(adapter, http_scope(path="/runs"))
    await notes.arrive()
    if closed:
        pool.close()
    status, fields, _ = await answer(adapter, http_scope(path="/waits"))
    assert (status, fields["retry-after"]) == (503, "1")
    go_on.set()
    assert (await running.start())[0] == 200
    await running.ended()
    pool.close()
    assert notes.empty()


async def test_cancelled_call_ends_the_application_at_its_next_block(adapt: Adapt) -> None:
    application = EndlessWrite()
    conversation = Conversation(adapt(application), http_scope())
    await conversation.start()
    conversation.call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await conversation.call
    assert await application.notes.arrive() is True


async def test_adapters_with_one_pool_share_its_threads_and_leave_it_open() -> None:
    pool = ThreadPool(1, name="shared")
    names = Notes()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        names.put(threading.current_thread().name)
        start_response("200 OK", [])
        return []

    try:
        for adapter in (ASGIAdapter(application, pool=pool), ASGIAdapter(application, pool=pool)):
            await answer(adapter, http_scope())
            await adapter.aclose()
        assert {names.take(), names.take()} == {"shared-worker-1"}
        done = threading.Event()

        class Job:
            def run(self) -> None:
                done.set()

        pool.submit(Job())
        assert done.wait(PATIENCE)
    finally:
        pool.close()


def test_adapter_serves_one_event_loop_after_another() -> None:
    adapter = ASGIAdapter(returning([b"again"]))

    async def ask() -> Any:
        return (await answer(adapter, http_scope()))[2]

    assert [asyncio.run(ask()), asyncio.run(ask())] == [b"again", b"again"]
    asyncio.run(adapter.aclose())
