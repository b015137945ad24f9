"""Content on its way to a file: what is received while a part of it is being written, and how it is written."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING

import pytest

from aiowsgi.testing import MemoryServer
from tests.simulation.memory import GET, SteppedClient, remains

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

LIMIT = 10_000
Write = Callable[[int, Sequence[bytes]], int]


def some_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def digest(content: bytes) -> bytes:
    return b"%d %s" % (len(content), hashlib.sha256(content).hexdigest()[:16].encode())


def digesting(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    answer = digest(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]


def head(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    with MemoryServer(digesting, request_buffer=LIMIT) as server:
        yield server


def begin(server: MemoryServer, content: bytes, size: int) -> SteppedClient:
    """Return a client that has sent ``size`` bytes of its content, all of which are in the file."""
    assert size > LIMIT
    client = SteppedClient(server)
    client.send(head(len(content)) + content[:size])
    server.settle()
    assert server.engine.content_budget.used == 0
    return client


def send_on(client: SteppedClient, content: bytes) -> int:
    """Send more, which no thread has time to write; return how much the server holds in memory."""
    client.send(content)
    client.server.loop.run_ready()
    return client.server.engine.content_budget.used


def test_content_is_received_while_a_part_of_it_is_written(server: MemoryServer) -> None:
    content = some_bytes(60_000)
    client = begin(server, content, 20_000)
    assert send_on(client, content[20_000:23_000]) == 3000
    assert server.io_pool.waiting_count == 1
    assert send_on(client, content[23_000:26_000]) == 6000
    assert server.io_pool.waiting_count == 1
    # One read that crosses the limit, and no other.
    assert send_on(client, content[26_000:31_000]) == 11_000
    assert send_on(client, content[31_000:40_000]) == 11_000
    assert client.memory.unread_size == 9000
    server.settle()
    assert server.engine.content_budget.used == 0
    client.send(content[40_000:])
    assert client.receive().content == digest(content)


def test_content_that_ends_behind_a_write_is_written_before_the_application_runs(server: MemoryServer) -> None:
    content = some_bytes(25_000)
    client = begin(server, content, 20_000)
    send_on(client, content[20_000:22_000])
    # With another request behind it, which is not counted as content.
    assert send_on(client, content[22_000:] + GET) == 5000
    assert server.io_pool.step()
    server.loop.run_ready()
    assert server.engine.content_budget.used == 3000
    assert not server.engine.exchanges
    assert client.receive().content == digest(content)
    assert client.receive().content == digest(b"")


def test_content_over_the_total_waits_for_each_write() -> None:
    with MemoryServer(digesting, request_buffer=60_000, request_buffer_total=64 * 1024) as server:
        for client in (SteppedClient(server), SteppedClient(server)):
            client.send(head(100_000) + bytes(40_000))
        server.loop.run_ready()
        held_size = server.engine.content_budget.used
        assert send_on(client, bytes(30_000)) == held_size
        assert client.memory.unread_size == 30_000
        server.settle()
        client.send(bytes(30_000))
        assert client.receive().content == digest(bytes(100_000))


def test_client_that_goes_during_a_write_leaves_nothing(server: MemoryServer) -> None:
    content = some_bytes(60_000)
    client = begin(server, content, 20_000)
    assert send_on(client, content[20_000:23_000]) == 3000
    assert send_on(client, content[23_000:28_000]) == 8000
    client.reset()
    server.loop.run_ready()
    assert server.engine.content_budget.used == 3000  # the write's
    server.settle()
    assert not remains(server)


def test_content_whose_file_the_application_takes_is_given_back(caplog: pytest.LogCaptureFixture) -> None:
    def detaching(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raw = environ["wsgi.input"].detach()
        files.append(raw)
        answer = digest(raw.read())
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]

    files: list[IO[bytes]] = []
    content = some_bytes(20_000)
    with MemoryServer(detaching, request_buffer=LIMIT) as server:
        client = begin(server, content, 15_000)
        client.send(content[15_000:])
        assert client.receive().content == digest(content)
        client.close()
        server.settle()
        assert files[0].closed
        assert not remains(server)
    assert not caplog.records


def test_content_whose_close_fails_is_given_back() -> None:
    def failing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def close() -> None:
            raise RuntimeError("on purpose")

        files.append(environ["wsgi.input"].raw)
        environ["wsgi.input"].close = close
        return digesting(environ, start_response)

    files: list[IO[bytes]] = []
    content = some_bytes(20_000)
    with MemoryServer(failing, request_buffer=LIMIT) as server:
        client = begin(server, content, 15_000)
        client.send(content[15_000:])
        with pytest.raises(RuntimeError, match="on purpose"):  # which a pool of threads logs
            client.receive()
        server.settle()
        assert client.receive().content == digest(content)
        client.close()
        server.settle()
        assert files[0].closed


def test_disk_that_is_full_during_a_write_is_500(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(fd: int, blocks: Sequence[bytes]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    content = some_bytes(60_000)
    client = begin(server, content, 20_000)
    monkeypatch.setattr(os, "writev", refuse)
    send_on(client, content[20_000:23_000])
    send_on(client, content[23_000:28_000])
    assert client.receive().status_code == 500
    assert os.strerror(errno.ENOSPC) in caplog.text
    assert client.at_end()
    client.close()
    server.settle()
    assert not remains(server)


def test_memory_that_is_exhausted_during_a_write_is_500(server: MemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, blocks: Sequence[bytes]) -> int:
        raise MemoryError

    content = some_bytes(60_000)
    client = begin(server, content, 20_000)
    monkeypatch.setattr(os, "writev", refuse)
    send_on(client, content[20_000:40_000])
    with pytest.raises(MemoryError):  # which a pool of threads logs
        server.settle()
    monkeypatch.undo()
    client.send(content[40_000:])
    assert client.receive().status_code == 500
    client.close()
    server.settle()
    assert not remains(server)


@pytest.mark.parametrize("most", [1, 999, 8000])
def test_file_that_takes_a_part_of_what_is_written_gets_the_rest(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write: Write = os.writev

    def write_part(fd: int, blocks: Sequence[bytes]) -> int:
        return write(fd, [b"".join(blocks)[:most]])

    monkeypatch.setattr(os, "writev", write_part)
    content = some_bytes(20_000)
    with MemoryServer(digesting, request_buffer=9000) as server:
        client = SteppedClient(server, read_size=4500)
        client.send(head(len(content)) + content)
        assert client.receive().content == digest(content)


def test_write_of_more_blocks_than_one_call_takes_is_whole() -> None:
    block_size = 4 * 1024  # smaller ones are joined
    most = os.sysconf("SC_IOV_MAX")
    content = some_bytes(2 * most * block_size + 5)
    with MemoryServer(digesting, request_buffer=2 * most * block_size) as server:
        client = SteppedClient(server, read_size=block_size)
        client.send(head(len(content)) + content)
        assert client.receive().content == digest(content)
