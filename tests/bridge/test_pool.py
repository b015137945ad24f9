"""The thread pool: growing, stalling, ending. Real threads, which wait for each other and never for time to pass."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest

import aiowsgi.bridge.jobs
import aiowsgi.bridge.pool
from aiowsgi.bridge.pool import ThreadPool, is_at_work
from aiowsgi.testing import StepPool
from tests.recursion import MARGINS, near_the_limit

LONG = 30.0


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll for a condition that no event announces, such as that a thread has come to rest."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0)


class Task:
    """A job that signals when it runs, and ends when it is told to; in between it may be stalled."""

    def __init__(self, pool: ThreadPool, stalls: bool = False) -> None:
        self.pool = pool
        self._stalls = stalls
        self.running = threading.Event()
        self.client_ready = threading.Event()
        self.going_on = threading.Event()
        self.may_end = threading.Event()
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None

    def run(self) -> None:
        self.thread = threading.current_thread()
        self.running.set()
        if self._stalls:
            with self.pool.stalled(self.client_ready.is_set):
                assert self.client_ready.wait(LONG)
            self.going_on.set()
        assert self.may_end.wait(LONG)
        self.ended.set()


class Tasks:
    """Makes tasks, submits them and ends them all."""

    def __init__(self, pool: ThreadPool) -> None:
        self.pool = pool
        self.made: list[Task] = []

    def submit(self, count: int = 1, stalls: bool = False) -> list[Task]:
        tasks = [Task(self.pool, stalls) for _ in range(count)]
        self.made += tasks
        for task in tasks:
            self.pool.submit(task)
        return tasks

    def end(self) -> None:
        for task in self.made:
            task.client_ready.set()
            task.may_end.set()
        for task in self.made:
            assert task.ended.wait(LONG)


@pytest.fixture
def make() -> Iterator[Callable[..., Tasks]]:
    made: list[Tasks] = []

    def make(threads: int, **options: object) -> Tasks:
        options.setdefault("name", "test-pool")
        tasks = Tasks(ThreadPool(threads, **options))  # type: ignore[arg-type]
        made.append(tasks)
        return tasks

    yield make
    for tasks in made:
        tasks.end()
        tasks.pool.close()
    wait_for(lambda: not threads_named("test-pool"))


def threads_named(prefix: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


def all_running(tasks: list[Task]) -> bool:
    return all(task.running.wait(LONG) for task in tasks)


def test_pool_starts_no_thread_before_a_job(make: Callable[..., Tasks]) -> None:
    make(4)
    assert threads_named("test-pool") == []


def test_pool_grows_with_demand_up_to_its_size(make: Callable[..., Tasks]) -> None:
    tasks = make(3)
    for count in range(1, 4):
        assert all_running(tasks.submit())
        assert len(threads_named("test-pool")) == count
    waiting = tasks.submit(5)
    assert tasks.pool.waiting_count == 5
    assert len(threads_named("test-pool")) == 3
    assert not any(task.running.is_set() for task in waiting)
    stats = tasks.pool.stats()
    assert (stats.waiting, stats.running, stats.stalled, stats.idle) == (5, 3, 0, 0)


def test_pool_runs_jobs_in_the_order_of_their_submission(make: Callable[..., Tasks]) -> None:
    tasks = make(1)
    order: list[int] = []
    done = threading.Event()

    class Numbered:
        def __init__(self, number: int) -> None:
            self.number = number

        def run(self) -> None:
            order.append(self.number)
            if self.number == 99:
                done.set()

    for number in range(100):
        tasks.pool.submit(Numbered(number))
    assert done.wait(LONG)
    assert order == list(range(100))


def test_pool_uses_a_thread_that_is_idle_again(make: Callable[..., Tasks]) -> None:
    tasks = make(4)
    used = set()
    for _ in range(20):
        (task,) = tasks.submit()
        assert task.running.wait(LONG)
        used.add(task.thread)
        task.may_end.set()
        wait_for(lambda: tasks.pool.stats().idle == 1)
    assert len(used) == 1


def test_pool_names_its_threads(make: Callable[..., Tasks]) -> None:
    tasks = make(2, name="test-pool-of-words")
    assert all_running(tasks.submit(2))
    assert {thread.name for thread in threads_named("test-pool")} == {
        "test-pool-of-words-worker-1",
        "test-pool-of-words-worker-2",
    }
    assert all(thread.daemon for thread in threads_named("test-pool"))


def test_pool_without_a_name_has_one_of_its_own() -> None:
    pool = ThreadPool(1)
    task = Task(pool)
    pool.submit(task)
    assert task.running.wait(LONG)
    assert task.thread is not None
    assert task.thread.name.startswith("aiowsgi-")
    assert task.thread.name.endswith("-worker-1")
    task.may_end.set()
    pool.close()


def test_pool_shrinks_after_the_idle_timeout_and_grows_again(make: Callable[..., Tasks]) -> None:
    tasks = make(3, idle_timeout=0.01)
    assert all_running(tasks.submit(3))
    tasks.end()
    wait_for(lambda: not threads_named("test-pool"))
    stats = tasks.pool.stats()
    assert (stats.waiting, stats.running, stats.stalled, stats.idle) == (0, 0, 0, 0)
    assert all_running(tasks.submit(3))


def test_pool_whose_threads_end_all_the_time_loses_no_job(make: Callable[..., Tasks]) -> None:
    # An idle timeout of nearly nothing: threads retire while jobs are put.
    tasks = make(2, idle_timeout=0.0001)
    count = 2000
    done = threading.Semaphore(0)

    class Signal:
        def run(self) -> None:
            done.release()

    for number in range(count):
        tasks.pool.submit(Signal())
        if number % 3 == 0:
            assert done.acquire(timeout=LONG)
    for _ in range(count - (count + 2) // 3):
        assert done.acquire(timeout=LONG)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_pool_survives_a_job_that_raises_anything(
    make: Callable[..., Tasks], error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    tasks = make(1)

    class Faulty:
        def run(self) -> None:
            raise error("fault of a test")

    tasks.pool.submit(Faulty())
    (task,) = tasks.submit()
    assert task.running.wait(LONG)
    assert "fault of a test" in caplog.text
    assert len(threads_named("test-pool")) == 1


class Late(BaseException):
    """An exception that another thread sets for a request which has already ended."""


def interrupt(ident: int) -> None:
    """Have :class:`Late` raised in a thread, as libraries do that end a request from outside."""
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Late)) == 1


def test_pool_whose_idle_thread_is_interrupted_has_another(
    make: Callable[..., Tasks], caplog: pytest.LogCaptureFixture
) -> None:
    tasks = make(1)
    (first,) = tasks.submit()
    assert all_running([first])
    tasks.end()
    wait_for(lambda: tasks.pool.stats().idle == 1)
    assert first.thread is not None
    assert first.thread.ident is not None
    interrupt(first.thread.ident)
    later = tasks.submit(2)  # wakes the thread, in which it is raised then
    for task in later:
        assert task.running.wait(LONG)
        task.may_end.set()
    wait_for(lambda: tasks.pool.stats().idle == len(threads_named("test-pool")) == 1)
    assert "a worker thread ended between two jobs" in caplog.text


def test_pool_whose_thread_is_interrupted_anywhere_loses_none(
    make: Callable[..., Tasks], caplog: pytest.LogCaptureFixture
) -> None:
    tasks = make(1)
    idents: queue.SimpleQueue[int] = queue.SimpleQueue()

    class Short:
        def run(self) -> None:
            idents.put(threading.get_ident())

    class Nothing:
        def run(self) -> None:
            pass

    for number in range(200):
        tasks.pool.submit(Short())
        ident = idents.get(timeout=LONG)
        for _ in range(number):  # so that it comes at another place each time
            pass
        interrupt(ident)
        wait_for(lambda: tasks.pool.stats().waiting == 0)
        if len(caplog.records) == number:  # the thread waits for a job: it is raised once one comes
            tasks.pool.submit(Nothing())
        wait_for(lambda count=number + 1: len(caplog.records) == count)  # type: ignore[misc]
    wait_for(lambda: tasks.pool.stats().idle == len(threads_named("test-pool")) == 1)
    (task,) = tasks.submit()
    assert task.running.wait(LONG)
    assert tasks.pool.stats().idle == 0


# Stalled threads.


def test_pool_with_stalled_threads_runs_as_many_others(make: Callable[..., Tasks]) -> None:
    tasks = make(2)
    downloads = tasks.submit(10, stalls=True)
    assert all_running(downloads)
    wait_for(lambda: tasks.pool.stats().stalled == 10)
    assert all_running(tasks.submit(2))  # the eleventh and the twelfth
    (waiting,) = tasks.submit()
    stats = tasks.pool.stats()
    assert (stats.waiting, stats.running, stats.stalled) == (1, 2, 10)
    assert not waiting.running.is_set()


def test_pool_with_stalled_threads_never_exceeds_max_threads(make: Callable[..., Tasks]) -> None:
    tasks = make(2, max_threads=5)
    assert all_running(tasks.submit(5, stalls=True))
    wait_for(lambda: tasks.pool.stats().stalled == 5)
    waiting = tasks.submit(3)
    assert len(threads_named("test-pool")) == 5
    assert tasks.pool.waiting_count == 3
    assert not any(task.running.is_set() for task in waiting)
    tasks.made[0].client_ready.set()
    tasks.made[0].may_end.set()
    assert waiting[0].running.wait(LONG)
    assert len(threads_named("test-pool")) == 5


def test_pool_whose_size_is_max_threads_holds_to_it(make: Callable[..., Tasks]) -> None:
    tasks = make(1, max_threads=1)
    (stalled,) = tasks.submit(1, stalls=True)
    assert stalled.running.wait(LONG)
    wait_for(lambda: tasks.pool.stats().stalled == 1)
    (waiting,) = tasks.submit()
    assert not waiting.running.is_set()
    stalled.client_ready.set()
    assert stalled.going_on.wait(LONG)
    assert not waiting.running.is_set()


def test_stall_that_fails_close_to_the_recursion_limit_is_none(make: Callable[..., Tasks]) -> None:
    tasks = make(1)
    pool = tasks.pool
    failed: list[tuple[int, dict[int, int]]] = []

    class Deep(Task):
        def run(self) -> None:
            for margin in MARGINS:
                try:
                    near_the_limit(margin, self.stall)
                except RecursionError:
                    failed.append((pool.stats().stalled, dict(pool.transition_counts())))
            super().run()

        def stall(self) -> None:
            with pool.stalled(bool):
                pass

    task = Deep(pool)
    tasks.made.append(task)
    pool.submit(task)
    assert task.running.wait(LONG)
    assert 0 < len(failed) < len(MARGINS)
    for stalled, counts in failed:
        assert stalled == 0
        assert all(map(is_at_work, counts.values()))
    assert pool._allowed_count == 1


def test_pool_is_back_to_its_size_once_nothing_is_stalled(make: Callable[..., Tasks]) -> None:
    tasks = make(2)
    downloads = tasks.submit(10, stalls=True)
    assert all_running(downloads)
    wait_for(lambda: tasks.pool.stats().stalled == 10)
    for download in downloads:
        download.client_ready.set()
    assert all(download.going_on.wait(LONG) for download in downloads)
    assert tasks.pool.stats().stalled == 0
    for download in downloads:
        download.may_end.set()
    # Each surplus thread ends with its job, not after an idle timeout.
    wait_for(lambda: len(threads_named("test-pool")) == 2)
    assert all_running(tasks.submit(2))
    tasks.submit(2)
    assert len(threads_named("test-pool")) == 2


def test_pool_lets_a_waiting_job_begin_as_soon_as_a_thread_stalls(make: Callable[..., Tasks]) -> None:
    tasks = make(1, max_threads=2)
    gate = threading.Event()

    class LateStall(Task):
        def run(self) -> None:
            assert gate.wait(LONG)
            super().run()

    first = LateStall(tasks.pool, stalls=True)
    tasks.made.append(first)
    tasks.pool.submit(first)
    (second,) = tasks.submit()
    assert not second.running.is_set()
    gate.set()
    assert second.running.wait(LONG)


# Stuck threads.


def mark_stuck(task: Task) -> bool:
    """Mark a task that runs, or ran; tell whether its thread may have a successor."""
    assert task.thread is not None
    return task.pool.mark_stuck(task, task.thread.ident)


def test_pool_with_stuck_threads_runs_others_and_never_exceeds_max_threads(make: Callable[..., Tasks]) -> None:
    tasks = make(2, max_threads=4)
    stuck = tasks.submit(2)
    assert all_running(stuck)
    assert mark_stuck(stuck[0]) is True
    assert mark_stuck(stuck[1]) is True
    others = tasks.submit(2)
    assert all_running(others)
    assert mark_stuck(others[1]) is False
    waiting = tasks.submit(2, stalls=True)
    assert len(threads_named("test-pool")) == 4
    assert not any(task.running.is_set() for task in waiting)
    others[0].may_end.set()
    assert waiting[0].running.wait(LONG)
    wait_for(lambda: tasks.pool.stats().stalled == 1)
    assert len(threads_named("test-pool")) == 4
    assert not waiting[1].running.is_set()


def test_pool_is_back_to_its_size_once_nothing_is_stuck(make: Callable[..., Tasks]) -> None:
    tasks = make(2)
    stuck = tasks.submit(2)
    assert all_running(stuck)
    for task in stuck:
        mark_stuck(task)
    others = tasks.submit(2)
    assert all_running(others)
    for task in stuck:
        task.may_end.set()
    wait_for(lambda: len(threads_named("test-pool")) == 2)
    assert tasks.pool.waiting_count == 0
    assert not any(task.ended.is_set() for task in others)
    (waiting,) = tasks.submit()
    assert tasks.pool.waiting_count == 1
    assert not waiting.running.is_set()


def test_pool_has_one_thread_more_for_one_that_is_stalled_and_stuck(make: Callable[..., Tasks]) -> None:
    tasks = make(1)
    (task,) = tasks.submit(stalls=True)
    wait_for(lambda: tasks.pool.stats().stalled == 1)
    mark_stuck(task)
    (other, waiting) = tasks.submit(2)
    assert other.running.wait(LONG)
    task.client_ready.set()  # now it is stuck, but not stalled
    assert task.going_on.wait(LONG)
    assert tasks.pool.stats().stalled == 0
    assert len(threads_named("test-pool")) == 2
    assert not waiting.running.is_set()
    task.may_end.set()
    wait_for(lambda: len(threads_named("test-pool")) == 1)
    assert not waiting.running.is_set()
    other.may_end.set()
    assert waiting.running.wait(LONG)


def test_pool_has_one_thread_more_for_one_that_stalls_when_it_is_stuck(make: Callable[..., Tasks]) -> None:
    tasks = make(1)
    may_stall = threading.Event()

    class LateStall(Task):
        def run(self) -> None:
            self.thread = threading.current_thread()
            self.running.set()
            assert may_stall.wait(LONG)
            super().run()

    task = LateStall(tasks.pool, stalls=True)
    tasks.made.append(task)
    tasks.pool.submit(task)
    assert task.running.wait(LONG)
    mark_stuck(task)
    other, waiting = tasks.submit(2)
    assert other.running.wait(LONG)
    may_stall.set()
    wait_for(lambda: tasks.pool.stats().stalled == 1)
    assert len(threads_named("test-pool")) == 2
    assert not waiting.running.is_set()


def test_pool_counts_each_stuck_thread_that_nobody_knows(make: Callable[..., Tasks]) -> None:
    tasks = make(2)
    stuck = tasks.submit(2)
    assert all_running(stuck)
    for task in stuck:
        assert tasks.pool.mark_stuck(task, None) is True
    assert all_running(tasks.submit(2))


def test_pool_forgets_a_stuck_job_that_ended_before_it_was_marked(make: Callable[..., Tasks]) -> None:
    tasks = make(1)
    (task,) = tasks.submit()
    tasks.end()
    wait_for(lambda: tasks.pool.stats().idle == 1)
    mark_stuck(task)
    tasks.pool.unmark_stuck(task)
    running, waiting = tasks.submit(2)
    assert running.running.wait(LONG)
    assert len(threads_named("test-pool")) == 1
    assert not waiting.running.is_set()


def test_pool_of_one_thread_at_most_stays_one_when_that_is_stuck(make: Callable[..., Tasks]) -> None:
    tasks = make(1, max_threads=1)
    (stuck,) = tasks.submit()
    assert stuck.running.wait(LONG)
    assert mark_stuck(stuck) is False
    (waiting,) = tasks.submit()
    assert len(threads_named("test-pool")) == 1
    assert not waiting.running.is_set()


# Only so many at work.


def test_pool_with_a_limit_lets_the_other_threads_wait_for_their_turn(make: Callable[..., Tasks]) -> None:
    tasks = make(3)
    begun = tasks.submit(3)
    assert all_running(begun)
    tasks.pool.limit_running(1, LONG)
    waiting = tasks.submit(3)
    begun[0].may_end.set()
    begun[1].may_end.set()
    wait_for(lambda: tasks.pool.stats().idle == 2)  # one thread works, as many as the limit allows
    assert not any(task.running.is_set() for task in waiting)
    begun[2].may_end.set()
    for task, *others in (waiting, waiting[1:], waiting[2:]):
        assert task.running.wait(LONG)
        assert not any(other.running.is_set() for other in others)
        task.may_end.set()


def test_pool_calls_as_many_threads_as_a_higher_limit_or_none_allows(make: Callable[..., Tasks]) -> None:
    tasks = make(4)
    assert all_running(tasks.submit(4))
    tasks.end()
    wait_for(lambda: tasks.pool.stats().idle == 4)
    tasks.pool.limit_running(1, LONG)
    (first,) = tasks.submit()
    assert first.running.wait(LONG)
    wait_for(lambda: tasks.pool.stats().idle == 3)
    second, third, *rest = tasks.submit(5)
    assert not second.running.is_set()
    tasks.pool.limit_running(2, LONG)
    assert second.running.wait(LONG)
    assert not third.running.is_set()
    tasks.pool.limit_running(None)
    assert all_running([third, rest[0]])


def test_pool_with_a_limit_lets_another_thread_work_while_one_is_stalled(make: Callable[..., Tasks]) -> None:
    tasks = make(2)
    assert all_running(tasks.submit(2))
    tasks.end()
    wait_for(lambda: tasks.pool.stats().idle == 2)
    tasks.pool.limit_running(1, LONG)
    (stalled,) = tasks.submit(stalls=True)
    assert stalled.running.wait(LONG)
    assert all_running(tasks.submit())


def test_pool_with_a_limit_ends_all_its_threads_when_it_is_closed(make: Callable[..., Tasks]) -> None:
    tasks = make(4)
    busy, *others = tasks.submit(4)
    assert all_running([busy, *others])
    tasks.pool.limit_running(1, LONG)
    for task in others:
        task.may_end.set()
    wait_for(lambda: tasks.pool.stats().idle == 3)
    tasks.pool.close()
    wait_for(lambda: len(threads_named("test-pool")) == 1)
    tasks.pool.limit_running(1, LONG)  # the caller may not know yet that it is closed
    busy.may_end.set()
    wait_for(lambda: not threads_named("test-pool"))


def test_limit_that_is_not_said_anew_is_none(make: Callable[..., Tasks]) -> None:
    tasks = make(3)
    running = tasks.submit(3)
    assert all_running(running)
    tasks.pool.limit_running(1, 0.1)
    waiting = tasks.submit(2)  # one of them may have to wait already
    for task in running[1:]:
        task.may_end.set()
    assert all_running(waiting)
    assert not running[0].ended.is_set()


def test_limit_that_has_expired_leaves_no_idle_thread_uncalled(make: Callable[..., Tasks]) -> None:
    tasks = make(3)
    for task in tasks.submit(3):
        task.may_end.set()
    wait_for(lambda: tasks.pool.stats().idle == 3)
    tasks.pool.limit_running(1, 0.0)
    assert all_running(tasks.submit(3))


def test_jobs_for_which_a_thread_is_free_do_not_count_as_waiting(make: Callable[..., Tasks]) -> None:
    tasks = make(3)
    assert all_running(tasks.submit(3))
    tasks.end()
    wait_for(lambda: tasks.pool.stats().idle == 3)
    tasks.pool.limit_running(1, LONG)
    assert all_running(tasks.submit())
    wait_for(lambda: tasks.pool.stats().idle == 2)
    tasks.submit(2)
    assert tasks.pool.waiting_count == 0
    tasks.submit(3)
    assert tasks.pool.waiting_count == 3
    assert tasks.pool.stats().waiting == 5


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_thread_that_cannot_start_leaves_its_room_to_another(
    make: Callable[..., Tasks], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(aiowsgi.bridge.jobs, "_LOOK_SECONDS", 2 * LONG)
    tasks = make(2)
    (first,) = tasks.submit()
    assert first.running.wait(LONG)
    first.may_end.set()
    wait_for(lambda: tasks.pool.stats().idle == 1)
    tasks.pool.limit_running(1, LONG)

    def start(self: threading.Thread) -> None:
        # Meanwhile this thread counts as running, so that the one that was woken goes back to sleep.
        time.sleep(0.05)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        second, third = tasks.submit(2)
    assert second.running.wait(LONG)
    second.may_end.set()
    assert third.running.wait(LONG)


def test_thread_that_cannot_start_and_cannot_be_told_of_costs_no_job(
    make: Callable[..., Tasks], monkeypatch: pytest.MonkeyPatch, failing_log: list[str]
) -> None:
    tasks = make(2)
    (first,) = tasks.submit()
    assert first.running.wait(LONG)

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        second, third = tasks.submit(2)
        first.may_end.set()
        assert second.running.wait(LONG)  # by a thread that has tried to start another for the third
    second.may_end.set()
    assert third.running.wait(LONG)
    assert failing_log
    tasks.end()


class CannotStart:
    """Stands in for ``Thread.start`` and refuses, as many times as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusals_left = 0
        self.attempt_count = 0
        start = threading.Thread.start

        def refuse_or_start(thread: threading.Thread) -> None:
            self.attempt_count += 1
            if self.refusals_left:
                self.refusals_left -= 1
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse_or_start)


@pytest.mark.parametrize("thread_count", [1, 2])
def test_thread_that_cannot_start_is_tried_again_by_the_loop_where_no_other_runs(
    make: Callable[..., Tasks], monkeypatch: pytest.MonkeyPatch, thread_count: int
) -> None:
    monkeypatch.setattr(aiowsgi.bridge.pool, "_RETRY_SECONDS", 0.01)
    start = CannotStart(monkeypatch)
    start.refusals_left = thread_count + 2
    tasks = make(thread_count)

    class Report:
        def __init__(self) -> None:
            self.ran = asyncio.Event()
            self._loop = asyncio.get_running_loop()

        def run(self) -> None:
            self._loop.call_soon_threadsafe(self.ran.set)

    async def submit() -> None:
        reports = [Report() for _ in range(thread_count)]
        for report in reports:
            tasks.pool.submit(report)
        async with asyncio.timeout(LONG):
            for report in reports:
                await report.ran.wait()

    asyncio.run(submit())
    assert start.refusals_left == 0


class LoopWithTimersOfTheTest(asyncio.SelectorEventLoop):
    """A loop whose timers run when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[Callable[[], object]] = []

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, **options: Any) -> Any:
        self.timers.append(partial(callback, *args))

    def call(self, function: Callable[[], object]) -> None:
        self.call_soon(function)
        self.call_soon(self.stop)
        self.run_forever()


def test_loop_that_tries_to_start_a_thread_has_one_timer_and_none_once_nothing_waits(
    make: Callable[..., Tasks], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = CannotStart(monkeypatch)
    tasks = make(4)
    tasks.submit()
    start.refusals_left = 1000
    with contextlib.closing(LoopWithTimersOfTheTest()) as loop:
        loop.call(lambda: tasks.submit(10))
        attempt_count = start.attempt_count
        for number in range(1, 4):
            assert len(loop.timers) == 1
            loop.call(loop.timers.pop())
            assert start.attempt_count == attempt_count + number
        tasks.end()
        loop.call(loop.timers.pop())
        assert not loop.timers


def test_threads_that_cannot_start_are_told_of_once_until_one_can(
    make: Callable[..., Tasks], monkeypatch: pytest.MonkeyPatch, error_log: pytest.LogCaptureFixture
) -> None:
    start = CannotStart(monkeypatch)
    tasks = make(5)
    failed = "cannot start a worker thread, trying again: can't start new thread"
    again = "starting worker threads again"
    start.refusals_left = 2
    tasks.submit(2)
    assert error_log.messages == [failed]
    tasks.submit()
    assert all_running(tasks.made)
    wait_for(lambda: error_log.messages == [failed, again])
    start.refusals_left = 2
    tasks.submit(2)
    assert error_log.messages == [failed, again, failed]
    tasks.submit()
    wait_for(lambda: error_log.messages == [failed, again, failed, again])


def test_pool_tells_how_often_each_thread_began_or_ended_to_work(make: Callable[..., Tasks]) -> None:
    tasks = make(2)
    computing, stalled = tasks.submit(), tasks.submit(stalls=True)
    assert all_running(computing + stalled)
    wait_for(lambda: tasks.pool.stats().stalled == 1)
    assert computing[0].thread is not None
    assert stalled[0].thread is not None
    assert tasks.pool.transition_counts() == {computing[0].thread.native_id: 1, stalled[0].thread.native_id: 2}
    tasks.end()
    wait_for(lambda: tasks.pool.stats().idle == 2)
    assert tasks.pool.transition_counts() == {computing[0].thread.native_id: 2, stalled[0].thread.native_id: 4}


def test_pool_whose_limit_and_threads_change_all_the_time_loses_no_job(make: Callable[..., Tasks]) -> None:
    tasks = make(4, idle_timeout=0.001)
    count = 20_000
    done = threading.Semaphore(0)
    over = threading.Event()

    class Signal:
        def run(self) -> None:
            done.release()

    def change() -> None:
        while not over.is_set():
            for limit in (1, 2, None, 1, 3):
                tasks.pool.limit_running(limit, LONG)
                time.sleep(0)

    changing = threading.Thread(target=change)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads change places in the middle of everything
    try:
        changing.start()
        for number in range(count):
            tasks.pool.submit(Signal())
            if number % 7 == 0:
                time.sleep(0)
        over.set()
        changing.join(LONG)
        tasks.pool.limit_running(1, LONG)  # from here on only the threads wake one another
        for _ in range(count):
            assert done.acquire(timeout=LONG)
    finally:
        over.set()
        sys.setswitchinterval(interval)


# Closing.


def test_pool_closed_takes_no_more_jobs() -> None:
    pool = ThreadPool(1)
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(Task(pool))


def test_pool_closed_ends_idle_threads_at_once_and_others_with_their_jobs(make: Callable[..., Tasks]) -> None:
    tasks = make(3)
    busy, *others = tasks.submit(3)
    assert all_running([busy, *others])
    for task in others:
        task.may_end.set()
    wait_for(lambda: tasks.pool.stats().idle == 2)
    tasks.pool.close()
    wait_for(lambda: len(threads_named("test-pool")) == 1)
    assert not busy.ended.is_set()
    busy.may_end.set()
    wait_for(lambda: not threads_named("test-pool"))


def test_pool_closed_still_runs_the_jobs_that_wait(make: Callable[..., Tasks]) -> None:
    # A job may have to close a file that it holds.
    tasks = make(2)
    running = tasks.submit(2)
    assert all_running(running)
    waiting = tasks.submit(5)
    tasks.pool.close()
    for task in running:
        task.may_end.set()
    for task in waiting:
        task.may_end.set()
        assert task.ended.wait(LONG)
    wait_for(lambda: not threads_named("test-pool"))


def test_pool_closed_with_stalled_threads_ends_them_when_they_go_on(make: Callable[..., Tasks]) -> None:
    tasks = make(1)
    downloads = tasks.submit(5, stalls=True)
    assert all_running(downloads)
    wait_for(lambda: tasks.pool.stats().stalled == 5)
    tasks.pool.close()
    tasks.end()
    wait_for(lambda: not threads_named("test-pool"))


def test_pool_tells_its_stats_to_a_signal_handler_wherever_that_comes(make: Callable[..., Tasks]) -> None:
    tasks = make(threads=1)
    lines = set()

    def come(frame: FrameType, event: str, argument: object) -> Callable[..., object]:
        if frame.f_code.co_filename == aiowsgi.bridge.pool.__file__:
            sys.settrace(None)
            assert tasks.pool.stats().stalled == 0
            sys.settrace(come)
            lines.add(frame.f_lineno)
        return come

    earlier = sys.gettrace()
    sys.settrace(come)
    try:
        tasks.submit()
    finally:
        sys.settrace(earlier)
    assert len(lines) > 10


@pytest.mark.parametrize("threads", [0, -1])
def test_pool_of_no_threads_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads={threads}: must be at least 1"):
        ThreadPool(threads)


# The pool that steps, which the simulations stand on.


class Steps:
    """A job that gives the baton back between its steps."""

    def __init__(self, pool: StepPool, log: list[str], name: str) -> None:
        self._pool = pool
        self._log = log
        self._name = name
        self.ready = False

    def run(self) -> None:
        self._log.append(f"{self._name}1")
        self._pool.pause()
        self._log.append(f"{self._name}2")
        with self._pool.stalled(lambda: self.ready):
            pass
        self._log.append(f"{self._name}3")


def test_step_pool_moves_one_thread_at_a_time_and_only_when_told() -> None:
    pool, log = StepPool(), []
    first, second = Steps(pool, log, "a"), Steps(pool, log, "b")
    pool.submit(first)
    pool.submit(second)
    assert log == []
    assert pool.begin()
    assert log == ["a1"]
    assert pool.begin()
    assert not pool.begin()
    assert pool.movable == (first, second)
    assert pool.go_on(1)
    assert log == ["a1", "b1", "b2"]
    assert pool.stats().stalled == 1
    assert pool.movable == (first,)
    second.ready = True
    assert pool.go_on(1)
    assert log[-1] == "b3"
    assert pool.begun == (first,)
    assert pool.go_on()
    assert not pool.step()
    first.ready = True
    assert pool.step()
    assert log == ["a1", "b1", "b2", "b3", "a2", "a3"]
    assert pool.begun == ()
    pool.close()


def test_step_pool_raises_what_a_job_raises() -> None:
    pool = StepPool()

    class Faulty:
        def run(self) -> None:
            raise SystemExit("fault of a test")

    pool.submit(Faulty())
    with pytest.raises(SystemExit, match="fault of a test"):
        pool.step()
    assert pool.begun == ()
    pool.close()


def test_step_pool_tells_where_a_job_hangs() -> None:
    pool = StepPool(failure_timeout=0.05)
    released = threading.Event()

    class Hanging:
        def run(self) -> None:
            released.wait(LONG)

    pool.submit(Hanging())
    with pytest.raises(TimeoutError, match=r"released\.wait\(LONG\)"):
        pool.step()
    released.set()


def test_step_pool_closed_ends_its_threads_even_those_that_wait() -> None:
    pool, log = StepPool("test-steps"), []
    for name in "ab":
        pool.submit(Steps(pool, log, name))
        pool.begin()
    pool.go_on()
    pool.close()
    assert log == ["a1", "b1", "a2"]
    assert threads_named("test-steps") == []
