"""What comes before HTTP on a connection: a PROXY header, a TLS handshake, or both in this order.

Their time is bounded as a whole, by ``header_timeout``. Until they are over there is no HTTP connection, only this
object, which counts as one for the limits.

Thread: event loop.

Source: RFC 8446 section 5.1; the PROXY protocol, section 2: a receiver does not guess whether there is a header.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import cast

from aiowsgi.configuration.peers import Peers
from aiowsgi.http.events import Refusal
from aiowsgi.server.connection_info import connection_info, host_and_port, is_on_unix_socket
from aiowsgi.server.deadlines import NEVER
from aiowsgi.server.engine import Engine
from aiowsgi.server.protocol import Protocol
from aiowsgi.server.proxy_protocol import ProxyHeader, ProxyHeaderError, read_proxy_header
from aiowsgi.server.tls import TLSTransport
from aiowsgi.server.tls_context import TLSContexts

__all__ = ["Opening"]

_logger = logging.getLogger("aiowsgi.error")

# RFC 8446 §5.1: the first byte of every handshake.
_HANDSHAKE_RECORD = 0x16
# How long an opening, and then the first request, has if its client came just before a drain. Arbitrary.
_LAST_SECONDS = 1.0


class Opening(asyncio.Protocol):
    """A connection that is being opened.

    Args:
        engine: shared by all connections of a server.
        tls: likewise; ``None`` where they speak no TLS.
        proxies: who may send a PROXY header; ``None`` where there is none.
    """

    __slots__ = ("_buffer", "_engine", "_header", "_proxies", "_tls", "_transport", "deadline", "looked_at")

    def __init__(self, engine: Engine, tls: TLSContexts | None, proxies: Peers | None) -> None:
        self._engine = engine
        self._tls = tls
        self._proxies = proxies
        self._buffer = b""
        self._header: ProxyHeader | None = None
        self._transport = cast(asyncio.Transport, None)  # until connection_made, the first call of every transport
        self.deadline = NEVER
        self.looked_at = NEVER

    def __repr__(self) -> str:
        return f"<Opening {self._transport!r}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.Protocol`."""
        engine = self._engine
        self._transport = cast(asyncio.Transport, transport)
        engine.arriving.discard(self)
        engine.openings.add(self)
        engine.deadlines.set(self, engine.loop.time() + engine.config.header_timeout)
        if engine.draining:
            self.drain()
        peer = self._peer
        if not (peer or is_on_unix_socket(self._transport)):
            self._transport.abort()  # as Protocol does
        elif self._proxies is not None and peer not in self._proxies:
            self._refuse(Refusal(403, "this port is for proxies that are allowed to use it"))

    @property
    def _peer(self) -> str:
        return host_and_port(self._transport.get_extra_info("peername"))[0]

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        if self._proxies is not None and self._header is None:
            data = self._buffer + data
            try:
                self._header = read_proxy_header(data, self._engine.config.proxy_protocol)
            except ProxyHeaderError as error:
                self._refuse(Refusal(400, str(error)))
                return
            if self._header is None:
                self._buffer = data
                return
            self._buffer = b""
            data = data[self._header.size :]
        if self._tls is not None:
            if data:
                self._begin_tls(self._tls, data)
            return
        protocol = self._begin(self._transport)
        if data:
            protocol.data_received(data)

    def _begin_tls(self, contexts: TLSContexts, data: bytes) -> None:
        transport = self._transport
        if data[0] != _HANDSHAKE_RECORD:
            self._begin(transport).refuse(Refusal(400, "plain HTTP on a TLS port"))
            return
        tls = TLSTransport(transport, contexts.current, self._engine.loop, self._begin, self.connection_lost)
        transport.set_protocol(tls)
        tls.data_received(data)

    def _refuse(self, refusal: Refusal) -> None:
        """End a connection that cannot be used; without TLS with an answer, in case it speaks HTTP."""
        if self._tls is None:
            self._begin(self._transport).refuse(refusal)
        else:
            # A log handler that fails must not keep the connection from its end.
            with contextlib.suppress(Exception):
                _logger.debug("refused a connection from %s: %s", self._peer or "unix", refusal)
            self._transport.close()

    def _begin(self, transport: asyncio.Transport) -> Protocol:
        """The connection is open: HTTP begins."""
        self._end()
        engine = self._engine
        header = self._header
        info = connection_info(transport, None if header is None else header.addresses)
        if header is not None and header.tls:
            info.scheme = "https"
        if header is not None and header.addresses is None:
            # The addresses are the proxy's, as the specification demands. The fields are not: they come from a client
            # that the proxy does not name, and that is not trusted as the proxy is.
            info.field_host = None
        protocol = Protocol(engine, info)
        if transport is self._transport:
            transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if engine.draining:
            engine.deadlines.set(protocol, engine.loop.time() + _LAST_SECONDS)
        return protocol

    def connection_lost(self, error: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._end()
        self._engine.remove_opening(self)

    def _end(self) -> None:
        self._engine.openings.discard(self)
        self._engine.deadlines.remove(self)

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 where there is none."""
        sock = self._transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    def drain(self) -> None:
        """Leave the client a moment: it believes that it is connected."""
        engine = self._engine
        engine.deadlines.set(self, min(self.deadline, engine.loop.time() + _LAST_SECONDS))

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def deadline_passed(self, now: float) -> None:
        """See :class:`~aiowsgi.server.deadlines.DeadlineHolder`."""
        with contextlib.suppress(Exception):
            _logger.debug("%s did not open its connection in time", self._transport.get_extra_info("peername"))
        self._transport.abort()
