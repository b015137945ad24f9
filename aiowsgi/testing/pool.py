"""A thread pool whose threads move one at a time, when the test says.

Applications run in real threads, as they do in a server. But a thread moves only while it holds the baton, and the
test waits for the baton's return: so every run of a test is the same run. A thread gives the baton back when its job
ends, and when it waits for its client; where it stands then is a state that the test can look at. A thread that an
application has started itself has no baton: it just runs, and waits, as in a server.

Thread: as each method says.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from aiowsgi.bridge.affinity import Seat
from aiowsgi.bridge.pool import Job, ThreadPoolStats
from aiowsgi.bridge.threads import thread_frames

__all__ = ["StepPool"]


class StepPool:
    """Implements :class:`aiowsgi.bridge.pool.Pool`; any number of jobs may be under way at once.

    ::

        pool.submit(job)
        pool.step()  # runs it to its end, or until it waits for a client
        pool.stats().stalled

    Args:
        name: prefix of the threads' names.
        failure_timeout: seconds, of the real clock, after which a job that neither ends nor waits fails the test.
    """

    def __init__(self, name: str = "step", failure_timeout: float = 60.0) -> None:
        self._name = name
        self._failure_timeout = failure_timeout
        self._waiting: deque[Job] = deque()
        self._begun: list[_Worker] = []
        self._free: list[_Worker] = []
        self._baton: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._local = threading.local()
        self._thread_count = 0
        # One entry for each other thread that waits for a client; append and pop are atomic.
        self._stalled_elsewhere: list[None] = []

    @property
    def thread_limit(self) -> int:
        """As many as there are jobs: each has a thread, though only one moves at a time."""
        return sys.maxsize

    @property
    def waiting_count(self) -> int:
        """Jobs that have not begun. Any thread."""
        return len(self._waiting)

    @property
    def begun(self) -> tuple[Job, ...]:
        """Jobs that have begun and not ended, in the order in which they began. Test."""
        return tuple(worker.job for worker in self._begun)

    @property
    def movable(self) -> tuple[Job, ...]:
        """Those of :attr:`begun` that can go on. Test."""
        return tuple(worker.job for worker in self._begun if worker.ready())

    def stats(self) -> ThreadPoolStats:
        """See :class:`~aiowsgi.bridge.pool.ThreadPoolStats`. Any thread."""
        stalled = sum(worker.stalled for worker in self._begun)
        running = len(self._begun) - stalled
        return ThreadPoolStats(len(self._waiting), running, stalled + len(self._stalled_elsewhere), len(self._free))

    def limit_running(self, count: int | None, seconds: float = 0.0) -> None:
        """Do nothing: threads move one at a time in any case."""

    def gather(self, seat: Seat | None) -> None:
        """Do nothing: where threads run makes no difference."""

    def transition_counts(self) -> Mapping[int, int]:
        """Return nothing: threads move when the test lets them. Any thread."""
        return {}

    def submit(self, job: Job) -> None:
        """Have the job begun by a later :meth:`step` or :meth:`begin`. Any thread."""
        self._waiting.append(job)

    def mark_stuck(self, job: Job, thread_id: int | None) -> bool:
        """Return true: each job has a thread of its own in any case. Any thread."""
        return True

    def unmark_stuck(self, job: Job) -> None:
        """Do nothing: the mark made no difference. Any thread."""

    @contextlib.contextmanager
    def stalled(self, ready: Callable[[], bool]) -> Iterator[None]:
        """See :meth:`aiowsgi.bridge.pool.Pool.stalled`: entering the block gives the baton back. Worker.

        Any other thread has none, and waits inside the block.
        """
        if self.has_calling_thread:
            self._local.worker.wait_until(ready, stalled=True)
            yield
            return
        self._stalled_elsewhere.append(None)
        try:
            yield
        finally:
            self._stalled_elsewhere.pop()

    @property
    def has_calling_thread(self) -> bool:
        """Whether the calling thread is one of these: it may give the baton back. Any thread."""
        return hasattr(self._local, "worker")

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Give the baton back until ``ready()``, without counting as stalled. Worker.

        For an application that waits for something that the test does.
        """
        self._local.worker.wait_until(ready)

    def pause(self) -> None:
        """Give the baton back, so that the test may do something in between. Worker; any other thread just goes on."""
        if self.has_calling_thread:
            self.wait_until(lambda: True)

    def step(self) -> bool:
        """Let one job move: the first that can go on, or else the next that waits. Test.

        Returns:
            Whether there was one.

        Raises:
            BaseException: what the job raised.
            TimeoutError: it neither ended nor waited; the message says where it hangs.
        """
        return self.go_on() or self.begin()

    def begin(self) -> bool:
        """Begin the next job that waits; see :meth:`step`. Test."""
        if not self._waiting:
            return False
        if not self._free:
            self._thread_count += 1
            self._free.append(_Worker(f"{self._name}-{self._thread_count}", self._baton, self._local))
        worker = self._free.pop()
        self._begun.append(worker)
        self._move(worker, self._waiting.popleft())
        return True

    def go_on(self, index: int = 0) -> bool:
        """Let one of :attr:`movable` go on; see :meth:`step`. Test."""
        movable = [worker for worker in self._begun if worker.ready()]
        if not movable:
            return False
        worker = movable[index]
        self._move(worker, worker.job)
        return True

    def _move(self, worker: _Worker, job: Job | None) -> None:
        worker.go(job)
        try:
            self._baton.get(timeout=self._failure_timeout)
        except queue.Empty:
            raise TimeoutError(f"{worker} hangs outside of stalled():\n{worker.stack()}") from None
        if worker.ended:
            self._begun.remove(worker)
            self._free.append(worker)
            worker.raise_error()

    def close(self) -> None:
        """End the threads; a job that still waits for something is ended by a ``RuntimeError``. Test."""
        self._waiting.clear()
        while self._begun:
            with contextlib.suppress(RuntimeError):
                self._move(self._begun[-1], None)
        for worker in self._free:
            worker.end()
        self._free.clear()


def _never() -> bool:
    return False


class _Worker:
    """A thread of a :class:`StepPool`.

    The thread and the test pass the baton to and fro, so no field is ever used by both at once.
    """

    job: Job

    def __init__(self, name: str, baton: queue.SimpleQueue[_Worker], local: threading.local) -> None:
        self.ready: Callable[[], bool] = _never
        self.ended = False
        self.stalled = False
        self._error: BaseException | None = None
        self._given_back = baton
        self._given: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(local,), name=name, daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"{self._thread.name} with {self.job!r}"

    # Test.

    def go(self, job: Job | None) -> None:
        """Hand over the baton."""
        if job is not None:
            self.job = job
        self.ready = _never
        self.stalled = self.ended = False
        self._given.put(job)

    def raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stack(self) -> str:
        assert self._thread.ident is not None
        return "".join(traceback.format_stack(thread_frames()[self._thread.ident]))

    def end(self) -> None:
        self._given.put(None)
        self._thread.join()

    # Worker.

    def _work(self, local: threading.local) -> None:
        local.worker = self
        while (job := self._given.get()) is not None:
            try:
                job.run()
            except BaseException as error:
                self._error = error
            del job
            self.ended = True
            self._given_back.put(self)

    def wait_until(self, ready: Callable[[], bool], stalled: bool = False) -> None:
        self.ready = ready
        self.stalled = stalled
        self._given_back.put(self)
        if self._given.get() is None:
            raise RuntimeError("the pool was closed")
