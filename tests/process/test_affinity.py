"""A server under load keeps its threads on one processor, and its application and what that starts on all of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.process.load import Load
from tests.process.server_process import ServerProcess, server_process, wait_until

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity")
    or len(os.sched_getaffinity(0)) < 2
    or not Path("/proc/self/schedstat").exists(),
    reason="needs Linux and two processors",
)

SOURCE = """
import os
import subprocess
import sys
import threading
import time

def app(environ, start_response):
    began = time.thread_time()
    while time.thread_time() - began < 0.001:
        pass
    seen = {frozenset(os.sched_getaffinity(0))}
    if environ["PATH_INFO"] == "/child":
        script = "import os; print(*os.sched_getaffinity(0))"
        child = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, check=True)
        seen.add(frozenset(map(int, child.stdout.split())))
        thread = threading.Thread(target=lambda: seen.add(frozenset(os.sched_getaffinity(0))))
        thread.start()
        thread.join()
    content = repr(sorted(map(sorted, seen))).encode()
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]
"""
ALL = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
SEEN = repr([sorted(ALL)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "busy.py").write_text(SOURCE)
    return tmp_path


def held(pid: int) -> bool:
    return len(os.sched_getaffinity(pid)) == 1


@pytest.mark.parametrize("options", [(), ("--workers=2",)], ids=["one_process", "two_workers"])
def test_loop_is_held_while_requests_compute_and_the_application_is_not(folder: Path, options: tuple[str, ...]) -> None:
    with server_process(folder, "busy:app", "--bind=127.0.0.1:0", "--threads=4", *options) as server:
        port = server.port
        with Load("127.0.0.1", port, 32) as load:
            wait_until(lambda: any(map(held, processes_of(server))), "a process that is held")
            load.wait_for(200)
            with Load("127.0.0.1", port, 2, path="/child") as other:
                other.wait_for(10)
        assert not load.failures
        assert not other.failures
        assert {*load.contents, *other.contents} == {SEEN}
        pids = processes_of(server)
        threads = [int(path.name) for pid in pids for path in Path(f"/proc/{pid}/task").iterdir()]
        wait_until(lambda: not any(map(held, threads)), "all threads to be free")
        assert all(os.sched_getaffinity(thread_id) == ALL for thread_id in threads)


def processes_of(server: ServerProcess) -> list[int]:
    return server.workers() or [server.process.pid]


def test_no_thread_is_held_where_all_are_to_work_at_any_time(folder: Path) -> None:
    arguments = ("busy:app", "--bind=127.0.0.1:0", "--threads=4", "--concurrency=fixed")
    with server_process(folder, *arguments) as server, Load("127.0.0.1", server.port, 32) as load:
        seen = set()
        for _ in range(20):
            load.wait_for(50)
            seen.add(held(server.process.pid))
        assert seen == {False}
