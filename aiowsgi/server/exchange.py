"""One request and its response, on its way through loop and worker.

The loop makes an :class:`Exchange` once the content is complete (with ``stream_body``, once the head is) and submits it
as a job; the worker runs the application in it, with the exchange as the sink of the response. A response that is known
whole is left in one attribute, and the loop is told once. A streamed one goes through a
:class:`~aiowsgi.bridge.pipes.ResponsePipe`, made with its first block; so does a whole one that the transport is given
in portions.

Thread: as each method says. What passes from one side to the other, besides the pipe: ``_ticket`` (whoever pops it
owns the exchange: the worker by starting, the loop by withdrawing), ``disconnection``, and the attributes of the
outcome, which the worker writes before it notifies the loop and not again.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import sys
import time
from collections.abc import AsyncIterable, Callable, Sequence
from typing import TYPE_CHECKING, BinaryIO, cast

from aiowsgi.bridge.disconnection import Disconnection
from aiowsgi.bridge.pipes import ResponsePipe
from aiowsgi.errors import ApplicationError, ClientDisconnected
from aiowsgi.http.events import Refusal
from aiowsgi.http.response import (
    LAST_CHUNK,
    chunk_pieces,
    frame_response,
    refusal_response,
    serialize_head,
)
from aiowsgi.semantics import ConnectionInfo, RequestHead, ResponseHead, has_content
from aiowsgi.server.content import ContentBuffer, ContentStream
from aiowsgi.server.parked import check_content_coding, check_length_unknown, discard, without_length
from aiowsgi.wsgi.environ import build_environ
from aiowsgi.wsgi.file_wrapper import FileRegion
from aiowsgi.wsgi.run import run_application

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from aiowsgi.server.engine import Engine

__all__ = ["INTERNAL_ERROR", "Exchange"]

_logger = logging.getLogger("aiowsgi.error")

# A body up to this size is joined with its head: one send(). Above it the copy costs more than a second piece.
_JOIN_SIZE = 64 * 1024

# A file up to this size is read by its thread and goes out like any other body. Arbitrary.
_READ_SIZE = 256 * 1024

# Numbers for the ids of the requests that are asked for one.
_numbers = itertools.count(1)

#: What is answered where the application failed before its head left.
INTERNAL_ERROR = Refusal(500, "the application failed to answer")


class Exchange:
    """One request on its way through the application, and the sink of its response.

    Args:
        engine: shared by all connections of a server.
        head: the request.
        connection: the one that it came on.
        base_environ: what is the same in every environ of its connection; shared with others, and not changed.
        disconnection: the connection's.
        content: complete, or ``None`` if the request has none; the exchange releases it.
        on_ready: called by the loop when there is something to take.
    """

    # Slots, and all of them set: an attribute that the class also has a value for takes Python 3.11 30 ns instead of 2,
    # and a request reads or sets two dozen. With the slots of Response and ResponseHead, this saves 7 % of hello.
    __slots__ = (
        "_base_environ",
        "_chunked",
        "_connection",
        "_content",
        "_content_length",
        "_engine",
        "_finished",
        "_head_data",
        "_id",
        "_on_ready",
        "_parked_coding",
        "_ticket",
        "disconnection",
        "failed",
        "finishes",
        "head",
        "parked",
        "persistent",
        "pipe",
        "region",
        "started_at",
        "submitted_at",
        "whole",
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
        self._engine = engine
        self._connection = connection
        self._base_environ = base_environ
        self._content = content
        self._on_ready = on_ready
        self._ticket: list[None] = [None]
        self._id = ""
        self.head = head
        self.disconnection = disconnection
        #: When the engine took it, by the engine's clock.
        self.submitted_at = 0.0
        #: When a thread took it; 0.0 until then.
        self.started_at = 0.0
        # The head, serialised, until the first block takes it along; and how the content is delimited.
        self._head_data = b""
        self._chunked = False
        self._content_length: int | None = None
        self._finished = False
        #: The whole response, once the worker has handed it over; with ``region``, its head.
        self.whole: Sequence[bytes] | None = None
        #: The file that is the response's content.
        self.region: FileRegion | None = None
        #: The streamed response.
        self.pipe: ResponsePipe | None = None
        #: Continues the streamed response once the application is done.
        self.parked: AsyncIterable[bytes] | None = None
        # The Content-Encoding that it has.
        self._parked_coding = "identity"
        #: What is parked goes on to its end while the server drains.
        self.finishes = False
        #: The response broke off: the connection must end so that the client sees it.
        self.failed = False
        #: The connection may serve another request after the response.
        self.persistent = False

    def __repr__(self) -> str:
        return f"<Exchange {self.head.method} {self.head.target!r}>"

    def identify(self) -> str:
        """Return the request's id, the same whenever it is asked for. Any thread.

        Few ids are ever asked for, so they are made only then.
        """
        if not self._id:
            self._id = f"{os.getpid()}-{next(_numbers)}"
        return self._id

    def withdraw(self) -> bool:
        """Keep the exchange from ever running; return whether that was still possible. Event loop."""
        engine = self._engine
        engine.intake.withdrawn.append(None)  # before the ticket goes: a thread that finds none removes this
        try:
            self._ticket.pop()
        except IndexError:
            engine.intake.withdrawn.pop()
            return False
        engine.forget(self)
        self.release_content()
        return True

    def release_content(self) -> None:
        """Give the content back: the application will not read it. Event loop."""
        if self._content is not None:
            self._content.release()

    def release(self) -> None:
        """Close what was handed over and will not be sent. Event loop."""
        region, self.region = self.region, None
        if region is not None:
            region.close()
        parked, self.parked = self.parked, None
        if parked is not None:
            discard(self._engine, parked)

    @property
    def waiting(self) -> bool:
        """Whether no thread has taken the exchange yet. Any thread; may be a moment old."""
        return bool(self._ticket)

    def leave_pipe(self) -> None:
        """All that was in the pipe has been sent. Event loop.

        The pipe is a quarter of the memory of a parked response, which goes on without it.
        """
        pipe, self.pipe = self.pipe, None
        self.whole = ()
        if pipe is not None:
            self.disconnection.remove_callback(pipe.abort)

    def lighten(self) -> None:
        """Keep nothing that only the application needed: what is parked may last for hours. Event loop."""
        self._base_environ = {}
        if self._engine.observer is None:
            # The fields, cookies among them, which nobody will read: 0.4 KB, or 1 KB and more from a browser.
            self.head.variables = {}

    @property
    def response_begun(self) -> bool:
        """Whether a part of the response may have been sent."""
        return self.pipe is not None or self.whole is not None

    @property
    def close_delimited(self) -> bool:
        """Whether, once content has begun, only the end of the connection shows where it ends."""
        return not self._chunked and self._content_length is None

    @property
    def phase(self) -> str:
        """``"waiting"`` for a thread, ``"running"``, or ``"streaming"`` once a part may be out. Any thread."""
        # In this order, and each read once: a worker may take it from one phase to the next in between.
        return "streaming" if self.response_begun else "waiting" if self.waiting else "running"

    def wake(self) -> None:
        """The worker has handed something over. Event loop."""
        self._on_ready(self)

    # What ObservedExchange overrides; called only if there is an observer.

    def cut_off(self, outcome: str) -> None:
        """The server is about to break the response off, for this reason. Event loop."""

    def ended(self, outcome: str, unsent_size: int = 0) -> None:
        """The response has ended for the client: all of it was taken, or no more will be. Event loop.

        Args:
            outcome: how.
            unsent_size: bytes of a file that remain.
        """

    def refused(self, refusal: Refusal, data: bytes) -> None:
        """The server itself has answered, with ``data``. Event loop."""

    def observe(self, environ: WSGIEnvironment) -> None:
        """The application is about to be called. Worker thread."""

    # The worker's side.

    def run(self) -> None:
        """Run the application. Worker thread."""
        engine = self._engine
        if engine.wakeup.awaited_since:
            engine.wakeup.give_way()
        try:
            self._ticket.pop()
        except IndexError:
            engine.intake.withdrawn.pop()
            return
        self.started_at = engine.clock()
        engine.queue_waits.append(self.started_at - self.submitted_at)
        # The thread's processor time; seldom wanted, and it takes 0.5 µs to read.
        thread_time = time.thread_time() if engine.haste.judging else None
        try:
            # In the thread's own context, as under other servers: asgiref's Local keeps there what is a thread's, such
            # as Django's caches with their connections to Redis.
            self._run_application()
        finally:
            if thread_time is not None:
                engine.haste.judge(time.thread_time() - thread_time)
            engine.exchanges.discard(self)
            if engine.draining:
                engine.wakeup.notify(engine)

    def _run_application(self) -> None:
        engine = self._engine
        content = self._content
        file: BinaryIO | None = None
        content_size = None
        try:
            if content is None:
                file = io.BytesIO()
            else:
                file = content.open()
                if self.head.content_length is None:
                    content_size = content.total_size
            environ = build_environ(self._base_environ, self._connection, self.head, file, content_size)
            environ["aiowsgi.disconnected"] = self.disconnection
            environ["waitress.client_disconnected"] = self.disconnection.is_set
            if self._connection.forwarding is not None:
                try:
                    self._connection.forwarding(environ)
                except Refusal as refusal:
                    self._refuse(refusal)
                    return
            environ["aiowsgi.park"] = self.park
            if engine.observer is not None:
                self.observe(environ)
            run_application(engine.application, environ, self)
            if self.parked is not None and self.pipe is not None:
                self.pipe.finish()  # the thread's part of the response
        except BaseException as error:  # SystemExit and the like must not end the thread either
            self._fail(error)
        finally:
            if self.parked is not None and self.disconnection.is_set():
                self._notify()  # so that the loop releases it
            if content is not None:
                try:
                    if file is not None:
                        _close(file)
                finally:
                    engine.wakeup.notify(_Release(content))

    def _fail(self, error: BaseException) -> None:
        """Log the failure, and answer 500 if nothing has been handed over, else break the response off visibly."""
        complete = self.whole is not None or self._finished
        # A log handler that fails, or an error whose str() does, must not cost the client its answer.
        with contextlib.suppress(BaseException):
            if self.disconnection.is_set() and isinstance(error, OSError) and not complete:
                # The client is gone, and so the application's write or read has failed. Nothing is wrong.
                _logger.debug("client disconnected during %s %s", self.head.method, self.head.target)
            else:
                _logger.error(
                    "%s %s failed: %s: %s",
                    self.head.method,
                    self.head.target,
                    type(error).__name__,
                    error,
                    exc_info=(type(error), error, error.__traceback__),
                )
        if not complete and self.pipe is None:
            self._refuse(INTERNAL_ERROR)
            return
        if not complete:
            self.failed = True
            cast(ResponsePipe, self.pipe).finish()
        # Else only what came after the answer has failed; or to tell the loop of it, which nobody else would do again.
        self._notify()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer in the application's place."""
        self.whole = (refusal_response(refusal, self.head.method, self._engine.server_field),)
        self.persistent = False
        self._notify()

    def _notify(self) -> None:
        self._engine.wakeup.notify(self)

    def _serialize(self, head: ResponseHead, size: int | None) -> bytes:
        engine = self._engine
        persistent = self.head.persistent and engine.keeps_connections
        if self._content is not None and not self._content.complete:
            persistent = False  # content that is still to come would have to be read and thrown away
        content_length, chunked, persistent = frame_response(self.head, head, size, persistent)
        self._content_length = content_length
        self._chunked = chunked
        self.persistent = persistent
        return serialize_head(self.head, head, content_length, chunked, persistent, engine.server_field)

    def park(self, iterable: AsyncIterable[bytes], finish: bool = False, content_coding: str = "identity") -> None:
        """Go on with an asynchronous iterable after the application's own: ``environ["aiowsgi.park"]``."""
        if self.parked is not None:
            raise ApplicationError("a response can be parked only once", "aiowsgi.park()")
        if self not in self._engine.exchanges:
            raise ApplicationError("a response can be parked only while its application runs", "aiowsgi.park()")
        if self.whole is None and not self._finished:
            check_length_unknown(self._content_length)
            self.finishes = finish
            self._parked_coding = content_coding
            self.parked = iterable
        elif self.head.method == "HEAD":
            self.parked = iterable
            self._notify()  # so that the loop releases it: the answer is out
        else:
            raise ApplicationError("a response can be parked only before its end", "aiowsgi.park()")

    def frame_block(self, block: bytes) -> Sequence[bytes]:
        """Return a non-empty block as it goes out. Any thread, once the head has been serialised."""
        return chunk_pieces(block) if self._chunked else (block,)

    @property
    def end_pieces(self) -> Sequence[bytes]:
        """What ends the content. Any thread, once the head has been serialised."""
        return (LAST_CHUNK,) if self._chunked else ()

    # The sink of a response: aiowsgi.wsgi.response.ResponseSink. Worker thread.

    def send_whole(self, head: ResponseHead, blocks: Sequence[bytes], size: int) -> None:
        """See :meth:`ResponseSink.send_whole`."""
        if self.parked is not None and has_content(self.head.method, head.status_code):
            # A Content-Length counts only what is here: whoever added it, such as Django for a body that it has joined,
            # took this part for the whole.
            self.send_head(without_length(head))
            for block in filter(None, blocks):
                self.send_block(block)
            self.finish()
            return
        data = self._serialize(head, size)
        if not blocks:
            self.whole = (data,)
        elif size <= _JOIN_SIZE:
            self.whole = (b"".join((data, *blocks)),)
        else:
            # Without empty ones: asyncio's transports of CPython 3.12 and later keep them, and spin (gh-155888).
            whole = (data, *filter(None, blocks))
            # While content is still to come, the whole: only once that is written is the rest of the content discarded.
            if size > self._portion_size and (self._content is None or self._content.complete):
                self._open_pipe().finish(whole)
                self._finished = True  # not before: see finish()
                return
            self.whole = whole
        self._engine.wakeup.notify(self)

    def send_file(self, head: ResponseHead, region: FileRegion) -> None:
        """See :meth:`ResponseSink.send_file`."""
        if self.parked is not None:
            self.stream_file(head, region)
            return
        if region.size <= min(_READ_SIZE, self._engine.config.response_buffer):
            with contextlib.closing(region):
                content = b"".join(region.blocks())
            self.send_whole(head, (content,), len(content))
            return
        whole = (self._serialize(head, region.size),)
        self.region = region
        self.whole = whole
        self._notify()

    def stream_file(self, head: ResponseHead, region: FileRegion) -> None:
        """Send a file like any other iterable: parked content follows it, or the loop has no way to send it."""
        with contextlib.closing(region):
            self.send_head(head)
            for block in region.blocks():
                self.send_block(block)
        self.finish()

    def send_head(self, head: ResponseHead) -> None:
        """See :meth:`ResponseSink.send_head`."""
        if self.parked is not None:
            check_length_unknown(head.content_length)
            check_content_coding(head, self._parked_coding)
        self._head_data = self._serialize(head, None)
        self._open_pipe()

    def _open_pipe(self) -> ResponsePipe:
        engine = self._engine
        pipe = ResponsePipe(engine.config.response_buffer, engine.pool.stalled, self._notify, self._portion_size)
        self.disconnection.add_callback(pipe.abort)
        self.pipe = pipe
        return pipe

    @property
    def _portion_size(self) -> int:
        """How many bytes the transport is given at a time; that of TLS encrypts no more than the one beneath takes."""
        return sys.maxsize if self._connection.tls_variables else self._engine.portion_size

    def send_block(self, block: bytes) -> None:
        """See :meth:`ResponseSink.send_block`."""
        pipe = cast(ResponsePipe, self.pipe)
        pieces = self.frame_block(block)
        if self._head_data:
            pieces = (self._head_data, *pieces)
            self._head_data = b""
        pipe.write(pieces)

    def check_connected(self) -> None:
        """See :meth:`ResponseSink.check_connected`."""
        if self.disconnection.is_set():
            raise ClientDisconnected("the client disconnected before the end of its response")

    def finish(self) -> None:
        """See :meth:`ResponseSink.finish`."""
        pipe = cast(ResponsePipe, self.pipe)
        if self.parked is None:
            pipe.finish(self.end_pieces)
            self._finished = True  # not before: who fails on the way there must not pass for complete
        elif self._head_data:
            pipe.write((self._head_data,))
            self._head_data = b""


def _close(file: BinaryIO) -> None:
    """Close a request's content. An application that has kept a view of it keeps the memory until it drops that."""
    try:
        file.close()
    except BufferError:
        with contextlib.suppress(Exception):
            _logger.debug("the application has kept a view of its content")
    except (ValueError, OSError):
        pass  # it has detached the file, or its descriptor is gone: release() closes what is left


class _Release:
    """Tells the loop that the worker is done with a request's content."""

    __slots__ = ("_content",)

    def __init__(self, content: ContentBuffer | ContentStream) -> None:
        self._content = content

    def wake(self) -> None:
        """Event loop."""
        self._content.release()
