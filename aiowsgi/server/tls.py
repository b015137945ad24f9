"""TLS between a transport and the connection that it carries.

One object is both: the socket's transport sees a protocol, the connection sees a transport. The loops' own TLS will
not do for this server. An idle connection costs 276 KB with asyncio's and 47 with uvloop's (here 20), and 1,030 with
either once it has had a response of 1 MB (here 22). Both count as written what still lies in the transport beneath,
and closing cuts off a client that takes longer for the rest than the TLS *shutdown* timeout; a client that ends its own
side loses the answer to the request that it has sent; and an answer that closes the connection while the client is
still sending is destroyed by the reset that follows. Here flow control, the order of closing and the wait for the
client's end are those of a plain connection; only the bytes differ. The cryptography is OpenSSL's, through
:class:`ssl.SSLObject`.

Thread: event loop.

Source: RFC 8446 section 6.1; RFC 9112 section 9.8.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["TLSTransport"]

_logger = logging.getLogger("aiowsgi.error")

# RFC 8446 §5.1: a record holds no more. OpenSSL's buffers stay as large as they once were, so none is given more.
_RECORD_SIZE = 16 * 1024
# Pieces up to this much in all are joined, so that a head and a small body are one record.
_JOIN_SIZE = 64 * 1024
# Records encrypted before the socket has to take some of them; and in one turn of the loop, however fast the client is.
_BATCH_COUNT = 8
_TURN_COUNT = 64
# Records decrypted before other connections have their turn. Arbitrary; 16 KB of what arrives has never so many usual
# ones, but 700 of one byte, and one read of the socket 11,000, which would take 20 ms.
_READ_COUNT = 128
# RFC 8446 §4.6.3: each change of keys may ask for one in return, which no flow control holds back. Arbitrary; twice
# what a full transport otherwise holds.
_UNSENT_SIZE = 512 * 1024


class TLSTransport(asyncio.Transport, asyncio.Protocol):
    """The server's side of TLS on one connection.

    It becomes the protocol of ``transport``. :meth:`write_eof` sends a closure alert and the end of the stream. What
    the client sends after that is no longer decrypted, but passed on so that its size is counted.

    Args:
        transport: carries the records.
        context: says how.
        loop: the transport's.
        on_open: called once the handshake is complete; returns the protocol of the connection.
        on_lost: called instead of ``connection_lost`` if the handshake was not completed.
    """

    __slots__ = (
        "_backlog",
        "_backlog_size",
        "_closing",
        "_end_sent",
        "_end_wanted",
        "_incoming",
        "_limits",
        "_loop",
        "_on_lost",
        "_on_open",
        "_outgoing",
        "_peer_ended",
        "_protocol",
        "_read_paused",
        "_read_rests",
        "_resting",
        "_tls",
        "_transport",
        "_transport_full",
        "_write_paused",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        context: ssl.SSLContext,
        loop: asyncio.AbstractEventLoop,
        on_open: Callable[[TLSTransport], asyncio.Protocol],
        on_lost: Callable[[Exception | None], object],
    ) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._on_open = on_open
        self._on_lost = on_lost
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._protocol: asyncio.BaseProtocol | None = None
        self._backlog: deque[memoryview] = deque()  # not encrypted yet, because the transport is full
        self._backlog_size = 0
        self._transport_full = False
        self._limits: tuple[int | None, int | None] = (None, None)  # high and low, as last set
        self._resting = False  # let others have their turn of the loop
        self._write_paused = False  # as last reported to the protocol
        self._read_paused = False  # as the protocol wants it
        self._read_rests = False  # lets others have their turn
        self._peer_ended = False
        self._end_wanted = False
        self._end_sent = False
        self._closing = False

    def __repr__(self) -> str:
        return f"<TLSTransport {self._protocol!r}>"

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        if self._end_sent and isinstance(self._protocol, asyncio.Protocol):
            self._protocol.data_received(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), _RECORD_SIZE):
            if self._closing or self._peer_ended:
                return  # RFC 8446 §6.1: data after a closure alert MUST be ignored
            self._incoming.write(view[start : start + _RECORD_SIZE])
            if self._protocol is None:
                self._shake_hands()
            if self._protocol is not None:
                self._read()

    def eof_received(self) -> bool:
        """See :class:`asyncio.Protocol`."""
        if self._protocol is None or self._closing:
            return False
        self._end_of_peer()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._closing = True
        self._backlog.clear()
        self._backlog_size = 0
        self._write_paused = False
        if self._protocol is None:
            self._on_lost(error)
        else:
            self._protocol.connection_lost(error)

    def pause_writing(self) -> None:
        """See :class:`asyncio.Protocol`."""
        self._transport_full = True
        self._pause_protocol()

    def resume_writing(self) -> None:
        """See :class:`asyncio.Protocol`."""
        self._transport_full = False
        # Not within this call: asyncio's transports report their end twice if they are closed in it.
        self._loop.call_soon(self._resumed)

    # Reading.

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send_outgoing()
        except (ssl.SSLError, ValueError) as error:  # ValueError: a context whose certificate cannot be used
            # A log handler that fails must not keep the connection from its end.
            with contextlib.suppress(Exception):
                _logger.debug("TLS handshake with %s failed: %s", self._transport.get_extra_info("peername"), error)
            self._send_outgoing()  # the alert that says why
            self._closing = True
            self._transport.close()
        else:
            self._send_outgoing()
            if self._lacks_certificate:
                peer = self._transport.get_extra_info("peername")
                self.close()
                _logger.debug("TLS handshake with %s failed: no certificate, which the chosen context requires", peer)
                return
            self._protocol = self._on_open(self)

    @property
    def _lacks_certificate(self) -> bool:
        """Whether the client has shown no certificate to a context that requires one.

        OpenSSL checks that itself, but by the mode of the context with which the handshake began. If a callback for
        server names sets another (SSL_set_SSL_CTX), its certificate and authorities count, but its mode does not.
        """
        return self._tls.context.verify_mode == ssl.CERT_REQUIRED and self._tls.getpeercert(binary_form=True) is None

    def _read(self) -> None:
        """Decrypt what has arrived, and pass it on."""
        protocol = self._protocol
        assert isinstance(protocol, asyncio.Protocol)
        while not (self._read_paused or self._read_rests or self._closing or self._end_sent) and self._unread:
            try:
                data = self._tls.read(_RECORD_SIZE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self._break(error)
                return
            if not data:
                # RFC 8446 §6.1: the client's closure alert says nothing of our side.
                self._end_of_peer()
                break
            if len(data) == _RECORD_SIZE:
                protocol.data_received(data)
            elif self._unread:
                self._read_joined(data, protocol)
            else:
                protocol.data_received(data)
                break
        if not self._end_sent and self._outgoing.pending:
            self._send_outgoing()  # the answer to a change of keys
            if self._transport.get_write_buffer_size() > _UNSENT_SIZE:
                peer = self._transport.get_extra_info("peername")
                with contextlib.suppress(Exception):
                    _logger.debug("TLS with %s: it asks for one change of keys after another, and takes none", peer)
                self.abort()

    def _read_joined(self, data: bytes, protocol: asyncio.Protocol) -> None:
        """Pass on a small record together with those that follow it: each call costs more than decrypting one."""
        pieces = [data]
        ended = False
        broken: ssl.SSLError | None = None
        try:
            while len(pieces) < _READ_COUNT and self._unread:
                data = self._tls.read(_RECORD_SIZE)
                if not data:
                    ended = True
                    break
                pieces.append(data)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError as error:
            broken = error
        if len(pieces) == _READ_COUNT:
            # Go on in the loop's next turn, and take nothing more before.
            self._read_rests = True
            self._transport.pause_reading()
            self._loop.call_soon(self._read_rested)
        protocol.data_received(b"".join(pieces))
        if self._closing or self._end_sent:
            return
        if broken is not None:
            self._break(broken)
        elif ended:
            self._end_of_peer()

    def _break(self, error: ssl.SSLError) -> None:
        """End a connection that has no way on, and say why."""
        with contextlib.suppress(Exception):
            _logger.debug("TLS with %s broke: %s", self._transport.get_extra_info("peername"), error)
        self._send_outgoing()
        self.abort()

    @property
    def _unread(self) -> bool:
        return self._incoming.pending > 0 or self._tls.pending() > 0

    def _read_on(self) -> None:
        """Go on reading after a pause: first what has already arrived here."""
        if not (self._end_sent or self._closing):
            self._read()
        if not (self._read_paused or self._read_rests or self._closing):
            self._transport.resume_reading()

    def _read_rested(self) -> None:
        self._read_rests = False
        self._read_on()

    def _end_of_peer(self) -> None:
        """The client has ended its side: by an alert, or without.

        RFC 9112 §9.8: an end without an alert is an incomplete close, which does no harm where the messages themselves
        say where they end.
        """
        if self._peer_ended:
            return
        self._peer_ended = True
        assert isinstance(self._protocol, asyncio.Protocol)
        if not self._protocol.eof_received():
            self.close()

    def is_reading(self) -> bool:
        """See :class:`asyncio.ReadTransport`."""
        return not (self._read_paused or self._closing)

    def pause_reading(self) -> None:
        """See :class:`asyncio.ReadTransport`."""
        self._read_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See :class:`asyncio.ReadTransport`."""
        if self._read_paused:
            self._read_paused = False
            # Not within this call: the caller does not expect to be called back before it returns.
            self._loop.call_soon(self._read_on)

    # Writing.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See :class:`asyncio.WriteTransport`."""
        self.writelines((data,))

    def writelines(self, pieces: Iterable[Any]) -> None:
        """See :class:`asyncio.WriteTransport`."""
        if self._closing or self._end_wanted:
            return
        pieces = list(filter(len, pieces))
        size = sum(map(len, pieces))
        if len(pieces) > 1 and size <= _JOIN_SIZE:
            pieces = [b"".join(pieces)]
        self._backlog.extend(map(memoryview, pieces))
        self._backlog_size += size
        if not (self._transport_full or self._resting):
            self._write_on()

    def _write_on(self) -> None:
        """Encrypt and send as much as the transport takes."""
        count = 0
        while self._backlog and not self._transport_full and not self._resting:
            records: list[bytes] = []
            try:
                while self._backlog and len(records) < _BATCH_COUNT:
                    records.append(self._next_record())
            except ssl.SSLError as error:
                with contextlib.suppress(Exception):
                    _logger.debug("TLS with %s broke: %s", self._transport.get_extra_info("peername"), error)
                self.abort()
                return
            if len(records) == 1:
                self._transport.write(records[0])
            else:
                self._transport.writelines(records)
                if not self._transport_full and self._transport.get_write_buffer_size():
                    # CVE-2024-12254: see Outlet.write(), which hears nothing of what is encrypted later. This makes it
                    # look, and can go with those versions.
                    self._transport.set_write_buffer_limits(*self._limits)
            count += len(records)
            if count >= _TURN_COUNT and self._backlog:
                self._rest()
        if self._backlog or self._transport_full or self._resting:
            return
        if self._end_wanted:
            self._send_end()
        if self._write_paused and not self._transport_full and self._protocol is not None:
            self._write_paused = False
            self._protocol.resume_writing()

    def _next_record(self) -> bytes:
        piece = self._backlog[0]
        size = self._tls.write(piece[:_RECORD_SIZE])
        self._backlog_size -= size
        if size == len(piece):
            self._backlog.popleft()
        else:
            self._backlog[0] = piece[size:]
        return self._outgoing.read()

    def _rest(self) -> None:
        """Go on in the loop's next turn."""
        self._resting = True
        self._pause_protocol()
        self._loop.call_soon(self._resumed)

    def _resumed(self) -> None:
        self._resting = False
        if not self._transport_full:
            self._write_on()

    def _pause_protocol(self) -> None:
        if not self._write_paused and self._protocol is not None:
            self._write_paused = True
            self._protocol.pause_writing()

    def _send_outgoing(self) -> None:
        if self._outgoing.pending and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())

    def get_write_buffer_size(self) -> int:
        """See :class:`asyncio.WriteTransport`."""
        return self._backlog_size + self._transport.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """See :class:`asyncio.WriteTransport`."""
        return self._transport.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See :class:`asyncio.WriteTransport`."""
        self._limits = (high, low)
        self._transport.set_write_buffer_limits(high, low)

    # The end.

    def can_write_eof(self) -> bool:
        """See :class:`asyncio.WriteTransport`."""
        return True

    def write_eof(self) -> None:
        """See :class:`asyncio.WriteTransport`."""
        if self._closing or self._end_wanted:
            return
        self._end_wanted = True
        if not self._backlog:
            self._send_end()

    def close(self) -> None:
        """See :class:`asyncio.BaseTransport`."""
        if self._closing:
            return
        self._closing = self._end_wanted = True
        if not self._backlog:
            self._send_end()

    def _send_end(self) -> None:
        if not self._end_sent:
            self._end_sent = True
            with contextlib.suppress(ssl.SSLError):  # the client's alert has not arrived, of course
                self._tls.unwrap()
            self._send_outgoing()
            if not self._closing:
                try:
                    self._transport.write_eof()
                except OSError:  # the client has reset the connection: asyncio raises, uvloop does not
                    self._transport.abort()
        if self._closing:
            self._transport.close()

    def abort(self) -> None:
        """See :class:`asyncio.WriteTransport`."""
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        """See :class:`asyncio.BaseTransport`."""
        return self._closing or self._transport.is_closing()

    # Small things.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See :class:`asyncio.BaseTransport`; ``ssl_object`` and ``sslcontext`` as the loops' own."""
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._tls.context
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See :class:`asyncio.BaseTransport`."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See :class:`asyncio.BaseTransport`."""
        return self if self._protocol is None else self._protocol
