"""Figures for statsd, with gunicorn's names, so that its dashboards show this server as well.

Requests that end within a tenth of a second are sent together: counts as sums, durations one by one up to a bound,
above which they are a sample, marked as such. Nothing ever waits: a datagram that the kernel does not take is lost, as
datagrams are.

Thread: event loop.

Source: https://docs.gunicorn.org/en/stable/instrumentation.html; https://github.com/statsd/statsd/blob/master/docs/metric_types.md;
https://docs.datadoghq.com/developers/dogstatsd/datagram_shell/ for the tags.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiowsgi.configuration.addresses import TCPAddress, UnixAddress, parse_bind
from aiowsgi.errors import StartupError

if TYPE_CHECKING:
    from aiowsgi.config import Config
    from aiowsgi.server.observed import ObservedExchange

__all__ = ["StatsdSender"]

_logger = logging.getLogger("aiowsgi.error")

_SEND_SECONDS = 0.1
# The most durations that are sent in each such interval. Arbitrary; some thirty datagrams.
_DURATION_COUNT = 1000
# statsd's advice for Ethernet; a Unix socket takes more.
_DATAGRAM_SIZE = 1432
_STATSD_PORT = 8125


class StatsdSender:
    """Sends to one statsd.

    Args:
        config: ``statsd_host``, ``statsd_prefix`` and ``dogstatsd_tags`` are read.
        loop: of the server.

    Raises:
        StartupError: the host has no address.
    """

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        assert config.statsd_host is not None
        self._loop = loop
        prefix = config.statsd_prefix.rstrip(".")
        self._prefix = f"{prefix}." if prefix else ""
        self._tags = f"|#{config.dogstatsd_tags}" if config.dogstatsd_tags else ""
        self._socket = _connected(config.statsd_host)
        self._statuses: Counter[int] = Counter()
        self._durations: list[float] = []
        self._timer: asyncio.TimerHandle | None = None

    def take(self, x: ObservedExchange) -> None:
        """Count an exchange that has ended."""
        if self._timer is None:
            self._timer = self._loop.call_later(_SEND_SECONDS, self._send)
        self._statuses[x.status_code] += 1
        if len(self._durations) < _DURATION_COUNT:
            self._durations.append(x.ended_at - x.arrived_at)

    def _send(self) -> None:
        self._timer = None
        for datagram in _datagrams(self._lines()):
            # Nobody listens; the socket's buffer is full; the daemon has just been restarted.
            with contextlib.suppress(OSError):
                self._socket.send(datagram)

    def _lines(self) -> Iterator[bytes]:
        """Return what is to be sent, and start again from nothing."""
        statuses, self._statuses = self._statuses, Counter()
        durations, self._durations = self._durations, []
        count = statuses.total()
        yield self._line("requests", f"{count}|c")
        for status_code, number in statuses.items():
            if status_code:
                yield self._line(f"request.status.{status_code}", f"{number}|c")
        rate = "" if len(durations) == count else f"|@{len(durations) / count:.4f}"
        for duration in durations:
            yield self._line("request.duration", f"{1000 * duration:.3f}|ms{rate}")

    def _line(self, name: str, value: str) -> bytes:
        return f"{self._prefix}gunicorn.{name}:{value}{self._tags}\n".encode()

    def close(self) -> None:
        """Send the last."""
        if self._timer is not None:
            self._timer.cancel()
            self._send()
        self._socket.close()


def _datagrams(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Put as many lines into each datagram as fit."""
    datagram = b""
    for line in lines:
        if datagram and len(datagram) + len(line) > _DATAGRAM_SIZE:
            yield datagram[:-1]
            datagram = b""
        datagram += line
    if datagram:
        yield datagram[:-1]


def _connected(text: str) -> socket.socket:
    """Return a socket that sends to an address, whether or not anybody listens there."""
    address = parse_bind(text if text.startswith("unix:") or ":" in text else f"{text}:{_STATSD_PORT}")
    if isinstance(address, UnixAddress):
        return _UnixDatagrams(address.path)
    assert isinstance(address, TCPAddress)  # Config has refused a descriptor
    try:
        family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)[0]
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect(where)
    except OSError as error:
        raise StartupError(f"statsd_host={text}: {error.strerror or error}") from error
    except UnicodeError as error:
        raise StartupError(f"statsd_host={text}: not a host name") from error
    return sock


class _UnixDatagrams(socket.socket):
    """A socket for a daemon's Unix socket, which is a new one after each restart of the daemon.

    Args:
        path: of the daemon's; ``@name`` is abstract.
    """

    def __init__(self, path: str) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.setblocking(False)
        self._path = "\0" + path[1:] if path.startswith("@") else path

    def send(self, data: bytes, flags: int = 0, /) -> int:  # type: ignore[override] # of bytes only
        """Send a datagram to whoever is there now."""
        return self.sendto(data, flags, self._path)
