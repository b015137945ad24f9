"""The pipes between loop and worker: bounds, order, ends, and who waits. The worker is a thread that steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from aiowsgi.bridge.pipes import ContentPipe, ResponsePipe
from aiowsgi.bridge.pool import ThreadPool
from aiowsgi.errors import ClientDisconnected
from aiowsgi.testing import StepPool
from tests.hosting import PATIENCE, poll


class Work:
    """A job that calls a function and keeps what comes of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._function()
        except Exception as error:
            self.error = error


@pytest.fixture
def pool() -> Iterator[StepPool]:
    pool = StepPool()
    yield pool
    pool.close()


class Worker:
    """Runs functions in the pool's threads, until they end or wait."""

    def __init__(self, pool: StepPool) -> None:
        self.pool = pool

    def start(self, function: Callable[[], Any]) -> Work:
        work = Work(function)
        self.pool.submit(work)
        self.pool.begin()
        return work

    def settle(self) -> None:
        while self.pool.go_on():
            pass

    @property
    def stalled(self) -> int:
        return self.pool.stats().stalled


@pytest.fixture
def worker(pool: StepPool) -> Worker:
    return Worker(pool)


class Count:
    """A callable that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


class Failing(Count):
    """Fails at the first call."""

    def __call__(self) -> None:
        super().__call__()
        if self.calls == 1:
            raise RecursionError


# ResponsePipe.


def test_response_pipe_gives_pieces_in_order_and_the_end(worker: Worker) -> None:
    notify = Count()
    pipe = ResponsePipe(1000, worker.pool.stalled, notify)

    def produce() -> None:
        pipe.write((b"one", b"two"))
        pipe.write((b"three",))
        pipe.finish((b"end",))

    worker.start(produce)
    assert pipe.take() == ([b"one", b"two", b"three", b"end"], True)
    assert notify.calls == 1


def test_response_pipe_notifies_once_until_something_was_taken(worker: Worker) -> None:
    notify = Count()
    pipe = ResponsePipe(1000, worker.pool.stalled, notify)
    worker.start(lambda: [pipe.write((b"x",)) for _ in range(10)])
    assert notify.calls == 1
    pipe.take()
    worker.start(lambda: [pipe.write((b"x",)) for _ in range(10)])
    assert notify.calls == 2
    assert pipe.take() == ([b"x"] * 10, False)
    worker.start(pipe.finish)
    assert notify.calls == 3
    assert pipe.take() == ([], True)


def test_response_pipe_takes_the_block_that_crosses_its_limit_and_stalls_the_next(worker: Worker) -> None:
    pipe = ResponsePipe(10, worker.pool.stalled, Count())

    def produce() -> None:
        for _ in range(5):
            pipe.write((b"12345678",))
        pipe.finish()

    worker.start(produce)
    assert worker.stalled == 1
    assert worker.pool.movable == ()
    taken = []
    ended = False
    while not ended:
        pieces, ended = pipe.take()
        assert len(pieces) <= 2
        taken += pieces
        worker.settle()
    assert taken == [b"12345678"] * 5
    assert worker.stalled == 0


def test_response_pipe_gives_a_portion_at_a_time_and_notifies_of_the_rest(worker: Worker) -> None:
    notify = Count()
    pipe = ResponsePipe(1000, worker.pool.stalled, notify, portion_size=10)

    def produce() -> None:
        pipe.write((b"0123456789abcdef", b"g", b"hi"))
        pipe.finish((b"end",))

    worker.start(produce)
    assert notify.calls == 1
    assert pipe.take() == ([b"0123456789"], False)
    assert notify.calls == 2
    assert pipe.take() == ([b"abcdef", b"g", b"hi", b"e"], False)
    assert notify.calls == 3
    assert pipe.take() == ([b"nd"], True)
    assert notify.calls == 3


def test_response_pipe_of_which_a_portion_was_taken_lets_its_worker_go_on(worker: Worker) -> None:
    pipe = ResponsePipe(10, worker.pool.stalled, Count(), portion_size=10)
    worker.start(lambda: [pipe.write((b"0123456789ab",)) for _ in range(2)])
    assert worker.stalled == 1
    assert pipe.take() == ([b"0123456789"], False)
    worker.settle()
    assert worker.stalled == 0
    assert pipe.take() == ([b"ab"], False)
    worker.start(pipe.finish)
    assert pipe.take() == ([b"0123456789"], False)
    assert pipe.take() == ([b"ab"], True)


def test_response_pipe_finish_never_waits(worker: Worker) -> None:
    pipe = ResponsePipe(1, worker.pool.stalled, Count())

    def produce() -> None:
        pipe.write((b"12345678",))
        pipe.finish((b"end",))

    worker.start(produce)
    assert worker.pool.begun == ()


def test_response_pipe_aborted_wakes_its_worker_with_client_disconnected(worker: Worker) -> None:
    pipe = ResponsePipe(1, worker.pool.stalled, Count())
    work = worker.start(lambda: [pipe.write((b"x",)) for _ in range(3)])
    assert worker.stalled == 1
    pipe.abort()
    worker.settle()
    assert isinstance(work.error, ClientDisconnected)
    assert isinstance(work.error, OSError)
    assert pipe.take() == ([], False)


def test_response_pipe_aborted_wakes_all_threads_that_write() -> None:
    pipe = ResponsePipe(1, lambda ready: nullcontext(), Count())
    pipe.write((b"x",))
    errors: list[Exception] = []

    def write() -> None:
        try:
            pipe.write((b"y",))
        except ClientDisconnected as error:
            errors.append(error)

    threads = [threading.Thread(target=write, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    poll(lambda: len(pipe._room._waiters) == 3)  # type: ignore[attr-defined] # no event tells of it
    pipe.abort()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(errors) == 3


def test_response_pipe_aborted_refuses_the_next_write(worker: Worker) -> None:
    pipe = ResponsePipe(1000, worker.pool.stalled, Count())
    pipe.abort()
    assert isinstance(worker.start(lambda: pipe.write((b"x",))).error, ClientDisconnected)
    assert worker.start(pipe.finish).error is None


def test_response_pipe_whose_notification_fails_announces_what_comes_after_it(pool: StepPool) -> None:
    notify = Failing()
    pipe = ResponsePipe(1000, pool.stalled, notify)
    with pytest.raises(RecursionError):
        pipe.write((b"one",))
    pipe.write((b"two",))
    assert notify.calls == 2
    assert pipe.take() == ([b"one", b"two"], False)


# ContentPipe.


def test_content_pipe_whose_notification_fails_is_not_awaited(pool: StepPool) -> None:
    pipe = ContentPipe(pool.stalled, Failing())
    with pytest.raises(RecursionError):
        pipe.read()
    assert not pipe.awaited


def content(worker: Worker, *blocks: bytes, **options: Any) -> ContentPipe:
    """Return a pipe that holds all of a content."""
    pipe = ContentPipe(worker.pool.stalled, Count(), **options)
    for block in blocks:
        pipe.feed(block)
    pipe.feed_end()
    return pipe


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda pipe: pipe.read(), b"one\ntwo\nthree"),
        (lambda pipe: pipe.read(None), b"one\ntwo\nthree"),
        (lambda pipe: pipe.read(-1), b"one\ntwo\nthree"),
        (lambda pipe: [pipe.read(0), pipe.read(5), pipe.read(100), pipe.read(1)], [b"", b"one\nt", b"wo\nthree", b""]),
        (
            lambda pipe: [pipe.readline(), pipe.readline(2), pipe.readline(0), pipe.readline(-1), pipe.readline()],
            [b"one\n", b"tw", b"", b"o\n", b"three"],
        ),
        (lambda pipe: [pipe.readline(), pipe.readline(), pipe.readline(), pipe.readline()][3], b""),
        (lambda pipe: pipe.readlines(), [b"one\n", b"two\n", b"three"]),
        (lambda pipe: [pipe.readlines(5), pipe.readlines()], [[b"one\n", b"two\n"], [b"three"]]),
        (list, [b"one\n", b"two\n", b"three"]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 13])
def test_content_pipe_reads_as_a_file_does(
    worker: Worker, read: Callable[[ContentPipe], Any], expected: Any, size: int
) -> None:
    whole = b"one\ntwo\nthree"
    pipe = content(worker, *(whole[start : start + size] for start in range(0, len(whole), size)))
    work = worker.start(lambda: read(pipe))
    assert work.error is None
    assert work.result == expected


def test_content_pipe_stalls_its_worker_until_enough_has_arrived(worker: Worker) -> None:
    pipe = ContentPipe(worker.pool.stalled, Count())
    work = worker.start(lambda: pipe.read(5))
    assert worker.stalled == 1
    assert pipe.awaited
    pipe.feed(b"abc")
    worker.settle()
    assert worker.stalled == 1
    pipe.feed(b"defg")
    worker.settle()
    assert work.result == b"abcde"
    assert not pipe.awaited
    assert worker.stalled == 0


def test_content_pipe_returns_less_only_at_the_end(worker: Worker) -> None:
    pipe = ContentPipe(worker.pool.stalled, Count())
    work = worker.start(lambda: [pipe.read(5), pipe.read(5)])
    pipe.feed(b"abc")
    worker.settle()
    pipe.feed_end()
    worker.settle()
    assert work.result == [b"abc", b""]


def test_content_pipe_tells_what_lies_unread_and_when_it_is_taken(worker: Worker) -> None:
    notify = Count()
    pipe = ContentPipe(worker.pool.stalled, notify)
    size = 128 * 1024  # of a block that is not joined with its neighbour
    pipe.feed(b"1" * size)
    pipe.feed(b"2" * size)
    assert pipe.size == 2 * size
    worker.start(lambda: pipe.read(1))
    assert pipe.size == size
    assert notify.calls == 1
    worker.start(lambda: pipe.read(size))
    assert pipe.size == 0
    assert notify.calls == 2


def test_content_pipe_aborted_gives_what_has_arrived_and_then_raises(worker: Worker) -> None:
    pipe = ContentPipe(worker.pool.stalled, Count())
    pipe.feed(b"123")
    pipe.abort(ClientDisconnected("gone"))
    pipe.feed(b"456")
    assert worker.start(lambda: pipe.read(3)).result == b"123"
    for _ in range(2):
        work = worker.start(lambda: pipe.read(1))
        worker.settle()
        assert isinstance(work.error, ClientDisconnected)


def test_content_pipe_aborted_wakes_its_worker(worker: Worker) -> None:
    pipe = ContentPipe(worker.pool.stalled, Count())
    work = worker.start(pipe.read)
    assert worker.stalled == 1
    pipe.abort(ClientDisconnected("gone"))
    worker.settle()
    assert isinstance(work.error, ClientDisconnected)


def test_content_pipe_aborted_after_its_end_is_whole(worker: Worker) -> None:
    pipe = content(worker, b"123")
    pipe.abort(ClientDisconnected("gone"))
    assert worker.start(pipe.read).result == b"123"


@pytest.mark.parametrize("ended", [False, True])
def test_content_pipe_discarded_holds_nothing_and_raises(worker: Worker, ended: bool) -> None:
    notify = Count()
    pipe = ContentPipe(worker.pool.stalled, notify, notify)
    pipe.feed(b"123")
    if ended:
        pipe.feed_end()
    pipe.discard(ClientDisconnected("over"))
    pipe.feed(b"456")
    assert pipe.size == 0
    work = worker.start(pipe.read)  # a thread of the application's own
    worker.settle()
    assert isinstance(work.error, ClientDisconnected)
    assert notify.calls == 0


def test_content_pipe_asks_for_content_once_at_the_first_read(worker: Worker) -> None:
    first_read = Count()
    pipe = ContentPipe(worker.pool.stalled, Count(), first_read)
    assert worker.start(lambda: pipe.read(0)).result == b""
    assert first_read.calls == 0
    worker.start(pipe.read)
    assert first_read.calls == 1
    pipe.feed(b"123")
    pipe.feed_end()
    worker.settle()
    worker.start(pipe.read)
    assert first_read.calls == 1


# With threads that run by themselves.


@contextmanager
def no_stall(ready: Callable[[], bool]) -> Iterator[None]:
    yield


def test_response_pipe_between_threads_loses_nothing() -> None:
    notified = threading.Semaphore(0)
    pipe = ResponsePipe(100, no_stall, notified.release)
    count = 5000

    def produce() -> None:
        for number in range(count):
            pipe.write((b"%d," % number,))
        pipe.finish((b"end",))

    thread = threading.Thread(target=produce)
    thread.start()
    taken: list[bytes] = []
    ended = False
    while not ended:
        assert notified.acquire(timeout=30)
        pieces, ended = pipe.take()
        assert sum(map(len, pieces)) < 100 + 10
        taken += pieces
    thread.join(30)
    assert taken == [b"%d," % number for number in range(count)] + [b"end"]


def test_content_pipe_between_threads_loses_nothing() -> None:
    pool = ThreadPool(1, max_threads=1)
    pipe = ContentPipe(pool.stalled, bool)
    work = Work(lambda: [pipe.readline() for _ in range(5000)])
    done = threading.Event()

    class Last:
        def run(self) -> None:
            done.set()

    pool.submit(work)
    pool.submit(Last())
    for number in range(5000):
        pipe.feed(b"%d\n" % number)
    assert done.wait(30)
    assert work.result == [b"%d\n" % number for number in range(5000)]
    assert pool.stats().stalled == 0
    pool.close()
