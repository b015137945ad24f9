"""Sockets that systemd passes, and what it is told."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiowsgi.process.activation import take_passed_descriptors
from aiowsgi.process.notify import Notifier
from tests.process.server_process import PATIENCE, ServerProcess, environment
from tests.raw import RawClient

# As systemd does: the sockets from 3 on, and the process's own number in the environment.
ACTIVATING = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(sys.executable, [sys.executable, "-m", "aiowsgi", *sys.argv[2:]])
"""

HELLO = """
import os

def app(environ, start_response):
    names = [name for name in os.environ if name.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_"))]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(names).encode()]
"""


class Systemd:
    """The socket that a service notifies."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(PATIENCE)
        self.states: list[str] = []

    def wait_for(self, state: str) -> str:
        """Return the first message with a state; forget what came before."""
        while True:
            message = self._socket.recv(4096).decode()
            self.states.append(message)
            if state in message.split("\n"):
                return message

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    manager = Systemd(tmp_path)
    yield manager
    manager.close()


@contextlib.contextmanager
def activated(folder: Path, sock: socket.socket, *arguments: str, **variables: str) -> Iterator[ServerProcess]:
    (folder / "hello.py").write_text(HELLO)
    log_path = folder / "stderr.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", ACTIVATING, str(sock.fileno()), "hello", *arguments],
            cwd=folder,
            env=environment(**variables),
            pass_fds=[sock.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
    with process:
        try:
            yield ServerProcess(process, log_path)
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("arguments", [[], ["-w", "2"]])
def test_passed_socket_is_served_and_the_manager_is_told(
    tmp_path: Path, systemd: Systemd, arguments: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        variables = {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "200000"}
        # The unit says where to listen, whatever the configuration says.
        with activated(tmp_path, sock, "-b", "127.0.0.1:1", *arguments, **variables) as server:
            assert "STATUS=serving" in systemd.wait_for("READY=1")
            with RawClient(socket.create_connection(sock.getsockname(), PATIENCE)) as client:
                assert client.get("/").content == b"[]"
            systemd.wait_for("WATCHDOG=1")
            systemd.wait_for("WATCHDOG=1")
            if arguments:
                server.signal(signal.SIGHUP)
                assert "MONOTONIC_USEC=" in systemd.wait_for("RELOADING=1")
                systemd.wait_for("READY=1")
            server.signal(signal.SIGTERM)
            systemd.wait_for("STOPPING=1")
            assert server.wait() == 0
        # The socket is the manager's: connections may wait in it for the next start.
        socket.create_connection(sock.getsockname(), PATIENCE).close()


def test_manager_is_told_of_a_reload_that_is_given_up_while_a_worker_is_missing(
    tmp_path: Path, systemd: Systemd
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        activated(tmp_path, sock, "-w", "2", NOTIFY_SOCKET=systemd.path) as server,
    ):
        systemd.wait_for("READY=1")
        (tmp_path / "hello.py").write_text("raise ValueError('no settings')\n")
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for_log("worker 3 cannot start, the others serve on")
        server.signal(signal.SIGHUP)
        systemd.wait_for("RELOADING=1")
        assert "STATUS=reload failed: 2 workers" in systemd.wait_for("READY=1")


def test_descriptors_for_another_process_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert take_passed_descriptors() == ()
    assert "LISTEN_FDS" not in os.environ


@pytest.mark.parametrize("count", ["", "x", "-1"])
def test_strange_number_of_descriptors_is_none(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)
    assert take_passed_descriptors() == ()


def test_notifier_without_a_manager_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready("serving")
    assert notifier.watchdog_interval == 0.0


def test_notifier_whose_manager_is_behind_drops_signs_of_life_only(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.path)
    notifier = Notifier()
    for _ in range(5000):  # more than a kernel lets wait: 10 by default, 512 under systemd
        notifier.watchdog()
    thread = threading.Thread(target=notifier.ready, args=("serving",))
    thread.start()
    systemd.wait_for("READY=1")
    thread.join(PATIENCE)
    assert systemd.states[:10] == ["WATCHDOG=1"] * 10
    assert len(systemd.states) < 5000


def test_notifier_whose_manager_is_gone_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    Notifier().stopping()


def test_watchdog_of_another_process_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "@somewhere")
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert Notifier().watchdog_interval == 0.0
    monkeypatch.setenv("NOTIFY_SOCKET", "@somewhere")
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert Notifier().watchdog_interval == 0.5
