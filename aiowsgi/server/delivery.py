"""A response that its worker does not hand over as a whole, on its way to the client.

It comes out of the pipe that the worker fills, out of a file, or, once the application has parked the rest of it, out
of an asynchronous iterable. Whichever it is, no more is taken from it than the client takes in turn.

Thread: event loop.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, cast

from aiowsgi.server.file_sender import FileSender
from aiowsgi.server.outlet import Outlet
from aiowsgi.server.parked import ParkedResponse
from aiowsgi.server.socket_file_sender import SocketFileSender
from aiowsgi.wsgi.file_wrapper import FileRegion

if TYPE_CHECKING:
    from aiowsgi.bridge.pipes import ResponsePipe
    from aiowsgi.server.engine import Engine
    from aiowsgi.server.exchange import Exchange
    from aiowsgi.server.protocol import Protocol

__all__ = ["Delivery"]

_logger = logging.getLogger("aiowsgi.error")


class Delivery:
    """Sends what one exchange hands over.

    Args:
        engine: what all connections share.
        connection: notified when the client is waited for, when the application is, and of the response's end.
        outlet: the connection's.
        exchange: of the response.
    """

    __slots__ = ("_connection", "_engine", "_exchange", "_outlet", "_parked", "_sender")

    def __init__(self, engine: Engine, connection: Protocol, outlet: Outlet, exchange: Exchange) -> None:
        self._engine = engine
        self._connection = connection
        self._outlet = outlet
        self._exchange = exchange
        self._sender: FileSender | SocketFileSender | None = None
        self._parked: ParkedResponse | None = None

    @property
    def parked(self) -> bool:
        """Whether the loop goes on with a response that its application has parked."""
        return self._parked is not None

    @property
    def sends_file(self) -> bool:
        """Whether a file is on its way."""
        return self._sender is not None

    @property
    def unsent_size(self) -> int:
        """How much of a file has not been sent; while it bypasses the transport, this may be a moment old."""
        return 0 if self._sender is None else self._sender.missing_size

    @property
    def passes_transport(self) -> bool:
        """Whether a file bypasses the transport, which is then never paused; its sender sees to the deadline itself."""
        return isinstance(self._sender, SocketFileSender)

    def worker_ready(self) -> None:
        """The worker has handed something over."""
        exchange = self._exchange
        if self._parked is not None:
            return  # resume() came to the pipe's end before its announcement; what is parked needs none
        region = exchange.region
        if region is None:
            self._send_on()
        else:
            exchange.region = None
            self._send_file(region)

    def resume(self) -> None:
        """The transport has room again."""
        if self._parked is not None:
            self._parked.resume()
            self._connection.end_watch()
        else:
            self._send_on()

    def disperse(self) -> None:
        """Have what is parked ended in its turn: the server is draining."""
        if self._parked is not None and not self._exchange.finishes:
            self._engine.dispersal.add(self._parked)

    def close(self) -> None:
        """Send no more."""
        if self._parked is not None:
            self._parked.cancel()
            self._parked = None
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _send_on(self) -> None:
        """Send as much as the transport takes."""
        if self._outlet.paused:
            self._connection.watch_writing()
        elif isinstance(self._sender, FileSender):
            self._sender.read_on()
            self._connection.end_watch()
        elif self._exchange.pipe is not None:
            self._empty_pipe(self._exchange.pipe)

    def _empty_pipe(self, pipe: ResponsePipe) -> None:
        exchange = self._exchange
        pieces, ended = pipe.take()
        if pieces:
            self._outlet.write(pieces)
        if ended and exchange.parked is not None and not exchange.failed:
            iterable, exchange.parked = exchange.parked, None
            self._park(iterable)
        elif ended:
            self._connection.finish_response(exchange)
        elif self._outlet.paused:
            self._connection.watch_writing()
        else:
            self._connection.await_application()

    # Files.

    def _send_file(self, region: FileRegion) -> None:
        """Send a file, straight to the socket if possible."""
        engine = self._engine
        head, self._exchange.whole = self._exchange.whole or (), ()
        sock = self._outlet.duplicate_socket()
        if sock is None:
            self._outlet.write(head)
            self._sender = FileSender(region, engine.io_pool, engine.wakeup, self._send_piece)
            self._send_on()
            return
        connection = self._connection
        self._sender = sender = SocketFileSender(
            b"".join(head),
            region,
            sock,
            engine.loop,
            engine.io_pool,
            engine.wakeup,
            connection.watch_writing,
            connection.end_watch,
            self._file_sent,
        )
        connection.end_watch()
        sender.send_on()

    def _send_piece(self, piece: bytes) -> None:
        """A piece of a file has been read."""
        sender = cast(FileSender, self._sender)
        if piece:
            self._outlet.write((piece,))
        if piece and sender.missing_size:
            self._send_on()
        else:
            self._file_sent(None if piece else OSError("it became shorter or unreadable"))

    def _file_sent(self, error: OSError | None) -> None:
        exchange = self._exchange
        if isinstance(error, (ConnectionError, TimeoutError)):
            self._outlet.abort()  # the rest follows from the connection's loss
            return
        if error is not None:
            exchange.failed = True
            # A log handler that fails must not cost the client the end of its response.
            with contextlib.suppress(Exception):
                _logger.error("cannot send the file for %s %s: %s", exchange.head.method, exchange.head.target, error)
        self._connection.finish_response(exchange)

    # What is parked.

    def _park(self, iterable: AsyncIterable[bytes]) -> None:
        """The application's part is over; the loop goes on with the rest of its response."""
        exchange, connection = self._exchange, self._connection
        exchange.leave_pipe()
        exchange.lighten()
        connection.lighten()
        self._parked = ParkedResponse(self._engine, iterable, self._send_parked, self._end_parked)
        if self._engine.draining:
            self.disperse()
        if self._outlet.paused:
            self._parked.pause()
            connection.watch_writing()
        else:
            connection.end_watch()

    # Methods, since two closures for each parked client are 0.3 KB more.

    def _send_parked(self, block: bytes) -> None:
        parked = self._parked
        if parked is None or self._outlet.closing:
            return  # the connection's loss is on its way
        self._outlet.write(self._exchange.frame_block(block))
        if self._outlet.paused:
            parked.pause()
            self._connection.watch_writing()

    def _end_parked(self, error: BaseException | None) -> None:
        exchange, self._parked = self._exchange, None
        if error is None:
            self._outlet.write(exchange.end_pieces)
        else:
            exchange.failed = True
            with contextlib.suppress(Exception):
                _logger.error("%r failed while parked: %r", exchange, error, exc_info=error)
        self._connection.finish_response(exchange)
