"""One processor for threads that take turns: who is bound to it, when, and what is left of that afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import pytest

from aiowsgi.bridge import affinity as module
from aiowsgi.bridge.affinity import Affinity, Seat
from aiowsgi.bridge.pool import ThreadPool

PATIENCE = 20.0
LOOP_THREAD = threading.get_native_id()


class Kernel:
    """Processors of a container, and where each thread may run."""

    def __init__(self, processors: Iterable[int], count: int = 8) -> None:
        self.container = frozenset(processors)
        self.count = count
        self.wanted: dict[int, frozenset[int]] = {LOOP_THREAD: frozenset(range(count))}
        self.calls: list[frozenset[int]] = []
        self.running_on = min(self.container)

    def set(self, thread_id: int, processors: Iterable[int]) -> None:
        thread_id = thread_id or LOOP_THREAD
        if thread_id not in self.wanted:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        wanted = frozenset(processors)
        if not wanted & self.container:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.wanted[thread_id] = wanted
        self.calls.append(wanted)

    def get(self, thread_id: int) -> set[int]:
        if (thread_id := thread_id or LOOP_THREAD) not in self.wanted:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        # The kernel lets a thread that has lost all that was set for it run wherever its container may.
        return set(self.wanted[thread_id] & self.container) or set(self.container)

    @property
    def threads(self) -> dict[int, set[int]]:
        return {thread_id: self.get(thread_id) for thread_id in self.wanted}


class Gate:
    """A lock that somebody holds, and releases once something has happened while a thread waits for it."""

    def __init__(self, happen: Callable[[], object]) -> None:
        self._happen = happen

    def acquire(self, blocking: bool = True, timeout: float = -1.0) -> bool:
        if blocking:
            self._happen()
        return blocking


def gate_until(happen: Callable[[], object]) -> threading.Lock:
    return cast(threading.Lock, Gate(happen))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Replace the kernel by one that offers processors 0 to 3 of 8."""
    kernel = Kernel(range(4))
    monkeypatch.setattr(module, "_anywhere", None)
    monkeypatch.setattr(os, "sched_setaffinity", kernel.set, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", kernel.get, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: kernel.count)
    monkeypatch.setattr(module, "_processor_of", lambda thread_id: kernel.running_on)
    monkeypatch.setattr(os, "listdir", lambda path: [str(thread_id) for thread_id in kernel.wanted] + ["999"])
    return kernel


def test_thread_is_held_where_it_is_and_released(kernel: Kernel) -> None:
    kernel.running_on = 2
    affinity = Affinity()
    assert not affinity.is_held
    assert affinity.hold() is not None
    assert affinity.is_held
    assert kernel.threads == {LOOP_THREAD: {2}}
    affinity.release()
    assert not affinity.is_held
    assert kernel.threads == {LOOP_THREAD: {0, 1, 2, 3}}
    affinity.release()
    assert kernel.threads == {LOOP_THREAD: {0, 1, 2, 3}}


def test_thread_of_a_container_that_is_given_other_processors_meanwhile_has_them(kernel: Kernel) -> None:
    affinity = Affinity()
    affinity.hold()
    kernel.container = frozenset(range(8))
    affinity.release()
    assert kernel.threads == {LOOP_THREAD: set(range(8))}


def test_bounds_that_somebody_has_set_before_are_there_again(kernel: Kernel) -> None:
    kernel.wanted[LOOP_THREAD] = frozenset({1, 2})
    kernel.running_on = 1
    affinity = Affinity()
    affinity.hold()
    assert kernel.threads == {LOOP_THREAD: {1}}
    kernel.container = frozenset(range(8))
    affinity.release()
    assert kernel.threads == {LOOP_THREAD: {1, 2}}


def test_bounds_that_somebody_sets_meanwhile_are_left_as_they_are(kernel: Kernel) -> None:
    kernel.wanted |= {5: frozenset(range(8)), 6: frozenset(range(8))}
    affinity = Affinity()
    affinity.hold()
    kernel.wanted |= {LOOP_THREAD: frozenset({2, 3}), 5: frozenset({1, 2})}
    assert not affinity.is_held
    affinity.release()
    assert kernel.wanted == {LOOP_THREAD: {2, 3}, 5: {1, 2}, 6: set(range(8))}


def test_thread_that_somebody_has_bound_stays_there_and_takes_no_seat(kernel: Kernel) -> None:
    affinity = Affinity()
    seat = affinity.hold()
    assert seat is not None
    kernel.wanted[LOOP_THREAD] = frozenset({2})  # it is the calling thread as well
    gate = threading.Lock()
    assert seat.wait(gate, 0.01)
    assert not seat.wait(gate, 0.01)
    seat.bring_back()
    assert kernel.wanted[LOOP_THREAD] == {2}


@pytest.mark.parametrize(("released", "chosen"), [(False, {2, 3}), (True, {2, 3}), (True, {0})])
def test_thread_that_somebody_binds_while_it_waits_stays_there(
    kernel: Kernel, released: bool, chosen: set[int]
) -> None:
    affinity = Affinity()
    seat = affinity.hold()
    assert seat is not None
    kernel.wanted[LOOP_THREAD] = frozenset(range(8))

    def bind() -> None:
        assert kernel.wanted[LOOP_THREAD] == {0}
        if released:
            affinity.release()
        kernel.wanted[LOOP_THREAD] = frozenset(chosen)

    assert seat.wait(gate_until(bind), 1.0)
    assert kernel.wanted[LOOP_THREAD] == chosen


def test_thread_that_wakes_while_all_are_being_let_go_is_free(kernel: Kernel) -> None:
    seat = Seat(frozenset({1}), frozenset(range(4)), frozenset(range(8)))

    def close() -> None:
        seat.closed = True  # before the threads to be freed have been looked for

    assert seat.wait(gate_until(close), 1.0)
    assert kernel.wanted[LOOP_THREAD] == set(range(8))


def test_seat_that_is_closed_is_none_also_for_one_that_was_just_coming(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = Seat(frozenset({1}), frozenset(range(4)), frozenset(range(8)))

    def set_and_close(thread_id: int, processors: Iterable[int]) -> None:
        kernel.set(thread_id, processors)
        seat.closed = True

    gate = threading.Lock()
    gate.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_setaffinity", set_and_close)
        seat.wait(gate, 0.0)
    assert kernel.wanted[LOOP_THREAD] == set(range(8))
    kernel.calls.clear()
    seat.wait(gate, 0.0)
    seat.bring_back()
    assert kernel.calls == []


def test_thread_that_is_interrupted_while_it_waits_is_free(kernel: Kernel) -> None:
    seat = Seat(frozenset({1}), frozenset(range(4)), frozenset(range(8)))

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seat.wait(gate_until(interrupt), 1.0)
    assert kernel.calls == [{1}, set(range(8))]


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the kernel's scheduling policies; the last one is the calling thread's."""
    policies = [os.SCHED_OTHER]
    monkeypatch.setattr(os, "sched_getscheduler", lambda thread_id: policies[-1], raising=False)
    monkeypatch.setattr(os, "sched_setscheduler", lambda thread_id, policy, param: policies.append(policy))
    return policies


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="needs Linux")
@pytest.mark.parametrize("interrupt", [False, True])
def test_thread_that_waits_need_not_run_at_once(kernel: Kernel, policies: list[int], interrupt: bool) -> None:
    seat = Seat(frozenset({1}), frozenset(range(4)), frozenset(range(8)))

    def look() -> None:
        assert policies == [os.SCHED_OTHER, os.SCHED_BATCH]
        if interrupt:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if interrupt else contextlib.nullcontext():
        assert seat.wait(gate_until(look), 1.0)
    assert policies == [os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_OTHER]


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="needs Linux")
@pytest.mark.parametrize("before", ["SCHED_BATCH", "SCHED_IDLE", "SCHED_FIFO"])
def test_policy_that_somebody_has_chosen_stays(kernel: Kernel, policies: list[int], before: str) -> None:
    policies[:] = [getattr(os, before)]
    seat = Seat(frozenset({1}), frozenset(range(4)), frozenset(range(8)))
    assert seat.wait(gate_until(lambda: None), 1.0)
    assert policies == [getattr(os, before)]


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="needs Linux")
def test_policy_that_somebody_chooses_while_it_waits_stays(kernel: Kernel, policies: list[int]) -> None:
    seat = Seat(frozenset({1}), frozenset(range(4)), frozenset(range(8)))
    assert seat.wait(gate_until(lambda: policies.append(os.SCHED_IDLE)), 1.0)
    assert policies[-1] == os.SCHED_IDLE


@pytest.mark.parametrize("error", [PermissionError(errno.EPERM, "no"), OSError(errno.ENOSYS, "no")])
def test_sandbox_without_policies_is_no_hindrance(
    kernel: Kernel, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise error

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    seat = Seat(frozenset({1}), frozenset(range(4)), frozenset(range(8)))
    assert seat.wait(gate_until(lambda: None), 1.0)
    assert kernel.calls == [{1}, set(range(8))]


def test_container_that_has_other_numbers_than_there_are_processors_is_no_bound(kernel: Kernel) -> None:
    kernel.container = kernel.wanted[LOOP_THREAD] = frozenset({4, 5, 6, 7})
    kernel.count = 4  # as musl counts
    kernel.running_on = 6
    affinity = Affinity()
    seat = affinity.hold()
    assert seat is not None
    assert kernel.get(0) == {6}
    affinity.release()
    assert kernel.get(0) == {4, 5, 6, 7}


def test_new_thread_goes_anywhere_only_while_one_is_held(kernel: Kernel) -> None:
    module.go_anywhere()
    affinity = Affinity()
    affinity.hold()
    kernel.calls.clear()
    module.go_anywhere()
    assert kernel.calls == [set(range(8))]
    affinity.release()
    kernel.calls.clear()
    module.go_anywhere()
    assert kernel.calls == []


def test_threads_that_were_started_meanwhile_are_let_go_and_those_of_others_are_not(kernel: Kernel) -> None:
    kernel.wanted[5] = frozenset({0})
    affinity = Affinity()
    affinity.hold()
    kernel.wanted[6] = frozenset({0})
    kernel.wanted[7] = frozenset({1})
    affinity.release()
    assert kernel.threads == {LOOP_THREAD: {0, 1, 2, 3}, 5: {0}, 6: {0, 1, 2, 3}, 7: {1}}


def test_thread_is_released_without_file_descriptors(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    affinity = Affinity()
    affinity.hold()

    def listdir(path: Path) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(os, "listdir", listdir)
    affinity.release()
    assert kernel.threads == {LOOP_THREAD: {0, 1, 2, 3}}


def test_thread_that_has_one_processor_only_is_left_alone(kernel: Kernel) -> None:
    kernel.wanted[LOOP_THREAD] = frozenset({3})
    affinity = Affinity()
    assert affinity.hold() is None
    assert kernel.calls == []
    affinity.release()
    assert kernel.calls == []


@pytest.mark.parametrize("name", ["sched_getaffinity", "sched_setaffinity"])
def test_thread_that_cannot_be_held_is_left_alone(kernel: Kernel, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, name, refused)
    affinity = Affinity()
    assert affinity.hold() is None
    affinity.release()
    monkeypatch.delattr(os, name)  # as on macOS
    assert Affinity().hold() is None
    assert kernel.threads == {LOOP_THREAD: {0, 1, 2, 3}}


def test_seat_that_the_container_has_lost_is_none(kernel: Kernel) -> None:
    seat = Seat(frozenset({1}), frozenset(range(4)), frozenset(range(8)))
    kernel.container = frozenset({2, 3})
    gate = threading.Lock()
    gate.acquire()
    assert not seat.wait(gate, 0.01)
    seat.bring_back()
    assert kernel.calls == []


def test_thread_whose_container_loses_the_seat_while_it_waits_has_no_bounds(kernel: Kernel) -> None:
    seat = Seat(frozenset({1}), frozenset(range(4)), frozenset(range(8)))

    def lose() -> None:
        kernel.container = frozenset({2, 3})

    assert seat.wait(gate_until(lose), 1.0)
    assert kernel.wanted[LOOP_THREAD] == set(range(8))


def test_who_has_not_to_wait_is_not_bound(kernel: Kernel) -> None:
    seat = Seat(frozenset({1}), frozenset(range(4)), frozenset({0, 1}))
    gate = threading.Lock()
    assert seat.wait(gate, 0.0)
    assert kernel.calls == []
    assert not seat.wait(gate, 0.01)
    assert kernel.calls == [{1}, {0, 1}]


def test_thread_is_brought_back_now_and_then(kernel: Kernel) -> None:
    now = 1.0
    seat = Seat(frozenset({1}), frozenset({0, 1}), frozenset({0, 1}), clock=lambda: now)
    kernel.wanted[LOOP_THREAD] = frozenset({0, 1})
    for _ in range(3):
        seat.bring_back()
    assert kernel.calls == [{1}, {0, 1}]
    now += 0.002
    seat.bring_back()
    assert kernel.calls == [{1}, {0, 1}] * 2


def test_container_that_has_lost_the_processor_leaves_no_bounds(kernel: Kernel) -> None:
    affinity = Affinity()
    affinity.hold()
    kernel.container = frozenset({2, 3})
    affinity.release()
    kernel.container = frozenset(range(8))
    assert kernel.threads == {LOOP_THREAD: set(range(8))}


# The kernel itself.

_CAN_HOLD = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1 and Path("/proc/self/task").is_dir()
needs_processors = pytest.mark.skipif(not _CAN_HOLD, reason="needs Linux and two processors")


@pytest.fixture
def processors() -> Iterator[set[int]]:
    """Return those of this process; that is checked in the end."""
    before = os.sched_getaffinity(0)
    yield before
    assert os.sched_getaffinity(0) == before


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(2)
    yield pool
    pool.close()


def seen_by(pool: ThreadPool, function: Callable[[], object]) -> object:
    """Return what a thread of a pool sees in a job."""
    seen: list[object] = []
    done = threading.Event()

    class Look:
        def run(self) -> None:
            try:
                seen.append(function())
            finally:
                done.set()

    pool.submit(Look())
    assert done.wait(PATIENCE)
    return seen[0]


def child_sees() -> set[int]:
    script = "import os; print(*os.sched_getaffinity(0))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=PATIENCE)
    return set(map(int, answer.stdout.split()))


def thread_sees() -> set[int]:
    seen: list[set[int]] = []
    thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
    thread.start()
    thread.join(PATIENCE)
    return seen[0]


def comes_true(condition: Callable[[], bool]) -> bool:
    """Wait for a condition."""
    deadline = threading.Event()
    for _ in range(round(PATIENCE / 0.01)):
        if condition():
            return True
        deadline.wait(0.01)
    return False


@needs_processors
@pytest.mark.parametrize("look", [lambda: os.sched_getaffinity(0), child_sees, thread_sees])
def test_application_sees_all_processors_and_its_thread_waits_on_one(
    processors: set[int], pool: ThreadPool, look: Callable[[], set[int]]
) -> None:
    affinity = Affinity()
    assert seen_by(pool, look) == processors  # a thread that has begun before
    seat = affinity.hold()
    assert seat is not None
    try:
        here = os.sched_getaffinity(0)
        assert len(here) == 1
        pool.gather(seat)
        for _ in range(20):
            assert seen_by(pool, look) == processors
        thread_id = seen_by(pool, threading.get_native_id)
        assert isinstance(thread_id, int)
        assert comes_true(lambda: os.sched_getaffinity(thread_id) == here)
    finally:
        pool.gather(None)
        affinity.release()
    assert os.sched_getaffinity(thread_id) == processors
    assert seen_by(pool, look) == processors


@needs_processors
def test_thread_of_a_pool_waits_patiently(processors: set[int], pool: ThreadPool) -> None:
    affinity = Affinity()
    seat = affinity.hold()
    assert seat is not None
    try:
        pool.gather(seat)
        thread_id = seen_by(pool, threading.get_native_id)
        assert isinstance(thread_id, int)
        usual = os.sched_getscheduler(0)
        patient = os.SCHED_BATCH if usual == os.SCHED_OTHER else usual  # whoever runs the tests may have chosen one
        assert comes_true(lambda: os.sched_getscheduler(thread_id) == patient)
        assert seen_by(pool, lambda: os.sched_getscheduler(0)) == usual
    finally:
        pool.gather(None)
        affinity.release()
    assert seen_by(pool, lambda: os.sched_getscheduler(0)) == usual


@needs_processors
def test_thread_that_a_pool_starts_meanwhile_sees_all_processors(processors: set[int], pool: ThreadPool) -> None:
    affinity = Affinity()
    affinity.hold()
    try:
        assert seen_by(pool, lambda: os.sched_getaffinity(0)) == processors
    finally:
        affinity.release()


@needs_processors
def test_thread_is_held_on_the_processor_on_which_it_runs(processors: set[int]) -> None:
    os.sched_setaffinity(0, {max(processors)})
    assert module._processor_of(LOOP_THREAD) == max(processors)
    os.sched_setaffinity(0, processors)
