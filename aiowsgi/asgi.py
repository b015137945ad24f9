"""``ASGIAdapter``: a WSGI application inside an ASGI program.

The halves that make a server here, ``wsgi`` and ``bridge``, with ASGI's ``receive`` and ``send`` in the place of a
socket: the same code keeps PEP 3333 to the same letter.

A request's content is collected before the application starts, in memory, then in a temporary file that other threads
write: a slow upload holds no thread, and one that is cut short never reaches the application.

Thread: event loop (asyncio's), but for the worker's side of an exchange.

Source: PEP 3333; ASGI 3.0 with "HTTP & WebSocket" 2.5 and "Lifespan" 2.0.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import quote, unquote

import anyio.to_thread

from aiowsgi.bridge.disconnection import Disconnection
from aiowsgi.bridge.pipes import ResponsePipe
from aiowsgi.bridge.pool import ThreadPool
from aiowsgi.bridge.wakeup import Wakeup
from aiowsgi.config import Config
from aiowsgi.errors import ApplicationError, ClientDisconnected
from aiowsgi.http.events import Refusal
from aiowsgi.http.policy import name_fields
from aiowsgi.http.response import frame_response
from aiowsgi.semantics import ConnectionInfo, RequestHead, ResponseHead
from aiowsgi.version import __version__
from aiowsgi.wsgi.environ import base_environ, build_environ, connection_environ
from aiowsgi.wsgi.file_wrapper import FileRegion
from aiowsgi.wsgi.run import run_application

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["ASGIAdapter"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_logger = logging.getLogger("aiowsgi.error")


class ASGIAdapter:
    """Runs a WSGI application as an ASGI 3 application.

    ::

        app = FastAPI()
        app.mount("/shop", aiowsgi.ASGIAdapter(shop_wsgi, threads=8))

    An application that fails is answered 500 and logged once to ``aiowsgi.error``; one that fails after its head has
    left raises here, so that the server breaks the response off. A WebSocket is closed before it is accepted, which
    its client sees as 403. "lifespan" ends the threads with the program; where the adapter is mounted in another
    application it hears nothing of that, and :meth:`aclose` does. ``environ["asgi.scope"]`` is the scope.

    Args:
        application: any WSGI application.
        threads: most threads that run it at once.
        pool: runs it, instead of a pool of its own; shared with others, and theirs to close.
        options: of :class:`~aiowsgi.config.Config`, as far as they have a meaning here: ``max_threads``,
            ``thread_idle_timeout``, ``queue_size``, ``limit_request_body``, ``request_buffer``,
            ``request_buffer_total`` and ``response_buffer``.

    Raises:
        ConfigError: an option's value is not allowed.
    """

    def __init__(
        self, application: WSGIApplication, threads: int = 8, *, pool: ThreadPool | None = None, **options: Any
    ) -> None:
        if not callable(application):
            raise TypeError(f"application must be callable, not {type(application).__name__}")
        self.application = application
        self.config = Config(threads=threads, **options)
        self.multithread = pool is not None or self.config.thread_limit > 1
        self.held_size = 0  # bytes of content in memory, of all requests
        self._shared_pool = pool
        self._request_count = 0
        self._open()

    def _open(self) -> None:
        config = self.config
        self.pool = self._shared_pool or ThreadPool(
            config.threads, max_threads=config.thread_limit, idle_timeout=config.thread_idle_timeout
        )
        self._request_ended = asyncio.Event()
        self._closed = False

    async def aclose(self) -> None:
        """Take no more requests, wait for those that are being answered, and end the threads. Idempotent."""
        self._closed = True
        while self._request_count:
            self._request_ended.clear()
            await self._request_ended.wait()
        if self._shared_pool is None:
            self.pool.close()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one scope, as https://asgi.readthedocs.io/ describes it."""
        if scope["type"] == "http":
            self._request_count += 1
            try:
                await self._serve(_Exchange(self, scope), receive, send)
            finally:
                self._request_count -= 1
                self._request_ended.set()
        elif scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                if self._closed:  # a program that starts again, as tests do
                    self._open()
                await send({"type": "lifespan.startup.complete"})
            await self.aclose()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "a WSGI application has no WebSockets"})
        else:
            raise ValueError(f"scope type {scope['type']!r}: ASGIAdapter serves http and lifespan")

    async def _serve(self, exchange: _Exchange, receive: Receive, send: Send) -> None:
        try:
            if self._closed or self.pool.waiting_count >= self.config.queue_size:
                raise Refusal(503, "shutting down" if self._closed else "too many requests are waiting")
            if await exchange.collect(receive):
                await exchange.respond(receive, send)
        except Refusal as refusal:
            await exchange.refuse(refusal, send)
        finally:
            exchange.release()


class _Exchange:
    """One request: the loop's side of it, and the worker's: the job that a thread runs and the sink of its response.

    The worker writes ``_start``, ``_error`` and ``_ended`` before it notifies the loop, and not again.

    Args:
        adapter: its configuration, application and pool.
        scope: ASGI's.
    """

    def __init__(self, adapter: ASGIAdapter, scope: Message) -> None:
        self._adapter = adapter
        self._scope = scope
        self._head = _request_head(scope)
        self._context = contextvars.copy_context()
        self._content = tempfile.SpooledTemporaryFile(prefix="aiowsgi-")  # noqa: SIM115 - closed by run() or release()
        self._size = self._held_size = 0
        self._wakeup = Wakeup(asyncio.get_running_loop())
        self._changed = asyncio.Event()
        self._disconnection = Disconnection()
        self._pipe = ResponsePipe(adapter.config.response_buffer, adapter.pool.stalled, self._notify)
        self._disconnection.add_callback(self._pipe.abort)
        self._submitted = self._ended = False
        self._start: Message | None = None
        self._error: BaseException | None = None

    # The loop's side.

    async def collect(self, receive: Receive) -> bool:
        """Receive the content; tell whether the client was there until its end."""
        adapter, config, more = self._adapter, self._adapter.config, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            block, more = message.get("body", b""), message.get("more_body", False)
            in_memory = self._held_size == self._size and adapter.held_size < config.request_buffer_total
            self._size += len(block)
            if self._size > config.limit_request_body:
                raise Refusal(413, "the request content is too large")
            if in_memory and self._size <= config.request_buffer:
                self._content.write(block)
                self._hold(len(block))
            elif block:
                try:
                    await anyio.to_thread.run_sync(self._spill, block)
                except OSError as error:
                    _logger.error("cannot store request content: %s", error)
                    raise Refusal(500, "the request content could not be stored") from error
                self._hold(-self._held_size)
        declared = self._head.variables.get("CONTENT_LENGTH", "0")
        if not declared.isdecimal() or int(declared) > self._size:
            raise Refusal(400, "the request content is not as long as its Content-Length")
        return True

    def _spill(self, block: bytes) -> None:
        """Write to the temporary file. Another thread, so that the disk does not hold the loop."""
        self._content.rollover()
        self._content.write(block)

    def _hold(self, size: int) -> None:
        self._held_size += size
        self._adapter.held_size += size

    async def respond(self, receive: Receive, send: Send) -> None:
        """Have the application run, and send what it hands over."""
        self._adapter.pool.submit(self)
        self._submitted = True
        watch = asyncio.ensure_future(self._watch(receive))
        try:
            complete = await self._forward(send, watch)
        finally:
            watch.cancel()
        error, self._error = self._error, None
        if error is None or (self._disconnection.is_set() and isinstance(error, OSError)):
            return  # all is well, or the application has met the client's absence
        if self._start is not None and not complete:
            if isinstance(error, Exception):
                raise error  # the server logs it, and breaks the response off
            raise ApplicationError(f"the response broke off: {error!r}", 'PEP 3333 "Error Handling"') from error
        request = f"{self._head.method} {self._head.target}"
        _logger.error("%s failed: %s: %s", request, type(error).__name__, error, exc_info=error)
        if not complete:
            raise Refusal(500, "the application failed to answer")

    async def _forward(self, send: Send, watch: asyncio.Future[None]) -> bool:
        """Send until the worker has ended; tell whether the response is complete."""
        begun = complete = ended = False
        while not ended:
            await self._changed.wait()
            self._changed.clear()
            ended = self._ended
            if self._start is not None and not begun:
                begun = True
                await self._send(send, self._start)
            pieces, last = self._pipe.take()
            if pieces or (last and not complete):
                complete = last
                if complete:
                    watch.cancel()  # after a whole response servers say "disconnect" too
                await self._send(send, _body(b"".join(pieces), more=not complete))
        return complete

    async def _watch(self, receive: Receive) -> None:
        if (await receive())["type"] == "http.disconnect":
            self._disconnection.set()

    async def _send(self, send: Send, message: Message) -> None:
        if not self._disconnection.is_set():
            try:
                await send(message)
            except OSError:  # ASGI 2.4: the client is gone
                self._disconnection.set()

    async def refuse(self, refusal: Refusal, send: Send) -> None:
        """Answer with a small text page without internals."""
        content = f"{refusal.status_code} {HTTPStatus(refusal.status_code).phrase}: {refusal.detail}\n".encode()
        fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(content))]
        if refusal.status_code == 503:
            fields.append((b"retry-after", b"1"))
        await self._send(send, {"type": "http.response.start", "status": refusal.status_code, "headers": fields})
        await self._send(send, _body(b"" if self._head.method == "HEAD" else content, more=False))

    def release(self) -> None:
        """The request has been answered, or will not be."""
        self._disconnection.set()
        self._hold(-self._held_size)
        if not self._submitted:
            self._content.close()

    def wake(self) -> None:
        """The worker has handed something over."""
        self._changed.set()

    # The worker's side.

    def run(self) -> None:
        """Run the application, unless its client went away before a thread was free."""
        try:
            if not self._disconnection.is_set():
                self._context.run(self._run_application)
        except BaseException as error:  # SystemExit and the like must not end the thread either
            self._error = error
        finally:
            self._content.close()
            self._ended = True
            self._notify()

    def _run_application(self) -> None:
        scope = self._scope
        self._content.seek(0)
        base = base_environ(
            software=f"aiowsgi/{__version__}",
            root_path=(scope.get("root_path") or "").rstrip("/"),
            multithread=self._adapter.multithread,
            multiprocess=True,  # for all that is known
        )
        content = cast(BinaryIO, self._content)
        base = connection_environ(base, _connection_info(scope))
        environ = build_environ(base, self._head, content, self._size or None)
        version = scope["http_version"]
        environ["SERVER_PROTOCOL"] = f"HTTP/{version}" if "." in version else f"HTTP/{version}.0"
        environ["asgi.scope"] = scope
        environ["aiowsgi.disconnected"] = self._disconnection
        environ["waitress.client_disconnected"] = self._disconnection.is_set
        run_application(self._adapter.application, environ, self)

    def _notify(self) -> None:
        self._wakeup.notify(self)

    def _begin(self, head: ResponseHead, size: int | None) -> None:
        fields = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in head.fields]
        content_length = frame_response(self._head, head, size, True)[0]
        if content_length is not None:
            fields.append((b"content-length", b"%d" % content_length))
        self._start = {"type": "http.response.start", "status": head.status_code, "headers": fields}

    # The sink of a response: aiowsgi.wsgi.response.ResponseSink.

    def send_whole(self, head: ResponseHead, blocks: Sequence[bytes], size: int) -> None:
        """See :meth:`ResponseSink.send_whole`."""
        self._begin(head, size)
        self._pipe.finish(blocks)

    def send_file(self, head: ResponseHead, region: FileRegion) -> None:
        """See :meth:`ResponseSink.send_file`."""
        self._begin(head, region.size)
        with contextlib.closing(region.blocks()) as blocks:
            for block in blocks:
                self._pipe.write((block,))
        self._pipe.finish()

    def send_head(self, head: ResponseHead) -> None:
        """See :meth:`ResponseSink.send_head`."""
        self._begin(head, None)

    def send_block(self, block: bytes) -> None:
        """See :meth:`ResponseSink.send_block`."""
        self._pipe.write((block,))

    def check_connected(self) -> None:
        """See :meth:`ResponseSink.check_connected`."""
        if self._disconnection.is_set():
            raise ClientDisconnected("the client disconnected before the end of its response")

    def finish(self) -> None:
        """See :meth:`ResponseSink.finish`."""
        self._pipe.finish()


def _request_head(scope: Message) -> RequestHead:
    """Translate a scope's request line and fields."""
    path = (scope.get("raw_path") or b"").decode("latin-1")
    if unquote(path) != scope["path"]:  # not what was sent: something on the way has rewritten it
        path = quote(scope["path"])
    query = scope.get("query_string", b"").decode("latin-1")
    # As in the server: no field passes for another, and the content's size is known.
    variables = name_fields(scope["headers"])
    variables.pop("HTTP_TRANSFER_ENCODING", None)
    version = "1.0" if scope["http_version"] == "1.0" else "1.1"
    target = f"{path}?{query}" if query else path
    return RequestHead(scope["method"], target, path, query, version, variables, None, True, False)


def _connection_info(scope: Message) -> ConnectionInfo:
    remote_host, remote_port = scope.get("client") or ("", None)
    server_host, server_port = scope.get("server") or ("", None)
    values = (remote_host, remote_port, server_host, server_port)
    remote_host, remote_port, server_host, server_port = ("" if value is None else str(value) for value in values)
    return ConnectionInfo(scope.get("scheme", "http"), remote_host, remote_port, server_host, server_port)


def _body(content: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}
