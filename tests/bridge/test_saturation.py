"""One thread at a time while all of them only compute; all of them as soon as that is not certain."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import math
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest

from aiowsgi.bridge import saturation as module
from aiowsgi.bridge.affinity import Affinity, Seat
from aiowsgi.bridge.saturation import Account, Saturation, read_accounts
from aiowsgi.testing import VirtualLoop

LOOP_THREAD = threading.get_native_id()


class FakeAffinity(Affinity):
    """Binds no thread; notes what it is asked to hold."""

    def __init__(self) -> None:
        self.can_hold = self.is_left_alone = True
        self.holds: list[bool] = []

    def hold(self) -> Seat | None:
        self.holds.append(True)
        return Seat(frozenset({1}), frozenset({0, 1}), frozenset({0, 1})) if self.can_hold else None

    @property
    def is_held(self) -> bool:
        return self.holds[-1:] == [True] and self.is_left_alone

    def release(self) -> None:
        self.holds.append(False)


class Machine:
    """Threads that do a number of jobs per second, and want some part of a core, of which they are given a share.

    Rates are for all of them together: ``free``, or ``limited`` while one works at a time.
    """

    thread_limit = 8

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.free_rate = self.limited_rate = 100.0
        self.free_wanted = self.limited_wanted = 1.0
        self.given = 1.0
        self.loops_own = 0.0
        self.elsewhere = 0.0
        self.waiting_count = 0
        self.stuck = 0
        self.limit: int | None = None
        self.limits: list[int | None] = []
        self.seat: Seat | None = None
        self.held = FakeAffinity()
        self._jobs = 0.0
        self._computed = self._delayed = 0.0
        self._loop_computed = 0.0
        self._process_time = 0.0

    def limit_running(self, count: int | None, seconds: float = 0.0) -> None:
        assert count is None or seconds > 0.1  # until the next tick, and some more
        self.limit = count
        self.limits.append(count)

    def gather(self, seat: Seat | None) -> None:
        self.seat = seat

    def transition_counts(self) -> dict[int, int]:
        threads = {1000 + number: 1 for number in range(self.stuck)}
        if self.free_rate:
            threads |= {1: 2 * int(self._jobs) + 1, 2 + int(self._jobs) % 2: 1_000_000}
        return threads

    def accounts(self, thread_ids: Iterable[int]) -> dict[int, Account]:
        known = {
            1: Account(self._computed, self._delayed),
            LOOP_THREAD: Account(self._loop_computed, 0.0),
            # Threads that begin and end all the time, and have already done a lot.
            2 + int(self._jobs) % 2: Account(1000.0, 1000.0),
        }
        return {thread_id: known[thread_id] for thread_id in thread_ids if thread_id in known}

    def process_time(self) -> float:
        return self._process_time

    def saturation(self, **options: object) -> Saturation:
        options.setdefault("accounts", self.accounts)
        options.setdefault("affinity", self.held)
        return Saturation(
            cast(asyncio.AbstractEventLoop, self.loop),
            self,
            clock=self.loop.time,
            process_time=self.process_time,
            **options,  # type: ignore[arg-type]
        )

    def run(self, saturation: Saturation, seconds: float) -> None:
        """Let time pass, with a turn of the loop that brings requests each hundredth of a second."""
        for _ in range(round(seconds * 100)):
            rate = self.free_rate if self.limit is None else self.limited_rate
            wanted = self.free_wanted if self.limit is None else self.limited_wanted
            self._jobs += rate * 0.01
            self._computed += wanted * self.given * 0.01
            self._delayed += wanted * (1 - self.given) * 0.01
            self._loop_computed += self.loops_own * 0.01
            self._process_time += (wanted * self.given + self.loops_own + self.elsewhere) * 0.01
            self.loop.advance(0.01)
            now = self.loop.time()
            if now >= saturation.next_look:
                saturation.look(now)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(module, "HAS_LOCK", True)
    monkeypatch.setattr(module, "_TOLD", True)
    return Machine()


def test_threads_that_keep_a_core_busy_take_turns(machine: Machine) -> None:
    saturation = machine.saturation()
    machine.run(saturation, 1)
    assert saturation.taking_turns
    assert machine.limit == 1
    machine.run(saturation, 20)
    assert set(machine.limits) == {1}


def test_threads_that_have_something_left_of_a_core_do_not(machine: Machine) -> None:
    machine.free_wanted = 0.85
    machine.waiting_count = 50
    machine.run(machine.saturation(), 60)
    assert machine.limits == []


def test_threads_that_compute_on_more_than_one_core_do_not(machine: Machine) -> None:
    machine.free_wanted = 1.3  # as with a hash function that lets go of the interpreter
    machine.run(machine.saturation(), 60)
    assert machine.limits == []


def test_threads_that_are_kept_from_a_core_by_other_processes_take_turns(machine: Machine) -> None:
    machine.given = 0.4
    machine.waiting_count = 1
    saturation = machine.saturation()
    machine.run(saturation, 1)
    assert saturation.taking_turns


def test_work_of_the_loop_counts_where_the_process_is_the_servers_own(machine: Machine) -> None:
    machine.free_wanted = machine.limited_wanted = 0.5
    machine.loops_own = 0.45
    guest = machine.saturation()
    machine.run(guest, 5)
    assert not guest.taking_turns
    guest.close()
    own = machine.saturation(alone=True)
    machine.run(own, 5)
    assert own.taking_turns


def test_threads_of_a_program_that_computes_beside_them_do_not(machine: Machine) -> None:
    machine.free_wanted = 0.2
    machine.elsewhere = 0.8
    machine.run(machine.saturation(), 60)
    assert machine.limits == []


@pytest.mark.parametrize(("rate", "wanted"), [(70.0, 1.0), (100.0, 0.6)], ids=["less_done", "less_wanted"])
def test_threads_that_are_needed_are_let_go_at_once_and_tried_ever_less_often(
    machine: Machine, rate: float, wanted: float
) -> None:
    machine.limited_rate, machine.limited_wanted = rate, wanted
    machine.waiting_count = 50
    saturation = machine.saturation()
    times: list[float] = []
    limited = 0.0
    for _ in range(6000):
        tried = len(machine.limits)
        machine.run(saturation, 0.01)
        if len(machine.limits) > tried and machine.limits[tried] == 1 and not (tried and machine.limits[tried - 1]):
            times.append(machine.loop.time())
        limited += 0.01 * (machine.limit is not None)
    assert 5 <= len(times) <= 9  # after 1, 2, 4, 8, 10, 10 seconds
    assert times[-1] - times[-2] > 5 * (times[1] - times[0])
    assert limited <= 0.15 * len(times)


def test_threads_without_requests_are_let_go_and_nothing_is_due_any_more(machine: Machine) -> None:
    saturation = machine.saturation()
    machine.run(saturation, 1)
    machine.free_rate = machine.limited_rate = 0.0
    machine.free_wanted = machine.limited_wanted = 0.0
    machine.loop.advance(0.1)
    assert machine.limit is None
    assert machine.loop.next_timer is None
    machine.free_rate = machine.limited_rate = 100.0
    machine.free_wanted = machine.limited_wanted = 1.0
    machine.run(saturation, 0.7)  # no pause: it was not wrong
    assert saturation.taking_turns


def test_load_that_becomes_less_is_no_mistake(machine: Machine) -> None:
    saturation = machine.saturation()
    machine.run(saturation, 1)
    machine.free_wanted = machine.limited_wanted = 0.3
    machine.limited_rate = 30
    machine.run(saturation, 1)
    assert not saturation.taking_turns
    machine.free_wanted = machine.limited_wanted = 1.0
    machine.limited_rate = 100
    machine.run(saturation, 0.7)  # no pause
    assert saturation.taking_turns


def test_job_that_takes_long_has_another_one_beside_it(machine: Machine) -> None:
    saturation = machine.saturation()
    machine.run(saturation, 1)
    machine.stuck = 3
    machine.run(saturation, 0.1)
    assert machine.limit == 4
    machine.stuck = 0
    machine.run(saturation, 0.1)
    assert machine.limit == 1
    assert saturation.taking_turns


def test_all_threads_are_let_go_for_a_look_from_time_to_time(machine: Machine) -> None:
    saturation = machine.saturation()
    machine.run(saturation, 1)
    machine.free_wanted = 8.0  # invisible while one thread works at a time
    machine.run(saturation, 60)
    assert not saturation.taking_turns
    assert machine.limits.count(None) == 1


def test_close_lets_all_threads_go_for_good(machine: Machine) -> None:
    saturation = machine.saturation()
    machine.run(saturation, 1)
    saturation.close()
    saturation.close()
    assert machine.limit is None
    assert machine.loop.next_timer is None
    machine.run(saturation, 5)
    assert machine.limit is None


def test_threads_are_let_go_where_nobody_is_left_to_do_it(machine: Machine) -> None:
    saturation = machine.saturation()
    machine.run(saturation, 1)
    assert machine.limit == 1
    machine.loop = VirtualLoop()  # the other one is gone, with its timers
    del saturation
    gc.collect()
    assert machine.limit is None


@pytest.mark.parametrize("missing", ["HAS_LOCK", "_TOLD"])
def test_nothing_is_looked_at_where_it_cannot_help(
    machine: Machine, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, missing, False)
    assert machine.saturation().next_look == math.inf


def test_nothing_is_looked_at_where_there_is_one_thread(machine: Machine) -> None:
    machine.thread_limit = 1
    assert machine.saturation().next_look == math.inf


# One processor.


def test_loop_and_thread_that_work_one_after_another_are_on_one_processor(machine: Machine) -> None:
    saturation = machine.saturation(alone=True)
    machine.run(saturation, 20)
    assert machine.held.holds == [True]
    assert machine.seat is not None
    saturation.close()
    assert machine.held.holds == [True, False]
    assert machine.seat is None


def test_loop_of_a_program_s_own_is_not_held(machine: Machine) -> None:
    saturation = machine.saturation()
    machine.run(saturation, 5)
    assert saturation.taking_turns
    assert machine.held.holds == []


def test_processor_that_others_want_is_left_to_them_ever_longer(machine: Machine) -> None:
    machine.given = 0.7
    machine.waiting_count = 50
    saturation = machine.saturation(alone=True)
    times: list[float] = []
    for _ in range(2900):
        held = len(machine.held.holds)
        machine.run(saturation, 0.01)
        if len(machine.held.holds) > held and machine.held.holds[held]:
            times.append(machine.loop.time())
    assert saturation.taking_turns  # they go on taking turns all the same
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    for pause, least in zip(pauses, [1, 2, 4, 8, 10], strict=True):
        assert least <= pause <= least + 0.6
    assert machine.seat is None
    machine.given = 0.8
    machine.run(saturation, 12)
    assert machine.seat is not None
    held = len(machine.held.holds)
    machine.run(saturation, 20)
    assert len(machine.held.holds) <= held + 2  # but for the end of a term


def test_processor_is_left_where_somebody_else_says_where_the_process_is_to_run(machine: Machine) -> None:
    saturation = machine.saturation(alone=True)
    machine.run(saturation, 1)
    machine.held.is_left_alone = False
    machine.run(saturation, 0.05)
    assert machine.held.holds == [True, False]
    assert machine.seat is None
    assert saturation.taking_turns


def test_loop_that_cannot_be_held_is_tried_again_ever_later(machine: Machine) -> None:
    machine.held.can_hold = False
    saturation = machine.saturation(alone=True)
    machine.run(saturation, 20)
    assert saturation.taking_turns
    assert 4 <= machine.held.holds.count(True) <= 6  # after 1, 2, 4, 8 seconds
    assert machine.seat is None
    machine.held.can_hold = True
    machine.run(saturation, 12)
    assert machine.seat is not None


def test_threads_that_wait_on_one_processor_for_one_another_are_not_taken_for_busy(machine: Machine) -> None:
    saturation = machine.saturation(alone=True)
    machine.run(saturation, 1)
    assert machine.seat is not None
    machine.limited_wanted, machine.given = 0.95, 0.7  # two thirds of a core, and what one kept from the other
    machine.free_wanted = 0.6
    machine.run(saturation, 0.5)
    assert not saturation.taking_turns
    assert machine.seat is None


# The kernel's accounts.


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not tell of its scheduler")
def test_accounts_of_threads_say_what_they_computed() -> None:
    before = read_accounts([LOOP_THREAD])
    began = time.thread_time()
    while time.thread_time() - began < 0.05:
        pass
    after = read_accounts([LOOP_THREAD])
    # They are brought up to date at a tick of the kernel's, of which there are at least a hundred in a second.
    assert 0.03 <= after[LOOP_THREAD].computed - before[LOOP_THREAD].computed <= 0.1
    assert after[LOOP_THREAD].delayed >= before[LOOP_THREAD].delayed


def test_account_of_a_thread_that_is_no_more_is_left_out() -> None:
    assert read_accounts([0]) == {}


def test_accounts_without_file_descriptors_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_bytes(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert read_accounts([LOOP_THREAD]) == {}


def no_accounts(thread_ids: Iterable[int]) -> dict[int, Account]:
    return {}


def test_threads_of_which_nothing_is_known_any_more_are_let_go(machine: Machine) -> None:
    saturation = machine.saturation(accounts=lambda thread_ids: known(thread_ids))
    known = machine.accounts
    machine.run(saturation, 1)
    assert machine.limit == 1
    known = no_accounts
    machine.run(saturation, 1)
    assert machine.limit is None
