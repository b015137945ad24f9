"""When a worker has done enough, and how it is replaced for it."""

from __future__ import annotations

import re
import resource
import signal
import sys
from pathlib import Path

import pytest

from aiowsgi.config import Config
from aiowsgi.process.wear import Wear, resident_size
from tests.process.server_process import wait_until
from tests.process.test_supervisor import get, supervised

SOURCE = """
import os, time

hoard = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/hoard":
        hoard.append(b"x" * 200_000_000)
    if path == "/stuck":
        while not os.path.exists("go"):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "growing.py").write_text(SOURCE)
    return tmp_path


def test_worker_is_worn_after_so_many_requests() -> None:
    wear = Wear(Config(max_requests=100), 0.0)
    assert wear.is_limited
    assert wear.reason(99, 1.0) is None
    assert wear.reason(100, 1.0) == "100 requests"


def test_jitter_adds_to_the_number_of_requests() -> None:
    config = Config(max_requests=100, max_requests_jitter=50)
    limits = {next(n for n in range(200) if Wear(config, 0.0).reason(n, 0.0)) for _ in range(5)}
    wears = [Wear(config, 0.0) for _ in range(200)]
    assert all(wear.reason(99, 0.0) is None for wear in wears)
    assert all(wear.reason(150, 0.0) for wear in wears)
    assert any(wear.reason(101, 0.0) is None for wear in wears)
    assert min(limits) >= 100


def test_worker_is_worn_at_its_age_and_looked_at_just_then() -> None:
    wear = Wear(Config(max_worker_age=3600.0), 1000.0)
    assert wear.reason(10**6, 4599.0) is None
    assert wear.next_look(0, 1000.0) == 1.0
    assert wear.next_look(0, 4599.75) == 0.25
    assert wear.reason(0, 4600.0) == "3600 s old"


def test_looks_come_closer_as_the_limit_of_requests_does() -> None:
    wear = Wear(Config(max_requests=10_000), 0.0)
    assert wear.next_look(0, 0.0) == 0.1
    assert wear.next_look(1000, 1.0) == 1.0
    assert wear.next_look(9000, 2.0) == pytest.approx(1000 / 8000 / 2)
    assert wear.next_look(9999, 2.1) == 0.01


def test_worker_is_worn_once_it_holds_too_much_memory() -> None:
    assert Wear(Config(max_worker_rss=2**40), 0.0).reason(0, 0.0) is None
    reason = Wear(Config(max_worker_rss=1024 * 1024), 0.0).reason(0, 0.0)
    assert re.fullmatch(r"\d+ MiB of memory, over 1M", reason or "")
    assert resident_size() > 1024 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_without_a_descriptor_to_read_it_is_not_taken_for_the_most_there_ever_was() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        size = resident_size()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert size == 0


def test_nothing_is_looked_at_where_nothing_is_limited() -> None:
    assert not Wear(Config(), 0.0).is_limited


def test_worker_that_hoards_memory_is_replaced(folder: Path) -> None:
    with supervised(folder, "growing", "--max-worker-rss=200M") as server:
        first = get(server, "/hoard")
        server.wait_for_log(r"worker 1 is to be replaced: \d+ MiB of memory, over 200M")
        wait_until(lambda: get(server) != first, "an answer of another worker")


def test_worker_whose_threads_are_stuck_is_replaced_and_the_clients_are_answered(folder: Path) -> None:
    arguments = ["--threads=2", "--request-timeout=300ms", "--stuck-threads=50%", "--graceful-timeout=1s"]
    with (
        supervised(folder, "growing", *arguments) as server,
        server.connect() as first,
        server.connect() as second,
    ):
        for client in (first, second):
            client.send(b"GET /stuck HTTP/1.1\r\nHost: test\r\n\r\n")
        assert first.receive().status_code == second.receive().status_code == 504
        server.wait_for_log("worker 1 is to be replaced: 2 of 2 threads are stuck")
        old = server.workers()[0]
        wait_until(lambda: old not in server.workers(), "the end of the worker")
        assert int(get(server)) in server.workers()
        assert server.log.count("is given up\n") == 2
        server.signal(signal.SIGUSR2)
        server.wait_for_log(r"1 worker: .* 0 streaming, 0 parked, [1-9]\d* done; ")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
