"""Processes that the application forks, of a server in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process.server_process import server_process

# The child sends no output and runs no more of the server's code than a fork of multiprocessing's does.
_APP = """
import multiprocessing, os, signal, time

if os.environ.get("HANDLES_HANGUP"):
    signal.signal(signal.SIGHUP, lambda signum, frame: os._exit(7))

def wait():
    # CPython 3.13.0 does not look by itself for signals in a process that a thread has forked.
    while True:
        time.sleep(0.01)
        signal.pthread_sigmask(signal.SIG_BLOCK, ())

def application(environ, start_response):
    child = multiprocessing.get_context("fork").Process(target=wait)
    child.start()
    os.kill(child.pid, getattr(signal, environ["QUERY_STRING"]))
    child.join(5)
    code = child.exitcode
    child.kill()
    start_response("200 OK", [])
    return [str(code).encode()]
"""

ALONE_AND_WORKER = pytest.mark.parametrize("arguments", [(), ("--workers", "1"), ("--workers", "1", "--preload")])
LOOPS = pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])


@ALONE_AND_WORKER
@LOOPS
def test_signal_to_a_forked_child_ends_it_and_not_the_server(
    tmp_path: Path, loop_name: str, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "app.py").write_text(_APP)
    with server_process(
        tmp_path, "app", "--bind", "127.0.0.1:0", "--loop", loop_name, *arguments, PYTHONWARNINGS="ignore"
    ) as server:
        with server.connect() as client:
            assert client.get("/?SIGTERM").content == b"-15"
        # Had it come to the server as well, there would be nobody to answer.
        with server.connect() as client:
            assert client.get("/?SIGUSR2").content == b"-12"
            assert client.get("/?SIGHUP").content == b"-1"
        assert len(server.log.splitlines()) == (2 if arguments else 1), server.log
        with server.connect() as client:
            # By the signal itself, or by the KeyboardInterrupt that Python makes of it.
            assert client.get("/?SIGINT").content in (b"-2", b"1")


def test_signal_that_the_application_handles_is_handled_in_a_forked_child(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(_APP)
    with (
        server_process(
            tmp_path,
            "app",
            "--bind",
            "127.0.0.1:0",
            "--workers",
            "1",
            PYTHONWARNINGS="ignore",
            HANDLES_HANGUP="yes",
        ) as server,
        server.connect() as client,
    ):
        assert client.get("/?SIGHUP").content == b"7"
