"""PEP 3333 "Specification Details": the ``close()`` method of what an application returned."""

from __future__ import annotations

import contextvars
import threading

import pytest
from asgiref.local import Local

from tests.pep3333.conftest import PATIENCE, Calls
from tests.raw import Truncated

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


class Closing:
    """An iterable that tells of its ``close()``: where it ran, and that it ran."""

    def __init__(self, calls, blocks):
        self.calls = calls
        self.blocks = blocks

    def __iter__(self):
        return iter(self.blocks)

    def close(self):
        self.calls.put("close")


class ClosingList(list):
    """A list with a ``close()``."""

    calls: Calls

    def close(self):
        self.calls.put("close")


def closing_list(calls, blocks):
    body = ClosingList(blocks)
    body.calls = calls
    return body


def closing_generator(calls, blocks):
    try:
        yield from blocks
    finally:
        calls.put("close")


def failing(error):
    yield b"first"
    raise error


SHAPES = [
    pytest.param(Closing, id="object"),
    pytest.param(closing_list, id="list subclass"),
    pytest.param(closing_generator, id="generator"),
]


def closed_once(calls, server):
    """Assert that ``close()`` has run, and that it has not run twice once the server has gone on."""
    assert calls.take() == "close"
    server.stop()  # all that was under way has ended
    assert calls.empty()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("blocks", [[], [b""], [b"one"], [b"one", b"two"]], ids=["nothing", "empty", "one", "two"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_close_after_a_normal_response_is_called_once(serve, shape, blocks, method):
    # "must call that method upon completion of the current request"
    calls = Calls()

    def application(environ, start_response):
        start_response("200 OK", [])
        return shape(calls, blocks)

    server = serve(application)
    with server.connect() as client:
        assert client.get(method=method).status_code == 200
    closed_once(calls, server)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_close_after_a_response_without_content_is_called_once(serve, status):
    calls = Calls()

    def application(environ, start_response):
        start_response(status, [])
        return Closing(calls, [b"not sent", b"either"])

    server = serve(application)
    with server.connect() as client:
        assert client.get().content == b""
    closed_once(calls, server)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("midway"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()],
    ids=lambda e: type(e).__name__,
)
def test_close_after_an_error_during_iteration_is_called_once(serve, error_log, error):
    # "terminated early due to an application error during iteration"
    calls = Calls()

    def application(environ, start_response):
        start_response("200 OK", [])
        return Closing(calls, failing(error))

    server = serve(application)
    with server.connect() as client, pytest.raises(Truncated):
        client.get()
    closed_once(calls, server)


def test_close_after_an_error_before_the_first_block_is_called_once(serve, error_log):
    calls = Calls()

    class FailingAtOnce(Closing):
        def __iter__(self):
            raise RuntimeError("no iterator")

    server = serve(lambda environ, start_response: (start_response("200 OK", []), FailingAtOnce(calls, []))[1])
    with server.connect() as client:
        assert client.get().status_code == 500
    closed_once(calls, server)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("blocks", [["text"], [b"first", "text"]], ids=["first block", "second block"])
def test_close_after_a_refused_block_is_called_once(serve, error_log, shape, blocks):
    calls = Calls()

    def application(environ, start_response):
        start_response("200 OK", [])
        return shape(calls, blocks)

    server = serve(application)
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        client.read_all()
    closed_once(calls, server)


def test_close_without_any_start_response_is_called_once(serve, error_log):
    calls = Calls()
    server = serve(lambda environ, start_response: Closing(calls, [b"content"]))
    with server.connect() as client:
        assert client.get().status_code == 500
    closed_once(calls, server)


def test_close_after_the_client_has_reset_a_stream_is_called_once(serve):
    # "or an early disconnect of the browser"
    calls = Calls()

    def endless():
        while True:
            yield b"x" * 64 * 1024

    def application(environ, start_response):
        start_response("200 OK", [])
        return Closing(calls, endless())

    server = serve(application)
    client = server.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    assert client.receive_head().status_code == 200
    client.reset()
    closed_once(calls, server)


def test_close_of_a_quiet_stream_whose_client_has_gone_is_called_at_its_next_empty_block(serve):
    # An application that has nothing to send learns of it as well: at whatever it yields.
    calls = Calls()

    def quiet(environ):
        yield b"first"
        calls.put(environ["aiowsgi.disconnected"].wait(PATIENCE))
        yield b""
        calls.put("went on")

    def application(environ, start_response):
        start_response("200 OK", [])
        return Closing(calls, quiet(environ))

    server = serve(application)
    client = server.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    assert client.receive_head().status_code == 200
    assert client.read_chunk() == b"first"
    client.reset()
    assert calls.take() is True
    closed_once(calls, server)


def test_close_when_the_client_has_gone_before_the_answer_is_called_once(serve):
    calls = Calls()

    def application(environ, start_response):
        calls.put("called")
        calls.put(environ["aiowsgi.disconnected"].wait(PATIENCE))
        start_response("200 OK", [])
        return closing_list(calls, [b"for nobody"])

    server = serve(application)
    client = server.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    assert calls.take() == "called"
    client.reset()
    assert calls.take() is True
    closed_once(calls, server)


@pytest.mark.parametrize("ending", ["normal", "HEAD", "error", "disconnect"])
def test_close_runs_in_the_thread_and_context_of_the_call(serve, error_log, ending):
    """A framework that keeps a request's state in a context variable or a thread-local cleans it up in ``close()``."""
    calls = Calls()

    class Body:
        def __iter__(self):
            yield b"first"
            calls.put(("iteration", threading.get_ident(), variable.get()))
            variable.set("during the iteration")
            if ending == "error":
                raise RuntimeError("midway")
            while ending == "disconnect":
                yield b"x" * 64 * 1024

        def close(self):
            calls.put(("close", threading.get_ident(), variable.get()))

    def application(environ, start_response):
        calls.put(("call", threading.get_ident(), variable.get()))
        variable.set("during the call")
        start_response("200 OK", [])
        return Body()

    server = serve(application)
    with server.connect() as client:
        client.send(f"{'HEAD' if ending == 'HEAD' else 'GET'} / HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        client.receive_head()
        if ending == "disconnect":
            client.reset()
        _, thread, value = calls.take()
        assert value == "nothing"
        if ending == "HEAD":
            assert calls.take() == ("close", thread, "during the call")
        else:
            assert calls.take() == ("iteration", thread, "during the call")
            assert calls.take() == ("close", thread, "during the iteration")


def test_what_asgiref_keeps_for_a_thread_outlives_a_request(serve):
    """It does so in a context variable; Django's caches, with their connections, are kept like this."""
    local = Local()
    calls = Calls()

    def application(environ, start_response):
        calls.put((threading.get_ident(), getattr(local, "cache", "nothing")))
        local.cache = "of an earlier request"
        start_response("200 OK", [])
        return [b"content"]

    with serve(application, threads=1, max_threads=1).connect() as client:
        for _ in range(2):
            client.get()
    (first_thread, first), (second_thread, second) = calls.take(), calls.take()
    assert first_thread == second_thread
    assert (first, second) == ("nothing", "of an earlier request")


def test_close_after_an_error_in_the_call_has_nothing_to_close(serve, error_log):
    calls = Calls()

    def application(environ, start_response):
        Closing(calls, [])
        raise RuntimeError("before any iterable")

    server = serve(application)
    with server.connect() as client:
        assert client.get().status_code == 500
    server.stop()
    assert calls.empty()


def test_close_of_a_long_body_runs_once_all_of_it_is_handed_over(serve):
    # "upon completion of the current request": not while blocks are outstanding.
    calls = Calls()

    def blocks():
        for number in range(100):
            calls.put(number)
            yield b"x" * 1000

    def application(environ, start_response):
        start_response("200 OK", [])
        return Closing(calls, blocks())

    with serve(application).connect() as client:
        assert len(client.get().content) == 100_000
    assert [calls.take() for _ in range(101)] == [*range(100), "close"]


def test_response_does_not_wait_for_close(serve):
    # The client has its answer while the application still cleans up.
    released = threading.Event()

    class Slow:
        def __iter__(self):
            yield b"content"

        def close(self):
            assert released.wait(PATIENCE)

    server = serve(lambda environ, start_response: (start_response("200 OK", []), Slow())[1])
    with server.connect() as client:
        assert client.get().content == b"content"
        released.set()
