"""What a parked client costs with a hundred thousand of them: memory for each, and processor time for each event.

The server's engine on a real event loop, with real tasks and a real channel; only the connections are in memory, so
that neither descriptors nor the kernel set a limit. Three populations, each in a process of its own, separate the
server's part from the simulation's: bare connections, idle ones that have had an answer, and parked ones.

Thread: the main thread, which becomes the event loop's.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aiowsgi import Channel, Config, Server, park, sse
from aiowsgi.process.loops import choose_loop
from aiowsgi.testing import MemoryClient, MemoryTransport, VirtualLoop
from bench.errors import BenchError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["Cost", "measure", "run_population"]

POPULATIONS = ("bare", "idle", "parked")
_BATCH_COUNT = 500
_PATIENCE_SECONDS = 300.0
_PAGE_SIZE = resource.getpagesize()
_GET = "GET %s HTTP/1.1\r\nHost: www.example.com\r\nAccept: text/event-stream\r\nUser-Agent: %s\r\n\r\n"
_BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
# A small JSON object, as a live board sends it.
_EVENT = '{"order": 1234, "state": "paid", "at": "2026-11-21T12:00:00Z"}'


@dataclass(frozen=True, slots=True)
class Cost:
    """What was measured.

    Args:
        clients: how many there were.
        idle_size: bytes for each idle connection.
        parked_size: bytes for each parked one.
        park_seconds: of processor time, for a client to come and be parked.
        event_seconds: of processor time, for an event to reach one client.
        delay_seconds: from ``send()`` to the last client, the median.
    """

    clients: int
    idle_size: float
    parked_size: float
    park_seconds: float
    event_seconds: float
    delay_seconds: float


def measure(clients: int, events: int) -> Cost:
    """Measure with so many clients, each event going to all of them."""
    found = {name: _in_a_process(name, clients, events) for name in POPULATIONS}
    bare, idle, parked = (found[name] for name in POPULATIONS)
    return Cost(
        clients,
        idle["size"] - bare["size"],
        parked["size"] - bare["size"],
        parked["connect_seconds"] - bare["connect_seconds"],
        parked["event_seconds"],
        parked["delay_seconds"],
    )


def _in_a_process(population: str, clients: int, events: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.simulations.parked", population, str(clients), str(events)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, check=False)
    if ended.returncode:
        raise BenchError(f"the process with {clients:,} {population} connections ended with {ended.returncode}")
    return cast("dict[str, float]", json.loads(ended.stdout))


def run_population(population: str, clients: int, events: int) -> dict[str, float]:
    """Hold one population in this process; return what each of its clients costs."""
    loop_factory = choose_loop("auto")[1]
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_Population(population).run(clients, events))


class _Client(MemoryClient):
    """Takes whatever arrives, and counts it."""

    def __init__(self, population: _Population) -> None:
        super().__init__(kernel_size=0)
        self._population = population

    def receive(self, data: bytes | bytearray | memoryview) -> int:
        """See :class:`~aiowsgi.testing.MemoryClient`."""
        self._population.arrived()
        return len(data)


class _Population:
    def __init__(self, name: str) -> None:
        self._name = name
        self._channel = Channel("parked")
        self._missing_count = 0
        self._all_arrived = asyncio.Event()

    def _application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._name == "idle":
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
            return [b"Hello, world!"]
        start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")])
        # Nothing may come on its own while something is being measured.
        return park(environ, sse(self._channel, environ, keep_alive=None))

    def arrived(self) -> None:
        """A client has been sent something."""
        self._missing_count -= 1
        if not self._missing_count:
            self._all_arrived.set()

    async def _until_arrived(self) -> None:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await self._all_arrived.wait()
        self._all_arrived.clear()

    async def run(self, clients: int, events: int) -> dict[str, float]:
        server = Server(self._application, Config(queue_size=_BATCH_COUNT, keep_alive=3600, threads=4))
        held: list[_Client] = []
        await self._connect(server, held, _BATCH_COUNT)  # so that all that is loaded late is loaded
        size_before, time_before = _resident_size(), time.process_time()
        await self._connect(server, held, clients)
        found = {
            "size": (_resident_size() - size_before) / clients,
            "connect_seconds": (time.process_time() - time_before) / clients,
        }
        if self._name == "parked":
            found |= await self._send_events(len(held), events)
        await server.shutdown(0)
        return found

    async def _connect(self, server: Server, held: list[_Client], count: int) -> None:
        loop = asyncio.get_running_loop()
        # A transport in memory uses only what the two loops have in common.
        virtual_loop = cast(VirtualLoop, loop)
        for done in range(0, count, _BATCH_COUNT):
            batch = min(_BATCH_COUNT, count - done)
            # The head and the first block of what is parked are two writes.
            self._missing_count = batch * (2 if self._name == "parked" else 1)
            for _ in range(batch):
                client = _Client(self)
                held.append(client)
                if self._name == "bare":
                    MemoryTransport(virtual_loop, asyncio.Protocol(), client)
                    loop.call_soon(self.arrived)
                else:
                    MemoryTransport(virtual_loop, server.protocol_factory(), client)
                    client.send((_GET % ("/events", _BROWSER)).encode())
            await self._until_arrived()

    async def _send_events(self, count: int, events: int) -> dict[str, float]:
        delays = []
        time_before = time.process_time()
        for _ in range(events):
            self._missing_count = count
            begun = time.perf_counter()
            self._channel.send(_EVENT)
            await self._until_arrived()
            delays.append(time.perf_counter() - begun)
        used = time.process_time() - time_before
        return {"event_seconds": used / (count * events), "delay_seconds": sorted(delays)[events // 2]}


def _resident_size() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_SIZE


if __name__ == "__main__":
    name, clients_text, events_text = sys.argv[1:]
    json.dump(run_population(name, int(clients_text), int(events_text)), sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # taking 100,000 connections apart would serve no purpose
