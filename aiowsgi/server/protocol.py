"""A connection: bytes go to the HTTP layer, the requests it reads become exchanges, their responses go out.

Thread: event loop.

Every wait of a connection has one deadline (:mod:`aiowsgi.server.deadlines`), chosen by its phase. While a request is
being answered, reading stops only at the bound on what is read ahead: a transport whose reading is paused reports
neither the end of the stream nor a reset.

Source: RFC 9112 sections 9.3 to 9.6; RFC 9110 section 10.1.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from typing import TYPE_CHECKING, cast

from aiowsgi.bridge.disconnection import Disconnection
from aiowsgi.errors import ClientDisconnected
from aiowsgi.http.connection import HTTPConnection, ReadState
from aiowsgi.http.events import END_OF_CONTENT, Event, Refusal
from aiowsgi.http.response import CONTINUE, refusal_response
from aiowsgi.semantics import ConnectionInfo, RequestHead
from aiowsgi.server.connection_info import connection_info, is_on_unix_socket
from aiowsgi.server.content import ContentBuffer, ContentStream, not_stored
from aiowsgi.server.deadlines import NEVER
from aiowsgi.server.delivery import Delivery
from aiowsgi.server.engine import Engine
from aiowsgi.server.exchange import Exchange
from aiowsgi.server.observed import UNKNOWN_HEAD, ObservedExchange
from aiowsgi.server.outlet import Outlet
from aiowsgi.server.reception import ContentReceiver
from aiowsgi.server.responder import OwnRequest, Responder

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

__all__ = ["Phase", "Protocol"]

_logger = logging.getLogger("aiowsgi.error")

# Reading pauses once more than this of later requests has been read while one is being answered. The read that crosses
# it is kept whole, up to 256 KB. Arbitrary; a browser's whole window of heads fits.
_READ_AHEAD_SIZE = 64 * 1024
# The most that a connection keeps of a request it postpones. A larger one is read immediately, before others.
_MOST_POSTPONED_SIZE = 8 * 1024
# RFC 9112 §9.6: how long, and how much, to read on after our last answer, so that the client gets to see it.
_LINGER_SECONDS = 5.0
_DRAIN_LINGER_SECONDS = 0.5
# In a drain: how long an idle connection still stays if its last answer promised to keep it.
_LAST_IDLE_SECONDS = 0.1
# When the deadlines first look at a connection: sooner than _LINGER_SECONDS and the usual timeouts.
_FIRST_LOOK_SECONDS = 4.0
_LINGER_SIZE = 16 * 1024 * 1024


class Phase(enum.Enum):
    """What a connection waits for."""

    IDLE = enum.auto()  # the next request
    HEAD = enum.auto()  # the rest of a head
    CONTENT = enum.auto()  # the rest of a request's content
    ANSWERING = enum.auto()  # the application, or the client's reading of its response
    FLUSHING = enum.auto()  # the client's reading of its response, before the next request is looked at
    LINGERING = enum.auto()  # the client's end: our last answer is out, and what still arrives is discarded
    CLOSED = enum.auto()


# Module-level names: looking a member up in its Enum takes Python 3.11 50 ns, ten times a request.
_IDLE = Phase.IDLE
_HEAD = Phase.HEAD
_CONTENT = Phase.CONTENT
_ANSWERING = Phase.ANSWERING
_FLUSHING = Phase.FLUSHING
_LINGERING = Phase.LINGERING
_CLOSED = Phase.CLOSED


class Protocol(asyncio.Protocol):
    """One connection.

    Args:
        engine: what all connections share.
        info: what is known of the connection, if it is not what its transport says.
    """

    __slots__ = (
        "_base_environ",
        "_content",
        "_delivery",
        "_discarded_size",
        "_disconnection",
        "_engine",
        "_exchange",
        "_head",
        "_http",
        "_info",
        "_outlet",
        "_peer_ended",
        "_postponed",
        "_read_paused",
        "_reads_on",
        "_receiver",
        "_transport",
        "_untaken",
        "deadline",
        "looked_at",
        "phase",
    )

    def __init__(self, engine: Engine, info: ConnectionInfo | None = None) -> None:
        self._engine = engine
        self._http = HTTPConnection(engine.parser, engine.policy)
        # Until connection_made, the first call of every transport:
        self._transport = cast(asyncio.Transport, None)
        self._outlet = cast(Outlet, None)
        self._info = cast(ConnectionInfo, info)  # or what the transport says
        self._head: RequestHead | None = None
        self._content: ContentBuffer | ContentStream | None = None
        self._exchange: Exchange | None = None
        self._disconnection = Disconnection()
        self._base_environ: WSGIEnvironment | None = None
        self._delivery: Delivery | None = None
        self._receiver: ContentReceiver | None = None
        # Complete, and not yet taken by the transport; noted only if something observes.
        self._untaken: Exchange | None = None
        # What arrived while it was idle, and is read later: see Intake.postpones, which stays true until then.
        self._postponed = b""
        self._read_paused = False
        # The next turn of the loop goes on with what has arrived.
        self._reads_on = False
        self._peer_ended = False
        self._discarded_size = 0
        self.phase = _IDLE
        self.deadline = NEVER
        self.looked_at = NEVER

    def __repr__(self) -> str:
        return f"<Protocol {self.phase.name} {self._info!r}>"

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.Protocol`."""
        engine = self._engine
        self._transport = cast(asyncio.Transport, transport)
        self._outlet = Outlet(self._transport)
        if self._info is None:
            self._info = connection_info(self._transport)
        if engine.forwarding is not None:
            self._info.forwarding = engine.forwarding.of_peer(self._info.field_host)
        engine.add_connection(self)
        if not (self._info.remote_host or is_on_unix_socket(self._transport)):
            # Nobody knows who this is. It must not pass for the peer of a Unix socket, which may be trusted as a proxy.
            self.phase = _CLOSED
            self._transport.abort()
            return
        # Looked at before anything is due, so that a short connection's later deadlines are mere assignments: 3.5 %.
        engine.deadlines.set(self, engine.loop.time() + _FIRST_LOOK_SECONDS)
        # The first byte is due when that of any later request would be, but a new connection has time for a head.
        self._set_deadline(max(engine.config.keep_alive, engine.config.header_timeout))

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        if self.phase is _LINGERING or self.phase is _CLOSED:
            self._discard(len(data))
            return
        if not (self._engine.intake.postpones and self._postpone(data)):
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        events = self._http.receive_data(data)
        if events:
            self._process(events)
        elif self.phase is _IDLE:
            if self._http.request_begun:
                self._begin_head()
        elif self._http.behind:
            self._read_on_later()
        elif self._content is not None and self._read_paused:
            self._content_arrived()  # the rest that had been left completed nothing: more must be read
        elif self._http.buffered_size > _READ_AHEAD_SIZE and self._http.state is ReadState.COMPLETE:
            self._pause_reading()

    def _postpone(self, data: bytes) -> bool:
        """Keep the beginning of a request until :meth:`read_postponed`; return false if it must be read now instead."""
        if self._postponed:
            self._postponed += data
            if len(self._postponed) > _MOST_POSTPONED_SIZE:
                self.read_postponed()
            return True
        if self.phase is not _IDLE or len(data) > _MOST_POSTPONED_SIZE:
            return False
        self._postponed = data
        self._engine.intake.postpone(self)
        return True

    def read_postponed(self) -> None:
        """Read what was postponed, if it is still unread: it is the connection's turn, or its client has ended."""
        data, self._postponed = self._postponed, b""
        if data:
            self._receive(data)

    def eof_received(self) -> bool:
        """See :class:`asyncio.Protocol`."""
        self.read_postponed()
        self._peer_ended = True
        if self.phase in (_IDLE, _LINGERING, _CLOSED):
            return False
        self._conclude_input()
        return True

    def _conclude_input(self) -> None:
        """The client has ended its side while a request is under way: see whether all of the request has arrived."""
        if self._http.behind:
            return  # _read_on() comes back here
        if self._http.request_begun:
            self._end_of_requests()
        else:
            # The client may have closed only its writing side, and be waiting for its answer. The transport has read
            # the end of the stream, and will report nothing more about the client.
            self._outlet.probe_client()
            self._engine.watch.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self.phase = _CLOSED
        self._postponed = b""
        self._receiver = None
        exchange, self._exchange = self._exchange, None
        try:
            if self._engine.observer is not None:
                self._observe_loss(exchange, error)
            if exchange is not None:
                exchange.withdraw()
                exchange.release()
            self._disconnection.set()
            self._end_delivery()
            self._release_content(ClientDisconnected("the client disconnected before the end of its request"))
        finally:
            # Even if something failed: else the engine would count the connection for ever, and a drain wait for it.
            self._engine.deadlines.remove(self)
            self._engine.watch.discard(self)
            self._engine.remove_connection(self)

    def pause_writing(self) -> None:
        """See :class:`asyncio.Protocol`."""
        self._outlet.paused = True

    def resume_writing(self) -> None:
        """See :class:`asyncio.Protocol`."""
        self._outlet.paused = False
        if self._untaken is not None:
            self._untaken.ended("complete")
            self._untaken = None
        if self._delivery is not None:
            self._delivery.resume()
        elif self.phase is _FLUSHING:
            self._start_next_request()
        elif self.phase is _LINGERING:
            self._linger()

    # Requests.

    def _begin_head(self) -> None:
        """A part of a head has arrived; the rest is due at an absolute time, however it dribbles in."""
        self.phase = _HEAD
        self._set_deadline(self._engine.config.header_timeout)

    def _process(self, events: list[Event]) -> None:
        event = events[0]
        if type(event) is RequestHead and event.content_length == 0:
            self._dispatch(event)  # nothing but the end of its content can follow
            return
        if events[-1] is END_OF_CONTENT and isinstance(self._content, ContentStream):
            self._content.announce_end()
        for event in events:
            if isinstance(event, RequestHead):
                self._begin_request(event, event is events[-1])
            elif isinstance(event, bytes):
                if self._content is not None:
                    self._content.append(event)
            elif event is END_OF_CONTENT:
                if self._content is not None:
                    self._content.end()
            else:
                if self.phase is not _LINGERING and self.phase is not _CLOSED:  # as where the head was answered at once
                    self.refuse(event)
                return
        if self._content is not None:
            self._content_arrived()
            if self._peer_ended and self._http.request_begun and not self._http.behind:
                self._end_of_requests()

    def _begin_request(self, head: RequestHead, content_outstanding: bool) -> None:
        self._head = head
        engine = self._engine
        # RFC 9110 §10.1.1: not where content has arrived already.
        expect_continue = head.expect_continue and content_outstanding
        if engine.config.stream_body:
            self._content = ContentStream(engine, self._content_taken, expect_continue)
            self._dispatch(head)
            return
        self.phase = _CONTENT
        self._content = ContentBuffer(engine, self._content_written)
        if expect_continue:
            self._outlet.write((CONTINUE,))

    def _content_arrived(self) -> None:
        """Some content has arrived: go on to the application, or wait for more."""
        content = self._content
        if content is None:
            return
        if content.error is not None:
            self.refuse(not_stored(content.error))
        elif content.complete:
            if self.phase is _CONTENT:
                self._dispatch(cast(RequestHead, self._head))
            else:
                self._content = None  # all of it is in the application's hands
        else:
            if content.full:
                content.filled(self._engine.loop.time())
                self._pause_reading()
            elif self._http.behind:
                self._read_on_later()
            else:
                if isinstance(content, ContentBuffer) and content.reserve(self._http.missing_size):
                    self._receive_in_place(content)
                self._resume_reading()
            self._await_content(content)

    def _read_on_later(self) -> None:
        """Read on in the next turn of the loop, and nothing more from the socket before."""
        if not self._peer_ended:
            self._pause_reading()
        if not self._reads_on:
            self._reads_on = True
            self._engine.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._reads_on = False
        if self.phase is _LINGERING or self.phase is _CLOSED:
            return
        # Content that is full gets back here once it has room.
        if self._http.behind and not (self._content is not None and self._content.full):
            self._receive(b"")
            if self._peer_ended and self.phase not in (_IDLE, _LINGERING, _CLOSED):
                self._conclude_input()

    def _receive_in_place(self, content: ContentBuffer) -> None:
        """Have the transport write the rest of the content to where the application will read it from."""
        if self._transport.get_extra_info("sslcontext") is not None:
            return
        if self._receiver is None:
            self._receiver = ContentReceiver(self, self._transport, self._engine.head_buffer)
        self._receiver.begin(content)

    @property
    def awaits_content(self) -> bool:
        """Whether more of a request's content is to be collected, or might be, as far as is known yet."""
        return self.phase is _CONTENT or bool(self._postponed)

    def content_received(self, content: ContentBuffer, size: int) -> bool:
        """A part of the content has been received in its place; return whether it was the last."""
        content.received(size)
        complete = self._http.content_received(size)
        if complete:
            # Not within this call: until it returns to the loop, the transport holds a view of the memory, and while
            # there is a view, the thread could not close the file.
            self._engine.loop.call_soon(self._content_ended, content)
        else:
            self._content_arrived()
        return complete

    def _content_ended(self, content: ContentBuffer) -> None:
        if self._content is content:
            content.end()
            self._content_arrived()

    def _await_content(self, content: ContentBuffer | ContentStream) -> None:
        """Set the deadline for more content, unless something else is due before it."""
        if self._exchange is not None and self._exchange.waiting:
            return  # it waits for a thread
        if self._delivery is not None and self._delivery.passes_transport:
            return
        if self.phase is _ANSWERING and self._outlet.paused:
            # The client has to take some of its response first; then await_application() comes back here.
            if not self._outlet.watched:
                self.watch_writing()
        elif content.full:
            # The disk or the application is behind; that is not the client's fault.
            self._engine.deadlines.set(self, NEVER)
        else:
            self._engine.deadlines.set(self, content.due(self._engine.loop.time()))

    def _content_written(self) -> None:
        """A part of the content has reached its file."""
        if self.phase is _CONTENT:
            self._content_arrived()

    def _content_taken(self, stream: ContentStream) -> None:
        """The application has read some of its content, or asks for the first of it."""
        if stream is not self._content or self.phase is not _ANSWERING:
            return
        if stream.continue_wanted:
            stream.continue_wanted = False
            stream.begin_anew(self._engine.loop.time())
            # RFC 9110 §15.2: an interim response precedes the final one.
            if self._exchange is not None and not self._exchange.response_begun:
                self._outlet.write((CONTINUE,))
        self._content_arrived()

    def _end_of_requests(self) -> None:
        """The client has ended its side, and all its whole requests have been answered."""
        unfinished = self._http.receive_eof()
        if unfinished:
            self.refuse(cast(Refusal, unfinished[0]))
        else:
            self._close_after_flush()

    def _dispatch(self, head: RequestHead) -> None:
        engine = self._engine
        self._head = head
        self.phase = _ANSWERING
        if self._read_paused:
            self._read_ahead()
        content = self._content
        if engine.responder is not None and self._answer_itself(engine.responder, head):
            return
        if content is not None and isinstance(content, ContentBuffer):
            self._content = None  # the exchange's from now on
        exchange = self._make_exchange(head, content)
        if engine.intake.submit(exchange):
            self._exchange = exchange
            self._set_deadline(engine.config.queue_timeout)
        else:
            exchange.release_content()
            self._refuse_busy(exchange)

    def _answer_itself(self, responder: Responder, head: RequestHead) -> bool:
        """Have the server answer a request that is for itself; return whether it was one."""
        persistent = head.persistent and self._engine.keeps_connections
        if self._content is not None and not self._content.complete:
            persistent = False
        request = OwnRequest(head, persistent, self._engine.server_field, self._send_own)
        if not responder.respond(request):
            return False
        self._release_content()
        return True

    def _make_exchange(self, head: RequestHead, content: ContentBuffer | ContentStream | None) -> Exchange:
        engine = self._engine
        base_environ = self._base_environ
        if base_environ is None:
            base_environ = self._base_environ = engine.environ_of(self._info)
        make = Exchange if engine.observer is None else ObservedExchange
        return make(engine, head, self._info, base_environ, self._disconnection, content, self._exchange_ready)

    def _send_own(self, data: bytes, persistent: bool) -> None:
        """Send an answer of the server's own."""
        if self.phase is not _ANSWERING:
            return  # the connection is gone
        self._head = None
        self._outlet.write((data,))
        if persistent:
            # Not within this call: a request in the same segment would be answered inside it, and so on.
            self._engine.loop.call_soon(self._sent_own)
        else:
            self._close_after_flush()

    def _sent_own(self) -> None:
        if self.phase is _ANSWERING:
            self._start_next_request()

    def _refuse_busy(self, exchange: Exchange) -> None:
        self.refuse(Refusal(503, "too many requests are waiting"), exchange)

    def refuse(self, refusal: Refusal, refused: Exchange | None = None) -> None:
        """Answer in the application's place, or break off what it has begun, and close.

        Args:
            refusal: of what has arrived, or of the exchange that is under way.
            refused: an exchange that will never run.
        """
        with contextlib.suppress(Exception):
            _logger.debug("refused a request from %s: %s", self._info.remote_host or "unix", refusal)
        engine = self._engine
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            # Its content was being streamed to the application, which learns of the refusal in this way.
            exchange.withdraw()
            self._disconnection.set()
            if exchange.response_begun:
                self._break_off(exchange)
                return
        method = None if self._head is None else self._head.method
        data = refusal_response(refusal, method, engine.server_field)
        self._outlet.write((data,))
        if engine.observer is not None:
            self._observe_refusal(refusal, exchange or refused, data)
        self._close_after_flush()

    def _break_off(self, exchange: Exchange) -> None:
        """End a response that the client may have in part, so that it cannot take the part for the whole."""
        if self._engine.observer is not None:
            self._observe_break(exchange, "truncated")
        self._end_delivery()
        self._outlet.reset()

    # Responses.

    def _exchange_ready(self, exchange: Exchange) -> None:
        """The worker has handed something over."""
        if exchange is not self._exchange:
            exchange.release()  # the connection went away meanwhile
            return
        try:
            delivery = self._delivery
            if delivery is None:
                if exchange.whole is not None and exchange.region is None:
                    whole, exchange.whole = exchange.whole, ()
                    self._outlet.write(whole)
                    self.finish_response(exchange)
                    return
                delivery = self._delivery = Delivery(self._engine, self, self._outlet, exchange)
            delivery.worker_ready()
        except Exception:  # MemoryError, for one: nothing else would end the connection, and a drain would wait for it
            self.abort()
            raise

    def lighten(self) -> None:
        """Let go of what a parked response does not need."""
        self._base_environ = None

    def await_application(self) -> None:
        """All that there is has been sent: wait for the application, or for the content that it reads."""
        self._outlet.end_watch()
        if self._content is not None:
            self._await_content(self._content)
        else:
            self._engine.deadlines.set(self, NEVER)

    def finish_response(self, exchange: Exchange) -> None:
        """All of a response has been written, or no more of it can be: go on to the next request, or close."""
        self._exchange = None
        self._head = None
        if self._engine.observer is not None:
            self._observe_end(exchange)
        if exchange.pipe is not None:
            exchange.leave_pipe()
        in_parts = self._delivery is not None
        if in_parts:
            self._end_delivery()
        if self._content is not None:
            # The application has answered without reading all of its content.
            self._release_content(ClientDisconnected("the response is complete"))
            exchange.persistent = False
        if exchange.parked is not None:
            exchange.release()  # HEAD, or it failed before
        if exchange.failed:
            if exchange.close_delimited:
                # An orderly end would look like the end of the content.
                self.phase = _LINGERING  # nothing is answered or written any more
                # Not at once, for the same reason as _close_soon().
                self._engine.loop.call_soon(self._outlet.reset)
            else:
                self._close_after_flush()
            return
        self._engine.completed_count += 1
        if not exchange.persistent:
            self._close_after(exchange.head, in_parts)
        else:
            self._start_next_request()

    def _observe_end(self, exchange: Exchange) -> None:
        """The transport has all of a response; for the client it ends once that is taken, or the connection breaks."""
        if exchange.failed:
            self._observe_break(exchange, "truncated")
        elif self._outlet.paused:
            self._untaken = exchange
        else:
            exchange.ended("complete")

    def _observe_refusal(self, refusal: Refusal, exchange: Exchange | None, data: bytes) -> None:
        if exchange is None:  # it was not even understood, or its content was still arriving
            head = self._head or UNKNOWN_HEAD
            exchange = self._make_exchange(head, self._content)
        exchange.refused(refusal, data)

    def _observe_loss(self, exchange: Exchange | None, error: Exception | None) -> None:
        """The connection is gone, and with it whatever was under way."""
        untaken, self._untaken = self._untaken, None
        if untaken is not None:
            untaken.ended("complete" if error is None else "disconnected")
        if exchange is None and self._content is not None and self._head is not None:
            # Its content was still arriving.
            exchange = self._make_exchange(self._head, self._content)
        if exchange is not None:
            self._observe_break(exchange, "disconnected")

    def _observe_break(self, exchange: Exchange, outcome: str) -> None:
        """A response ends before its time, and with it the file that may be on its way."""
        if exchange.region is not None:  # it has not even been begun
            unsent_size = exchange.region.size
        else:
            unsent_size = 0 if self._delivery is None else self._delivery.unsent_size
        exchange.ended(outcome, unsent_size)

    def _start_next_request(self) -> None:
        outlet = self._outlet
        if outlet.paused:
            # For a client that does not take its answers, no further ones are made.
            self.phase = _FLUSHING
            self.watch_writing()
            return
        self.phase = _IDLE
        if outlet.watched:
            outlet.end_watch()
        events = self._http.start_next_request()
        if self._read_paused:
            self._read_ahead()
        if events:
            self._process(events)
        elif self._peer_ended:
            self._end_of_requests()
        elif events is not None and self._http.request_begun:
            self._begin_head()
        elif self._engine.keeps_connections:
            self._set_deadline(self._engine.config.keep_alive)
        elif outlet.flushed:
            # A client that was told that its connection stays open may have sent its next request already. If it is
            # others that need its place, it is closed for them like any other.
            self._set_deadline(_LAST_IDLE_SECONDS if self._engine.draining else self._engine.config.keep_alive)
        else:
            self._close_after_flush()

    # Writing and closing.

    def watch_writing(self) -> None:
        """Wait for the client to take what was written."""
        self._outlet.begin_watch()
        self._set_deadline(self._engine.config.write_timeout)

    def end_watch(self) -> None:
        """The client has taken what it had to; it is not the one to act next."""
        self._outlet.end_watch()
        self._engine.deadlines.set(self, NEVER)

    def _close_after_flush(self) -> None:
        """Close once all is written, without a reset that would destroy it: RFC 9112 section 9.6."""
        self.phase = _LINGERING
        self._release_content()
        if self._peer_ended:
            self._close_soon()
        elif self._outlet.end():
            self._resume_reading()
        if self._outlet.flushed:
            self._linger()
        else:
            self._outlet.tell_when_flushed()
            self.watch_writing()

    def _close_after(self, head: RequestHead, in_parts: bool) -> None:
        """Close after a response that is the connection's last."""
        if not (self._nothing_follows(head) and self._outlet.flushed):
            self._close_after_flush()
            return
        self.phase = _LINGERING
        self._linger()
        if in_parts:
            self._close_soon()  # its last part may have been sent by resume_writing()
        else:
            # Now, before the loop reads the client's end.
            self._transport.close()

    def _nothing_follows(self, head: RequestHead) -> bool:
        """Return whether a request was its client's last, and arrived whole, so that nothing follows after the close.

        RFC 9112 section 9.6: a client that sends ``close`` sends no further requests. A request with content may be
        followed by an empty line: section 2.2. A client on TLS answers the end of our side with that of its own: RFC
        8446 section 6.1. Not waiting for the client's end saves 15 % of such a connection, three system calls and a
        turn of the loop.
        """
        if head.persistent or head.content_length != 0 or self._http.buffered_size:
            return False
        return self._info.scheme == "http" and head.method != "POST"

    def _close_soon(self) -> None:
        """Close where nothing more can arrive from the client.

        Not within this call: asyncio's transports report their end twice if resume_writing() closes them.
        """
        self._engine.loop.call_soon(self._transport.close)

    def _linger(self) -> None:
        self._set_deadline(_DRAIN_LINGER_SECONDS if self._engine.draining else _LINGER_SECONDS)

    def _discard(self, size: int) -> None:
        self._discarded_size += size
        if self._discarded_size > _LINGER_SIZE:
            self._transport.close()

    @property
    def postponed(self) -> bool:
        """Whether the beginning of a request has arrived, to be read in a later turn of the loop."""
        return bool(self._postponed)

    @property
    def idle(self) -> bool:
        """Whether the connection waits for a request, and its client has taken all answers."""
        return self.phase is _IDLE and not self._postponed and self._outlet.flushed

    @property
    def idle_since(self) -> float:
        """When an idle connection was opened, or its last response was complete; no later, and seldom earlier."""
        config = self._engine.config
        # Only its deadline says so. There is an environ from the application's first request on: what the server alone
        # has answered counts as new, and as longer idle if header_timeout is more than keep_alive.
        is_new = self._base_environ is None
        return self.deadline - (max(config.keep_alive, config.header_timeout) if is_new else config.keep_alive)

    def drain(self) -> None:
        """Close the connection if no request is under way, and soon if it only waits for its client's end."""
        self.read_postponed()  # if this begins a request, the connection is no longer idle
        if self.phase is _IDLE:
            self.phase = _LINGERING  # what is not flushed yet may take its time to go out, but nothing more is answered
            self._transport.close()
        elif self._delivery is not None:
            self._delivery.disperse()
        elif self.phase is _LINGERING and self._outlet.flushed:
            self._set_deadline(_DRAIN_LINGER_SECONDS)

    @property
    def exchange(self) -> Exchange | None:
        """The request that is being answered."""
        return self._exchange

    @property
    def parked(self) -> bool:
        """Whether the loop goes on with a response that its application has parked."""
        return self._delivery is not None and self._delivery.parked

    @property
    def unsent(self) -> bool:
        """Whether the last response is complete, and the kernel has not taken all of it."""
        return self._exchange is None and self.phase is not _CLOSED and not self._outlet.flushed

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 where there is none."""
        sock = self._transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    def client_gone(self) -> None:
        """See :class:`~aiowsgi.server.watch.Watched`."""
        self._cut_off("disconnected")
        self.abort()

    def abort(self) -> None:
        """Close the connection immediately, whatever it does, and so that a response cut short does not look whole."""
        self._cut_off("aborted")
        self._postponed = b""
        if (self._exchange is not None and self._exchange.response_begun) or not self._outlet.flushed:
            self._outlet.reset()
        else:
            self._transport.abort()

    def _cut_off(self, outcome: str) -> None:
        """Say why what is under way is about to be broken off."""
        exchange = self._exchange or self._untaken
        if exchange is not None and self._engine.observer is not None:
            exchange.cut_off(outcome)

    # Deadlines.

    def _set_deadline(self, timeout: float) -> None:
        engine = self._engine
        deadline = engine.loop.time() + timeout
        if deadline >= self.looked_at:
            self.deadline = deadline
        else:
            engine.deadlines.set(self, deadline)

    def deadline_passed(self, now: float) -> None:
        """See :class:`~aiowsgi.server.deadlines.DeadlineHolder`."""
        if self._postponed:
            self._engine.deadlines.set(self, now)  # the loop is late, not the client: look again when it has been read
            return
        phase = self.phase
        if phase is _HEAD:
            self.refuse(Refusal(408, "the request head took too long"))
        elif phase is _CONTENT:
            self.refuse(Refusal(408, "the request content took too long"))
        elif phase is _ANSWERING and self._exchange is not None and self._exchange.waiting:
            self._withdraw_busy(self._exchange)
        elif not self._outlet.flushed or (self._delivery is not None and self._delivery.sends_file):
            self._check_writing()
        elif phase is _ANSWERING and self._content is not None:
            self._await_or_refuse(self._content)
        elif phase is _IDLE:
            self._transport.close()
        elif phase is _LINGERING:
            self._transport.abort()

    def _await_or_refuse(self, stream: ContentBuffer | ContentStream) -> None:
        """The application reads streamed content: is it the client that has not sent it in time?"""
        if stream.awaited:
            self.refuse(Refusal(408, "the request content took too long"))
        else:
            stream.begin_anew(self._engine.loop.time())
            self._await_content(stream)

    def _withdraw_busy(self, exchange: Exchange) -> None:
        if exchange.withdraw():
            self._exchange = None
            self._refuse_busy(exchange)

    def _check_writing(self) -> None:
        """The client had ``write_timeout`` to take some of its response."""
        config = self._engine.config
        # If not watched, it is another deadline that passed, while an earlier response was on its way.
        if not self._outlet.watched or self._outlet.taken_size >= max(1, config.write_min_rate * config.write_timeout):
            self.watch_writing()
        else:
            self._cut_off("timed_out")
            self._outlet.reset()
            _logger.debug("%s does not take its response", self._info.remote_host or "unix")

    # Small things.

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()
            self._engine.watch.add(self)

    def _resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            if not self._peer_ended:
                self._engine.watch.discard(self)
            self._transport.resume_reading()

    def _read_ahead(self) -> None:
        """Read on, unless the bound on what has been read of later requests is still reached."""
        if self._http.buffered_size <= _READ_AHEAD_SIZE or self._http.state is not ReadState.COMPLETE:
            self._resume_reading()

    def _release_content(self, error: OSError | None = None) -> None:
        content, self._content = self._content, None
        if isinstance(content, ContentStream):
            content.abort(error or ClientDisconnected("the connection is closed"))
        elif content is not None:
            content.release()

    def _end_delivery(self) -> None:
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            delivery.close()
