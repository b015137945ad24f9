"""The queue of jobs: none is lost, none comes twice, and nobody is woken without need."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import Counter

import pytest

from aiowsgi.bridge import jobs as module
from aiowsgi.bridge.affinity import Seat
from aiowsgi.bridge.jobs import JobQueue


def test_jobs_come_in_the_order_in_which_they_were_put() -> None:
    jobs = JobQueue[int]()
    for number in range(3):
        jobs.put(number)
    assert jobs.qsize() == 3
    assert [jobs.get(timeout=1) for _ in range(3)] == [0, 1, 2]
    assert jobs.qsize() == 0


def test_get_without_a_job_raises_after_the_time() -> None:
    jobs = JobQueue[int]()
    began = time.monotonic()
    with pytest.raises(queue.Empty):
        jobs.get(timeout=0.05)
    assert time.monotonic() - began >= 0.04


def test_job_that_was_taken_without_waiting_leaves_no_job_for_the_next() -> None:
    jobs = JobQueue[int]()
    jobs.put(1)
    assert jobs.get(timeout=1) == 1
    with pytest.raises(queue.Empty):  # the gate is open from the job before, and there is nothing behind it
        jobs.get(timeout=0.01)
    jobs.put(2)
    assert jobs.get(timeout=1) == 2


def test_every_waiting_thread_gets_a_job_of_those_put_at_once() -> None:
    jobs = JobQueue[int]()
    count = 8
    all_have_one = threading.Barrier(count + 1)

    def work() -> None:
        jobs.get(timeout=20)
        all_have_one.wait(20)  # no thread takes a second job: each job must wake one

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for number in range(count):
        jobs.put(number)
    all_have_one.wait(20)
    for thread in threads:
        thread.join(20)
    assert jobs.qsize() == 0


def test_jobs_of_many_threads_reach_many_threads_once_each() -> None:
    jobs = JobQueue[tuple[int, int]]()
    putter_count, getter_count, job_count = 4, 8, 5000
    taken: list[list[tuple[int, int]]] = [[] for _ in range(getter_count)]

    def put(putter: int) -> None:
        for number in range(job_count):
            jobs.put((putter, number))
            if number % 64 == 0:
                time.sleep(0)  # so that the getters come to wait as well

    def get(mine: list[tuple[int, int]]) -> None:
        while True:
            job = jobs.get(timeout=20)
            if job[0] < 0:
                return
            mine.append(job)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads change places in the middle of everything
    try:
        getters = [threading.Thread(target=get, args=(mine,)) for mine in taken]
        putters = [threading.Thread(target=put, args=(putter,)) for putter in range(putter_count)]
        for thread in getters + putters:
            thread.start()
        for thread in putters:
            thread.join(30)
        for _ in getters:
            jobs.put((-1, -1))
        for thread in getters:
            thread.join(30)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
    counts = Counter(job for mine in taken for job in mine)
    assert len(counts) == putter_count * job_count
    assert set(counts.values()) == {1}
    for mine in taken:  # what one thread gets of another is in order
        for putter in range(putter_count):
            numbers = [number for origin, number in mine if origin == putter]
            assert numbers == sorted(numbers)


# Room for so many.


class RecordingSeat(Seat):
    """One that binds nobody."""

    def __init__(self) -> None:
        super().__init__(frozenset(), frozenset(), frozenset())
        self.calls: list[str] = []

    def wait(self, gate: threading.Lock, seconds: float) -> bool:
        self.calls.append("wait")
        return gate.acquire(timeout=seconds)

    def bring_back(self) -> None:
        self.calls.append("bring back")


def test_thread_waits_in_its_seat_and_is_brought_back_to_it_for_each_job() -> None:
    jobs = JobQueue[int]()
    seat = jobs.seat = RecordingSeat()
    jobs.put(1)
    assert jobs.get(timeout=1) == 1
    assert seat.calls == ["bring back"]
    with pytest.raises(queue.Empty):
        jobs.get(timeout=0.01)
    jobs.seat = None
    jobs.put(2)
    assert jobs.get(timeout=1) == 2
    assert set(seat.calls[1:]) == {"wait"}


def test_job_for_which_there_is_no_room_waits_until_somebody_calls() -> None:
    jobs = JobQueue[int]()
    room = 0
    jobs.room = lambda wanted: room
    jobs.put(1)
    with pytest.raises(queue.Empty):
        jobs.get(timeout=0.01)
    room = 1
    jobs.call()
    assert jobs.get(timeout=1) == 1


def test_no_thread_is_called_for_whom_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 60.0)
    jobs = JobQueue[int]()
    room = 0
    looks: list[int] = []  # the threads that were awake

    def look(wanted: int) -> int:
        looks.append(threading.get_ident())
        return room

    def get() -> None:
        taken.append(jobs.get(timeout=60))

    jobs.room = look
    taken: list[int] = []
    asleep, other = threading.Thread(target=get), threading.Thread(target=get)
    asleep.start()
    while not looks:
        time.sleep(0)
    jobs.put(1)
    jobs.put(2)
    room = 1
    other.start()  # finds a job without being called
    other.join(60)
    assert taken == [1]
    assert looks.count(asleep.ident or 0) == 1
    jobs.room = None
    jobs.call()
    asleep.join(60)
    assert taken == [1, 2]


def test_thread_that_takes_the_last_room_calls_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 60.0)
    jobs = JobQueue[int]()
    room = 0
    looks: list[int] = []

    def look(wanted: int) -> int:
        looks.append(threading.get_ident())
        return room

    def get() -> None:
        taken.append(jobs.get(timeout=60))

    jobs.room = look
    taken: list[int] = []
    threads = [threading.Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(set(looks)) < 3:
        time.sleep(0)
    jobs.put(1)
    jobs.put(2)
    room = 1
    jobs.call()
    while not taken:
        time.sleep(0)
    assert sum(looks.count(thread.ident or 0) > 1 for thread in threads) == 1
    jobs.room = None
    jobs.put(3)
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == [1, 2, 3]


def test_thread_for_which_there_is_no_room_looks_by_itself_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.05)
    jobs = JobQueue[int]()
    room = 0
    looks: list[None] = []

    def look(wanted: int) -> int:
        looks.append(None)
        return room

    jobs.room = look
    jobs.put(1)
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.append(jobs.get(timeout=60)))
    thread.start()
    while len(looks) < 2:
        time.sleep(0)
    room = 1  # and no thread is woken for it
    thread.join(30)
    assert taken == [1]


def test_get_without_room_raises_after_the_time_however_often_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.02)
    jobs = JobQueue[int]()
    jobs.room = lambda wanted: 0
    jobs.put(1)
    with pytest.raises(queue.Empty):
        jobs.get(timeout=0.1)
