"""Redis, HAProxy and three instances of two workers each, on this machine: ``python run.py``, and Ctrl-C.

Only HAProxy has a port, a free one of 127.0.0.1 (``PORT=8080 python run.py`` for a given one); the others have Unix
sockets in a folder of their own. A program that ends is started again after a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent
INSTANCES = ("web1", "web2", "web3")
#: Of the channel's stream in Redis.
KEY = "aiowsgi:channel:board"
#: Programs, with the packages of Debian that have them.
PROGRAMS = {"redis-server": "redis-server", "redis-cli": "redis-tools", "haproxy": "haproxy"}
# How long requests and streams may take to end, when a worker is replaced or everything stops.
GRACEFUL = "2s"
PATIENCE = 60.0


class ClusterError(Exception):
    """The cluster cannot be run; the text says why."""


def find(program: str) -> str | None:
    # Debian installs some in folders that only root's PATH includes.
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def check_programs() -> None:
    missing = [program for program in PROGRAMS if find(program) is None]
    if missing:
        packages = " ".join(PROGRAMS[program] for program in missing)
        raise ClusterError(f"not installed: {', '.join(missing)} (on Debian and Ubuntu: apt-get install {packages})")


async def until(condition: Callable[[], Awaitable[object]], what: str, seconds: float = PATIENCE) -> None:
    """Ask again and again until the answer is true."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise ClusterError(f"waited {seconds:.0f} seconds in vain: {what}") from None


async def ask(path: Path, question: bytes) -> bytes:
    """Return the first line of what a Unix socket answers, nothing if it does not."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_unix_connection(path)
            with contextlib.closing(writer):
                writer.write(question)
                return await reader.readline()
    except (OSError, TimeoutError):
        return b""


class Program:
    """A child in a process group of its own, which Ctrl-C does not reach; started again when it ends.

    Args:
        name: for people.
        command: what is run.
        log: where its output goes.
        variables: its environment, besides this process's.
        descriptors: passed on to it.
    """

    def __init__(
        self, name: str, command: list[str], log: TextIO, variables: dict[str, str], descriptors: tuple[int, ...] = ()
    ) -> None:
        self.name = name
        #: How many processes were started, one after the other.
        self.count = 0
        #: If not, it need not be started again: it would end again.
        self.has_served = False
        #: The process that is running; 0 if none is.
        self.pid = 0
        self._command = command
        self._options: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": log,
            "stderr": log,
            "env": os.environ | variables,
            "cwd": HERE,
            "pass_fds": descriptors,
            "start_new_session": True,
        }
        self._ended = asyncio.Event()
        self._ended.set()
        self._wanted = asyncio.Event()

    async def keep(self, say: Callable[[str], None]) -> None:
        """Run it as long as it is wanted."""
        while True:
            await self._wanted.wait()
            code = await self._run(say)
            if not self._wanted.is_set():
                continue
            if not self.has_served:
                raise ClusterError(f"{self.name} has ended ({code}) before it served: see its output")
            say(f"{self.name} has ended ({code}), and is started again")
            await asyncio.sleep(1)

    async def _run(self, say: Callable[[str], None]) -> int:
        self._ended.clear()
        try:
            process = await asyncio.create_subprocess_exec(*self._command, **self._options)
            self.pid = process.pid
            self.count += 1
            say(f"{self.name}: process {self.pid}")
            if not self._wanted.is_set():  # no longer
                process.terminate()
            return await process.wait()
        finally:
            self.pid = 0
            self._ended.set()

    def start(self) -> None:
        self._wanted.set()

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the process, not to those that it has started."""
        if self.pid:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill it, and all that it has started, as a power failure would."""
        if self.pid:
            os.killpg(self.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """End it, until it is started again."""
        self._wanted.clear()
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(10):
                await self._ended.wait()
        except TimeoutError:
            self.kill()
            await self._ended.wait()


class Cluster:
    """All of it; an asynchronous context manager.

    Args:
        port: HAProxy's; 0 for a free one.
        log: where the programs' output goes.
        say: called with what is started.

    Raises:
        ClusterError: what is needed is not there, or does not start.
    """

    def __init__(self, port: int = 0, log: TextIO = sys.stderr, say: Callable[[str], None] = print) -> None:
        check_programs()
        self._say = say
        self._log = log
        self._folder = tempfile.TemporaryDirectory(prefix="aiowsgi-cluster-")
        # HAProxy inherits this socket: no other program can take the port in between.
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.redis_socket = self._path("redis.sock")
        self.redis = self._redis()
        self.instances = {name: self._instance(name) for name in INSTANCES}
        self.proxy = self._proxy()
        self._tasks: list[asyncio.Task[None]] = []

    def _path(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def socket_of(self, name: str) -> Path:
        """Return where an instance listens."""
        return self._path(f"{name}.sock")

    def _redis(self) -> Program:
        # A message is on the disk before its sender has an answer, and before anybody is shown it.
        options = {"port": "0", "appendonly": "yes", "appendfsync": "always", "save": "", "loglevel": "warning"}
        options |= {"dir": self._folder.name, "unixsocket": str(self.redis_socket)}
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        command = [str(find("redis-server")), *flags]
        return Program("redis", command, self._log, {})

    def _instance(self, name: str) -> Program:
        path = self.socket_of(name)
        flags = f"--bind unix:{path} --workers 2 --ready-path /ready --graceful-timeout {GRACEFUL}"
        control = f"--control unix:{path.with_suffix('.control')}"
        command = [sys.executable, "-m", "aiowsgi", "app:app", *flags.split(), *control.split()]
        variables = {"REDIS_URL": f"unix://{self.redis_socket}", "INSTANCE": name, "PYTHONDONTWRITEBYTECODE": "1"}
        return Program(name, command, self._log, variables)

    def _proxy(self) -> Program:
        descriptor = self._listener.fileno()
        places = {name.upper(): f"unix@{self.socket_of(name)}" for name in INSTANCES}
        command = [str(find("haproxy")), "-db", "-f", "haproxy.cfg"]
        return Program("haproxy", command, self._log, {"LISTEN": f"fd@{descriptor}", **places}, (descriptor,))

    @property
    def programs(self) -> list[Program]:
        """In the order in which they are started."""
        return [self.redis, *self.instances.values(), self.proxy]

    async def __aenter__(self) -> Cluster:
        allow_descriptors()
        self._tasks = [asyncio.create_task(program.keep(self._say)) for program in self.programs]
        starting = asyncio.create_task(self._start())
        try:
            await asyncio.wait([starting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                await self.failure()
            await starting
        except BaseException:
            starting.cancel()
            await self._end()
            raise
        return self

    async def _start(self) -> None:
        self.redis.start()
        await self.redis_is_there()
        self.redis.has_served = True
        for instance in self.instances.values():
            instance.start()
        for name in INSTANCES:
            await self.is_ready(name)
            self.instances[name].has_served = True
        self.proxy.start()
        await until(self._proxy_answers, "HAProxy")
        self.proxy.has_served = True

    async def __aexit__(self, *exc: object) -> None:
        await self._end()

    async def _end(self) -> None:
        # First the way in; last what the others need.
        await self.proxy.stop()
        await asyncio.gather(*(instance.stop() for instance in self.instances.values()))
        await self.redis.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        self._folder.cleanup()

    async def failure(self) -> None:
        """Wait until a program cannot be kept running.

        Raises:
            ClusterError: when that happens.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def redis_is_there(self) -> None:
        """Wait until Redis answers; while it is still loading its data, it answers something else."""

        async def answers() -> bool:
            return await ask(self.redis_socket, b"PING\r\n") == b"+PONG\r\n"

        await until(answers, "Redis")

    async def is_ready(self, name: str) -> None:
        """Wait until an instance says that it is ready."""
        question = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

        async def answers() -> bool:
            return b" 200 " in await ask(self.socket_of(name), question)

        await until(answers, f"{name} to be ready")

    async def _proxy_answers(self) -> bool:
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                with contextlib.closing(writer):
                    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    return b" 200 " in await reader.readline()
        except (OSError, TimeoutError):
            return False


def allow_descriptors() -> None:
    """Allow this process and its children enough descriptors, if the system does: HAProxy has two for each client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 20_000 if hard == resource.RLIM_INFINITY else min(hard, 20_000)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def main() -> None:
    stopped = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stopped.set)

    def say(text: str) -> None:
        print(text, flush=True)

    async with Cluster(int(os.environ.get("PORT", "0")), say=say) as cluster:
        say(f"board at {cluster.url}")
        add = f"""XADD {KEY} MAXLEN '~' 2000 '*' event said data '{{"text": "hello", "instance": "cron"}}'"""
        say(f"publish from elsewhere: redis-cli -s {cluster.redis_socket} {add}")
        waits = [asyncio.create_task(stopped.wait()), asyncio.create_task(cluster.failure())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        for result in await asyncio.gather(*waits, return_exceptions=True):
            if isinstance(result, ClusterError):
                raise result


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ClusterError as error:
        sys.exit(f"run.py: {error}")
