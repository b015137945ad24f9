"""A Redis of a test's own: a real redis-server with a folder and a socket of its own, that can go away and come back.

It writes each command to its disk before it answers, so that a restart after SIGKILL has all that was answered.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

__all__ = ["RedisProcess", "needs_redis", "redis_process"]

# Seconds until a test gives up; nothing waits so long when it passes.
_PATIENCE = 20.0
_PROGRAM = shutil.which("redis-server", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

#: For each test, or each module's ``pytestmark``, that starts a Redis.
needs_redis = pytest.mark.skipif(_PROGRAM is None, reason="redis-server is not installed")


class RedisProcess:
    """One redis-server; started, stopped and started again with the same address.

    Args:
        folder: of its data, socket and log; short, for a Unix socket's path is.
        password: that its clients are to give.
        tcp: listens on a free port of 127.0.0.1 as well.
        options: more of redis.conf, as ``maxmemory="1mb"``.
    """

    def __init__(self, folder: Path, *, password: str = "", tcp: bool = False, **options: str) -> None:
        self.folder = folder
        self.password = password
        self.socket_path = folder / "redis.sock"
        self.port = _free_port() if tcp else 0
        self._tcp = tcp
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is, as redis-py reads it: the port where there is one, else the Unix socket."""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0" if self._tcp else f"unix://{secret}{self.socket_path}"

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, and wait until it answers and has its data."""
        assert self._process is None, "it runs"
        for _ in range(5):
            if self._started():
                return
            # Another process was given the port meanwhile. Not after a restart: those who know the address would wait.
            if not self._tcp or (self.folder / "appendonlydir").exists():
                break
            self.port = _free_port()
        raise AssertionError(self.log)

    def _started(self) -> bool:
        assert _PROGRAM is not None
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket_path),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "requirepass": self.password,
        } | {name.replace("_", "-"): value for name, value in self._options.items()}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([_PROGRAM, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            if process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)
        self._process = process
        return True

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_PATIENCE)
            try:
                client.connect(str(self.socket_path))
                if self.password:
                    client.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(self.password), self.password.encode()))
                    client.recv(64)
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith(b"+PONG")  # and not that it loads its data
            except OSError:
                return False

    def stop(self) -> None:
        """End it as an operator does, by SIGTERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does, by SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)  # a paused one ends as well
            process.send_signal(number)
            process.wait(_PATIENCE)
            self.socket_path.unlink(missing_ok=True)

    def pause(self) -> None:
        """Have it hold all connections and answer none, by SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on after :meth:`pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def lose_data(self) -> None:
        """Remove what it has on its disk; not while it runs."""
        assert self._process is None, "it runs"
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        (self.folder / "dump.rdb").unlink(missing_ok=True)

    def restart(self, *, with_data: bool = True) -> None:
        """Kill it and start it again."""
        self.kill()
        if not with_data:
            self.lose_data()
        self.start()

    def call(self, *words: bytes | str | int) -> Any:
        """Send one command over a connection of its own, and return the answer as redis-py has it."""
        import redis

        options = {"unix_socket_path": str(self.socket_path), "password": self.password or None}
        with redis.Redis(**options, socket_timeout=_PATIENCE) as client:  # type: ignore[arg-type]
            return client.execute_command(*words)

    def client_count(self) -> int:
        """Return how many connections there are but for the one that asks."""
        return int(self.call("INFO", "clients")["connected_clients"]) - 1


@contextmanager
def redis_process(*, password: str = "", tcp: bool = False, **options: str) -> Iterator[RedisProcess]:
    """Run a Redis with data of its own, and end it; see :class:`RedisProcess`."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        process = RedisProcess(Path(folder), password=password, tcp=tcp, **options)
        process.start()
        try:
            yield process
        finally:
            process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
