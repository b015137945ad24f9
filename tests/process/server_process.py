"""The command line in a process of its own, and the way to a server's socket."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import aiowsgi
from tests.raw import RawClient

# Seconds until a test gives up; nothing waits so long when it passes.
PATIENCE = 20.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll a condition for a bounded time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


def connect_unix(path: Path) -> RawClient:
    """Connect to a Unix socket once a server listens on it."""
    connections: list[socket.socket] = []

    def connected() -> bool:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            return False
        connections.append(client)
        return True

    wait_until(connected, f"a server on {path}")
    return RawClient(connections[0])


class ServerProcess:
    """``python -m aiowsgi`` with some arguments; standard error goes to a file that is read as it grows."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self._log_path = log_path

    @property
    def log(self) -> str:
        """What it has written to standard error."""
        return self._log_path.read_text(errors="replace")

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        """Wait until standard error has a line that a pattern is found in."""
        wait_until(
            lambda: re.search(pattern, self.log) or self.process.poll() is not None, f"{pattern} in {self.log!r}"
        )
        match = re.search(pattern, self.log)
        assert match, self.log
        return match

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self.url.rpartition(":")[2])

    def workers(self) -> list[int]:
        """Return the process numbers of its children."""
        pid = self.process.pid
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    @property
    def url(self) -> str:
        """Where it listens, as the start line says."""
        return self.wait_for_log(r"(http://[^\s,]+)[^\n]*\n")[1]

    def connect_to(self, port: int) -> RawClient:
        return RawClient(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))

    def connect(self) -> RawClient:
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        return RawClient(socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE))

    def signal(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def wait(self) -> int:
        """Wait for its end; return its exit code, negative where a signal killed it."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the process does not end: {self.log}") from None


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment for a child that imports the same package."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIOWSGI_")}
    path = [str(Path(aiowsgi.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return inherited | {"PYTHONPATH": os.pathsep.join(filter(None, path)), **variables}


@contextmanager
def server_of_a_program(folder: Path, text: str) -> Iterator[ServerProcess]:
    """Run a program that calls ``aiowsgi.run()``; end it with what it has started."""
    (folder / "main.py").write_text(text)
    log_path = folder / "stderr.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen([sys.executable, "main.py"], cwd=folder, env=environment(), stderr=log)
    with process:
        try:
            yield ServerProcess(process, log_path)
        finally:
            process.terminate()


@contextmanager
def server_process(
    folder: Path,
    *arguments: str,
    cwd: Path | None = None,
    stdout: BinaryIO | None = None,
    flags: Sequence[str] = (),
    **variables: str,
) -> Iterator[ServerProcess]:
    """Run ``python -m aiowsgi`` in a folder, or log there; kill it in the end if it is still there.

    Args:
        folder: for its log.
        arguments: of the command.
        cwd: the folder to run it in; default ``folder``.
        stdout: where its standard output goes; default a pipe.
        flags: of the interpreter.
        variables: of its environment.
    """
    command = [sys.executable, *flags, "-m", "aiowsgi", *arguments]
    with _process(folder, command, cwd or folder, variables, stdout) as server:
        yield server


# Opens a terminal as the one that controls it, and becomes the command.
_IN_A_TERMINAL = """
import os, sys
os.setsid()
terminal = os.open(sys.argv[1], os.O_RDWR)
os.dup2(terminal, 0)
os.execv(sys.executable, [sys.executable, "-m", "aiowsgi", *sys.argv[2:]])
"""


@contextmanager
def server_in_a_terminal(folder: Path, *arguments: str) -> Iterator[tuple[ServerProcess, Callable[[], None]]]:
    """Run it as :func:`server_process` does, in a terminal of its own; yield what closes that, too."""
    master, slave = os.openpty()
    path = os.ttyname(slave)
    os.close(slave)
    with (
        open(master, "rb", buffering=0) as terminal,
        _process(folder, [sys.executable, "-c", _IN_A_TERMINAL, path, *arguments], folder, {}) as server,
    ):
        yield server, terminal.close


@contextmanager
def hangups_ignored() -> Iterator[None]:
    """Have what is started meanwhile ignore SIGHUP, as nohup(1) does."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)


@contextmanager
def _process(
    folder: Path, command: list[str], cwd: Path, variables: dict[str, str], stdout: BinaryIO | None = None
) -> Iterator[ServerProcess]:
    log_path = folder / "stderr.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=log,
        )
    with process:
        try:
            yield ServerProcess(process, log_path)
        finally:
            if process.poll() is None:
                process.kill()
