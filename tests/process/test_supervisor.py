"""A supervisor and its workers, as the command starts them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.process.load import Load
from tests.process.server_process import (
    ServerProcess,
    connect_unix,
    environment,
    hangups_ignored,
    server_in_a_terminal,
    server_of_a_program,
    server_process,
    wait_until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

HELLO = """
import os

VERSION = "first"

def app(environ, start_response):
    content = f"{VERSION} {os.getpid()}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))])
    return [content]
"""

# What is asked for in the path is done.
DOING = """
import ctypes, os, sys, threading, time
import aiowsgi

async def blocking():
    yield b"1"
    time.sleep(100)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/exit":
        os._exit(7)
    if path == "/wait":
        print("running", path, file=environ["wsgi.errors"], flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
    if path == "/hold-the-interpreter":
        ctypes.PyDLL(None).sleep(100)
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/block-the-loop":
        return aiowsgi.park(environ, blocking())
    if path == "/stream":
        return streaming()
    return [str(os.getpid()).encode()]

def streaming():
    yield b"first"
    while not os.path.exists("go"):
        time.sleep(0.01)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text(HELLO)
    (tmp_path / "doing.py").write_text(DOING)
    return tmp_path


@contextlib.contextmanager
def supervised(
    folder: Path, *arguments: str, stdout: BinaryIO | None = None, flags: Sequence[str] = (), **variables: str
) -> Iterator[ServerProcess]:
    """Run the command on a free port until it listens; none of its processes outlives the test."""
    with server_process(folder, *arguments, "-b", "127.0.0.1:0", stdout=stdout, flags=flags, **variables) as server:
        assert server.url
        workers: set[int] = set()
        try:
            yield server
        finally:
            if server.process.poll() is None:
                workers.update(server.workers())
                server.signal(signal.SIGTERM)
                with contextlib.suppress(AssertionError):
                    server.wait()
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def get(server: ServerProcess, path: str = "/") -> str:
    with server.connect() as client:
        return client.get(path).content.decode()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent to take note does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def assert_nothing_lost(load: Load) -> None:
    """Every request has its answer; next to none met a connection that was just being closed."""
    assert load.failures == []
    assert load.asked_count == load.answered_count
    assert load.retried_count <= 3


def count_in(server: ServerProcess, text: str) -> int:
    return server.log.count(text)


def test_start_line_tells_workers_and_the_end_is_orderly(folder: Path) -> None:
    with supervised(folder, "hello", "-w", "2", "--threads=3") as server:
        line = server.wait_for_log(r"aiowsgi .*\n")[0]
        assert re.search(rf"\(2 workers with 3 threads, uvloop, \w+, Python [\d.]+, pid {server.process.pid}\)", line)
        workers = server.workers()
        assert len(workers) == 2
        assert int(get(server).split()[1]) in workers
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "stopped; running requests: 0 finished, 0 abandoned" in server.log
    assert not any(is_alive(pid) for pid in workers)
    assert "Traceback" not in server.log


def test_one_process_serves_by_itself_and_web_concurrency_asks_for_more(folder: Path) -> None:
    with supervised(folder, "hello") as server:
        assert server.workers() == []
        assert get(server).split()[1] == str(server.process.pid)
    with supervised(folder, "hello", AIOWSGI_WORKERS="2") as server:
        assert len(server.workers()) == 2


@pytest.mark.parametrize("arguments", [["-w", "2"], ["-w", "2", "--reuse-port"]])
def test_reload_under_load_with_a_broken_and_then_a_mended_application_loses_no_request(
    folder: Path, arguments: list[str]
) -> None:
    with supervised(folder, "hello", *arguments) as server, Load("127.0.0.1", server.port, 50, pause=0.05) as load:
        first = set(server.workers())
        (folder / "hello.py").write_text("VERSION = 'broken'\nthis is no Python\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload given up, the workers that serve stay: .*(?s:.*)hello\.py, line 2: invalid syntax")
        assert set(server.workers()) == first
        (folder / "hello.py").write_text(HELLO.replace("first", "second version"))
        server.signal(signal.SIGHUP)
        server.wait_for_log("all workers serve: 2 workers")
        wait_until(lambda: not first & set(server.workers()), "the end of the old workers")
        load.wait_for(200)
        assert get(server).startswith("second version ")
        versions = {content.rpartition(" ")[0] for content in load.contents}
    assert_nothing_lost(load)
    assert versions == {"first", "second version"}


@pytest.mark.parametrize("arguments", [["-w", "2"], ["-w", "2", "--reuse-port"]])
def test_more_and_fewer_workers_under_load_lose_no_request(folder: Path, arguments: list[str]) -> None:
    with supervised(folder, "hello", *arguments) as server, Load("127.0.0.1", server.port, 50, pause=0.05) as load:
        for signum, count in [(signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1), (signal.SIGTTIN, 2)]:
            server.signal(signum)
            wait_until(lambda count=count: len(server.workers()) == count, f"{count} workers")
            load.wait_for(200)
        server.signal(signal.SIGHUP)
        wait_until(lambda: count_in(server, "all workers serve: 2 workers") >= 2, "the reload")
        load.wait_for(200)
    assert_nothing_lost(load)


def test_signal_for_one_worker_fewer_than_one_says_that_one_is_the_least(folder: Path) -> None:
    with supervised(folder, "hello", "-w", "1") as server:
        server.signal(signal.SIGTTOU)
        server.wait_for_log("SIGTTOU: ")
        server.wait_for_log("SIGTTOU: one worker is the least\n")


def test_workers_killed_under_load_are_replaced_at_once_and_the_others_serve_on(folder: Path) -> None:
    with supervised(folder, "hello", "-w", "2") as server, Load("127.0.0.1", server.port, 20, pause=0.05) as load:
        first = server.workers()
        for victim in first:
            os.kill(victim, signal.SIGKILL)
            server.wait_for_log(rf"worker \d+ \(pid {victim}\) was killed by SIGKILL; it is replaced")
            wait_until(lambda: len(server.workers()) == 2, "a replacement")
            asked = load.answered_count
            wait_until(lambda asked=asked: load.answered_count >= asked + 200, "more answers")
        assert not set(first) & set(server.workers())
        # Each connection of a killed worker may have had one request there.
        assert len(load.failures) + load.retried_count <= 2 * 20


def test_orphaned_workers_finish_what_runs_and_leave(folder: Path) -> None:
    with supervised(folder, "doing", "-w", "2") as server:
        workers = server.workers()
        with server.connect() as client:
            client.send(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
            server.wait_for_log("running /wait")
            server.process.kill()
            wait_until(lambda: sum(map(is_alive, workers)) == 1, "the end of the idle worker")
            server.wait_for_log("the supervisor is gone: running requests may finish")
            (folder / "go").touch()
            assert int(client.receive().content) in workers
        wait_until(lambda: not any(map(is_alive, workers)), "the end of all workers")


@pytest.mark.parametrize("arguments", [["-w", "1"], ["-w", "1", "--preload"]])
def test_program_that_the_import_starts_has_none_of_the_sockets(folder: Path, arguments: list[str]) -> None:
    (folder / "starting.py").write_text(HELLO + "os.system('ls -l /proc/self/fd > fds')\n")
    with supervised(folder, "starting", *arguments):
        assert "socket:" not in (folder / "fds").read_text()


@pytest.mark.parametrize("arguments", [["-w", "2"], ["-w", "2", "--preload"]])
def test_application_that_cannot_be_imported_is_exit_3_and_told_once(folder: Path, arguments: list[str]) -> None:
    (folder / "broken.py").write_text("import nothing_of_that_name\n")
    with server_process(folder, "broken", "-b", "127.0.0.1:0", *arguments) as server:
        assert server.wait() == 3
    assert count_in(server, "module 'broken' exists, but imports 'nothing_of_that_name', which is not found") == 1
    assert count_in(server, "Traceback") == 1


# A thread that the interpreter's end would wait for.
STARTING_A_THREAD = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"


@pytest.mark.parametrize("arguments", [[], ["-w", "2"], ["-w", "1", "--preload"]])
def test_start_that_fails_is_exit_3_whatever_threads_the_application_has_started(
    folder: Path, arguments: list[str]
) -> None:
    exit_text = "import atexit\natexit.register(open, 'left', 'w')\n"
    (folder / "broken.py").write_text(exit_text + STARTING_A_THREAD + "import nothing_of_that_name\n")
    with server_process(folder, "broken", "-b", "127.0.0.1:0", *arguments) as server:
        assert server.wait() == 3
    assert count_in(server, "imports 'nothing_of_that_name', which is not found") == 1
    assert (folder / "left").exists()


def test_forked_worker_that_fails_is_exit_3_whatever_threads_it_has_started(folder: Path) -> None:
    (folder / "hook.py").write_text(f"def fail(info):\n    exec({STARTING_A_THREAD!r})\n    1 / 0\n")
    arguments = ["-w", "1", "--preload", "--worker-init=hook:fail", "-b", "127.0.0.1:0"]
    with server_process(folder, "hello", *arguments) as server:
        assert server.wait() == 3
    assert count_in(server, "hook worker_init=hook:fail failed: ZeroDivisionError") == 1


def test_reload_to_code_that_leaves_a_thread_and_fails_is_given_up_at_once(folder: Path) -> None:
    with supervised(folder, "hello", "-w", "1") as server:
        (folder / "hello.py").write_text(STARTING_A_THREAD + "import nothing_of_that_name\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload given up, .*: worker 2 cannot start: (.*\n)+.*'nothing_of_that_name'")
        assert get(server).startswith("first ")


@pytest.mark.parametrize("arguments", [[], ["-w", "1"], ["-w", "1", "--preload"]])
def test_start_that_fails_is_exit_3_where_standard_output_takes_nothing(folder: Path, arguments: list[str]) -> None:
    (folder / "broken.py").write_text("print('importing')\nimport nothing_of_that_name\n")
    with (
        open("/dev/full", "wb") as full,
        server_process(folder, "broken", "-b", "127.0.0.1:0", *arguments, stdout=full, PYTHONUNBUFFERED="") as server,
    ):
        assert server.wait() == 3
    assert count_in(server, "imports 'nothing_of_that_name', which is not found") == 1


def test_long_reason_of_a_failed_start_is_told_whole(folder: Path) -> None:
    (folder / "broken.py").write_text("raise ValueError('x' * 600_000 + 'end')\n")
    with server_process(folder, "broken", "-b", "127.0.0.1:0", "-w", "1") as server:
        assert server.wait() == 3
    assert "x" * 600_000 + "end" in server.log


@pytest.mark.parametrize("arguments", [["-w", "1"], ["-w", "1", "--preload"]])
def test_access_log_that_a_worker_cannot_open_is_exit_3_and_told_once(folder: Path, arguments: list[str]) -> None:
    with server_process(folder, "hello", *arguments, "--access-logfile=none/log", "-b", "127.0.0.1:0") as server:
        assert server.wait() == 3
    _, *told = server.log.splitlines()  # behind the line that it starts
    assert told == [f"aiowsgi: cannot open the access log {folder}/none/log: No such file or directory"]


def test_access_log_that_cannot_be_opened_any_more_leaves_the_workers_that_serve(folder: Path) -> None:
    (folder / "logs").mkdir()
    with supervised(folder, "hello", "-w", "1", "--access-logfile=logs/log") as server:
        (folder / "logs").rename(folder / "moved")
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload given up, .*: worker 2 cannot start: cannot open the .* \S+/logs/log: No such")
        assert get(server).startswith("first ")
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    "arguments",
    [
        ["stopped", "-w", "2"],
        ["stopping:make()", "-w", "1"],
        ["hello", "-w", "1", "--worker-init=stopping:make"],
        ["hello", "-w", "1", "--worker-ready=stopping:make"],
        ["hello", "-w", "1", "--worker-init=stopping:make", "--preload"],
    ],
)
def test_worker_that_its_application_interrupts_is_exit_3_and_told_once(folder: Path, arguments: list[str]) -> None:
    # No signal does that in a worker: those of a terminal are the supervisor's.
    (folder / "stopped.py").write_text("raise KeyboardInterrupt\n")
    (folder / "stopping.py").write_text("def make(*arguments):\n    raise KeyboardInterrupt\n")
    with server_process(folder, *arguments, "-b", "127.0.0.1:0") as server:
        assert server.wait() == 3
    message = "\nthe application or a hook ended its worker before that was ready: KeyboardInterrupt\n"
    assert count_in(server, message) == 1
    assert count_in(server, "Traceback") == 1
    assert count_in(server, "\n    raise KeyboardInterrupt\n") == 1


def test_worker_that_its_application_interrupts_while_it_serves_is_replaced(folder: Path) -> None:
    (folder / "stopping.py").write_text(
        HELLO + "import asyncio\n"
        "def stop(): raise KeyboardInterrupt\n"
        "def ready(info):\n"
        "    if info.worker == 1: asyncio.get_running_loop().call_soon(stop)\n"
    )
    with supervised(folder, "stopping", "-w", "1", "--worker-ready=stopping:ready") as server:
        server.wait_for_log(r"worker 1 \(pid \d+\) was killed by SIGINT; it is replaced")
        assert get(server).startswith("first ")
        assert count_in(server, "in stop\n") == 1


def test_sigterm_lets_requests_in_workers_end(folder: Path) -> None:
    with supervised(folder, "doing", "-w", "2") as server, server.connect() as client:
        client.send(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for_log("running /wait")
        server.signal(signal.SIGTERM)
        server.wait_for_log("SIGTERM: running requests may finish")
        (folder / "go").touch()
        assert client.receive().status_code == 200
        assert server.wait() == 0
    assert "stopped; running requests: 1 finished, 0 abandoned" in server.log


def test_request_that_a_reload_cuts_off_is_told_at_once_and_not_at_the_end(folder: Path) -> None:
    with supervised(folder, "doing", "-w", "1", "--graceful-timeout=100ms") as server, server.connect() as client:
        client.send(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for_log("running /wait")
        server.signal(signal.SIGHUP)
        server.wait_for_log(
            r"\[WARNING\] worker 1 has left: 1 running request abandoned after graceful_timeout=0\.1 s\n"
        )
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "[INFO] stopped; running requests: 0 finished, 0 abandoned" in server.log


def test_request_that_ends_in_a_reload_is_none_that_ran_at_the_end(folder: Path) -> None:
    with supervised(folder, "doing", "-w", "1") as server, server.connect() as client:
        client.send(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for_log("running /wait")
        [worker] = server.workers()
        server.signal(signal.SIGHUP)
        server.wait_for_log("all workers serve")
        (folder / "go").touch()
        assert client.receive().status_code == 200
        wait_until(lambda: not is_alive(worker), "the end of the old worker")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "stopped; running requests: 0 finished, 0 abandoned" in server.log
    assert "[WARNING]" not in server.log


def test_sigint_stops_workers_quickly_and_a_second_signal_ends_all_at_once(folder: Path) -> None:
    with supervised(folder, "doing", "-w", "2") as server, server.connect() as client:
        client.send(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for_log("running /wait")
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    assert "stopped; running requests: 0 finished, 1 abandoned" in server.log
    with supervised(folder, "doing", "-w", "2", "--pid=pid") as server, server.connect() as client:
        client.send(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for_log("running /wait")
        workers = server.workers()
        server.signal(signal.SIGTERM)
        server.wait_for_log("a second signal ends at once")
        server.signal(signal.SIGTERM)  # as if the first had arrived twice
        server.signal(signal.SIGINT)
        assert server.wait() == 128 + signal.SIGINT
        wait_until(lambda: not any(map(is_alive, workers)), "the end of all workers")
    assert not (folder / "pid").exists()


def test_stacks_and_figures_of_all_workers_go_to_the_log(folder: Path) -> None:
    with supervised(folder, "doing", "-w", "2") as server, server.connect() as client:
        client.send(b"GET /wait?secret HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for_log("running /wait")
        server.signal(signal.SIGUSR1)
        server.wait_for_log(r"worker 1, its threads:\n")
        server.wait_for_log(r"worker 2, its threads:\n")
        server.wait_for_log(r"request \d+-1 GET '/wait\?secret', \d+\.\d s old, running\n(?s:.*)doing\.py.*, in app")
        server.signal(signal.SIGUSR2)
        server.wait_for_log(
            "2 workers: connections: .*; requests: 0 waiting, 1 running, 0 streaming, 0 parked, 0 done; threads:"
        )
        (folder / "go").touch()
        assert client.receive().status_code == 200


def test_worker_that_gets_sigterm_itself_is_replaced_and_finishes(folder: Path) -> None:
    with supervised(folder, "doing", "-w", "1") as server, server.connect() as client:
        (first,) = server.workers()
        client.send(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for_log("running /wait")
        os.kill(first, signal.SIGTERM)
        wait_until(lambda: len(server.workers()) == 2, "its replacement")
        wait_until(lambda: int(get(server)) != first, "an answer of its replacement")
        (folder / "go").touch()
        assert int(client.receive().content) == first


@pytest.mark.parametrize("fault", ["os.kill(os.getpid(), signal.SIGKILL)", "raise OSError('no database')"])
def test_crash_loop_is_slowed_down_and_ends_with_its_cause(folder: Path, fault: str) -> None:
    (folder / "crashing.py").write_text(f"import os, signal\nif os.path.exists('crash'): {fault}\n" + HELLO)
    with supervised(folder, "crashing", "-w", "1") as server:
        (first,) = server.workers()
        (folder / "crash").touch()
        os.kill(first, signal.SIGKILL)
        server.wait_for_log(r"slot 0 gets its next worker in 0\.5 s")
        server.wait_for_log(r"slot 0 gets its next worker in 1 s")
        (folder / "crash").unlink()
        assert get(server).startswith("first ")
        assert server.process.poll() is None


def test_worker_whose_loop_is_stuck_is_dumped_and_replaced(folder: Path) -> None:
    with supervised(folder, "doing", "-w", "1", "--timeout=1") as server:
        (first,) = server.workers()
        with server.connect() as client:
            client.send(b"GET /block-the-loop HTTP/1.1\r\nHost: test\r\n\r\n")
            server.wait_for_log("worker 1: event loop has been silent for 1 s")
            server.wait_for_log(r"worker 1, its threads:\n(?s:.*)doing\.py\", line \d+, in blocking\n    time\.sleep")
            assert int(get(server)) != first
            wait_until(lambda: not is_alive(first), "the end of the stuck worker")


def test_worker_whose_interpreter_is_held_is_dumped_all_the_same(folder: Path) -> None:
    with supervised(folder, "doing", "-w", "1", "--timeout=1") as server:
        (first,) = server.workers()
        with server.connect() as client:
            client.send(b"GET /hold-the-interpreter HTTP/1.1\r\nHost: test\r\n\r\n")
            server.wait_for_log("worker 1: event loop has been silent for 1 s")
            server.wait_for_log(r"Fatal Python error: Aborted\n(?s:.*)doing\.py\", line \d+ in app")
            assert int(get(server)) != first
            wait_until(lambda: not is_alive(first), "the end of the stuck worker")


def test_worker_is_recycled_after_its_requests_and_none_is_lost(folder: Path) -> None:
    with (
        supervised(folder, "hello", "--max-requests=100", "--max-requests-jitter=50") as server,
        Load("127.0.0.1", server.port, 10, pause=0.01) as load,
    ):
        wait_until(lambda: len(load.contents) >= 3 or load.failures, "answers of the third worker")
    assert_nothing_lost(load)
    assert all(int(count) >= 100 for count in re.findall(r"replaced: (\d+) requests", server.log))


def test_connections_spread_evenly_over_workers_with_ports_of_their_own(folder: Path) -> None:
    with supervised(folder, "hello", "-w", "4", "--reuse-port") as server:
        counts: dict[str, int] = {}
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.connect()) for _ in range(400)]
            for client in clients:
                pid = client.get("/").content.decode()
                counts[pid] = counts.get(pid, 0) + 1
    assert len(counts) == 4
    assert min(counts.values()) >= 40, counts


def test_application_that_is_preloaded_is_imported_once(folder: Path) -> None:
    source = "import threading, time\nwith open('imports', 'a') as file: print('import', file=file)\n"
    source += "threading.Thread(target=time.sleep, args=(1000,), name='left-over', daemon=True).start()\n"
    (folder / "loaded.py").write_text(source + HELLO)
    with supervised(folder, "loaded", "-w", "2", "--preload") as server:
        server.wait_for_log("has started threads, which workers will not have: left-over")
        assert (folder / "imports").read_text() == "import\n"
        first = server.workers()
        assert int(get(server).split()[1]) in first
        server.signal(signal.SIGHUP)
        server.wait_for_log("preload: the application stays as it was imported")
        server.wait_for_log("all workers serve")
        wait_until(lambda: not set(first) & set(server.workers()), "the end of the old workers")
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_until(lambda: len(server.workers()) == 2, "a replacement")
        assert int(get(server).split()[1]) not in first
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert (folder / "imports").read_text() == "import\n"
    assert "Traceback" not in server.log


def test_what_a_worker_of_an_unbuffered_interpreter_prints_is_seen_at_once(folder: Path) -> None:
    (folder / "printing.py").write_text(HELLO + "print('imported')\n")
    with supervised(folder, "printing", "-w", "1", flags=["-u"], PYTHONUNBUFFERED="") as server:
        assert server.process.stdout is not None
        os.set_blocking(server.process.stdout.fileno(), False)
        assert server.process.stdout.read() == b"imported\n"


@pytest.mark.parametrize("text", ["sys.stdout.close()", "sys.stdout = object()", "print('importing')"])
def test_preloaded_application_is_forked_whatever_standard_output_is(folder: Path, text: str) -> None:
    (folder / "silent.py").write_text(f"{HELLO}\nimport sys\n{text}\n")
    with (
        open("/dev/full", "wb") as full,
        supervised(folder, "silent", "-w", "1", "--preload", stdout=full, PYTHONUNBUFFERED="") as server,
    ):
        assert get(server).startswith("first ")


def test_preloaded_worker_with_an_executor_leaves_by_itself_and_calls_what_atexit_has(folder: Path) -> None:
    (folder / "executing.py").write_text(
        "import atexit\nfrom concurrent.futures import ThreadPoolExecutor\nimport hello\n"
        "def left():\n    with open('left', 'a') as file: print('left', file=file)\n"
        "def app(environ, start_response):\n"
        "    atexit.register(left)\n"
        "    global executor\n"
        "    executor = ThreadPoolExecutor(1)\n"
        "    return executor.submit(hello.app, environ, start_response).result()\n"
    )
    with supervised(folder, "executing", "-w", "1", "--preload") as server:
        assert get(server).startswith("first ")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert (folder / "left").read_text() == "left\n"
    assert "it is killed" not in server.log


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="needs real-time signals")
def test_signal_without_a_name_that_a_preloaded_application_handles_is_its_business(folder: Path) -> None:
    handling = "import signal\nsignal.signal(signal.SIGRTMIN + 1, lambda *args: print('handled', flush=True))\n"
    (folder / "handling.py").write_text(handling + HELLO)
    with supervised(folder, "handling", "-w", "1", "--preload") as server:
        os.kill(server.process.pid, signal.SIGRTMIN + 1)
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == b"handled\n"
        server.signal(signal.SIGUSR2)
        server.wait_for_log("1 worker: connections: ")


def test_unix_socket_outlives_workers_and_goes_with_the_supervisor(folder: Path) -> None:
    with server_process(folder, "hello", "-w", "1", "--uds=sock", "--uds-mode=600") as server:
        connect_unix(folder / "sock").close()
        assert (folder / "sock").stat().st_mode & 0o777 == 0o600
        server.wait_for_log(r"aiowsgi .*unix:.*/sock")
        os.kill(server.workers()[0], signal.SIGKILL)
        with connect_unix(folder / "sock") as client:
            assert client.get("/").status_code == 200
        with server_process(folder, "hello", "-w", "1", "--uds=sock") as second:
            assert second.wait() == 3
        assert f"cannot listen on unix:{folder}/sock: Address already in use" in second.log
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not (folder / "sock").exists()


def test_unix_socket_is_served_on_for_the_drain_delay_and_a_second_signal_ends_that(folder: Path) -> None:
    arguments = ("hello", "-w", "1", "--uds=sock", "--ready-path=/ready", "--drain-delay=10m")

    def status_code(path: str) -> int:
        with connect_unix(folder / "sock") as client:
            return client.get(path).status_code

    with server_process(folder, *arguments) as server:
        assert status_code("/ready") == 200
        server.signal(signal.SIGTERM)
        wait_until(lambda: status_code("/ready") == 503, "the beginning of the delay")
        assert status_code("/") == 200
        server.signal(signal.SIGINT)
        assert server.wait() == 128 + signal.SIGINT
        assert not (folder / "sock").exists()


def test_unix_socket_that_nobody_listens_on_is_replaced_and_one_of_another_is_left(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "sock"))
    with server_process(folder, "hello", "-w", "1", "--uds=sock") as server:
        with connect_unix(folder / "sock") as client:
            assert client.get("/").status_code == 200
        (folder / "sock").rename(folder / "moved")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(folder / "sock"))
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert (folder / "sock").exists()


def test_abstract_unix_socket_has_no_file(folder: Path) -> None:
    name = f"aiowsgi-test-{os.getpid()}-{time.monotonic_ns()}"
    with server_process(folder, "hello", "-w", "1", f"--uds=@{name}") as server:
        server.wait_for_log(f"aiowsgi .* on unix:@{name} ")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(f"\0{name}")
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert not any(path.is_socket() for path in folder.iterdir())


def test_reload_reads_the_configuration_file_again(folder: Path) -> None:
    file = folder / "aiowsgi.toml"
    file.write_text("workers = 1\nthreads = 2\n")
    (folder / "threads.py").write_text(HELLO.replace("{VERSION}", "{environ['SHOP']}"))
    with supervised(folder, "threads", "--environ=SHOP=first") as server:
        assert get(server).startswith("first ")
        file.write_text("workers = [\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload given up, the workers that serve stay: aiowsgi\.toml: is not TOML")
        file.write_text("workers = 2\nthreads = 3\nbind = '127.0.0.1:1'\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("all workers serve: 2 workers")
        assert len(server.workers()) in (2, 3)
        assert get(server).startswith("first ")
        file.unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload given up, .*: aiowsgi\.toml, which was read at the start, is gone\n")


def test_reload_serves_the_application_that_the_configuration_file_names_by_then(folder: Path) -> None:
    file = folder / "aiowsgi.toml"
    file.write_text("app = 'hello'\n")
    (folder / "shop.py").write_text(HELLO.replace("first", "second") + "\ndef make():\n    return app\n")
    with supervised(folder, "--workers=1") as server:
        assert get(server).startswith("first ")
        file.write_text("app = 'shop:make'\nfactory = true\n")
        server.signal(signal.SIGHUP)
        wait_until(lambda: get(server).startswith("second "), "the factory's application")
        file.write_text("app = 'missing'\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload given up, the workers that serve stay: .*missing")
        os.kill(int(get(server).split()[1]), signal.SIGKILL)
        server.wait_for_log("worker 2 .* it is replaced")
        assert get(server).startswith("second ")
        file.write_text("app = 'hello'\n")
        server.signal(signal.SIGHUP)
        wait_until(lambda: get(server).startswith("first "), "the first application")


def test_reload_leaves_the_application_that_the_command_line_names(folder: Path) -> None:
    file = folder / "aiowsgi.toml"
    file.write_text("app = 'doing'\n")
    with supervised(folder, "hello", "--workers=1") as server:
        file.write_text("app = 'missing'\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("all workers serve")
        assert get(server).startswith("first ")


def test_reload_leaves_the_application_that_a_program_names(folder: Path) -> None:
    program = (
        "from aiowsgi import Config, run\n"
        "if __name__ == '__main__':\n"
        "    run('hello', config=Config(app='doing', bind=['127.0.0.1:0'], workers=1))\n"
    )
    with server_of_a_program(folder, program) as server:
        assert get(server).startswith("first ")
        server.signal(signal.SIGHUP)
        server.wait_for_log("all workers serve")
        assert get(server).startswith("first ")


def test_reloads_that_are_given_up_leave_the_configuration_of_the_workers_that_serve(folder: Path) -> None:
    file, module = folder / "aiowsgi.toml", folder / "module.py"
    source = HELLO.replace("{VERSION}", "{environ['SHOP']}")
    file.write_text("environ = 'SHOP=first'\n")
    module.write_text(source)
    with supervised(folder, "module", "--workers=1") as server:
        assert get(server).startswith("first ")
        (old,) = server.workers()
        file.write_text("environ = 'SHOP=second'\n")
        module.write_text("import threading\nprint('importing', flush=True)\nthreading.Event().wait()\n")
        server.signal(signal.SIGHUP)
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == b"importing\n"
        module.write_text("raise ValueError('no settings')\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload given up, the workers that serve stay: worker 3 cannot start: (?s:.*)no settings")
        module.write_text(source)
        os.kill(old, signal.SIGKILL)
        server.wait_for_log("worker 1 .* it is replaced")
        assert get(server).startswith("first ")


def test_reload_that_is_given_up_leaves_requests_the_time_that_they_had(folder: Path) -> None:
    file, module = folder / "aiowsgi.toml", folder / "doing.py"
    file.write_text("graceful_timeout = '25s'\n")
    with supervised(folder, "doing", "--max-requests=2") as server, server.connect() as client:
        client.send(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        server.wait_for_log("running /wait")
        (old,) = server.workers()
        file.write_text("graceful_timeout = 0\n")
        module.write_text("raise ValueError('no settings')\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload given up, the workers that serve stay")
        module.write_text(DOING)
        wait_until(lambda: get(server) != str(old), "a worker in the place of the one that has had its requests")
        (folder / "go").touch()
        assert client.receive().content == str(old).encode()


def can_unshare() -> bool:
    """Whether this machine lets a test have process numbers of its own."""
    try:
        command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "true"]
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.mark.skipif(not can_unshare(), reason="unshare(1) is not there or not allowed")
def test_first_process_of_a_container_waits_for_the_children_of_others(folder: Path) -> None:
    (folder / "leaving.py").write_text(
        """
import glob, os, subprocess

def app(environ, start_response):
    if environ["PATH_INFO"] == "/leave":
        # The shell ends at once, and what it has started is the first process's child from then on.
        subprocess.run(["sh", "-c", "true & exec true"], check=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getppid()} {sum(map(is_dead, glob.glob('/proc/[0-9]*/stat')))}".encode()]

def is_dead(path):
    try:
        return ") Z " in open(path).read()
    except OSError:
        return False  # gone meanwhile
"""
    )
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += [sys.executable, "-m", "aiowsgi", "leaving", "--uds=sock"]
    log_path = folder / "stderr.log"
    with (
        log_path.open("wb") as log,
        subprocess.Popen(command, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stderr=log) as process,
    ):
        try:
            with connect_unix(folder / "sock") as client:
                for _ in range(5):
                    assert client.get("/leave").content.startswith(b"1 ")
                wait_until(lambda: client.get("/").content == b"1 0", "nobody left to wait for")
        finally:
            process.kill()


def test_stacks_of_a_worker_that_imports_its_application_go_to_the_log(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import os, sys, time\nprint('importing', file=sys.stderr, flush=True)\n"
        "while not os.path.exists('go'):\n    time.sleep(0.01)\n" + HELLO
    )
    with server_process(folder, "slow", "-w", "1", "-b", "127.0.0.1:0") as server:
        server.wait_for_log(r"starting 1 worker \(pid \d+\)")
        server.wait_for_log("importing")
        server.signal(signal.SIGUSR1)
        server.wait_for_log(r"worker 1, its threads:\n(?s:.*)slow\.py")
        (folder / "go").touch()
        assert get(server).startswith("first ")


def test_standard_error_that_is_closed_does_not_keep_workers_from_serving(folder: Path) -> None:
    broken_pipe = "import os\nreader, writer = os.pipe()\nos.close(reader)\nos.dup2(writer, 2)\n"
    (folder / "unread.py").write_text(broken_pipe + HELLO)
    with supervised(folder, "unread", "-w", "1") as server:
        assert get(server).startswith("first ")
        server.signal(signal.SIGUSR1)
        assert get(server).startswith("first ")


def test_workers_of_an_application_object_are_forked(folder: Path) -> None:
    (folder / "main.py").write_text(
        "import aiowsgi\nfrom hello import app\n"
        "if __name__ == '__main__':\n    aiowsgi.run(app, bind=['127.0.0.1:0'], workers=2)\n    print('returned')\n"
    )
    log_path = folder / "stderr.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "main.py"], cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=log
        )
    with process:
        server = ServerProcess(process, log_path)
        try:
            assert int(get(server).split()[1]) in server.workers()
            server.signal(signal.SIGTERM)
            assert process.communicate(timeout=20)[0] == b"returned\n"
        finally:
            if process.poll() is None:
                process.kill()


def test_processes_have_titles_with_the_name(folder: Path) -> None:
    pytest.importorskip("setproctitle")
    with supervised(folder, "hello", "-w", "1", "--name=shop") as server:
        titles = [
            Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0 ") for pid in (server.process.pid, *server.workers())
        ]
        assert titles == ["aiowsgi: supervisor [shop]", "aiowsgi: worker 1 [shop]"]


@pytest.mark.parametrize("arguments", [[], ["-w", "1"]])
def test_closed_terminal_is_the_end_and_no_reload(folder: Path, arguments: list[str]) -> None:
    with server_in_a_terminal(folder, "doing", "-b", "127.0.0.1:0", *arguments) as (server, close_terminal):
        assert get(server).isdigit()
        if arguments:
            server.signal(signal.SIGHUP)
            server.wait_for_log("all workers serve")
        with server.connect() as client:
            client.send(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
            server.wait_for_log("running /wait")
            close_terminal()
            # The kernel sends one, and a shell that ends with its terminal another.
            server.wait_for_log("SIGHUP: running requests may finish")
            server.signal(signal.SIGHUP)
            wait_until(lambda: server.log.count("SIGHUP: ") == 2, "the other one")
            (folder / "go").touch()
            assert client.receive().status_code == 200
        assert server.wait() == 0
    assert "stopped; running requests: 1 finished, 0 abandoned" in server.log


@pytest.mark.parametrize("arguments", [[], ["-w", "1"]])
def test_closed_terminal_is_not_the_end_of_what_nohup_has_started(folder: Path, arguments: list[str]) -> None:
    with (
        hangups_ignored(),
        server_in_a_terminal(folder, "hello", "-b", "127.0.0.1:0", *arguments) as (server, close_terminal),
    ):
        assert get(server).startswith("first ")
        close_terminal()
        if arguments:  # else there is nothing to reload
            server.wait_for_log("SIGHUP: reloading")
            server.wait_for_log("all workers serve")
        assert get(server).startswith("first ")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert server.log.count("SIGHUP: ") == len(arguments) // 2


def test_application_that_configures_logging_does_not_silence_its_worker(folder: Path) -> None:
    (folder / "configured.py").write_text(
        "import logging.config\nlogging.config.dictConfig({'version': 1, 'root': {'level': 'ERROR'}})\n" + HELLO
    )
    with supervised(folder, "configured", "-w", "1") as server:
        server.signal(signal.SIGUSR1)
        server.wait_for_log(r"worker 1, its threads:\n")
