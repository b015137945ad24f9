"""gunicorn with this engine's worker, in processes of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gunicorn.config import Config

import aiowsgi
from tests.raw import RawClient

#: Seconds until a test gives up; nothing waits so long when it passes.
PATIENCE = 20.0

# Its place would be in the home directory; not every version has one.
NO_CONTROL_SOCKET = ["--no-control-socket"] * ("control_socket_disable" in Config().settings)


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll a condition for a bounded time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process is there that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class GunicornProcess:
    """A master and its workers; what they log goes to a file that is read as it grows."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder

    @property
    def log(self) -> str:
        return (self.folder / "gunicorn.log").read_text(errors="replace")

    def wait_for_log(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until the log has lines that a pattern is found in; return what its group, or all of it, matched."""
        wait_until(lambda: len(re.findall(pattern, self.log)) >= count or self.process.poll() is not None, pattern)
        found = re.findall(pattern, self.log)
        assert len(found) >= count, self.log
        return found

    @property
    def port(self) -> int:
        return int(self.wait_for_log(r"Listening at: http://127\.0\.0\.1:(\d+)")[0])

    def wait_for_workers(self, count: int = 1) -> list[int]:
        """Wait until so many workers in all have begun to serve; return the pids of all."""
        return [int(pid) for pid in self.wait_for_log(r"\[(\d+)\] \[INFO\] aiowsgi \S+: ", count)]

    def connect(self) -> RawClient:
        return RawClient(socket.create_connection(("127.0.0.1", self.port), PATIENCE))

    def connect_unix(self) -> RawClient:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(str(self.folder / "sock"))
        return RawClient(client)

    def signal(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def wait(self) -> int:
        """Wait for the master's end; return its exit code, negative where a signal killed it."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the master does not end: {self.log}") from None

    def stop(self) -> None:
        """End it in an orderly way; nothing may be wrong with it."""
        self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.log
        assert "Traceback" not in self.log, self.log

    def pids(self) -> list[int]:
        """Return the master and every worker that it has booted."""
        booted = re.findall(r"Booting worker with pid: (\d+)", self.log)
        return [self.process.pid, *map(int, booted)]


def environment() -> dict[str, str]:
    """Return this process's environment for a child that imports the same package."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIOWSGI_", "GUNICORN_")) and name not in ("SCRIPT_NAME", "WEB_CONCURRENCY", "PORT")
    }
    path = [str(Path(aiowsgi.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return inherited | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


@contextmanager
def gunicorn(
    folder: Path, *arguments: str, bind: str = "127.0.0.1:0", app: str = "app:app", **variables: str
) -> Iterator[GunicornProcess]:
    """Run gunicorn in a folder; kill what is left of it in the end."""
    with (folder / "gunicorn.log").open("wb") as log:
        process = subprocess.Popen(
            [
                # Not "-m gunicorn": USR2 executes the program's file again, and that one's folder has an "http" in it.
                str(Path(sys.executable).with_name("gunicorn")),
                "--worker-class=aiowsgi.gunicorn.Worker",
                f"--bind={bind}",
                *NO_CONTROL_SOCKET,
                *arguments,
                app,
            ],
            cwd=folder,
            env=environment() | variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    server = GunicornProcess(process, folder)
    with process:
        try:
            yield server
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pid in server.pids():
                # Workers of a master that was killed; the pids are from its log, and not reused so soon.
                with contextlib.suppress(ProcessLookupError):
                    if is_alive(pid):
                        os.kill(pid, signal.SIGKILL)
