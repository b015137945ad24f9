"""Running a server as a process of its own: the event loop, the signals, the end.

The first SIGTERM or SIGINT lets the requests that run end; the second ends the process at once. SIGHUP has the
certificate of TLS, where there is one, read again.

Thread: the main thread, which becomes the event loop's; signals are received only there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn
from wsgiref.types import WSGIApplication

import anyio

from aiowsgi.config import Config
from aiowsgi.errors import StartupError
from aiowsgi.process.application import load_application
from aiowsgi.process.descriptors import raise_descriptor_limit
from aiowsgi.process.folders import prepare_imports
from aiowsgi.process.log import configure_logging
from aiowsgi.server import Server
from aiowsgi.server.tls_context import has_tls
from aiowsgi.version import __version__

__all__ = ["check", "choose_loop", "exit_at_next_signal", "run"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# For what is left at a second signal: sockets to close, a socket file to remove. Arbitrary; milliseconds do.
FORCED_END_TIMEOUT = 0.25

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

logger = logging.getLogger("aiowsgi.error")


def run(
    application: WSGIApplication | str,
    *,
    factory: bool = False,
    config: Config | None = None,
    **options: Any,
) -> None:
    """Serve an application until SIGTERM or SIGINT; the requests that run then are finished.

    At a second signal the process ends at once, with 128 plus the signal's number as its exit code. Outside
    the main thread no signal is received, and nothing ends the server but the process.

    Args:
        application: a WSGI application, or its name as on the command line.
        factory: the name is a factory's, to be called without arguments.
        config: the settings, instead of ``options``.
        options: fields of :class:`~aiowsgi.config.Config`.

    Raises:
        ConfigError: options break their rules.
        ApplicationImportError: the named application cannot be had.
        StartupError: it cannot listen, or the loop or parser is not installed; nothing is left listening.
    """
    if config is None:
        config = Config(**options)
    elif options:
        raise TypeError(f"run() takes a config or options, not both: {', '.join(options)}")
    prepare_imports(config)
    if isinstance(application, str):
        application = load_application(application, factory=factory or config.factory)
    loop_name, loop_factory = choose_loop(config.loop)
    configure_logging(config.log_level)
    raise_descriptor_limit()
    anyio.run(_serve, application, config, loop_name, backend_options={"loop_factory": loop_factory})


def check(config: Config) -> None:
    """Do all that precedes listening, and no more.

    Args:
        config: its ``app`` names the application.

    Raises:
        ApplicationImportError: the application cannot be had.
        StartupError: a folder, the loop or the parser is not there.
    """
    prepare_imports(config)
    if config.app is not None:
        load_application(config.app, factory=config.factory)
    choose_loop(config.loop)


def exit_at_next_signal() -> None:
    """Let a signal end the process while it waits for what the application left behind, such as threads."""

    def end(signum: int, frame: object) -> None:
        _end_process(signum)

    for signum in SIGNALS:
        signal.signal(signum, end)


def choose_loop(name: str) -> tuple[str, LoopFactory]:
    """The name and the factory of the event loop; no policy is involved."""
    if name == "asyncio":
        return name, asyncio.new_event_loop
    try:
        import uvloop
    except ImportError as error:
        if name == "uvloop":
            raise StartupError(f"loop=uvloop: uvloop cannot be imported ({error})") from error
        return "asyncio", asyncio.new_event_loop
    return "uvloop", uvloop.new_event_loop


async def _serve(application: WSGIApplication, config: Config, loop_name: str) -> None:
    with contextlib.ExitStack() as stack:
        signals: AsyncIterator[signal.Signals] | None = None
        # Not the main thread: RuntimeError from asyncio, ValueError from uvloop.
        with contextlib.suppress(RuntimeError, ValueError):
            # Before listening, so that whoever finds the port open may send a signal.
            received = (*SIGNALS, signal.SIGHUP) if has_tls(config) else SIGNALS
            signals = stack.enter_context(anyio.open_signal_receiver(*received))
        server = Server(application, config)
        try:
            await server.start()
        except OSError as error:
            raise StartupError(error.strerror or str(error)) from error
        logger.info(_start_line(server, loop_name))
        if signals is None:
            await server.serve_until_shutdown()
        else:
            await _stop_at_signal(server, signals)


async def _stop_at_signal(server: Server, signals: AsyncIterator[signal.Signals]) -> None:
    while (signum := await anext(signals)) == signal.SIGHUP:
        server.reload_tls()
    logger.info("%s: running requests may finish, a second signal ends at once", signum.name)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_at_signal, server, signals)
        report = await server.shutdown()
        tasks.cancel_scope.cancel()
    level = logging.WARNING if report.abandoned else logging.INFO
    logger.log(level, "stopped; running requests: %d finished, %d abandoned", report.completed, report.abandoned)


async def _end_at_signal(server: Server, signals: AsyncIterator[signal.Signals]) -> NoReturn:
    while (signum := await anext(signals)) == signal.SIGHUP:
        pass
    logger.warning("%s again: ending at once", signum.name)
    with anyio.move_on_after(FORCED_END_TIMEOUT, shield=True):
        await server.shutdown(graceful=0)
    _end_process(signum)


def _end_process(signum: int) -> NoReturn:
    # Not sys.exit(): it would wait for the application's threads. 128 + N is the shell's code for signal N.
    os._exit(128 + signum)


def _start_line(server: Server, loop_name: str) -> str:
    threads = server.config.threads
    return (
        f"aiowsgi {__version__} on {', '.join(server.urls)} "
        f"({threads} thread{'s' if threads > 1 else ''}, {loop_name}, {server.parser_name}, "
        f"Python {platform.python_version()}, pid {os.getpid()})"
    )
