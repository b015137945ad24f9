"""``gunicorn -k aiowsgi.gunicorn.Worker``: this engine under gunicorn's process manager.

gunicorn binds, forks, reloads and watches; a worker serves its sockets with a :class:`~aiowsgi.server.Server`. What
becomes of gunicorn's settings:

- ``--threads`` (its default is one), ``--worker-connections``, ``--keep-alive``, ``--graceful-timeout``,
  ``--limit-request-line``, ``--limit-request-fields``, ``--limit-request-field_size`` and ``asgi_loop`` are
  options of :class:`~aiowsgi.config.Config`. Options without a setting of gunicorn's come from ``AIOWSGI_*`` variables.
- ``--timeout`` watches the event loop, which a slow request does not block. ``--max-requests`` counts the calls of the
  application.
- ``--forwarded-allow-ips`` with ``secure_scheme_headers`` set the scheme, as in gunicorn's own workers; peers of Unix
  sockets are always trusted. Contradictions are answered 400. ``AIOWSGI_FORWARDED_PARTS=for,proto`` also sets
  ``REMOTE_ADDR``, as :mod:`aiowsgi.http.forwarded` has it.
- ``forwarder_headers`` has no meaning: fields with an underscore in their name are dropped, whoever sends them. A proxy
  that sends ``SCRIPT_NAME`` should send ``X-Forwarded-Prefix``, with ``AIOWSGI_FORWARDED_PARTS=prefix``.
- ``--proxy-protocol`` and ``--proxy-allow-from`` demand a PROXY header of every connection, where gunicorn's own
  workers guess whether there is one.
- The access log has a line for each call of the application, written when its iterable is closed; requests that the
  server itself refuses have none. statsd counts the same calls.
- ``wsgi.errors`` is the error log, as in gunicorn's own workers.
- ``--certfile``, the other settings of TLS and the hook ``ssl_context`` mean what they mean in gunicorn's own workers.
- uwsgi is refused at boot, and so are ``AIOWSGI_METRICS_BIND`` and ``AIOWSGI_CONTROL``, where each worker would listen,
  also beside the one that a reload replaces; gunicorn's statsd is there. Other settings that have no meaning here are
  warned about.

Thread: the worker's main thread, which becomes the event loop's; what wraps the application is a worker thread's.

Source: https://gunicorn.org/ "Settings", "Signal Handling"; PEP 3333.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import ssl
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import anyio
from gunicorn.http.wsgi import WSGIErrorsWrapper  # type: ignore[import-untyped] # gunicorn has no types
from gunicorn.sock import ssl_context  # type: ignore[import-untyped] # gunicorn has no types
from gunicorn.workers import base  # type: ignore[import-untyped] # gunicorn has no types

from aiowsgi.bridge.wakeup import Wakeup
from aiowsgi.config import Config
from aiowsgi.errors import ConfigError
from aiowsgi.http.forwarded import forwarding_of
from aiowsgi.process.descriptors import raise_descriptor_limit
from aiowsgi.process.loops import choose_loop
from aiowsgi.process.memory import keep_freed_memory
from aiowsgi.semantics import has_content, variable_name
from aiowsgi.server import Server
from aiowsgi.version import __version__
from aiowsgi.wsgi.file_wrapper import FileWrapper
from aiowsgi.wsgi.run import is_body

if TYPE_CHECKING:
    from types import FrameType
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Worker"]

_HEARTBEAT_SECONDS = 1.0
# gunicorn kills its workers at graceful_timeout; one that ends before that still runs its exit hooks.
_KILL_MARGIN_SECONDS = 0.5

# One address for all workers, which only aiowsgi's own supervisor has.
_REFUSED_OPTIONS = ("metrics_bind", "control")
_WITHOUT_MEANING = (
    "asgi_disconnect_grace_period asgi_lifespan casefold_http_method do_handshake_on_connect forwarder_headers "
    "header_map http2_cleartext http2_initial_window_size http2_max_concurrent_streams http2_max_frame_size "
    "http2_max_header_list_size http_parser http_protocols permit_obsolete_folding permit_unconventional_http_method "
    "permit_unconventional_http_version post_request pre_request ssl_version strip_header_spaces "
    "suppress_ragged_eofs tmp_upload_dir websocket_max_message_size"
)


class Worker(base.Worker):  # type: ignore[misc] # gunicorn has no types
    """One worker process of gunicorn's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._loop: asyncio.AbstractEventLoop | None = None  # while it runs
        self._stopping = asyncio.Event()
        self._quitting = asyncio.Event()
        self._quick = False

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse settings that cannot be honoured and warn about those that have no meaning. Master, at its start.

        Raises:
            RuntimeError: with the message that gunicorn prints.
        """
        if _is_changed(cfg, "protocol"):
            raise RuntimeError("protocol: this worker speaks HTTP only")
        _make_config(cfg, ("fd://0",))
        for name in filter(lambda name: _is_changed(cfg, name), _WITHOUT_MEANING.split()):
            log.warning("aiowsgi.gunicorn.Worker: the setting %s has no meaning here", name)

    def init_process(self) -> None:
        """Prepare this process, import the application and run."""
        # Before the application is imported: a configuration that changed with a reload fails quickly.
        self.config = _make_config(self.cfg, tuple(f"fd://{sock.fileno()}" for sock in self.sockets))
        # And before the user is changed: the new one may not be allowed to read the key.
        self._ssl_context = _tls_context(self.cfg)
        raise_descriptor_limit()
        keep_freed_memory()
        super().init_process()

    def run(self) -> None:
        """Serve until a signal, or the end of the master."""
        if not self.alive:
            return  # a signal came while the application was being imported
        _follow_log(self.log)
        _, loop_factory = choose_loop(self.config.loop)
        try:
            anyio.run(self._serve, backend_options={"loop_factory": loop_factory})
        finally:
            self._loop = None

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        config = self.config.for_own_process()
        server = Server(self._wrap(self.wsgi, Wakeup(loop)), config, ssl_context=self._ssl_context)
        server.alone = True
        await server.start()
        server.engine.base_environ["wsgi.multiprocess"] = self.cfg.workers > 1
        server.engine.forwarding = forwarding_of(self.config, _scheme_values(self.cfg))
        for sock in self.sockets:
            sock.close()  # the server has duplicates, and closes them when it begins to drain
        self._loop = loop
        loop.add_reader(self.PIPE[0], self._pipe_readable)
        self._beat()
        self.log.info("aiowsgi %s: %d threads, %s", __version__, self.config.threads, server.parser_name)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_at_once, server)
            await self._stopping.wait()
            report = await server.shutdown(0 if self._quick else self.config.graceful_timeout)
            tasks.cancel_scope.cancel()
        if report.abandoned:
            self.log.warning("%d running requests were abandoned", report.abandoned)

    async def _end_at_once(self, server: Server) -> None:
        await self._quitting.wait()
        await server.shutdown(0)

    def _beat(self) -> None:
        """Tell the master that the loop turns."""
        assert self._loop is not None
        self.notify()
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            self.alive = False
        self._look()
        # self.timeout is half of gunicorn's setting; 0 turns it off.
        self._loop.call_later(min(_HEARTBEAT_SECONDS, self.timeout / 2 or _HEARTBEAT_SECONDS), self._beat)

    def _look(self) -> None:
        """Do what a signal, the reloader or the count of requests has asked for."""
        if not self.alive:
            self._stopping.set()
        if self._quick:
            self._quitting.set()

    def _pipe_readable(self) -> None:
        """gunicorn's reloader writes to this pipe, and so does every signal."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)
        self._look()

    def wake(self) -> None:
        """One more call of the application. Event loop."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
            self._look()

    # Signals: base.Worker installs these.

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: let running requests finish."""
        self.alive = False
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._look)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGQUIT, SIGINT: end now."""
        if self._loop is None:
            super().handle_quit(sig, frame)
            return
        self.alive = False
        self._quick = True
        self.cfg.worker_int(self)
        self._loop.call_soon_threadsafe(self._look)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """SIGABRT: the master has seen no heartbeat for ``--timeout``."""
        stack = "".join(traceback.format_stack(frame))
        self.log.error("the event loop does not turn; it has been blocked at\n%s", stack)
        super().handle_abort(sig, frame)

    # Around the application.

    def _wrap(self, application: WSGIApplication, wakeup: Wakeup) -> WSGIApplication:
        """Wrap the application in what gunicorn's settings ask for, and in nothing else."""
        cfg = self.cfg
        application = _with_errors(application, _ErrorStream(cfg))
        if cfg.statsd_host or getattr(self.log, "access_log_enabled", True):
            application = _AccessLog(application, self.log)
        if not cfg.max_requests:
            return application
        counted = application

        def count(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            wakeup.notify(self)
            return counted(environ, start_response)

        return count


def _scheme_values(cfg: Any) -> dict[str, str]:
    """Return ``secure_scheme_headers`` as environ spells them."""
    return {variable_name(name): value for name, value in cfg.secure_scheme_headers.items()}


def _tls_context(cfg: Any) -> ssl.SSLContext | None:
    """Make the context that gunicorn's TLS settings describe, including its hook ``ssl_context``."""
    if not cfg.is_ssl:
        return None
    try:
        context: ssl.SSLContext = ssl_context(cfg)
    except (OSError, ValueError) as error:
        files = f"certfile={cfg.certfile}, keyfile={cfg.keyfile}, ca_certs={cfg.ca_certs}"
        raise RuntimeError(f"aiowsgi.gunicorn.Worker: {files}: {error}") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _is_changed(cfg: Any, name: str) -> bool:
    """Tell whether a setting has been set; not every version of gunicorn has every setting."""
    setting = cfg.settings.get(name)
    return setting is not None and setting.get() != type(setting)().get()


def _make_config(cfg: Any, bind: tuple[str, ...]) -> Config:
    """Translate gunicorn's settings."""
    line_size = cfg.limit_request_line or 1024 * 1024  # 0: "unlimited"
    field_size = cfg.limit_request_field_size or 8190  # as gunicorn's own workers read 0
    settings: dict[str, Any] = {
        "bind": bind,
        "backlog": cfg.backlog,
        "max_connections": cfg.worker_connections,
        "threads": cfg.threads,
        "keep_alive": cfg.keepalive,
        "graceful_timeout": max(0.0, cfg.graceful_timeout - _KILL_MARGIN_SECONDS),
        "limit_request_line": line_size,
        "limit_request_fields": min(cfg.limit_request_fields or 10_000, 10_000),
        "limit_request_field_size": field_size,
        "loop": getattr(cfg, "asgi_loop", "auto"),
        # gunicorn trusts the peers of Unix sockets whatever else it is told.
        "forwarded_allow_ips": (*cfg.forwarded_allow_ips, "unix"),
        "proxy_protocol": cfg.proxy_protocol,
        "proxy_allow_from": (*cfg.proxy_allow_ips, "unix"),
        "root_path": os.environ.get("SCRIPT_NAME", "").rstrip("/"),
    }
    if "AIOWSGI_FORWARDED_PARTS" not in os.environ:
        settings["forwarded_parts"] = ()  # _scheme_values() sets the scheme instead
    if line_size + field_size > 64 * 1024:
        settings["limit_request_head"] = line_size + 2 * field_size
    try:
        config = Config.from_texts(settings)
    except ConfigError as error:
        raise RuntimeError(f"aiowsgi.gunicorn.Worker: {error}") from error
    for name in _REFUSED_OPTIONS:
        if getattr(config, name) is not None:
            text = f"AIOWSGI_{name.upper()}: each of gunicorn's workers would listen there; leave it out"
            raise RuntimeError(f"aiowsgi.gunicorn.Worker: {text}")
    return config


def _follow_log(log: Any) -> None:
    """Send what this package logs to gunicorn's error log, unless the application has said where it goes."""
    logger = logging.getLogger("aiowsgi")
    handlers = getattr(getattr(log, "error_log", None), "handlers", [])  # a logger_class may have neither
    if handlers and not logger.handlers and not logging.getLogger("aiowsgi.error").handlers:
        logger.handlers = handlers
        logger.setLevel(log.error_log.level)
        logger.propagate = False


class _ErrorStream(io.TextIOBase):
    """What an application writes here goes to gunicorn's error log.

    Args:
        cfg: gunicorn's settings.
    """

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def write(self, text: str) -> int:
        """See :meth:`io.TextIOBase.write`."""
        WSGIErrorsWrapper(self._cfg).write(text)  # made anew, since USR1 opens the files again
        return len(text)


def _with_errors(application: WSGIApplication, errors: _ErrorStream) -> WSGIApplication:
    def with_errors(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.errors"] = errors
        return application(environ, start_response)

    return with_errors


class _AccessLog:
    """Writes gunicorn's access log.

    Args:
        application: to be called.
        log: gunicorn's logger.
    """

    def __init__(self, application: WSGIApplication, log: Any) -> None:
        self._application = application
        self._log = log

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        response = _LoggedResponse(self._log, environ, start_response)
        try:
            return response.watch(self._application(environ, response.start_response))
        except BaseException:
            response.fail()
            response.log()
            raise


class _LoggedResponse:
    """The body of a response, and what gunicorn's logger reads of one.

    Args:
        log: gunicorn's logger.
        environ: of the request.
        start_response: the server's.
    """

    def __init__(self, log: Any, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._log = log
        self._environ = environ
        self._start_response: Any = start_response
        self._begun = time.monotonic()
        self._body: Any = ()
        self._close: Callable[[], object] | None = None
        #: Bytes of content that the application has handed over; ``None`` for a file of undeclared length.
        self.sent: int | None = 0
        self.fail()

    def _count(self, block: object) -> None:
        if self.sent is not None and isinstance(block, bytes):
            self.sent += len(block)

    def fail(self) -> None:
        """The server answers in the application's place, unless something has been sent."""
        if not self.sent:
            self.status = "500 Internal Server Error"
            self.headers: list[tuple[str, str]] = []

    def start_response(self, status: str, response_headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """See PEP 3333."""
        try:
            write = self._start_response(status, response_headers, exc_info)
        finally:
            exc_info = None  # PEP 3333: avoid a circular reference through this frame
        self.status, self.headers = status, response_headers

        def counted_write(block: bytes) -> None:
            write(block)
            self._count(block)

        return counted_write

    def watch(self, body: Any) -> Iterable[bytes]:
        """Return what the server is to send in the place of ``body``."""
        self._body = body
        self._close = getattr(body, "close", None)
        if type(body) is list or type(body) is tuple:
            begun = self.sent
            for block in body:
                self._count(block)
            if not begun and self._will_be_refused(body):
                self.sent = 0
                self.fail()
            self.log()
        elif type(body) is FileWrapper:
            # The server must recognize it, since it sends a file without a thread.
            self.sent = self._content_length()
            body.close = self.close
        elif not is_body(body):
            self.fail()  # the server will refuse it
            self.log()
        else:
            return self
        return cast("Iterable[bytes]", body)

    def _content_length(self) -> int | None:
        return next((int(value) for name, value in self.headers if name.lower() == "content-length"), None)

    def _will_be_refused(self, blocks: Iterable[object]) -> bool:
        """Tell whether the server will refuse a list of blocks, log that, and answer in the application's place."""
        if not all(isinstance(block, bytes) for block in blocks):
            return True
        length = self._content_length()
        has_length = length is not None and has_content(self._environ["REQUEST_METHOD"], int(self.status[:3]))
        return has_length and length != self.sent

    def __iter__(self) -> Iterator[bytes]:
        try:
            for block in self._body:
                self._count(block)
                yield block
        except BaseException:
            self.fail()
            raise

    def __len__(self) -> int:
        return len(self._body)

    def close(self) -> None:
        """Close the body, then write the line."""
        try:
            if self._close is not None:
                self._close()
        finally:
            self.log()

    def log(self) -> None:
        """Write the line."""
        if self._environ["REQUEST_METHOD"] == "HEAD":
            self.sent = 0
        fields = {key[5:].replace("_", "-"): value for key, value in self._environ.items() if key.startswith("HTTP_")}
        self._log.access(self, fields, self._environ, timedelta(seconds=time.monotonic() - self._begun))
