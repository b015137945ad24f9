"""A server from synchronous code: in a thread of its own, or through the interfaces of waitress and wsgiref.

Thread: any; the server's loop runs in the thread that each function names.

Source: https://docs.pylonsproject.org/projects/waitress/ "serve"; :mod:`wsgiref.simple_server`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.from_thread

from aiowsgi.config import OPTIONS, Config
from aiowsgi.configuration.foreign import advice_for
from aiowsgi.errors import ConfigError, StartupError
from aiowsgi.process.loops import choose_loop
from aiowsgi.process.run import run
from aiowsgi.server.drain import DrainReport
from aiowsgi.server.listening_sockets import open_sockets
from aiowsgi.server.server import Server

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["SimpleServer", "make_server", "options_from_waitress", "run_in_thread", "serve"]


@contextlib.contextmanager
def run_in_thread(application: WSGIApplication, **options: Any) -> Iterator[Server]:
    """Serve an application from a thread of its own for the duration of a ``with`` block.

    ::

        with aiowsgi.run_in_thread(application) as server:
            httpx.get(server.url)

    Args:
        application: any WSGI application.
        options: fields of :class:`~aiowsgi.config.Config`; without an address, ``bind`` is a free port of 127.0.0.1.

    Yields:
        The server, listening. Its coroutines belong to the other thread's loop; ``url``, ``urls`` and ``port`` do not.

    Raises:
        OSError, ConfigError, StartupError: as :meth:`Server.start`.
    """
    if not options.keys() & {"bind", "host", "port", "uds"}:
        options["bind"] = ("127.0.0.1:0",)
    config = Config(**options)
    _, loop_factory = choose_loop(config.loop)
    with anyio.from_thread.start_blocking_portal(backend_options={"loop_factory": loop_factory}) as portal:
        server = Server(application, config)
        portal.call(server.start)
        try:
            yield server
        finally:
            portal.call(server.shutdown)


_WAITRESS_PORT = 8080


def serve(application: WSGIApplication, **options: Any) -> None:
    """Serve an application until SIGTERM or SIGINT: :func:`aiowsgi.run` with waitress's interface.

    Args:
        application: any WSGI application.
        options: ``host``, ``port`` (waitress's default, 8080), ``listen`` ("host:port" separated by spaces),
            ``threads``, ``unix_socket``, ``connection_limit``, ``max_request_body_size``, ``max_request_header_size``,
            ``inbuf_overflow``, ``outbuf_high_watermark``, ``url_prefix``; and all of :class:`~aiowsgi.config.Config`'s.
            As in waitress, numbers may be text.

    Raises:
        TypeError: an argument of waitress's has no counterpart here; the message says what to do.
        Exception: as :func:`aiowsgi.run`.
    """
    run(application, **options_from_waitress(options))


def options_from_waitress(options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate waitress's arguments into this package's options."""
    aliases = {alias: item.name for item in OPTIONS for alias in (item.name, *item.aliases) if alias != "listen"}
    strange = sorted(options.keys() - aliases.keys())
    advice = [f"{name}: {advice_for(name)}" for name in strange if advice_for(name)]
    if advice:
        raise TypeError(f"serve() does not take all that waitress does: {'; '.join(advice)}")
    translated = {aliases.get(name, name): value for name, value in options.items()}
    listen = translated.pop("listen", None)
    if listen is not None:
        addresses = listen.split() if isinstance(listen, str) else listen
        translated["bind"] = tuple(map(_listen_address, addresses))
    elif not translated.keys() & {"bind", "uds"}:
        translated = {"host": "", "port": _WAITRESS_PORT, **translated}  # every address
    problems = []
    for item in OPTIONS:
        value = translated.get(item.name)
        if isinstance(value, str):
            try:
                translated[item.name] = item.parse(value)
            except ValueError as error:
                problems.append(f"{item.name}={value}: {error}")
    if problems:
        raise ConfigError(problems)
    return translated


def _listen_address(text: str) -> str:
    address = text.replace("*", "")
    _, colon, port = address.rpartition(":")
    return address if colon and "]" not in port else f"{address}:{_WAITRESS_PORT}"


class SimpleServer:
    """What :func:`make_server` returns: as much of wsgiref's server as starting and stopping one needs.

    The socket listens from the beginning, so that ``server_port`` is known and connections may come.

    Args:
        host: empty for every address.
        port: 0 for a free one.
        application: any WSGI application.
        options: fields of :class:`~aiowsgi.config.Config`.
    """

    def __init__(self, host: str, port: int, application: WSGIApplication, **options: Any) -> None:
        self._application = application
        self._options = options
        config = Config(host=host, port=port, **options)
        self._sockets = open_sockets(config.addresses, config.backlog, reuse_port=config.reuse_port)
        self._loop_name = config.loop
        self._portal: anyio.from_thread.BlockingPortal | None = None
        self._server: Server | None = None
        # Set by a thread that then looks for the portal; the loop sets the portal and then looks here.
        self._shutdown_requested = False
        self._ending: asyncio.Future[DrainReport] | None = None
        self.server_address: tuple[str, int] = self._sockets[0].getsockname()[:2]
        self.server_name, self.server_port = self.server_address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.server_close()

    def serve_forever(self) -> None:
        """Serve in the calling thread until :meth:`shutdown` is called from another, or KeyboardInterrupt.

        It may be called again. KeyboardInterrupt leaves running requests no time to end.

        Raises:
            StartupError: the loop or the parser is not installed, or the server has been closed.
        """
        _, loop_factory = choose_loop(self._loop_name)
        anyio.run(self._serve, backend_options={"loop_factory": loop_factory})

    async def _serve(self) -> None:
        numbers = [sock.fileno() for sock in self._sockets]
        if -1 in numbers:
            raise StartupError("the server has been closed")
        bind = tuple(f"fd://{number}" for number in numbers)
        server = Server(self._application, bind=bind, **self._options)
        await server.start()  # before the portal, which would wrap what is raised
        async with anyio.from_thread.BlockingPortal() as portal:
            self._server = server
            self._portal = portal
            try:
                if self._shutdown_requested:
                    await server.shutdown()
                await server.serve_until_shutdown()
            finally:
                self._portal = self._server = self._ending = None
                self._shutdown_requested = False

    def shutdown(self) -> None:
        """Let requests finish and :meth:`serve_forever` return, or return as soon as it is called.

        From another thread, this returns once it has; in a signal handler of the serving thread, it cannot wait.
        """
        self._shutdown_requested = True
        portal, server = self._portal, self._server
        if portal is None or server is None:
            return
        if server.engine.loop is _running_loop():
            server.engine.loop.call_soon_threadsafe(self._begin_shutdown, server)
            return
        with contextlib.suppress(RuntimeError):  # it has ended in the meantime
            portal.call(server.shutdown)

    def _begin_shutdown(self, server: Server) -> None:
        self._ending = asyncio.ensure_future(server.shutdown())

    def server_close(self) -> None:
        """Stop listening."""
        for sock in self._sockets:
            sock.close()


def make_server(host: str, port: int, application: WSGIApplication, **options: Any) -> SimpleServer:
    """Return a server that listens, as wsgiref's function of this name does.

    ::

        aiowsgi.make_server("", 8000, application).serve_forever()

    Raises:
        OSError: the address cannot be listened on.
    """
    return SimpleServer(host, port, application, **options)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that the calling thread runs, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
