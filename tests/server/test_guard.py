"""Requests that take too long: told of, given up, and the threads that they hold."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from aiowsgi import Server, ThreadPool
from aiowsgi.bridge.pool import Job
from aiowsgi.config import Config
from aiowsgi.errors import ConfigError
from aiowsgi.server.guard import RequestGuard
from aiowsgi.server.stacks import shortened, stack_report
from aiowsgi.testing import MemoryServer
from tests.conftest import ServerThread
from tests.hosting import request
from tests.process.server_process import PATIENCE, wait_until
from tests.raw import RawClient, Truncated

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Serve = Callable[..., ServerThread]
GET_STUCK = b"GET /stuck?a=b HTTP/1.1\r\nHost: test\r\n\r\n"


class Stuck:
    """An application whose ``/stuck`` and ``/stream`` wait until they are released; ``/endless`` never ends."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/stuck":
            self.entered.release()
            assert self.released.wait(PATIENCE)
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/stream":
            return self._stream()
        if environ["PATH_INFO"] == "/endless":
            return itertools.repeat(bytes(64 * 1024))
        return [b"done"]

    def _stream(self) -> Iterable[bytes]:
        yield b"first"
        self.entered.release()
        assert self.released.wait(PATIENCE)
        yield b"last"


@pytest.fixture
def stuck() -> Iterable[Stuck]:
    application = Stuck()
    yield application
    application.released.set()


def stuck_count(server: ServerThread) -> int:
    count: int = server.call(lambda: server.server.stats().threads.stuck)
    return count


def send(client: RawClient, stuck: Stuck, data: bytes = GET_STUCK) -> None:
    client.send(data)
    assert stuck.entered.acquire(timeout=PATIENCE)


def test_slow_request_is_told_once_with_its_stack(
    serve: Serve, stuck: Stuck, error_log: pytest.LogCaptureFixture
) -> None:
    server = serve(stuck, slow_request=0.1)
    with server.connect() as client:
        send(client, stuck)
        wait_until(lambda: "has run for" in error_log.text, "the report")
        stuck.released.set()
        assert client.receive().content == b"done"
        assert client.get("/").content == b"done"
    (record,) = [record for record in error_log.records if "has run for" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert "GET '/stuck?a=b', " in record.getMessage()
    assert "assert self.released.wait(PATIENCE)" in record.getMessage()


def test_request_over_its_time_is_answered_504_and_its_thread_replaced(
    serve: Serve, stuck: Stuck, error_log: pytest.LogCaptureFixture
) -> None:
    server = serve(stuck, request_timeout=0.1, threads=2, max_threads=4)
    with server.connect() as first, server.connect() as second:
        for client in (first, second):
            send(client, stuck)
        for client in (first, second):
            response = client.receive()
            assert response.status_code == 504
            assert response.value("Connection") == "close"
        wait_until(lambda: stuck_count(server) == 2, "two stuck threads")
        assert error_log.text.count("is given up") == 2
        with server.connect() as third:
            assert third.get("/").content == b"done"
        stuck.released.set()
        wait_until(lambda: stuck_count(server) == 0, "free threads")
    assert "is free again" in error_log.text
    assert "max_threads" not in error_log.text


def test_answer_that_came_just_before_it_would_be_given_up_is_sent() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["aiowsgi.disconnected"].wait(20)
        start_response("200 OK", [])
        return Answer([b"done"])

    class Answer(list[bytes]):
        def close(self) -> None:
            server.pool.pause()

    with MemoryServer(application, request_timeout=10) as server:
        guard = RequestGuard(server.engine, None)
        client = server.connect()
        client.send(request())
        server.settle()
        server.loop.advance(20)
        assert server.pool.step()
        guard._look()  # before the loop has heard of the answer
        server.settle()
        assert server.engine.stuck_count == 1
        assert client.read().endswith(b"done")


def test_stuck_threads_are_no_more_than_max_threads_and_other_requests_get_503(
    serve: Serve, stuck: Stuck, error_log: pytest.LogCaptureFixture
) -> None:
    server = serve(stuck, request_timeout=0.1, threads=2, max_threads=3, queue_timeout=0.5)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(6)]
        for client in clients[:3]:
            send(client, stuck)
            assert client.receive().status_code == 504
        for client in clients[3:]:
            client.send(GET_STUCK)
        for client in clients[3:]:
            assert client.receive().status_code == 503
        assert stuck_count(server) == 3
        assert not stuck.entered.acquire(blocking=False)
        stuck.released.set()
        wait_until(lambda: stuck_count(server) == 0, "free threads")
    with server.connect() as client:
        assert client.get("/").content == b"done"
    texts = [record.getMessage() for record in error_log.records if "is given up" in record.getMessage()]
    assert ["max_threads is reached" in text for text in texts] == [False, True, True]


def test_thread_that_is_stalled_and_stuck_has_one_successor(
    serve: Serve, stuck: Stuck, error_log: pytest.LogCaptureFixture
) -> None:
    options = {"request_timeout": 0.2, "request_timeout_actions": ("log",)}
    server = serve(stuck, threads=1, max_threads=2, **options)
    with server.connect() as download, server.connect() as client:
        download.send(b"GET /endless HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until(lambda: server.call(server.server.stats).threads.stalled == 1, "the download to stall")
        wait_until(lambda: "is given up" in error_log.text, "the download to be given up")
        assert stuck_count(server) == 1
        assert client.get("/").content == b"done"
    wait_until(lambda: stuck_count(server) == 0, "a free thread")
    # There would have been no room for two.
    assert "max_threads is reached" not in error_log.text


class Held:
    """A job that waits until it may end."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.may_end = threading.Event()

    def run(self) -> None:
        self.running.set()
        assert self.may_end.wait(PATIENCE)


def assert_runs_one_at_a_time(pool: ThreadPool) -> None:
    jobs = [Held(), Held()]
    try:
        for job in jobs:
            pool.submit(job)
        assert jobs[0].running.wait(PATIENCE)
        stats = pool.stats()
        assert (stats.waiting, stats.running) == (1, 1)
    finally:
        for job in jobs:
            job.may_end.set()


def test_stuck_thread_of_a_shared_pool_is_one_of_its_threads_again_after_the_end_of_its_server(
    loop_name: str, stuck: Stuck
) -> None:
    pool = ThreadPool(1)
    server = ServerThread(Server(stuck, bind=["127.0.0.1:0"], pool=pool, request_timeout=0.1), loop_name)
    server.start()
    try:
        with server.connect() as client:
            send(client, stuck)
            assert client.receive().status_code == 504
        server.stop(graceful=0)
        stuck.released.set()
        wait_until(lambda: pool.stats().idle == 1, "a free thread")
        assert_runs_one_at_a_time(pool)
    finally:
        stuck.released.set()
        server.stop()
        pool.close()


def test_request_that_ends_while_it_is_given_up_leaves_its_pool_as_it_was(loop_name: str, stuck: Stuck) -> None:
    class LatePool(ThreadPool):
        def mark_stuck(self, job: Job, thread_id: int | None) -> bool:
            assert thread_id is not None
            stuck.released.set()
            wait_until(lambda: self.stats().idle == 1, "the request's end")
            has_room = super().mark_stuck(job, thread_id)
            marked.set()
            return has_room

    marked = threading.Event()
    pool = LatePool(1)
    own = Server(stuck, bind=["127.0.0.1:0"], pool=pool, request_timeout=0.1, request_timeout_actions=("log",))
    server = ServerThread(own, loop_name)
    server.start()
    try:
        with server.connect() as client:
            send(client, stuck)
            assert client.receive().content == b"done"
        assert marked.wait(PATIENCE)
        wait_until(lambda: stuck_count(server) == 0, "a free thread")
        assert_runs_one_at_a_time(pool)
    finally:
        stuck.released.set()
        server.stop()
        pool.close()


def test_response_over_its_time_is_broken_off_visibly(serve: Serve, stuck: Stuck) -> None:
    server = serve(stuck, request_timeout=0.1)
    with server.connect() as client:
        send(client, stuck, b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
        with pytest.raises((Truncated, ConnectionResetError)):
            client.receive()


def test_request_over_its_time_is_only_logged_where_no_more_is_asked_for(
    serve: Serve, stuck: Stuck, error_log: pytest.LogCaptureFixture
) -> None:
    server = serve(stuck, request_timeout=0.1, request_timeout_actions=("log",))
    with server.connect() as client:
        send(client, stuck)
        wait_until(lambda: "is given up" in error_log.text, "the report")
        stuck.released.set()
        assert client.receive().content == b"done"


def test_one_thread_stays_one_where_an_application_is_not_safe_in_two(serve: Serve, stuck: Stuck) -> None:
    server = serve(stuck, request_timeout=0.1, threads=1)
    with server.connect() as first, server.connect() as second:
        send(first, stuck)
        assert first.receive().status_code == 504
        second.send(GET_STUCK)
        wait_until(lambda: server.call(lambda: server.server.stats().requests.waiting) == 1, "a request that waits")
        assert not stuck.entered.acquire(blocking=False)
        stuck.released.set()
        assert second.receive().status_code == 200


def test_recycling_is_asked_for_once_where_more_than_a_share_of_the_threads_is_stuck(
    loop_name: str, stuck: Stuck
) -> None:
    reasons: list[str] = []
    own = Server(stuck, bind=["127.0.0.1:0"], request_timeout=0.1, threads=4, stuck_threads=0.25)
    own.on_recycle = reasons.append
    server = ServerThread(own, loop_name)
    server.start()
    clients = [server.connect() for _ in range(3)]
    try:
        send(clients[0], stuck)
        assert clients[0].receive().status_code == 504
        wait_until(lambda: stuck_count(server) == 1, "one stuck thread")
        assert reasons == []
        for client in clients[1:]:
            send(client, stuck)
            assert client.receive().status_code == 504
        wait_until(lambda: stuck_count(server) == 3, "three stuck threads")
        assert reasons == ["2 of 4 threads are stuck"]
    finally:
        for client in clients:
            client.close()
        stuck.released.set()
        server.stop()


def test_stack_report_names_each_thread_and_its_request(serve: Serve, stuck: Stuck) -> None:
    server = serve(stuck)
    with server.connect() as client:
        send(client, stuck)
        report = stack_report(server.server.engine)
        again = stack_report(server.server.engine)
        stuck.released.set()
        client.receive()
    (line,) = [line for line in report.splitlines() if "GET '/stuck?a=b'" in line]
    assert line.startswith("thread aiowsgi-")
    assert line.endswith(", running")
    request_id = line.partition("request ")[2].partition(" ")[0]
    assert f"request {request_id} GET" in again
    assert "thread server under test" in report
    assert "thread MainThread" in report
    assert ", which writes this" in report


def test_stack_report_shows_the_end_of_a_recursion_that_runs_away() -> None:
    reports: list[str] = []

    def recur(depth: int) -> None:
        if depth:
            recur(depth - 1)
        else:
            reports.append(stack_report(None, sys._getframe()))

    recur(300)
    (report,) = reports
    assert " more\n" in report
    assert "more times]\n" in report
    assert report.count(", in recur\n") < 50


def test_report_of_stacks_that_is_too_long_ends_with_a_word_of_that() -> None:
    text = "é" * 1000
    assert shortened(text, 6002) == text  # an escape of six bytes for each
    assert shortened(text, 3001) == "é" * 500 + "\n... 500 more characters: SIGUSR1 has all of it logged"


@pytest.mark.parametrize("actions", [("log", "sing"), ("503",)])
def test_unknown_action_is_refused(actions: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="must be one of log, 504, recycle"):
        Config(request_timeout_actions=actions)


def test_actions_may_be_one_text_with_commas() -> None:
    assert Config(request_timeout_actions=("log,504",)).timeout_actions == ("log", "504")
