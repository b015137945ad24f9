"""Clients that are merely there: idle ones, and slow ones of three kinds.

Thread: event loop; :meth:`IdlePopulation.grow` blocks it, and is to be called when nothing else runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time

from bench.load.http import BadResponse, Request, ResponseReader

__all__ = ["IdlePopulation", "SlowPopulation"]

# A source address has 28,232 ephemeral ports by default: a few addresses of the loopback network make room.
_PER_ADDRESS = 16_000
_ADDRESS = itertools.count()
# Linux's <linux/in.h>; the socket module has no name for it.
_IP_BIND_ADDRESS_NO_PORT = 24
# Below every server's backlog.
_AT_ONCE = 50


def _new_socket() -> socket.socket:
    """Return a socket bound to an address with ports to spare; its port is only chosen when it connects."""
    sock = socket.socket()
    if hasattr(socket, "SOL_IP"):
        sock.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((f"127.0.0.{2 + next(_ADDRESS) // _PER_ADDRESS % 200}", 0))
    return sock


class IdlePopulation:
    """Keep-alive connections on which one request was answered, and then nothing happens."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []

    def grow(self, count: int, request: Request, timeout: float, within: float) -> dict[str, object]:
        """Open connections until there are ``count``.

        Args:
            timeout: of each, seconds.
            within: of all, seconds.

        Returns:
            ``held`` and, where that is less, ``problem``.
        """
        data = request.serialise(self._port)
        deadline = time.monotonic() + within
        try:
            while len(self._sockets) < count:
                if time.monotonic() > deadline:
                    raise BadResponse(f"no more within {within:g} s")
                self._open(min(_AT_ONCE, count - len(self._sockets)), data, timeout)
        except (OSError, BadResponse) as error:
            return {"held": self.held(), "problem": str(error) or type(error).__name__}
        return {"held": self.held(), "problem": ""}

    def _open(self, count: int, data: bytes, timeout: float) -> None:
        """Open connections together: each sends its request before the first one's answer is read."""
        opened: list[socket.socket] = []
        try:
            for _ in range(count):
                sock = _new_socket()
                opened.append(sock)
                sock.settimeout(timeout)
                sock.connect(("127.0.0.1", self._port))
                sock.sendall(data)
            for sock in opened:
                _read_answer(sock)
                sock.setblocking(False)
                self._sockets.append(sock)
        except BaseException:
            for sock in set(opened).difference(self._sockets):
                sock.close()
            raise

    def held(self) -> int:
        """Return how many the server has not closed."""
        return sum(map(_is_open, self._sockets))

    def close(self) -> None:
        """Close all."""
        for sock in self._sockets:
            sock.close()


def _read_answer(sock: socket.socket) -> None:
    reader = ResponseReader()
    answer = None
    while answer is None:
        block = sock.recv(64 * 1024)
        if not block:
            raise BadResponse("a connection was closed")
        answer = reader.feed(block)
    if answer.status != 200 or not answer.reusable:
        raise BadResponse("a connection was not kept")


def _is_open(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


class _SlowClient:
    """One slow client; it comes back when it is cut off.

    Args:
        opening: is sent at once.
        drip: is sent again and again; empty for a client that reads instead.
    """

    def __init__(self, port: int, opening: bytes, drip: bytes) -> None:
        self._port = port
        self._opening = opening
        self._drip = drip
        self._sock: socket.socket | None = None
        self.cut = 0

    def step(self) -> None:
        """Send or read a few bytes."""
        try:
            if self._sock is None:
                self._sock = self._connect()
            elif self._drip:
                if not _is_open(self._sock):
                    raise ConnectionError
                self._sock.send(self._drip)
            elif not self._sock.recv(16):
                raise ConnectionError
        except BlockingIOError:
            pass
        except OSError:
            self.cut += 1
            self.close()

    def _connect(self) -> socket.socket:
        sock = _new_socket()
        try:
            if not self._drip:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(1)
            sock.connect(("127.0.0.1", self._port))
            sock.sendall(self._opening)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Close the connection; the next step opens another."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class SlowPopulation:
    """Slow clients, each of which does something once a second.

    Args:
        heads: clients that send a head, four bytes a second.
        bodies: clients that send content, eight bytes a second.
        readers: clients that read a large response, 16 bytes a second.
    """

    _SLICES = 20

    def __init__(self, port: int, heads: int, bodies: int, readers: int) -> None:
        head = f"GET /hello HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Slow: ".encode()
        body = f"POST /upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 100000\r\n\r\n".encode()
        reader = Request("/body").serialise(port)
        self._clients = [
            *(_SlowClient(port, head, b"slow") for _ in range(heads)),
            *(_SlowClient(port, body, b"slowslow") for _ in range(bodies)),
            *(_SlowClient(port, reader, b"") for _ in range(readers)),
        ]
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect all, and go on from there in the background."""
        for client in self._clients:
            client.step()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        for turn in itertools.cycle(range(self._SLICES)):
            await asyncio.sleep(1 / self._SLICES)
            for client in self._clients[turn :: self._SLICES]:
                client.step()

    @property
    def cut(self) -> int:
        """How often the server cut a client off, which then comes back."""
        return sum(client.cut for client in self._clients)

    async def stop(self) -> None:
        """Close all."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for client in self._clients:
            client.close()
