"""The command line as a process: what only a process of its own can show."""

from __future__ import annotations

import importlib.util
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import aiowsgi
from tests.process.server_process import PATIENCE, ServerProcess, connect_unix, environment, server_process, wait_until

HELLO = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""

# A request runs until a file appears; "/thread" leaves a thread behind that keeps the process alive.
WAITING = """
import os, signal, sys, threading, time

def hold():
    while getattr(signal.getsignal(signal.SIGINT), "__module__", "") != "aiowsgi.process.run":
        time.sleep(0.01)
    print("held", file=sys.stderr, flush=True)
    threading.Event().wait()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/thread":
        threading.Thread(target=hold, daemon=False).start()
    else:
        print("running", environ["PATH_INFO"], file=environ["wsgi.errors"], flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"""

GET = b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n"

signals = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
loops = pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text(HELLO)
    (tmp_path / "waiting.py").write_text(WAITING)
    return tmp_path


def refuses(server: ServerProcess) -> bool:
    """Whether nothing listens on its port any more."""
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


@loops
def test_start_line_tells_url_threads_loop_parser_python_and_pid(folder: Path, loop_name: str) -> None:
    arguments = ["hello:app", "-b", "127.0.0.1:0", "-b", "unix:sock", "--threads=3", "--loop", loop_name, "--http=h11"]
    with server_process(folder, *arguments) as server:
        line = server.wait_for_log(r"aiowsgi .*\n")[0]
        expected = (
            rf"aiowsgi {re.escape(aiowsgi.__version__)} on http://127\.0\.0\.1:\d+, unix:\S+/sock "
            rf"\(3 threads, {loop_name}, h11, Python {re.escape(platform.python_version())}, "
            rf"pid {server.process.pid}\)\n"
        )
        assert re.fullmatch(expected, line)
        assert server.log.count("\n") == 1
        with server.connect() as client:
            assert client.get("/").content == b"hello"
        with connect_unix(folder / "sock") as client:
            assert client.get("/").content == b"hello"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert not (folder / "sock").exists()
    assert "Traceback" not in server.log


@loops
def test_sigterm_lets_the_request_that_runs_end_and_exits_0(folder: Path, loop_name: str) -> None:
    with server_process(folder, "waiting", "--port=0", "--loop", loop_name) as server, server.connect() as client:
        client.send(GET)
        server.wait_for_log("running /slow")
        server.signal(signal.SIGTERM)
        server.wait_for_log("SIGTERM: running requests may finish")
        wait_until(lambda: refuses(server), "the end of the listening socket")
        (folder / "go").touch()
        assert client.receive().content == b"done"
        assert server.wait() == 0
    assert "running requests: 1 finished, 0 abandoned" in server.log


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT])
def test_sigint_and_sigquit_stop_without_waiting_for_the_request_that_runs(
    folder: Path, signum: signal.Signals
) -> None:
    with server_process(folder, "waiting", "--port=0") as server, server.connect() as client:
        client.send(GET)
        server.wait_for_log("running /slow")
        server.signal(signum)
        assert server.wait() == 0
    assert f"{signum.name}: stopping quickly" in server.log
    assert "running requests: 0 finished, 1 abandoned" in server.log


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU])
def test_signal_for_a_supervisor_where_there_is_none_says_so_and_changes_nothing(
    folder: Path, signum: signal.Signals
) -> None:
    with server_process(folder, "hello", "--port=0") as server:
        assert server.url
        server.signal(signum)
        server.wait_for_log(f"{signum.name}: needs a supervisor, which --workers starts")
        with server.connect() as client:
            assert client.get("/").content == b"hello"


@loops
def test_sigusr1_dumps_each_threads_stack_with_its_request_and_sigusr2_tells_figures(
    folder: Path, loop_name: str
) -> None:
    with server_process(folder, "waiting", "--port=0", "--loop", loop_name) as server, server.connect() as client:
        client.send(GET)
        server.wait_for_log("running /slow")
        server.signal(signal.SIGUSR1)
        pattern = r"thread aiowsgi-\d+-worker-1 \(\d+\): request \d+-1 GET '/slow', \d+\.\d s old, running\n"
        server.wait_for_log(pattern + r'(?:  .*\n)*  File ".*waiting\.py", line \d+, in app\n')
        server.wait_for_log(r"thread MainThread ")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("requests: 0 waiting, 1 running, 0 streaming, 0 parked, 0 done; threads: 0 idle, 1 running")
        (folder / "go").touch()
        assert client.receive().content == b"done"


@pytest.mark.parametrize("arguments", [[], ["-w", "1", "--preload"]])
def test_sigusr1_while_the_application_is_imported_tells_where(folder: Path, arguments: list[str]) -> None:
    (folder / "slow.py").write_text(
        "import os, sys, time\nprint('importing', file=sys.stderr, flush=True)\n"
        "while not os.path.exists('go'):\n    time.sleep(0.01)\nfrom hello import app\n"
    )
    with server_process(folder, "slow", "--port=0", *arguments) as server:
        server.wait_for_log("importing")
        server.signal(signal.SIGUSR1)
        server.wait_for_log(r"SIGUSR1, all threads:\nthread MainThread (?s:.*)slow\.py")
        (folder / "go").touch()
        with server.connect() as client:
            assert client.get("/").content == b"hello"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@signals
@loops
def test_second_signal_ends_at_once_and_leaves_no_socket_file(
    folder: Path, signum: signal.Signals, loop_name: str
) -> None:
    with (
        server_process(folder, "waiting", "--uds=sock", "--loop", loop_name) as server,
        connect_unix(folder / "sock") as client,
    ):
        client.send(b"GET /thread HTTP/1.1\r\nHost: test\r\n\r\n" + GET)
        server.wait_for_log("running /slow")
        # Another one, since the same would be the first that arrives twice.
        first = signal.SIGINT if signum == signal.SIGTERM else signal.SIGTERM
        server.signal(first)
        server.wait_for_log(f"{first.name}: ")
        begun = time.monotonic()
        server.signal(signum)
        assert server.wait() == 128 + signum
        assert time.monotonic() - begun < 5.0
    assert f"{signum.name} again: ending at once" in server.log
    assert not (folder / "sock").exists()


def test_two_signals_received_together_end_at_once_and_leave_no_socket_file(folder: Path) -> None:
    with (
        server_process(folder, "waiting", "--uds=sock") as server,
        connect_unix(folder / "sock") as client,
    ):
        client.send(GET)
        server.wait_for_log("running /slow")
        server.signal(signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        server.signal(signal.SIGCONT)
        assert server.wait() in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert "again: ending at once" in server.log
    assert not (folder / "sock").exists()


def test_request_that_outlives_the_graceful_timeout_is_abandoned_and_holds_nothing(folder: Path) -> None:
    with (
        server_process(folder, "waiting", "--port=0", "--graceful-timeout=100ms") as server,
        server.connect() as client,
    ):
        client.send(GET)
        server.wait_for_log("running /slow")
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - begun < 5.0
    assert "[WARNING] stopped; running requests: 0 finished, 1 abandoned" in server.log
    assert "Fatal" not in server.log


@signals
def test_signal_while_a_thread_of_the_application_holds_the_exit_ends_at_once(
    folder: Path, signum: signal.Signals
) -> None:
    with server_process(folder, "waiting", "--port=0") as server:
        with server.connect() as client:
            assert client.get("/thread").content == b"done"
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopped; ")
        server.wait_for_log("held")
        server.signal(signum)
        assert server.wait() == 128 + signum


# What of the application outlives serving has little time, so that a test does not take longer.
HURRIED = "import aiowsgi.process.exit as end\nend.LEAVING_MARGIN_SECONDS = end._UNREMARKABLE_SECONDS = 0.1\n"
supervision = pytest.mark.parametrize("arguments", [[], ["-w", "1", "--preload"]])


@supervision
def test_thread_of_the_application_that_does_not_end_is_named_and_left_behind(
    folder: Path, arguments: list[str]
) -> None:
    source = HURRIED + "end.LEAVING_MARGIN_SECONDS = 0.5\nprint('written')\nimport threading\n"
    source += "threading.Thread(target=threading.Event().wait, name='poller').start()\nfrom hello import app\n"
    (folder / "polling.py").write_text(source)
    with server_process(folder, "polling", "--port=0", *arguments) as server:
        assert server.url
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.process.stdout is not None
        assert b"written" in server.process.stdout.read()
    assert "[INFO] waiting for the application's threads: poller\n" in server.log
    assert "[WARNING] ending without the application's threads: poller\n" in server.log


@supervision
def test_thread_of_the_application_that_ends_is_waited_for_and_atexit_comes_after_it(
    folder: Path, arguments: list[str]
) -> None:
    (folder / "working.py").write_text(
        "import atexit, os, threading\nmain = os.getpid()\n"
        "def note(text):\n    if os.getpid() == main:\n        with open('order', 'a') as file: file.write(text)\n"
        "def work():\n    threading.main_thread().join()\n    note('thread, ')\n"
        "atexit.register(note, 'atexit')\nthreading.Thread(target=work).start()\nfrom hello import app\n"
    )
    with server_process(folder, "working", "--port=0", *arguments) as server:
        assert server.url
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert (folder / "order").read_text() == "thread, atexit"
    assert "ending without" not in server.log


def test_function_of_atexit_that_does_not_return_is_left_behind(folder: Path) -> None:
    source = HURRIED + "import atexit, threading\natexit.register(threading.Event().wait)\nfrom hello import app\n"
    (folder / "hanging.py").write_text(source)
    with server_process(folder, "hanging", "--port=0") as server:
        assert server.url
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "[WARNING] ending without the application's functions that atexit calls\n" in server.log


def test_program_that_calls_run_goes_on_for_as_long_as_it_likes(folder: Path) -> None:
    program = HURRIED + (
        "import threading, time, aiowsgi\nfrom hello import app\naiowsgi.run(app, uds='sock')\n"
        "threading.Thread(target=lambda: print(time.sleep(0.4), 'to the end')).start()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE) as process:
        connect_unix(folder / "sock").close()
        process.terminate()
        out, _ = process.communicate(timeout=PATIENCE)
    assert out == b"None to the end\n"


def test_signal_sent_as_soon_as_the_port_is_open_is_graceful(folder: Path) -> None:
    with server_process(folder, "hello", "--uds=sock") as server:
        connect_unix(folder / "sock").close()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_application_that_exits_at_import_is_exit_3(folder: Path) -> None:
    (folder / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    with server_process(folder, "leaving", "--uds=sock") as server:
        assert server.wait() == 3
    assert "module 'leaving' ended the program while it was imported: SystemExit: 0" in server.log
    assert not (folder / "sock").exists()


def test_configuration_is_checked_to_the_end_whatever_threads_the_application_has_started(folder: Path) -> None:
    (folder / "pushing.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait).start()\nfrom hello import app\n"
    )
    with server_process(folder, "pushing", "--check-config") as server:
        assert server.wait() == 0


@pytest.mark.parametrize("arguments", [["--check-config"], ["--port=0"], ["--port=0", "-w", "1"]])
@pytest.mark.parametrize("patch", ["gevent.monkey.patch_all()", "eventlet.monkey_patch()"])
def test_application_with_greenlets_in_the_place_of_threads_is_exit_3(
    folder: Path, patch: str, arguments: list[str]
) -> None:
    module = patch.rpartition(".")[0]
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"needs {module}")
    (folder / "patching.py").write_text(f"import {module}\n{patch}\nfrom hello import app\n")
    with server_process(folder, "patching", *arguments, flags=["-W", "ignore"]) as server:
        assert server.wait() == 3
    assert f"aiowsgi: threading is patched by {patch}, and requests would hang: " in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("arguments", [["--uds=sock"], ["--uds=sock", "-w", "1"], ["--uds=sock", "-w1", "--preload"]])
def test_application_that_closes_standard_input_is_served_to_the_end(folder: Path, arguments: list[str]) -> None:
    (folder / "closing.py").write_text("import os\nos.close(0)\nfrom hello import app\n")
    with server_process(folder, "closing", "--loop=uvloop", *arguments) as server:
        with connect_unix(folder / "sock") as client:
            assert client.get("/").content == b"hello"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "SIGABRT" not in server.log


def test_port_in_use_is_exit_3_and_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with server_process(folder, "hello", f"--port={port}") as server:
            assert server.wait() == 3
    assert server.log == f"aiowsgi: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_variables_set_options_and_a_flag_wins(folder: Path) -> None:
    with server_process(
        folder, "hello", "--threads=2", AIOWSGI_THREADS="5", AIOWSGI_BIND="127.0.0.1:0", AIOWSGI_LOOP="asyncio"
    ) as server:
        assert "(2 threads, asyncio, " in server.wait_for_log(r"aiowsgi .*\n")[0]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_application_that_configures_logging_does_not_silence_the_start_line(folder: Path) -> None:
    (folder / "configured.py").write_text(
        "import logging.config\nlogging.config.dictConfig({'version': 1, 'root': {'level': 'ERROR'}})\n" + HELLO
    )
    with server_process(folder, "configured", "--port=0") as server:
        assert server.url
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "stopped; " in server.log


def test_log_level_error_says_nothing_of_the_ordinary(folder: Path) -> None:
    with server_process(folder, "hello", "--uds=sock", "--log-level=error") as server:
        with connect_unix(folder / "sock") as client:
            assert client.get("/").content == b"hello"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert server.log == ""


def test_log_that_nobody_reads_any_more_does_not_keep_it_from_serving(folder: Path) -> None:
    broken_pipe = "import os\nreader, writer = os.pipe()\nos.close(reader)\nos.dup2(writer, 2)\n"
    (folder / "unread.py").write_text(broken_pipe + HELLO)
    with server_process(folder, "unread", "--uds=sock") as server:
        with connect_unix(folder / "sock") as client:
            assert client.get("/").content == b"hello"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
