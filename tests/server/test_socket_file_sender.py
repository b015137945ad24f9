"""Files over real sockets, where ``sendfile`` takes them; the in-memory transport has the other way."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiowsgi.bridge.pool import ThreadPool
from aiowsgi.bridge.wakeup import Wakeup
from aiowsgi.server import socket_file_sender
from aiowsgi.server.socket_file_sender import SocketFileSender
from aiowsgi.wsgi.file_wrapper import FileRegion
from tests.conftest import ServerThread
from tests.hosting import poll

Serve = Callable[..., ServerThread]

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
# More than both ends of a connection hold, so that the sender has to wait for its client.
SIZE = 20_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    block = bytes(range(256)) * 256 + b"odd"
    path.write_bytes((block * (SIZE // len(block) + 1))[:SIZE])
    return path


@pytest.fixture
def sent_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return what ``sendfile`` has sent, call by call."""
    sizes: list[int] = []
    sendfile = os.sendfile

    def recording(out_fd: int, in_fd: int, offset: int, count: int) -> int:
        size = sendfile(out_fd, in_fd, offset, count)
        sizes.append(size)
        return size

    monkeypatch.setattr(os, "sendfile", recording)
    return sizes


def sending(path: Path) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        if environ["PATH_INFO"] != "/":
            return [b"small"]
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](path.open("rb"))
        return wrapped

    return application


def connect(server: ServerThread) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), 10)
    sock.settimeout(10)
    return sock


def pieces(sock: socket.socket) -> Iterator[bytes]:
    while piece := sock.recv(256 * 1024):
        yield piece


def test_file_in_one_piece_and_the_responses_after_it_are_whole(
    serve: Serve, file: Path, sent_sizes: list[int]
) -> None:
    server = serve(sending(file))
    with connect(server) as sock:
        sock.sendall(GET + GET + b"GET /small HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        received = b"".join(pieces(sock))
    heads_and_content = received.split(b"\r\n\r\n", 1)[1]
    assert heads_and_content[:SIZE] == file.read_bytes()
    second = heads_and_content[SIZE:].split(b"\r\n\r\n", 1)[1]
    assert second[:SIZE] == file.read_bytes()
    assert second[SIZE:].startswith(b"HTTP/1.1 200 OK\r\n")
    assert second.endswith(b"\r\n\r\nsmall")
    assert sum(sent_sizes) == 2 * SIZE


def test_file_larger_than_one_job_leaves_turns_to_others(
    serve: Serve, file: Path, sent_sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_file_sender, "_JOB_SIZE", 100_000)
    server = serve(sending(file))
    with connect(server) as sock:
        sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert b"".join(pieces(sock)).endswith(file.read_bytes()[-1_000_000:])
    assert sum(sent_sizes) == SIZE
    # A client that is fast enough could keep one call busy with all of a file.
    assert max(sent_sizes) <= 100_000


def test_client_that_dribbles_content_and_takes_no_file_is_reset_after_write_timeout(serve: Serve, file: Path) -> None:
    server = serve(sending(file), stream_body=True, write_timeout=0.5, body_timeout=60)
    with connect(server) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000\r\n\r\n")

        def dribbled_into_a_reset() -> bool:
            try:
                sock.sendall(b"x" * 1000)
            except ConnectionError:
                return True
            return False

        poll(dribbled_into_a_reset)


def test_file_that_becomes_shorter_on_its_way_ends_the_connection(
    serve: Serve, file: Path, error_log: pytest.LogCaptureFixture
) -> None:
    server = serve(sending(file))
    with connect(server) as sock:
        sock.sendall(GET)
        size = len(sock.recv(1000))
        os.truncate(file, 0)
        size += sum(map(len, pieces(sock)))
    assert size < SIZE
    assert "cannot send the file for GET /: the file became shorter" in error_log.text


def test_client_that_goes_midway_leaves_no_descriptor_and_no_error(
    serve: Serve, file: Path, error_log: pytest.LogCaptureFixture
) -> None:
    server = serve(sending(file))
    before = len(os.listdir("/dev/fd"))
    for _ in range(10):
        with connect(server) as sock:
            sock.sendall(GET)
            assert sock.recv(1000)
    poll(lambda: not server.server.engine.connections)
    poll(lambda: len(os.listdir("/dev/fd")) <= before + 1)  # one is the listing's own
    assert not error_log.records


def test_loop_that_ends_while_a_thread_sends_leaves_no_descriptor(
    serve: Serve, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()
    sendfile = os.sendfile

    def held(*arguments: Any) -> int:
        begun.set()
        assert ended.wait(20)
        size: int = sendfile(*arguments)
        return size

    def descriptors_of_file() -> int:
        return [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")].count(str(file))

    monkeypatch.setattr(os, "sendfile", held)
    server = serve(sending(file))
    with connect(server) as sock:
        sock.sendall(GET)
        assert begun.wait(10)
        server.shutdown(0)
        server.stop()
        assert descriptors_of_file() == 1
        ended.set()
        poll(lambda: not descriptors_of_file())
        with contextlib.suppress(ConnectionError):
            assert sum(map(len, pieces(sock))) < SIZE  # and the connection has ended


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT], ids=errno.errorcode.get)
def test_client_that_is_found_gone_by_the_thread_leaves_no_error(
    serve: Serve, file: Path, error_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def failing(*arguments: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "sendfile", failing)
    server = serve(sending(file))
    with connect(server) as sock:
        sock.sendall(GET)
        with contextlib.suppress(ConnectionError):
            assert sum(map(len, pieces(sock))) < SIZE
    poll(lambda: not server.server.engine.connections)
    assert not error_log.records


async def sent_by_itself(file: Path, sock: socket.socket, client: socket.socket) -> bytes:
    """Return what a client has got, once a sender of a file to its socket has ended."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[OSError | None] = loop.create_future()
    pool = ThreadPool(1)
    sock.setblocking(False)
    client.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)  # so that it has to wait for its client
    size = os.path.getsize(file) - 1000
    region = FileRegion(os.open(file, os.O_RDONLY), 1000, size)
    sender = SocketFileSender(
        b"head", region, sock, loop, pool, Wakeup(loop), lambda: None, lambda: None, ended.set_result
    )
    sender.send_on()
    received = b""
    async with asyncio.timeout(10):
        # What has been sent may still be on its way.
        while len(received) < 4 + size and not (ended.done() and ended.result()):
            received += await loop.sock_recv(client, 256 * 1024)
        error = await ended
    sender.close()
    pool.close()
    client.close()
    assert error is None
    return received


@pytest.fixture
def smaller_file(file: Path) -> Path:
    os.truncate(file, 1_000_001)
    return file


@pytest.mark.parametrize("refused", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
async def test_file_without_sendfile_is_whole(
    smaller_file: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    sock, client = socket.socketpair()
    if refused == errno.EINVAL and sys.platform == "linux":
        # So that Linux itself refuses: sendfile(2).
        fcntl.fcntl(sock, fcntl.F_SETFL, fcntl.fcntl(sock, fcntl.F_GETFL) | os.O_APPEND)
    else:

        def refusing(*arguments: Any) -> int:
            raise OSError(refused, os.strerror(refused))

        monkeypatch.setattr(os, "sendfile", refusing)
    assert await sent_by_itself(smaller_file, sock, client) == b"head" + smaller_file.read_bytes()[1000:]
