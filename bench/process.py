"""A server under test: a fresh process in a session of its own, with a clean environment, ended by its id.

Thread: any. Every wait is bounded.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from bench import accounting
from bench.errors import BenchError, ServerFailed
from bench.servers import Launch, Server

__all__ = [
    "ROOT",
    "ServerProcess",
    "free_port",
    "interrupts_deferred",
    "raise_descriptor_limit",
    "running",
    "server_environment",
]

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 20.0
STOP_TIMEOUT = 8.0
_POLL = 0.005
_DESCRIPTORS_WANTED = 65536
_FIRST_PORT = 10_000


def raise_descriptor_limit() -> int:
    """Let this process, and those that it starts, open as many files as the system allows; return how many.

    The hard limit is raised too where this process may do that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _DESCRIPTORS_WANTED:
        for limit in (_DESCRIPTORS_WANTED, hard):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
                break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free, and that the kernel will not give to a client's connection."""
    for _ in range(1000):
        port = random.randrange(_FIRST_PORT, _first_ephemeral_port())
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise BenchError(f"no free port of 127.0.0.1 from {_FIRST_PORT} to {_first_ephemeral_port()}")


def _first_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32_768  # Linux's default; other systems begin higher


def server_environment() -> dict[str, str]:
    """Return the environment that servers run in: nothing of the caller's but the path of this checkout."""
    return {
        "PATH": f"{sysconfig.get_path('scripts')}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
    }


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM until the block is over: in the middle of it they would leave a process behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[tuple[int, FrameType | None]] = []
    handlers = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for each in handlers:
        signal.signal(each, lambda *arguments: arrived.append(arguments))
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        for number, frame in arrived[:1]:
            handler = handlers[number]
            if callable(handler):
                handler(number, frame)
            else:
                os.kill(os.getpid(), number)


class ServerProcess:
    """A server that answers.

    Args:
        process: the leader of its session.
        launch: what it serves.
        log: its standard output and error.
        start_seconds: from the start of the process to its first answer.
    """

    def __init__(self, process: subprocess.Popen[bytes], launch: Launch, log: Path, start_seconds: float) -> None:
        self.process = process
        self.launch = launch
        self.log = log
        self.start_seconds = start_seconds

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return self.launch.port

    def snapshot(self) -> accounting.Snapshot:
        """Read its counters.

        Raises:
            ServerFailed: it has ended.
        """
        if self.process.poll() is not None:
            raise ServerFailed(f"ended with {self.process.returncode}{_last_line(self.log)}")
        return accounting.snapshot(self.process.pid)

    def memory(self) -> accounting.Memory:
        """Read its memory."""
        return accounting.memory(self.process.pid)


@contextmanager
def running(server: Server, launch: Launch, ready_path: str = "/hello") -> Iterator[ServerProcess]:
    """Run a server until the block ends.

    Args:
        ready_path: a request for it is answered with 200 once the server serves.

    Raises:
        ServerFailed: it does not answer within the bound, or its port is still taken after its end.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    log = folder / "log"
    process = None
    try:
        begun = time.monotonic()
        with interrupts_deferred(), log.open("wb") as output:
            process = subprocess.Popen(
                server.command(launch),
                cwd=folder,
                env=server_environment() | server.variables(launch),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_until_ready(process, launch.port, ready_path, log)
            yield ServerProcess(process, launch, log, time.monotonic() - begun)
        finally:
            with interrupts_deferred():
                _stop(process)
            process = None
        _check_port_free(launch.port)
    finally:
        if process is not None:  # interrupted at its very start
            _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(f"ended with {process.returncode} at its start{_last_line(log)}")
        if _answers(port, path):
            return
        time.sleep(_POLL)
    raise ServerFailed(f"no answer within {START_TIMEOUT:g} s of its start{_last_line(log)}")


def _answers(port: int, path: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            return sock.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a session: SIGTERM for its leader, then SIGKILL for each process that is left."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT)
    deadline = time.monotonic() + STOP_TIMEOUT
    while (left := [stat.pid for stat in accounting.processes(process.pid)]) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(_POLL)
    process.wait(STOP_TIMEOUT)


def _check_port_free(port: int) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            return
        except OSError:
            pass
        time.sleep(_POLL)
    raise ServerFailed(f"port {port} is still served after its end")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f": {lines[-1][:200]}" if lines else f" ({sys.platform}: nothing was logged)"
