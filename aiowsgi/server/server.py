"""A server inside a running event loop: it listens, serves, drains.

A guest of its program: it installs no signal handlers, configures no logging, sets no loop policy, reads and writes no
environment variable, and uses threads of its own. Starting either listens or raises and leaves nothing behind. All it
changes in the process is the interpreter's switch interval, while it serves; ``switch_interval=0`` leaves that alone.

Thread: event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

import anyio
import anyio.abc

from aiowsgi.bridge.fork_sockets import keep_from_forks
from aiowsgi.bridge.pool import ThreadPool
from aiowsgi.config import Config
from aiowsgi.configuration.peers import Peers
from aiowsgi.errors import StartupError
from aiowsgi.http.parsers import make_head_parser
from aiowsgi.server.brokers import check_brokers, hold_links
from aiowsgi.server.control import ControlResponder
from aiowsgi.server.drain import Drain, DrainReport
from aiowsgi.server.engine import Engine
from aiowsgi.server.exposition import MetricsResponder
from aiowsgi.server.guard import RequestGuard
from aiowsgi.server.health import Health
from aiowsgi.server.listeners import Listener
from aiowsgi.server.listening_sockets import close_sockets, lets_others_in, open_sockets
from aiowsgi.server.observation import Observation
from aiowsgi.server.opening import Opening
from aiowsgi.server.outlet import portion_size
from aiowsgi.server.protocol import Protocol
from aiowsgi.server.reports import REPORTS, Answers, report
from aiowsgi.server.room import Room, descriptor_limit
from aiowsgi.server.stats import ServerStats, take_stats
from aiowsgi.server.tls_context import ContextHook, TLSContexts, tls_contexts
from aiowsgi.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from aiowsgi.server.metrics import Metrics
    from aiowsgi.server.responder import Responder

__all__ = ["CONTROL_MODE", "Server"]

# How long the last requests to a side server have when it is shut down. Arbitrary.
_SIDE_SECONDS = 1.0

#: The control socket is for its owner alone.
CONTROL_MODE = 0o600


class Server:
    """Serves one WSGI application.

    ::

        async with Server(application, bind=["127.0.0.1:0"]) as server:
            print(server.urls)

    Args:
        application: any WSGI application.
        config: every setting; or
        options: fields of :class:`~aiowsgi.config.Config`.
        pool: runs the application, instead of a pool of the server's own; shared with others, and theirs to close.
        ssl_context: a context with which all listeners speak TLS; or a hook that is called with the context which the
            options ``ssl_...`` describe, and returns the one to use: that may choose certificates by name
            (``sni_callback``).
        shared_sockets: listening sockets from which other processes accept too; used instead of the config's addresses.

    Raises:
        ConfigError: an option's value is not allowed.
    """

    def __init__(
        self,
        application: WSGIApplication,
        config: Config | None = None,
        *,
        pool: ThreadPool | None = None,
        ssl_context: ssl.SSLContext | ContextHook | None = None,
        shared_sockets: Sequence[socket.socket] | None = None,
        **options: Any,
    ) -> None:
        if config is not None and options:
            raise TypeError("give either a config or options, not both")
        if not callable(application):
            raise TypeError(f"application must be callable, not {type(application).__name__}")
        self.application = application
        self.config = Config(**options) if config is None else config
        self._shared_pool = pool
        self._ssl_context = ssl_context
        self._tls: TLSContexts | None = None
        self._proxies = None if self.config.proxy_protocol == "off" else Peers(self.config.proxy_allow_from)
        self._shared_sockets = shared_sockets
        self._engine: Engine | None = None
        self._pools: list[ThreadPool] = []  # those that end with the server
        self._listeners: list[Listener] = []
        self._room = cast(Room, None)  # until there is an engine
        self._observation: Observation | None = None
        self._responder: Responder | None = None
        #: Nothing else runs in this process; set before :meth:`start` by the process's owner.
        self.alone = False
        #: For the files of Unix sockets, where the process has its application's umask by now; set likewise.
        self.socket_umask: int | None = None
        #: Does what is asked for at the control socket, ``"reload"`` or ``"drain"``, and returns what to answer; set by
        #: the process's owner.
        self.on_order: Callable[[str], dict[str, Any]] | None = None
        self._side_servers: list[Server] = []  # those that answer questions about this one
        self._drain: tuple[Drain, asyncio.Future[DrainReport]] | None = None
        self._stopped = anyio.Event()
        self._guard: RequestGuard | None = None
        #: Called, once, with the reason why the process should be replaced by another.
        self.on_recycle: Callable[[str], object] | None = None

    def __repr__(self) -> str:
        return f"<Server {' '.join(self.urls) or 'not listening'}>"

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the server listens; ``unix:path`` for a Unix socket."""
        return tuple(listener.url for listener in self._listeners)

    @property
    def url(self) -> str:
        """The first of :attr:`urls`."""
        for url in self.urls:
            return url
        raise AttributeError("the server does not listen")

    @property
    def port(self) -> int:
        """The first TCP port that the server listens on."""
        for listener in self._listeners:
            if listener.port is not None:
                return int(listener.port)
        raise AttributeError("the server listens on no TCP port")

    @property
    def parser_name(self) -> str:
        """``"h11"`` or ``"httptools"``; known once the server has started."""
        return self.engine.parser.name

    @property
    def engine(self) -> Engine:
        """What the connections share; known once the server has started."""
        if self._engine is None:
            raise RuntimeError("the server has not been started")
        return self._engine

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            OSError: an address cannot be listened on; the message names it.
            StartupError: the parser is not installed, a certificate cannot be used, a channel's broker refuses its user
                and password, the server was started before, or it was shut down while it started.
        """
        if self._engine is not None:
            raise StartupError("a server can be started only once")
        config = self.config
        if self._shared_sockets is None:
            sockets = open_sockets(
                config.addresses,
                config.backlog,
                uds_mode=config.uds_mode,
                umask=self.socket_umask,
                reuse_port=config.reuse_port,
            )
        else:
            sockets = list(self._shared_sockets)
        try:
            engine = self._open_engine()
        except BaseException:
            close_sockets(sockets)
            raise
        try:
            if self._responder is None:
                await self._begin_with_brokers(engine)
            await self._begin_to_tell()
            self._check_not_shut_down()
        except BaseException:
            close_sockets(sockets)
            await self.shutdown(0)
            raise
        self._begin_listening(sockets, engine)

    def _check_not_shut_down(self) -> None:
        """To be called after each ``await`` while the server starts: nothing may be opened for a drained server."""
        if self._drain is not None:
            raise StartupError("the server was shut down while it started")

    def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept from more sockets that other processes share."""
        if self._drain is None:
            self._begin_listening(sockets, self.engine)
        else:
            close_sockets(sockets)

    def _begin_listening(self, sockets: Sequence[socket.socket], engine: Engine) -> None:
        scheme = "http" if self._tls is None else "https"
        for sock in sockets:
            # With a socket for each process, no other process would take what a busy one leaves.
            is_own = self._shared_sockets is None or (self.config.reuse_port and lets_others_in(sock))
            is_busy = None if is_own else self._is_busy
            listener = Listener(
                sock, engine.loop, self._arriving_protocol, self._room.is_left, self._room.make, scheme, is_busy
            )
            self._listeners.append(listener)
            listener.start()

    async def _begin_with_brokers(self, engine: Engine) -> None:
        """Check that the brokers of the application's channels are there."""
        await check_brokers()
        self._check_not_shut_down()
        if self.config.ready_broker:
            engine.broker_links = hold_links()

    async def _begin_to_tell(self) -> None:
        """Listen for those who watch; a worker's supervisor does that for it, and the worker only answers."""
        if self._shared_sockets is not None:
            return
        if self.config.metrics_bind is not None:
            await self.tell(MetricsResponder(self._ask), Config(bind=(self.config.metrics_bind,), threads=1))
        if self.config.control is not None:
            config = Config(bind=(self.config.control,), threads=1, uds_mode=CONTROL_MODE)
            await self.tell(ControlResponder(self._ask), config)

    async def tell(
        self, responder: Responder, config: Config, shared_sockets: Sequence[socket.socket] | None = None
    ) -> None:
        """Have a responder answer every request at an address, for as long as this server runs.

        Args:
            responder: gives the answers.
            config: says where, unless there are ``shared_sockets``.
            shared_sockets: as in :class:`Server`.

        Raises:
            OSError: the address cannot be listened on.
        """
        side = Server(_answers_by_itself, config, shared_sockets=shared_sockets)
        side._responder = responder
        side.socket_umask = self.socket_umask
        await side.start()
        self._side_servers.append(side)

    def _ask(self, what: str, answer: Callable[[Answers], object]) -> None:
        """Ask all processes, of which there is one."""
        if what in REPORTS:
            answer({"workers": {"0": report(self, what)}})
        elif self.on_order is not None:
            answer(self.on_order(what))
        else:
            answer({"error": "this server belongs to a program, which alone can do that"})

    @property
    def metrics(self) -> Metrics | None:
        """What has been counted, if ``metrics_bind`` is set; known once the server has started."""
        return None if self._observation is None else self._observation.metrics

    def _open_engine(self) -> Engine:
        config = self.config
        try:
            parser = make_head_parser(config.http)
        except ImportError as error:
            raise StartupError("http=httptools: the httptools package is not installed") from error
        self._tls = tls_contexts(config, self._ssl_context)
        pool = self._shared_pool
        if pool is None:
            pool = ThreadPool(config.threads, max_threads=config.thread_limit, idle_timeout=config.thread_idle_timeout)
            self._pools.append(pool)
        io_pool = ThreadPool(2, max_threads=2, idle_timeout=config.thread_idle_timeout, name="aiowsgi-io")
        self._pools.append(io_pool)
        self._engine = Engine(
            self.application,
            config,
            loop=asyncio.get_running_loop(),
            pool=pool,
            io_pool=io_pool,
            parser=parser,
            software=f"aiowsgi/{__version__}",
            multiprocess=self._shared_sockets is not None,
            alone=self.alone,
        )
        self._engine.portion_size = portion_size(self._engine.loop)
        keep_from_forks(self._engine)
        self._observation = Observation(self._engine)
        self._engine.responder = self._responder
        if config.health_path is not None or config.ready_path is not None:
            self._engine.responder = Health(self._engine)
        self._room = Room(self._engine, config.max_connections or 0, self._engine.clock, descriptor_limit())
        self._engine.on_change(self._connection_ended)
        if config.request_timeout or config.slow_request:
            self._guard = RequestGuard(self._engine, self.on_recycle)
            self._guard.start()
        return self._engine

    def reload_tls(self) -> bool:
        """Read the certificate, key and authorities again, and call the hook again, for new connections.

        This closes no connection. If a file cannot be used, all stays as it was, and the log says why.

        Returns:
            whether new connections see what the files say now; true where there is nothing to read.
        """
        return self._tls is None or self._tls.reload()

    def protocol_factory(self) -> Protocol | Opening:
        """Make the protocol of one connection; for a listener of the program's own.

        ::

            await loop.create_server(server.protocol_factory, sock=sock)

        The server need not be started for that; it has to be shut down like any other, after its listener.
        """
        engine = self._engine or self._open_engine()
        if self._tls is not None or self._proxies is not None:
            return Opening(engine, self._tls, self._proxies)
        return Protocol(engine)

    def _arriving_protocol(self) -> Protocol | Opening:
        protocol = self.protocol_factory()
        self.engine.arriving.add(protocol)
        return protocol

    def _is_busy(self) -> bool:
        """Return whether as many requests wait for a thread as there are threads, or any wait to be read."""
        engine = self.engine
        return engine.intake.behind or engine.intake.waiting_count >= self.config.threads

    def _connection_ended(self) -> None:
        engine = self.engine
        if self._room.is_left():
            engine.keeps_connections = self.config.keep_alive > 0
            for listener in self._listeners:
                listener.resume()

    async def shutdown(
        self, graceful: float | None = None, *, leave_backlog: bool = False, serve_on: bool = True
    ) -> DrainReport:
        """Stop accepting, let requests end, close all connections; before that, serve on for ``drain_delay``.

        There is a delay only if the caller is in no hurry, leaves requests some time, and no other process serves on.
        Idempotent: later calls wait for the first one. A call that says how long waits no longer than that: it may
        shorten what is left of the delay and of the requests' time together, even to 0, and never lengthens it.

        Args:
            graceful: seconds that requests may take to end; default ``graceful_timeout``, or what an earlier call said.
            leave_backlog: connections that wait to be accepted are left to the processes that share the sockets; there
                is no ``drain_delay``.
            serve_on: ``False`` for a caller in a hurry: there is no ``drain_delay``, and one under way ends.
        """
        if self._engine is None:
            self._stopped.set()
            return DrainReport(0, 0)
        if self._drain is None:
            seconds = self.config.graceful_timeout if graceful is None else graceful
            delay = self.config.drain_delay if serve_on and seconds and not leave_backlog else 0.0
            drain = Drain(self._engine, self._listeners, seconds, leave_backlog=leave_backlog, delay=delay)
            self._drain = drain, asyncio.ensure_future(self._end(drain, leave_backlog))
        else:
            drain = self._drain[0]
            if not serve_on:
                drain.end_delay()
            if graceful is not None:
                drain.shorten(graceful)
        return await asyncio.shield(self._drain[1])

    async def _end(self, drain: Drain, leave_backlog: bool) -> DrainReport:
        async with contextlib.AsyncExitStack() as stack:
            # From the last to the first, and each of them whatever becomes of the others.
            stack.callback(self._stopped.set)
            if self._observation is not None:
                stack.callback(self._observation.close)
            stack.push_async_callback(self._end_side_servers, drain, leave_backlog)
            stack.callback(self._release)
            return await drain.run()

    async def _end_side_servers(self, drain: Drain, leave_backlog: bool) -> None:
        # Whoever asks just now is still answered, unless there is no time left.
        seconds = _SIDE_SECONDS if drain.seconds else 0.0
        for side in self._side_servers:
            await side.shutdown(seconds, leave_backlog=leave_backlog)

    def _release(self) -> None:
        """Let go of what only requests need."""
        if self._guard is not None:
            self._guard.close()
        for pool in self._pools:
            pool.close()
        self.engine.close()

    def stats(self) -> ServerStats:
        """Take a snapshot of connections, requests, threads and waiting times."""
        return take_stats(self.engine)

    async def serve(self, *, task_status: anyio.abc.TaskStatus[Self] = anyio.TASK_STATUS_IGNORED) -> None:
        """Start, notify ``task_status``, and serve until :meth:`shutdown` is called or this task is cancelled."""
        await self.start()
        task_status.started(self)
        await self.serve_until_shutdown()

    async def serve_until_shutdown(self) -> None:
        """Wait until :meth:`shutdown` has ended the started server; if cancelled, shut down with no time left."""
        try:
            await self._stopped.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await self.shutdown(0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        with anyio.CancelScope(shield=cancelled):
            try:
                await self.shutdown(0 if cancelled else None)
            except asyncio.CancelledError:
                # Whoever cancels while requests end leaves them no more time.
                with anyio.CancelScope(shield=True):
                    await self.shutdown(0)
                raise


def _answers_by_itself(environ: WSGIEnvironment, start_response: StartResponse) -> NoReturn:
    """Stand in for the application where a responder answers everything."""
    raise AssertionError("a responder leaves nothing to an application")
