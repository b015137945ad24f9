"""A server from synchronous code: in a thread of its own, or as waitress and wsgiref spell it.

Thread: any; the server's loop runs in the thread that each function names.

Source: https://docs.pylonsproject.org/projects/waitress/ "serve"; :mod:`wsgiref.simple_server`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.from_thread

from aiowsgi.config import Config
from aiowsgi.process.run import choose_loop, run
from aiowsgi.server.listeners import open_sockets
from aiowsgi.server.server import Server

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["SimpleServer", "make_server", "run_in_thread", "serve"]


@contextlib.contextmanager
def run_in_thread(application: WSGIApplication, **options: Any) -> Iterator[Server]:
    """Serve an application from a thread of its own for the time of a ``with`` block.

    ::

        with aiowsgi.run_in_thread(application) as server:
            httpx.get(server.url)

    Args:
        application: any WSGI application.
        options: fields of :class:`~aiowsgi.config.Config`; ``bind`` is a free port of 127.0.0.1 unless it is said.

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


# What waitress calls its arguments, where they mean the same here.
_WAITRESS_NAMES = {
    "unix_socket": "uds",
    "connection_limit": "max_connections",
    "max_request_body_size": "limit_request_body",
    "max_request_header_size": "limit_request_head",
    "inbuf_overflow": "request_buffer",
    "outbuf_high_watermark": "response_buffer",
    "url_prefix": "root_path",
}


def serve(application: WSGIApplication, **options: Any) -> None:
    """Serve an application until SIGTERM or SIGINT: :func:`aiowsgi.run` as waitress spells it.

    Args:
        application: any WSGI application.
        options: ``host``, ``port`` (waitress's default, 8080), ``listen`` ("host:port" separated by spaces),
            ``threads``, ``unix_socket``, ``connection_limit``, ``max_request_body_size``, ``max_request_header_size``,
            ``inbuf_overflow``, ``outbuf_high_watermark``, ``url_prefix``; and all of :class:`~aiowsgi.config.Config`'s.

    Raises:
        TypeError: an argument of waitress's has no counterpart here.
    """
    translated = {_WAITRESS_NAMES.get(name, name): value for name, value in options.items()}
    listen = translated.pop("listen", None)
    if listen is not None:
        translated["bind"] = tuple(listen.replace("*", "").split())
    elif not translated.keys() & {"bind", "uds"}:
        # waitress listens on every address and port 8080.
        translated = {"host": "", "port": 8080, **translated}
    run(application, **translated)


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
        address = Config(host=host, port=port, **options)
        self._sockets: list[socket.socket] = open_sockets(address.addresses, address.backlog)
        self._loop_name = address.loop
        self._portal: anyio.from_thread.BlockingPortal | None = None
        self._server: Server | None = None
        self.server_address: tuple[str, int] = self._sockets[0].getsockname()[:2]
        self.server_name, self.server_port = self.server_address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.server_close()

    def serve_forever(self) -> None:
        """Serve in the calling thread until :meth:`shutdown` is called from another, or KeyboardInterrupt."""
        _, loop_factory = choose_loop(self._loop_name)
        anyio.run(self._serve, backend_options={"loop_factory": loop_factory})

    async def _serve(self) -> None:
        bind = tuple(f"fd://{sock.fileno()}" for sock in self._sockets)
        server = Server(self._application, bind=bind, **self._options)
        async with anyio.from_thread.BlockingPortal() as portal:
            await server.start()
            self._server = server
            self._portal = portal
            try:
                await server.serve_until_shutdown()
            finally:
                self._portal = self._server = None

    def shutdown(self) -> None:
        """Let requests end, and :meth:`serve_forever` with them. Another thread than its."""
        portal, server = self._portal, self._server
        if portal is not None and server is not None:
            with contextlib.suppress(RuntimeError):  # it ended by itself meanwhile
                portal.call(server.shutdown)

    def server_close(self) -> None:
        """Stop listening."""
        for sock in self._sockets:
            sock.close()


def make_server(host: str, port: int, application: WSGIApplication, **options: Any) -> SimpleServer:
    """Return a server that listens, as wsgiref spells it.

    ::

        aiowsgi.make_server("", 8000, application).serve_forever()

    Raises:
        OSError: the address cannot be listened on.
    """
    return SimpleServer(host, port, application, **options)
