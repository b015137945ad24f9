"""One request whose response is ASGI messages: an exchange with ``receive`` and ``send`` for a connection.

The worker's side is that of our own server, except that the head is a message here instead of bytes. The loop's side is
one coroutine for each request, which takes what there is and waits until the ASGI server has sent it.

Thread: event loop, but for the worker's side, as its methods say.

Source: ASGI 3.0, "HTTP & WebSocket" 2.5.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from aiowsgi.bridge.disconnection import Disconnection
from aiowsgi.errors import ApplicationError
from aiowsgi.http.events import Refusal
from aiowsgi.http.response import frame_response
from aiowsgi.semantics import ConnectionInfo, RequestHead, ResponseHead
from aiowsgi.server.content import ContentBuffer, not_stored
from aiowsgi.server.exchange import Exchange
from aiowsgi.server.parked import ParkedResponse
from aiowsgi.wsgi.file_wrapper import FileRegion

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from aiowsgi.server.engine import Engine

__all__ = ["Message", "MessageExchange", "Receive", "Send", "body_message"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_logger = logging.getLogger("aiowsgi.error")


class MessageExchange(Exchange):
    """One request, and its response as messages.

    Args:
        engine: the adapter's.
        head: the request.
        connection: the one that it came on.
        base_environ: what environ has besides the request.
    """

    #: The message that begins the response; the worker sets it before it notifies the loop.
    start: Message | None = None
    #: Why the response broke off.
    error: BaseException | None = None
    #: Nothing more will be sent.
    over = False
    _complete = False
    _submitted = False
    _expired = False
    _parked_response: ParkedResponse | None = None

    def __init__(
        self, engine: Engine, head: RequestHead, connection: ConnectionInfo, base_environ: WSGIEnvironment
    ) -> None:
        super().__init__(engine, head, connection, base_environ, Disconnection(), None, _wake_itself)
        self._caller_context = contextvars.copy_context()
        self._changed = asyncio.Event()
        self._blocks: list[bytes] = []  # of what is parked

    # The loop's side.

    async def collect(self, receive: Receive) -> bool:
        """Receive the content; return whether the client stayed until its end."""
        self._content = content = ContentBuffer(self._engine, self._changed.set)
        while not content.complete:
            if content.full:
                self._changed.clear()
                await self._changed.wait()
            else:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                block = message.get("body", b"")
                if content.size + len(block) > self._engine.config.limit_request_body:
                    raise Refusal(413, "the request content is too large")
                if block:
                    content.append(block)
                if not message.get("more_body", False):
                    content.end()
            if content.error is not None:
                raise not_stored(content.error)
        declared = self.head.variables.get("CONTENT_LENGTH", "0")
        if not declared.isdecimal() or int(declared) > content.size:
            raise Refusal(400, "the request content is not as long as its Content-Length")
        if not content.size:
            self._content = None
        return True

    async def respond(self, receive: Receive, send: Send) -> None:
        """Have the application run, and send what it hands over."""
        if not self._engine.intake.submit(self):
            raise Refusal(503, "too many requests are waiting")
        self._submitted = True
        watch = asyncio.ensure_future(self._watch(receive))
        timer = self._engine.loop.call_later(self._engine.config.queue_timeout, self._expire)
        try:
            await self._forward(send, watch)
        finally:
            timer.cancel()
            watch.cancel()
        if self._expired:
            raise Refusal(503, "no thread became free in time")
        error, self.error = self.error, None
        if isinstance(error, Exception):
            raise error  # the server logs it, and breaks the response off
        if error is not None:
            raise ApplicationError(f"the response broke off: {error!r}", 'PEP 3333 "Error Handling"') from error

    async def _forward(self, send: Send, watch: asyncio.Future[None]) -> None:
        begun = False
        while not self.over:
            await self._changed.wait()
            self._changed.clear()
            if self.start is not None and not begun:
                begun = True
                await self._send(send, self.start)
            pieces = self._take()
            if self._complete and not begun:
                raise Refusal(500, "the application failed to answer")
            if self._complete:
                watch.cancel()  # after a whole response servers say "disconnect" too
            if pieces or self._complete:
                await self._send(send, body_message(b"".join(pieces), more=not self._complete))
            if self._parked_response is not None:
                self._parked_response.resume()
        while self in self._engine.exchanges:  # until the application has closed as well
            await self._changed.wait()
            self._changed.clear()

    def _expire(self) -> None:
        """Give the request up, unless a thread has taken it in time."""
        if self.withdraw():
            self.over = self._expired = True
            self._changed.set()

    def _take(self) -> Sequence[bytes | memoryview]:
        """Take what there is of the content, and note whether that is the end of it."""
        pieces: Sequence[bytes | memoryview] = ()
        if self._parked_response is not None:
            pieces, self._blocks = self._blocks, []
            self._complete = self.over and not self.failed
        elif self.whole is not None:
            pieces = self.whole
            self._complete = self.over = True
        elif self.pipe is not None:
            pieces, ended = self.pipe.take()
            if ended and self.parked is not None and not self.failed:
                if self.disconnection.is_set():
                    self.over = True  # nobody would cancel it any more: end() releases it
                else:
                    self._go_on(self.parked)
            elif ended:
                self.over = True
                self._complete = not self.failed
        return pieces

    def _go_on(self, iterable: AsyncIterable[bytes]) -> None:
        """The application's part is over; the loop goes on with the rest of its response."""
        self.parked = None
        self.leave_pipe()

        def take(block: bytes) -> None:
            self._blocks.append(block)
            parked.pause()  # until it has been sent
            self._changed.set()

        def end(error: BaseException | None) -> None:
            self.over = True
            self.failed = error is not None
            self.error = error
            self._changed.set()

        parked = self._parked_response = ParkedResponse(self._engine, iterable, take, end)
        if self._engine.draining:
            self.drain()

    def drain(self) -> None:
        """The program ends: end what is parked, when its turn comes."""
        if self._parked_response is not None and not self.finishes:
            self._engine.dispersal.add(self._parked_response)

    async def _watch(self, receive: Receive) -> None:
        if (await receive())["type"] == "http.disconnect":
            self._abandon()

    async def _send(self, send: Send, message: Message) -> None:
        if not self.disconnection.is_set():
            try:
                await send(message)
            except OSError:  # ASGI 2.4: the client is gone
                self._abandon()

    def _abandon(self) -> None:
        """Nobody will take any more of the response; a request that runs is over when its application has ended."""
        self.disconnection.set()
        if not self._submitted:
            self.release_content()
        elif self.withdraw() or self._parked_response is not None:
            self.over = True
        if self._parked_response is not None:
            self._parked_response.cancel()
        self._changed.set()

    def end(self) -> None:
        """The request has been answered, or will not be.

        Its disconnection belongs to it alone, and is set when it ends, as a connection's is when the connection ends. A
        thread that still waits for it then, or calls ``write``, is the application's own, and would wait for ever.
        """
        self.over = True
        if not self._complete:
            self._abandon()
        self.release()
        self.disconnection.set()

    def wake(self) -> None:
        """The worker has handed something over, or has ended."""
        self._changed.set()
        if self.over:
            self.release()

    # The worker's side.

    def run(self) -> None:
        """Run the application, unless its client went away before a thread was free."""
        super().run()
        self._notify()

    def _run_application(self) -> None:
        self._caller_context.run(super()._run_application)

    def _serialize(self, head: ResponseHead, size: int | None) -> bytes:
        """Make the message that begins the response; no bytes of the head go with the content."""
        self._content_length, _, _ = frame_response(self.head, head, size, True)
        fields = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in head.fields]
        if self._content_length is not None:
            fields.append((b"content-length", b"%d" % self._content_length))
        self.start = {"type": "http.response.start", "status": head.status_code, "headers": fields}
        return b""

    def _fail(self, error: BaseException) -> None:
        if self.pipe is None or self._finished or self.disconnection.is_set():
            super()._fail(error)
        else:
            self.error = error
            self.failed = True
            self.pipe.finish()

    def send_file(self, head: ResponseHead, region: FileRegion) -> None:
        """See :meth:`ResponseSink.send_file`."""
        if self.parked is None:
            head = ResponseHead(head.status, head.status_code, head.field_lines, region.size)
        self.stream_file(head, region)


def _wake_itself(exchange: Exchange) -> None:
    """Do nothing: nothing else has to be notified."""


def body_message(content: bytes, *, more: bool) -> Message:
    """Return a part of the content as ASGI has it."""
    return {"type": "http.response.body", "body": content, "more_body": more}
