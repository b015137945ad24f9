"""A bounded pool of daemon threads that run jobs in the order of their submission.

Jobs are handed over through one shared :class:`~aiowsgi.bridge.jobs.JobQueue`, so that a thread that is awake takes the
next job before another one is woken: 0.2 context switches for a request at 64 connections, where a lock for each thread
needs 3.9.

It may be told to let only some of its threads work: see :mod:`aiowsgi.bridge.saturation`.

Threads start on demand and end after an idle time. A thread that waits for a client is *stalled*, and one that will not
end its job is *stuck*: these do not count against ``threads``, and others take their places, up to ``max_threads`` in
all.

The threads are daemons, so that an application that hangs never delays the interpreter's exit.

Thread: any, unless a method says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from aiowsgi.bridge.affinity import Seat, go_anywhere
from aiowsgi.bridge.jobs import JobQueue

__all__ = ["Job", "Pool", "ThreadPool", "ThreadPoolStats", "is_at_work"]

_logger = logging.getLogger("aiowsgi.error")
_pool_numbers = itertools.count(1)

# Between two attempts of an event loop to start a thread. Arbitrary; each submit() is another attempt.
_RETRY_SECONDS = 1.0


class ThreadPoolStats:
    """A snapshot of a pool.

    Args:
        waiting: jobs that no thread has taken yet.
        running: threads that run a job and are not stalled.
        stalled: threads that wait for a client.
        idle: threads that wait for a job.
    """

    __slots__ = ("idle", "running", "stalled", "waiting")

    def __init__(self, waiting: int, running: int, stalled: int, idle: int) -> None:
        self.waiting = waiting
        self.running = running
        self.stalled = stalled
        self.idle = idle

    def __repr__(self) -> str:
        return (
            f"<ThreadPoolStats waiting={self.waiting} running={self.running} stalled={self.stalled} idle={self.idle}>"
        )


class Job(Protocol):
    """A piece of work for a thread."""

    def run(self) -> None:
        """Do the work. Worker thread. Exceptions are logged as errors of this package."""
        ...


class Pool(Protocol):
    """What the server needs of a pool; tests step jobs through one of their own."""

    @property
    def thread_limit(self) -> int:
        """The most threads that may run jobs or wait for a client at once."""
        ...

    @property
    def waiting_count(self) -> int:
        """Jobs that no thread has taken.

        While the number of running threads is limited, jobs for which a thread is idle but may not run yet are not
        counted.
        """
        ...

    def submit(self, job: Job) -> None:
        """Have ``job.run()`` called by a thread."""
        ...

    def stats(self) -> ThreadPoolStats:
        """Return a snapshot."""
        ...

    def limit_running(self, count: int | None, seconds: float = 0.0) -> None:
        """Let about ``count`` threads work at once, besides stalled ones, for some seconds; ``None`` lets all work.

        A thread that has just taken a job may not count yet, so that there is one more for a moment.
        """
        ...

    def transition_counts(self) -> Mapping[int, int]:
        """Return how often each thread began or stopped working, by its native id; :func:`is_at_work` reads it.

        A thread that stalls stops working, and begins again when it goes on.
        """
        ...

    def gather(self, seat: Seat | None) -> None:
        """Have threads wait for jobs on one processor; see :mod:`aiowsgi.bridge.affinity`."""
        ...

    def stalled(self, ready: Callable[[], bool]) -> AbstractContextManager[None]:
        """Mark the calling thread as waiting for a client, for the time of a ``with`` block.

        Args:
            ready: tells whether the wait is over. Threads wait inside the block; a pool that steps jobs calls this.
        """
        ...

    def mark_stuck(self, job: Job, thread_id: int | None) -> bool:
        """Count the thread that runs a job as stuck, until the job ends after all.

        Args:
            job: one that had begun. A caller that finds it ended afterwards calls :meth:`unmark_stuck`: the thread may
                have looked for the mark before it was set.
            thread_id: the thread's :func:`threading.get_ident`, if that is known: a thread that is also stalled then
                has one successor, not two.

        Returns:
            Whether ``max_threads`` leaves room for a successor to each that is stuck or stalled.
        """
        ...

    def unmark_stuck(self, job: Job) -> None:
        """Take :meth:`mark_stuck` back, if the end of the job has not done so."""
        ...


def is_at_work(transition_count: int) -> bool:
    """Tell whether a thread is at work that has begun or stopped working this often, beginning first."""
    return transition_count % 2 == 1


class _Retire:
    """A job that only tells a thread that its pool is closed."""

    __slots__ = ()

    def run(self) -> None:
        pass


class _Worker(threading.Thread):
    """A thread of a pool."""

    def __init__(self, work: Callable[[_Worker], None], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        #: How often it began or stopped working; see :func:`is_at_work`.
        self.transition_count = 0

    def run(self) -> None:
        go_anywhere()
        self._work(self)


class ThreadPool:
    """Daemon threads that take jobs from one queue, and end after an idle time.

    Args:
        threads: most threads that run jobs at once, 1 or more.
        max_threads: most threads in all, stalled and stuck ones included; default ``threads + 64``.
        idle_timeout: seconds after which a thread without work ends.
        name: prefix of the threads' names, so that a stack dump is readable.

    Fields shared between threads:

    - ``_jobs``: thread-safe by itself.
    - ``_idle``: a list used as a counter; ``append`` and ``pop`` are atomic on every build of CPython.
    - ``_threads``, ``_stalled``, ``_stuck``, ``_allowed_count``, ``_failing``, ``_retrying``, ``_closed``: written
      under ``_lock``. They are read without it in four places: before :meth:`_grow`, which looks again under it; once a
      thread has started, likewise; at the end of a job, since whoever marks a job looks afterwards whether it still
      runs; and by :meth:`_room`, which may be a moment late.
    - ``_running_limit``, ``_limited_until``, and the queue's ``room`` and ``seat``: the event loop writes them; one may
      be older than the others, for a moment.
    - a worker's own fields: only its thread writes them.
    """

    def __init__(
        self, threads: int, *, max_threads: int | None = None, idle_timeout: float = 60.0, name: str = ""
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads={threads}: must be at least 1")
        self._size = threads
        self._max_size = threads + 64 if max_threads is None else max_threads
        self._idle_timeout = idle_timeout
        self._name = name or f"aiowsgi-{next(_pool_numbers)}"
        self._numbers = itertools.count(1)
        self._jobs: JobQueue[Job] = JobQueue()
        self._idle: list[None] = []
        # A signal handler may ask for stats() in the thread that holds it.
        self._lock = threading.RLock()
        self._threads: set[_Worker] = set()
        # The threads that are stalled, and the jobs that are stuck with their threads, if known; by get_ident().
        self._stalled: set[int] = set()
        self._stuck: dict[Job, int | None] = {}
        self._allowed_count = threads
        self._running_limit = 0
        self._limited_until = 0.0
        # The last attempt to start a thread has failed.
        self._failing = False
        # The loops that will try again.
        self._retrying: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._closed = False

    @property
    def thread_limit(self) -> int:
        """The most threads that there may be."""
        return self._max_size

    @property
    def waiting_count(self) -> int:
        """See :meth:`Pool.waiting_count`."""
        count = self._jobs.qsize()
        return count if self._jobs.room is None else max(0, count - len(self._idle))

    def stats(self) -> ThreadPoolStats:
        """Return a snapshot; the figures may be a moment apart."""
        with self._lock:
            stalled = len(self._stalled)
            idle = len(self._idle)
            running = max(0, len(self._threads) - stalled - idle)
        return ThreadPoolStats(self._jobs.qsize(), running, stalled, idle)

    def submit(self, job: Job) -> None:
        """Have ``job.run()`` called by a thread.

        Raises:
            RuntimeError: the pool is closed.
        """
        if self._closed:
            raise RuntimeError("the thread pool is closed")
        self._jobs.put(job)
        if len(self._threads) < self._allowed_count:
            self._grow()

    def _grow(self) -> None:
        """Start a thread if a job waits and no idle thread is there to take it.

        Called after every change that may make it necessary: a job was put, a thread took one (and so is no longer
        idle), a thread stalled or ended. If two changes cross, the one that comes last sees both.
        """
        if self._jobs.qsize() <= len(self._idle):
            return
        with self._lock:
            if self._closed or len(self._threads) >= self._allowed_count:
                return
            thread = _Worker(self._work, f"{self._name}-worker-{next(self._numbers)}")
            self._threads.add(thread)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self._endure(thread, error)
        else:
            if self._failing:
                self._failure_ended()

    def _endure(self, thread: _Worker, error: Exception) -> None:
        """No thread can be started: the process is at its limit. One line in the log until one can.

        The job waits for one of the running threads, or for the next attempt: the next :meth:`submit` is one, and the
        event loop makes one now and then if it was the loop's thread that failed. There may be no running thread, and
        no other request.
        """
        with self._lock:
            self._threads.discard(thread)
            was_failing, self._failing = self._failing, True
        self._call()  # it had counted as at work, and left no room for another
        self._try_again_later()
        if not was_failing:
            # A log handler that fails must not cost a thread that was about to run a job its life.
            with contextlib.suppress(Exception):
                _logger.error("cannot start a worker thread, trying again: %s", error)

    def _failure_ended(self) -> None:
        """A thread has started."""
        with self._lock:
            was_failing, self._failing = self._failing, False
        if was_failing:
            with contextlib.suppress(Exception):
                _logger.info("starting worker threads again")

    def _try_again_later(self) -> None:
        """Have the calling thread's event loop try to start a thread after a pause, if there is one."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        with self._lock:
            if loop in self._retrying:
                return
            self._retrying.add(loop)
        loop.call_later(_RETRY_SECONDS, self._try_again, loop)

    def _try_again(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._retrying.discard(loop)
        self._grow()

    def _work(self, worker: _Worker) -> None:
        """Run jobs until there is nothing to do. Worker thread.

        An exception meant to end a request from outside (``PyThreadState_SetAsyncExc``) may come late, and so anywhere
        here. A thread that it hits between two jobs gives up its place; one that has taken a job still runs it.
        """
        jobs = self._jobs
        idle = self._idle
        job: Job | None = None
        # Whether it counts as idle. Set before that changes: an exception from outside is raised after a call.
        waits = False
        try:
            while True:
                waits = True
                idle.append(None)
                try:
                    job = jobs.get(self._idle_timeout)
                except queue.Empty:
                    waits = False
                    idle.pop()
                    if self._retire(worker):
                        return
                    continue
                try:
                    worker.transition_count += 1
                    try:
                        waits = False
                        idle.pop()
                        if len(self._threads) < self._allowed_count:
                            self._grow()
                    finally:
                        job.run()
                except BaseException:
                    # Whatever happens, even in the log: a thread that died would be missing for ever.
                    with contextlib.suppress(BaseException):
                        _logger.exception("internal error in a worker thread while running %r", job)
                worker.transition_count += 1
                if self._stuck:
                    self.unmark_stuck(job)
                if len(self._threads) > self._allowed_count:
                    # What was submitted before the pool was closed is still run: it may have to give something back.
                    has_to_end = not self._closed or type(job) is _Retire
                    if has_to_end and self._retire(worker, surplus=True):
                        return
                # Do not keep a request alive while waiting for the next.
                job = None
        except BaseException:
            if waits:
                idle.pop()
            self._give_up(worker, job)

    def _give_up(self, worker: _Worker, job: Job | None) -> None:
        """Have another thread take the place of the calling one, which an exception has hit between two jobs."""
        if job is not None:
            self.unmark_stuck(job)
        self._retire(worker)
        self._jobs.call()  # the calling thread may have used up a call, and taken no job
        with contextlib.suppress(BaseException):
            _logger.exception("a worker thread ended between two jobs; another takes its place")

    def _retire(self, worker: _Worker, surplus: bool = False) -> bool:
        """Take the calling thread out of the pool, unless it is wanted."""
        with self._lock:
            if surplus and len(self._threads) <= self._allowed_count and not self._closed:
                return False
            self._threads.discard(worker)
        # A job that was put while this thread still counted found no thread to start, and no room for another.
        if len(self._threads) < self._allowed_count:
            self._grow()
        self._call()
        return True

    def limit_running(self, count: int | None, seconds: float = 0.0) -> None:
        """See :meth:`Pool.limit_running`. Without the lock: a garbage collection under it may lead here."""
        if count:
            self._running_limit = count
            self._limited_until = time.monotonic() + seconds
        self._jobs.room = self._room if count else None
        self._jobs.call()

    def transition_counts(self) -> Mapping[int, int]:
        """See :meth:`Pool.transition_counts`."""
        with self._lock:
            return {
                worker.native_id: worker.transition_count for worker in self._threads if worker.native_id is not None
            }

    def gather(self, seat: Seat | None) -> None:
        """See :meth:`Pool.gather`. Threads that wait already stay where they are."""
        self._jobs.seat = seat

    def _room(self, wanted: int) -> int:
        """Return how many more threads may work; one that comes for a job is idle, one that is being started is not.

        Args:
            wanted: if there is room for that many, no clock is read; else an expired limit is no limit.
        """
        room = self._running_limit - (len(self._threads) - len(self._idle) - len(self._stalled))
        if room < wanted and time.monotonic() > self._limited_until:
            return self._max_size
        return room

    def _call(self) -> None:
        """There may be room for another thread to work."""
        if self._jobs.room is not None:
            self._jobs.call()

    def stalled(self, ready: Callable[[], bool]) -> AbstractContextManager[None]:
        """See :meth:`Pool.stalled`."""
        return _Stall(self)

    def begin_stall(self) -> None:
        """The calling thread begins to wait for a client."""
        with self._lock:
            self._stalled.add(threading.get_ident())
            self._count_allowed()
        self._grow()
        self._call()

    def end_stall(self) -> None:
        """The calling thread no longer waits for its client."""
        with self._lock:
            self._stalled.discard(threading.get_ident())
            self._count_allowed()

    def mark_stuck(self, job: Job, thread_id: int | None) -> bool:
        """See :meth:`Pool.mark_stuck`.

        Where only one thread is allowed, it stays one: that is promised to applications that are not thread-safe.
        """
        with self._lock:
            self._stuck[job] = thread_id
            wanted_count = self._count_allowed()
        self._grow()
        return wanted_count <= self._max_size

    def unmark_stuck(self, job: Job) -> None:
        """See :meth:`Pool.unmark_stuck`."""
        with self._lock:
            self._stuck.pop(job, None)
            self._count_allowed()

    def _count_allowed(self) -> int:
        """Recompute how many threads there may be; return how many without ``max_threads``. Under the lock."""
        wanted_count = self._size + len(self._stalled)
        for thread_id in self._stuck.values():
            if thread_id not in self._stalled:
                wanted_count += 1
        if not self._closed:
            self._allowed_count = min(wanted_count, self._max_size)
        return wanted_count

    def close(self) -> None:
        """Take no more jobs; threads end when those that wait have been run. Does not wait: they are daemons."""
        with self._lock:
            self._closed = True
            self._allowed_count = 0
            self._jobs.room = None
            count = len(self._threads)
        for _ in range(count):
            self._jobs.put(_Retire())


class _Stall:
    """The ``with`` block of :meth:`ThreadPool.stalled`."""

    __slots__ = ("_pool",)

    def __init__(self, pool: ThreadPool) -> None:
        self._pool = pool

    def __enter__(self) -> None:
        _count_transition()
        try:
            self._pool.begin_stall()
        except BaseException:
            # Nobody calls __exit__ then. Without a call in between: it may be a RecursionError.
            _count_transition()
            self._pool.end_stall()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _count_transition()
        self._pool.end_stall()


def _count_transition() -> None:
    """The calling thread begins or stops working."""
    worker = threading.current_thread()
    if isinstance(worker, _Worker):
        worker.transition_count += 1
