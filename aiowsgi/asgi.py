"""``ASGIAdapter``: a WSGI application inside an ASGI program.

It uses the server's own engine, exchange and collected content, with ASGI's ``receive`` and ``send`` in place of a
connection (:mod:`aiowsgi.server.messages`): the same code conforms to PEP 3333 as strictly. A third of this module maps
a scope to environ, a third is the life of the engine: it starts with the first request, in whichever loop that arrives,
and ends with the program's lifespan or :meth:`ASGIAdapter.aclose`.

A request's content is collected before the application starts, in memory, then in a temporary file: a slow upload holds
no thread, and one that is cut short never reaches the application.

Thread: event loop (asyncio's).

Source: PEP 3333; ASGI 3.0 with "HTTP & WebSocket" 2.5 and "Lifespan" 2.0.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from aiowsgi.bridge.pool import ThreadPool
from aiowsgi.config import Config
from aiowsgi.http.events import Refusal
from aiowsgi.http.parsers import make_head_parser
from aiowsgi.http.policy import name_fields
from aiowsgi.http.response import refusal_page
from aiowsgi.semantics import ConnectionInfo, RequestHead
from aiowsgi.server.content import MemoryBudget
from aiowsgi.server.engine import Engine
from aiowsgi.server.messages import Message, MessageExchange, Receive, Send, body_message
from aiowsgi.version import __version__
from aiowsgi.wsgi.environ import endpoint_environ

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import WSGIApplication, WSGIEnvironment

__all__ = ["ASGIAdapter"]

# As in a server's drain.
_CLOSING_SECONDS = 1.0


class ASGIAdapter:
    """Runs a WSGI application as an ASGI 3 application.

    ::

        app = FastAPI()
        app.mount("/shop", aiowsgi.ASGIAdapter(shop_wsgi, threads=8))

    If the application fails, the answer is 500, and the failure is logged once to ``aiowsgi.error``; if it fails after
    its head has been sent, the error is raised here, so that the ASGI server breaks off the response. What it parks
    (:func:`aiowsgi.park`) goes on in the program's loop, without a thread. A WebSocket is closed before it is accepted,
    which its client sees as 403. "lifespan" ends the threads with the program; an adapter that is mounted in another
    application is not told of that: call :meth:`aclose` instead. ``environ["asgi.scope"]`` is the scope.
    ``environ["aiowsgi.disconnected"]`` is the request's own: it is also set, and its callbacks called, when the request
    is over.

    Args:
        application: any WSGI application.
        threads: how many threads may run it at once.
        pool: runs it, instead of a pool of the adapter's own; it may be shared, and the adapter does not close it.
        options: of :class:`~aiowsgi.config.Config`, as far as they have a meaning here: ``max_threads``,
            ``thread_idle_timeout``, ``queue_size``, ``queue_timeout``, ``limit_request_body``, ``request_buffer``,
            ``request_buffer_total``, ``response_buffer``, ``switch_interval``, ``concurrency``, and, for what is
            parked when the program ends, ``graceful_timeout`` and ``drain_rate``.

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
        self._shared_pool = pool
        self._content_budget = MemoryBudget(self.config.request_buffer_total)
        self._open()

    def _open(self) -> None:
        timeout = self.config.thread_idle_timeout
        self.pool = self._shared_pool or ThreadPool(
            self.config.threads, max_threads=self.config.thread_limit, idle_timeout=timeout
        )
        self._io_pool = ThreadPool(2, max_threads=2, idle_timeout=timeout, name="aiowsgi-io")
        self._engine: Engine | None = None
        self._exchanges: set[MessageExchange] = set()
        self._changed = asyncio.Event()
        self._closed = False

    def _engine_of(self, loop: asyncio.AbstractEventLoop) -> Engine:
        """Return the engine; a new one for a new loop, in a program that runs one loop after another."""
        engine = self._engine
        if engine is None or engine.loop is not loop:
            if engine is not None:
                engine.close()
            engine = self._engine = Engine(
                self.application,
                self.config,
                loop=loop,
                pool=self.pool,
                io_pool=self._io_pool,
                parser=make_head_parser("auto"),
                software=f"aiowsgi/{__version__}",
                multiprocess=True,  # for all that is known
            )
            engine.content_budget = self._content_budget
        return engine

    @property
    def held_size(self) -> int:
        """Bytes of content in memory, of all requests."""
        return self._content_budget.used

    async def aclose(self) -> None:
        """Take no more requests, wait for those that are being answered, and end the threads. Idempotent.

        Parked responses end one after another, as when a server drains; the closing of what was parked is cancelled
        when ``graceful_timeout`` is over.
        """
        self._closed = True
        engine = self._engine
        if engine is not None and engine.loop is asyncio.get_running_loop():
            engine.draining = True
            engine.dispersal.begin(self.config.graceful_timeout)
            engine.on_change(self._changed.set)
            for exchange in self._exchanges:
                exchange.drain()
            end = engine.loop.time() + self.config.graceful_timeout
            await self._wait_until(lambda: not (self._exchanges or engine.exchanges))
            # What was parked has the rest of that time to close, and a moment more.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(max(end, engine.loop.time()) + _CLOSING_SECONDS):
                    await self._wait_until(lambda: not engine.closing_tasks)
            for task in engine.closing_tasks:
                task.cancel()
        if engine is not None:
            engine.close()
            self._engine = None
        for pool in {self.pool, self._io_pool} - {self._shared_pool}:
            pool.close()

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one scope, as https://asgi.readthedocs.io/ describes it."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
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

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            if self._closed:
                raise Refusal(503, "shutting down")
            engine = self._engine_of(asyncio.get_running_loop())
            connection = _connection_info(scope)
            base_environ = _base_environ(engine.base_environ, connection, scope)
            exchange = MessageExchange(engine, _request_head(scope), connection, base_environ)
            self._exchanges.add(exchange)
            try:
                if await exchange.collect(receive):
                    await exchange.respond(receive, send)
            finally:
                exchange.end()
                self._exchanges.discard(exchange)
                self._changed.set()
        except Refusal as refusal:
            await _refuse(scope["method"], refusal, send)


async def _refuse(method: str, refusal: Refusal, send: Send) -> None:
    """Answer in the application's place."""
    content = refusal_page(refusal)
    fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(content))]
    if refusal.status_code == 503:
        fields.append((b"retry-after", b"1"))
    with contextlib.suppress(OSError):  # ASGI 2.4: the client is gone
        await send({"type": "http.response.start", "status": refusal.status_code, "headers": fields})
        await send(body_message(b"" if method == "HEAD" else content, more=False))


def _request_head(scope: Message) -> RequestHead:
    """Translate a scope's request line and fields."""
    path = (scope.get("raw_path") or b"").decode("latin-1")
    if unquote(path) != scope["path"]:  # not what was sent: something on the way has rewritten it
        path = quote(scope["path"])
    query = scope.get("query_string", b"").decode("latin-1")
    # As in the server: no field can pose as another, and the content's size is known.
    variables = name_fields(scope["headers"])
    variables.pop("HTTP_TRANSFER_ENCODING", None)
    version = scope["http_version"]
    variables["SERVER_PROTOCOL"] = f"HTTP/{version}" if "." in version else f"HTTP/{version}.0"
    target = f"{path}?{query}" if query else path
    # To the application HTTP/2 looks like 1.1.
    version = "1.0" if version == "1.0" else "1.1"
    return RequestHead(scope["method"], target, path, query, version, variables, None, True, False)


def _connection_info(scope: Message) -> ConnectionInfo:
    values = *(scope.get("client") or ("", None)), *(scope.get("server") or ("", None))
    remote_host, remote_port, server_host, server_port = ("" if value is None else str(value) for value in values)
    return ConnectionInfo(scope.get("scheme", "http"), remote_host, remote_port, server_host, server_port)


def _base_environ(base: WSGIEnvironment, connection: ConnectionInfo, scope: Message) -> WSGIEnvironment:
    """Translate what a scope says of its connection and of where the application is mounted."""
    environ = endpoint_environ(base, connection)
    root_path = (scope.get("root_path") or "").rstrip("/")
    environ["SCRIPT_NAME"] = root_path.encode("utf-8", "surrogateescape").decode("latin-1")
    environ["asgi.scope"] = scope
    return environ
