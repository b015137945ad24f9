"""What large messages and many connections cost in memory: a server process, measured by the operating system."""

from __future__ import annotations

import os
import resource
import select
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.process.server_process import ServerProcess, server_process
from tests.raw import RawClient

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
    pytest.mark.parametrize("loop", ["asyncio", "uvloop"]),
]

MEGABYTE = 1_000_000
SIZE = 500 * MEGABYTE
GROWTH_LIMIT = 32 * MEGABYTE

APPLICATION = """
import os

def blocks():
    for number in range(500_000_000 // 65536):
        yield b"%07d " % number * 8192  # each takes memory of its own

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/upload":
        size = 0
        while block := environ["wsgi.input"].read(65536):
            size += len(block)
        start_response("200 OK", [])
        return [b"%d" % size]
    start_response("200 OK", [])
    if path == "/blocks":
        return blocks()
    if path == "/file":
        return environ["wsgi.file_wrapper"](open("large", "rb"))
    return [b"hello"]
"""


class MeasuredProcess:
    """A server process and how its resident memory grows from here on."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._before = self._resident_size()
        self.growth = 0

    def _resident_size(self) -> int:
        pages = Path(f"/proc/{self._server.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def measure(self) -> None:
        """Take note of the size as it is now; the largest counts."""
        self.growth = max(self.growth, self._resident_size() - self._before)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._server.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def measured_process(folder: Path, loop: str, *arguments: str) -> Iterator[tuple[ServerProcess, MeasuredProcess]]:
    (folder / "measured.py").write_text(APPLICATION)
    with server_process(folder, "measured:app", "--bind=127.0.0.1:0", "--loop", loop, *arguments) as server:
        with server.connect() as client:  # what is loaded and allocated once
            assert client.get("/").content == b"hello"
            assert client.post(bytes(3 * MEGABYTE), "/upload").content == b"%d" % (3 * MEGABYTE)
        yield server, MeasuredProcess(server)


def receive_slowly_then_fast(client: RawClient, measured: MeasuredProcess) -> int:
    """Take a response slowly for a while, then as fast as possible; return how much it was, framing included."""
    size = 0
    begun = time.monotonic()
    while time.monotonic() - begun < 0.5:
        size += len(client.socket.recv(5_000))
        measured.measure()
        select.select([], [], [], 0.02)
    reads = 0
    while data := client.socket.recv(MEGABYTE):
        size += len(data)
        reads += 1
        if reads % 50 == 0:
            measured.measure()
    return size


def test_500_mb_of_blocks_to_a_slow_and_then_fast_reader_grow_by_32_mb_at_most(tmp_path: Path, loop: str) -> None:
    with measured_process(tmp_path, loop) as (server, measured), server.connect() as client:
        client.send(b"GET /blocks HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert receive_slowly_then_fast(client, measured) > SIZE - 65536
        measured.measure()
        assert measured.growth < GROWTH_LIMIT


def test_200_mb_file_to_a_slow_and_then_fast_reader_grows_by_32_mb_at_most(tmp_path: Path, loop: str) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(200 * MEGABYTE)
    with measured_process(tmp_path, loop) as (server, measured), server.connect() as client:
        client.send(b"GET /file HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert receive_slowly_then_fast(client, measured) > 200 * MEGABYTE
        measured.measure()
        assert measured.growth < GROWTH_LIMIT


@pytest.mark.parametrize("options", [[], ["--stream-body"]], ids=["collected", "streamed"])
def test_500_mb_upload_grows_by_32_mb_at_most(tmp_path: Path, loop: str, options: list[str]) -> None:
    with measured_process(tmp_path, loop, *options) as (server, measured), server.connect() as client:
        client.send(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % SIZE)
        block = bytes(MEGABYTE)
        for number in range(SIZE // MEGABYTE):
            client.send(block)
            if number % 10 == 0:
                measured.measure()
        assert client.receive().content == b"%d" % SIZE
        measured.measure()
        assert measured.growth < GROWTH_LIMIT


def test_endless_responses_that_nobody_reads_stay_within_their_buffers(tmp_path: Path, loop: str) -> None:
    """Ten of them; others are answered meanwhile by the two threads that there are."""
    options = ["--threads=2", "--response-buffer=256K"]
    with measured_process(tmp_path, loop, *options) as (server, measured), ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(server.connect())
            client.send(b"GET /blocks HTTP/1.1\r\nHost: test\r\n\r\n")
        with server.connect() as client:
            for _ in range(100):
                assert client.get("/").content == b"hello"
                measured.measure()
        assert measured.growth < 10 * (256 + 64 + 64) * 1024 + 8 * MEGABYTE


def test_content_in_tiny_chunks_takes_no_more_memory_than_its_size(tmp_path: Path, loop: str) -> None:
    """Counted by its size it would stay far below request_buffer, whatever the objects around it take."""
    with measured_process(tmp_path, loop) as (server, measured), ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(15)]
        for client in clients:
            client.send(b"POST /upload HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(b"2\r\nxy\r\n" * 60_000)
        for client in clients:
            client.send(b"0\r\n\r\n")
            assert client.receive().content == b"120000"
            measured.measure()
        # Of one read there may be 43,000 objects, for a moment. Of all there would be 900,000, of 40 bytes and more.
        assert measured.growth < 15 * 120_000 + 16 * MEGABYTE


def test_2000_idle_connections_take_8_kb_each_at_most_and_no_cpu(tmp_path: Path, loop: str) -> None:
    needed = 2000 + 100
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit != resource.RLIM_INFINITY and soft_limit < needed:
        if hard_limit != resource.RLIM_INFINITY and hard_limit < needed:
            pytest.skip(f"{hard_limit} file descriptors are too few")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard_limit))
    with measured_process(tmp_path, loop, "--max-connections=3000") as (server, measured), ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(2000)]
        for client in clients:
            assert client.get("/").content == b"hello"
        measured.measure()
        assert measured.growth < 2000 * 8 * 1024
        before = measured.cpu_seconds()
        assert not select.select([clients[0].socket], [], [], 0.5)[0]
        assert measured.cpu_seconds() - before < 0.1
        # All of them are still there.
        for client in clients[::100]:
            assert client.get("/").content == b"hello"
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard_limit))
