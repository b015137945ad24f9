"""An exchange that notes what a log or a metric wants to know about it.

It replaces :class:`~aiowsgi.server.exchange.Exchange` if something observes; else nothing is noted, at no cost. Three
intervals follow one another: waiting for a thread, the thread's part, and the client's taking of the rest.

Thread: as each method says; the worker notes before it hands over, and the loop reads after that.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from aiowsgi.bridge.disconnection import Disconnection
from aiowsgi.configuration.peers import Peers
from aiowsgi.http.events import Refusal
from aiowsgi.http.response import refusal_response
from aiowsgi.semantics import ConnectionInfo, RequestHead, ResponseHead
from aiowsgi.server.exchange import INTERNAL_ERROR, Exchange
from aiowsgi.server.request_id import RequestIds

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from aiowsgi.server.content import ContentBuffer, ContentStream
    from aiowsgi.server.engine import Engine
    from aiowsgi.wsgi.file_wrapper import FileRegion

__all__ = ["UNKNOWN_HEAD", "ObservedExchange", "Observer", "Taker"]

#: The head of a request that was refused before it could be read.
UNKNOWN_HEAD = RequestHead("-", "-", "-", "-", "-", {}, 0, False, False)

#: Takes what ended. Event loop.
Taker = Callable[["ObservedExchange"], None]


class Observer:
    """What is notified of the end of each request.

    Args:
        takers: each is called with each exchange that has ended.
        ids: gives requests their ids; ``None`` if none are wanted.
        trusted: peers that are believed about when a request arrived.
        keeps_environ: a taker reads variables of environ.
        queue_start: the application is told when a request arrived.
        server_timing: the client is told how long it took.
    """

    __slots__ = ("ids", "keeps_environ", "queue_start", "server_timing", "takers", "trusted")

    def __init__(
        self,
        takers: Sequence[Taker],
        ids: RequestIds | None,
        *,
        trusted: Peers | None = None,
        keeps_environ: bool = False,
        queue_start: bool = False,
        server_timing: bool = False,
    ) -> None:
        self.takers = tuple(takers)
        self.ids = ids
        self.trusted = trusted or Peers(())
        self.keeps_environ = keeps_environ
        self.queue_start = queue_start
        self.server_timing = server_timing


def _content_size(data: bytes) -> int:
    return len(data) - data.index(b"\r\n\r\n") - 4


class ObservedExchange(Exchange):
    """An exchange with times and an outcome; :class:`~aiowsgi.server.exchange.Exchange` says what the arguments are."""

    __slots__ = (
        "_observer",
        "arrived_at",
        "client_address",
        "ended_at",
        "environ",
        "handed_over_at",
        "outcome",
        "refusal",
        "request_id",
        "response",
        "scheme",
        "sent_size",
        "status_code",
    )

    def __init__(
        self,
        engine: Engine,
        head: RequestHead,
        connection: ConnectionInfo,
        base_environ: WSGIEnvironment,
        disconnection: Disconnection,
        content: ContentBuffer | ContentStream | None,
        on_ready: Callable[[Exchange], None],
    ) -> None:
        Exchange.__init__(self, engine, head, connection, base_environ, disconnection, content, on_ready)
        self._observer = observer = cast(Observer, engine.observer)  # there is one: see the module
        #: The client's address, empty for a Unix socket, and scheme; once the application has been called, those that a
        #: trusted proxy gives.
        self.client_address = connection.remote_host
        self.scheme = connection.scheme
        #: When the head had arrived, by the engine's clock; 0.0 until it is submitted.
        self.arrived_at = 0.0 if content is None else content.arrived_at
        #: When the last of the response was out of the thread's hands; 0.0 until then.
        self.handed_over_at = 0.0
        #: When the response had ended for the client; 0.0 until then.
        self.ended_at = 0.0
        #: Of the answer; 0 where there was none.
        self.status_code = 0
        #: Bytes of content in the answer, as far as it was handed over; of a file, as far as it was sent.
        self.sent_size = 0
        #: What the application said; ``None`` where the server itself answers.
        self.response: ResponseHead | None = None
        #: Why the server itself answered.
        self.refusal: Refusal | None = None
        #: The application's environ, if a taker will read it.
        self.environ: WSGIEnvironment | None = None
        #: ``"complete"``; ``"error"``: the application failed, and 500 was answered in its place; ``"truncated"``: it
        #: failed later; ``"refused"``; ``"disconnected"``: the client went; ``"timed_out"``: it took too long;
        #: ``"aborted"``: the server ended. Empty until then.
        self.outcome = ""
        #: Empty if ids are not wanted.
        self.request_id = "" if observer.ids is None else observer.ids.of(head, connection)

    @property
    def received_size(self) -> int:
        """Bytes of content that the client has sent."""
        return 0 if self._content is None else self._content.size

    @property
    def queue_time(self) -> float:
        """Seconds that it waited for a thread. Once it has ended."""
        return (self.started_at or self.ended_at) - self.submitted_at if self.submitted_at else 0.0

    @property
    def thread_time(self) -> float:
        """Seconds from there until the thread had made all of the response. Once it has ended."""
        return (self.handed_over_at or self.ended_at) - self.started_at if self.started_at else 0.0

    @property
    def write_time(self) -> float:
        """Seconds from there until the transport had taken all of it. Once it has ended."""
        return self.ended_at - self.handed_over_at if self.handed_over_at else 0.0

    def identify(self) -> str:
        """See :meth:`Exchange.identify`."""
        return self.request_id or super().identify()

    # Event loop.

    def cut_off(self, outcome: str) -> None:
        """See :meth:`Exchange.cut_off`."""
        self.outcome = self.outcome or outcome

    def ended(self, outcome: str, unsent_size: int = 0) -> None:
        """See :meth:`Exchange.ended`."""
        if self.ended_at:
            return
        self.ended_at = self._engine.clock()
        self.arrived_at = self.arrived_at or self.submitted_at or self.ended_at
        if outcome == "complete" and self.response is None:
            outcome = "refused" if self.refusal is not None else "error"
        self.outcome = self.outcome or outcome
        if unsent_size:
            self.sent_size -= unsent_size
        for take in self._observer.takers:
            take(self)

    def refused(self, refusal: Refusal, data: bytes) -> None:
        """See :meth:`Exchange.refused`."""
        self.status_code = refusal.status_code
        self.sent_size = _content_size(data)
        self.refusal = refusal
        self.ended("refused")

    # The worker's side.

    def observe(self, environ: WSGIEnvironment) -> None:
        """See :meth:`Exchange.observe`."""
        observer = self._observer
        if self._connection.forwarding is not None:
            # A trusted proxy may have said who its client is.
            self.client_address = environ["REMOTE_ADDR"]
            self.scheme = environ["wsgi.url_scheme"]
        if observer.ids is not None:
            observer.ids.tell(self.request_id, environ)
        if observer.queue_start:
            self._tell_queue_start(environ, observer.trusted)
        if observer.keeps_environ:
            self.environ = environ

    def _tell_queue_start(self, environ: WSGIEnvironment, trusted: Peers) -> None:
        """Say when the request arrived, unless a trusted proxy has: it got the request earlier."""
        if "HTTP_X_QUEUE_START" not in environ or self._connection.field_host not in trusted:
            age = self._engine.clock() - (self.arrived_at or self.submitted_at)
            environ["HTTP_X_QUEUE_START"] = f"t={time.time() - age:.6f}"

    def _note(self, head: ResponseHead) -> ResponseHead:
        """Note a head; return it with how long the request has taken so far, if the client is to be told."""
        if self._observer.server_timing and self.response is None:  # else it goes on from one of the methods below
            app_time = self._engine.clock() - self.started_at
            line = f"Server-Timing: queue;dur={1000 * self.queue_time:.1f}, app;dur={1000 * app_time:.1f}\r\n"
            head = copy.copy(head)
            head.field_lines += line
        self.response = head
        self.status_code = head.status_code
        return head

    def send_whole(self, head: ResponseHead, blocks: Sequence[bytes], size: int) -> None:
        """See :meth:`ResponseSink.send_whole`."""
        head = self._note(head)
        self.sent_size = size if blocks else 0
        self.handed_over_at = self._engine.clock()
        Exchange.send_whole(self, head, blocks, size)

    def send_file(self, head: ResponseHead, region: FileRegion) -> None:
        """See :meth:`ResponseSink.send_file`."""
        head = self._note(head)
        self.sent_size = region.size
        self.handed_over_at = self._engine.clock()
        Exchange.send_file(self, head, region)

    def send_head(self, head: ResponseHead) -> None:
        """See :meth:`ResponseSink.send_head`."""
        head = self._note(head)
        self.sent_size = 0
        Exchange.send_head(self, head)

    def frame_block(self, block: bytes) -> Sequence[bytes]:
        """See :meth:`Exchange.frame_block`."""
        self.sent_size += len(block)
        return Exchange.frame_block(self, block)

    def finish(self) -> None:
        """See :meth:`ResponseSink.finish`."""
        self.handed_over_at = self._engine.clock()
        Exchange.finish(self)

    def _refuse(self, refusal: Refusal) -> None:
        if not self.ended_at:
            self.handed_over_at = self._engine.clock()
            self.response = None
            self.refusal = None if refusal is INTERNAL_ERROR else refusal
            self.status_code = refusal.status_code
            self.sent_size = _content_size(refusal_response(refusal, self.head.method, ""))
        Exchange._refuse(self, refusal)
